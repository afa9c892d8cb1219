//! A loader as a library.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Once;

use plugin_sdk::Error;
use plugin_sdk::loader::{Batch as Given, DatasetLoader, Memory, Source};
use rows::Format;
use serde_json::Value;

use super::{Batch, Row};

pub(super) struct Loader(Box<dyn Reader>);

/// A loader of whatever format.
trait Reader {
    fn len(&self) -> Option<u64>;
    fn next(&mut self, max_rows: u32) -> Result<Given, Error>;
    fn cursor(&self) -> Vec<u8>;
    fn seek(&mut self, cursor: &[u8]) -> Result<(), Error>;
}

impl<F: Format> Reader for rows::Loader<F> {
    fn len(&self) -> Option<u64> {
        self.rows()
    }

    fn next(&mut self, max_rows: u32) -> Result<Given, Error> {
        DatasetLoader::next(self, max_rows)
    }

    fn cursor(&self) -> Vec<u8> {
        DatasetLoader::cursor(self)
    }

    fn seek(&mut self, cursor: &[u8]) -> Result<(), Error> {
        DatasetLoader::seek(self, cursor)
    }
}

impl Loader {
    pub(super) fn open(loader: &str, config: &Value, file: &[u8]) -> Result<Self, String> {
        let open = match loader {
            "arrow" => open::<arrow_rows::Arrow>,
            "csv" => open::<csv_rows::Csv>,
            "jsonl" => open::<jsonl_rows::Jsonl>,
            "parquet" => open::<parquet_rows::Parquet>,
            "text" => open::<text_rows::Text>,
            _ => panic!("{loader}"),
        };
        open(config, file).map(Self).map_err(|error| words(&error))
    }

    pub(super) fn len(&mut self) -> Result<Option<u64>, String> {
        Ok(self.0.len())
    }

    pub(super) fn next(&mut self, max_rows: u32) -> Result<Batch, String> {
        static HOOK: Once = Once::new();
        HOOK.call_once(pass_libraries);
        let batch = catch_unwind(AssertUnwindSafe(|| self.0.next(max_rows)));
        let batch = batch.map_err(|_| "a library panicked".to_owned())?.map_err(|error| words(&error))?;
        let rows = batch.rows.into_iter().map(|row| match row {
            Ok(row) => Row { json: Ok(row.json), position: row.position },
            Err(row) => Row { json: Err(row.error.message), position: row.position },
        });
        Ok(Batch { rows: rows.collect(), is_last: batch.done })
    }

    pub(super) fn cursor(&mut self) -> Result<Vec<u8>, String> {
        Ok(self.0.cursor())
    }

    pub(super) fn seek(&mut self, cursor: &[u8]) -> Result<(), String> {
        self.0.seek(cursor).map_err(|error| words(&error))
    }
}

/// libFuzzer ends the process at a panic; one of such a library goes on to `next`.
fn pass_libraries() {
    let end = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let file = panic.location().map_or("", |place| place.file());
        if !super::LIBRARIES.iter().any(|library| file.contains(library)) {
            end(panic);
        }
    }));
}

fn open<F: Format>(config: &Value, file: &[u8]) -> Result<Box<dyn Reader>, Error> {
    let config = serde_json::from_value(config.clone()).unwrap_or_else(|error| panic!("{config}: {error}"));
    let loader: rows::Loader<F> = DatasetLoader::open(config, Source::File(Rc::new(Memory(file.to_vec()))))?;
    Ok(Box::new(loader))
}

fn words(error: &Error) -> String {
    match error {
        Error::Config { message, help, .. } => format!("{message}\n{}", help.as_deref().unwrap_or_default()),
        Error::Failed(message) => message.clone(),
    }
}
