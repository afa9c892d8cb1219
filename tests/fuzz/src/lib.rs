//! Hostile inputs for everything in the program that reads what a stranger wrote. A target takes bytes, hands them to that
//! code and checks what must hold whatever they are: no panic, no message that could steer a terminal, and what each target
//! says of its own results. A result that is wrong is a panic too.
//!
//! `cargo xtask fuzz` runs a target under libFuzzer, which makes inputs from those in `corpus/`; `tests/corpora.rs` runs the
//! corpora and some inputs made of them in every test run.
//!
//! An input of several files has a line `%%` between them.

mod card;
mod checkpoint;
mod config;
mod curation;
mod guest;
mod model;
mod plugin;
mod recipe;
mod records;
mod rows;
mod template;
mod tokenizer;

use std::path::{Path, PathBuf};

use host::diagnostic::{Diagnostic, Failure};
use tempfile::TempDir;

/// Takes an input; panics where something is wrong.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("adapter", model::adapter),
    ("card", card::card),
    ("checkpoint", checkpoint::checkpoint),
    ("component", plugin::component),
    ("config", config::config),
    ("curation", curation::curation),
    ("edit", config::edit),
    ("guest", guest::guest),
    ("manifest", plugin::manifest),
    ("model", model::model),
    ("recipe", recipe::recipe),
    ("records", records::records),
    ("rows", rows::rows),
    ("template", template::template),
    ("tokenizer", tokenizer::tokenizer),
    ("weights", model::weights),
];

/// The target of a name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files of an input; empty ones where there are fewer than asked for.
fn files<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    const BETWEEN: &[u8] = b"\n%%\n";
    let mut rest = Some(bytes);
    std::array::from_fn(|index| {
        let Some(bytes) = rest.take() else { return &[][..] };
        match bytes.windows(BETWEEN.len()).position(|window| window == BETWEEN) {
            Some(at) if index + 1 < N => {
                rest = Some(&bytes[at + BETWEEN.len()..]);
                &bytes[..at]
            }
            _ => bytes,
        }
    })
}

/// A directory with these files; one without bytes is not there.
fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in files.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        std::fs::write(directory.path().join(name), bytes).expect("a file");
    }
    directory
}

/// What every message must be: short, and without a character that could steer a terminal or begin a line as if it were
/// another message.
fn readable(diagnostic: &Diagnostic) {
    let text = diagnostic.render(false);
    assert!(text.len() < 1 << 20, "a message of {} bytes", text.len());
    assert!(text.chars().all(|c| c == '\n' || !plugin_runtime::is_hidden(c)), "{text:?}");
    let line = diagnostic.annotation();
    assert!(!line.contains(['\n', '\r']), "{line:?}");
    assert!(!diagnostic.to_json().to_string().contains('\n'));
    for line in text.lines().skip(1) {
        let is_ours = ["why:", "help:", "note:", " "].iter().any(|start| line.starts_with(start));
        assert!(is_ours || line.starts_with("-->") || line.starts_with(|c: char| c.is_ascii_digit()), "{text:?}");
    }
}

/// The same of an error.
fn told(error: impl Into<Diagnostic>) {
    readable(&error.into());
}

/// The same of all errors of a failure.
fn all_told(failure: &Failure) {
    assert!(!failure.0.is_empty(), "a failure without a word");
    failure.0.iter().for_each(readable);
}
