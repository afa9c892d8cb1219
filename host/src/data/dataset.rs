//! One dataset: rows from its source, past its filters in their order, through its strategy on all cores, into tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plugin_runtime::PluginError;
use plugin_runtime::types::{Sample, Text};

use super::filter::{DatasetFilter, FilterReport};
use super::source::Source;
use super::strategy::PromptStrategy;
use super::tokenize::{Encoder, TokenSample, TokenizeError};

/// Rows asked of a source at a time, and given to a strategy at a time.
const BATCH: u32 = 256;
/// Bad rows that are listed before the rest is only counted.
const SHOWN: usize = 5;

/// What to do with a sample longer than `sequence_len` (`excess_length_strategy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExcessLength {
    /// Leave it out and count it.
    Drop,
    /// Keep its first `sequence_len` tokens.
    Truncate,
    /// Stop.
    Raise,
}

/// A row that became tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// What is learned.
    pub tokens: TokenSample,
    /// The row as it came, for rewards.
    pub row_json: Arc<str>,
}

/// Rows that did not become examples, by reason, and what was seen in all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dropped {
    /// What each row filter did, in the order in which they ran.
    pub filters: Vec<FilterReport>,
    /// More tokens than `sequence_len`.
    pub too_long: u64,
    /// Nothing in them is learned.
    pub untrained: u64,
    /// The strategy gave nothing for them, on purpose.
    pub skipped: u64,
}

/// Rows that were left out for one reason.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LeftOut {
    /// In words.
    pub reason: String,
    /// How many.
    pub rows: u64,
    /// The row filter that did it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.rows, if self.rows == 1 { "row" } else { "rows" }, self.reason)?;
        self.plugin.as_ref().map_or(Ok(()), |plugin| write!(f, " ({plugin})"))
    }
}

impl Dropped {
    /// Reasons with a count above zero, in words: those of the filters first.
    pub fn reasons(&self) -> Vec<LeftOut> {
        let of_filter = |filter: &FilterReport| {
            let plugin = Some(filter.plugin.clone());
            filter.reasons().into_iter().map(move |(reason, rows)| LeftOut { reason, rows, plugin: plugin.clone() })
        };
        let own = [
            ("longer than `sequence_len`", self.too_long),
            ("no token to learn", self.untrained),
            ("left out by the prompt strategy", self.skipped),
        ]
        .into_iter()
        .filter(|&(_, rows)| rows > 0)
        .map(|(reason, rows)| LeftOut { reason: reason.to_owned(), rows, plugin: None });
        self.filters.iter().flat_map(of_filter).chain(own).collect()
    }

    /// Adds another dataset's counts.
    pub fn add(&mut self, other: &Self) {
        for report in &other.filters {
            match self.filters.iter_mut().find(|known| known.path == report.path) {
                Some(known) => known.add(report),
                None => self.filters.push(report.clone()),
            }
        }
        self.too_long += other.too_long;
        self.untrained += other.untrained;
        self.skipped += other.skipped;
    }
}

/// Why a dataset could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A plugin failed.
    #[error(transparent)]
    Plugin(#[from] PluginError),
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

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// What a person finds it by (`line 812`).
    pub position: String,
    /// What is wrong.
    pub message: String,
    /// The column it is about.
    pub field: Option<String>,
}

/// What a dataset became.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prepared {
    /// In the order of the rows.
    pub examples: Vec<Example>,
    /// Rows that were read.
    pub rows: u64,
    /// Rows left out.
    pub dropped: Dropped,
}

struct Row {
    json: String,
    position: String,
}

enum Outcome {
    Example(Box<Example>),
    TooLong,
    Untrained,
    Skipped,
    Bad(BadRow),
}

/// Reads all of `source`, asks `filters` one after another, renders it with `strategies` (one per thread) and encodes it.
pub fn prepare(
    path: &Path,
    source: &mut dyn Source,
    filters: &mut [DatasetFilter],
    strategies: &mut [Box<dyn PromptStrategy>],
    encoder: &Encoder<'_>,
    sequence_len: usize,
    excess: ExcessLength,
) -> Result<Prepared, DatasetError> {
    let mut bad = BadRows { path: path.to_owned(), rows: Vec::new(), total: 0 };
    let mut rows = read(source, &mut bad)?;
    if rows.is_empty() && bad.total == 0 {
        return Err(DatasetError::Empty { path: path.to_owned() });
    }
    let mut prepared = Prepared { rows: rows.len() as u64, ..Prepared::default() };
    for (index, filter) in filters.iter_mut().enumerate() {
        let (kept, report) = judge(path, rows, filter, index)?;
        rows = kept;
        prepared.dropped.filters.push(report);
    }
    for outcome in render(rows, strategies, encoder, sequence_len, excess)? {
        match outcome {
            Outcome::Example(example) => prepared.examples.push(*example),
            Outcome::TooLong => prepared.dropped.too_long += 1,
            Outcome::Untrained => prepared.dropped.untrained += 1,
            Outcome::Skipped => prepared.dropped.skipped += 1,
            Outcome::Bad(row) => bad.add(row),
        }
    }
    bad.check()?;
    if prepared.examples.is_empty() {
        let (rows, dropped) = (prepared.rows, prepared.dropped);
        return Err(DatasetError::NothingLeft { path: path.to_owned(), rows, dropped });
    }
    Ok(prepared)
}

fn read(source: &mut dyn Source, bad: &mut BadRows) -> Result<Vec<Row>, DatasetError> {
    let mut rows = Vec::new();
    loop {
        let batch = source.next(BATCH)?;
        for row in batch.rows {
            match row {
                Ok(row) => rows.push(Row { json: row.json, position: row.position }),
                Err(row) => {
                    bad.add(BadRow { position: row.position, message: row.error.message, field: row.error.field });
                }
            }
        }
        if batch.done {
            return Ok(rows);
        }
    }
}

/// The rows that a filter keeps. It sees them in their order.
fn judge(
    path: &Path,
    rows: Vec<Row>,
    filter: &mut DatasetFilter,
    index: usize,
) -> Result<(Vec<Row>, FilterReport), DatasetError> {
    let mut report = FilterReport::new(filter);
    let mut kept = Vec::with_capacity(rows.len());
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let (jsons, positions): (Vec<_>, Vec<_>) =
            rows.by_ref().take(BATCH as usize).map(|row| (row.json, row.position)).unzip();
        let stays = filter
            .judge(&jsons, &mut report)
            .map_err(|error| DatasetError::Filter { index, error: error.at_row(&positions) })?;
        let judged = jsons.into_iter().zip(positions).zip(stays);
        kept.extend(judged.filter_map(|((json, position), stays)| stays.then_some(Row { json, position })));
    }
    if let Some(min_score) = filter.min_score.filter(|_| report.kept > 0 && report.mean_score().is_none()) {
        let (plugin, path, rows) = (report.plugin, path.to_owned(), report.rows);
        return Err(DatasetError::NoScores { index, plugin, min_score, path, rows });
    }
    Ok((kept, report))
}

/// Splits the rows over the strategies, each on a thread of its own; the order of the rows is kept.
fn render(
    rows: Vec<Row>,
    strategies: &mut [Box<dyn PromptStrategy>],
    encoder: &Encoder<'_>,
    sequence_len: usize,
    excess: ExcessLength,
) -> Result<Vec<Outcome>, DatasetError> {
    let share = rows.len().div_ceil(strategies.len().max(1)).max(1);
    let mut parts = Vec::new();
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        parts.push(rows.by_ref().take(share).collect::<Vec<_>>());
    }
    let results: Vec<Result<Vec<Outcome>, DatasetError>> = std::thread::scope(|scope| {
        let workers: Vec<_> = parts
            .into_iter()
            .zip(strategies.iter_mut())
            .map(|(part, strategy)| {
                scope.spawn(move || render_part(part, strategy.as_mut(), encoder, sequence_len, excess))
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut outcomes = Vec::new();
    for result in results {
        outcomes.extend(result?);
    }
    Ok(outcomes)
}

fn render_part(
    rows: Vec<Row>,
    strategy: &mut dyn PromptStrategy,
    encoder: &Encoder<'_>,
    sequence_len: usize,
    excess: ExcessLength,
) -> Result<Vec<Outcome>, DatasetError> {
    let mut outcomes = Vec::with_capacity(rows.len());
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let (jsons, positions): (Vec<_>, Vec<_>) =
            rows.by_ref().take(BATCH as usize).map(|row| (row.json, row.position)).unzip();
        let samples = strategy.render(&jsons).map_err(|error| error.at_row(&positions))?;
        for ((sample, json), position) in samples.into_iter().zip(jsons).zip(positions) {
            outcomes.push(match sample {
                Ok(Some(Sample::Supervised(text))) => encode(&text, json, encoder, sequence_len, excess)
                    .unwrap_or_else(|message| Outcome::Bad(BadRow { position, message, field: None })),
                Ok(Some(other)) => Outcome::Bad(BadRow {
                    position,
                    message: format!(
                        "the prompt strategy gave {}, but this run learns from supervised texts",
                        kind(&other)
                    ),
                    field: None,
                }),
                Ok(None) => Outcome::Skipped,
                Err(error) => Outcome::Bad(BadRow { position, message: error.message, field: error.field }),
            });
        }
    }
    Ok(outcomes)
}

fn encode(
    text: &Text,
    json: String,
    encoder: &Encoder<'_>,
    sequence_len: usize,
    excess: ExcessLength,
) -> Result<Outcome, String> {
    let mut tokens = match encoder.encode(text) {
        Ok(tokens) => tokens,
        Err(error @ TokenizeError::NoTemplate) => {
            return Err(format!("{error}; set `chat_template`, or use a model whose tokenizer has one"));
        }
        Err(error) => return Err(error.to_string()),
    };
    let length = tokens.ids.len();
    if length > sequence_len {
        match excess {
            ExcessLength::Drop => return Ok(Outcome::TooLong),
            ExcessLength::Truncate => tokens.truncate(sequence_len),
            ExcessLength::Raise => {
                return Err(format!(
                    "it has {length} tokens, `sequence_len` is {sequence_len} and `excess_length_strategy` is raise"
                ));
            }
        }
    }
    if tokens.trained_tokens() == 0 {
        return Ok(Outcome::Untrained);
    }
    Ok(Outcome::Example(Box::new(Example { tokens, row_json: json.into() })))
}

fn kind(sample: &Sample) -> &'static str {
    match sample {
        Sample::Supervised(_) => "a supervised text",
        Sample::Preference(_) => "a preference pair",
        Sample::Unpaired(_) => "an unpaired completion",
        Sample::Prompt(_) => "a prompt to roll out",
        Sample::Stepwise(_) => "labelled steps",
    }
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

    fn check(self) -> Result<(), DatasetError> {
        if self.total == 0 {
            return Ok(());
        }
        Err(DatasetError::BadRows { path: self.path, rows: self.rows, total: self.total })
    }
}
