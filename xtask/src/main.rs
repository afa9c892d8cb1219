//! What a contributor does daily. `cargo xtask` lists the commands; each is a few calls of cargo, printed before it runs.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

const HELP: &str = "\
cargo xtask COMMAND

  check            format, features and lints of everything
  test [NAME]      the tests whose names contain NAME, of all crates; `engine::NAME`: of one crate (host, engine,
                   kernels, plugin-runtime, plugin-sdk, plugins, e2e)
  bless [NAME]     the same, and writes the snapshots that changed: read the diff
  docs             writes the generated pages: docs/config.md, docs/capabilities.md
  features         whether all commands build the crates of the registry with the same features, so once
  fuzz [TARGET…] [--seconds N]
                   hostile inputs for what reads strangers' files (tests/fuzz): of all targets, 60 s each; what
                   fails comes into target/fuzz/crashes. The first time builds everything again, which takes minutes
  code-tests       builds the component of plugins/code-tests, after a change there
  timings          a first build in a new directory: processor seconds, and where they went";

/// A command that failed, as it was printed.
struct Failed(String);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["check"] => check(),
        ["test"] => test("", false),
        ["test", name] => test(name, false),
        ["bless"] => test("", true),
        ["bless", name] => test(name, true),
        ["docs"] => docs(),
        ["features"] => features(),
        ["fuzz", rest @ ..] => fuzz(rest),
        ["code-tests"] => run(Command::new(root().join("plugins/code-tests/build.sh"))),
        ["timings"] => timings(),
        _ => {
            say(HELP);
            return if words.is_empty() || words == ["help"] { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(command)) => {
            say(&format!("failed: {command}"));
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<(), Failed> {
    run(with(Command::new(root().join(".ci/run")), ["format", "lints"]))
}

/// Tests by name. A crate in front of it builds that crate's tests alone.
fn test(name: &str, bless: bool) -> Result<(), Failed> {
    let (package, name) = name.split_once("::").filter(|(package, _)| PACKAGES.contains(package)).unwrap_or(("", name));
    let mut command = match package {
        "plugins" => plugins(),
        "" => with(cargo("test"), ["--workspace"]),
        "e2e" => with(cargo("test"), ["-p", "host", "--test", "e2e"]),
        "host" => with(cargo("test"), ["-p", "host", "--lib"]),
        package => with(cargo("test"), ["-p", package]),
    };
    command.args([name].iter().filter(|name| !name.is_empty()));
    command.env("INSTA_UPDATE", if bless { "always" } else { "no" });
    run(command)
}

const PACKAGES: [&str; 7] = ["host", "engine", "kernels", "plugin-runtime", "plugin-sdk", "plugins", "e2e"];

/// The tests of the bundled plugins run natively.
fn plugins() -> Command {
    with(cargo("test"), ["--locked", "--manifest-path", "plugins/Cargo.toml", "--target-dir", "target/plugins-native"])
}

fn docs() -> Result<(), Failed> {
    for (arguments, page) in
        [(["schema", "--markdown"], "docs/config.md"), (["doctor", "--capabilities"], "docs/capabilities.md")]
    {
        let command = with(with(cargo("run"), ["--quiet", "-p", "host", "--"]), arguments);
        let shown = format!("{} > {page}", shown(&command));
        say(&shown);
        let text = output(command).ok_or_else(|| Failed(shown.clone()))?;
        std::fs::write(root().join(page), text).map_err(|error| Failed(format!("{shown}: {error}")))?;
    }
    Ok(())
}

/// Compares what each command builds with what `cargo test --workspace` does.
fn features() -> Result<(), Failed> {
    let whole = tree(&["--workspace"])?;
    let mut same = true;
    for command in [
        &["-p", "host", "-e", "normal,build"][..],
        &["-p", "host"],
        &["-p", "engine"],
        &["-p", "kernels"],
        &["-p", "plugin-runtime"],
    ] {
        for (package, features) in tree(command)? {
            let known: Vec<&str> = whole.iter().filter(|(name, _)| *name == package).map(|(_, set)| &**set).collect();
            if !known.contains(&&*features) {
                same = false;
                say(&format!("{command:?}: {package} has [{features}], in the workspace [{}]", known.join("] or [")));
            }
        }
    }
    if same { Ok(()) } else { Err(Failed("add what is missing to host/crates/workspace-hack/Cargo.toml".into())) }
}

/// Runs targets of `tests/fuzz` under libFuzzer. What they find on the way stays in
/// `target/fuzz/corpus`, what fails in `target/fuzz/crashes`.
fn fuzz(arguments: &[&str]) -> Result<(), Failed> {
    let (targets, seconds) = match arguments {
        [targets @ .., "--seconds", seconds] => (targets, *seconds),
        targets => (targets, "60"),
    };
    let corpora = root().join("tests/fuzz/corpus");
    let known = std::fs::read_dir(&corpora).map_err(|error| Failed(format!("{}: {error}", corpora.display())))?;
    let mut known: Vec<String> =
        known.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    known.sort();
    if let Some(target) = targets.iter().find(|target| !known.iter().any(|known| known == *target)) {
        return Err(Failed(format!("there is no target `{target}`; there are {}", known.join(", "))));
    }
    let chosen: Vec<&str> =
        if targets.is_empty() { known.iter().map(String::as_str).collect() } else { targets.to_vec() };

    let directory = root().join("target/fuzz");
    let triple = output(with(Command::new("rustc"), ["-vV"])).and_then(|text| String::from_utf8(text).ok());
    let triple = triple.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("host: ")));
    let triple = triple.ok_or_else(|| Failed("rustc -vV".into()))?;
    let mut build = with(cargo("build"), ["-p", "fuzz", "--target", triple, "--target-dir"]);
    build.arg(&directory);
    build.env("RUSTC_WRAPPER", root().join("tests/fuzz/rustc.sh")).env("RUSTFLAGS", "--cfg fuzzing");
    run(build)?;

    let program = directory.join(triple).join("release/fuzz");
    for target in chosen {
        let (grown, crashes) = (directory.join("corpus").join(target), directory.join("crashes").join(target));
        for folder in [&grown, &crashes] {
            std::fs::create_dir_all(folder).map_err(|error| Failed(format!("{}: {error}", folder.display())))?;
        }
        let mut command = Command::new(&program);
        command.env("FUZZ_TARGET", target).args([&grown, &corpora.join(target)]);
        command.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", crashes.display()));
        run(with(command, FUZZ_LIMITS))?;
    }
    Ok(())
}

/// What an input may take at most: seconds, MiB and bytes.
const FUZZ_LIMITS: [&str; 5] =
    ["-timeout=10", "-rss_limit_mb=2048", "-malloc_limit_mb=500", "-max_len=8192", "-print_final_stats=1"];

/// Crates of the registry, each with the features that it is built with.
fn tree(packages: &[&str]) -> Result<BTreeSet<(String, String)>, Failed> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "--locked", "--no-dedupe", "--prefix", "none", "--format", "{p}\t{f}"]).args(packages);
    let shown = shown(&command);
    let text = output(command).and_then(|text| String::from_utf8(text).ok()).ok_or(Failed(shown))?;
    let crates = text.lines().filter(|line| !line.contains(" (/")).filter_map(|line| line.split_once('\t'));
    Ok(crates.map(|(package, features)| (package.to_owned(), features.to_owned())).collect())
}

/// What the README's first command takes on a machine that has nothing but the registry's crates.
fn timings() -> Result<(), Failed> {
    let directory = root().join("target/first-build");
    let _ = std::fs::remove_dir_all(&directory);
    // `time` is a word of bash, not of every shell.
    let mut command = Command::new("bash");
    command.args(["-c", "cargo fetch --quiet; time cargo build --release -p host --timings"]);
    command.env("CARGO_TARGET_DIR", &directory);
    run(command)?;
    say(&format!("by crate: {}", directory.join("cargo-timings/cargo-timing.html").display()));
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Tests and programs share the one profile that is built.
fn cargo(verb: &str) -> Command {
    with(Command::new(env!("CARGO")), [verb, "--release"])
}

fn with<S: AsRef<OsStr>>(mut command: Command, arguments: impl IntoIterator<Item = S>) -> Command {
    command.args(arguments);
    command
}

fn run(mut command: Command) -> Result<(), Failed> {
    let shown = shown(&command);
    say(&shown);
    let status = command.current_dir(root()).status();
    if status.is_ok_and(|status| status.success()) { Ok(()) } else { Err(Failed(shown)) }
}

fn output(mut command: Command) -> Option<Vec<u8>> {
    let output = command.current_dir(root()).stderr(Stdio::inherit()).output().ok()?;
    output.status.success().then_some(output.stdout)
}

fn shown(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let mut words: Vec<String> =
        variables.map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy())).collect();
    let program = command.get_program();
    words.push(Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned());
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

#[expect(clippy::print_stderr, reason = "this is what it is for")]
fn say(line: &str) {
    eprintln!("{line}");
}
