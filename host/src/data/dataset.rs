//! One dataset: rows from its source, past its filters in their order, through its strategy on all cores, into tokens.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use plugin_runtime::PluginError;

use super::filter::{DatasetFilter, FilterReport};
use super::render::{BATCH, Making, Outcome, Row, render};
use super::source::Source;
use super::strategy::PromptStrategy;

pub use super::example::{Example, Origin, Written};
pub use super::render::{BadRow, ExcessLength};

/// Bad rows that are listed before the rest is only counted; so many roles too.
const SHOWN: usize = 5;
/// Bad rows after which nothing more is read.
const BAD_ROWS: u64 = 10_000;
/// Characters of a role's name that are shown.
const ROLE_LENGTH: usize = 40;

/// How many rows were left out for a reason, and which was the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub rows: u64,
    /// What a person finds the first by.
    pub first: Option<String>,
}

impl Count {
    fn row(&mut self, position: impl FnOnce() -> String) {
        self.rows += 1;
        if self.first.is_none() {
            self.first = Some(position());
        }
    }

    fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        if self.first.is_none() {
            self.first.clone_from(&other.first);
        }
    }
}

/// Rows that did not become examples, by reason, and what was seen in all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dropped {
    /// What each row filter did, in the order in which they ran.
    pub filters: Vec<FilterReport>,
    /// More tokens than `sequence_len`.
    pub too_long: Count,
    /// What is learned of them lies behind `sequence_len`, where they were cut.
    pub cut: Count,
    /// No message of theirs is to be learned, with the roles that they have.
    pub no_turn: (Count, Roles),
    /// Nothing in them is learned, for another reason.
    pub untrained: Count,
    /// Pairs whose answers are the same.
    pub equal: Count,
    /// Rows, of those that are used too, with messages that the chat template does not write, and their roles.
    pub unwritten: (Count, Roles),
    /// The strategy gave nothing for them, on purpose.
    pub skipped: Count,
}

/// Names of roles that data has, as many as are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles(BTreeSet<String>);

impl Extend<String> for Roles {
    fn extend<T: IntoIterator<Item = String>>(&mut self, roles: T) {
        for role in roles {
            if self.0.len() < SHOWN {
                self.0.insert(role.chars().take(ROLE_LENGTH).collect());
            }
        }
    }
}

impl std::fmt::Display for Roles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<String> = self.0.iter().map(|role| format!("`{role}`")).collect();
        write!(f, "{}", all.join(", "))
    }
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
    /// What a person finds the first of them by, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
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
            let left_out = move |(reason, rows)| LeftOut { reason, rows, plugin: plugin.clone(), first: None };
            filter.reasons().into_iter().map(left_out)
        };
        let own = [
            ("longer than `sequence_len`".to_owned(), &self.too_long),
            ("cut to `sequence_len` tokens, none of which is learned".to_owned(), &self.cut),
            (format!("no message has a role that is learned; the roles are {}", self.no_turn.1), &self.no_turn.0),
            ("no token to learn".to_owned(), &self.untrained),
            ("the chosen and the rejected answer are the same".to_owned(), &self.equal),
            ("left out by the prompt strategy".to_owned(), &self.skipped),
            (
                format!("the chat template leaves out the content of messages with the role {}", self.unwritten.1),
                &self.unwritten.0,
            ),
        ];
        let own = own.into_iter().filter(|(_, count)| count.rows > 0).map(|(reason, count)| LeftOut {
            reason,
            rows: count.rows,
            plugin: None,
            first: count.first.clone(),
        });
        self.filters.iter().flat_map(of_filter).chain(own).collect()
    }

    /// Counts a row with messages that the chat template does not write.
    fn unwritten(&mut self, roles: BTreeSet<String>, position: impl FnOnce() -> String) {
        if !roles.is_empty() {
            self.unwritten.0.row(position);
            self.unwritten.1.extend(roles);
        }
    }

    /// Adds another dataset's counts.
    pub fn add(&mut self, other: &Self) {
        for report in &other.filters {
            match self.filters.iter_mut().find(|known| known.path == report.path) {
                Some(known) => known.add(report),
                None => self.filters.push(report.clone()),
            }
        }
        let counts = [
            (&mut self.too_long, &other.too_long),
            (&mut self.cut, &other.cut),
            (&mut self.no_turn.0, &other.no_turn.0),
            (&mut self.untrained, &other.untrained),
            (&mut self.equal, &other.equal),
            (&mut self.skipped, &other.skipped),
            (&mut self.unwritten.0, &other.unwritten.0),
        ];
        for (own, other) in counts {
            own.add(other);
        }
        self.no_turn.1.extend(other.no_turn.1.0.iter().cloned());
        self.unwritten.1.extend(other.unwritten.1.0.iter().cloned());
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

/// Reads all of `source`, asks `filters` one after another, and makes examples of the rest with `strategies` (one per thread).
pub fn prepare(
    path: &Path,
    source: &mut dyn Source,
    filters: &mut [DatasetFilter],
    strategies: &mut [Box<dyn PromptStrategy>],
    making: &Making<'_>,
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
    for (outcome, row) in render(rows, strategies, making)? {
        let dropped = &mut prepared.dropped;
        let position = || found_by(path, &row);
        match outcome {
            Outcome::Example(mut example, unwritten) => {
                dropped.unwritten(unwritten, position);
                if let Some(origin) = &mut example.origin {
                    origin.position = position();
                }
                prepared.examples.push(*example);
            }
            Outcome::Pieces(pieces) => {
                let count = pieces.len();
                for (index, mut piece) in pieces.into_iter().enumerate() {
                    if let Some(origin) = &mut piece.origin {
                        origin.position = format!("{}, piece {} of {count}", position(), index + 1);
                    }
                    prepared.examples.push(piece);
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
        if batch.done || bad.total > BAD_ROWS {
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
            let path = Path::new("rows");
            prepare(path, &mut rows, &mut [], &mut strategies, &making).unwrap()
        };
        let one = prepared(1);
        assert_eq!(one.examples.len(), 1500);
        let text = |index: usize| one.examples[index].origin.as_ref().unwrap().written.text.as_str();
        assert_eq!((text(255), text(256), text(1499)), ("255 256", "256 1", "1499 220"));
        assert_eq!(prepared(2), one);
        assert_eq!(prepared(5), one);
    }
}
