//! What is told while files arrive: a bar on a terminal, elsewhere a line for each large file.

use std::cell::RefCell;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::progress::bytes;
use crate::terminal::{self, Safe};

/// Bytes of a file that nothing is told of.
const SMALL: u64 = 1 << 20;

/// Tells of files that come from a repository, a registry or another place.
pub struct Fetching {
    from: String,
    bar: RefCell<Option<ProgressBar>>,
}

impl Fetching {
    /// From this place.
    pub fn new(from: impl std::fmt::Display) -> Self {
        Self { from: from.to_string(), bar: RefCell::new(None) }
    }
}

impl web::Progress for Fetching {
    fn begin(&self, file: &str, size: u64, there: u64) {
        if size < SMALL {
            return;
        }
        let from = if there > 0 { format!(", from {} on", bytes(there)) } else { String::new() };
        let line = format!("fetching {file} of {} ({}{from})", self.from, bytes(size));
        if !terminal::stderr_is_terminal() {
            return terminal::say(&Safe::line(&line));
        }
        let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr());
        let template = "{bar:32} {decimal_bytes}/{decimal_total_bytes}  {msg}  {decimal_bytes_per_sec}, {eta} left";
        bar.set_style(
            ProgressStyle::with_template(template).expect("the template is a constant").progress_chars("━━ "),
        );
        bar.set_message(Safe::line(&format!("{file} of {}", self.from)).to_string());
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
