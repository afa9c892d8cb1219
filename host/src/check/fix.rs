//! `host check --fix`: the certain edits of findings, made in the config's text. In come the findings of a check, out
//! comes the new text, with what it mends and what it has to leave alone.

use crate::checkpoint::directory::replace_file;
use crate::config::{ConfigSource, edit, is_within};
use crate::diagnostic::{Diagnostic, Edit, Failure};

/// Keys that say which plugins run and what they may do.
const GUARDED: [&str; 2] = ["plugins", "rules"];

/// What `--fix` would do.
#[derive(Debug)]
pub struct Fixes {
    /// The config with every edit made.
    pub text: String,
    /// Findings that this mends, by their index.
    pub mended: Vec<usize>,
    /// Findings that have edits and stay, each with the reason.
    pub left: Vec<(usize, String)>,
}

impl Fixes {
    /// Makes the edits of all findings, in their order. All edits of a finding are made, or none; where two findings
    /// want to change one thing, the first one has its way.
    pub fn new(source: &ConfigSource, found: &[Diagnostic]) -> Self {
        let mut fixes = Self { text: source.text.clone(), mended: Vec::new(), left: Vec::new() };
        let mut changed: Vec<String> = Vec::new();
        for (index, finding) in found.iter().enumerate().filter(|(_, finding)| !finding.fix.is_empty()) {
            match edited(source, &fixes.text, finding, &changed) {
                Ok(text) => {
                    fixes.text = text;
                    fixes.mended.push(index);
                    changed.extend(finding.fix.iter().map(affected));
                }
                Err(reason) => fixes.left.push((index, reason)),
            }
        }
        fixes
    }
}

/// The text with all edits of a finding, or why it has to stay as it is.
fn edited(source: &ConfigSource, text: &str, finding: &Diagnostic, changed: &[String]) -> Result<String, String> {
    let is_rule = finding.code.starts_with("rule::");
    let mut text = text.to_owned();
    for wanted in &finding.fix {
        let path = wanted.path();
        if is_rule && GUARDED.iter().any(|guarded| is_within(path, guarded)) {
            return Err(format!("a rule may not change `{path}`, which says what plugins may do"));
        }
        if source.is_overridden(path) {
            return Err(format!("`{path}` comes from `--set`, not from the file"));
        }
        let affected = affected(wanted);
        if changed.iter().any(|other| is_within(&affected, other) || is_within(other, &affected)) {
            return Err(format!("another fix changes `{path}`"));
        }
        text = edit(&text, wanted).map_err(|error| format!("{error}; it has to be mended by hand"))?;
    }
    Ok(text)
}

/// The path whose meaning an edit changes: without an entry, the whole list counts differently.
fn affected(edit: &Edit) -> String {
    let path = edit.path();
    match (edit, path.strip_suffix(']').and_then(|rest| rest.rsplit_once('['))) {
        (Edit::Remove { .. }, Some((list, _))) => list.to_owned(),
        _ => path.to_owned(),
    }
}

/// Puts the new text into the config file, which must still be the one that was read. A link stays a link.
pub fn write(source: &ConfigSource, text: &str) -> Result<(), Failure> {
    const MARK: &str = "\u{feff}";
    let shown = source.path.display();
    let unwritable = |why: String| {
        Diagnostic::error("config::unwritable", format!("the config `{shown}` cannot be changed"))
            .why(why)
            .note("nothing was written")
    };
    let io = |error: std::io::Error| unwritable(error.to_string());
    let target = source.path.canonicalize().map_err(io)?;
    let metadata = target.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(unwritable("it is not a regular file".to_owned()).into());
    }
    if metadata.permissions().readonly() {
        return Err(unwritable("it is read-only".to_owned()).into());
    }
    let old = std::fs::read_to_string(&target).map_err(io)?;
    let mark = if old.starts_with(MARK) { MARK } else { "" };
    if old[mark.len()..] != source.text {
        return Err(unwritable("it was changed by someone else in the meantime".to_owned())
            .help("run the command again")
            .into());
    }
    replace_file(&target, format!("{mark}{text}").as_bytes()).map_err(|error| unwritable(error.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::examine;

    const TEXT: &str =
        "# mine\nplugins:\n  - {name: \"acme:x\", sha256: \"00\"}\nrules: [\"acme:x\"]\nlora_r: 8 # rank\n";

    fn finding(code: &str, path: &str) -> Diagnostic {
        Diagnostic::error(code, "wrong").fix(Edit::Set { path: path.to_owned(), value: "1".to_owned() })
    }

    #[test]
    fn a_rule_cannot_reach_what_says_what_plugins_may_do() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("host.yml");
        std::fs::write(&path, TEXT).expect("write");
        let source = examine(&path, &[]).loaded.expect("a config, with problems").source;
        for path in ["plugins", "plugins[0].sha256", "plugins[0].grants", "rules", "rules[0]"] {
            let found = [finding("rule::X", path)];
            let fixes = Fixes::new(&source, &found);
            assert_eq!((fixes.text.as_str(), fixes.mended.len(), fixes.left.len()), (TEXT, 0, 1), "{path}");
            assert!(fixes.left[0].1.contains("what plugins may do"), "{}", fixes.left[0].1);
        }
        let found = [finding("rule::X", "lora_r"), finding("config::unknown-value", "plugins[0].sha256")];
        let fixes = Fixes::new(&source, &found);
        assert_eq!(fixes.text, TEXT.replace("lora_r: 8", "lora_r: 1").replace("\"00\"", "1"));
    }
}
