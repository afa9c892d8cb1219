//! The tests of a row: a list of pieces of code, or one piece with a `check` function.

use serde_json::{Map, Value};

/// Which columns to read.
pub(crate) struct Columns<'a> {
    pub(crate) tests: &'a str,
    pub(crate) setup: Option<&'a str>,
    pub(crate) prefix: Option<&'a str>,
    pub(crate) entry_point: &'a str,
}

/// What a row asks for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tests {
    pub(crate) setup: String,
    pub(crate) prefix: String,
    pub(crate) each: Vec<String>,
}

impl Tests {
    /// Reads a row. The error is a note for the person who reads the samples.
    pub(crate) fn read(row_json: &str, columns: &Columns<'_>) -> Result<Self, String> {
        let row: Map<String, Value> =
            serde_json::from_str(row_json).map_err(|error| format!("the row is not an object: {error}"))?;
        let entry_point = row.get(columns.entry_point).and_then(Value::as_str).filter(|name| is_name(name));
        let tests = match row.get(columns.tests) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(code)) => vec![code.as_str()],
            Some(Value::Array(all)) => all
                .iter()
                .map(|test| test.as_str().ok_or_else(|| format!("`{}` has a test that is not text", columns.tests)))
                .collect::<Result<_, _>>()?,
            Some(_) => return Err(format!("`{}` is neither text nor a list", columns.tests)),
        };
        let tests = tests.into_iter().filter(|test| !test.trim().is_empty()).map(|test| match entry_point {
            Some(name) if test.lines().any(|line| line.starts_with("def check(")) => {
                format!("{test}\n\ncheck({name})\n")
            }
            _ => test.to_owned(),
        });
        Ok(Self {
            setup: columns.setup.map(|field| code(&row, field)).transpose()?.unwrap_or_default(),
            prefix: columns.prefix.map(|field| code(&row, field)).transpose()?.unwrap_or_default(),
            each: tests.collect(),
        })
    }
}

fn code(row: &Map<String, Value>, field: &str) -> Result<String, String> {
    match row.get(field) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        // MBPP's `test_imports` is a list of lines.
        Some(Value::Array(lines)) if lines.iter().all(Value::is_string) => {
            Ok(lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"))
        }
        Some(_) => Err(format!("`{field}` is neither text nor a list of lines")),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|character| character == '_' || character.is_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(row: &str) -> Result<Tests, String> {
        let columns =
            Columns { tests: "test", setup: Some("setup"), prefix: Some("prompt"), entry_point: "entry_point" };
        Tests::read(row, &columns)
    }

    #[test]
    fn lists_and_texts() {
        assert_eq!(read(r#"{"test": ["a", " ", "b"], "setup": ["c", "d"]}"#).unwrap().each, ["a", "b"]);
        assert_eq!(read(r#"{"test": ["a"], "setup": ["c", "d"]}"#).unwrap().setup, "c\nd");
        assert_eq!(
            read(r#"{"test": "def check(f):\n  assert f(1)", "entry_point": "g", "prompt": "def g(x):\n"}"#).unwrap(),
            Tests {
                setup: String::new(),
                prefix: "def g(x):\n".to_owned(),
                each: vec!["def check(f):\n  assert f(1)\n\ncheck(g)\n".to_owned()]
            }
        );
        assert!(read("{}").unwrap().each.is_empty());
        assert!(read(r#"{"test": 1}"#).is_err() && read(r#"{"test": [1]}"#).is_err() && read("[]").is_err());
    }
}
