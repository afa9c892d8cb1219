//! How a row becomes what the model reads and learns to write.

use plugin_runtime::PluginError;
use plugin_runtime::types::{RowError, Sample};

use super::tokenize::TokenSample;

/// What a row became.
#[derive(Debug)]
pub enum Made {
    /// Texts, which are to be tokenized.
    Sample(Sample),
    /// Tokens, with what of them is learned.
    Tokens(TokenSample),
}

/// Renders rows, many at a time.
pub trait PromptStrategy: Send {
    /// Forgets the rows so far, so that what comes next does not depend on them.
    fn begin(&mut self) -> Result<(), PluginError>;

    /// One result a row, in order; none where a row yields nothing on purpose.
    fn render(&mut self, rows: &[String]) -> Result<Vec<Result<Option<Made>, RowError>>, PluginError>;
}

impl PromptStrategy for plugin_runtime::Strategy {
    fn begin(&mut self) -> Result<(), PluginError> {
        Self::begin(self)
    }

    fn render(&mut self, rows: &[String]) -> Result<Vec<Result<Option<Made>, RowError>>, PluginError> {
        let samples = Self::render(self, rows)?;
        Ok(samples.into_iter().map(|sample| sample.map(|sample| sample.map(Made::Sample))).collect())
    }
}
