//! Plugins that attack: each is stopped with words that say what it did, and the host goes on.
//!
//! The rest of what a plugin may try is elsewhere: loops, traps, memory, wrong counts and scores in `plugins.rs`; results
//! that depend on more than their row, config schemas, and a crash on a late row in `author.rs`; old API versions in
//! `api.rs`; a reward's bad completions in `code.rs`; filters, schedules and watches in `kinds.rs`.

use std::time::Instant;

use crate::craft::{Craft, manifest};
use crate::support::{CONFIG, Project, guest};

/// The message of a run whose strategy does `deed`.
fn deed(deed: &str, limits: &str) -> String {
    let project = Project::new();
    let directory = guest("hostile");
    let config = CONFIG.replace("type: alpaca", &format!("type: {{name: 'test:hostile', config: {{deed: {deed}}}}}"));
    project.write("host.yml", format!("{config}plugins: [{{name: 'test:hostile', limits: {{{limits}}}}}]\n"));
    let messages = project.failure(&["train", "host.yml", "--plugins", directory.to_str().unwrap()]);
    assert!(!project.path("out/model.safetensors").exists(), "nothing was trained");
    messages
}

/// What `check` says of a crafted reward.
fn check(bytes: &[u8], more: &str) -> (i32, String) {
    let project = Project::new();
    std::fs::create_dir(project.path("plugins")).unwrap();
    project.write("plugins/crafted.wasm", bytes);
    let eval = "test_datasets: [{path: eval.jsonl, type: alpaca}]\neval_reward_funcs: ['test:crafted']\n";
    project.write("host.yml", format!("{CONFIG}{eval}{more}"));
    let outcome = project.host(&["check", "host.yml", "--plugins", "plugins"]);
    (outcome.status, outcome.stderr)
}

fn refused(bytes: &[u8], more: &str) -> String {
    let (status, messages) = check(bytes, more);
    assert_eq!(status, 1, "{messages}");
    messages
}

#[test]
fn a_loop_at_its_start_is_stopped_by_check_too() {
    guest("hostile"); // Its build is no part of the time.
    let start = Instant::now();
    insta::assert_snapshot!(deed("loop-in-create", "call_ms: 200"));
    // Far below the 30 s that a call has by default.
    assert!(start.elapsed().as_secs() < 25);
    let fields = "(func $spin (loop $again (br $again))) (start $spin)".to_owned();
    let bytes = Craft { fields, ..Craft::default() }.build();
    insta::assert_snapshot!(refused(&bytes, "plugins: [{name: 'test:crafted', limits: {call_ms: 200}}]\n"));
}

#[test]
fn recursion_without_end() {
    insta::assert_snapshot!(deed("recursion", ""));
}

#[test]
fn more_than_a_call_may_hand_over() {
    insta::assert_snapshot!(deed("huge-result", "result_mb: 8"));
}

#[test]
fn ending_the_process() {
    insta::assert_snapshot!(deed("exit", ""));
}

#[test]
fn what_it_prints_is_not_shown_and_what_it_asks_is_not_answered() {
    let project = Project::new();
    let directory = guest("hostile");
    let data = "{\"instruction\": \"i\", \"input\": \"\", \"output\": \"o\"}\n".repeat(8);
    project.write("train.jsonl", data);
    let run = |deed: &str, output: &str| {
        let config =
            CONFIG.replace("type: alpaca", &format!("type: {{name: 'test:hostile', config: {{deed: {deed}}}}}"));
        project.write("host.yml", config.replace("output_dir: out", &format!("output_dir: {output}")));
        let outcome = project.success(&["train", "host.yml", "--plugins", directory.to_str().unwrap()]);
        assert!(!outcome.stderr.contains('\u{1b}') && !outcome.stderr.contains("host: done"), "{}", outcome.stderr);
        let run: serde_json::Value = serde_json::from_str(&project.read(&format!("{output}/run.json"))).unwrap();
        run["data_sha256"].as_str().unwrap().to_owned()
    };
    run("print", "printed");
    // The token digest tells what the guest saw: the same random numbers each time, and no variable or argument.
    assert_eq!(run("random", "first"), run("random", "second"));
    let seen_nothing = run("environment", "environment");
    let mut command = project.command(&["train", "host.yml", "--overwrite", "--plugins", directory.to_str().unwrap()]);
    assert!(command.env("SECRET", "1").status().unwrap().success());
    let again: serde_json::Value = serde_json::from_str(&project.read("environment/run.json")).unwrap();
    assert_eq!(again["data_sha256"], seen_nothing);
}

#[test]
fn samples_that_make_no_sense() {
    for name in ["bad-span", "backward-span", "nothing-learned", "empty", "nan-weight"] {
        let project = Project::new();
        let directory = guest("hostile");
        let config =
            CONFIG.replace("type: alpaca", &format!("type: {{name: 'test:hostile', config: {{deed: {name}}}}}"));
        project.write("host.yml", format!("{config}chat_template: chatml\n"));
        let messages = project.failure(&["train", "host.yml", "--plugins", directory.to_str().unwrap()]);
        insta::assert_snapshot!(format!("samples_that_make_no_sense_{name}"), messages);
    }
}

#[test]
fn files_are_refused_before_anything_runs() {
    let project = Project::new();
    let directory = guest("reads-files");
    let messages = project.failure(&["plugin", "list", "--plugins", directory.to_str().unwrap()]);
    insta::assert_snapshot!(regex::Regex::new(r"@0\.2\.\d+").unwrap().replace_all(&messages, "@0.2.N"));
}

/// Clock, sleep, randomness, environment, arguments and input: what is there is the same in every run.
#[test]
fn what_the_standard_library_asks_for_tells_nothing() {
    let project = Project::new();
    let directory = guest("looks-around");
    let plugins = directory.to_str().unwrap();
    project.write(
        "host.yml",
        format!("{CONFIG}test_datasets: [{{path: eval.jsonl, type: alpaca}}]\neval_max_new_tokens: 1\neval_reward_funcs: ['test:looks-around']\n"),
    );
    let value = || {
        project.success(&["train", "host.yml", "--plugins", plugins, "--overwrite", "--set", "max_steps=1"]);
        let metrics = project.read("out/metrics.jsonl");
        let mean = regex::Regex::new(r#""rewards/test:looks-around/mean":([0-9.]+)"#).unwrap();
        mean.captures_iter(&metrics).map(|found| found[1].to_owned()).collect::<Vec<_>>()
    };
    let first = value();
    assert_eq!(first.len(), 2, "before and after training");
    assert_ne!(first[0], "0");
    assert_eq!(first, value());
    let imports = project.success(&["plugin", "inspect", "test:looks-around", "--plugins", plugins]).stdout;
    for import in
        ["wasi:clocks/monotonic-clock", "wasi:clocks/wall-clock", "wasi:random/random", "wasi:cli/environment"]
    {
        assert!(imports.contains(import), "{imports}");
    }
}

#[test]
fn an_import_that_nobody_has() {
    let craft = Craft {
        imports: r#"(import "trainer:plugin/out@0.1.0" "send" (func $out))"#,
        world: "import out;",
        packages: "interface out { send: func(); }",
        ..Craft::default()
    };
    insta::assert_snapshot!(refused(&craft.build(), ""));
}

#[test]
fn tables_and_memories_without_measure() {
    for (name, fields) in [
        ("table", "(table 100000000 funcref)".to_owned()),
        ("memory", "(memory 20000)".to_owned()),
        ("memories", "(memory 1)".repeat(20)),
    ] {
        let bytes = Craft { fields, ..Craft::default() }.build();
        insta::assert_snapshot!(format!("without_measure_{name}"), refused(&bytes, ""));
    }
}

/// One function of some megabytes, each instruction needing the one before.
fn bomb(size: usize) -> Vec<u8> {
    let body = "(i32.add (i32.mul (local.get 0) (local.get 0)) (i32.const 7)) local.tee 0 drop ".repeat(size);
    Craft { fields: format!("(func (export \"bomb\") (param i32) {body})"), ..Craft::default() }.build()
}

#[test]
fn a_plugin_that_is_made_to_be_hard_to_compile() {
    let bytes = bomb(400_000);
    let limits = |limits: &str| format!("plugins: [{{name: 'test:crafted', limits: {{{limits}}}}}]\n");
    insta::assert_snapshot!(refused(&bytes, &limits("compile_ms: 300")));
    let messages = refused(&bytes, &limits("compile_mb: 256"));
    let said = regex::Regex::new("(?m)^note: it ended.*$").unwrap();
    insta::assert_snapshot!(said.replace(&messages, "note: WORDS"));
    insta::assert_snapshot!(refused(&bytes, &limits("file_mb: 1")));
}

#[test]
fn a_program_under_another_name_has_the_same_limits() {
    let project = Project::new();
    std::fs::create_dir(project.path("plugins")).unwrap();
    project.write("plugins/crafted.wasm", bomb(400_000));
    let eval = "test_datasets: [{path: eval.jsonl, type: alpaca}]\neval_reward_funcs: ['test:crafted']\n";
    let limits = "plugins: [{name: 'test:crafted', limits: {compile_ms: 300}}]\n";
    project.write("host.yml", format!("{CONFIG}{eval}{limits}"));
    let program = project.path("trainer");
    std::fs::copy(env!("CARGO_BIN_EXE_host"), &program).unwrap();
    let mut command = std::process::Command::new(program);
    command.current_dir(project.path("")).args(["check", "host.yml", "--plugins", "plugins"]);
    command.env("HOST_CACHE_DIR", project.path("cache"));
    let output = command.output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(messages.contains("compiling plugin `test:crafted` takes more than 300 ms"), "{messages}");
}

#[test]
fn api_versions() {
    // A patch of the same API fits.
    let later = Craft { version: "0.1.9", ..Craft::default() }.build();
    let (status, messages) = check(&later, "");
    assert_eq!(status, 0, "{messages}");
    let newer = Craft { version: "0.2.0", manifest: Some(manifest("0.2")), ..Craft::default() }.build();
    insta::assert_snapshot!(refused(&newer, ""));
    let says_older = Craft { version: "0.2.0", ..Craft::default() }.build();
    insta::assert_snapshot!(refused(&says_older, ""));
    insta::assert_snapshot!(refused(&Craft { manifest: None, ..Craft::default() }.build(), ""));
    insta::assert_snapshot!(refused(&Craft { manifest: Some("{".to_owned()), ..Craft::default() }.build(), ""));
    let extra =
        Craft { fields: "(func (export \"extra\"))".to_owned(), world: "export extra: func();", ..Craft::default() };
    let (status, messages) = check(&extra.build(), "");
    assert_eq!(status, 0, "{messages}");
}

#[test]
fn files_that_are_no_plugins() {
    let good = Craft::default().build();
    let module = Craft::default().module();
    for (name, bytes) in [
        ("truncated", &good[..good.len() / 2]),
        ("empty", b"".as_slice()),
        ("core-module", &module),
        ("native", b"\x7fELF\x02\x01\x01"),
        ("text", b"(component)"),
    ] {
        insta::assert_snapshot!(format!("files_that_are_no_plugins_{name}"), refused(bytes, ""));
    }
}

#[test]
fn two_files_of_one_name() {
    let project = Project::new();
    std::fs::create_dir(project.path("plugins")).unwrap();
    project.write("plugins/one.wasm", Craft::default().build());
    let other =
        Craft { fields: "(func (export \"other\"))".to_owned(), world: "export other: func();", ..Craft::default() };
    project.write("plugins/two.wasm", other.build());
    insta::assert_snapshot!(project.failure(&["plugin", "list", "--plugins", "plugins"]));
}

#[test]
fn a_granted_directory_and_nothing_outside() {
    let project = Project::new();
    let directory = guest("tables");
    let plugins = directory.to_str().unwrap();
    let config = CONFIG.replace("    type: alpaca", "    ds_type: 'test:tables'\n    type: alpaca");
    project.write("host.yml", &config);
    insta::assert_snapshot!(project.failure(&["check", "host.yml", "--plugins", plugins]));

    // What lies there, and the ways out of it.
    std::fs::create_dir_all(project.path("tables/sub")).unwrap();
    project.write("tables/good.txt", "good");
    project.write("tables/sub/nested.txt", "nested");
    project.write("secret.txt", "secret");
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, project.path(name)).unwrap();
    link("good.txt", "tables/inside.txt");
    link("../secret.txt", "tables/out.txt");
    link("/etc/passwd", "tables/absolute.txt");
    link("..", "tables/up");
    link("loop.txt", "tables/loop.txt");
    std::fs::hard_link(project.path("secret.txt"), project.path("tables/hard.txt")).unwrap();
    let ways = [
        "../secret.txt",
        "sub/../../secret.txt",
        "out.txt",
        "absolute.txt",
        "up/secret.txt",
        "loop.txt",
        "hard.txt",
        "/etc/passwd",
        "/proc/self/environ",
        "sub",
        "",
    ];
    let list = "*";
    project.write("train.jsonl", ["good.txt", "sub/nested.txt", "inside.txt"].join("\n"));
    let granted = format!("{config}plugins: [{{name: 'test:tables', grants: {{read: [tables]}}}}]\n");
    project.write("host.yml", &granted);
    project.success(&["check", "host.yml", "--plugins", plugins]);
    project.success(&["train", "host.yml", "--dry-run", "--plugins", plugins]);
    project.write("host.yml", &config);
    project.success(&["train", "host.yml", "--dry-run", "--plugins", plugins, "--grant", "test:tables=tables"]);

    project.write("host.yml", &granted);
    for way in ways.into_iter().chain([list]) {
        project.write("train.jsonl", format!("{way}\n"));
        let messages = project.failure(&["train", "host.yml", "--dry-run", "--plugins", plugins]);
        let name = way.replace('/', "_").replace('.', "-").replace('*', "list");
        insta::assert_snapshot!(format!("a_way_out_{name}"), messages);
    }
    project.write("host.yml", granted.replace("[tables]", "[nowhere]"));
    insta::assert_snapshot!(project.failure(&["check", "host.yml", "--plugins", plugins]));
    insta::assert_snapshot!(project.failure(&[
        "check",
        "host.yml",
        "--plugins",
        plugins,
        "--grant",
        "test:other=tables"
    ]));
}
