//! Patterns of names of files, as `fsspec` reads them for `datasets` of Hugging Face: `*` and `?` within a folder, `[…]`, and
//! `**` as a whole part of a path.
//!
//! Patterns come from strangers. They become regular expressions of a kind that takes time in proportion to the name.

use regex::Regex;

/// Bytes of a pattern.
const LENGTH: usize = 1024;
/// Files that are none of a dataset's data unless a pattern names them, as `datasets` has them.
const IGNORED: [&str; 6] =
    ["README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dummy_data.zip", "dataset_dict.json"];

/// A pattern of names of files, or one name.
#[derive(Debug)]
pub(super) struct Pattern {
    text: String,
    /// None for a name.
    regex: Option<Regex>,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, to stand behind the pattern.
    pub(super) fn new(text: &str) -> Result<Self, &'static str> {
        let text = text.strip_prefix("./").unwrap_or(text);
        if text.len() > LENGTH {
            return Err("has more than 1024 bytes");
        }
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err("is no name of a file");
        }
        if !is_inside(text) {
            return Err("leads out of the repository");
        }
        let mut expression = String::new();
        let mut parts = text.split('/').peekable();
        while let Some(part) = parts.next() {
            let is_last = parts.peek().is_none();
            match part {
                "*" => expression.push_str(if is_last { "[^/]+" } else { "[^/]+/" }),
                "**" => expression.push_str(if is_last { ".*" } else { "(?:.+/)?" }),
                _ if part.contains("**") => return Err("has `**` beside other characters; it must be a whole part"),
                _ => {
                    translate(part, &mut expression);
                    expression.push_str(if is_last { "" } else { "/" });
                }
            }
        }
        let is_pattern = text.contains(['*', '?', '[']);
        let regex = || Regex::new(&format!(r"\A(?s:{expression})\z")).map_err(|_| "is too large");
        Ok(Self { text: text.to_owned(), regex: is_pattern.then(regex).transpose()? })
    }

    /// True for a name, which must be there.
    pub(super) fn is_name(&self) -> bool {
        self.regex.is_none()
    }

    /// Whether it means a file. Hidden files are never meant, folders such as `__pycache__` and files that describe a dataset
    /// only where it names them.
    pub(super) fn matches(&self, name: &str) -> bool {
        let fits = self.regex.as_ref().map_or_else(|| self.text == name, |regex| regex.is_match(name));
        let own = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
        fits && !name.split('/').any(|part| part.starts_with('.'))
            && special(name) == special(&self.text)
            && (!IGNORED.contains(&own(name).as_str()) || own(&self.text) == own(name))
    }
}

/// True for what stays inside of a repository: no address, no path of the machine, none that leads up.
pub(super) fn is_inside(text: &str) -> bool {
    !text.starts_with('/')
        && !text.contains('\\')
        && !text.contains("://")
        && !text.contains("::")
        && text.split('/').all(|part| part != "..")
}

/// A name as a pattern that means it alone.
pub(super) fn escape(name: &str) -> String {
    let one = |c: char| if "*?[".contains(c) { format!("[{c}]") } else { c.to_string() };
    name.chars().map(one).collect()
}

/// Folders of a path that begin with two underscores.
fn special(path: &str) -> usize {
    let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
    folders.split('/').filter(|part| part.starts_with("__")).count()
}

/// A part of a path as a regular expression.
fn translate(part: &str, expression: &mut String) {
    let characters: Vec<char> = part.chars().collect();
    let mut at = 0;
    while let Some(&character) = characters.get(at) {
        at += 1;
        match character {
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '[' => {
                // A bracket that comes first is one of the set.
                let first = at + usize::from(characters.get(at) == Some(&'!'));
                let behind = first + usize::from(characters.get(first) == Some(&']'));
                let end = characters.iter().skip(behind).position(|&c| c == ']').map(|length| behind + length);
                match end {
                    Some(end) => {
                        expression.push_str(&set(&characters[first..end], first > at));
                        at = end + 1;
                    }
                    None => expression.push_str(r"\["),
                }
            }
            other => expression.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
}

/// One character of a set, or none of it.
fn set(characters: &[char], is_other: bool) -> String {
    let literal = |c: char| format!(r"\x{{{:x}}}", u32::from(c));
    let (mut members, mut at) = (String::new(), 0);
    while let Some(&from) = characters.get(at) {
        match characters.get(at + 1..at + 3) {
            Some(&['-', to]) => {
                if from <= to {
                    members.push_str(&format!("{}-{}", literal(from), literal(to)));
                }
                at += 3;
            }
            _ => {
                members.push_str(&literal(from));
                at += 1;
            }
        }
    }
    match (members.is_empty(), is_other) {
        (true, true) => ".".to_owned(),
        (true, false) => r"[^\s\S]".to_owned(),
        (false, true) => format!("[^{members}]"),
        (false, false) => format!("[{members}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `re.match(fsspec.utils.glob_translate(pattern), name)` of fsspec 2026.9 has them.
    #[test]
    fn patterns_are_those_of_fsspec() {
        for (pattern, name, fits) in [
            ("*.csv", "a.csv", true),
            ("*.csv", "b/a.csv", false),
            ("*/a.csv", "b/a.csv", true),
            ("*/a.csv", "a.csv", false),
            ("**", "b/c/a.csv", true),
            ("**/a.csv", "a.csv", true),
            ("**/a.csv", "b/c/a.csv", true),
            ("b/**", "b/c/a.csv", true),
            ("b/**", "bc/a.csv", false),
            ("**/train[-._ 0-9]*", "x/train-0.csv", true),
            ("**/train[-._ 0-9]*", "x/trains.csv", false),
            ("**/train[-._ 0-9]*", "x/train0/a.csv", false),
            ("**/*[-._ 0-9]train/**", "my-train/a.csv", true),
            ("x-[0-9][0-9]*.*", "x-07.csv", true),
            ("x-[0-9][0-9]*.*", "x-7.csv", false),
            ("[!a].csv", "b.csv", true),
            ("[!a].csv", "a.csv", false),
            ("[]].csv", "].csv", true),
            ("[.csv", "[.csv", true),
            ("[a-].csv", "-.csv", true),
            ("[z-a].csv", "b.csv", false),
            ("a?.csv", "ab.csv", true),
            ("a?.csv", "a/.csv", false),
            ("a.csv", "axcsv", false),
            ("(a|b)+.csv", "(a|b)+.csv", true),
            ("[^a].csv", "^.csv", true),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn some_files_are_meant_only_by_their_names() {
        let fits = |pattern: &str, name: &str| Pattern::new(pattern).unwrap().matches(name);
        assert!(!fits("**", "README.md") && fits("README.md", "README.md"));
        assert!(!fits("**", "__pycache__/a.json") && fits("__pycache__/*", "__pycache__/a.json"));
        assert!(!fits("**", ".cache/a.json") && !fits(".cache/*", ".cache/a.json") && !fits("**", ".gitattributes"));
        assert!(fits("./a.json", "a.json"));
        for name in ["a*[b]?.json", "plain.json"] {
            let pattern = Pattern::new(&escape(name)).unwrap();
            assert!(pattern.matches(name) && !pattern.matches("axb?.json"));
        }
    }

    #[test]
    fn what_leads_out_or_is_none_is_refused() {
        let long = "a".repeat(2000);
        for pattern in
            ["../x", "a/../../x", "/etc/*", "https://x.co/a", "zip://*::a.zip", "a\\b", "", "**.csv", "a\n", &long]
        {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
        // Would take for ever where a star tries again: it has one answer here, in no time.
        let pattern = Pattern::new(&"*a".repeat(500)).unwrap();
        assert!(!pattern.matches(&"a".repeat(499)));
    }
}
