//! Columns by name, and values inside of them: `chosen`, `chosen[1].content`, `turns[-1].text`.

use plugin_sdk::Error;
use plugin_sdk::strategy::{RowError, bad_field};
use serde_json::{Map, Value};

use crate::config::Names;

/// Where a value lies in a row.
#[derive(Debug)]
pub(crate) struct Column {
    /// As the config has it. A column with this very name comes first.
    pub(crate) written: String,
    name: String,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    /// Of a list; from the end where it is negative.
    Entry(isize),
    /// Of an object.
    Member(String),
}

/// The columns of a key.
pub(crate) fn columns(key: &str, names: &Names) -> Result<Vec<Column>, Error> {
    let list = names.list();
    if list.is_empty() {
        return Err(Error::config(key, format!("`{key}` is an empty list; name a column")));
    }
    list.iter().map(|name| Column::new(key, name)).collect()
}

/// The first of the columns that has a value; the row's error where none has.
pub(crate) fn required<'a>(
    columns: &'a [Column],
    row: &'a Map<String, Value>,
) -> Result<(&'a Column, &'a Value), RowError> {
    for column in columns {
        if let Some(value) = column.find(row)? {
            return Ok((column, value));
        }
    }
    let column = &columns[0];
    if row.contains_key(&column.name) {
        let message = format!("`{}` is null (as `NaN` is read too), where a text belongs", column.written);
        return Err(bad_field(&column.name, message));
    }
    let mut has: Vec<&str> = row.keys().take(8).map(String::as_str).collect();
    if row.len() > has.len() {
        has.push("…");
    }
    let has = if has.is_empty() { "no column at all".to_owned() } else { has.join(", ") };
    let names: Vec<String> = columns.iter().map(|column| format!("`{}`", column.written)).collect();
    let message = match names.as_slice() {
        [name] => format!("the row has no {name}; it has {has}"),
        names => format!("the row has none of {}; it has {has}", names.join(", ")),
    };
    Err(bad_field(&column.name, message))
}

impl Column {
    pub(crate) fn new(key: &str, written: &str) -> Result<Self, Error> {
        let wrong = || {
            let message = format!("`{written}` is not the name of a column, nor a way into one");
            Error::config_with_help(key, message, "write it as in `chosen[1].content`")
        };
        let end = written.find(['[', '.']).unwrap_or(written.len());
        let (name, mut rest) = written.split_at(end);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(inside) = rest.strip_prefix('[') {
                let (index, after) = inside.split_once(']').ok_or_else(wrong)?;
                steps.push(Step::Entry(index.parse().map_err(|_| wrong())?));
                rest = after;
            } else {
                let inside = rest.strip_prefix('.').ok_or_else(wrong)?;
                let (member, after) = inside.split_at(inside.find(['[', '.']).unwrap_or(inside.len()));
                if member.is_empty() {
                    return Err(wrong());
                }
                steps.push(Step::Member(member.to_owned()));
                rest = after;
            }
        }
        if name.is_empty() {
            return Err(wrong());
        }
        Ok(Self { written: written.to_owned(), name: name.to_owned(), steps })
    }

    /// An error about this column.
    pub(crate) fn bad(&self, message: impl Into<String>) -> RowError {
        bad_field(&self.name, message)
    }

    /// The value; none where there is no such column, or null in it.
    pub(crate) fn find<'a>(&self, row: &'a Map<String, Value>) -> Result<Option<&'a Value>, RowError> {
        if let Some(value) = row.get(&self.written) {
            return Ok(Some(value).filter(|value| !value.is_null()));
        }
        let Some(mut value) = row.get(&self.name).filter(|value| !value.is_null()) else { return Ok(None) };
        let mut way = self.name.clone();
        for step in &self.steps {
            let (next, to) = match step {
                Step::Entry(index) => {
                    let Value::Array(list) = value else {
                        return Err(self.bad(format!("`{way}` must be a list, found {}", kind(value))));
                    };
                    let place =
                        if *index < 0 { list.len().checked_add_signed(*index) } else { usize::try_from(*index).ok() };
                    let entry = place.and_then(|place| list.get(place));
                    let entries = if list.len() == 1 { "entry" } else { "entries" };
                    let missing = || self.bad(format!("`{way}` has {} {entries}, and no `[{index}]`", list.len()));
                    (entry.ok_or_else(missing)?, format!("{way}[{index}]"))
                }
                Step::Member(name) => {
                    let Value::Object(object) = value else {
                        return Err(self.bad(format!("`{way}` must be an object, found {}", kind(value))));
                    };
                    let member = object.get(name).ok_or_else(|| self.bad(format!("`{way}` has no `{name}`")))?;
                    (member, format!("{way}.{name}"))
                }
            };
            (value, way) = (next, to);
        }
        Ok(Some(value).filter(|value| !value.is_null()))
    }
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
