//! The kinds of plugins, each described once: a new kind is an entry here. Whatever is the same for all plugins of a kind and
//! needs no code of its own is looked up in its description.

use serde::{Deserialize, Serialize};

/// What is true of all plugins of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// As it stands in manifests and messages; the names of its WIT interface, its world and its template follow from it.
    pub name: &'static str,
    /// The config key that names plugins of this kind.
    pub config_key: &'static str,
    /// What an instance is made for.
    pub start: Start,
    /// What a result is about, in messages: `row`, `completion`.
    pub unit: &'static str,
    /// The function of which a failed call is reduced to the units that it takes to fail, and kept to be made again; none
    /// where no call is kept. A kind with more than one such function names the one that most calls are of.
    pub kept_call: Option<&'static str>,
}

/// What an instance is made for, beside its config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// For nothing else: it can be made wherever its config is known.
    Config,
    /// For a file or directory, which it reads through the host, and for directories that it is granted.
    Data,
    /// For a run, whose length in steps it is told.
    Run,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal { $($field:ident: $value:expr),+ $(,)? })+) => {
        /// What a plugin is for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* #[serde(rename = $name)] $kind,)+
        }

        impl Kind {
            /// How many there are.
            const COUNT: usize = [$($name),+].len();

            /// What is true of all plugins of this kind.
            pub const fn description(self) -> &'static Description {
                match self {
                    $(Self::$kind => &Description { name: $name, $($field: $value),+ },)+
                }
            }
        }
    };
}

kinds! {
    /// Turns bytes into rows.
    DatasetLoader = "dataset-loader" {
        config_key: "datasets[].ds_type",
        start: Start::Data,
        unit: "row",
        kept_call: None,
    }
    /// Turns rows into what is learned.
    PromptStrategy = "prompt-strategy" {
        config_key: "datasets[].type",
        start: Start::Config,
        unit: "row",
        kept_call: Some("render"),
    }
    /// Scores completions.
    Reward = "reward" {
        config_key: "eval_reward_funcs",
        start: Start::Config,
        unit: "completion",
        kept_call: Some("score"),
    }
    /// Judges configs.
    CompatRules = "compat-rules" {
        config_key: "rules",
        start: Start::Config,
        unit: "config",
        kept_call: None,
    }
    /// Leaves rows out, with reasons.
    RowFilter = "row-filter" {
        config_key: "row_filters",
        start: Start::Config,
        unit: "row",
        kept_call: Some("judge"),
    }
    /// Gives the learning rate of each step.
    Schedule = "schedule" {
        config_key: "lr_scheduler",
        start: Start::Run,
        unit: "run",
        kept_call: None,
    }
    /// Watches a run's metrics and may stop it.
    RunHealth = "run-health" {
        config_key: "run_health",
        start: Start::Run,
        unit: "finding",
        kept_call: None,
    }
    /// Answers what the model writes, over several turns, and rewards it.
    Environment = "environment" {
        config_key: "environment",
        start: Start::Config,
        unit: "episode",
        kept_call: Some("step"),
    }
}

impl Kind {
    /// All of them, in the order of a run.
    pub const ALL: [Self; Self::COUNT] = [
        Self::CompatRules,
        Self::DatasetLoader,
        Self::RowFilter,
        Self::PromptStrategy,
        Self::Schedule,
        Self::Environment,
        Self::Reward,
        Self::RunHealth,
    ];

    /// As it stands in manifests and messages.
    pub const fn name(self) -> &'static str {
        self.description().name
    }

    /// The same with an article, in messages: `a reward`, `an environment`.
    pub fn with_article(self) -> String {
        let article = if self.name().starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        format!("{article} {}", self.name())
    }

    /// The config key that names plugins of this kind.
    pub const fn config_key(self) -> &'static str {
        self.description().config_key
    }

    /// What an instance is made for.
    pub const fn start(self) -> Start {
        self.description().start
    }

    /// What a result is about, in messages.
    pub const fn unit(self) -> &'static str {
        self.description().unit
    }

    /// The WIT interface that such a plugin exports, without its version.
    pub fn interface(self) -> String {
        format!("trainer:plugin/{}", self.name())
    }

    /// The WIT world of such a plugin.
    pub fn world(self) -> String {
        format!("{}-plugin", self.name())
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_kind_has_an_interface_and_a_world() {
        for kind in Kind::ALL {
            let (name, world) = (kind.name(), kind.world());
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../../wit/v0.1/{name}.wit"));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for part in [format!("interface {name} {{"), format!("world {world} {{"), format!("export {name};")] {
                assert!(text.contains(&part), "{} lacks `{part}`", path.display());
            }
            let bindings = include_str!("bindings.rs");
            assert!(bindings.contains(&format!("\"{world}\"")), "`bindings.rs` lacks `{world}`");
        }
    }

    #[test]
    fn a_manifest_and_messages_have_the_same_name() {
        let mut all = Kind::ALL;
        all.sort_unstable();
        assert!(
            all.windows(2).all(|pair| pair[0] < pair[1]),
            "a kind is there twice, so another one is missing: {all:?}"
        );
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(Kind::named(kind.name()), Some(kind));
        }
        assert_eq!(Kind::named("rewards"), None);
    }
}
