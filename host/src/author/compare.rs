//! Where two results differ, in words.

use serde_json::Value;

use crate::config::{join, join_index};

/// Differences of one result that are listed.
const SHOWN: usize = 4;
/// Characters of a value that are shown.
const WIDTH: usize = 160;

/// One line for each place where `found` is not `wanted`, `words` before the two values.
pub fn differences(wanted: &Value, found: &Value, words: [&str; 2]) -> String {
    let mut lines = Vec::new();
    compare(wanted, found, "", words, &mut lines);
    let more = lines.len().saturating_sub(SHOWN);
    lines.truncate(SHOWN);
    if more > 0 {
        lines.push(format!("and {more} more differences"));
    }
    lines.join("\n")
}

fn compare(wanted: &Value, found: &Value, path: &str, words: [&str; 2], lines: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(a), Value::Object(b)) if a.keys().any(|key| b.contains_key(key)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            for key in keys {
                one(a.get(key), b.get(key), &join(path, key), words, lines);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                one(Some(a), Some(b), &join_index(path, index), words, lines);
            }
        }
        // A person who writes 1 means 1.0 too.
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        (a, b) if a != b => lines.push(line(&short(Some(a)), &short(Some(b)), path, words)),
        _ => {}
    }
}

fn one(wanted: Option<&Value>, found: Option<&Value>, path: &str, words: [&str; 2], lines: &mut Vec<String>) {
    match (wanted, found) {
        (Some(a), Some(b)) => compare(a, b, path, words, lines),
        (a, b) => lines.push(line(&short(a), &short(b), path, words)),
    }
}

fn line(wanted: &str, found: &str, path: &str, [before, after]: [&str; 2]) -> String {
    let at = if path.is_empty() { String::new() } else { format!("`{path}`: ") };
    let width = before.chars().count().max(after.chars().count());
    let indent = " ".repeat(at.chars().count());
    format!("{at}{before:width$}  {wanted}\n{indent}{after:width$}  {found}")
}

fn short(value: Option<&Value>) -> String {
    let Some(value) = value else { return "nothing".to_owned() };
    let text = value.to_string();
    if text.chars().count() <= WIDTH {
        return text;
    }
    text.chars().take(WIDTH).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_is_shown() {
        let words = ["expected", "found"];
        assert_eq!(differences(&json!({"a": [1, 2]}), &json!({"a": [1, 2]}), words), "");
        assert_eq!(
            differences(&json!({"a": [1, {"b": "x"}], "c": 1}), &json!({"a": [1, {"b": "y"}]}), words),
            "`a[1].b`: expected  \"x\"\n          found     \"y\"\n`c`: expected  1\n     found     nothing"
        );
        assert_eq!(differences(&json!({"a": 1}), &json!({"a": 1.0}), words), "");
        assert_eq!(differences(&json!([1]), &json!([1, 2]), words), "expected  [1]\nfound     [1,2]");
        let (many, none): (Vec<u32>, Vec<u32>) = ((0..9).collect(), vec![9; 9]);
        assert!(differences(&json!(many), &json!(none), words).ends_with("and 5 more differences"));
    }
}
