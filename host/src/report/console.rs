//! The observer of the command line: a progress bar or plain lines for a person, a line of JSON for a program.

use super::progress::{Progress, whole};
use super::{Event, Observer, Output, Start, emit};
use crate::diagnostic::Diagnostic;
use crate::terminal::{self, Safe};

/// Tells what happens in a run.
#[derive(Debug)]
pub struct Console {
    output: Output,
    /// From the start of a run on.
    progress: Option<Progress>,
}

impl Console {
    /// Talks in one of the two ways.
    pub fn new(output: Output) -> Self {
        Self { output, progress: None }
    }

    fn say(&mut self, event: Event<'_>) {
        if let Event::Start(start) = event {
            let progress = self.progress.insert(Progress::new(start.total_steps, start.step));
            return progress.say(&Safe::text(&opening(start)));
        }
        match (event, &mut self.progress) {
            (Event::Train { record, logged }, Some(progress)) => progress.step(record, logged.is_some()),
            (Event::Eval { record, extremes, .. }, Some(progress)) => progress.eval(record, extremes),
            (Event::Health { remark: Some(remark), .. } | Event::Remark(remark), Some(progress)) => {
                progress.say(&shown(remark).trimmed());
            }
            (Event::Reference { done, all }, _) => {
                terminal::say(&Safe::line(&format!("asking the model about {all} samples as it is: {done} done")));
            }
            (Event::Remark(remark), None) => terminal::say(&shown(remark)),
            (Event::End, Some(progress)) => progress.finish(),
            _ => {}
        }
    }
}

impl Observer for Console {
    fn on(&mut self, event: Event<'_>) {
        match (self.output, event) {
            (Output::Human, _) => self.say(event),
            (Output::Json, Event::Remark(remark)) => terminal::print_json(&remark.to_json()),
            (Output::Json, _) => {
                if let Some((name, fields)) = event.to_json() {
                    emit(name, fields);
                }
            }
        }
    }
}

fn shown(remark: &Diagnostic) -> Safe {
    Safe::diagnostic(remark, terminal::in_color())
}

fn opening(start: &Start) -> String {
    let from = if start.step > 0 { format!(", going on at step {}", start.step) } else { String::new() };
    let [trained, all] = [start.trainable_parameters, start.total_parameters].map(|count| whole(count as f64));
    let [samples, tokens, learned] =
        [start.samples, start.tokens, start.trained_tokens].map(|count| whole(count as f64));
    let samples = if start.streaming { format!("a stream, at first {samples}") } else { samples };
    format!(
        "{}: {trained} of {all} parameters trained; {samples} samples, {tokens} tokens ({learned} learned); {} steps{from}",
        start.architecture, start.total_steps
    )
}
