//! Leaves rows out whose output is short, or was there before.

use std::collections::BTreeSet;

use plugin_sdk::Error;
use plugin_sdk::filter::{RowFilter, Verdict, drop_because, keep_with};
use serde::Deserialize;

/// What users can set. `config.schema.json` says the same to the host, which holds their config against it.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    min_words: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { min_words: 1 }
    }
}

/// The columns that it looks at; a row without them is left out, with that as the reason.
#[derive(Deserialize)]
pub struct Row {
    output: String,
}

pub struct Short {
    config: Config,
    seen: BTreeSet<String>,
}

impl RowFilter for Short {
    type Config = Config;
    type Row = Row;

    fn new(config: Config) -> Result<Self, Error> {
        Ok(Self { config, seen: BTreeSet::new() })
    }

    // Rows of a dataset come in their order, so a row may be compared with earlier ones.
    fn judge(&mut self, row: Row) -> Verdict {
        let words = row.output.split_whitespace().count();
        if words < self.config.min_words {
            return drop_because("too few words");
        }
        if !self.seen.insert(row.output) {
            return drop_because("was there before");
        }
        keep_with(words as f64)
    }
}

plugin_sdk::register_row_filter!(
    Short,
    name: "{{name}}",
    description: "Leaves short and repeated outputs out",
    config_schema: include_str!("../config.schema.json"),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_repeated_outputs_are_left_out() {
        let mut filter = Short::new(Config { min_words: 2 }).unwrap();
        let mut keeps = |output: &str| filter.judge(Row { output: output.to_owned() }).keep;
        assert_eq!([keeps("one two"), keeps("one"), keeps("one two"), keeps("two one")], [true, false, false, true]);
    }
}
