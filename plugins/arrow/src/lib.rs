//! Rows from Arrow's files and streams, as `save_to_disk` of `datasets` writes them: one record batch after another.

mod messages;
mod widths;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_buffer::Buffer;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{read_dictionary, read_record_batch};
use arrow_ipc::root_as_message;
use arrow_schema::{ArrowError, Fields, Schema, SchemaRef};
use columns::{BatchRows, ColumnsConfig, choose, fits};
use plugin_sdk::Error;
use plugin_sdk::loader::{BadRow, ReadAt, Row};
use rows::{File, Format, Rows, Selection};

use crate::messages::{Kind, Messages};
use crate::widths::{fit, widths, widths_of_values};

/// Tables of columns.
pub struct Arrow {
    columns: Option<Vec<String>>,
}

impl Format for Arrow {
    type Config = ColumnsConfig;

    const EXTENSIONS: &'static [&'static str] = &["arrow"];

    fn selection(config: &ColumnsConfig) -> Selection {
        config.selection()
    }

    fn new(config: ColumnsConfig) -> Result<Self, Error> {
        Ok(Self { columns: config.columns })
    }

    fn open(&self, file: &Rc<File>) -> Result<Box<dyn Rows>, Error> {
        Ok(Box::new(Table::new(file, self.columns.as_deref())?))
    }

    fn count(&self, file: &Rc<File>) -> Option<u64> {
        let mut messages = Messages::new(file).ok()?;
        let mut rows = 0_u64;
        while let Some(message) = messages.next().ok()? {
            if let Kind::Rows(count) = message.kind {
                rows = rows.checked_add(count)?;
            }
        }
        Some(rows)
    }

    fn fits(&self, first: &Rc<File>, file: &Rc<File>) -> Result<(), Error> {
        let of = |file: &Rc<File>| Ok::<_, Error>(Table::new(file, self.columns.as_deref())?.fields);
        fits(&of(first)?, &of(file)?, &first.name(), &file.name())
    }
}

/// The rows of one file.
struct Table {
    name: String,
    messages: Messages,
    schema: SchemaRef,
    /// What its buffers are multiples of.
    widths: Vec<u64>,
    /// Values of dictionaries, by their ids.
    dictionaries: HashMap<i64, ArrayRef>,
    /// Numbers of the columns that are read, and the columns.
    chosen: Vec<usize>,
    fields: Fields,
    rows: Option<BatchRows>,
    /// Record batches that were begun, and rows that were given.
    batches: u64,
    given: u64,
}

impl Table {
    /// Reads the schema.
    fn new(file: &Rc<File>, wanted: Option<&[String]>) -> Result<Self, Error> {
        let name = file.name();
        let mut table = Self {
            messages: Messages::new(file)?,
            name,
            schema: Arc::new(Schema::empty()),
            widths: Vec::new(),
            dictionaries: HashMap::new(),
            chosen: Vec::new(),
            fields: Fields::empty(),
            rows: None,
            batches: 0,
            given: 0,
        };
        let Some(message) = table.messages.next()? else {
            return Err(Error::Failed(format!("`{}` has no schema, and no rows", table.name)));
        };
        if message.kind != Kind::Schema {
            return Err(Error::Failed(format!("`{}` does not begin with a schema", table.name)));
        }
        let schema = root_as_message(&message.head).ok().and_then(|head| head.header_as_schema());
        let schema = schema.ok_or_else(|| table.broken("the schema cannot be read"))?;
        let schema = Arc::new(try_fb_to_schema(schema).map_err(|error| table.failed(&error))?);
        table.chosen = choose(schema.fields(), wanted, &table.name)?;
        table.fields = table.chosen.iter().map(|&index| Arc::clone(&schema.fields()[index])).collect();
        table.widths = widths(schema.fields());
        table.schema = schema;
        Ok(table)
    }

    /// The next record batch, decoded; none at the end. Whole batches of the first `skipped` rows are passed over.
    fn batch(&mut self, skipped: &mut u64) -> Result<Option<BatchRows>, Error> {
        while let Some(message) = self.messages.next()? {
            if let Kind::Rows(count) = message.kind {
                self.batches += 1;
                if count <= *skipped {
                    *skipped -= count;
                    continue;
                }
            }
            let head = root_as_message(&message.head).map_err(|_| self.broken("a message cannot be read"))?;
            let body = || Ok::<_, Error>(Buffer::from(self.messages.body(&message)?));
            match (message.kind, head.header_as_record_batch(), head.header_as_dictionary_batch()) {
                (Kind::Rows(count), Some(batch), _) => {
                    if !fit(batch, &self.widths) {
                        return Err(
                            self.broken("it has a buffer at a place or of a length that its type does not have")
                        );
                    }
                    let (schema, chosen) = (Arc::clone(&self.schema), Some(self.chosen.as_slice()));
                    let batch = read_record_batch(&body()?, batch, schema, &self.dictionaries, chosen, &head.version())
                        .map_err(|error| self.failed(&error))?;
                    if batch.num_rows() as u64 != count {
                        return Err(self.broken("it has other rows than it says"));
                    }
                    return Ok(Some(BatchRows::new(batch)));
                }
                (Kind::Dictionary, _, Some(dictionary)) => {
                    #[expect(
                        deprecated,
                        reason = "the only way from a dictionary to the type of its values, as the reader itself goes"
                    )]
                    let columns = self.schema.fields_with_dict_id(dictionary.id());
                    let widths = columns.first().map(|column| widths_of_values(column.data_type())).unwrap_or_default();
                    if dictionary.data().is_some_and(|values| !fit(values, &widths)) {
                        return Err(self.broken(
                            "a dictionary has a buffer at a place or of a length that its type does not have",
                        ));
                    }
                    let body = body()?;
                    let read =
                        read_dictionary(&body, dictionary, &self.schema, &mut self.dictionaries, &head.version());
                    read.map_err(|error| self.failed(&error))?;
                }
                (Kind::Schema, ..) => return Err(self.broken("it has a second schema")),
                _ => {}
            }
        }
        Ok(None)
    }

    fn failed(&self, error: &ArrowError) -> Error {
        let words = error.to_string();
        let words: String = words.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect();
        self.broken(&words)
    }

    fn broken(&self, words: &str) -> Error {
        Error::Failed(format!("`{}`, record batch {}: {words}", self.name, self.batches.max(1)))
    }
}

impl Rows for Table {
    fn next(&mut self) -> Result<Option<Result<Row, BadRow>>, Error> {
        loop {
            if let Some(rows) = self.rows.as_mut().filter(|rows| rows.left() > 0) {
                self.given += 1;
                return Ok(rows.next(format!("row {}", self.given)));
            }
            self.rows = self.batch(&mut 0)?;
            if self.rows.is_none() {
                return Ok(None);
            }
        }
    }

    fn cursor(&self) -> (u64, u64) {
        (0, self.given)
    }

    fn seek(&mut self, (_, given): (u64, u64)) -> Result<(), Error> {
        let mut skipped = given;
        self.rows = self.batch(&mut skipped)?;
        if let Some(rows) = &mut self.rows {
            rows.skip(skipped as usize);
        }
        self.given = given;
        Ok(())
    }
}

plugin_sdk::register_dataset_loader!(
    rows::Loader<Arrow>,
    name: "arrow",
    description: "Rows from Arrow files and streams, as `save_to_disk` of `datasets` writes them",
);

#[cfg(test)]
mod tests;
