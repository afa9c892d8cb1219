//! What came of runs, so that a config can be held against them: each run leaves a record of how it was set up and how it
//! ended in its `run.json`; records that a user imports make a table, and rules get to see it. Nothing is ever sent, and a
//! record has nothing personal: no names of files, models, data or plugins, no text, no times.

pub mod record;
pub mod table;

pub use self::record::{Ending, Record, Setup};
pub use self::table::Table;
