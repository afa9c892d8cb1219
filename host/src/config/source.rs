//! A config as it was given: the file's text, where everything in it stands, and what `--set` replaced.
//!
//! Reading checks what has to hold before any parser runs: it is a regular file of at most 1 MiB, UTF-8, without control
//! characters. Everything that reports on the config asks here for the place of a config path.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::overrides::Override;
use super::positions::{Positions, Spot, is_within};
use crate::diagnostic::{Diagnostic, Place};
use crate::digest::hex;

/// Bytes that a config may have.
pub const FILE_LIMIT: u64 = 1 << 20;

/// A config as it was given.
#[derive(Debug)]
pub struct ConfigSource {
    /// The file, as the user named it.
    pub path: PathBuf,
    /// Its text, without a byte-order mark.
    pub text: String,
    /// None where the position pass could not read what the value pass could: messages then come without a caret.
    pub(super) positions: Option<Positions>,
    /// In the order of the command line.
    pub(super) overrides: Vec<Override>,
    /// It says that it is a recipe: its paths are those beside it, and it may not say everything.
    pub(super) is_recipe: bool,
    /// SHA-256 of what the file says, without `recipe` and `lock`: layout, comments and the order of keys are not in it.
    pub sha256: String,
}

impl ConfigSource {
    pub(super) fn new(path: &Path, text: String) -> Self {
        let (path, overrides, sha256) = (path.to_owned(), Vec::new(), String::new());
        Self { path, text, positions: None, overrides, is_recipe: false, sha256 }
    }

    /// Notes what the file is, before anything of it is replaced.
    pub(super) fn read_identity(&mut self, root: &Map<String, Value>) {
        self.is_recipe = root.get("recipe").is_some_and(|value| !value.is_null());
        let is_own = |key: &&String| !matches!(key.as_str(), "recipe" | "lock");
        let meaning: Map<String, Value> =
            root.keys().filter(is_own).map(|key| (key.clone(), sorted(&root[key.as_str()]))).collect();
        self.sha256 = hex(&Sha256::digest(sorted(&Value::Object(meaning)).to_string()));
    }

    /// A path of the config as a path of the file system: as it is where that exists, otherwise beside the config file.
    /// So a config in a folder of its own can be used from anywhere, and one in a project from the project's root.
    /// A path of a recipe is always beside it; one that the user has put in its place was made absolute where it exists.
    pub fn resolve(&self, path: &str) -> PathBuf {
        let plain = PathBuf::from(path);
        if self.is_recipe {
            return self.path.parent().map_or(plain, |folder| folder.join(path));
        }
        if plain.is_absolute() || plain.exists() {
            return plain;
        }
        let beside = self.path.parent().map(|folder| folder.join(&plain));
        beside.filter(|beside| beside.exists()).unwrap_or(plain)
    }

    /// What `--set` says beside where the run writes, as it was typed.
    pub fn set(&self) -> Vec<String> {
        let others = self.overrides.iter().filter(|set| set.path != "output_dir");
        others.map(|set| set.argument.clone()).collect()
    }

    /// The text of a config file, or the one message about why it cannot be read.
    pub(super) fn read(path: &Path) -> Result<String, Diagnostic> {
        let shown = path.display();
        let unreadable = |error: &std::io::Error| {
            let diagnostic = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    Diagnostic::error("config::missing-file", format!("there is no config `{shown}`"))
                        .help("check the path, or run `host train` without a config for the built-in quickstart")
                }
                _ => Diagnostic::error("config::unreadable", format!("the config `{shown}` cannot be read")),
            };
            if error.kind() == std::io::ErrorKind::NotFound { diagnostic } else { diagnostic.why(error.to_string()) }
        };
        let metadata = std::fs::metadata(path).map_err(|error| unreadable(&error))?;
        if metadata.is_dir() {
            return Err(Diagnostic::error(
                "config::unreadable",
                format!("`{shown}` is a directory, not a config file"),
            )
            .help(format!("name the file: `{}`", path.join("host.yml").display())));
        }
        let mut bytes = Vec::new();
        let file = intake::open(path).map_err(|error| unreadable(&error))?;
        file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
        if bytes.len() as u64 > FILE_LIMIT {
            return Err(Diagnostic::error("config::too-large", format!("`{shown}` is too large for a config"))
                .why(format!("it has {} bytes; the limit is {FILE_LIMIT}", metadata.len().max(bytes.len() as u64)))
                .help("is this a data file? Name it under `datasets` in a config of its own"));
        }
        Self::decode(path, bytes)
    }

    /// The text of a config that has these bytes, at most [`FILE_LIMIT`].
    pub(super) fn decode(path: &Path, bytes: Vec<u8>) -> Result<String, Diagnostic> {
        let shown = path.display();
        let utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
        // Without a mark: ASCII text in UTF-16 has a zero in every second byte.
        let zeros =
            |offset: usize| bytes.len() >= 4 && bytes.iter().skip(offset).step_by(2).take(8).all(|&byte| byte == 0);
        if utf16 || zeros(0) || zeros(1) {
            return Err(Diagnostic::error("config::encoding", format!("`{shown}` is UTF-16; a config is UTF-8"))
                .help(format!("convert it: `iconv -f UTF-16 -t UTF-8 {shown} > utf8.yml`")));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
            let (line, column) = end_of(&valid);
            let byte = error.as_bytes()[error.utf8_error().valid_up_to()];
            Diagnostic::error("config::encoding", format!("byte 0x{byte:02x} is not UTF-8"))
                .at(Place::new(path, line, column))
                .help("save the file as UTF-8")
        })?;
        let text = text.strip_prefix('\u{feff}').map_or(text.clone(), str::to_owned);
        let control = text.char_indices().find(|&(_, c)| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{85}'));
        if let Some((at, character)) = control {
            let (line, column) = end_of(&text[..at]);
            let name = if character == '\0' {
                "a NUL byte".to_owned()
            } else {
                format!("the control character U+{:04X}", character as u32)
            };
            return Err(Diagnostic::error("config::control-character", format!("{name} cannot stand in a config"))
                .at(Place::new(path, line, column).source_line(line_of(&text, line)))
                .help("delete it, or write it as an escape in a double-quoted string (`\"\\x1b\"`)"));
        }
        Ok(text)
    }

    /// Where the value of a config path stands; for a value that starts below its key, the key. None for what was not
    /// written (a default).
    pub fn place(&self, path: &str) -> Option<Place> {
        self.override_place(path).or_else(|| {
            let entry = self.positions.as_ref()?.get(path)?;
            let spot = match entry.key {
                Some(key) if entry.is_container && key.line != entry.value.line => key,
                _ => entry.value,
            };
            Some(self.at(spot, path))
        })
    }

    /// Where the key of a config path stands.
    pub fn key_place(&self, path: &str) -> Option<Place> {
        self.override_place(path).or_else(|| {
            let entry = self.positions.as_ref()?.get(path)?;
            Some(self.at(entry.key.unwrap_or(entry.value), path))
        })
    }

    /// Where a config path stands, or else the closest thing around it that was written.
    pub fn nearest_place(&self, path: &str) -> Option<Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.place(path) {
                return Some(place);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    /// A spot of the file as a place.
    pub(super) fn at(&self, spot: Spot, path: &str) -> Place {
        Place::new(&self.path, spot.line, spot.column)
            .len(spot.len)
            .source_line(line_of(&self.text, spot.line))
            .key_path(path)
    }

    /// True if `--set` gives this path, something around it or something inside it.
    pub fn is_overridden(&self, path: &str) -> bool {
        self.overrides.iter().any(|set| is_within(path, &set.path) || is_within(&set.path, path))
    }

    pub(super) fn override_place(&self, path: &str) -> Option<Place> {
        let set = self.overrides.iter().rev().find(|set| is_within(path, &set.path))?;
        Some(set.place().key_path(path))
    }
}

/// The same with the keys of all mappings in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            Value::Object(keys.into_iter().map(|key| (key.clone(), sorted(&map[key.as_str()]))).collect())
        }
        Value::Array(list) => list.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// Line and column (both from 1) one past the end of `text`.
fn end_of(text: &str) -> (usize, usize) {
    let mut lines = split_lines(text);
    let last = lines.pop().unwrap_or_default();
    (lines.len() + 1, last.chars().count() + 1)
}

/// The text of one line, counted from 1.
fn line_of(text: &str, line: usize) -> String {
    split_lines(text).get(line.saturating_sub(1)).map(|&line| line.to_owned()).unwrap_or_default()
}

/// Lines as YAML counts them: ended by LF, CRLF or CR.
fn split_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(['\n', '\r']) {
        lines.push(&rest[..end]);
        rest = rest[end..].strip_prefix("\r\n").unwrap_or(&rest[end + 1..]);
    }
    lines.push(rest);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_as_yaml_says() {
        assert_eq!(split_lines("a\nb\r\nc\rd"), ["a", "b", "c", "d"]);
        assert_eq!(end_of("a\nbc"), (2, 3));
        assert_eq!(line_of("a\r\nbc\r\n", 2), "bc");
    }
}
