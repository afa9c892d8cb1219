//! `host recipe from`: the Axolotl config of a model card as a recipe, pinned to what its names mean today.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::super::open_plugins;
use super::super::{say, show};
use crate::check::check_examined;
use crate::check::contents::FILE;
use crate::checkpoint::directory::replace_file;
use crate::config::recipe::Recipe;
use crate::config::{self, edit};
use crate::diagnostic::{Diagnostic, Edit, ExitStatus, Failure, Severity};
use crate::recipe::card::{self, Card, name_of};
use crate::remote::{HubRecipe, Remote};
use crate::report::{Output, emit};

#[derive(Debug, Args)]
pub(super) struct FromArgs {
    /// hf:ORG/NAME, a model whose card has an Axolotl config; or a card's file
    card: String,
    /// The directory to make. Default: a name after the model's, here
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &FromArgs, output: Output) -> Result<ExitStatus, Failure> {
    let (text, author) = match args.card.strip_prefix("hf:") {
        Some(name) => {
            let repository = HubRecipe::find(name)?;
            let text = String::from_utf8_lossy(&repository.small("README.md", card::BYTES)?).into_owned();
            (text, name.split('/').next().map(str::to_owned))
        }
        None => (read(Path::new(&args.card))?, None),
    };
    let Some(found) = card::read(&text) else {
        let message = format!("the card of `{}` has no Axolotl config", args.card);
        let why = "there is no block of YAML in it that names a `base_model`";
        return Err(Diagnostic::error("recipe::card", message).why(why).into());
    };
    let file = Path::new(&args.card).file_stem().and_then(|stem| stem.to_str()).unwrap_or("recipe");
    let name = if args.card.starts_with("hf:") { name_of(&args.card) } else { name_of(file) };
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(&name));
    if dir.symlink_metadata().is_ok() {
        let message = format!("`{}` is there already", dir.display());
        return Err(Diagnostic::error("recipe::exists", message).help("name another: `--dir DIRECTORY`").into());
    }
    std::fs::create_dir_all(&dir).map_err(|error| {
        Diagnostic::error("io::write", format!("`{}` cannot be made", dir.display())).why(error.to_string())
    })?;
    let path = dir.join(FILE);
    let authors = author.into_iter().collect();
    let description = format!("From the model card of {}", args.card);
    let recipe = Recipe {
        authors,
        license: found.license.clone(),
        description: Some(description),
        version: "0.1.0".into(),
        name: name.clone(),
        ..Recipe::default()
    };
    let (text, left_out) = prepared(&found, &recipe);
    replace_file(&path, text.as_bytes())?;
    let lacks = pinned(&path)?;
    let mut examined = config::examine(&path, &[]);
    let problems = match examined.loaded.as_mut() {
        Some(loaded) => {
            Remote::find(loaded);
            check_examined(&examined, &open_plugins(&[])?).0
        }
        None => examined.problems.clone(),
    };
    show(&problems, output);
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    match output {
        Output::Json => emit(
            "recipe",
            json!({ "path": path.display().to_string(), "axolotl": found.axolotl, "left_out": left_out, "pinned": lacks, "errors": errors }),
        ),
        Output::Human => {
            let version = found.axolotl.as_deref().unwrap_or("a version that it does not name");
            let mut lines = vec![format!("wrote {}, of a card of Axolotl {version}", path.display())];
            lines.extend(left_out.iter().map(|key| format!("left out  {key}: about the author's machine")));
            lines.extend(
                lacks
                    .iter()
                    .map(|pin| format!("pinned    {pin}: what it means today; the card does not say what it meant")),
            );
            lines.push(match errors {
                0 => format!("next: host recipe lock {}", crate::commands::path(&path)),
                count => {
                    format!("{count} problems are to be mended first: host check {}", crate::commands::path(&path))
                }
            });
            say(&lines.join("\n"));
        }
    }
    Ok(if errors == 0 { ExitStatus::Done } else { ExitStatus::Failed })
}

fn read(path: &Path) -> Result<String, Diagnostic> {
    intake::read_text(path, card::BYTES).map_err(|error| {
        let message = format!("`{}` cannot be read", path.display());
        let help = "name a card's file, or a model of the hub: `hf:ORG/NAME`";
        Diagnostic::error("recipe::card", message).why(error.to_string()).help(help)
    })
}

/// The config as a recipe, and the keys that are not in it any more.
fn prepared(card: &Card, recipe: &Recipe) -> (String, Vec<&'static str>) {
    let mut text = card.config.clone();
    let mut left_out = Vec::new();
    for key in [
        "dataset_prepared_path",
        "resume_from_checkpoint",
        "hub_model_id",
        "wandb_project",
        "wandb_entity",
        "wandb_name",
        "wandb_watch",
        "wandb_log_model",
    ] {
        if let Ok(new) = edit(&text, &Edit::Remove { path: key.to_owned() }) {
            text = new;
            left_out.push(key);
        }
    }
    let output_dir = Edit::Set { path: "output_dir".to_owned(), value: format!("outputs/{}", recipe.name) };
    if let Ok(new) = edit(&text, &output_dir) {
        text = new;
    }
    let head = serde_yaml::to_string(&json!({ "recipe": recipe })).expect("it is plain data");
    (format!("{head}\n{text}"), left_out)
}

/// Writes into a config which commits its names of the hub mean, and returns what it has written.
fn pinned(path: &Path) -> Result<Vec<String>, Failure> {
    let mut examined = config::examine(path, &[]);
    let Some(loaded) = examined.loaded.as_mut() else { return Ok(Vec::new()) };
    Remote::find(loaded);
    let mut text = loaded.source.text.clone();
    let mut written = Vec::new();
    for pin in &loaded.elsewhere.pins {
        let (key, commit) = (pin["key"].as_str().unwrap_or_default(), pin["commit"].as_str().unwrap_or_default());
        let at = match key.strip_suffix(".path") {
            Some(entry) => format!("{entry}.revision"),
            None if key == "base_model" => "revision_of_model".to_owned(),
            None => continue,
        };
        if loaded.is_given(&at) {
            continue;
        }
        if let Ok(new) = edit(&text, &Edit::Set { path: at.clone(), value: commit.to_owned() }) {
            text = new;
            written.push(format!("{at}: {commit}"));
        }
    }
    replace_file(path, text.as_bytes())?;
    Ok(written)
}
