//! Runs the Python that a model wrote against the tests of its row, with an interpreter inside the sandbox: 1 where all
//! tests pass, else 0, or the share that passes. Steps, memory, depth and source are limited, so that a bad completion
//! scores low and the run goes on.

#[cfg(test)]
mod adversarial;
mod budget;
mod extract;
mod nesting;
mod run;
mod tests_of_row;

use plugin_sdk::Error;
use plugin_sdk::reward::{Context, Item, Reward, Score, does_not_apply, value, value_because};
use serde::Deserialize;

use crate::budget::Limits;
use crate::run::{Failure, Program};
use crate::tests_of_row::{Columns, Tests};

/// What can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Of the completion and the tests.
    language: Language,
    /// Steps that one completion has for all its tests: instructions of the interpreter, with 16 bytes to allocate for each.
    max_steps: u64,
    /// Memory that one completion has.
    max_memory_mb: usize,
    /// Calls within calls, to 250.
    max_recursion: usize,
    /// Column with the tests: a list of pieces of code (MBPP's `test_list`), or one (HumanEval's `test`).
    tests_field: String,
    /// Column with code that is run before the completion, such as imports. A row may lack it.
    setup_field: Option<String>,
    /// Column with code that the completion goes on with (HumanEval's `prompt`). A row may lack it.
    prefix_field: Option<String>,
    /// Column with the name of the function that the tests' `check` is called with. A row may lack it.
    entry_point_field: String,
    /// Which part of a completion is code.
    extract: Extract,
    /// How tests become a score.
    mode: Mode,
    /// Score of a completion that does not run: not Python, stopped by a limit, or failed before the first test.
    score_on_error: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            language: Language::Python,
            max_steps: 20_000_000,
            max_memory_mb: 32,
            max_recursion: run::MAX_RECURSION,
            tests_field: "tests".to_owned(),
            setup_field: None,
            prefix_field: None,
            entry_point_field: "entry_point".to_owned(),
            extract: Extract::Fenced,
            mode: Mode::All,
            score_on_error: 0.0,
        }
    }
}

/// Languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Python, as `monty` understands it.
    Python,
}

/// Which part of a completion is code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extract {
    /// The last fenced block that is Python or has no language; without a fence, everything.
    Fenced,
    /// Everything.
    All,
}

/// How tests become a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// 1 if all pass, else 0.
    All,
    /// The share that passes.
    Fraction,
}

/// The reward.
pub struct CodeTests {
    config: Config,
}

impl Reward for CodeTests {
    type Config = Config;

    fn new(config: Config) -> Result<Self, Error> {
        let Language::Python = config.language;
        let range = |key: &str, is: u64, from: u64, to: u64, why: &str| {
            if (from..=to).contains(&is) {
                return Ok(());
            }
            Err(Error::config(key, format!("`{key}` is {is}, but must be from {from} to {to}{why}")))
        };
        range("max_steps", config.max_steps, 1_000, 2_000_000_000, "")?;
        range("max_memory_mb", config.max_memory_mb as u64, 1, 256, "")?;
        range(
            "max_recursion",
            config.max_recursion as u64,
            10,
            run::MAX_RECURSION as u64,
            ", which fits the sandbox's stack",
        )?;
        if config.tests_field.is_empty() {
            return Err(Error::config("tests_field", "`tests_field` is empty; name the column with the tests"));
        }
        if !config.score_on_error.is_finite() {
            return Err(Error::config("score_on_error", "`score_on_error` must be a finite number"));
        }
        Ok(Self { config })
    }

    fn score(&mut self, item: &Item, _context: &Context) -> Result<Score, Error> {
        let config = &self.config;
        let columns = Columns {
            tests: &config.tests_field,
            setup: config.setup_field.as_deref(),
            prefix: config.prefix_field.as_deref(),
            entry_point: &config.entry_point_field,
        };
        let tests = match Tests::read(&item.row_json, &columns) {
            Ok(tests) if tests.each.is_empty() => return Ok(does_not_apply()),
            Ok(tests) => tests,
            Err(note) => return Ok(Score { value: None, note: Some(note) }),
        };
        let code = match config.extract {
            Extract::All => &item.completion,
            Extract::Fenced => extract::fenced(&item.completion),
        };
        let mut source = tests.prefix.clone();
        source.push_str(code);
        let limits =
            Limits { steps: config.max_steps, bytes: config.max_memory_mb << 20, recursion: config.max_recursion };
        let program = Program { setup: &tests.setup, source: &source, tests: &tests.each };
        let outcome = program.run(&limits, config.mode == Mode::All);
        Ok(match outcome {
            Ok(outcome) => match outcome.first_failure {
                None => value(1.0),
                Some(note) if config.mode == Mode::Fraction => {
                    value_because(outcome.passed as f64 / tests.each.len() as f64, note)
                }
                Some(note) => value_because(0.0, note),
            },
            Err(Failure::Completion(note)) => value_because(config.score_on_error, note),
            Err(Failure::Row(note)) => Score { value: None, note: Some(note) },
        })
    }
}

plugin_sdk::register_reward!(
    CodeTests,
    name: "code-tests",
    description: "Runs the Python of a completion against tests, in the sandbox",
);

#[cfg(test)]
mod tests;
