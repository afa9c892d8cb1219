//! One completion run against its tests, within limits.

use std::fmt::Write as _;

use monty::{MontyRepl, MontyRun};
use monty_types::{AssertMessageAnnotations, CompileOptions, ExcType, MontyException, PrintWriter};

use crate::budget::{Budget, Limits, has_no_bytes_left};
use crate::nesting::too_deep;

/// Calls within calls, and values within values that are compared or shown, that fit the stack of the sandbox (512 KiB).
/// Measured on x86-64: sets within sets, compared inside of `__eq__`, overflow it between 350 and 400.
pub(crate) const MAX_RECURSION: usize = 250;
/// Bytes of source; more is not parsed.
const MAX_SOURCE: usize = 256 << 10;
/// Characters of an exception's message in a note.
const MESSAGE: usize = 120;

/// A note names the test; what its operands were would be the completion's own words.
const OPTIONS: CompileOptions = CompileOptions { assert_message_annotations: AssertMessageAnnotations::Off };

/// What is run: for each test anew, the setup, the completion, the test.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) setup: &'a str,
    pub(crate) source: &'a str,
    pub(crate) tests: &'a [String],
}

/// What the tests said.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) passed: usize,
    pub(crate) first_failure: Option<String>,
}

/// Why there is nothing to say about tests.
#[derive(Debug, PartialEq)]
pub(crate) enum Failure {
    /// The completion does not run.
    Completion(String),
    /// The row's own code does not.
    Row(String),
}

impl Program<'_> {
    /// Runs all tests, or those up to the first failure.
    pub(crate) fn run(&self, limits: &Limits, stop_at_failure: bool) -> Result<Outcome, Failure> {
        judge(self.source).map_err(Failure::Completion)?;
        for code in self.tests.iter().map(String::as_str).chain([self.setup]) {
            if !code.trim().is_empty() {
                let compiled = judge(code).and_then(|()| {
                    MontyRun::new(code.to_owned(), "test", Vec::new(), OPTIONS).map_err(|error| describe(&error, true))
                });
                compiled.map_err(|note| Failure::Row(format!("a test or its setup: {note}")))?;
            }
        }
        let budget = Budget::start(limits);
        let mut outcome = Outcome { passed: 0, first_failure: None };
        for (index, test) in self.tests.iter().enumerate() {
            match self.run_one(test, &budget)? {
                Ok(()) => outcome.passed += 1,
                Err(note) => {
                    outcome.first_failure.get_or_insert(format!("{note} in test {}", index + 1));
                    if stop_at_failure || budget.is_spent() {
                        break;
                    }
                }
            }
        }
        Ok(outcome)
    }

    /// One test, in an interpreter of its own.
    fn run_one(&self, test: &str, budget: &Budget) -> Result<Result<(), String>, Failure> {
        let mut interpreter = MontyRepl::new("completion", budget.tracker(), OPTIONS);
        if !self.setup.trim().is_empty() {
            feed(&mut interpreter, self.setup)
                .map_err(|error| Failure::Row(format!("the setup: {}", describe(&error, true))))?;
        }
        feed(&mut interpreter, self.source).map_err(|error| Failure::Completion(describe(&error, true)))?;
        Ok(feed(&mut interpreter, test).map_err(|error| describe(&error, false)))
    }
}

/// What is not even given to the parser.
fn judge(source: &str) -> Result<(), String> {
    if source.trim().is_empty() {
        return Err("no code".to_owned());
    }
    if source.len() > MAX_SOURCE {
        return Err(format!("source of more than {} KiB", MAX_SOURCE >> 10));
    }
    if source.contains('\0') {
        return Err("NUL byte in the source".to_owned());
    }
    match too_deep(source) {
        Some(line) => Err(format!("nested too deep at line {line}")),
        None => Ok(()),
    }
}

fn feed(interpreter: &mut MontyRepl, code: &str) -> Result<(), MontyException> {
    // The value of a last expression would be taken out of the interpreter, whatever its size and depth: make it None.
    let code = format!("{code}\n\nNone\n");
    interpreter.feed_run(&code, Vec::new(), PrintWriter::Disabled).map(drop)
}

/// A few words for a person.
fn describe(error: &MontyException, with_line: bool) -> String {
    let message = error.message().unwrap_or_default();
    let line = error.traceback().iter().rev().map(|frame| frame.start.line).next();
    let mut words = match error.exc_type() {
        ExcType::TimeoutError if message.starts_with("time limit") => return "step limit".to_owned(),
        ExcType::MemoryError if has_no_bytes_left() => return "step limit".to_owned(),
        ExcType::MemoryError if message.starts_with("memory limit") => return "memory limit".to_owned(),
        ExcType::RecursionError => return "recursion limit".to_owned(),
        ExcType::SyntaxError => format!("syntax error: {message}"),
        other if message.is_empty() => other.to_string(),
        other => format!("{other}: {message}"),
    };
    words = words.replace(|character: char| character.is_control(), " ");
    if let Some((end, _)) = words.char_indices().nth(MESSAGE) {
        words.truncate(end);
        words.push('…');
    }
    if with_line && let Some(line) = line {
        let _ = write!(words, " at line {line}");
    }
    words
}
