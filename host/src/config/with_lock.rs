//! A lock in the text of its recipe: at its end, everything else as it was.

use super::edit::{EditError, edit};
use super::recipe::Lock;
use super::tree;
use crate::diagnostic::Edit;

/// The line above it.
const ABOVE: &str = "# Written by `host recipe lock`; do not edit it.";

/// The text with this lock, in the place of the one that is there. The error says why it cannot be put there.
///
/// # Errors
/// Why it cannot be put there.
pub fn with_lock(text: &str, lock: Option<&Lock>) -> Result<String, String> {
    let removed = match edit(text, &Edit::Remove { path: "lock".to_owned() }) {
        Ok(removed) => removed,
        Err(EditError::Absent(_)) => text.to_owned(),
        Err(error) => return Err(error.to_string()),
    };
    let kept = removed.trim_end();
    let mut new = kept.strip_suffix(ABOVE).unwrap_or(kept).trim_end().to_owned();
    new.push('\n');
    if let Some(lock) = lock {
        let block = serde_yaml::to_string(&serde_json::json!({ "lock": lock })).map_err(|error| error.to_string())?;
        new += &format!("\n{ABOVE}\n{block}");
    }
    // That it was put where it belongs is never assumed.
    let rest = |text: &str| {
        let (tree, _) = tree::read(text).map_err(|_| "the text is no YAML then".to_owned())?;
        let mut map = tree.as_object().cloned().ok_or("the file is no mapping")?;
        let lock = map.shift_remove("lock");
        Ok::<_, String>((map, lock))
    };
    let ((before, _), (after, found)) = (rest(text)?, rest(&new)?);
    let wanted = lock.map(|lock| serde_json::to_value(lock).unwrap_or_default());
    if before != after || found != wanted {
        return Err("the file is not written key by key, a line each".to_owned());
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::recipe::{LOCK_FORMAT, LockedFile};

    fn lock(path: &str) -> Lock {
        Lock {
            v: LOCK_FORMAT,
            host: "0.1.0".into(),
            config_sha256: "0".repeat(64),
            hub: Vec::new(),
            files: vec![LockedFile { path: path.into(), size: 3, sha256: "1e5".into() }],
            data: None,
            plugins: Vec::new(),
            result: None,
        }
    }

    #[test]
    fn a_lock_is_replaced_and_nothing_else_changes() {
        let text = "# mine\nrecipe: {name: a, version: 1.0.0} # yes\nseed: 3\n";
        let once = with_lock(text, Some(&lock("a: b #'\"\u{e9}.jsonl"))).unwrap();
        assert!(once.starts_with("# mine\nrecipe: {name: a, version: 1.0.0} # yes\nseed: 3\n\n# Written"), "{once}");
        assert_eq!(with_lock(&once, Some(&lock("a: b #'\"\u{e9}.jsonl"))).unwrap(), once);
        let twice = with_lock(&once, Some(&lock("no"))).unwrap();
        assert_eq!(twice.matches("lock:").count(), 1);
        assert_eq!(with_lock(&twice, None).unwrap(), text);
        assert!(with_lock("{seed: 3}", Some(&lock("a"))).is_err());
    }
}
