//! The tools with which `fields.rs` reads a config: typed values, ranges, choices and unknown keys, where every problem
//! is noted at its place and none stops the reading.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::axolotl_keys::{self, Lack};
use super::axolotl_values;
use super::choice::Choice;
use super::names::{certain, nearest, one_of};
use super::paths::objection;
use super::positions::{join, join_index};
use super::source::ConfigSource;
use super::tree::from_yaml;
use super::values::{Amount, AutoBool, DeviceChoice, Patterns};
use crate::diagnostic::{Diagnostic, Edit, Place, Severity};

/// What all readers of one config share.
pub(super) struct Context<'a> {
    pub(super) source: &'a ConfigSource,
    problems: RefCell<Vec<Diagnostic>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(source: &'a ConfigSource) -> Self {
        Self { source, problems: RefCell::new(Vec::new()) }
    }

    pub(super) fn into_problems(self) -> Vec<Diagnostic> {
        self.problems.into_inner()
    }

    pub(super) fn report(&self, diagnostic: Diagnostic) {
        self.problems.borrow_mut().push(diagnostic);
    }

    /// An error at the value of `path`, or at what is closest to it.
    pub(super) fn error(&self, code: &str, path: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(format!("config::{code}"), message).at(self.place(path))
    }

    pub(super) fn place(&self, path: &str) -> Option<Place> {
        self.source.nearest_place(path)
    }

    /// True if a recipe says this, and not the user.
    pub(super) fn is_of_recipe(&self, path: &str) -> bool {
        self.source.is_recipe && self.source.override_place(path).is_none()
    }

    /// A path that is read. One that a recipe may not name is reported; one that the user has put in its place is of where the
    /// program was started, so that it is never taken for one beside the recipe.
    pub(super) fn path(&self, path: &str, text: String) -> Option<String> {
        if !self.source.is_recipe {
            return Some(text);
        }
        if self.is_of_recipe(path) {
            let Some([message, why, help]) = objection(path, &text) else { return Some(text) };
            self.report(self.error("recipe", path, message).why(why).help(help));
            return None;
        }
        // Where the run writes is never looked for beside the recipe.
        let is_read = path != "output_dir" && Path::new(&text).exists();
        let absolute = std::path::absolute(&text).ok().filter(|_| is_read);
        Some(absolute.and_then(|path| path.into_os_string().into_string().ok()).unwrap_or(text))
    }

    /// A key that must be there and is not.
    pub(super) fn missing(&self, path: &str, help: &str) {
        let place = self.place(path).or_else(|| self.source.place("")).map(|place| place.len(1).key_path(path));
        self.report(Diagnostic::error("config::missing-key", format!("`{path}` is missing")).at(place).help(help));
    }

    pub(super) fn wrong_type(&self, path: &str, expected: &str, value: &Value) {
        let mut diagnostic =
            self.error("wrong-type", path, format!("`{path}` must be {expected}, found {}", found(value)));
        if let Some(help) = mend(expected, value) {
            diagnostic = diagnostic.help(help);
        }
        let edit = meant(expected, value).map(|value| Edit::Set { path: path.to_owned(), value });
        self.report(diagnostic.fix(edit));
    }
}

/// A value in words: `the string `x``, ``true``, `a list`.
pub(super) fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) | Value::Number(_) => format!("`{value}`"),
        Value::String(text) if text.chars().count() > 40 => {
            format!("the string `{}…`", text.chars().take(40).collect::<String>())
        }
        Value::String(text) => format!("the string `{text}`"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// The usual reasons for a wrong type.
fn mend(expected: &str, value: &Value) -> Option<String> {
    let Value::String(text) = value else {
        let scalar = matches!(value, Value::Bool(_) | Value::Number(_));
        return (scalar && expected.contains("text")).then(|| format!("put it in quotes: `\"{value}\"`"));
    };
    let expects_number = expected.contains("number");
    match text.to_lowercase().as_str() {
        "yes" | "on" | "y" if expected.contains("true") => {
            Some("write `true`; `yes` and `on` are plain text in YAML 1.2".to_owned())
        }
        "no" | "off" | "n" if expected.contains("true") => {
            Some("write `false`; `no` and `off` are plain text in YAML 1.2".to_owned())
        }
        "true" | "false" if expected.contains("true") => Some("take the quotes away".to_owned()),
        word if expects_number => match word.replace('_', "").parse::<f64>() {
            Ok(number) if !number.is_finite() => Some("the number is too large for 64 bits".to_owned()),
            Ok(_) if word.contains('_') || (word.starts_with('0') && word.len() > 1) => {
                Some("write plain decimal digits, without `_` or leading zeros".to_owned())
            }
            Ok(_) => Some("take the quotes away".to_owned()),
            Err(_) => None,
        },
        _ => None,
    }
}

/// The value of the right type that a text stands for (`yes`, `"1e-4"`), as YAML; none where more than one could be meant.
fn meant(expected: &str, value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let word = match text.to_lowercase().as_str() {
        "yes" | "on" | "y" | "true" => "true",
        "no" | "off" | "n" | "false" => "false",
        _ => {
            let number = from_yaml(text).ok().filter(Value::is_number)?;
            let fits = expected.contains("number") && (!expected.starts_with("a whole number") || number.is_u64());
            return fits.then(|| text.to_owned());
        }
    };
    expected.contains("true").then(|| word.to_owned())
}

/// A type that a config value can have.
pub(super) trait Read: Sized {
    /// The value, or none with the problem reported.
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self>;
}

impl Read for bool {
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self> {
        let read = value.as_bool();
        if read.is_none() {
            cx.wrong_type(path, "`true` or `false`", value);
        }
        read
    }
}

impl Read for u64 {
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self> {
        let read = value.as_u64();
        match value.as_f64() {
            _ if read.is_some() => {}
            Some(number) if number < 0.0 => out_of_range(cx, path, "0 or more", value),
            Some(number) if number > u64::MAX as f64 => out_of_range(cx, path, "a number of at most 64 bits", value),
            _ => cx.wrong_type(path, "a whole number", value),
        }
        read
    }
}

impl Read for u32 {
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self> {
        let wide = u64::read(cx, path, value)?;
        let read = u32::try_from(wide).ok();
        if read.is_none() {
            out_of_range(cx, path, &format!("at most {}", u32::MAX), value);
        }
        read
    }
}

impl Read for f64 {
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self> {
        let read = value.as_f64();
        if read.is_none() {
            cx.wrong_type(path, "a number", value);
        }
        read
    }
}

impl Read for String {
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self> {
        let read = value.as_str().map(str::to_owned);
        if read.is_none() {
            cx.wrong_type(path, "text", value);
        }
        read
    }
}

impl Read for AutoBool {
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(Self::Is(*value)),
            Value::String(word) if word == "auto" => Some(Self::Auto),
            _ => {
                cx.wrong_type(path, "`auto`, `true` or `false`", value);
                None
            }
        }
    }
}

impl Read for DeviceChoice {
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self> {
        let Value::String(word) = value else {
            cx.wrong_type(path, "`auto`, `cpu` or `cuda:N`", value);
            return None;
        };
        let read = word.parse().ok();
        if read.is_none() {
            unknown_word(cx, path, word, ["auto", "cpu", "cuda", "cuda:0"].into_iter());
        }
        read
    }
}

impl Read for Amount {
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self> {
        if let Some(count) = value.as_u64() {
            return Some(Self::Count(count));
        }
        match value.as_f64() {
            Some(0.0) => Some(Self::Count(0)),
            Some(share) if share > 0.0 && share < 1.0 => Some(Self::Fraction(share)),
            Some(_) => {
                out_of_range(cx, path, "a whole number, or a share between 0 and 1", value);
                None
            }
            None => {
                cx.wrong_type(path, "a whole number, or a share between 0 and 1", value);
                None
            }
        }
    }
}

/// A list; a single value counts as a list of one, as in Axolotl.
impl<T: Read> Read for Vec<T> {
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self> {
        match value {
            Value::Array(list) => {
                let read = list.iter().enumerate().map(|(index, value)| T::read(cx, &join_index(path, index), value));
                read.collect::<Vec<_>>().into_iter().collect()
            }
            Value::Object(_) => {
                cx.wrong_type(path, "a list", value);
                None
            }
            single => T::read(cx, path, single).map(|value| vec![value]),
        }
    }
}

impl<T: Read> Read for BTreeMap<String, T> {
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self> {
        let Value::Object(map) = value else {
            cx.wrong_type(path, "a mapping", value);
            return None;
        };
        let read = map.iter().map(|(key, value)| Some((key.clone(), T::read(cx, &join(path, key), value)?)));
        read.collect::<Vec<_>>().into_iter().collect()
    }
}

impl<T: Read> Read for Patterns<T> {
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self> {
        let Value::Object(map) = value else {
            cx.wrong_type(path, "a mapping", value);
            return None;
        };
        let read = map.iter().map(|(key, value)| Some((key.clone(), T::read(cx, &join(path, key), value)?)));
        read.collect::<Vec<_>>().into_iter().collect::<Option<_>>().map(Self)
    }
}

impl<T: Choice> Read for Word<T> {
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self> {
        let Value::String(word) = value else {
            cx.wrong_type(path, &one_of(T::ALL.iter().map(|(word, _)| *word)), value);
            return None;
        };
        let read = T::parse(word);
        if read.is_none() {
            unknown_word(cx, path, word, T::ALL.iter().map(|(word, _)| *word));
        }
        read.map(Word)
    }
}

/// A [`Choice`] as something to read.
pub(super) struct Word<T>(pub(super) T);

/// Reports a word that is none of `words`, with Axolotl's meaning where it has one.
pub(super) fn unknown_word<'a>(cx: &Context<'_>, path: &str, word: &str, words: impl Iterator<Item = &'a str> + Clone) {
    let key = path.rsplit('.').next().unwrap_or(path);
    if let Some(advice) = axolotl_values::value_advice(key, word) {
        cx.report(cx.error("unsupported-value", path, format!("`{key}: {word}` is not supported")).help(advice));
        return;
    }
    let diagnostic = cx.error("unknown-value", path, format!("`{word}` is not a value of `{path}`"));
    let edit = certain(word, words.clone()).map(|name| Edit::Set { path: path.to_owned(), value: name.to_owned() });
    cx.report(match nearest(word, words.clone()) {
        Some(name) => diagnostic.help(format!("did you mean `{name}`?")).fix(edit),
        None => diagnostic.help(format!("write {}", one_of(words))),
    });
}

/// Reports a number outside its range.
pub(super) fn out_of_range(cx: &Context<'_>, path: &str, words: &str, value: &Value) {
    cx.report(cx.error("out-of-range", path, format!("`{path}` must be {words}, found `{value}`")));
}

/// Sets `target` if there is a value; a default stays otherwise.
pub(super) fn fill<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

/// One mapping of the config. Each key that is asked for is known; `finish` reports the others.
pub(super) struct Section<'a> {
    pub(super) cx: &'a Context<'a>,
    pub(super) path: String,
    map: &'a Map<String, Value>,
    lacks: &'static [(&'static [&'static str], Lack)],
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The whole config.
    pub(super) fn top(cx: &'a Context<'a>, map: &'a Map<String, Value>) -> Self {
        Self { cx, path: String::new(), map, lacks: axolotl_keys::TOP, known: RefCell::default() }
    }

    /// A mapping inside it. None, with the problem reported, where the value is something else.
    pub(super) fn of(
        cx: &'a Context<'a>,
        path: impl Into<String>,
        value: &'a Value,
        lacks: &'static [(&'static [&'static str], Lack)],
    ) -> Option<Self> {
        let path = path.into();
        let Value::Object(map) = value else {
            cx.wrong_type(&path, "a mapping", value);
            return None;
        };
        Some(Self { cx, path, map, lacks, known: RefCell::default() })
    }

    /// Path of one of its keys.
    pub(super) fn at(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// The value of a key; none where it is absent or null.
    pub(super) fn value(&self, key: &'static str) -> Option<&'a Value> {
        if !self.known.borrow().contains(&key) {
            self.known.borrow_mut().push(key);
        }
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The user wrote the key, and nothing behind it.
    pub(super) fn is_empty(&self, key: &'static str) -> bool {
        let is_empty = self.map.get(key).is_some_and(Value::is_null);
        if is_empty && !self.known.borrow().contains(&key) {
            self.known.borrow_mut().push(key);
        }
        is_empty
    }

    /// The user wrote it; to be read by somebody else.
    pub(super) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    /// The typed value of a key; none where it is absent, null or wrong.
    pub(super) fn read<T: Read>(&self, key: &'static str) -> Option<T> {
        T::read(self.cx, &self.at(key), self.value(key)?)
    }

    /// One of a fixed list of words.
    pub(super) fn choice<T: Choice>(&self, key: &'static str) -> Option<T> {
        self.read::<Word<T>>(key).map(|word| word.0)
    }

    /// The same, inside a range that `words` describe ("1 or more").
    pub(super) fn checked<T: Read + Copy>(
        &self,
        key: &'static str,
        words: &str,
        fits: impl Fn(T) -> bool,
    ) -> Option<T> {
        let value = self.value(key)?;
        let read = T::read(self.cx, &self.at(key), value)?;
        if !fits(read) {
            out_of_range(self.cx, &self.at(key), words, value);
            return None;
        }
        Some(read)
    }

    /// A path of the file system: not empty, and nothing in it that a shell would have expanded.
    pub(super) fn file_path(&self, key: &'static str) -> Option<String> {
        let text: String = self.read(key)?;
        let path = self.at(key);
        if text.trim().is_empty() {
            self.cx.report(self.cx.error("out-of-range", &path, format!("`{path}` is empty")));
            return None;
        }
        if text.starts_with('~') || text.contains('$') {
            let sign = if text.starts_with('~') { "~" } else { "$" };
            let diagnostic = self.cx.error("unexpanded-path", &path, format!("`{sign}` is not expanded in `{path}`"));
            self.cx
                .report(diagnostic.help(format!("write the path out, or let the shell do it: `--set {path}={text}`")));
            return None;
        }
        self.cx.path(&path, text)
    }

    /// Reports every key that nobody asked for. `elsewhere` finds the section that a misplaced key belongs to.
    pub(super) fn finish(self, elsewhere: impl Fn(&str) -> Option<&'static str>) {
        let known = self.known.borrow();
        for (key, value) in self.map {
            if known.contains(&key.as_str()) {
                continue;
            }
            let path = self.at(key);
            let place = self.cx.source.key_place(&path);
            if is_secret(key) {
                self.secret(key, place);
                continue;
            }
            match axolotl_keys::find(self.lacks, key) {
                Some(_) if has_no_effect(value) => {}
                Some(Lack::NoEffect(why)) => self.cx.report(
                    Diagnostic::new(Severity::Note, "config::no-effect", format!("`{path}` has no effect here"))
                        .at(place)
                        .why(*why),
                ),
                Some(Lack::Instead(help)) => self.cx.report(
                    Diagnostic::error("config::unsupported-key", format!("Axolotl's `{path}` is not supported"))
                        .at(place)
                        .help(*help),
                ),
                Some(Lack::Called(name)) => self.cx.report(
                    Diagnostic::error("config::unknown-key", format!("unknown key `{path}`"))
                        .at(place)
                        .help(format!("Axolotl and this trainer call it `{name}`"))
                        .fix(self.renamed(key, name)),
                ),
                None => {
                    let diagnostic =
                        Diagnostic::error("config::unknown-key", format!("unknown key `{path}`")).at(place);
                    let help = elsewhere(key).map(|home| format!("`{key}` belongs {home}; check the indentation"));
                    let meant = || nearest(key, known.iter().copied()).map(|name| format!("did you mean `{name}`?"));
                    let listed =
                        || (known.len() <= 12).then(|| format!("here can stand {}", one_of(known.iter().copied())));
                    let edit = certain(key, known.iter().copied()).filter(|_| help.is_none());
                    let diagnostic = diagnostic.fix(edit.and_then(|name| self.renamed(key, name)));
                    self.cx.report(match help.or_else(meant).or_else(listed) {
                        Some(help) => diagnostic.help(help),
                        None => {
                            diagnostic.help("no key of Axolotl or of this trainer has such a name; delete the line")
                        }
                    });
                }
            }
        }
    }

    /// The edit that gives a key its right name, unless that one is there as well.
    fn renamed(&self, key: &str, name: &str) -> Option<Edit> {
        (!self.map.contains_key(name)).then(|| Edit::Rename { path: self.at(key), to: name.to_owned() })
    }

    /// The value is never shown, not even in the snippet.
    fn secret(&self, key: &str, place: Option<Place>) {
        let place = place.map(|mut place| {
            place.source_line = place.source_line.map(|line| match line.find([':', '=']) {
                Some(at) if place.file.ends_with("command line") => format!("{}=…", &line[..at]),
                Some(at) => format!("{}: …", &line[..at]),
                None => "…".to_owned(),
            });
            place.column = place.column.min(place.source_line.as_ref().map_or(1, |line| line.chars().count()));
            place
        });
        self.cx.report(
            Diagnostic::error("config::secret", format!("`{key}` looks like a secret"))
                .at(place)
                .why("a config is shared, saved in the output directory and shown in messages")
                .help("take it out of the file (and replace the secret, if the file was shared); tools of Hugging Face read `HF_TOKEN`"),
        );
    }
}

/// Null, false or empty: the key is there, but asks for nothing.
fn has_no_effect(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// Names under which people keep tokens and passwords.
fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    ["hf_token", "hub_token", "auth_token", "access_token", "token"].contains(&key.as_str())
        || ["api_key", "apikey", "password", "secret", "secret_key", "private_key"].iter().any(|end| key.ends_with(end))
}
