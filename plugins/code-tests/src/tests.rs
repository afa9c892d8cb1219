use plugin_sdk::reward::{Context, Item, Reward as _, Score};
use serde_json::{Value, json};

use super::*;

const GOOD: &str = "def double(x):\n    return x * 2\n";

fn reward(config: Value) -> CodeTests {
    CodeTests::new(serde_json::from_value(config).unwrap()).unwrap()
}

fn score(reward: &mut CodeTests, completion: &str, row: Value) -> Score {
    let item = Item {
        prompt: String::new(),
        completion: completion.to_owned(),
        completion_tokens: 1,
        finished: true,
        reference: String::new(),
        row_json: row.to_string(),
    };
    reward.score(&item, &Context { step: 0, total_steps: 1, seed: 0 }).unwrap()
}

fn row() -> Value {
    json!({"tests": ["assert double(2) == 4", "assert double(5) == 10", "assert double('a') == 'aa'"]})
}

#[test]
fn a_solution_scores_1() {
    let mut reward = reward(json!({}));
    assert_eq!(score(&mut reward, GOOD, row()), value(1.0));
    assert_eq!(score(&mut reward, &format!("Here:\n```python\n{GOOD}```\nIt doubles."), row()), value(1.0));
    assert_eq!(score(&mut reward, GOOD, json!({"tests": "assert double(2) == 4\nassert double(0) == 0"})), value(1.0));
}

#[test]
fn a_fraction_counts_what_passes() {
    let mut fraction = reward(json!({"mode": "fraction", "score_on_error": -1.0}));
    let wrong = score(&mut fraction, "def double(x): return x + 2", row());
    assert_eq!(wrong, value_because(1.0 / 3.0, "AssertionError in test 2"));
    assert_eq!(score(&mut fraction, "def double(x", row()).value, Some(-1.0));
    let mut all = reward(json!({"score_on_error": -1.0}));
    assert_eq!(score(&mut all, "def double(x): return x + 2", row()).value, Some(0.0));
    let slow = "def double(x):\n  if x == 5:\n    while True: pass\n  return x * 2";
    assert_eq!(score(&mut fraction, slow, row()), value_because(1.0 / 3.0, "step limit in test 2"));
}

#[test]
fn mbpp_and_humaneval_rows() {
    let mut mbpp = reward(json!({"tests_field": "test_list", "setup_field": "test_imports"}));
    let row = json!({
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(area(2), 12.566, rel_tol=0.001)", "assert area(0) == 0"],
    });
    assert_eq!(score(&mut mbpp, "def area(r):\n    return math.pi * r ** 2", row), value(1.0));

    let mut humaneval = reward(json!({"tests_field": "test", "prefix_field": "prompt", "extract": "all"}));
    let row = json!({
        "prompt": "def add(x: int, y: int) -> int:\n    \"\"\"Add.\n    >>> add(2, 3)\n    5\n    \"\"\"\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(0, 1) == 1\n    assert candidate(2, 3) == 5\n",
        "entry_point": "add",
    });
    assert_eq!(score(&mut humaneval, "    return x + y\n", row.clone()), value(1.0));
    assert_eq!(score(&mut humaneval, "    return x - y\n", row), value_because(0.0, "AssertionError in test 1"));
}

#[test]
fn rows_without_usable_tests_say_nothing() {
    let mut reward = reward(json!({}));
    assert_eq!(score(&mut reward, GOOD, json!({"text": "a"})), does_not_apply());
    for tests in [json!(["assert ("]), json!(3), json!(["(".repeat(1000)])] {
        let score = score(&mut reward, GOOD, json!({"tests": tests}));
        assert!(score.value.is_none() && score.note.is_some(), "{tests}: {score:?}");
    }
}

#[test]
fn nothing_stays_from_one_completion_or_test_to_the_next() {
    let mut reward = reward(json!({}));
    assert_eq!(score(&mut reward, GOOD, row()).value, Some(1.0));
    assert_eq!(score(&mut reward, "pass", row()).value, Some(0.0));
    assert_eq!(score(&mut reward, "import math\nmath.pi = 3\ndef len(x): return 0\n", row()).value, Some(0.0));
    let counts = "seen = []\ndef count():\n    seen.append(1)\n    return len(seen)";
    let row = json!({"tests": ["assert count() == 1", "assert count() == 1"]});
    assert_eq!(score(&mut reward, counts, row), value(1.0));
}

/// Python itself lets a value say that it equals everything; the tests of a row must not rely on `==` alone.
#[test]
fn a_value_may_claim_to_be_equal() {
    let claims = "class Any:\n  def __eq__(self, other): return True\ndef double(x): return Any()";
    assert_eq!(score(&mut reward(json!({})), claims, row()), value(1.0));
}

#[test]
fn bad_completions_score_0_and_the_next_one_is_judged() {
    let mut reward = reward(json!({}));
    for (name, completion, note) in crate::adversarial::cases() {
        let first = score(&mut reward, &completion, row());
        assert_eq!(first.value, Some(0.0), "{name}: {first:?}");
        assert!(first.note.as_ref().is_some_and(|is| is.contains(note)), "{name}: {first:?}, not {note}");
        assert_eq!(score(&mut reward, GOOD, row()), value(1.0), "after {name}");
    }
}

#[test]
fn a_config_that_cannot_work_is_refused() {
    for config in [
        json!({"max_steps": 0}),
        json!({"max_memory_mb": 100_000}),
        json!({"max_recursion": 1_000_000}),
        json!({"tests_field": ""}),
    ] {
        assert!(CodeTests::new(serde_json::from_value(config.clone()).unwrap()).is_err(), "{config}");
    }
    assert!(serde_json::from_value::<Config>(json!({"language": "ruby"})).is_err());
}
