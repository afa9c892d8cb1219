//! What the model wrote in an evaluation, to look at: the sample that rewards liked most and the one that they liked least.

use crate::terminal::Safe;

/// Characters of a completion that are shown.
const COMPLETION: usize = 72;
/// Characters of what the data says.
const REFERENCE: usize = 36;

/// A completion with what rewards gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What the model wrote.
    pub completion: String,
    /// What the data says.
    pub reference: String,
    /// The sum of the rewards that judged it.
    pub reward: f64,
}

/// The best and the worst of an evaluation; of equal ones the first.
#[derive(Debug, Clone, PartialEq)]
pub struct Extremes {
    best: Sample,
    worst: Sample,
}

impl Extremes {
    /// Those of the samples so far, and one more.
    pub fn with(extremes: Option<Self>, sample: Sample) -> Self {
        let Some(mut extremes) = extremes else { return Self { best: sample.clone(), worst: sample } };
        if sample.reward > extremes.best.reward {
            extremes.best = sample;
        } else if sample.reward < extremes.worst.reward {
            extremes.worst = sample;
        }
        extremes
    }

    /// A line each; one where all samples have the same reward.
    pub fn lines(&self) -> Vec<Safe> {
        let line = |word: &str, sample: &Sample| {
            let mut line = Safe::line(&format!("  {word:<5}  {:>6.3}  ", sample.reward));
            line.push(&Safe::excerpt(&sample.completion, COMPLETION));
            let reference = Safe::excerpt(&sample.reference, REFERENCE);
            if reference != Safe::default() {
                line.push(&Safe::line("  (wanted: "));
                line.push(&reference);
                line.push(&Safe::line(")"));
            }
            line
        };
        if self.best.reward > self.worst.reward {
            vec![line("best", &self.best), line("worst", &self.worst)]
        } else {
            vec![line("all", &self.best)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(samples: &[(&str, f64)]) -> Vec<String> {
        let sample = |&(completion, reward): &(&str, f64)| Sample {
            completion: completion.to_owned(),
            reference: "so\nit is".to_owned(),
            reward,
        };
        let extremes = samples.iter().map(sample).fold(None, |all, sample| Some(Extremes::with(all, sample)));
        extremes.unwrap().lines().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_of_the_best_and_of_the_worst_are_shown() {
        let found = lines(&[("a", 0.5), ("b", 1.0), ("c", -0.25), ("d", 1.0), ("e", -0.25)]);
        assert_eq!(found, ["  best    1.000  b  (wanted: so it is)", "  worst  -0.250  c  (wanted: so it is)"]);
        assert_eq!(lines(&[("a", 0.0), ("b", 0.0)]), ["  all     0.000  a  (wanted: so it is)"]);
    }

    #[test]
    fn a_line_is_short_and_safe() {
        let hostile = "\u{1b}[2J\nhost: done ".repeat(1000);
        let found = lines(&[(&hostile, 1.0), ("", 0.0)]);
        assert!(found[0].starts_with("  best    1.000  \\u{1b}[2J host: done"), "{found:?}");
        assert!(found.iter().all(|line| line.chars().count() < 130 && !line.contains(char::is_control)), "{found:?}");
    }
}
