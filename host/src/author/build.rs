//! Builds a project with its language's own tools, puts the manifest in where the language cannot, and looks at the result.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use plugin_runtime::Inspection;
use serde_json::Value;

use super::manifest;
use super::project::{Language, Project};
use crate::checkpoint::directory::replace_file;
use crate::diagnostic::{Diagnostic, Failure, escape};

const TARGET: &str = "wasm32-wasip2";
/// What would make another kind of file of a plugin, or come from a cargo that runs this program.
const SCRUBBED: [&str; 5] =
    ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"];

/// Builds a project. Returns the plugin's file and what it is.
pub fn build(project: &Project) -> Result<(PathBuf, Inspection), Failure> {
    let (bytes, inspection) = match project.language {
        Language::Rust => rust(project)?,
        Language::Js => packed(project, js)?,
        Language::Python => packed(project, python)?,
    };
    let dist = project.dist();
    std::fs::create_dir_all(&dist).map_err(|error| {
        Diagnostic::error("io::write", format!("`{}` cannot be made", dist.display())).why(error.to_string())
    })?;
    let own = inspection.manifest.name.rsplit(':').next().unwrap_or_default();
    let path = dist.join(format!("{own}.wasm"));
    replace_file(&path, &bytes)?;
    Ok((path, inspection))
}

fn rust(project: &Project) -> Result<(Vec<u8>, Inspection), Failure> {
    need_target(&project.dir)?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    // A target directory that the user shares between projects (`CARGO_TARGET_DIR`) is used as cargo would.
    for name in SCRUBBED {
        cargo.env_remove(name);
    }
    let output = run(cargo, &project.dir, "install Rust: https://rustup.rs")?;
    let dir = std::fs::canonicalize(&project.dir).unwrap_or_else(|_| project.dir.clone());
    let artifact = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let is_ours = message["reason"] == "compiler-artifact"
            && Path::new(message["manifest_path"].as_str()?).parent()? == dir
            && message["target"]["crate_types"].as_array()?.iter().any(|kind| kind == "cdylib");
        let files = message["filenames"].as_array().filter(|_| is_ours)?;
        files
            .iter()
            .filter_map(Value::as_str)
            .map(PathBuf::from)
            .find(|file| file.extension().is_some_and(|extension| extension == "wasm"))
    });
    let Some(artifact) = artifact else {
        return Err(Diagnostic::error("plugin::build", format!("`{}` builds no plugin", project.dir.display()))
            .why("its library is no `cdylib`")
            .help("in `Cargo.toml`: `[lib]` with `crate-type = [\"cdylib\", \"rlib\"]`")
            .into());
    };
    let bytes = plugin_runtime::read_file(&artifact)?;
    let inspection = plugin_runtime::inspect(&bytes, &artifact.display().to_string())?;
    Ok((bytes, inspection))
}

/// Cargo would compile for a while before it says that the target is missing.
fn need_target(dir: &Path) -> Result<(), Failure> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(dir).args(["--print", "target-libdir", "--target", TARGET]);
    let Ok(output) = rustc.output() else { return Ok(()) };
    let libdir = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if libdir.is_empty() || Path::new(&libdir).is_dir() {
        return Ok(());
    }
    Err(Diagnostic::error("plugin::build", format!("the Rust target {TARGET} is missing"))
        .why(format!("there is no `{libdir}`"))
        .help(format!("add it: `rustup target add {TARGET}`"))
        .into())
}

/// Builds with tools that know nothing of manifests, and packs `plugin.json` in.
fn packed(
    project: &Project,
    compile: fn(&Path, &str, &Path) -> Result<(), Failure>,
) -> Result<(Vec<u8>, Inspection), Failure> {
    let manifest = manifest::read(&project.dir.join(manifest::FILE))?;
    let directory = tempfile::tempdir().map_err(|error| {
        Diagnostic::error("io::write", "a temporary directory cannot be made").why(error.to_string())
    })?;
    let component = directory.path().join("component.wasm");
    compile(&project.dir, &manifest.kind.world(), &component)?;
    let bytes = plugin_runtime::read_file(&component)?;
    let own = manifest.name.rsplit(':').next().unwrap_or_default();
    Ok(plugin_runtime::pack(&bytes, &manifest, &format!("{own}.wasm"))?)
}

/// jco, with the small engine (1.6 MB) and without WASI: the component asks the sandbox for nothing.
fn js(dir: &Path, world: &str, to: &Path) -> Result<(), Failure> {
    let jco = dir.join("node_modules/.bin/jco");
    if !jco.is_file() {
        return Err(Diagnostic::error("plugin::build", "the JavaScript tools are not installed")
            .why(format!("there is no `{}`", jco.display()))
            .help(format!("install them: `npm install --prefix {}`", dir.display()))
            .into());
    }
    let mut command = Command::new(absolute(&jco));
    command.args(["componentize", "plugin.js", "--wit", "wit", "--world-name", world]);
    command.args(["--backend", "qjs", "--backend-qjs-stub-wasi", "--backend-qjs-disable-async", "-o"]).arg(to);
    run(command, dir, "install Node.js 20 or newer: https://nodejs.org").map(drop)
}

fn python(dir: &Path, world: &str, to: &Path) -> Result<(), Failure> {
    let own = dir.join(".venv/bin/componentize-py");
    let is_own = own.is_file();
    let mut command = if is_own { Command::new(absolute(&own)) } else { Command::new("componentize-py") };
    command.args(["-d", "wit", "-w", world, "componentize", "--stub-wasi", "plugin", "-o"]).arg(to);
    let shown = dir.display();
    let install = format!(
        "install it: `python3 -m venv {shown}/.venv && {shown}/.venv/bin/pip install -r {shown}/requirements.txt`, or `pip install componentize-py` into the environment that you use"
    );
    run(command, dir, &install).map(drop)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Runs a tool in the project. Its messages go to the user as they are; what it writes to stdout is returned.
fn run(mut command: Command, dir: &Path, install: &str) -> Result<String, Failure> {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    command.current_dir(dir).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| {
        let message = format!("`{}` cannot be started", escape(&program));
        let diagnostic = Diagnostic::error("plugin::build", message).why(error.to_string());
        if error.kind() == ErrorKind::NotFound { diagnostic.help(install) } else { diagnostic }
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    let last: Vec<&str> =
        stdout.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("{\"reason\"")).collect();
    let mut diagnostic = Diagnostic::error("plugin::build", format!("`{}` did not build", dir.display()))
        .why(format!("{program} ended with {}; its messages are above", output.status));
    for line in &last[last.len().saturating_sub(5)..] {
        diagnostic = diagnostic.note((*line).to_owned());
    }
    Err(diagnostic.into())
}
