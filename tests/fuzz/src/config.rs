//! Configs: the file of a stranger's recipe.

use host::config::{Examined, edit as edit_text, examine, is_within};
use host::diagnostic::Edit;

use crate::{directory, files, readable};

/// A config is read or refused in words; what was read, written out again, is the same config.
pub(crate) fn config(bytes: &[u8]) {
    let folder = directory(&[("host.yml", bytes)]);
    let path = folder.path().join("host.yml");
    let examined = examine(&path, &[]);
    examined.problems.iter().for_each(readable);
    let has_errors = examined.has_errors();
    let Some(loaded) = examined.loaded else { return };
    for path in &loaded.given {
        let Some(place) = loaded.source.key_place(path) else { continue };
        let line = place.source_line.clone().unwrap_or_default();
        let behind: String = line.chars().skip(place.column - 1).collect();
        let key = path.rsplit('.').next().unwrap_or_default();
        // Both passes over the text mean the same keys, unless something stands for something else.
        let is_plain =
            !path.contains('"') && !key.contains('[') && !loaded.source.text.contains(['&', '*', '!', '?', '\\']);
        assert!(!is_plain || behind.trim_start_matches(['"', '\'']).starts_with(key), "{path} at {place:?}");
    }
    if has_errors {
        return;
    }
    let again = folder.path().join("again.yml");
    std::fs::write(&again, loaded.to_yaml()).expect("a file");
    let Examined { loaded: Some(second), problems } = examine(&again, &[]) else {
        panic!("what was written cannot be read:\n{}", loaded.to_yaml());
    };
    let errors: Vec<String> = problems
        .iter()
        .filter(|problem| problem.severity == host::diagnostic::Severity::Error)
        .map(|problem| problem.render(false))
        .collect();
    assert!(errors.is_empty(), "{errors:?}\n{}", loaded.to_yaml());
    assert_eq!(loaded.to_json(), second.to_json());
}

/// An edit changes what it names and nothing else, or is refused. The input is an edit (`set PATH VALUE`, `remove PATH` or
/// `rename PATH NAME`) and a text.
pub(crate) fn edit(bytes: &[u8]) {
    let [wanted, text] = files(bytes);
    let (Ok(wanted), Ok(text)) = (std::str::from_utf8(wanted), std::str::from_utf8(text)) else { return };
    let (verb, rest) = wanted.split_once(' ').unwrap_or((wanted, ""));
    let (path, value) = rest.split_once(' ').unwrap_or((rest, ""));
    let (path, value) = (path.to_owned(), value.to_owned());
    let wanted = match verb {
        "set" => Edit::Set { path, value },
        "remove" => Edit::Remove { path },
        "rename" => Edit::Rename { path, to: value },
        _ => return,
    };
    let Ok(new) = edit_text(text, &wanted) else { return };
    let (before, after) = (given(text), given(&new));
    if let (Some(before), Some(after)) = (before, after) {
        let path = wanted.path();
        // Entries behind a removed one move up.
        let list = path.strip_suffix(']').and_then(|rest| rest.rsplit_once('[')).map_or(path, |(list, _)| list);
        let other = |given: &String| !is_within(given, list) && !is_within(list, given);
        let renamed = |given: &String| match &wanted {
            Edit::Rename { to, .. } => {
                let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
                is_within(given, &host::config::join(parent, to))
            }
            _ => false,
        };
        let before: Vec<_> = before.iter().filter(|given| other(given) && !renamed(given)).collect();
        let after: Vec<_> = after.iter().filter(|given| other(given) && !renamed(given)).collect();
        let (mut sorted_before, mut sorted_after) = (before.clone(), after.clone());
        sorted_before.sort();
        sorted_after.sort();
        assert_eq!(sorted_before, sorted_after, "{wanted} in\n{text}\nmade\n{new}");
    }
}

/// What a text sets, where it can be read as a config at all.
fn given(text: &str) -> Option<Vec<String>> {
    let folder = directory(&[("host.yml", text.as_bytes())]);
    Some(examine(&folder.path().join("host.yml"), &[]).loaded?.given)
}
