//! A project directory with the quickstart's model, and the program run in it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The lines of a file of JSON.
pub(crate) fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A config that trains for a few steps; tests add lines to it or replace some.
pub(crate) const CONFIG: &str = "\
base_model: model
datasets:
  - path: train.jsonl
    type: alpaca
sequence_len: 128
micro_batch_size: 4
learning_rate: 1e-3
max_steps: 4
output_dir: out
";

/// A directory of its own for one test.
pub(crate) struct Project {
    directory: tempfile::TempDir,
}

/// What a command left.
pub(crate) struct Outcome {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Project {
    /// With the model, 48 rows of training data, 8 of evaluation data, and [`CONFIG`] as `host.yml`.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let project = Self { directory };
        std::os::unix::fs::symlink(
            root().canonicalize().unwrap().join("configs/quickstart/model"),
            project.path("model"),
        )
        .unwrap();
        let rows = |file: &str, count: usize| -> String {
            let text = fs::read_to_string(root().join("configs/quickstart").join(file)).unwrap();
            text.split_inclusive('\n').take(count).collect()
        };
        // One cache of compiled plugins for all tests; samples are kept for each by itself.
        let compiled = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache/plugins");
        fs::create_dir_all(&compiled).unwrap();
        fs::set_permissions(&compiled, fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir(project.path(".cache")).unwrap();
        std::os::unix::fs::symlink(compiled, project.path(".cache/plugins")).unwrap();
        project.write("train.jsonl", rows("train.jsonl", 48));
        project.write("eval.jsonl", rows("eval.jsonl", 8));
        project.write("host.yml", CONFIG);
        project
    }

    /// The lines of an output directory's `metrics.jsonl` that tell of an event.
    pub(crate) fn metrics(&self, output: &str, event: &str) -> Vec<Value> {
        let mut found = lines(&self.path(output).join("metrics.jsonl"));
        found.retain(|line| line["event"] == event);
        found
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// A copy of the model that a test may break.
    pub(crate) fn own_model(&self) {
        let from = fs::canonicalize(self.path("model")).unwrap();
        fs::remove_file(self.path("model")).unwrap();
        fs::create_dir(self.path("model")).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), self.path("model").join(entry.file_name())).unwrap();
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_host"));
        command.current_dir(self.directory.path()).args(arguments);
        // Nothing of the user's.
        command.env("HOST_CACHE_DIR", self.directory.path().join(".cache"));
        command.env("HOST_DATA_DIR", self.directory.path().join(".data"));
        // No test asks a hub that it has not made.
        for name in ["HF_ENDPOINT", "HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "SSL_CERT_FILE"] {
            command.env_remove(name);
        }
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", self.directory.path().join(".hf"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn host(&self, arguments: &[&str]) -> Outcome {
        finish(self.command(arguments).spawn().unwrap())
    }

    /// The messages of a command that must fail with status 1.
    pub(crate) fn failure(&self, arguments: &[&str]) -> String {
        let outcome = self.host(arguments);
        assert_eq!(outcome.status, 1, "stdout:\n{}\nstderr:\n{}", outcome.stdout, outcome.stderr);
        assert_eq!(outcome.stdout, "", "messages go to stderr");
        outcome.stderr
    }

    /// A command that must end well.
    pub(crate) fn success(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.host(arguments);
        assert_eq!(outcome.status, 0, "stdout:\n{}\nstderr:\n{}", outcome.stdout, outcome.stderr);
        outcome
    }

    /// The failure of training with the config changed by `edit`.
    pub(crate) fn train_failure(&self, edit: impl Fn(&str) -> String) -> String {
        self.write("host.yml", edit(CONFIG));
        let messages = self.failure(&["train", "host.yml"]);
        assert!(!self.path("out/model.safetensors").exists(), "a failed run leaves no model");
        messages
    }
}

pub(crate) fn finish(child: Child) -> Outcome {
    use std::os::unix::process::ExitStatusExt as _;
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(guests().to_str().unwrap(), "GUESTS");
    Outcome {
        status: output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or(0)),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A text with every amount of memory as `… MB`, and every time as `… s` or `… ms`: they depend on the machine.
pub(crate) fn without_sizes(text: &str) -> String {
    let size = regex::Regex::new(r" +[0-9][0-9 ]*(\.[0-9])? [MG]B").unwrap();
    let time = regex::Regex::new(r"(?m)^time +[0-9.]+ (s|min|h): [0-9.]+ s").unwrap();
    let text = time.replace_all(text, "time      … s: … s");
    let text = regex::Regex::new(r"[0-9.]+ (ms|µs) each").unwrap().replace_all(&text, "… ms each").into_owned();
    let is_disk = |line: &str| line.starts_with("disk ");
    let hidden = |line: &str| if is_disk(line) { line.into() } else { size.replace_all(line, " … MB").into_owned() };
    text.split_inclusive('\n').map(hidden).collect()
}

/// Where built guests lie. Messages call it `GUESTS`.
fn guests() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests")
}

/// A directory with one plugin of `tests/fixtures/plugins`, built for the sandbox.
pub(crate) fn guest(name: &str) -> PathBuf {
    static LOCK: OnceLock<std::sync::Mutex<()>> = OnceLock::new();
    let _one_at_a_time = LOCK.get_or_init(Default::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../plugins-wasm");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root().join("tests/fixtures/plugins"));
    cargo
        .args(["build", "--release", "--locked", "--quiet", "--target", "wasm32-wasip2", "-p", name, "--target-dir"])
        .arg(&target);
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(variable);
    }
    let status = cargo.status().unwrap();
    assert!(status.success(), "the guest `{name}` did not build");
    let directory = guests().join(name);
    fs::create_dir_all(&directory).unwrap();
    let file = format!("{}.wasm", name.replace('-', "_"));
    let built = target.join("wasm32-wasip2/release").join(&file);
    let staged = tempfile::NamedTempFile::new_in(&directory).unwrap();
    fs::copy(built, staged.path()).unwrap();
    staged.persist(directory.join(file)).unwrap();
    directory
}
