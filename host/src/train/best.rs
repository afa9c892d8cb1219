//! Which evaluation of a run was the best, and what follows from it: a checkpoint, an early end, the run's result.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Config, SaveStrategy};
use crate::diagnostic::Diagnostic;
use crate::report::metrics::EvalRecord;

/// How evaluations are held against each other, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judge {
    /// The number of an evaluation that counts, as its line has it.
    pub metric: String,
    /// More of it is better.
    pub greater: bool,
    /// Evaluations in a row that may be no better than the best before the run ends.
    pub patience: Option<u64>,
    /// The best so far is saved.
    pub saves: bool,
    /// The best is the result of the run.
    pub loads: bool,
}

/// The best evaluation so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// After which step.
    pub step: u64,
    /// What it had.
    pub value: f64,
    /// Evaluations since then.
    pub since: u64,
    /// Its line.
    pub record: Value,
}

impl Judge {
    /// As the config says; none where it makes nothing of the best.
    pub fn of(config: &Config) -> Option<Self> {
        let own = &config.techniques;
        let (loads, is_best) = (own.load_best_model_at_end, config.save_strategy == SaveStrategy::Best);
        let (metric, greater) = own.metric();
        let judge = Self { metric, greater, patience: own.early_stopping_patience, saves: loads || is_best, loads };
        (judge.saves || judge.patience.is_some()).then_some(judge)
    }

    /// What an evaluation has of the metric.
    ///
    /// # Errors
    /// One that has no such number, with those that it has.
    pub fn value(&self, record: &EvalRecord) -> Result<f64, Diagnostic> {
        let losses = [("eval_loss", record.eval_loss), ("eval_perplexity", record.eval_perplexity)];
        let losses = losses.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let others = record.metrics.iter().chain(&record.rewards).map(|(name, value)| (name.as_str(), *value));
        let numbers: Vec<(&str, f64)> = losses.chain(others).collect();
        let found = numbers.iter().find(|(name, _)| *name == self.metric).map(|(_, value)| *value);
        found.ok_or_else(|| {
            let names: Vec<String> = numbers.iter().map(|(name, _)| format!("`{name}`")).collect();
            Diagnostic::error("run::no-metric", format!("evaluations of this run have no `{}`", self.metric))
                .why("it is to tell which of them is the best")
                .help(format!("write one that they have as `metric_for_best_model`: {}", names.join(", ")))
        })
    }

    /// Takes an evaluation after some training into account. True where it is the best so far.
    ///
    /// # Errors
    /// As [`Self::value`].
    pub fn take(&self, record: &EvalRecord, best: &mut Option<Best>) -> Result<bool, Diagnostic> {
        let value = self.value(record)?;
        let is_better = |than: f64| if self.greater { value > than } else { value < than };
        match best {
            Some(best) if !is_better(best.value) => {
                best.since += 1;
                Ok(false)
            }
            // A number that is none is better than nothing, and worse than any other.
            _ if !value.is_finite() => Ok(false),
            _ => {
                let record = serde_json::to_value(record).unwrap_or_default();
                *best = Some(Best { step: record["step"].as_u64().unwrap_or_default(), value, since: 0, record });
                Ok(true)
            }
        }
    }

    /// The run is to end: it has not become better for too long.
    pub fn is_over(&self, best: Option<&Best>) -> bool {
        self.patience.zip(best).is_some_and(|(patience, best)| best.since >= patience)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn record(step: u64, loss: f64) -> EvalRecord {
        let rewards = BTreeMap::from([("rewards/exact-match/mean".to_owned(), -loss)]);
        EvalRecord {
            step,
            eval_loss: Some(loss),
            eval_perplexity: None,
            metrics: BTreeMap::new(),
            rewards,
            eval_seconds: 0.0,
        }
    }

    fn judge(metric: &str, greater: bool) -> Judge {
        Judge { metric: metric.into(), greater, patience: Some(2), saves: true, loads: true }
    }

    #[test]
    fn the_best_is_kept_and_patience_ends() {
        for (metric, greater) in [("eval_loss", false), ("rewards/exact-match/mean", true)] {
            let (judge, mut best) = (judge(metric, greater), None);
            let losses = [3.0, 2.0, 2.0, 1.5, 1.6, 1.5];
            let better: Vec<bool> = losses
                .iter()
                .zip(1..)
                .map(|(&loss, step)| {
                    assert!(!judge.is_over(best.as_ref()));
                    judge.take(&record(step, loss), &mut best).unwrap()
                })
                .collect();
            assert_eq!(better, [true, true, false, true, false, false]);
            assert!(judge.is_over(best.as_ref()));
            let best = best.unwrap();
            assert_eq!((best.step, best.since, best.record["eval_loss"].as_f64()), (4, 2, Some(1.5)));
        }
    }

    #[test]
    fn what_is_no_number_is_never_the_best() {
        let (judge, mut best) = (judge("eval_loss", false), None);
        assert!(!judge.take(&record(1, 1.0), &mut best).is_err_and(|_| true));
        assert!(!judge.take(&record(2, f64::INFINITY), &mut best).unwrap());
        assert_eq!(best.unwrap().since, 1);
        let error = Judge { metric: "eval_accuracy".into(), ..judge }.value(&record(1, 1.0)).unwrap_err();
        assert_eq!(error.message, "evaluations of this run have no `eval_accuracy`");
        assert!(error.help.unwrap().ends_with("`eval_loss`, `rewards/exact-match/mean`"));
    }
}
