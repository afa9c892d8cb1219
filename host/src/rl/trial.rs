//! Rewards tried before a run: each judges completions that are known, such as the dataset's own references. A reward that
//! finds no answer in them, or likes none, shows before a weight is loaded.

use std::time::{Duration, Instant};

use plugin_runtime::Cause;
use plugin_runtime::types::{Context, Item};

use super::advantage::moments;
use super::reward::{NamedReward, abstains, is_fault_code};
use crate::diagnostic::{Diagnostic, Failure, Place};
use crate::terminal::Safe;

/// Completions that are judged: enough to show a column that is not the right one, and few enough for rewards that run programs.
pub const SAMPLES: usize = 64;
/// After this time a reward is given no more of them.
const PATIENCE: Duration = Duration::from_mins(1);
/// Nor after so many that it failed on.
const FAILURES: usize = 3;
/// Completions that a message names.
const NAMED: usize = 3;
/// Characters of a completion, and of what a reward says of it, in a message.
const SHOWN: usize = 80;
/// Bytes of a completion that goes on and on.
const LONG: usize = 64 << 10;

/// A completion to judge.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// What a reward is told of it.
    pub item: Item,
    /// What a person finds it by (`sample 3`).
    pub position: String,
}

/// What a reward made of a completion.
#[derive(Debug, Clone, PartialEq)]
enum Verdict {
    /// A score, and what it says of it.
    Score(f64, Option<String>),
    /// None, and what it says of that.
    Abstains(Option<String>),
    /// It failed, and `on_error` lets a run go on.
    Fails(Box<Diagnostic>),
}

/// What a reward made of some completions.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// As in the config.
    pub name: String,
    /// Of the first completions, one each; not of all where it took too long or failed.
    verdicts: Vec<Verdict>,
    /// Seconds that it took.
    seconds: f64,
    /// It takes off what is bad: 0 is its best.
    is_penalty: bool,
    /// What would end a run.
    failure: Option<Failure>,
}

impl Trial {
    /// Lets a reward whose `on_error` is `fail` judge completions, so many at a time as in the run. With `goes_on`, the config has
    /// another `on_error`.
    pub fn new(
        reward: &mut NamedReward,
        goes_on: bool,
        candidates: &[Candidate],
        at_a_time: usize,
        context: &Context,
    ) -> Self {
        let items: Vec<Item> = candidates.iter().map(|candidate| candidate.item.clone()).collect();
        let (mut verdicts, mut failure) = (Vec::new(), None);
        let began = Instant::now();
        let fails =
            |verdicts: &[Verdict]| verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Fails(_))).count();
        for items in items.chunks(at_a_time.max(1)) {
            if began.elapsed() > PATIENCE || fails(&verdicts) >= FAILURES {
                break;
            }
            let together = judge(reward, items, context);
            let judged = match together {
                Err(error) if goes_on && is_fault(&error) => items
                    .iter()
                    .map(|item| match judge(reward, std::slice::from_ref(item), context) {
                        Err(mut error) if is_fault(&error) => {
                            Ok(error.0.pop().map(|error| Verdict::Fails(Box::new(error))).into_iter().collect())
                        }
                        judged => judged,
                    })
                    .collect::<Result<Vec<Vec<Verdict>>, Failure>>()
                    .map(|judged| judged.into_iter().flatten().collect()),
                judged => judged,
            };
            match judged {
                Ok(judged) => verdicts.extend(judged),
                Err(mut error) => {
                    name(&mut error, &candidates[verdicts.len()..]);
                    failure = Some(error);
                    break;
                }
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let mut trial = Self { name: reward.name().to_owned(), verdicts, seconds, is_penalty: false, failure };
        trial.is_penalty = match trial.best() {
            Some(0.0) => trial.values().any(|value| value < 0.0) || takes_off(reward, &items, context),
            _ => false,
        };
        trial
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        self.verdicts.iter().filter_map(|verdict| match verdict {
            Verdict::Score(value, _) => Some(*value),
            _ => None,
        })
    }

    fn best(&self) -> Option<f64> {
        self.values().reduce(f64::max)
    }

    /// Mean and standard deviation of the scores; none where there are too few.
    pub fn moments(&self) -> [Option<f64>; 2] {
        let values: Vec<Option<f64>> = self.values().map(Some).collect();
        let (mean, deviation) = moments(&values);
        [mean, deviation].map(|number| Some(number).filter(|number| number.is_finite()))
    }

    /// Completions that it was given.
    pub fn seen(&self) -> usize {
        self.verdicts.len()
    }

    /// Of those, the ones that have a score.
    pub fn judged(&self) -> usize {
        self.values().count()
    }

    /// Of those, the ones that it failed on.
    pub fn errors(&self) -> usize {
        self.verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Fails(_))).count()
    }

    /// Seconds for a completion; none where it has seen none.
    pub fn seconds_each(&self) -> Option<f64> {
        (self.seen() > 0).then(|| self.seconds / self.seen() as f64)
    }

    /// What is wrong, for a person. `are_references` says that the completions are known to be good.
    pub fn remarks(&self, candidates: &[Candidate], are_references: bool, place: Option<&Place>) -> Vec<Diagnostic> {
        let what = if are_references { "references" } else { "completions" };
        let mut found: Vec<Diagnostic> = self.failure.iter().flat_map(|failure| failure.0.clone()).collect();
        found.extend(self.failed(candidates, what));
        if self.judged() == 0 && self.errors() < self.seen() {
            found.push(self.abstains(what));
        }
        found.extend(are_references.then(|| self.unrewarded(candidates)).flatten());
        for diagnostic in &mut found {
            if diagnostic.place.is_none() {
                diagnostic.place = place.cloned();
            }
        }
        found
    }

    fn failed<'t>(&'t self, candidates: &'t [Candidate], what: &str) -> Option<Diagnostic> {
        let failed = |(verdict, candidate): (&'t Verdict, &'t Candidate)| match (verdict, candidate) {
            (Verdict::Fails(error), candidate) => Some((error, candidate)),
            _ => None,
        };
        let failed: Vec<(&Box<Diagnostic>, &Candidate)> =
            self.verdicts.iter().zip(candidates).filter_map(failed).collect();
        let (first, _) = failed.first()?;
        let message = format!("the reward `{}` failed on {} of {} {what}", self.name, failed.len(), self.seen());
        let diagnostic = Diagnostic::warning("rl::reward-failed", message).why(first.message.clone());
        let diagnostic = diagnostic.help("a run would count these and go on, as its `on_error` says; tell its author");
        Some(
            failed
                .iter()
                .take(NAMED)
                .fold(diagnostic, |diagnostic, (_, candidate)| diagnostic.note(named(candidate, None))),
        )
    }

    fn abstains(&self, what: &str) -> Diagnostic {
        let message = format!("the reward `{}` judges none of {} {what}", self.name, self.seen());
        let note = self.verdicts.iter().find_map(|verdict| match verdict {
            Verdict::Abstains(note) => note.as_deref(),
            _ => None,
        });
        abstains(message, note)
    }

    /// References that are worth nothing.
    fn unrewarded<'t>(&'t self, candidates: &'t [Candidate]) -> Option<Diagnostic> {
        let worthless = |(verdict, candidate): (&'t Verdict, &'t Candidate)| match (verdict, candidate) {
            (Verdict::Score(value, note), candidate) if *value <= 0.0 => Some((*value, note, candidate)),
            _ => None,
        };
        let found: Vec<(f64, &Option<String>, &Candidate)> =
            self.verdicts.iter().zip(candidates).filter_map(worthless).collect();
        if found.is_empty() || self.is_penalty {
            return None;
        }
        let or_less = if found.iter().any(|(value, ..)| *value < 0.0) { " or less" } else { "" };
        let count = if found.len() == self.judged() { "each".to_owned() } else { format!("{}", found.len()) };
        let message = format!("the reward `{}` gives {count} of {} references 0{or_less}", self.name, self.judged());
        let diagnostic = Diagnostic::warning("rl::reference", message)
            .why("a reference is what a good completion may be; what is as good would earn nothing either")
            .help("compare what the reward reads with the rows; where it wants a form that references do not have, such as tags, try it on completions that have it: `--completions FILE`");
        Some(
            found.into_iter().take(NAMED).fold(diagnostic, |diagnostic, (_, note, candidate)| {
                diagnostic.note(named(candidate, note.as_deref()))
            }),
        )
    }
}

fn judge(reward: &mut NamedReward, items: &[Item], context: &Context) -> Result<Vec<Verdict>, Failure> {
    let verdicts = reward.score(items, context)?.scores.into_iter().map(|score| match score.value {
        Some(value) => Verdict::Score(value, score.note),
        None => Verdict::Abstains(score.note),
    });
    Ok(verdicts.collect())
}

fn is_fault(failure: &Failure) -> bool {
    failure.0.iter().all(|diagnostic| is_fault_code(&diagnostic.code))
}

/// Says of a failed call which completion it was.
fn name(failure: &mut Failure, candidates: &[Candidate]) {
    for call in failure.0.iter_mut().filter_map(|diagnostic| diagnostic.failed_call.as_mut()) {
        if let Cause::Alone(item) | Cause::After(item) = call.cause {
            call.position = candidates.get(item).map(|candidate| candidate.position.clone());
        }
    }
}

/// Whether a reward that gives references 0 takes something off for others: an empty completion, and one that goes on and on.
fn takes_off(reward: &mut NamedReward, items: &[Item], context: &Context) -> bool {
    let Some(item) = items.first() else { return false };
    let times = (LONG / item.completion.len().max(1)).max(2);
    let empty = Item { completion: String::new(), completion_tokens: 0, ..item.clone() };
    let long = Item {
        completion: item.completion.repeat(times),
        completion_tokens: item.completion_tokens.saturating_mul(times as u32),
        finished: false,
        ..item.clone()
    };
    [empty, long].into_iter().any(|item| {
        let scored = reward.score(&[item], context);
        scored.is_ok_and(|scored| scored.scores.iter().any(|score| score.value.is_some_and(|value| value < 0.0)))
    })
}

fn named(candidate: &Candidate, note: Option<&str>) -> String {
    let completion = Safe::excerpt(&candidate.item.completion, SHOWN);
    let note = note.map_or_else(String::new, |note| format!(": {}", Safe::excerpt(note, SHOWN)));
    format!("{}, `{completion}`{note}", candidate.position)
}

#[cfg(test)]
mod tests {
    use plugin_runtime::PluginError;
    use plugin_runtime::types::Score;

    use super::*;
    use crate::config::OnError;
    use crate::rl::reward::Reward;

    /// Gives what a completion says: a number, `none`, or a failure.
    struct Says;

    impl Reward for Says {
        fn score(&mut self, items: &[Item], context: &Context) -> Result<Vec<Score>, PluginError> {
            self.try_score(items, context)
        }

        fn try_score(&mut self, items: &[Item], _: &Context) -> Result<Vec<Score>, PluginError> {
            let score = |item: &Item| match item.completion.as_str() {
                "crash" => Err(PluginError::new("plugin::trap", "plugin `says` crashed")),
                "refuse" => Err(PluginError::new("plugin::failed", "plugin `says`: no")),
                "none" => Ok(Score { value: None, note: Some("nothing\nto say".to_owned()) }),
                number => Ok(Score { value: Some(number.parse().unwrap_or(-1.0)), note: Some("so".to_owned()) }),
            };
            items.iter().map(score).collect()
        }
    }

    fn candidates(completions: &[&str]) -> Vec<Candidate> {
        let candidate = |(index, completion): (usize, &&str)| Candidate {
            item: Item {
                prompt: String::new(),
                completion: (*completion).to_owned(),
                completion_tokens: 1,
                finished: true,
                reference: (*completion).to_owned(),
                row_json: "{}".to_owned(),
            },
            position: format!("sample {}", index + 1),
        };
        completions.iter().enumerate().map(candidate).collect()
    }

    fn trial(goes_on: bool, completions: &[&str]) -> (Trial, Vec<String>) {
        let candidates = candidates(completions);
        let mut reward = NamedReward::new("says".to_owned(), Says, OnError::Fail);
        let context = Context { step: 1, total_steps: 1, seed: 0 };
        let trial = Trial::new(&mut reward, goes_on, &candidates, 2, &context);
        let remarks = trial.remarks(&candidates, true, None);
        (trial, remarks.into_iter().map(|remark| format!("{}: {:?}", remark.code, remark.notes)).collect())
    }

    #[test]
    fn good_references_are_nothing_to_remark() {
        let (trial, remarks) = trial(false, &["1", "0.5", "none"]);
        assert_eq!(remarks, Vec::<String>::new());
        assert_eq!((trial.seen(), trial.judged(), trial.errors()), (3, 2, 0));
        assert_eq!(trial.moments()[0], Some(0.75));
    }

    #[test]
    fn references_that_are_worth_nothing_are_named() {
        let (_, remarks) = trial(false, &["1", "0", "0", "none", "-2"]);
        assert_eq!(remarks, [r#"rl::reference: ["sample 2, `0`: so", "sample 3, `0`: so", "sample 5, `-2`: so"]"#]);
    }

    /// An empty completion is worth less than 0 to this reward.
    #[test]
    fn a_penalty_gives_good_completions_0() {
        assert_eq!(trial(false, &["0", "0"]).1, Vec::<String>::new());
        assert_eq!(trial(false, &["0", "-0.5"]).1, Vec::<String>::new());
        assert_eq!(trial(false, &["-1", "-0.5"]).1.len(), 1, "but not each of them less");
    }

    #[test]
    fn a_reward_that_says_nothing_is_told_of() {
        assert_eq!(trial(false, &["none", "none"]).1, [r#"rl::abstains: ["it says: nothing to say"]"#]);
    }

    #[test]
    fn a_failure_ends_it_where_it_would_end_a_run() {
        let (ended, remarks) = trial(false, &["1", "1", "crash", "1"]);
        assert_eq!((ended.seen(), remarks[0].starts_with("plugin::trap")), (2, true));
        let (all, remarks) = trial(true, &["1", "1", "crash", "1"]);
        assert_eq!((all.seen(), all.judged(), all.errors()), (4, 3, 1));
        assert_eq!(remarks, [r#"rl::reward-failed: ["sample 3, `crash`"]"#]);
        assert!(trial(true, &["1", "refuse"]).1[0].starts_with("plugin::failed"), "what it says is no crash");
        assert_eq!(trial(true, &["crash"; 60]).0.seen(), 4, "it is left at that");
    }
}
