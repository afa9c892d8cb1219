//! Learning rate as a function of the step. The same numbers as transformers' `get_scheduler` gives: the factor of
//! step `s` (counted from 0) is what optimizer step `s + 1` uses.

/// Shape of the learning rate (`lr_scheduler`).
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Down to zero along half a cosine (`get_cosine_schedule_with_warmup`).
    Cosine,
    /// Down to zero along a line (`get_linear_schedule_with_warmup`).
    Linear,
    /// The same throughout (`get_constant_schedule`); no warm-up.
    Constant,
    /// The same after the warm-up (`get_constant_schedule_with_warmup`).
    ConstantWithWarmup,
    /// What a schedule plugin gave for each step of the run, before it started.
    Factors(Vec<f64>),
}

/// A whole run's learning rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// How it goes after the warm-up.
    pub shape: Shape,
    /// The highest value (`learning_rate`).
    pub peak: f64,
    /// Steps of linear rise from zero.
    pub warmup_steps: u64,
    /// Steps of the run.
    pub total_steps: u64,
    /// The cosine ends at this share of the peak instead of zero (`cosine_min_lr_ratio`).
    pub min_ratio: f64,
}

impl Schedule {
    /// Learning rate of the optimizer step after `step` finished ones.
    pub fn at(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        match &self.shape {
            Shape::Constant => return 1.0,
            Shape::Factors(factors) => {
                let index = usize::try_from(step).unwrap_or(usize::MAX);
                return factors.get(index).or(factors.last()).copied().unwrap_or(1.0);
            }
            Shape::Cosine | Shape::Linear | Shape::ConstantWithWarmup => {}
        }
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps.max(1) as f64;
        }
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = (step - self.warmup_steps) as f64 / span;
        match &self.shape {
            Shape::Constant | Shape::ConstantWithWarmup | Shape::Factors(_) => 1.0,
            Shape::Linear => (1.0 - progress).max(0.0),
            Shape::Cosine => {
                let wave = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
                (wave * (1.0 - self.min_ratio) + self.min_ratio).max(0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// transformers 5.23.0, `get_scheduler(name, AdamW(lr=2e-3), 3, 10)`, `get_last_lr()` before each step.
    const LINEAR: [f64; 10] = [
        0.0,
        0.0006666666666666666,
        0.0013333333333333333,
        0.002,
        0.0017142857142857142,
        0.0014285714285714286,
        0.0011428571428571427,
        0.0008571428571428571,
        0.0005714285714285714,
        0.0002857142857142857,
    ];
    const COSINE: [f64; 10] = [
        0.0,
        0.0006666666666666666,
        0.0013333333333333333,
        0.002,
        0.001900968867902419,
        0.0016234898018587336,
        0.0012225209339563144,
        0.0007774790660436857,
        0.0003765101981412665,
        9.903113209758097e-05,
    ];
    const COSINE_MIN: [f64; 10] = [
        0.0,
        0.0006666666666666666,
        0.0013333333333333333,
        0.002,
        0.0019108719811121771,
        0.0016611408216728604,
        0.001300268840560683,
        0.0008997311594393172,
        0.0005388591783271399,
        0.00028912801888782293,
    ];

    fn check(shape: Shape, min_ratio: f64, expected: [f64; 10]) {
        let schedule = Schedule { shape: shape.clone(), peak: 2e-3, warmup_steps: 3, total_steps: 10, min_ratio };
        for (step, expected) in expected.into_iter().enumerate() {
            let found = schedule.at(step as u64);
            assert!((found - expected).abs() <= 1e-15, "{shape:?} step {step}: {found} for {expected}");
        }
    }

    #[test]
    fn equals_transformers() {
        check(Shape::Linear, 0.0, LINEAR);
        check(Shape::Cosine, 0.0, COSINE);
        check(Shape::Cosine, 0.1, COSINE_MIN);
    }

    #[test]
    fn a_plugins_factors_are_taken_as_they_are() {
        check(Shape::Factors(COSINE.map(|rate| rate / 2e-3).to_vec()), 0.0, COSINE);
    }

    #[test]
    fn constant_ignores_the_warm_up_and_its_sibling_does_not() {
        let schedule = |shape| Schedule { shape, peak: 1.0, warmup_steps: 4, total_steps: 10, min_ratio: 0.0 };
        assert!((schedule(Shape::Constant).at(0) - 1.0).abs() < 1e-15);
        assert!((schedule(Shape::ConstantWithWarmup).at(1) - 0.25).abs() < 1e-15);
        assert!((schedule(Shape::ConstantWithWarmup).at(9) - 1.0).abs() < 1e-15);
    }
}
