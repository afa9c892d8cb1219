//! The output directory of a run: taken for one process, never overwritten by accident, and described in `run.json`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::lock::OutputLock;
use crate::checkpoint::directory::{self, replace_file};
use crate::checkpoint::load::{Checkpoint, newest};
use crate::checkpoint::owned::{FAILED_CALL_FILE, OF_START, RUN_FILE, is_output, present};
use crate::checkpoint::{list, retention};
use crate::config::Config;
use crate::diagnostic::{Diagnostic, Failure};
use intake::read_text;

/// Status of a run that has made its last step and written its model.
pub const FINISHED: &str = "finished";
/// What says that a run was over before its last step.
pub const STOPPED_EARLY: &str = "stopped_early";
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
    /// The same, because the config always says so: a finished run is not trained once more.
    ResumeAlways(PathBuf),
}

impl Existing {
    /// As a config says.
    pub fn of(config: &Config) -> Self {
        match &config.resume_from_checkpoint {
            Some(path) => Self::ResumeAlways(PathBuf::from(path)),
            None if config.auto_resume_from_checkpoints => Self::ResumeNewest,
            None => Self::Refuse,
        }
    }
}

/// A directory that this process owns.
#[derive(Debug)]
pub struct OutputDirectory {
    path: PathBuf,
    record: Map<String, Value>,
    /// What it may replace.
    files: BTreeSet<String>,
    /// A finished run is here, and nobody asked to train it further.
    is_kept: bool,
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
        let is_finished = is_finished(path);
        let mut files = listed(path);
        let checkpoint = match existing {
            Existing::Refuse => match refusal(path, is_finished)? {
                Some(refusal) => return Err(refusal.into()),
                None => None,
            },
            Existing::Overwrite => {
                remove(path, &files)?;
                None
            }
            Existing::Resume(checkpoint) | Existing::ResumeAlways(checkpoint) => {
                Some(Checkpoint::open(checkpoint, settings)?)
            }
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
        // The run that goes on began these, even where its description is lost.
        let is_here = |checkpoint: &Checkpoint| checkpoint.path.parent().is_some_and(|parent| same(parent, path));
        if checkpoint.as_ref().is_some_and(is_here) {
            files.extend(OF_START.map(str::to_owned));
        }
        if let Err(mut failure) = refuse_others(path, &files) {
            // What came to light before it is told too.
            failure.0.splice(0..0, warnings);
            return Err(failure);
        }
        // What failed was another run; a call that fails in this one is kept anew. A finished run left none.
        if !is_finished {
            let _ = std::fs::remove_file(path.join(FAILED_CALL_FILE));
        }
        files.extend(OF_START.map(str::to_owned));
        let is_kept = is_finished && matches!(existing, Existing::ResumeAlways(_));
        let record = Map::new();
        Ok((Self { path: path.to_owned(), record, files, is_kept, _lock: lock }, checkpoint, warnings))
    }

    /// The step at which the run that is to go on has ended, if there is nothing left of it to do: it is finished, and its
    /// last checkpoint, or its description where it has none, is of the end of a run of `total_steps` that `fields` describe.
    pub fn finished_at(
        &self,
        checkpoint: Option<&Checkpoint>,
        total_steps: u64,
        fields: &Value,
    ) -> Result<Option<u64>, Failure> {
        let run = described(&self.path).filter(|run| run["status"] == FINISHED);
        let step = checkpoint.map(|checkpoint| checkpoint.state.global_step);
        let is_same = |run: &Value| ["config_sha256", "data_sha256"].into_iter().all(|key| run[key] == fields[key]);
        let early = run.as_ref().filter(|run| run[STOPPED_EARLY] == true && is_same(run));
        if let Some(step) = early.and_then(|run| run["step"].as_u64()) {
            return Ok(Some(step));
        }
        let is_over = run.is_some() && step.is_some_and(|step| step >= total_steps);
        if self.is_kept && !is_over {
            return Err(finished(&self.path).into());
        }
        let Some(run) = run else { return Ok(None) };
        if let Some(step) = step {
            return Ok((step >= total_steps).then_some(step));
        }
        if is_same(&run) {
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
        self.record.insert("files".into(), self.files.iter().map(String::as_str).collect());
        let text = serde_json::to_string_pretty(&self.record).expect("a description is plain data");
        replace_file(&self.path.join(RUN_FILE), text.as_bytes())?;
        Ok(())
    }

    /// Says that these files are about to be the model of this run. Returns those of an earlier one that are to go.
    pub fn claim(&mut self, names: &[String]) -> Result<Vec<String>, Failure> {
        let is_stale = |name: &&String| !names.contains(name) && !OF_START.contains(&name.as_str());
        let stale: Vec<String> = self.files.iter().filter(is_stale).cloned().collect();
        self.files.extend(names.iter().cloned());
        self.describe(Value::Null, "running")?;
        self.files.retain(|name| !stale.contains(name));
        Ok(stale)
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

/// True if a run is there that is not known to be unfinished.
pub fn is_finished(path: &Path) -> bool {
    earlier(path).is_some_and(|status| !["running", "failed", "stopped"].contains(&status.as_str()))
}

/// Files of an output directory that the run there wrote. One that has begun, and was stopped before it could list them, has
/// those of a start.
fn listed(path: &Path) -> BTreeSet<String> {
    let Some(Value::Object(run)) = described(path) else { return BTreeSet::new() };
    let is_run = run.get("host_version").is_some_and(Value::is_string);
    let names = run.get("files").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let names = names.filter(|name| is_output(name)).map(str::to_owned);
    names.chain(OF_START.map(str::to_owned)).filter(|_| is_run).collect()
}

/// An error for files that the run would replace and that no run here wrote.
fn refuse_others(path: &Path, ours: &BTreeSet<String>) -> Result<(), Failure> {
    let (there, odd) = present(path)?;
    let others: Vec<&String> = there.iter().filter(|name| odd.contains(*name) || !ours.contains(*name)).collect();
    let Some(first) = others.first() else { return Ok(()) };
    let shown = path.join(first);
    let more = if others.len() > 1 { format!(", and {} more files", others.len() - 1) } else { String::new() };
    let why = if odd.contains(*first) {
        "it is a link, a directory or the like; a run writes plain files"
    } else {
        "it is not in the list of files that a run here wrote (`files` of `run.json`)"
    };
    Err(Diagnostic::error("run::foreign", format!("`{}`{more} would be replaced", shown.display()))
        .why(why)
        .help("use another `output_dir`, or move it away")
        .into())
}

/// True for two names of one directory.
fn same(left: &Path, right: &Path) -> bool {
    match (left.canonicalize(), right.canonicalize()) {
        (Ok(left), Ok(right)) => left == right,
        _ => false,
    }
}

fn finished(path: &Path) -> Diagnostic {
    Diagnostic::error("run::exists", format!("`{}` holds a finished run", path.display()))
        .why("its model would be overwritten")
        .help("use another `output_dir`, or `--overwrite` to replace it")
}

fn refusal(path: &Path, is_finished: bool) -> Result<Option<Diagnostic>, Failure> {
    let shown = path.display();
    if is_finished {
        return Ok(Some(finished(path)));
    }
    if let Some((step, _)) = list(path)?.last() {
        return Ok(Some(
            Diagnostic::error("run::exists", format!("`{shown}` holds an unfinished run, saved at step {step}"))
                .help("go on with `--resume auto`, start again with `--overwrite`, or use another `output_dir`"),
        ));
    }
    Ok(None)
}

/// Removes what a run made, and nothing else; nothing at all where something else is in the way.
fn remove(path: &Path, ours: &BTreeSet<String>) -> Result<(), Failure> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| crate::checkpoint::CheckpointError::Write { path, source }
    };
    refuse_others(path, ours)?;
    let checkpoints = list(path)?;
    if let Some((_, other)) = checkpoints.iter().find(|(_, checkpoint)| !directory::is_ours(checkpoint)) {
        return Err(Diagnostic::error("run::foreign", format!("`{}` would be removed", other.display()))
            .why("it is named like a checkpoint, but no run made it")
            .help("use another `output_dir`, or move it away")
            .into());
    }
    for (_, checkpoint) in checkpoints {
        directory::remove(&checkpoint)?;
    }
    // The list goes last: what is killed here can be begun again.
    let last = [FAILED_CALL_FILE, RUN_FILE];
    for name in ours.iter().filter(|name| *name != RUN_FILE).map(String::as_str).chain(last) {
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
        "config_sha256": crate::digest::hex(&Sha256::digest(config.as_bytes())),
        "source_sha256": loaded.source.sha256,
        "set": loaded.source.set(),
        "recipe": loaded.config.recipe.as_ref().map(|recipe| json!({ "name": recipe.name, "version": recipe.version })),
        "data_sha256": data_digest,
        "plugins": plugins,
        "threads": rayon::current_num_threads(),
        "seed": loaded.config.seed,
        "hub": loaded.elsewhere.pins,
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
        output.claim(&["model.safetensors".to_owned()]).unwrap();
        std::fs::write(root.path().join("model.safetensors"), "m").unwrap();
        output.describe(json!({ "host_version": "0", "seed": 1 }), "finished").unwrap();
        drop(output);
        let failure = open(&Existing::Refuse).unwrap_err();
        assert_eq!(failure.0[0].code, "run::exists");
        assert!(is_finished(root.path()));
        drop(open(&Existing::Overwrite).unwrap());
        assert!(!root.path().join(RUN_FILE).exists());
        assert!(!root.path().join("model.safetensors").exists());
    }

    #[test]
    fn what_no_run_wrote_stays() {
        let root = tempfile::tempdir().unwrap();
        let none = Map::new();
        let open = |existing: &Existing| OutputDirectory::open(root.path(), existing, &none);
        let refused = |existing: &Existing| open(existing).unwrap_err().0[0].code.clone();
        std::fs::write(root.path().join("notes.md"), "mine").unwrap();
        drop(open(&Existing::Refuse).unwrap());
        let all = [Existing::Refuse, Existing::Overwrite, Existing::ResumeNewest];
        for name in ["README.md", "model.safetensors", "metrics.jsonl"] {
            let file = root.path().join(name);
            std::fs::write(&file, "mine").unwrap();
            // A description that lists nothing, one that is none, none.
            for run in [Some(r#"{"host_version": "0"}"#), Some("{"), None] {
                let _ = std::fs::remove_file(root.path().join(RUN_FILE));
                if let Some(run) = run {
                    std::fs::write(root.path().join(RUN_FILE), run).unwrap();
                }
                if run.is_some_and(|run| run.len() > 1) && name == "metrics.jsonl" {
                    continue;
                }
                assert!(all.iter().all(|existing| refused(existing).starts_with("run::")), "{name} {run:?}");
            }
            assert_eq!(std::fs::read(&file).unwrap(), b"mine");
            std::fs::remove_file(file).unwrap();
        }
        std::fs::create_dir_all(root.path().join("checkpoint-1/data")).unwrap();
        assert_eq!(refused(&Existing::Overwrite), "run::foreign");
        assert!(root.path().join("checkpoint-1/data").is_dir());
    }

    #[test]
    fn a_run_that_ended_before_its_model_begins_again() {
        let root = tempfile::tempdir().unwrap();
        let none = Map::new();
        let open = |existing: &Existing| OutputDirectory::open(root.path(), existing, &none);
        let (mut output, _, _) = open(&Existing::Refuse).unwrap();
        std::fs::write(root.path().join("metrics.jsonl"), "{}").unwrap();
        output.describe(json!({ "host_version": "0" }), "running").unwrap();
        // Killed while its files got their names.
        output.claim(&["README.md".to_owned(), "model.safetensors".to_owned()]).unwrap();
        std::fs::write(root.path().join("README.md"), "card").unwrap();
        drop(output);
        let (mut output, _, _) = open(&Existing::Refuse).unwrap();
        assert_eq!(
            output.claim(&["adapter_model.safetensors".to_owned()]).unwrap(),
            ["README.md", "model.safetensors"]
        );
    }
}
