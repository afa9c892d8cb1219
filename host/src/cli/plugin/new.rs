//! `host plugin new`: a project that builds at once.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, builder::TypedValueParser as _};
use plugin_runtime::Kind;
use serde_json::json;

use super::super::say;
use crate::author::project::Language;
use crate::author::scaffold::Scaffold;
use crate::diagnostic::{ExitStatus, Failure};
use crate::report::{Output, emit};

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Its name, with a namespace of your own: `acme:style`
    name: String,
    /// What it is for
    #[arg(long, value_parser = PossibleValuesParser::new(Kind::ALL.map(Kind::name)).map(|name| kind(&name)))]
    kind: Kind,
    /// The language to write it in
    #[arg(long, default_value = "rust", value_parser = PossibleValuesParser::new(Language::ALL.map(Language::name)).map(|name| language(&name)))]
    lang: Language,
    /// Where to put it. Default: the name without its namespace, here
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn kind(name: &str) -> Kind {
    Kind::named(name).expect("clap lets only these pass")
}

fn language(name: &str) -> Language {
    Language::ALL.into_iter().find(|language| language.name() == name).expect("clap lets only these pass")
}

pub(super) fn run(args: &NewArgs, output: Output) -> Result<ExitStatus, Failure> {
    let dir = Scaffold::new(&args.name, args.kind, args.lang, args.dir.as_deref())?.write()?;
    let shown = dir.display();
    if output == Output::Json {
        emit(
            "project",
            json!({ "name": args.name, "kind": args.kind.name(), "language": args.lang.name(), "dir": shown.to_string() }),
        );
        return Ok(ExitStatus::Done);
    }
    let tools = match args.lang {
        Language::Rust => String::new(),
        Language::Js => format!("  npm install --prefix {shown}\n"),
        Language::Python => {
            format!("  python3 -m venv {shown}/.venv && {shown}/.venv/bin/pip install -r {shown}/requirements.txt\n")
        }
    };
    say(&format!(
        "wrote `{}`, {} plugin in {}, into `{shown}`\nnext:\n{tools}  host plugin build {shown}\n  host plugin test {shown}",
        args.name,
        args.kind.with_article(),
        args.lang.name()
    ));
    Ok(ExitStatus::Done)
}
