//! Everything that can be known before anything is spent: plugins, model files and rules, judged together.

pub mod facts;
pub mod fix;
pub mod lock;
pub mod plugins;
pub mod rules;
pub mod selection;

use plugin_runtime::PluginHost;

use self::facts::ModelFacts;
use crate::config::{Examined, LoadedConfig, sort};
use crate::diagnostic::{Diagnostic, Severity};

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
    found.extend(rules::check(loaded, plugins, model.as_ref()));
    sort(&mut found, &loaded.source.path);
    (found, model)
}

/// The same for a config that may have problems of its own; those come along.
pub fn check_examined(examined: &Examined, plugins: &PluginHost) -> (Vec<Diagnostic>, Option<ModelFacts>) {
    let mut problems = examined.problems.clone();
    let Some(loaded) = &examined.loaded else { return (problems, None) };
    let (found, model) = check(loaded, plugins);
    // A key that could not be read has its default: what follows from that default would mislead.
    let broken: Vec<String> = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .filter_map(|problem| problem.place.as_ref()?.key_path.clone())
        .collect();
    let concerns = |diagnostic: &Diagnostic| {
        let path = diagnostic.place.as_ref().and_then(|place| place.key_path.as_ref());
        path.is_some_and(|path| broken.iter().any(|broken| crate::config::is_within(path, broken)))
    };
    problems.extend(found.into_iter().filter(|diagnostic| !concerns(diagnostic)));
    sort(&mut problems, &loaded.source.path);
    (problems, model)
}
