//! One dataset: rows from its source, past its filters in their order, through its strategy on all cores, into tokens.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};

use plugin_runtime::PluginError;

use super::dropped::Dropped;
use super::filter::{DatasetFilter, FilterReport};
use super::render::{BATCH, Making, Outcome, Row, render_piece};
use super::source::Source;
use super::store::{Builder, Frame, StoreError};
use super::strategy::PromptStrategy;

pub use super::example::{Example, Origin, Written};
pub use super::render::{BadRow, ExcessLength};

/// Bad rows that are listed before the rest is only counted.
const SHOWN: usize = 5;
/// Bad rows after which nothing more is read.
const BAD_ROWS: u64 = 10_000;

/// Why a dataset could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A plugin failed.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The samples cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Rows that cannot be used: the first few, and how many there are.
    #[error("{total} bad rows in `{path}`", path = path.display())]
    BadRows {
        /// The dataset.
        path: PathBuf,
        /// The first few.
        rows: Vec<BadRow>,
        /// All of them.
        total: u64,
    },
    /// A row filter failed.
    #[error("{error}")]
    Filter {
        /// Which of the dataset's.
        index: usize,
        /// Why.
        error: PluginError,
    },
    /// A filter gave no row a score, though the config asks for one.
    #[error("`min_score` is {min_score}, but `{plugin}` gave none of the {rows} rows of `{path}` a score", path = path.display())]
    NoScores {
        /// Which of the dataset's.
        index: usize,
        /// Its name.
        plugin: String,
        /// What the config asks for.
        min_score: f64,
        /// The dataset.
        path: PathBuf,
        /// Rows that it saw.
        rows: u64,
    },
    /// No row at all.
    #[error("`{path}` has no rows", path = path.display())]
    Empty {
        /// The dataset.
        path: PathBuf,
    },
    /// Rows, but none that can be learned from.
    #[error("none of the {rows} rows of `{path}` can be used", path = path.display())]
    NothingLeft {
        /// The dataset.
        path: PathBuf,
        /// Rows read.
        rows: u64,
        /// Where they went.
        dropped: Dropped,
    },
}

/// A piece of a dataset: what some rows that follow one another became.
#[derive(Debug, Default)]
pub struct Piece {
    /// In the order of the rows.
    pub examples: Vec<Example>,
    /// Rows that did not become samples.
    pub dropped: Dropped,
    /// Rows that cannot be used.
    bad: Vec<BadRow>,
}

/// Where samples go.
pub trait Sink {
    /// A piece as it is handed over.
    type Made: Send;

    /// Pieces that are there already: they are not made again.
    fn pieces(&self) -> usize;

    /// Samples that are there.
    fn samples(&self) -> usize;

    /// Rows that became none.
    fn dropped(&self) -> &Dropped;

    /// Rows that cannot be used are looked for behind the first, so that they are told together; else they matter when it is their
    /// turn.
    fn looks_further(&self) -> bool {
        true
    }

    /// Makes a piece ready to be handed over; on any thread.
    fn make(piece: Piece) -> Self::Made;

    /// Takes the next piece, in order. Nothing more is made after a break.
    ///
    /// # Errors
    /// Samples that cannot be kept.
    fn add(&mut self, made: Self::Made) -> Result<ControlFlow<()>, StoreError>;
}

/// A store takes all of them.
impl Sink for Builder {
    type Made = (Frame, Dropped);

    fn pieces(&self) -> usize {
        Self::pieces(self)
    }

    fn samples(&self) -> usize {
        self.len()
    }

    fn dropped(&self) -> &Dropped {
        Self::dropped(self)
    }

    fn make(piece: Piece) -> Self::Made {
        (Frame::new(&piece.examples, &piece.dropped), piece.dropped)
    }

    fn add(&mut self, (frame, dropped): Self::Made) -> Result<ControlFlow<()>, StoreError> {
        Self::add(self, &frame, &dropped)?;
        Ok(ControlFlow::Continue(()))
    }
}

/// The first samples, in memory.
#[derive(Debug)]
pub struct First {
    /// Those that there are.
    pub examples: Vec<Example>,
    /// So many are enough.
    pub enough: usize,
    pieces: usize,
    dropped: Dropped,
}

impl First {
    /// Of so many.
    pub fn new(enough: usize) -> Self {
        Self { examples: Vec::new(), enough, pieces: 0, dropped: Dropped::default() }
    }
}

impl Sink for First {
    type Made = Piece;

    fn pieces(&self) -> usize {
        self.pieces
    }

    fn samples(&self) -> usize {
        self.examples.len()
    }

    fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    fn make(piece: Piece) -> Piece {
        piece
    }

    fn add(&mut self, piece: Piece) -> Result<ControlFlow<()>, StoreError> {
        self.pieces += 1;
        self.dropped.add(&piece.dropped);
        self.examples.extend(piece.examples);
        let is_enough = self.examples.len() >= self.enough;
        Ok(if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

/// What was read of a dataset, and what filters did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prepared {
    /// Rows that were read.
    pub rows: u64,
    /// What each row filter did, in the order in which they ran.
    pub filters: Vec<FilterReport>,
}

/// A piece that was made, and the rows of it that cannot be used; why a strategy failed; or how a thread panicked.
type Finished<M> = (usize, std::thread::Result<Result<(M, Vec<BadRow>), PluginError>>);

/// Reads `source`, asks `filters` one after another, and makes samples of the rest with `strategies`, each on a thread of its own.
/// Few rows are in memory at a time. The rows that stay are made into samples in pieces whose size does not depend on the
/// number of threads, and the pieces go to `sink` in their order.
///
/// # Errors
/// A plugin that fails, rows that cannot be used, and no sample in the end.
pub fn prepare<S: Sink>(
    path: &Path,
    source: &mut dyn Source,
    filters: &mut [DatasetFilter],
    strategies: &mut [Box<dyn PromptStrategy>],
    making: &Making<'_>,
    sink: &mut S,
) -> Result<Prepared, DatasetError> {
    let mut unreadable = BadRows { path: path.to_owned(), rows: Vec::new(), total: 0 };
    let mut unusable = BadRows { path: path.to_owned(), rows: Vec::new(), total: 0 };
    let ahead = 4 * strategies.len().max(1);
    let mut feed = Feed::new(path, source, filters);
    let (first, mut next) = (sink.pieces(), sink.pieces());
    let (to_do, work) = mpsc::channel::<(usize, Vec<Row>)>();
    let (finished, results) = mpsc::channel::<Finished<S::Made>>();
    let work = Mutex::new(work);
    let is_enough = std::thread::scope(|scope| -> Result<bool, DatasetError> {
        // Dropped at the end of this closure, however it ends: then the threads finish what they are at, and stop.
        let (to_do, results) = (to_do, results);
        for strategy in strategies {
            let (work, finished) = (&work, finished.clone());
            scope.spawn(move || {
                loop {
                    let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((index, rows)) = next else { break };
                    let make = || {
                        let mut piece = piece(path, rows, strategy.as_mut(), making)?;
                        let bad = std::mem::take(&mut piece.bad);
                        Ok((S::make(piece), bad))
                    };
                    // Nothing is used of what a panic leaves: it goes on where the others wait for the piece.
                    let made = catch_unwind(AssertUnwindSafe(make));
                    if finished.send((index, made)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(finished);
        let (mut given, mut early) = (0, BTreeMap::new());
        loop {
            while given < next + ahead
                && let Some(rows) = feed.piece(&mut unreadable)?
            {
                if unreadable.total > 0 && !sink.looks_further() {
                    feed.is_done = true;
                    feed.passed.clear();
                    break;
                }
                if given >= first {
                    to_do.send((given, rows)).expect("the threads wait for it");
                }
                given += 1;
            }
            if given <= next {
                return Ok(false);
            }
            let (index, made) = results.recv().expect("the threads live as long as there is work");
            early.insert(index, made.unwrap_or_else(|panic| resume_unwind(panic)));
            while let Some(made) = early.remove(&next) {
                let (made, bad) = made?;
                for row in bad {
                    unusable.add(row);
                }
                next += 1;
                // From the first piece with a bad row on nothing is kept: whoever goes on after a kill must meet that row again.
                if unusable.total == 0 && sink.add(made)?.is_break() {
                    return Ok(true);
                }
            }
            if unusable.total > 0 && !sink.looks_further() {
                return Ok(false);
            }
        }
    })?;
    let Feed { rows, reports, .. } = feed;
    if is_enough && !sink.looks_further() {
        return Ok(Prepared { rows, filters: reports });
    }
    if rows == 0 && unreadable.total == 0 {
        return Err(DatasetError::Empty { path: path.to_owned() });
    }
    unreadable.with(unusable).check()?;
    if sink.samples() == 0 {
        let dropped = Dropped { filters: reports, ..sink.dropped().clone() };
        return Err(DatasetError::NothingLeft { path: path.to_owned(), rows, dropped });
    }
    Ok(Prepared { rows, filters: reports })
}

/// What some rows become.
fn piece(
    path: &Path,
    rows: Vec<Row>,
    strategy: &mut dyn PromptStrategy,
    making: &Making<'_>,
) -> Result<Piece, PluginError> {
    let mut made = Piece::default();
    for (outcome, row) in render_piece(rows, strategy, making)? {
        let Piece { examples, dropped, bad } = &mut made;
        let position = || found_by(path, &row);
        match outcome {
            Outcome::Example(mut example, unwritten) => {
                dropped.unwritten(unwritten, position);
                if let Some(origin) = &mut example.origin {
                    origin.position = position();
                }
                examples.push(*example);
            }
            Outcome::Pieces(pieces) => {
                let count = pieces.len();
                for (index, mut piece) in pieces.into_iter().enumerate() {
                    if let Some(origin) = &mut piece.origin {
                        origin.position = format!("{}, piece {} of {count}", position(), index + 1);
                    }
                    examples.push(piece);
                }
            }
            Outcome::TooLong => dropped.too_long.row(position),
            Outcome::Cut => dropped.cut.row(position),
            Outcome::NoTurn(roles) => {
                dropped.no_turn.0.row(position);
                dropped.no_turn.1.extend(roles);
            }
            Outcome::Untrained(unwritten) => {
                dropped.untrained.row(position);
                dropped.unwritten(unwritten, position);
            }
            Outcome::Equal => dropped.equal.row(position),
            Outcome::Skipped => dropped.skipped.row(position),
            Outcome::Bad(row) => bad.push(row),
        }
    }
    Ok(made)
}

/// The rows that filters leave, in pieces.
struct Feed<'a> {
    path: &'a Path,
    source: &'a mut dyn Source,
    filters: &'a mut [DatasetFilter],
    reports: Vec<FilterReport>,
    /// Rows that were read.
    rows: u64,
    /// Rows that passed, and are no piece yet.
    passed: VecDeque<Row>,
    is_done: bool,
}

impl<'a> Feed<'a> {
    fn new(path: &'a Path, source: &'a mut dyn Source, filters: &'a mut [DatasetFilter]) -> Self {
        let reports = filters.iter().map(FilterReport::new).collect();
        Self { path, source, filters, reports, rows: 0, passed: VecDeque::new(), is_done: false }
    }

    /// The next piece: the last one may be smaller, and behind it there is none.
    fn piece(&mut self, bad: &mut BadRows) -> Result<Option<Vec<Row>>, DatasetError> {
        while !self.is_done && self.passed.len() < BATCH as usize {
            let batch = self.source.next(BATCH)?;
            self.is_done = batch.done;
            let mut rows = Vec::with_capacity(batch.rows.len());
            for row in batch.rows {
                match row {
                    Ok(row) => rows.push(Row { json: row.json, position: row.position }),
                    Err(row) => {
                        bad.add(BadRow { position: row.position, message: row.error.message, field: row.error.field });
                    }
                }
            }
            self.is_done |= bad.total > BAD_ROWS;
            self.rows += rows.len() as u64;
            for index in 0..self.filters.len() {
                rows = self.judge(rows, index)?;
            }
            self.passed.extend(rows);
            if self.is_done {
                self.check_scores()?;
            }
        }
        let count = self.passed.len().min(BATCH as usize);
        Ok((count > 0).then(|| self.passed.drain(..count).collect()))
    }

    /// The rows that a filter keeps. It sees them in their order.
    fn judge(&mut self, rows: Vec<Row>, index: usize) -> Result<Vec<Row>, DatasetError> {
        if rows.is_empty() {
            return Ok(rows);
        }
        let (jsons, positions): (Vec<_>, Vec<_>) = rows.into_iter().map(|row| (row.json, row.position)).unzip();
        let stays = self.filters[index]
            .judge(&jsons, &mut self.reports[index])
            .map_err(|error| DatasetError::Filter { index, error: error.at_row(&positions) })?;
        let judged = jsons.into_iter().zip(positions).zip(stays);
        Ok(judged.filter_map(|((json, position), stays)| stays.then_some(Row { json, position })).collect())
    }

    /// A score is asked of a filter that gave none.
    fn check_scores(&self) -> Result<(), DatasetError> {
        for (index, (filter, report)) in self.filters.iter().zip(&self.reports).enumerate() {
            if let Some(min_score) = filter.min_score.filter(|_| report.kept > 0 && report.mean_score().is_none()) {
                let (plugin, path, rows) = (report.plugin.clone(), self.path.to_owned(), report.rows);
                return Err(DatasetError::NoScores { index, plugin, min_score, path, rows });
            }
        }
        Ok(())
    }
}

/// What a person finds a row by.
fn found_by(path: &Path, position: &str) -> String {
    format!("{}, {position}", path.display())
}

struct BadRows {
    path: PathBuf,
    rows: Vec<BadRow>,
    total: u64,
}

impl BadRows {
    fn add(&mut self, row: BadRow) {
        self.total += 1;
        if self.rows.len() < SHOWN {
            self.rows.push(row);
        }
    }

    /// With those that were found later.
    fn with(mut self, later: Self) -> Self {
        self.total += later.total;
        self.rows.extend(later.rows);
        self.rows.truncate(SHOWN);
        self
    }

    fn check(self) -> Result<(), DatasetError> {
        if self.total == 0 {
            return Ok(());
        }
        Err(DatasetError::BadRows { path: self.path, rows: self.rows, total: self.total })
    }
}

#[cfg(test)]
mod tests {
    use plugin_runtime::types::{Row, RowBatch, RowError, Sample, Segment, Text};

    use super::super::render::Learns;
    use super::super::steps::StepFormat;
    use super::super::strategy::Made;
    use super::super::tokenize::{Encoder, TextBudget};
    use super::super::tokenizer::{Changes, Tokenizer};
    use super::*;

    /// So many rows, some at a time.
    struct Rows(Vec<String>);

    impl Source for Rows {
        fn next(&mut self, max_rows: u32) -> Result<RowBatch, PluginError> {
            let count = self.0.len().min(max_rows as usize);
            let rows = self.0.drain(..count).map(|json| Ok(Row { position: json.clone(), json })).collect();
            Ok(RowBatch { rows, done: self.0.is_empty() })
        }
    }

    /// What it makes of a row depends on the rows before it.
    #[derive(Default)]
    struct Remembers(usize);

    impl PromptStrategy for Remembers {
        fn begin(&mut self) -> Result<(), PluginError> {
            self.0 = 0;
            Ok(())
        }

        fn render(&mut self, rows: &[String]) -> Result<Vec<Result<Option<Made>, RowError>>, PluginError> {
            let render = |row: &String| {
                self.0 += 1;
                let segment = Segment { text: format!("{row} {}", self.0), train: true, weight: None };
                Ok(Some(Made::Sample(Sample::Supervised(Text::Segments(vec![segment])))))
            };
            Ok(rows.iter().map(render).collect())
        }
    }

    /// Cannot use one of the rows.
    struct Refuses(&'static str);

    impl PromptStrategy for Refuses {
        fn begin(&mut self) -> Result<(), PluginError> {
            Ok(())
        }

        fn render(&mut self, rows: &[String]) -> Result<Vec<Result<Option<Made>, RowError>>, PluginError> {
            let bad = || RowError { message: "bad".to_owned(), field: None };
            Ok(rows.iter().map(|row| if row == self.0 { Err(bad()) } else { Ok(None) }).collect())
        }
    }

    #[test]
    fn no_piece_is_kept_from_the_first_with_a_bad_row_on() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart/model");
        let tokenizer = Tokenizer::load(&model, &Changes::default()).unwrap();
        let encoder = Encoder {
            tokenizer: &tokenizer,
            template: None,
            train_on_inputs: false,
            end_of_turn: Vec::new(),
            keeps_text: false,
            budget: TextBudget::of(64, false),
        };
        let (excess, learns) = (ExcessLength::Drop, Learns::Texts);
        let making = Making { encoder, sequence_len: 64, excess, learns, steps: StepFormat::default() };
        let mut rows = Rows((0..1500).map(|row| row.to_string()).collect());
        let mut strategies: Vec<Box<dyn PromptStrategy>> = vec![Box::new(Refuses("600"))];
        let mut builder = Builder::unnamed(false).unwrap();
        let error = prepare(Path::new("rows"), &mut rows, &mut [], &mut strategies, &making, &mut builder);
        assert!(matches!(error, Err(DatasetError::BadRows { total: 1, .. })), "{error:?}");
        assert_eq!(builder.pieces(), 2);
    }

    #[test]
    fn one_two_and_five_threads_give_the_same_samples() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/quickstart/model");
        let tokenizer = Tokenizer::load(&model, &Changes::default()).unwrap();
        let encoder = Encoder {
            tokenizer: &tokenizer,
            template: None,
            train_on_inputs: false,
            end_of_turn: Vec::new(),
            keeps_text: true,
            budget: TextBudget::of(64, false),
        };
        let making = Making {
            encoder,
            sequence_len: 64,
            excess: ExcessLength::Drop,
            learns: Learns::Texts,
            steps: StepFormat::default(),
        };
        let prepared = |threads: usize| {
            let mut rows = Rows((0..1500).map(|row| row.to_string()).collect());
            let mut strategies: Vec<Box<dyn PromptStrategy>> =
                (0..threads).map(|_| Box::<Remembers>::default() as _).collect();
            let mut first = First::new(usize::MAX);
            prepare(Path::new("rows"), &mut rows, &mut [], &mut strategies, &making, &mut first).unwrap();
            first
        };
        let one = prepared(1);
        assert_eq!(one.examples.len(), 1500);
        let text = |index: usize| one.examples[index].origin.as_ref().unwrap().written.text.as_str();
        assert_eq!((text(255), text(256), text(1499)), ("255 256", "256 1", "1499 220"));
        assert_eq!(prepared(2).examples, one.examples);
        assert_eq!(prepared(5).examples, one.examples);
    }
}
