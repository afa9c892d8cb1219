//! Progress on stderr: one bar on a terminal, a plain line per logged step elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::{EvalRecord, TrainRecord};
use super::samples::Extremes;
use crate::terminal::{self, Safe};

/// Weight of the newest loss in the shown average.
const SMOOTHING: f64 = 0.1;

/// The bar, or the plain lines in its place.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    total_steps: u64,
    loss: Option<f64>,
}

impl Progress {
    /// A bar over `total_steps`, if stderr is a terminal.
    pub fn new(total_steps: u64, finished_steps: u64) -> Self {
        let terminal = terminal::stderr_is_terminal();
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(Some(total_steps), ProgressDrawTarget::stderr());
            let template = "{bar:32} {pos}/{len} steps  {msg}  {elapsed} elapsed, {eta} left";
            bar.set_style(
                ProgressStyle::with_template(template).expect("the template is a constant").progress_chars("━━ "),
            );
            bar.set_position(finished_steps);
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Self { bar, total_steps, loss: None }
    }

    /// After a step.
    pub fn step(&mut self, record: &TrainRecord, log: bool) {
        let smooth = self.loss.map_or(record.loss, |loss| loss + SMOOTHING * (record.loss - loss));
        self.loss = Some(smooth);
        if let Some(bar) = &self.bar {
            bar.set_message(format!("loss {smooth:.4}{}  {} tok/s", judged(record), whole(record.tokens_per_second)));
            bar.set_position(record.step);
        } else if log {
            let line = format!(
                "step {}/{}  loss {:.4}{}  grad norm {:.3}  lr {:.2e}  {} tok/s",
                record.step,
                self.total_steps,
                record.loss,
                judged(record),
                record.grad_norm,
                record.learning_rate,
                whole(record.tokens_per_second)
            );
            terminal::say(&Safe::line(&line));
        }
    }

    /// After an evaluation, with samples of it.
    pub fn eval(&mut self, record: &EvalRecord, extremes: Option<&Extremes>) {
        let mut line = format!("step {}/{}", record.step, self.total_steps);
        if let Some(loss) = record.eval_loss {
            line.push_str(&format!("  eval loss {loss:.4}"));
        }
        if let Some(accuracy) = record.metrics.get("eval_rewards/accuracies") {
            line.push_str(&format!("  accuracy {accuracy:.3}"));
        }
        for (name, value) in &record.rewards {
            if name.ends_with("/mean") || *value > 0.0 {
                line.push_str(&format!("  {name} {value:.3}"));
            }
        }
        self.say(&Safe::line(&line));
        extremes.iter().flat_map(|extremes| extremes.lines()).for_each(|line| self.say(&line));
    }

    /// A line above the bar.
    pub fn say(&self, line: &Safe) {
        match &self.bar {
            Some(bar) => bar.suspend(|| terminal::say(line)),
            None => terminal::say(line),
        }
    }

    /// Takes the bar away.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// What matters more than the loss, where there is such a thing.
fn judged(record: &TrainRecord) -> String {
    let metric = |name: &str, words: &str| record.metrics.get(name).map(|value| format!("  {words} {value:.3}"));
    metric("reward", "reward").or_else(|| metric("rewards/accuracies", "accuracy")).unwrap_or_default()
}

/// A count with spaces between thousands.
pub fn whole(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// An amount of memory or disk, in the largest unit that leaves it readable.
pub fn bytes(value: u64) -> String {
    let megabytes = value as f64 / 1e6;
    match megabytes {
        0.0..10.0 => format!("{megabytes:.1} MB"),
        10.0..10_000.0 => format!("{} MB", whole(megabytes)),
        _ => format!("{} GB", whole(megabytes / 1e3)),
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, whole};

    #[test]
    fn sizes_have_the_unit_that_suits_them() {
        assert_eq!(
            [bytes(0), bytes(9_940_000), bytes(12_000_000), bytes(9_000_000_000), bytes(12_000_000_000)],
            ["0.0 MB", "9.9 MB", "12 MB", "9 000 MB", "12 GB"]
        );
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([whole(0.4), whole(999.0), whole(1000.0), whole(1_234_567.0)], ["0", "999", "1 000", "1 234 567"]);
    }
}
