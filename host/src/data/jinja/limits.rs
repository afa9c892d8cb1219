//! What one template may take: templates come from strangers, and a rendering must end in bounded time and memory.
//!
//! Each limit is an error of its own. A text's size is asked for before the text is made.

use std::cell::Cell;

use super::error::{Result, error};

/// Bytes of a template's source.
pub(super) const SOURCE_BYTES: usize = 1 << 20;
/// How deeply parentheses, tags and their like may nest in the source.
pub(super) const SOURCE_DEPTH: usize = 100;
/// How many operators, filters and attributes may follow one another. Python's own compiler stops at about as many.
pub(super) const CHAIN_LENGTH: usize = 200;
/// Arguments of a call in the source, and parameters of a macro.
pub(super) const ARGUMENTS: usize = 1000;
/// Steps of one rendering: an expression evaluated, an item visited, 64 bytes made or read.
const STEPS: u64 = 20_000_000;
/// Steps that an iteration of a loop is counted as, beside those of its body.
pub(super) const ITERATION_STEPS: usize = 4;
/// Bytes that all values of one rendering may take together, those counted too that are gone.
const MEMORY: u64 = 512 << 20;
/// Bytes of one text, the output among them.
pub(super) const TEXT_BYTES: usize = 16 << 20;
/// How deeply values may nest: lists in lists, iterators over iterators.
pub(super) const VALUE_DEPTH: u16 = 200;
/// How deeply evaluation may nest: expressions in statements in macros that call each other.
pub(super) const EVALUATION_DEPTH: usize = 500;
/// How deeply macros and recursive loops may call each other.
pub(super) const CALL_DEPTH: usize = 100;
/// Items of a `range`, as Jinja2's sandbox has it.
pub(super) const RANGE_ITEMS: i128 = 100_000;
/// Bytes that one item of a list is counted as.
const ITEM_BYTES: usize = 64;
/// Bytes that are read or made in one step.
const STEP_BYTES: usize = 64;

/// What is left of the limits of one rendering.
pub(super) struct Budget {
    steps: Cell<u64>,
    memory: Cell<u64>,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { steps: Cell::new(STEPS), memory: Cell::new(MEMORY) }
    }

    /// Counts steps of work.
    pub(super) fn work(&self, steps: usize) -> Result<()> {
        match self.steps.get().checked_sub(steps as u64) {
            Some(left) => {
                self.steps.set(left);
                Ok(())
            }
            None => Err(error(format!("it takes more than {STEPS} steps; templates are given no more"))),
        }
    }

    /// Counts the reading of so many bytes.
    pub(super) fn read(&self, bytes: usize) -> Result<()> {
        self.work(bytes / STEP_BYTES)
    }

    /// Whether a text may have so many bytes. Asked while it grows; [`Self::text`] counts it once it is done.
    #[expect(clippy::unused_self, reason = "asked of a budget like the rest")]
    pub(super) fn fits(&self, bytes: usize) -> Result<()> {
        if bytes > TEXT_BYTES {
            return Err(error(format!("it makes a text of {bytes} bytes; the limit is {TEXT_BYTES}")));
        }
        Ok(())
    }

    /// Asks for a text of so many bytes, before it is made.
    pub(super) fn text(&self, bytes: usize) -> Result<()> {
        self.fits(bytes)?;
        self.memory(bytes)
    }

    /// Asks for a list or a dictionary of so many items, before it is made.
    pub(super) fn items(&self, items: usize) -> Result<()> {
        self.memory(items.saturating_mul(ITEM_BYTES))
    }

    fn memory(&self, bytes: usize) -> Result<()> {
        self.read(bytes)?;
        match self.memory.get().checked_sub(bytes as u64) {
            Some(left) => {
                self.memory.set(left);
                Ok(())
            }
            None => Err(error(format!("its values take more than {MEMORY} bytes; templates are given no more"))),
        }
    }
}
