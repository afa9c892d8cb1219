//! Commands that messages suggest. What is printed can be pasted into any POSIX shell: words are quoted where they must be.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

/// A text as one word of a shell command.
pub fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./+,:@%=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A path as one word, which no program takes for an option.
pub fn path(path: &Path) -> String {
    let text = path.display().to_string();
    match text.chars().next() {
        None => ".".to_owned(),
        Some('-') => word(&format!("./{text}")),
        Some(_) => word(&text),
    }
}

/// A line of JSON as standard input of `command`: control characters, and those that make a line read as something else,
/// are escaped in it, so that the command is one visible line.
pub fn json_into(value: &Value, command: &str) -> String {
    let mut line = String::new();
    for character in value.to_string().chars() {
        if hides(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(line, "\\u{unit:04x}");
            }
        } else {
            line.push(character);
        }
    }
    format!("printf '%s\\n' {} | {command}", word(&line))
}

/// True if a text can stand in a command as it is: one line, nothing in it that does not show.
pub fn is_visible(text: &str) -> bool {
    !text.chars().any(hides)
}

fn hides(character: char) -> bool {
    character == '\n'
        || character.is_control()
        || crate::diagnostic::escape(character.encode_utf8(&mut [0; 4])).len() > character.len_utf8()
}

/// `host generate` with a model, and an adapter for it.
pub fn generate(model: &Path, adapter: Option<&Path>) -> String {
    let adapter = adapter.map(|adapter| format!(" --adapter {}", path(adapter))).unwrap_or_default();
    format!("host generate --model {}{adapter}", path(model))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What a shell makes of the words.
    fn words(command: &str) -> Vec<String> {
        let script = format!("for word in {command}; do printf '%s\\0' \"$word\"; done");
        let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    #[test]
    fn a_shell_reads_a_word_as_the_text_that_it_stands_for() {
        for text in
            ["plain/path-1.jsonl", "my out", "it's", "$HOME `x` \"y\" \\z", "a;b|c&d", "", "*", "~/x", "é ü", "'"]
        {
            assert_eq!(words(&word(text)), [text], "{text}");
        }
        assert_eq!(word("out"), "out");
        assert_eq!(path(Path::new("-out")), "./-out");
    }

    #[test]
    fn json_reaches_the_command_as_it_is() {
        let value = json!({"prompt": "it's\n\"a\" \\ \u{202e}b\u{1}"});
        let command = json_into(&value, "cat");
        assert!(is_visible(&command) && !is_visible("a\nb") && !is_visible("\u{202e}"), "{command}");
        let output = std::process::Command::new("sh").arg("-c").arg(command).output().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), value);
    }
}
