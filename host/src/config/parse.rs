//! Text → value tree, with everything that makes a file no usable YAML document told at its line and column.
//!
//! Values come only from `serde_yaml`. The position pass runs beside it and finds what no value can show: duplicate keys,
//! a second document, tags, merge keys, bombs.

use serde_json::{Map, Value};

use super::positions::{Flaw, Positions, Spot};
use super::source::ConfigSource;
use super::tree::{self, NotFinite};
use crate::diagnostic::{Diagnostic, Place};

/// Bytes of a text that one of the two parsers refuses and the other one may read all the same.
const UNCHECKED: usize = 32 << 10;

/// The tree of a config, and whatever is wrong with it as YAML. None where nothing can be said about its keys.
pub(super) fn parse(source: &mut ConfigSource) -> (Option<Map<String, Value>>, Vec<Diagnostic>) {
    let mut problems = Vec::new();
    match Positions::of(&source.text) {
        Ok(positions) if positions.is_empty => {
            let diagnostic =
                Diagnostic::error("config::empty", format!("the config `{}` is empty", source.path.display()))
                    .help("it needs at least `base_model`, `datasets` and `learning_rate`");
            return (None, vec![diagnostic]);
        }
        Ok(positions) => source.positions = Some(positions),
        Err(error) => {
            // Where the parsers disagree, values win and messages go without carets.
            let marker = error.marker();
            let spot = Spot { line: marker.line(), column: marker.col() + 1, len: 1 };
            // What the aliases of a long text write out to is not known.
            if source.text.len() > UNCHECKED {
                let diagnostic = Diagnostic::error("config::syntax", "this is not valid YAML");
                return (None, vec![diagnostic.at(source.at(spot, "")).why(error.to_string())]);
            }
            if let Err(syntax) = tree::read(&source.text) {
                return (None, vec![syntax_error(source, &syntax, Some(spot))]);
            }
        }
    }
    let mut fatal = false;
    for (spot, flaw) in source.positions.iter().flat_map(|positions| &positions.flaws) {
        fatal |= matches!(flaw, Flaw::SecondDocument | Flaw::TooDeep | Flaw::TooLarge | Flaw::RecursiveAlias { .. });
        problems.push(describe(source, *spot, flaw));
    }
    if fatal {
        return (None, problems);
    }
    let (value, odd) = match tree::read(&source.text) {
        Ok(read) => read,
        Err(error) => {
            problems.push(syntax_error(source, &error, None));
            return (None, problems);
        }
    };
    for NotFinite { path, text } in odd {
        let diagnostic =
            Diagnostic::error("config::not-finite", format!("`{path}` must be a finite number, found `{text}`"))
                .at(source.place(&path));
        problems.push(diagnostic);
    }
    if let Value::Object(map) = value {
        return (Some(map), problems);
    }
    let kind = if value.is_array() { "a list" } else { "a single value" };
    let diagnostic =
        Diagnostic::error("config::wrong-type", format!("a config is a mapping of keys to values, found {kind}"))
            .at(source.place("").map(|place| place.len(1)))
            .help("write lines like `base_model: path/to/model`");
    problems.push(diagnostic);
    (None, problems)
}

fn describe(source: &ConfigSource, spot: Spot, flaw: &Flaw) -> Diagnostic {
    let of = |path: &str| source.at(spot, path);
    match flaw {
        Flaw::Duplicate { path, first } => Diagnostic::error("config::duplicate-key", format!("`{path}` is set twice"))
            .at(of(path))
            .related(source.at(*first, path), "it is set here already")
            .help("keep one of them"),
        Flaw::SecondDocument => Diagnostic::error("config::second-document", "a second YAML document starts here")
            .at(of(""))
            .why("a config is one document; `---` ends it")
            .help("delete the line, or move what follows to a file of its own"),
        Flaw::MergeKey { path } => {
            Diagnostic::error("config::merge-key", "only a mapping, or a list of mappings, can be merged (`<<`)")
                .at(of(path))
                .help("name the anchor of a mapping: `<<: *defaults`")
        }
        Flaw::Tag { path, tag } => {
            Diagnostic::error("config::tag", format!("the tag `{tag}` means nothing in a config"))
                .at(of(path))
                .help("delete the tag; values are plain text, numbers, true or false")
        }
        Flaw::ComplexKey { path } => {
            Diagnostic::error("config::wrong-type", "a key is plain text, not a list or a mapping").at(of(path))
        }
        Flaw::TooDeep => Diagnostic::error("config::too-deep", "more than 64 levels of nesting").at(of("")),
        Flaw::TooLarge => {
            Diagnostic::error("config::too-large", "more than 20000 entries or 8 MiB, aliases written out")
                .at(of(""))
                .why("aliases of aliases grow without bound; no training config needs this many")
        }
        Flaw::RecursiveAlias { path } => {
            Diagnostic::error("config::recursive-alias", format!("the value of `{path}` would contain itself"))
                .at(of(path))
        }
    }
}

/// What `serde_yaml` says, at its own position or else at the other parser's.
fn syntax_error(source: &ConfigSource, error: &serde_yaml::Error, other: Option<Spot>) -> Diagnostic {
    let own = error.location().filter(|location| location.index() > 0).map(|location| Spot {
        line: location.line(),
        column: location.column(),
        len: 1,
    });
    // What is open at the end of the file is wrong where it began.
    let Some(spot) = unfinished(&error.to_string()).or(own).or(other) else {
        return Diagnostic::error("config::syntax", format!("`{}` is not valid YAML", source.path.display()))
            .why(error.to_string());
    };
    let place = source.at(spot, "");
    let line = place.source_line.clone().unwrap_or_default();
    let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
    if let Some(at) = indent.find('\t') {
        return Diagnostic::error("config::tab", "a tab cannot indent YAML")
            .at(source.at(Spot { line: spot.line, column: at + 1, len: 1 }, ""))
            .help("use spaces");
    }
    let mut text = error.to_string();
    // The position is in the place; what remains is the reason.
    while let Some(at) = text.find(" at line ") {
        let rest = text[at..].find(", while").map(|while_at| text[at + while_at..].to_owned()).unwrap_or_default();
        text.truncate(at);
        text += &rest;
    }
    let place = without_path(place);
    if text.starts_with(UNFINISHED) {
        return Diagnostic::error("config::syntax", "what begins here has no end").at(place).why(&text);
    }
    let diagnostic = Diagnostic::error("config::syntax", "this is not valid YAML").at(place).why(&text);
    if text.starts_with("mapping values are not allowed") {
        return diagnostic.help("check the indentation of this line, and put quotes around a value that contains `: `");
    }
    if text.starts_with("found character that cannot start any token") {
        return diagnostic.help("put the value in quotes");
    }
    diagnostic
}

fn without_path(mut place: Place) -> Place {
    place.key_path = None;
    place
}

/// What libyaml says where a quote or a bracket is still open when the file ends.
const UNFINISHED: &str = "found unexpected end of stream";

/// Where the thing began that has no end, if that is what an error of libyaml is about.
fn unfinished(error: &str) -> Option<Spot> {
    let (_, began) = error.strip_prefix(UNFINISHED)?.rsplit_once(" at line ")?;
    let (line, column) = began.split_once(" column ")?;
    Some(Spot { line: line.parse().ok()?, column: column.parse().ok()?, len: 1 })
}
