//! Builds the bundled plugins for WebAssembly and makes them part of the program.
//!
//! They are a workspace of their own with a target directory of their own: cargo holds a lock on the one that it is
//! building in. `HOST_PREBUILT_PLUGINS=DIR` takes ready files instead, for packagers and for machines without the target.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const TARGET: &str = "wasm32-wasip2";
/// Bundled plugins.
const COUNT: usize = 25;
/// The one whose component lies in the repository: its interpreter takes minutes to compile, and seldom changes.
const READY: (&str, &str) = ("code-tests", "code-tests/component/code-tests.wasm");
/// Package and file name of each.
const PLUGINS: [&str; COUNT] = [
    "alpaca",
    "arrow",
    "axolotl-compat",
    "chat_template",
    "code-tests",
    "completion",
    "csv",
    "curate",
    "dialogue",
    "exact-match",
    "format",
    "input_output",
    "json-schema",
    "jsonl",
    "length",
    "loss-watch",
    "number-match",
    "parquet",
    "practice",
    "preference",
    "repetition",
    "reward-watch",
    "stepwise_supervised",
    "text",
    "wsd",
];
/// Plugins whose packages have `-loader` behind their names.
const LIBRARIES: [&str; 2] = ["arrow", "parquet"];
/// What the outer cargo sets for its own build and must not reach the inner one.
const OUTER: [&str; 8] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET",
    "CARGO_MAKEFLAGS",
    "__CARGO_DEFAULT_LIB_METADATA",
];

fn main() {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let out_dir = PathBuf::from(variable("OUT_DIR"));
    let root = manifest_dir.parent().unwrap_or(&manifest_dir).to_owned();
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=HOST_PREBUILT_PLUGINS");
    let built = match env::var_os("HOST_PREBUILT_PLUGINS") {
        Some(directory) => {
            let directory = root.join(directory);
            PLUGINS.map(|name| directory.join(format!("{name}.wasm")))
        }
        None => build(&root, &out_dir),
    };
    let mut source = String::from(
        "/// Name and component of each bundled plugin.\npub(super) static BUNDLED: &[(&str, &[u8])] = &[\n",
    );
    for (name, from) in PLUGINS.iter().zip(built) {
        println!("cargo::rerun-if-changed={}", from.display());
        let to = out_dir.join(format!("{name}.wasm"));
        if let Err(error) = fs::copy(&from, &to) {
            fail(&format!("the plugin `{}` cannot be read: {error}", from.display()));
        }
        let _ = writeln!(source, "    ({name:?}, include_bytes!({:?})),", to.display().to_string());
    }
    source.push_str("];\n");
    write(&out_dir.join("bundled.rs"), &source);
    let mut source =
        embedded("SDK", "what a project is built with", &root, &["plugin-sdk/src", "plugin-sdk/README.md", "wit"]);
    source += &embedded("TEMPLATES", "what a project starts as", &root.join("plugin-sdk/templates"), &["."]);
    write(&out_dir.join("sdk.rs"), &source);
}

/// A list of files with their texts, for `host plugin new`: always the ones of this repository.
fn embedded(name: &str, what: &str, root: &Path, paths: &[&str]) -> String {
    let mut files = Vec::new();
    for path in paths {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
        list(&root.join(path), &mut files);
    }
    files.sort();
    let mut source = format!("/// Path and text of {what}.\npub(super) static {name}: &[(&str, &str)] = &[\n");
    for file in files {
        let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let shown = shown.trim_start_matches("./");
        let _ = writeln!(source, "    ({shown:?}, include_str!({:?})),", file.display().to_string());
    }
    source + "];\n"
}

fn list(path: &Path, files: &mut Vec<PathBuf>) {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().for_each(|entry| list(&entry.path(), files)),
        Err(_) => files.push(path.to_owned()),
    }
}

fn write(path: &Path, text: &str) {
    if let Err(error) = fs::write(path, text) {
        fail(&format!("cannot write {}: {error}", path.display()));
    }
}

fn build(root: &Path, out_dir: &Path) -> [PathBuf; COUNT] {
    let plugins = root.join("plugins");
    for watched in ["plugins", "plugin-sdk", "wit"] {
        watch(&root.join(watched));
    }
    // The SDK takes the versions of its dependencies from here.
    println!("cargo::rerun-if-changed={}", root.join("Cargo.toml").display());
    need_target();
    // One directory for all profiles of the outer build, so that plugins are built once.
    let target_dir = target_dir(out_dir).join("plugins-wasm");
    let mut cargo = Command::new(variable("CARGO"));
    cargo.current_dir(&plugins).args(["build", "--release", "--locked", "--quiet", "--target", TARGET]);
    cargo.arg("--target-dir").arg(&target_dir);
    // A hash map of Arrow's is seeded when it is compiled, by chance unless this is set: plugins are to be the same bytes again.
    cargo.env("CONST_RANDOM_SEED", "0");
    scrub(&mut cargo);
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("the bundled plugins did not build ({status})")),
        Err(error) => fail(&format!("cargo cannot be started: {error}")),
    }
    let release = target_dir.join(TARGET).join("release");
    PLUGINS.map(|name| match READY {
        (ready, file) if ready == name => plugins.join(file),
        // Packages whose names are those of libraries that they use.
        _ if LIBRARIES.contains(&name) => release.join(format!("{name}_loader.wasm")),
        _ => release.join(format!("{}.wasm", name.replace('-', "_"))),
    })
}

/// Adds the WebAssembly target where it is missing, or names the command that does.
fn need_target() {
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--print", "target-libdir", "--target", TARGET]);
    scrub(&mut rustc);
    let libdir = rustc.output().ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let is_there = || libdir.as_deref().is_some_and(|libdir| Path::new(libdir.trim()).is_dir());
    if is_there() {
        return;
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]);
    scrub(&mut rustup);
    let added = rustup.output();
    if added.as_ref().is_ok_and(|output| output.status.success()) && is_there() {
        return;
    }
    let reason = match added {
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
        Err(error) => error.to_string(),
    };
    fail(&format!(
        "the Rust target {TARGET} is missing and could not be added ({reason}). Run: rustup target add {TARGET}"
    ));
}

fn scrub(command: &mut Command) {
    for name in OUTER {
        command.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        let shown = name.to_string_lossy();
        let is_outer = ["CARGO_FEATURE_", "CARGO_CFG_", "CARGO_PROFILE_", "CARGO_PKG_", "DEP_"];
        if is_outer.iter().any(|prefix| shown.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}

/// The outer target directory: `OUT_DIR` is `<target>/<profile>/build/<package>/out`, with a triple before the profile
/// in cross builds.
fn target_dir(out_dir: &Path) -> PathBuf {
    let found = out_dir.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    found.or(out_dir.ancestors().nth(4)).unwrap_or(out_dir).to_owned()
}

/// Asks cargo to run this again when a source changes; build output is none.
fn watch(path: &Path) {
    if path.is_dir() {
        let Ok(entries) = fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            if entry.file_name() != "target" {
                watch(&entry.path());
            }
        }
    } else if matches!(path.extension().and_then(|end| end.to_str()), Some("rs" | "toml" | "lock" | "wit" | "md")) {
        println!("cargo::rerun-if-changed={}", path.display());
    }
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| fail(&format!("{name} is not set; cargo sets it for build scripts")))
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1);
}
