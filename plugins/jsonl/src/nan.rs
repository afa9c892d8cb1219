//! `NaN`, `Infinity` and `-Infinity`: no JSON, but what Python's `json` writes for numbers that are not finite, and reads.

const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// The text with `null` in place of each such number; none where it has none.
pub(crate) fn with_null(text: &str) -> Option<String> {
    replaced(text, |_| "null".to_owned())
}

/// The text with a number of the same length in its place, so that what else is wrong keeps its column.
pub(crate) fn same_length(text: &str) -> Option<String> {
    replaced(text, |word| format!("{:<1$}", 0, word.len()))
}

fn replaced(text: &str, by: impl Fn(&str) -> String) -> Option<String> {
    if !WORDS.iter().any(|word| text.contains(word)) {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let (mut start, mut at, mut in_string, mut found) = (0, 0, false, false);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'N' | b'I' | b'-' if !in_string => {
                if let Some(word) = WORDS.iter().find(|word| bytes[at..].starts_with(word.as_bytes())) {
                    out.push_str(&text[start..at]);
                    out.push_str(&by(word));
                    start = at + word.len();
                    at = start - 1;
                    found = true;
                }
            }
            _ => {}
        }
        at += 1;
    }
    out.push_str(&text[start..]);
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_are_replaced() {
        let text = r#"{"NaN": NaN, "a\"NaN": [-Infinity, Infinity, 1], "b": "NaN"}"#;
        assert_eq!(with_null(text).unwrap(), r#"{"NaN": null, "a\"NaN": [null, null, 1], "b": "NaN"}"#);
        assert_eq!(same_length(text).unwrap().len(), text.len());
        assert_eq!(with_null(r#"{"a": "NaN, Infinity"}"#), None);
    }
}
