//! Compatibility rules: a whole config in, what does not go together out (`rules`).
//!
//! Most plugins of this kind are a table of [`Rule`]s, each with a function of the [`Facts`] that gives a [`Violation`];
//! [`describe`] and [`judge`] make of the table what [`CompatRules`] asks for.

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
    /// The model, where its files can be read: `num_hidden_layers`, `vocab_size`, `max_position_embeddings`, `new_rows` of the
    /// embedding, which the checkpoint does not have, `tie_word_embeddings`, `parameters`, `parameter_names`, `tokenizer.has_pad`, `tokenizer.added_tokens` and so on;
    /// `capabilities`: what can be done with its architecture (`lora: yes`, `window: no: …`).
    pub model: Option<Value>,
    /// The data and the length of the run, once the data is read, which `host check` does not do: `rows`, `samples`,
    /// `tokens`, `longest`, `too_long`, `micro_batches_per_epoch`, `steps_per_epoch`, `total_steps` and so on.
    pub data: Option<Value>,
    /// The machine: `device` (`cpu`, `cuda`), `precision` (`float32`, `bfloat16`), `cores`, `host_version`; of a GPU also
    /// `device_name`, `device_memory_bytes`, `compute_capability`.
    pub machine: Option<Value>,
    /// Outcomes of others' runs, where the user imported a table: `run` (how this run is set up: `architecture`,
    /// `parameters`, `device`, `techniques`, `learning_rate`, `batch_size`, `sequence_len`), and `outcomes`, groups of runs
    /// on such a device and architecture with the same members, `outcome` (`finished`, `diverged`, `killed` and so on) and
    /// `runs`, how many. Of a recipe also `recipe`: groups of its own runs, with `outcome`, `device`, `host_version`, `runs`.
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

    /// The same in the facts of the data.
    pub fn data(&self, path: &str) -> &Value {
        self.data.as_ref().map_or(&Value::Null, |data| at(data, path))
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

    /// The entries of a list; none of anything else.
    pub fn list(&self, path: &str) -> &[Value] {
        self.get(path).as_array().map_or(&[], Vec::as_slice)
    }

    /// True for `true`, a text, a number other than zero, a list or a map with something in it.
    pub fn is_set(&self, path: &str) -> bool {
        match self.get(path) {
            Value::Null | Value::Bool(false) => false,
            Value::Bool(true) | Value::String(_) => true,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
        }
    }

    /// True if the user wrote this path; false for a default.
    pub fn is_given(&self, path: &str) -> bool {
        self.given.iter().any(|given| given == path)
    }

    /// Facts for tests: a config over defaults, as if the user had written all of `config`.
    ///
    /// ```
    /// use plugin_sdk::{rules::Facts, serde_json::json};
    /// let facts = Facts::of(json!({"seed": 42, "adapter": null}), json!({"adapter": "lora"}));
    /// assert!(facts.is_given("adapter") && !facts.is_given("seed"));
    /// assert_eq!(facts.number("seed"), Some(42.0));
    /// ```
    pub fn of(defaults: Value, config: Value) -> Self {
        let mut given = Vec::new();
        list_given(&config, "", &mut given);
        let config = match (defaults, config) {
            (Value::Object(mut all), Value::Object(own)) => {
                all.extend(own);
                Value::Object(all)
            }
            (_, config) => config,
        };
        Self { config, given, ..Self::default() }
    }

    /// The same facts with what is known of the model.
    #[must_use]
    pub fn with_model(self, model: Value) -> Self {
        Self { model: Some(model), ..self }
    }

    /// The same facts with what is known of the data.
    #[must_use]
    pub fn with_data(self, data: Value) -> Self {
        Self { data: Some(data), ..self }
    }
}

fn list_given(value: &Value, path: &str, given: &mut Vec<String>) {
    if !(path.is_empty() || value.is_null()) {
        given.push(path.to_owned());
    }
    match value {
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, value)| list_given(value, &format!("{path}[{index}]"), given));
        }
        Value::Object(map) => {
            let dot = if path.is_empty() { "" } else { "." };
            map.iter().for_each(|(key, value)| list_given(value, &format!("{path}{dot}{key}"), given));
        }
        _ => {}
    }
}

/// One rule: what it is, and how it looks at the facts.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Short and stable: users override the severity by it.
    pub id: &'static str,
    /// How bad it is to break the rule.
    pub severity: Severity,
    /// One line: what must hold.
    pub summary: &'static str,
    /// A link, an issue number, a paper: why anyone believes it.
    pub evidence: &'static str,
    /// What is wrong, if anything is. Facts that are not known (`?`) break no rule.
    pub check: fn(&Facts) -> Option<Violation>,
}

impl Rule {
    /// What the host shows of it.
    pub fn info(&self) -> RuleInfo {
        RuleInfo {
            id: self.id.to_owned(),
            severity: self.severity,
            summary: self.summary.to_owned(),
            evidence: Some(self.evidence.to_owned()),
        }
    }

    /// Its finding in these facts.
    pub fn judge(&self, facts: &Facts) -> Option<Finding> {
        let Violation { paths, message, why, help, fix } = (self.check)(facts)?;
        Some(Finding { rule: self.id.to_owned(), severity: self.severity, paths, message, why, help, fix })
    }
}

/// What [`CompatRules::rules`] gives for a table.
pub fn describe<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Vec<RuleInfo> {
    rules.into_iter().map(Rule::info).collect()
}

/// What [`CompatRules::check`] gives for a table.
pub fn judge<'a>(rules: impl IntoIterator<Item = &'a Rule>, facts: &Facts) -> Vec<Finding> {
    rules.into_iter().filter_map(|rule| rule.judge(facts)).collect()
}

/// How a config breaks a rule.
#[derive(Debug, Clone)]
pub struct Violation {
    paths: Vec<String>,
    message: String,
    why: String,
    help: Option<String>,
    fix: Vec<Edit>,
}

impl Violation {
    /// At a config path: where the caret goes. `message` is one line that says what is wrong.
    pub fn at(path: impl Into<String>, message: impl Into<String>, why: impl Into<String>) -> Self {
        Self { paths: vec![path.into()], message: message.into(), why: why.into(), help: None, fix: Vec::new() }
    }

    /// Two keys of which only one may be set, if both are.
    pub fn both(facts: &Facts, one: &str, other: &str, why: &str) -> Option<Self> {
        (facts.is_set(one) && facts.is_set(other)).then(|| {
            let message = format!("`{one}` and `{other}` are both set");
            Self::at(one, message, why).and(other).help("delete one of them")
        })
    }

    /// Another path that has to do with it.
    #[must_use]
    pub fn and(mut self, path: impl Into<String>) -> Self {
        self.paths.push(path.into());
        self
    }

    /// How to go on. Without it, the edits are said in words.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// An edit that certainly mends it: `value`, in YAML, at `path`.
    #[must_use]
    pub fn set(mut self, path: impl Into<String>, value: impl ToString) -> Self {
        self.fix.push(Edit::Set((path.into(), value.to_string())));
        self
    }

    /// An edit that certainly mends it: `path` is deleted.
    #[must_use]
    pub fn remove(mut self, path: impl Into<String>) -> Self {
        self.fix.push(Edit::Remove(path.into()));
        self
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn facts_that_are_not_there_are_nothing() {
        let facts = Facts::of(json!({"list": [], "zero": 0}), json!({"datasets": [{"path": "a"}], "none": null}));
        assert_eq!(facts.given, ["datasets", "datasets[0]", "datasets[0].path"]);
        assert_eq!((facts.text("datasets[0].path"), facts.list("datasets").len()), (Some("a"), 1));
        for path in ["list", "zero", "none", "datasets[1]", "datasets[0].path.more", "datasets[", "", "a..b", "[0]"] {
            assert!(!facts.is_set(path) && facts.list(path).is_empty() && facts.number(path).is_none_or(|n| n == 0.0));
        }
        assert_eq!((facts.model("parameters"), facts.data("rows")), (&Value::Null, &Value::Null));
    }

    #[test]
    fn a_table_is_described_and_judged() {
        const RULES: &[Rule] = &[Rule {
            id: "T1",
            severity: Severity::Warning,
            summary: "one of them",
            evidence: "none",
            check: |facts| Violation::both(facts, "a", "b", "they are the same"),
        }];
        assert_eq!(describe(RULES)[0].id, "T1");
        let judged = |config| judge(RULES, &Facts::of(json!({}), config));
        assert!(judged(json!({"a": 1})).is_empty());
        let found = &judged(json!({"a": 1, "b": 2}))[0];
        assert_eq!((found.rule.as_str(), found.paths.as_slice()), ("T1", &["a".to_owned(), "b".to_owned()][..]));
        assert_eq!(found.message, "`a` and `b` are both set");
    }
}
