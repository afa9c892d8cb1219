//! Lines of `instruction<TAB>output` as rows.

use plugin_sdk::loader::{BadRow, Batch, DatasetLoader, Lines, Row, RowError, Source};
use plugin_sdk::{Error, serde_json};
use serde::Deserialize;

/// What users can set. `config.schema.json` says the same to the host, which holds their config against it.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    separator: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { separator: "\t".to_owned() }
    }
}

pub struct Tabs {
    config: Config,
    lines: Lines,
}

impl DatasetLoader for Tabs {
    type Config = Config;

    fn open(config: Config, source: Source) -> Result<Self, Error> {
        match source {
            Source::File(file) => Ok(Self { config, lines: Lines::new(file) }),
            Source::Directory(_) => Err("`path` must be a file".into()),
        }
    }

    fn next(&mut self, max_rows: u32) -> Result<Batch, Error> {
        let mut rows = Vec::new();
        while rows.len() < max_rows as usize {
            let position = format!("line {}", self.lines.number() + 1);
            let Some(line) = self.lines.next_line()? else { return Ok(Batch { rows, done: true }) };
            rows.push(match String::from_utf8_lossy(line).split_once(&self.config.separator) {
                Some((instruction, output)) => {
                    let json = serde_json::json!({ "instruction": instruction, "output": output }).to_string();
                    Ok(Row { json, position })
                }
                None => {
                    let message = "there is no separator".to_owned();
                    Err(BadRow { error: RowError { message, field: None }, position })
                }
            });
        }
        Ok(Batch { rows, done: false })
    }

    // With these two, a run goes on where it stopped.
    fn cursor(&self) -> Vec<u8> {
        [self.lines.position(), self.lines.number()].map(u64::to_le_bytes).concat()
    }

    fn seek(&mut self, cursor: &[u8]) -> Result<(), Error> {
        let word = |at: usize| cursor.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let (Some(position), Some(number)) = (word(0), word(8)) else {
            return Err("not a cursor of this loader".into());
        };
        self.lines.seek(position, number);
        Ok(())
    }
}

plugin_sdk::register_dataset_loader!(
    Tabs,
    name: "{{name}}",
    description: "Instructions and outputs, a tab between them",
    config_schema: include_str!("../config.schema.json"),
);

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use plugin_sdk::loader::Memory;

    use super::*;

    #[test]
    fn a_line_is_a_row() {
        let source = Source::File(Rc::new(Memory(b"add\t3\nno tab\n".to_vec())));
        let batch = Tabs::open(Config::default(), source).unwrap().next(10).unwrap();
        assert!(batch.done);
        assert_eq!(batch.rows[0].as_ref().unwrap().json, r#"{"instruction":"add","output":"3"}"#);
        assert_eq!(batch.rows[1].as_ref().unwrap_err().position, "line 2");
    }
}
