//! Which checkpoints stay (`save_total_limit`): the newest ones, and the best where it is the result of the run. Nothing is
//! deleted before its successor is complete.

use std::path::Path;

use super::{CheckpointError, list};

/// Removes the oldest checkpoints until `limit` are left beside that of step `best`. Returns the steps that went.
pub fn prune(output_dir: &Path, limit: usize, best: Option<u64>) -> Result<Vec<u64>, CheckpointError> {
    let mut all = list(output_dir)?;
    all.retain(|(step, _)| Some(*step) != best);
    let mut removed = Vec::new();
    for (step, path) in all.iter().take(all.len().saturating_sub(limit.max(1))) {
        super::directory::remove(path)?;
        removed.push(*step);
    }
    Ok(removed)
}

/// Removes what an interrupted save of an earlier process left behind.
pub fn sweep(output_dir: &Path) -> Result<(), CheckpointError> {
    let read = |source| CheckpointError::Read { path: output_dir.to_owned(), source };
    let Ok(entries) = std::fs::read_dir(output_dir) else { return Ok(()) };
    for entry in entries {
        let path = entry.map_err(read)?.path();
        let name = super::directory::name_of(&path);
        if name.starts_with(".checkpoint-") && name.contains(".tmp-") {
            std::fs::remove_dir_all(&path).map_err(|source| CheckpointError::Write { path, source })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_and_sweeps_only_leftovers() {
        let root = tempfile::tempdir().unwrap();
        for name in ["checkpoint-5", "checkpoint-10", "checkpoint-20", "notes", ".checkpoint-30.tmp-1"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        sweep(root.path()).unwrap();
        assert_eq!(prune(root.path(), 1, Some(5)).unwrap(), [10]);
        std::fs::create_dir(root.path().join("checkpoint-10")).unwrap();
        assert_eq!(prune(root.path(), 2, None).unwrap(), [5]);
        let mut left: Vec<_> =
            std::fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["checkpoint-10", "checkpoint-20", "notes"]);
    }
}
