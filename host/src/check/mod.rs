//! Everything that can be known before anything is spent: plugins, model files and rules, judged together.

pub mod added;
pub mod contents;
pub mod curation;
mod data_path;
pub mod facts;
pub mod fix;
pub mod lock;
pub mod model_files;
pub mod plugins;
pub mod ready;
pub mod recipe;
pub mod rules;
pub mod selection;
pub mod teacher;

use std::path::Path;

use plugin_runtime::PluginHost;

use self::facts::ModelFacts;
use crate::config::{Examined, LoadedConfig, sort};
use crate::diagnostic::Diagnostic;

/// Looks at a config from all sides. Returns everything that was found, in file order, and the model's facts where its
/// files could be read.
pub fn check(loaded: &LoadedConfig, plugins: &PluginHost) -> (Vec<Diagnostic>, Option<ModelFacts>) {
    let mut found = plugins::check(loaded, plugins);
    let model = match ModelFacts::read(loaded) {
        Ok(model) => {
            found.extend(model.remarks.iter().cloned());
            found.extend(selection::check(loaded, &model));
            Some(model)
        }
        Err(failure) => {
            found.extend(failure.0);
            None
        }
    };
    found.extend(crate::device::check(loaded));
    found.extend(output_dir(loaded));
    found.extend(rules::check(loaded, plugins, model.as_ref()));
    sort(&mut found, &loaded.source.path);
    (found, model)
}

/// What is in the way of the output directory.
fn output_dir(loaded: &LoadedConfig) -> Option<Diagnostic> {
    let path = Path::new(&loaded.config.output_dir);
    // The nearest part of it that is there.
    let there = path.ancestors().find(|part| part.symlink_metadata().is_ok())?;
    let shown = there.display();
    let message = match there.metadata() {
        Ok(metadata) if metadata.is_dir() => return None,
        Ok(_) if there == path => format!("`output_dir` is `{shown}`, which is a file"),
        Ok(_) => format!("`output_dir` cannot be made: `{shown}` is a file"),
        Err(_) => format!("`output_dir` cannot be made: `{shown}` is a link to nothing"),
    };
    let diagnostic = Diagnostic::error("run::output", message).at(loaded.source.nearest_place("output_dir"));
    Some(diagnostic.help("name a directory, or one that can be made"))
}

/// The same for a config that may have problems of its own; those come along.
pub fn check_examined(examined: &Examined, plugins: &PluginHost) -> (Vec<Diagnostic>, Option<ModelFacts>) {
    let mut problems = examined.problems.clone();
    let Some(loaded) = &examined.loaded else { return (problems, None) };
    let (found, model) = check(loaded, plugins);
    // A key that could not be read has its default: what follows from that default would mislead.
    let broken = &loaded.broken;
    let concerns = |diagnostic: &Diagnostic| {
        let path = diagnostic.place.as_ref().and_then(|place| place.key_path.as_ref());
        path.is_some_and(|path| broken.iter().any(|broken| crate::config::is_within(path, broken)))
    };
    problems.extend(found.into_iter().filter(|diagnostic| !concerns(diagnostic)));
    sort(&mut problems, &loaded.source.path);
    (problems, model)
}
