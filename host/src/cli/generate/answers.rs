//! Where answers go: text or JSON lines on stdout, or JSON lines in a file.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use engine::generate::Completion;
use serde_json::{Value, json};

use crate::diagnostic::{Diagnostic, Failure};
use crate::report::{Output, emit};
use crate::terminal::print_words;

/// Where answers go.
pub(super) struct Answers {
    to: To,
    /// Answers to a prompt.
    each: usize,
}

enum To {
    Text,
    Events,
    File(BufWriter<File>, PathBuf),
}

impl Answers {
    /// Opens the file, where one is asked for. A prompt has `each` answers.
    pub(super) fn open(file: Option<&Path>, output: Output, each: u32) -> Result<Self, Failure> {
        let to = match (file, output) {
            (Some(path), _) => {
                let file = File::create(path).map_err(|error| unwritable(path, &error))?;
                To::File(BufWriter::new(file), path.to_owned())
            }
            (None, Output::Json) => To::Events,
            (None, Output::Human) => To::Text,
        };
        Ok(Self { to, each: each as usize })
    }

    /// True where text alone is shown.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.to, To::Text)
    }

    /// Writes the answer of a number.
    pub(super) fn write(&mut self, index: usize, text: &str, completion: &Completion) -> Result<(), Failure> {
        let fields = self.fields(index, text, completion);
        match &mut self.to {
            To::Text => print_words(&format!("{text}\n"))?,
            To::Events => emit("completion", fields),
            To::File(file, path) => {
                writeln!(file, "{fields}").map_err(|error| unwritable(path, &error))?;
            }
        }
        Ok(())
    }

    /// Waits until all is written.
    pub(super) fn close(self) -> Result<(), Failure> {
        let To::File(mut file, path) = self.to else { return Ok(()) };
        file.flush().map_err(|error| unwritable(&path, &error))?;
        Ok(())
    }

    fn fields(&self, index: usize, text: &str, completion: &Completion) -> Value {
        let mut fields = json!({
            "index": index / self.each,
            "completion": text,
            "completion_tokens": completion.ids.len(),
            "finished": completion.finished(),
        });
        if self.each > 1 {
            fields["sequence"] = json!(index % self.each);
        }
        fields
    }
}

fn unwritable(path: &std::path::Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error("io::write", format!("`{}` cannot be written", path.display())).why(error.to_string())
}
