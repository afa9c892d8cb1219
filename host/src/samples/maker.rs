//! Rows of a dataset made into samples a batch at a time, for whoever must know which row a sample is of.

use std::path::Path;

use super::dataset::Dataset;
use crate::check::plugins::Use;
use crate::data::dataset::DatasetError;
use crate::data::render::{Outcome, Row, render_piece};
use crate::data::strategy::PromptStrategy;
use crate::data::tokenize::TokenSample;
use crate::diagnostic::Failure;

/// Bad rows that are told.
const SHOWN: usize = 5;

/// A dataset's prompt strategy, started, and how its samples become tokens.
pub struct Maker<'a> {
    dataset: Dataset<'a>,
    used: Use,
    strategy: Box<dyn PromptStrategy>,
}

/// Why a row has no sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSample {
    /// It has more tokens than `sequence_len`.
    TooLong,
    /// What is learned of it lies behind where it was cut.
    Cut,
    /// Nothing of it is learned.
    Untrained,
    /// The strategy gave nothing, on purpose.
    Skipped,
}

impl NoSample {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::TooLong => "it is longer than `sequence_len`",
            Self::Cut => "it is cut to `sequence_len` tokens, none of which is learned",
            Self::Untrained => "it has no token to learn",
            Self::Skipped => "the prompt strategy leaves it out",
        }
    }
}

impl<'a> Maker<'a> {
    pub(super) fn new(dataset: Dataset<'a>) -> Result<Self, Failure> {
        let (_, _, used) = dataset.uses();
        let strategy = dataset.strategy(&used)?;
        Ok(Self { dataset, used, strategy })
    }

    /// The texts of each row's sample, in the order of the rows; of a text that is longer than a sequence and has no prompt, its
    /// pieces. `path` is where the rows are from.
    ///
    /// # Errors
    /// A strategy that fails, and rows that cannot be used.
    pub(crate) fn make(
        &mut self,
        path: &Path,
        rows: Vec<Row>,
    ) -> Result<Vec<Result<Vec<TokenSample>, NoSample>>, Failure> {
        let rendered = render_piece(rows, self.strategy.as_mut(), &self.dataset.making);
        let rendered = rendered.map_err(|error| self.dataset.located(error.into(), &[], &self.used))?;
        let (mut made, mut bad, mut total) = (Vec::with_capacity(rendered.len()), Vec::new(), 0);
        for (outcome, _) in rendered {
            made.push(match outcome {
                Outcome::Example(example, _) => Ok(example.documents().cloned().collect()),
                Outcome::Pieces(pieces) => Ok(pieces.into_iter().map(|piece| piece.tokens).collect()),
                Outcome::TooLong => Err(NoSample::TooLong),
                Outcome::Cut => Err(NoSample::Cut),
                Outcome::NoTurn(_) | Outcome::Untrained(_) | Outcome::Equal => Err(NoSample::Untrained),
                Outcome::Skipped => Err(NoSample::Skipped),
                Outcome::Bad(row) => {
                    total += 1;
                    bad.extend((bad.len() < SHOWN).then_some(row));
                    Err(NoSample::Skipped)
                }
            });
        }
        if total > 0 {
            let error = DatasetError::BadRows { path: path.to_owned(), rows: bad, total };
            return Err(self.dataset.located(error, &[], &self.used));
        }
        Ok(made)
    }
}
