//! Samples that are made while a run learns from them, and not kept (`streaming`): a window of some pieces of the dataset at a
//! time, in the order of its rows, pass after pass. A window begins at the same row whatever else happens, so that a run that
//! goes on makes nothing of what it has seen.

use std::ops::ControlFlow;

use super::{Data, Preparing, TRAINED};
use crate::data::dataset::{Example, Piece, Prepared, Sink};
use crate::data::dropped::Dropped;
use crate::data::render::BATCH;
use crate::data::set::Set;
use crate::data::store::StoreError;
use crate::diagnostic::{Diagnostic, Failure};

/// Samples that are shuffled and packed together.
#[derive(Debug, Default)]
pub struct Window {
    /// In the order of their rows.
    pub examples: Vec<Example>,
    /// Rows that became none.
    pub dropped: Dropped,
    /// Passes over the data before it.
    pub pass: u64,
    /// Windows of its pass before it.
    pub number: u64,
}

impl Preparing<'_> {
    /// The samples that a stream begins with, kept nowhere; what there is to say of their rows is added to `data`.
    pub(super) fn first_window(&self, data: &mut Data) -> Result<Set, Failure> {
        let mut first = Window::default();
        let (prepared, remarks) = self.windows(0, 0, &mut |window| {
            first = window;
            ControlFlow::Break(())
        })?;
        if first.examples.is_empty() {
            let size = self.loaded.config.streaming_multipack_buffer_size;
            let reasons: Vec<String> = first.dropped.reasons().iter().map(ToString::to_string).collect();
            return Err(Diagnostic::error("data::nothing-left", format!("none of the first {size} rows can be used"))
                .at(self.loaded.source.nearest_place("datasets[0]"))
                .why(reasons.join("; "))
                .into());
        }
        data.rows += prepared.rows;
        data.window_bytes = first.examples.iter().map(bytes).sum();
        data.too_long += first.dropped.too_long.rows;
        data.dropped.add(&Dropped { filters: prepared.filters, ..first.dropped });
        data.remarks.extend(remarks);
        Ok(Set::of(&first.examples)?)
    }

    /// Makes the windows of a pass from one on, and hands them over until there is none left or `give` breaks. Returns what was
    /// read and what filters did, and what is remarkable about it.
    ///
    /// # Errors
    /// What is wrong with the data.
    pub fn windows(
        &self,
        pass: u64,
        first: u64,
        give: &mut dyn FnMut(Window) -> ControlFlow<()>,
    ) -> Result<(Prepared, Vec<Diagnostic>), Failure> {
        let config = &self.loaded.config;
        let size = u64::from(config.streaming_multipack_buffer_size).div_ceil(BATCH.into());
        let open = Window { pass, number: first, ..Window::default() };
        let mut windows = Windows {
            size,
            pieces: size.saturating_mul(first),
            begun: size.saturating_mul(first),
            open,
            all: Dropped::default(),
            samples: 0,
            give,
        };
        let (prepared, remarks) = self.dataset(TRAINED, 0, &config.datasets[0], false)?.make(&mut windows)?;
        if !windows.pieces.is_multiple_of(size) {
            let _ = windows.hand_over();
        }
        Ok((prepared, remarks))
    }
}

/// Bytes of a sample in memory: its tokens, which of them are learned and how much, and its row.
fn bytes(example: &Example) -> u64 {
    let tokens = &example.tokens;
    let weights = tokens.weights.as_ref().map_or(0, |weights| 4 * weights.len());
    (5 * tokens.ids.len() + weights + example.row_json.len() + size_of::<Example>()) as u64
}

/// Pieces as they come, until a window is whole.
struct Windows<'g> {
    /// Pieces of a window.
    size: u64,
    pieces: u64,
    /// Pieces that were not made.
    begun: u64,
    open: Window,
    all: Dropped,
    samples: usize,
    give: &'g mut dyn FnMut(Window) -> ControlFlow<()>,
}

impl Windows<'_> {
    fn hand_over(&mut self) -> ControlFlow<()> {
        let next = Window { pass: self.open.pass, number: self.open.number.saturating_add(1), ..Window::default() };
        (self.give)(std::mem::replace(&mut self.open, next))
    }
}

impl Sink for Windows<'_> {
    type Made = Piece;

    fn pieces(&self) -> usize {
        self.pieces as usize
    }

    fn samples(&self) -> usize {
        // A pass that goes on may have nothing left.
        if self.begun > 0 { usize::MAX } else { self.samples }
    }

    fn dropped(&self) -> &Dropped {
        &self.all
    }

    fn looks_further(&self) -> bool {
        false
    }

    fn make(piece: Piece) -> Piece {
        piece
    }

    fn add(&mut self, piece: Piece) -> Result<ControlFlow<()>, StoreError> {
        self.pieces += 1;
        self.samples += piece.examples.len();
        self.all.add(&piece.dropped);
        self.open.dropped.add(&piece.dropped);
        self.open.examples.extend(piece.examples);
        let is_whole = self.pieces.is_multiple_of(self.size);
        Ok(if is_whole { self.hand_over() } else { ControlFlow::Continue(()) })
    }
}
