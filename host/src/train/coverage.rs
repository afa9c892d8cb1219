//! The gradient-coverage check: every parameter that is to be trained must get a finite gradient that is not zero.
//! A layer that is silently cut off trains to nothing, and no loss curve shows it.

use std::collections::BTreeSet;

use engine::GradientReport;

/// What is wrong with a gradient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uncovered {
    /// It has NaN or infinite values.
    NotFinite(String),
    /// It is zero throughout.
    Zero(String),
}

/// Watches the first steps until every parameter was seen to learn.
#[derive(Debug, Default)]
pub struct Coverage {
    started: bool,
    waiting: BTreeSet<String>,
}

impl Coverage {
    /// True once there is nothing left to look for.
    pub fn is_done(&self) -> bool {
        self.started && self.waiting.is_empty()
    }

    /// Looks at the gradients of one step. `context` is the longest stretch of tokens that any prediction of the step
    /// could look back on.
    ///
    /// Two zeros are right and only wait for a later step: a LoRA `A` as long as its `B` is still zero (PEFT starts
    /// there, and a warm-up's first step leaves it there), and query and key projections as long as every prediction
    /// has only one token to look at.
    pub fn check(
        &mut self,
        reports: &[GradientReport],
        b_is_zero: impl Fn(&str) -> bool,
        context: usize,
    ) -> Vec<Uncovered> {
        let first = !self.started;
        self.started = true;
        let mut found = Vec::new();
        for report in reports {
            let name = &report.name;
            if !first && !self.waiting.contains(name) {
                continue;
            }
            if !report.finite {
                found.push(Uncovered::NotFinite(name.clone()));
            } else if report.norm > 0.0 {
                self.waiting.remove(name);
            } else if may_wait(name, &b_is_zero, context) {
                self.waiting.insert(name.clone());
            } else {
                found.push(Uncovered::Zero(name.clone()));
            }
        }
        found
    }
}

fn may_wait(name: &str, b_is_zero: impl Fn(&str) -> bool, context: usize) -> bool {
    if (name.contains("q_proj") || name.contains("k_proj")) && context <= 1 {
        return true;
    }
    name.contains(".lora_A.") && b_is_zero(&name.replace(".lora_A.", ".lora_B."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, norm: f64) -> GradientReport {
        GradientReport { name: name.into(), norm, finite: norm.is_finite() }
    }

    #[test]
    fn names_what_does_not_learn() {
        let mut coverage = Coverage::default();
        let reports = [report("a", 1.0), report("b", 0.0), report("c", f64::NAN)];
        assert_eq!(
            coverage.check(&reports, |_| false, 10),
            [Uncovered::Zero("b".into()), Uncovered::NotFinite("c".into())]
        );
    }

    #[test]
    fn lora_a_waits_for_its_b_and_no_longer() {
        let mut coverage = Coverage::default();
        let reports = |a| [report("x.lora_A.weight", a), report("x.lora_B.weight", 1.0)];
        assert_eq!(coverage.check(&reports(0.0), |_| true, 10), []);
        assert!(!coverage.is_done());
        assert_eq!(coverage.check(&reports(0.0), |_| false, 10), [Uncovered::Zero("x.lora_A.weight".into())]);
        assert_eq!(coverage.check(&reports(0.5), |_| false, 10), []);
        assert!(coverage.is_done());
    }

    #[test]
    fn attention_over_one_token_says_nothing_about_its_queries() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.check(&[report("l.q_proj.weight", 0.0)], |_| false, 1), []);
        assert_eq!(coverage.check(&[report("l.q_proj.weight", 0.0)], |_| false, 2).len(), 1);
    }
}
