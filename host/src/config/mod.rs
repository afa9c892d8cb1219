//! The config file: YAML with Axolotl's keys in, a typed [`Config`] with every default filled in out, or every problem
//! of the file at once, each at its line and column.

mod schema;
mod values;

pub use self::schema::{Config, DatasetConfig, GradientCheckpointingKwargs, SpecialTokens};
pub use self::values::{
    Adapter, Amount, AutoBool, Cadence, Choice, ExcessLengthStrategy, LrScheduler, Optimizer, PluginLimits, PluginPin,
    PluginRef, RuleRef, RuleSeverity, TrainOnEos,
};
