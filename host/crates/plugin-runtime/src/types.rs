//! The shapes that cross the boundary, under the names that the host uses. They are what the WIT files declare.

pub use crate::bindings::environment::exports::trainer::plugin::environment::{Outcome, Start as EpisodeStart, Turn};
pub use crate::bindings::filter::exports::trainer::plugin::row_filter::Verdict;
pub use crate::bindings::health::exports::trainer::plugin::run_health::{
    Advice, Finding as HealthFinding, Metric, Observation, Run as HealthRun,
};
pub use crate::bindings::loader::exports::trainer::plugin::dataset_loader::{BadRow, Batch as RowBatch, Row};
pub use crate::bindings::reward::exports::trainer::plugin::reward::{Context, Item, Score};
pub use crate::bindings::rules::exports::trainer::plugin::compat_rules::{Edit, Facts, Finding, RuleInfo, Severity};
pub use crate::bindings::schedule::exports::trainer::plugin::schedule::Run as ScheduleRun;
pub use crate::bindings::shared::trainer::plugin::log::Level;
pub use crate::bindings::shared::trainer::plugin::types::{
    ConfigError, Conversation, Message, PluginError as GuestError, RowError, Segment, Text, TrainSpan,
};
pub use crate::bindings::strategy::exports::trainer::plugin::prompt_strategy::{
    Preference, Sample, Step, Stepwise, Unpaired,
};
