//! `code-tests` in the real sandbox, and rewards that crash.

use std::path::Path;
use std::time::{Duration, Instant};

use host::check::plugins;
use plugin_runtime::Scorer;
use plugin_runtime::types::{Context, Item, Score};
use serde_json::Value;

use crate::support::{CONFIG, Project, finish, guest, root};

/// What the plugin's own tests score too; they are natively fast, here they have the sandbox's stack and memory.
#[path = "../../plugins/code-tests/src/adversarial.rs"]
mod adversarial;

/// The component is the one that was built of this source: `cargo xtask code-tests` builds it anew.
#[test]
fn the_component_is_that_of_its_source() {
    use sha2::{Digest as _, Sha256};
    use std::fmt::Write as _;

    let directory = root().join("plugins/code-tests");
    let sums = std::fs::read_to_string(directory.join("component/SHA256SUMS")).unwrap();
    assert!(sums.contains("component/code-tests.wasm") && sums.contains("src/lib.rs"), "{sums}");
    for line in sums.lines() {
        let (expected, file) = line.split_once("  ").unwrap();
        let digest = Sha256::digest(std::fs::read(directory.join(file)).unwrap());
        let found = digest.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        assert_eq!(found, expected, "{file} changed: `cargo xtask code-tests`");
    }
    let sources = std::fs::read_dir(directory.join("src")).unwrap().count();
    assert_eq!(sums.matches(" src/").count(), sources, "a file is new: `cargo xtask code-tests`");
}

const GOOD: &str = "def double(x):\n    return x * 2\n";

fn scorer(config: &str) -> Scorer {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache/plugins");
    plugins::open_with(&[], None, Some(cache)).unwrap().scorer("code-tests", config).unwrap()
}

fn score(scorer: &mut Scorer, completions: &[&str]) -> Vec<Score> {
    let item = |completion: &&str| Item {
        prompt: String::new(),
        completion: (*completion).to_owned(),
        completion_tokens: 1,
        finished: true,
        reference: String::new(),
        row_json: r#"{"tests": ["assert double(2) == 4", "assert double(5) == 10"]}"#.to_owned(),
    };
    let items: Vec<Item> = completions.iter().map(item).collect();
    scorer.score(&items, &Context { step: 0, total_steps: 1, seed: 0 }).unwrap_or_else(|error| panic!("{error:?}"))
}

#[test]
fn bad_completions_score_0_in_the_sandbox() {
    let mut scorer = scorer("{}");
    let mut slowest = (Duration::ZERO, "");
    for (name, completion, note) in adversarial::cases() {
        let start = Instant::now();
        let scores = score(&mut scorer, &[GOOD, &completion, GOOD]);
        slowest = slowest.max((start.elapsed(), name));
        assert_eq!(scores[0].value, Some(1.0), "before {name}: {scores:?}");
        assert_eq!(scores[1].value, Some(0.0), "{name}: {scores:?}");
        assert!(scores[1].note.as_ref().is_some_and(|is| is.contains(note)), "{name}: {scores:?}, not {note}");
        assert_eq!(scores[2].value, Some(1.0), "after {name}: {scores:?}");
    }
    // A call has 30 s; a busy machine may be ten times slower than an idle one.
    assert!(slowest.0 < Duration::from_secs(10), "{slowest:?}");
}

/// The deepest that the config and the source may ask for fits the stack of the sandbox, whatever is done there.
#[test]
fn the_deepest_code_fits_the_stack() {
    let mut scorer = scorer("{}");
    let head = "import json\nfrom collections import deque\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n  v: object\n";
    let mut deep = vec![
        "def g(n): return 0 if n == 0 else 1 + g(n - 1)\ng(240)".to_owned(),
        "def g(n): return sorted([1], key=lambda x: g(n + 1))\ntry: g(0)\nexcept RecursionError: pass".to_owned(),
        "def g(n): return list(map(g, [n + 1]))\ntry: g(0)\nexcept RecursionError: pass".to_owned(),
        "def g(n): return [g(n + 1) for i in [1]]\ntry: g(0)\nexcept RecursionError: pass".to_owned(),
        "g = [1]\nfor i in range(240): g = map(lambda a: a, g)\nlist(g)".to_owned(),
        "try: json.loads('[' * 990 + ']' * 990)\nexcept ValueError: pass".to_owned(),
        format!(
            "def f():\n def f():\n  def f():\n   def f():\n    def f():\n     x = {}1{}\n",
            "[".repeat(63),
            "]".repeat(63)
        ),
        format!("x = {}1{}\n", "(lambda: ".repeat(21), ")".repeat(21)),
        format!("x = {}[1]{}\n", "[y for y in ".repeat(30), "]".repeat(30)),
        format!("x = {}1{}\n", "f'{".repeat(30), "}'".repeat(30)),
        format!("x = {}1\n", "not ".repeat(63)),
        (0..23).fold(String::new(), |text, n| format!("{text}{}for i in [1]:\n", " ".repeat(n)))
            + &" ".repeat(23)
            + "[[[[i]]]]",
    ];
    for wrap in ["frozenset([{}])", "{1: {}}", "[{}]", "({},)", "deque([{}])", "P({})"] {
        let [x, y] = ["x", "y"].map(|name| wrap.replace("{}", name));
        for depth in [50, 120, 180, 245] {
            let build = format!("for i in range({depth}): x, y = {x}, {y}");
            let all = "for use in (lambda: x == y, lambda: repr(x), lambda: f'{x}', lambda: x in [y], lambda: sorted([x, y]), lambda: {x: 1}, lambda: json.dumps(x)):\n  try: use()\n  except Exception: pass";
            deep.push(format!("x = y = 1\n{build}\n{all}"));
            // Each level calls Python again, as deep as the interpreter lets it.
            deep.push(format!(
                "class A:\n  def __hash__(self): return 1\n  def __eq__(self, o):\n    x, y = A(), A()\n    {build}\n    return x == y\n  def __repr__(self):\n    x = y = A()\n    {build}\n    return repr(x)\ntry: A() == A()\nexcept RecursionError: pass\ntry: repr(A())\nexcept RecursionError: pass"
            ));
        }
    }
    for code in &deep {
        let code = format!("{head}{GOOD}{code}\n");
        let scores = score(&mut scorer, &[&code, GOOD]);
        assert_eq!(scores[1].value, Some(1.0), "{code}: {scores:?}");
        assert_eq!(scores[0], Score { value: Some(1.0), note: None }, "{code}");
    }
}

#[test]
fn the_same_completion_stops_at_the_same_step() {
    let completion = "n = 0\ndef double(x):\n    global n\n    while True:\n        n += 1\n        [n]\n";
    let mut first = scorer(r#"{"max_steps": 100000, "mode": "fraction"}"#);
    let all: Vec<&str> = [completion, GOOD].repeat(20);
    let once = score(&mut first, &all);
    assert_eq!(once, score(&mut scorer(r#"{"max_steps": 100000, "mode": "fraction"}"#), &all));
    assert_eq!(once[0].note.as_deref(), Some("step limit in test 1"));
}

#[test]
fn the_code_config_learns_to_pass_its_tests() {
    let project = Project::new();
    let output = project.path("code-out");
    let set = format!("output_dir={}", output.display());
    let mut command = project.command(&["train", "configs/code.yml", "--set", &set]);
    let outcome = finish(command.current_dir(root()).spawn().unwrap());
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    let metrics = project.read("code-out/metrics.jsonl");
    let evals: Vec<Value> = metrics
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["event"] == "eval")
        .collect();
    let mean = |record: &Value| record["rewards/code-tests/mean"].as_f64().unwrap();
    let (before, after) = (evals.first().unwrap(), evals.last().unwrap());
    assert!(mean(before) < 0.2, "a model that has seen no code writes none: {before}");
    assert!(mean(after) > 0.8, "{after}");
    assert_eq!(after["rewards/code-tests/errors"], 0.0);
}

fn with_reward(entry: &str, more: &str) -> (Project, String) {
    let project = Project::new();
    let rows = "{\"instruction\": \"a\", \"output\": \"fine\"}\n{\"instruction\": \"b\", \"output\": \"bad\"}\n";
    project.write("eval.jsonl", rows);
    let eval = "test_datasets: [{path: eval.jsonl, type: alpaca}]\neval_max_new_tokens: 1\n";
    project.write("host.yml", format!("{CONFIG}{eval}eval_reward_funcs: [{entry}]\n{more}"));
    (project, guest("trapping-reward").to_str().unwrap().to_owned())
}

#[test]
fn a_reward_that_crashes_ends_the_run_and_names_the_completion() {
    let (project, plugins) = with_reward("{name: 'test:trapping-reward', config: {panic_on: bad}}", "");
    let messages = project.failure(&["train", "host.yml", "--plugins", &plugins]);
    let completion = regex::Regex::new("the completion was \".*\"").unwrap();
    let messages = completion.replace(&messages, "the completion was \"…\"");
    let messages = messages.lines().filter(|line| !line.contains("parameters trained"));
    insta::assert_snapshot!(messages.collect::<Vec<_>>().join("\n"));
}

#[test]
fn on_error_zero_counts_and_goes_on() {
    let (project, plugins) = with_reward("{name: 'test:trapping-reward', config: {panic_on: bad}, on_error: zero}", "");
    let outcome = project.success(&["train", "host.yml", "--plugins", &plugins]);
    let metrics = project.read("out/metrics.jsonl");
    let last: Value = serde_json::from_str(metrics.lines().rfind(|line| line.contains("\"eval\"")).unwrap()).unwrap();
    assert_eq!(last["rewards/test:trapping-reward/mean"], 0.5, "{last}");
    assert_eq!(last["rewards/test:trapping-reward/errors"], 1.0);
    // Two evaluations, each with a call of both completions that crashes, and one of the bad one alone.
    let cost = |key: &str| last[format!("plugins/test:trapping-reward/{key}")].as_f64().unwrap();
    assert_eq!((cost("traps"), cost("rows")), (4.0, 2.0), "{last}");
    assert!(cost("peak_memory_bytes") > 65536.0 && cost("seconds") > 0.0 && cost("calls") > 6.0, "{last}");
    assert!(outcome.stderr.contains(", crashed or stopped 4 times"), "{}", outcome.stderr);
    let summary = "test:trapping-reward errors  1 → 1 completions made it fail";
    assert!(outcome.stderr.contains(summary), "{}", outcome.stderr);
    assert!(project.read("out/config.resolved.yml").contains("on_error: zero"));
    assert!(!project.read("out/README.md").contains("/errors"));
}

#[test]
fn on_error_zero_holds_for_limits() {
    let limits = "plugins: [{name: 'test:trapping-reward', limits: {call_ms: 100}}]\n";
    let entry = "{name: 'test:trapping-reward', config: {loop_on: bad}, on_error: zero}";
    let (project, plugins) = with_reward(entry, limits);
    project.success(&["train", "host.yml", "--plugins", &plugins]);
    assert!(project.read("out/metrics.jsonl").contains("\"rewards/test:trapping-reward/errors\":1.0"));

    let (project, plugins) = with_reward("{name: exact-match, on_error: zro}", "");
    insta::assert_snapshot!(project.failure(&["check", "host.yml", "--plugins", &plugins]));
}
