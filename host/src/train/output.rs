//! The output directory of a run: taken for one process, never overwritten by accident, and described in `run.json`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::lock::OutputLock;
use crate::checkpoint::directory::replace_file;
use crate::checkpoint::load::{Checkpoint, newest};
use crate::checkpoint::{list, retention};
use crate::diagnostic::{Diagnostic, Failure};
use crate::files::read_text;

/// File that describes a run.
pub const RUN_FILE: &str = "run.json";
/// Status of a run that has made its last step and written its model.
pub const FINISHED: &str = "finished";
/// Bytes that it may have.
const RUN_FILE_LIMIT: u64 = 4 << 20;

/// How to treat what is already there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Existing {
    /// Stop rather than touch it.
    Refuse,
    /// Remove the earlier run.
    Overwrite,
    /// Go on from its newest complete checkpoint; start where there is none.
    ResumeNewest,
    /// Go on from this checkpoint.
    Resume(PathBuf),
}

/// A directory that this process owns.
#[derive(Debug)]
pub struct OutputDirectory {
    path: PathBuf,
    record: Map<String, Value>,
    _lock: OutputLock,
}

impl OutputDirectory {
    /// Takes the directory. Returns it with the checkpoint to go on from, and warnings.
    pub fn open(
        path: &Path,
        existing: &Existing,
        settings: &Map<String, Value>,
    ) -> Result<(Self, Option<Checkpoint>, Vec<Diagnostic>), Failure> {
        let lock = OutputLock::take(path)?;
        retention::sweep(path)?;
        let mut warnings = Vec::new();
        let earlier = earlier(path);
        let checkpoint = match existing {
            Existing::Refuse => match refusal(path, earlier.as_ref())? {
                Some(refusal) => return Err(refusal.into()),
                None => None,
            },
            Existing::Overwrite => {
                remove(path)?;
                None
            }
            Existing::Resume(checkpoint) => Some(Checkpoint::open(checkpoint, settings)?),
            Existing::ResumeNewest => {
                let (found, broken) = newest(path)?;
                warnings.extend(broken.into_iter().map(|error| {
                    let mut warning = Diagnostic::from(error);
                    warning.severity = crate::diagnostic::Severity::Warning;
                    warning.help = Some("it was passed over for an older one".to_owned());
                    warning
                }));
                match found {
                    Some(found) => Some(Checkpoint::open(&found, settings)?),
                    None if !warnings.is_empty() => {
                        let message = format!("no checkpoint in `{}` is whole", path.display());
                        let mut all = warnings;
                        all.push(Diagnostic::error("checkpoint::none", message).help("start again with `--overwrite`"));
                        return Err(Failure(all));
                    }
                    None => None,
                }
            }
        };
        // What failed was another run; a call that fails in this one is kept anew. A finished run left none.
        if earlier.as_deref() != Some(FINISHED) {
            let _ = std::fs::remove_file(path.join(crate::author::replay::FILE));
        }
        let record = Map::new();
        Ok((Self { path: path.to_owned(), record, _lock: lock }, checkpoint, warnings))
    }

    /// The step at which the run that is to go on has ended, if there is nothing left of it to do: it is finished, and its
    /// last checkpoint, or its description where it has none, is of the end of a run of `total_steps` that `fields` describe.
    pub fn finished_at(
        &self,
        checkpoint: Option<&Checkpoint>,
        total_steps: u64,
        fields: &Value,
    ) -> Result<Option<u64>, Failure> {
        let Some(run) = described(&self.path).filter(|run| run["status"] == FINISHED) else { return Ok(None) };
        if let Some(checkpoint) = checkpoint {
            let step = checkpoint.state.global_step;
            return Ok((step >= total_steps).then_some(step));
        }
        let is_same = |key: &str| run[key] == fields[key];
        if is_same("config_sha256") && is_same("data_sha256") {
            return Ok(Some(run["step"].as_u64().unwrap_or(total_steps)));
        }
        let shown = self.path.display();
        Err(Diagnostic::error("run::exists", format!("`{shown}` holds a finished run without a checkpoint"))
            .why("it was made from another config or other data, and there is nothing to go on from")
            .help("use another `output_dir`, or `--overwrite` to replace it")
            .into())
    }

    /// Describes the run, with `status` beside.
    pub fn describe(&mut self, fields: Value, status: &str) -> Result<(), Failure> {
        if let Value::Object(fields) = fields {
            self.record.extend(fields);
        }
        self.record.insert("status".into(), status.into());
        let text = serde_json::to_string_pretty(&self.record).expect("a description is plain data");
        replace_file(&self.path.join(RUN_FILE), text.as_bytes())?;
        Ok(())
    }

    /// True until the run is described as having ended.
    pub fn is_running(&self) -> bool {
        self.record.get("status").is_some_and(|status| status == "running")
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The status of the run that is there, if one is.
fn earlier(path: &Path) -> Option<String> {
    let run = described(path)?;
    Some(run["status"].as_str().unwrap_or("unknown").to_owned())
}

/// What `run.json` says of the run in a directory; null where it is not JSON, none where there is none.
pub fn described(path: &Path) -> Option<Value> {
    let text = read_text(&path.join(RUN_FILE), RUN_FILE_LIMIT).ok()?;
    Some(serde_json::from_str(&text).unwrap_or_default())
}

/// True if a finished run is there.
pub fn is_finished(path: &Path) -> bool {
    earlier(path).as_deref() == Some(FINISHED)
}

fn refusal(path: &Path, earlier: Option<&String>) -> Result<Option<Diagnostic>, Failure> {
    let shown = path.display();
    if earlier.is_some_and(|status| status == FINISHED) {
        return Ok(Some(
            Diagnostic::error("run::exists", format!("`{shown}` holds a finished run"))
                .why("its model would be overwritten")
                .help("use another `output_dir`, or `--overwrite` to replace it"),
        ));
    }
    if let Some((step, _)) = list(path)?.last() {
        return Ok(Some(
            Diagnostic::error("run::exists", format!("`{shown}` holds an unfinished run, saved at step {step}"))
                .help("go on with `--resume auto`, start again with `--overwrite`, or use another `output_dir`"),
        ));
    }
    Ok(None)
}

/// Removes what a run makes, and nothing else.
fn remove(path: &Path) -> Result<(), Failure> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| crate::checkpoint::CheckpointError::Write { path, source }
    };
    for (_, checkpoint) in list(path)? {
        std::fs::remove_dir_all(&checkpoint).map_err(failed(&checkpoint))?;
    }
    for name in [RUN_FILE, "metrics.jsonl", "config.resolved.yml", crate::author::replay::FILE] {
        let file = path.join(name);
        match std::fs::remove_file(&file) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&file)(error).into()),
        }
    }
    Ok(())
}

/// The commit that the working directory is at, read from `.git` without running anything.
pub fn git_commit() -> Option<String> {
    let mut directory = std::env::current_dir().ok()?;
    let git = loop {
        let git = directory.join(".git");
        if git.is_dir() {
            break git;
        }
        if !directory.pop() {
            return None;
        }
    };
    let head = std::fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(reference) = head.trim().strip_prefix("ref: ") else { return Some(head.trim().to_owned()) };
    if let Ok(commit) = std::fs::read_to_string(git.join(reference)) {
        return Some(commit.trim().to_owned());
    }
    let packed = std::fs::read_to_string(git.join("packed-refs")).ok()?;
    packed.lines().find_map(|line| line.strip_suffix(reference)).map(|commit| commit.trim().to_owned())
}

/// What `run.json` says about a run at its start.
pub fn description(
    loaded: &crate::config::LoadedConfig,
    device: &crate::device::Device,
    plugins: &[Value],
    data_digest: &str,
) -> Value {
    use sha2::{Digest, Sha256};
    let config = loaded.to_json().to_string();
    let mut fields = json!({
        "v": 1,
        "host_version": env!("CARGO_PKG_VERSION"),
        "plugin_api": plugin_runtime::API,
        "git_commit": git_commit(),
        "config": loaded.source.path.display().to_string(),
        "config_sha256": crate::checkpoint::directory::hex(&Sha256::digest(config.as_bytes())),
        "data_sha256": data_digest,
        "plugins": plugins,
        "threads": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "seed": loaded.config.seed,
    });
    if let (Value::Object(fields), Value::Object(device)) = (&mut fields, device.to_json()) {
        fields.extend(device);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_run_is_never_overwritten_by_accident() {
        let root = tempfile::tempdir().unwrap();
        let none = Map::new();
        let open = |existing: &Existing| OutputDirectory::open(root.path(), existing, &none);
        let (mut output, _, _) = open(&Existing::Refuse).unwrap();
        output.describe(json!({ "seed": 1 }), "finished").unwrap();
        drop(output);
        let failure = open(&Existing::Refuse).unwrap_err();
        assert_eq!(failure.0[0].code, "run::exists");
        assert!(is_finished(root.path()));
        drop(open(&Existing::Overwrite).unwrap());
        assert!(!root.path().join(RUN_FILE).exists());
    }
}
