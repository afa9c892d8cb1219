//! Paths that a recipe may name: those beside it.

use std::path::{Component, Path};

/// True for a path that stays in the directory that it starts from.
pub fn is_inside(path: &str) -> bool {
    let is_name = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && Path::new(path).components().all(is_name)
        && Path::new(path).components().any(|part| matches!(part, Component::Normal(_)))
}

/// What is to be said against a path that a recipe names under this key: the message, why, and how to go on.
pub(super) fn objection(key: &str, path: &str) -> Option<[String; 3]> {
    if matches!(key, "dataset_prepared_path" | "resume_from_checkpoint") {
        return Some([
            format!("a recipe may not set `{key}`"),
            "it is about the machine, not about the recipe".to_owned(),
            format!("delete the line; who runs it may say it: `--set {key}=…`"),
        ]);
    }
    (!is_inside(path)).then(|| {
        [
            format!("a recipe may not name `{path}`"),
            "it lies outside of the recipe's directory".to_owned(),
            format!("put it beside the recipe; who runs it may name another: `--set {key}=…`"),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        for path in ["a", "a/b.c", "./a", "a/./b", "Qwen/Qwen2.5-0.5B", "a b/ü"] {
            assert!(is_inside(path), "{path}");
        }
        for path in ["", ".", "./", "..", "../a", "a/../b", "a/..", "/a", "/", "\\\\a", "a\\..\\b", "a\0b"] {
            assert!(!is_inside(path), "{path}");
        }
    }
}
