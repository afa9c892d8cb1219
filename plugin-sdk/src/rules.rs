//! Compatibility rules: a whole config in, what does not go together out (`rules`).

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bindings::rules::exports::trainer::plugin::compat_rules as wit;
pub use crate::bindings::rules::exports::trainer::plugin::compat_rules::{Edit, Finding, RuleInfo, Severity};
use crate::bindings::shared::trainer::plugin::types::PluginError;
use crate::{Error, config, log};

/// Compatibility rules. Register them with [`register_compat_rules!`](crate::register_compat_rules).
pub trait CompatRules: Sized + 'static {
    /// The user's config for them. [`NoConfig`](crate::NoConfig) if there is none.
    type Config: DeserializeOwned;

    /// Starts with a config.
    ///
    /// # Errors
    /// [`Error::Config`] for a config that cannot work.
    fn new(config: Self::Config) -> Result<Self, Error>;

    /// The rules, so that users can see them and override their severity.
    fn rules(&self) -> Vec<RuleInfo>;

    /// What is wrong; nothing where all is well.
    ///
    /// # Errors
    /// Facts that cannot be read.
    fn check(&self, facts: &Facts) -> Result<Vec<Finding>, Error>;
}

/// What rules judge.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The resolved config: every default is filled in.
    pub config: Value,
    /// Config paths that the user wrote.
    pub given: Vec<String>,
    /// The model, where its files can be read: `num_hidden_layers`, `vocab_size`, `max_position_embeddings`,
    /// `tie_word_embeddings`, `parameters`, `parameter_names`, `tokenizer.has_pad` and so on.
    pub model: Option<Value>,
    /// The data, where it is known.
    pub data: Option<Value>,
    /// The machine: `device`, `cores`, `host_version`.
    pub machine: Option<Value>,
    /// Outcomes of others' runs, where a table was imported.
    pub outcomes: Option<Value>,
}

impl Facts {
    /// The value at a config path (`datasets[0].path`); null where there is none.
    pub fn get(&self, path: &str) -> &Value {
        at(&self.config, path)
    }

    /// The same in the model's facts.
    pub fn model(&self, path: &str) -> &Value {
        self.model.as_ref().map_or(&Value::Null, |model| at(model, path))
    }

    /// A true flag; anything else is false.
    pub fn flag(&self, path: &str) -> bool {
        self.get(path).as_bool().unwrap_or(false)
    }

    /// A number.
    pub fn number(&self, path: &str) -> Option<f64> {
        self.get(path).as_f64()
    }

    /// A text.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.get(path).as_str()
    }

    /// True if the user wrote this path; false for a default.
    pub fn is_given(&self, path: &str) -> bool {
        self.given.iter().any(|given| given == path)
    }
}

fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    let mut value = value;
    for part in path.split(['.', '[']) {
        let part = part.trim_end_matches(']');
        let next = match part.parse::<usize>() {
            Ok(index) if value.is_array() => value.get(index),
            _ => value.get(part),
        };
        match next {
            Some(next) => value = next,
            None => return &Value::Null,
        }
    }
    value
}

/// Connects the trait with the world; used by the macro.
#[doc(hidden)]
#[derive(Debug)]
pub struct Adapter<T>(T);

impl<T: CompatRules> wit::Guest for Adapter<T> {
    type Checker = Self;
}

impl<T: CompatRules> wit::GuestChecker for Adapter<T> {
    fn create(config_json: String) -> Result<wit::Checker, PluginError> {
        log::report_panics();
        let rules = config::read(&config_json).and_then(T::new).map_err(PluginError::from)?;
        Ok(wit::Checker::new(Self(rules)))
    }

    fn rules(&self) -> Vec<RuleInfo> {
        self.0.rules()
    }

    fn check(&self, facts: wit::Facts) -> Result<Vec<Finding>, PluginError> {
        let facts = facts_of(&facts).map_err(PluginError::from)?;
        self.0.check(&facts).map_err(PluginError::from)
    }
}

fn facts_of(facts: &wit::Facts) -> Result<Facts, Error> {
    let parse =
        |json: &str| serde_json::from_str(json).map_err(|error| Error::Failed(format!("the host's facts: {error}")));
    let optional = |json: &Option<String>| json.as_deref().map(parse).transpose();
    Ok(Facts {
        config: parse(&facts.config_json)?,
        given: facts.given_paths.clone(),
        model: optional(&facts.model_json)?,
        data: optional(&facts.data_json)?,
        machine: optional(&facts.machine_json)?,
        outcomes: optional(&facts.outcomes_json)?,
    })
}

/// Makes this crate a compatibility-rules plugin:
/// `register_compat_rules!(House, name: "acme:house-rules", description: "What our cluster can do");`
#[macro_export]
macro_rules! register_compat_rules {
    ($type:ty, $($manifest:tt)*) => {
        $crate::__manifest!("compat-rules", $($manifest)*);
        #[cfg(target_family = "wasm")]
        const _: () = {
            type Plugin = $crate::rules::Adapter<$type>;
            $crate::bindings::rules::export_compat_rules!(Plugin with_types_in $crate::bindings::rules);
        };
    };
}
