//! Arrow's columns as rows of JSON, as `to_pylist` of pyarrow gives them.
//!
//! What JSON has no value for becomes a text: decimals with all their digits, dates and times as Arrow prints them. Numbers
//! that are not finite are `null`, and bytes are a text where they are UTF-8. A map is a list of pairs.

mod times;
mod values;

use std::rc::Rc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Fields};
use plugin_sdk::Error;
use plugin_sdk::loader::{BadRow, Row};
use rows::{DataFiles, Selection, bad};
use serde::Deserialize;

use crate::values::{Problem, Values};

/// Types inside one another: what is deeper is no data of anyone.
const DEPTH: usize = 32;
/// Columns of a table.
const COLUMNS: usize = 10_000;

/// The config of a loader of columns.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnsConfig {
    /// Only these columns. Default: all.
    pub columns: Option<Vec<String>>,
    /// As of [`Selection`].
    pub split: Option<String>,
    /// The same.
    pub data_files: DataFiles,
}

impl ColumnsConfig {
    /// Which files are meant.
    pub fn selection(&self) -> Selection {
        Selection { split: self.split.clone(), data_files: self.data_files.clone() }
    }
}

/// Which columns of a table are read: their numbers, in its order.
///
/// # Errors
/// A column that is not there, or one of a type that no row can have.
pub fn choose(fields: &Fields, wanted: Option<&[String]>, name: &str) -> Result<Vec<usize>, Error> {
    if fields.len() > COLUMNS {
        return Err(Error::Failed(format!("`{name}` has {} columns; {COLUMNS} are read at most", fields.len())));
    }
    for (index, column) in wanted.unwrap_or_default().iter().enumerate() {
        if !fields.iter().any(|field| field.name() == column) {
            let there: Vec<String> = fields.iter().take(20).map(|field| format!("`{}`", field.name())).collect();
            let message = format!("`{name}` has no column `{column}`; it has {}", there.join(", "));
            return Err(Error::config(format!("columns[{index}]"), message));
        }
    }
    let is_wanted = |field: &Field| wanted.is_none_or(|wanted| wanted.contains(field.name()));
    let chosen: Vec<usize> = (0..fields.len()).filter(|&index| is_wanted(&fields[index])).collect();
    for (at, &index) in chosen.iter().enumerate() {
        let field = &fields[index];
        if chosen[..at].iter().any(|&other| fields[other].name() == field.name()) {
            return Err(Error::Failed(format!("`{name}` has two columns `{}`", field.name())));
        }
        if let Some(what) = unreadable(field.data_type(), 0) {
            let others: Vec<String> = fields
                .iter()
                .filter(|other| other.name() != field.name() && unreadable(other.data_type(), 0).is_none())
                .map(|other| serde_json::Value::from(other.name().as_str()).to_string())
                .collect();
            let message = format!("column `{}` of `{name}` has the type {what}, which no row can have", field.name());
            let help = format!(
                "name the columns to read: `ds_type: {{name: …, config: {{columns: [{}]}}}}`",
                others.join(", ")
            );
            return Err(Error::failed_with_help(message, help));
        }
    }
    Ok(chosen)
}

/// Why the rows of a file cannot stand behind those of the first: it has other columns, or columns of another type.
///
/// # Errors
/// In words for the user.
pub fn fits(first: &Fields, file: &Fields, first_name: &str, name: &str) -> Result<(), Error> {
    let of = |fields: &Fields, name: &str| {
        fields.iter().find(|field| field.name() == name).map(|field| field.data_type().clone())
    };
    for field in first {
        let column = field.name();
        let message = match of(file, column) {
            None => format!("`{name}` has no column `{column}`, which `{first_name}` has"),
            Some(other) if !is_like(field.data_type(), &other) => {
                format!("column `{column}` is {other} in `{name}` and {} in `{first_name}`", field.data_type())
            }
            Some(_) => continue,
        };
        return Err(other_columns(&message));
    }
    let more = file.iter().find(|field| of(first, field.name()).is_none());
    more.map_or(Ok(()), |field| {
        Err(other_columns(&format!("`{name}` has a column `{}`, which `{first_name}` lacks", field.name())))
    })
}

fn other_columns(message: &str) -> Error {
    let message = format!("{message}; files of one dataset have the same columns");
    Error::failed_with_help(message, "write an entry of `datasets` for each kind of file, or name common `columns`")
}

/// Types that become the same JSON, as far as a strategy can tell: a column without values has the type null.
fn is_like(one: &DataType, other: &DataType) -> bool {
    use DataType::{FixedSizeList, LargeList, List, Null, Struct};
    let is_text = |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    match (one, other) {
        (Null, _) | (_, Null) => true,
        (DataType::Dictionary(_, one), other) | (other, DataType::Dictionary(_, one)) => is_like(one, other),
        (
            List(one) | LargeList(one) | FixedSizeList(one, _),
            List(other) | LargeList(other) | FixedSizeList(other, _),
        ) => is_like(one.data_type(), other.data_type()),
        (Struct(one), Struct(other)) => {
            one.len() == other.len()
                && one.iter().all(|field| {
                    let same = other.iter().find(|other| other.name() == field.name());
                    same.is_some_and(|other| is_like(field.data_type(), other.data_type()))
                })
        }
        (one, other) => {
            (is_text(one) && is_text(other))
                || (one.is_integer() && other.is_integer())
                || (one.is_floating() && other.is_floating())
                || one == other
        }
    }
}

/// What of a type cannot be a value of a row.
fn unreadable(kind: &DataType, depth: usize) -> Option<String> {
    if depth > DEPTH {
        return Some(format!("of more than {DEPTH} types inside one another"));
    }
    match kind {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => unreadable(field.data_type(), depth + 1),
        DataType::Struct(fields) => fields.iter().find_map(|field| unreadable(field.data_type(), depth + 1)),
        DataType::Dictionary(_, value) => unreadable(value, depth + 1),
        DataType::Interval(_)
        | DataType::Duration(_)
        | DataType::Union(..)
        | DataType::RunEndEncoded(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_) => Some(format!("{kind}")),
        _ => None,
    }
}

/// The rows of a batch, one after another.
pub struct BatchRows {
    batch: Rc<RecordBatch>,
    /// Names as JSON, with what stands before them.
    keys: Vec<String>,
    row: usize,
}

impl BatchRows {
    /// From its first row on.
    pub fn new(batch: RecordBatch) -> Self {
        let key = |(index, field): (usize, &Rc<Field>)| key(index, field.name());
        let fields: Vec<Rc<Field>> =
            batch.schema_ref().fields().iter().map(|field| Rc::new(field.as_ref().clone())).collect();
        let keys = fields.iter().enumerate().map(key).collect();
        Self { batch: Rc::new(batch), keys, row: 0 }
    }

    /// Passes over rows.
    pub fn skip(&mut self, rows: usize) {
        self.row = self.row.saturating_add(rows).min(self.batch.num_rows());
    }

    /// Rows that are left.
    pub fn left(&self) -> usize {
        self.batch.num_rows() - self.row
    }

    /// The next row; none behind the last.
    pub fn next(&mut self, position: String) -> Option<Result<Row, BadRow>> {
        if self.left() == 0 {
            return None;
        }
        let row = self.row;
        self.row += 1;
        let mut json = Vec::with_capacity(256);
        for (key, column) in self.keys.iter().zip(self.batch.columns()) {
            json.extend_from_slice(key.as_bytes());
            if let Err(problem) = Values::of(column).write(row, &mut json) {
                let name = key.trim_start_matches(['{', ',']).trim_end_matches(':');
                return Some(Err(bad(words(name, problem), position)));
            }
        }
        if self.keys.is_empty() {
            json.push(b'{');
        }
        json.push(b'}');
        Some(match String::from_utf8(json) {
            Ok(json) => Ok(Row { json, position }),
            Err(_) => Err(bad("a text of it is not UTF-8", position)),
        })
    }
}

fn words(column: &str, problem: Problem) -> String {
    match problem {
        Problem::Bytes => format!("column {column} holds bytes that are no text; read others: `columns` of the loader"),
        Problem::Time => format!("column {column} holds a date or time that does not exist"),
        Problem::Unreadable => format!("column {column} holds a value of a type that cannot be read"),
    }
}

/// A name as the key of an object's entry, behind `{` or a comma.
fn key(index: usize, name: &str) -> String {
    format!("{}{}:", if index == 0 { '{' } else { ',' }, serde_json::Value::from(name))
}
