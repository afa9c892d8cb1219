//! Steps of samples that are made on another thread while the run learns (`streaming`).

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender};

use engine::kernels::Kernels;
use engine::{Batch, Trainer};

use crate::data::batches::{Batches, Told};
use crate::data::cursor::Position;
use crate::data::dataset::Example;
use crate::data::packing::{BatchOptions, EpochPlan, assemble, plan_epoch};
use crate::diagnostic::Failure;
use crate::samples::Preparing;
use crate::samples::stream::Window;

/// Windows of a pass that have an order of their own.
const WINDOWS: u64 = 1 << 16;

/// Makes windows from `position` on, pass after pass, until the other side of `windows` is gone or the data is at fault.
pub(super) fn make(preparing: Preparing<'_>, position: Position, windows: &SyncSender<Result<Window, Failure>>) {
    let (mut pass, mut first) = (position.epoch, position.window);
    let mut is_wanted = true;
    while is_wanted {
        let mut give = |window: Window| {
            is_wanted = windows.send(Ok(window)).is_ok();
            if is_wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        if let Err(failure) = preparing.windows(pass, first, &mut give) {
            // The run has ended, or ends with it.
            let _ = windows.send(Err(failure));
            return;
        }
        (pass, first) = (pass.saturating_add(1), 0);
    }
}

/// The steps of a stream.
pub(super) struct Stream {
    windows: Receiver<Result<Window, Failure>>,
    /// The first window of the next pass, where a step ended with the last of the one before.
    waiting: Option<Window>,
    options: BatchOptions,
    accumulation: usize,
    position: Position,
    /// What is learned from, and how.
    open: Option<(Vec<Example>, EpochPlan)>,
    told: Told,
}

impl Stream {
    /// Of windows that are made from `position` on.
    pub(super) fn new(
        windows: Receiver<Result<Window, Failure>>,
        options: BatchOptions,
        accumulation: usize,
        position: Position,
    ) -> Self {
        Self { windows, waiting: None, options, accumulation, position, open: None, told: Told::default() }
    }

    /// The samples of the next micro-batch; none where a pass ends and `is_begun`.
    fn next(&mut self, is_begun: bool) -> Result<Option<Batch>, Failure> {
        loop {
            if let Some((examples, plan)) = &self.open
                && self.position.micro_batch < plan.len()
            {
                let samples = plan.batch(self.position.micro_batch);
                self.position.micro_batch += 1;
                return Ok(Some(assemble(samples.iter().map(|&sample| &examples[sample].tokens))));
            }
            let window = match self.waiting.take() {
                Some(window) => window,
                None => self.windows.recv().expect("a window or a failure comes before the other side ends")?,
            };
            if is_begun && window.pass != self.position.epoch {
                self.waiting = Some(window);
                return Ok(None);
            }
            self.begin(window);
        }
    }

    fn begin(&mut self, window: Window) {
        let place = (window.pass, window.number);
        // The first window of a run that goes on is one that it has begun.
        let is_begun = self.open.is_none() && place == (self.position.epoch, self.position.window);
        let micro_batch = if is_begun { self.position.micro_batch } else { 0 };
        self.position = Position { epoch: window.pass, window: window.number, micro_batch };
        let lengths: Vec<u32> = window.examples.iter().map(|example| example.tokens.ids.len() as u32).collect();
        let number = window.pass.wrapping_mul(WINDOWS).wrapping_add(window.number);
        let plan = plan_epoch(&lengths, &self.options, number);
        if !is_begun || micro_batch == 0 {
            self.told.count("rows_left_out", window.dropped.rows());
        }
        self.open = Some((window.examples, plan));
    }
}

impl Batches for Stream {
    type Batch = Batch;

    fn next_step<K: Kernels>(&mut self, _: &mut Trainer<K>) -> Result<Vec<Batch>, Failure> {
        let mut step = Vec::new();
        while step.len() < self.accumulation
            && let Some(batch) = self.next(!step.is_empty())?
        {
            step.push(batch);
        }
        Ok(step)
    }

    fn position(&self) -> Position {
        self.position
    }

    /// Passes that are over; how long one is, is not known.
    fn epochs(&self) -> f64 {
        self.position.epoch as f64
    }

    fn told(&mut self) -> Told {
        std::mem::take(&mut self.told)
    }
}
