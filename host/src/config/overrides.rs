//! `--set key=value`: one value of the config replaced from the command line.
//!
//! The key is a config path (`datasets[0].path`), the value is YAML, so types are the same as in the file.

use std::path::Path;

use serde_json::{Map, Value};

use super::positions::{join, join_index};
use super::tree::from_yaml;
use crate::diagnostic::{Diagnostic, Place};

/// Levels that a key may name.
const DEPTH_LIMIT: usize = 16;

/// One `--set`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Override {
    /// Config path that it sets, as other messages spell it.
    pub(super) path: String,
    steps: Vec<Step>,
    value: Value,
    /// `key=value` as it was typed.
    pub(super) argument: String,
    /// Which `--set` of the command line it is, counted from 0.
    index: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl Override {
    /// Reads the `index`-th argument.
    pub(super) fn parse(index: usize, argument: &str) -> Result<Self, Diagnostic> {
        let bad = |message: String| {
            Diagnostic::error("config::bad-override", message)
                .at(command_line(index, argument, 0, argument.chars().count()))
                .help("write `--set key=value`, for example `--set learning_rate=1e-4` or `--set datasets[0].path=data.jsonl`")
        };
        let Some((key, text)) = argument.split_once('=') else {
            return Err(bad(format!("`{argument}` has no `=`")));
        };
        let steps = steps(key.trim()).ok_or_else(|| bad(format!("`{key}` is not a config path")))?;
        let value = from_yaml(text).map_err(|why| bad(format!("the value of `{key}` is not valid YAML")).why(why))?;
        let path = steps.iter().fold(String::new(), |path, step| match step {
            Step::Key(key) => join(&path, key),
            Step::Index(index) => join_index(&path, *index),
        });
        Ok(Self { path, steps, value, argument: argument.to_owned(), index })
    }

    /// Puts the value into the config.
    pub(super) fn apply(&self, root: &mut Map<String, Value>) -> Result<(), Diagnostic> {
        let mut at = Value::Object(std::mem::take(root));
        let result = set(&mut at, &self.steps, &self.value);
        if let Value::Object(map) = at {
            *root = map;
        }
        result.map_err(|reason| {
            Diagnostic::error("config::bad-override", format!("`{}` cannot be set", self.path))
                .at(self.place().key_path(&self.path))
                .why(reason)
        })
    }

    /// The value on the command line.
    pub(super) fn place(&self) -> Place {
        let start = self.argument.find('=').map_or(0, |at| self.argument[..=at].chars().count());
        command_line(self.index, &self.argument, start, self.argument.chars().count() - start)
    }
}

/// Characters `start..start + len` of the `index`-th `--set`. Each counts as a line of its own.
fn command_line(index: usize, argument: &str, start: usize, len: usize) -> Place {
    const FLAG: &str = "--set ";
    Place::new(Path::new("command line"), index + 1, FLAG.len() + start + 1)
        .len(len)
        .source_line(format!("{FLAG}{argument}"))
}

fn steps(key: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for part in key.split('.') {
        let (name, mut indices) = part.find('[').map_or((part, ""), |at| part.split_at(at));
        if name.is_empty() || name.contains(']') {
            return None;
        }
        steps.push(Step::Key(name.to_owned()));
        while !indices.is_empty() {
            let (index, rest) = indices.strip_prefix('[')?.split_once(']')?;
            steps.push(Step::Index(index.parse().ok()?));
            indices = rest;
        }
    }
    (steps.len() <= DEPTH_LIMIT).then_some(steps)
}

fn set(at: &mut Value, steps: &[Step], value: &Value) -> Result<(), String> {
    let Some((step, rest)) = steps.split_first() else {
        *at = value.clone();
        return Ok(());
    };
    match step {
        Step::Key(key) => {
            if at.is_null() {
                *at = Value::Object(Map::new());
            }
            let map =
                at.as_object_mut().ok_or_else(|| format!("`{key}` would be inside a value that is not a mapping"))?;
            set(map.entry(key.as_str()).or_insert(Value::Null), rest, value)
        }
        Step::Index(index) => {
            if at.is_null() {
                *at = Value::Array(Vec::new());
            }
            let list =
                at.as_array_mut().ok_or_else(|| format!("`[{index}]` would be inside a value that is not a list"))?;
            let len = list.len();
            if *index == len {
                list.push(Value::Null);
            }
            let entry =
                list.get_mut(*index).ok_or_else(|| format!("the list has {len} entries; the next one is `[{len}]`"))?;
            set(entry, rest, value)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn applied(arguments: &[&str]) -> Value {
        let Value::Object(mut root) = json!({"seed": 1, "datasets": [{"path": "a"}], "kwargs": null}) else {
            unreachable!()
        };
        for (index, argument) in arguments.iter().enumerate() {
            Override::parse(index, argument).and_then(|set| set.apply(&mut root)).expect("valid override");
        }
        Value::Object(root)
    }

    #[test]
    fn values_have_the_types_of_yaml() {
        let set = applied(&[
            "seed=7",
            "datasets[0].path=b c",
            "datasets[1].path=x",
            "kwargs.use_reentrant=true",
            "lr=1e-5",
            "empty=",
        ]);
        let expected = json!({"seed": 7, "datasets": [{"path": "b c"}, {"path": "x"}], "kwargs": {"use_reentrant": true}, "lr": 1e-5, "empty": null});
        assert_eq!(set, expected);
        assert_eq!(applied(&["q=[a, {b: 1}]"])["q"], json!(["a", {"b": 1}]));
    }

    #[test]
    fn what_cannot_be_set_says_why() {
        for (argument, expected) in [
            ("seed", "`seed` has no `=`"),
            ("=1", "`` is not a config path"),
            ("a[x]=1", "`a[x]` is not a config path"),
            ("a..b=1", "`a..b` is not a config path"),
            ("a=[1", "the value of `a` is not valid YAML"),
        ] {
            assert_eq!(Override::parse(0, argument).expect_err(argument).message, expected);
        }
        let Value::Object(mut root) = json!({"seed": 1, "datasets": []}) else { unreachable!() };
        let mut why =
            |argument: &str| Override::parse(0, argument).and_then(|set| set.apply(&mut root)).expect_err(argument).why;
        assert_eq!(why("datasets[3].path=x").as_deref(), Some("the list has 0 entries; the next one is `[0]`"));
        assert_eq!(why("seed.x=1").as_deref(), Some("`x` would be inside a value that is not a mapping"));
        assert_eq!(root, *json!({"seed": 1, "datasets": []}).as_object().expect("an object"), "nothing is lost");
    }
}
