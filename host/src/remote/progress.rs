//! What is told while files arrive: a bar on a terminal, elsewhere a line for each large file.

use std::cell::RefCell;

use hub::{Progress, Repository};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::progress::bytes;
use crate::terminal::{self, Safe};

/// Bytes of a file that nothing is told of.
const SMALL: u64 = 1 << 20;

/// Tells of the files of a repository.
pub(super) struct Told<'a> {
    repository: &'a Repository,
    bar: RefCell<Option<ProgressBar>>,
}

impl<'a> Told<'a> {
    pub(super) fn new(repository: &'a Repository) -> Self {
        Self { repository, bar: RefCell::new(None) }
    }
}

impl Progress for Told<'_> {
    fn begin(&self, file: &str, size: u64, there: u64) {
        if size < SMALL {
            return;
        }
        let from = if there > 0 { format!(", from {} on", bytes(there)) } else { String::new() };
        let line = format!("fetching {file} of {} ({}{from})", self.repository, bytes(size));
        if !terminal::stderr_is_terminal() {
            return terminal::say(&Safe::line(&line));
        }
        let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr());
        let template = "{bar:32} {decimal_bytes}/{decimal_total_bytes}  {msg}  {decimal_bytes_per_sec}, {eta} left";
        bar.set_style(
            ProgressStyle::with_template(template).expect("the template is a constant").progress_chars("━━ "),
        );
        bar.set_message(Safe::line(&format!("{file} of {}", self.repository)).to_string());
        bar.set_position(there);
        bar.reset_eta();
        self.bar.replace(Some(bar));
    }

    fn at(&self, bytes: u64) {
        if let Some(bar) = &*self.bar.borrow() {
            bar.set_position(bytes);
        }
    }

    fn end(&self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
