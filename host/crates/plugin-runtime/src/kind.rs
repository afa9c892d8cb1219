//! The kinds of plugins: what each is for.

use serde::{Deserialize, Serialize};

/// What a plugin is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Turns bytes into rows (`datasets[].ds_type`).
    DatasetLoader,
    /// Turns rows into what is learned (`datasets[].type`).
    PromptStrategy,
    /// Scores completions (`eval_reward_funcs`).
    Reward,
    /// Judges configs (`rules`).
    CompatRules,
    /// Leaves rows out, with reasons (`row_filters`).
    RowFilter,
    /// Gives the learning rate of each step (`lr_scheduler`).
    Schedule,
    /// Watches a run's metrics and may stop it (`run_health`).
    RunHealth,
}

impl Kind {
    /// All of them, in the order of a run.
    pub const ALL: [Self; 7] = [
        Self::CompatRules,
        Self::DatasetLoader,
        Self::RowFilter,
        Self::PromptStrategy,
        Self::Schedule,
        Self::Reward,
        Self::RunHealth,
    ];

    /// As it stands in manifests and in the names of WIT interfaces.
    pub fn name(self) -> &'static str {
        match self {
            Self::DatasetLoader => "dataset-loader",
            Self::PromptStrategy => "prompt-strategy",
            Self::Reward => "reward",
            Self::CompatRules => "compat-rules",
            Self::RowFilter => "row-filter",
            Self::Schedule => "schedule",
            Self::RunHealth => "run-health",
        }
    }

    /// The config key that names plugins of this kind.
    pub fn config_key(self) -> &'static str {
        match self {
            Self::DatasetLoader => "datasets[].ds_type",
            Self::PromptStrategy => "datasets[].type",
            Self::Reward => "eval_reward_funcs",
            Self::CompatRules => "rules",
            Self::RowFilter => "row_filters",
            Self::Schedule => "lr_scheduler",
            Self::RunHealth => "run_health",
        }
    }
}
