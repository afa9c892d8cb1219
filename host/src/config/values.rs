//! The small types that config values have: choices from a list, counts that may also be fractions, plugin references.
//! Each serializes to what a user would write, so that `config.resolved.yml` is a config again.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::choice::choice;

choice! {
    /// `adapter`: what is trained instead of the model's own weights.
    Adapter {
        /// Low-rank adapters beside the linear layers (Hu et al. 2021, arXiv 2106.09685).
        Lora = "lora",
        /// The same beside layers in four bits (Dettmers et al. 2023, arXiv 2305.14314).
        Qlora = "qlora",
    }
}

choice! {
    /// `rl`: what is learned instead of supervised texts.
    Rl {
        /// Pairs of a chosen and a rejected answer, measured from the model as it was (Rafailov et al. 2023, arXiv 2305.18290).
        Dpo = "dpo",
        /// The same with `dpo_loss_type: ipo` (Azar et al. 2023, arXiv 2310.12036).
        Ipo = "ipo",
        /// Pairs without a reference, by mean log-probabilities and a margin (Meng et al. 2024, arXiv 2405.14734).
        Simpo = "simpo",
        /// Pairs without a reference, and cross-entropy of the chosen answers (Xu et al. 2024, arXiv 2401.08417). Ours.
        Cpo = "cpo",
        /// Pairs by the odds of their answers, and cross-entropy of the chosen texts (Hong et al. 2024, arXiv 2403.07691).
        Orpo = "orpo",
        /// Answers that are wanted or not, measured from the model as it was (Ethayarajh et al. 2024, arXiv 2402.01306).
        Kto = "kto",
        /// What the model itself writes, by what rewards say of it (Shao et al. 2024, arXiv 2402.03300).
        Grpo = "grpo",
        /// The same with `trl.multi_objective_aggregation: normalize_then_sum` (Liu et al. 2026, arXiv 2601.05242).
        Gdpo = "gdpo",
        /// The distributions of a teacher where the model itself writes (Agarwal et al. 2024, arXiv 2306.13649), as TRL's
        /// `DistillationTrainer`. Ours.
        Distill = "distill",
    }
}

impl Rl {
    /// Whether the model learns from what it writes itself, which `trl` is about.
    pub fn writes(self) -> bool {
        matches!(self, Self::Grpo | Self::Gdpo | Self::Distill)
    }
}

choice! {
    /// `kto_loss_type`: what an answer is held against.
    KtoLossType {
        /// How far the model is from where it began.
        Kto = "kto",
        /// Nothing (D'Oosterlinck et al. 2024, arXiv 2408.06266).
        ApoZeroUnpaired = "apo_zero_unpaired",
    }
}

choice! {
    /// `trl.loss_type`: how the tokens of completions count.
    GrpoLossType {
        /// Each completion's mean over its tokens, then the mean of completions.
        Grpo = "grpo",
        /// The mean over the tokens of a forward pass (Xiao et al. 2025, arXiv 2505.23433).
        Bnpo = "bnpo",
        /// The sum over tokens, divided by the tokens that completions could have (Liu et al. 2025, arXiv 2503.20783).
        DrGrpo = "dr_grpo",
        /// The mean over the tokens of a step (Yu et al. 2025, arXiv 2503.14476).
        Dapo = "dapo",
        /// The same; ratios are bounded, and tokens beyond the bound still learn (MiniMax 2025, arXiv 2506.13585).
        Cispo = "cispo",
    }
}

choice! {
    /// `trl.scale_rewards`: what advantages are divided by.
    ScaleRewards {
        /// The standard deviation of the rewards of a group.
        Group = "group",
        /// That of all rewards of a generation.
        Batch = "batch",
        /// Nothing.
        None = "none",
    }
}

choice! {
    /// `trl.multi_objective_aggregation`: how several rewards become one advantage.
    Aggregation {
        /// Their weighted sum is compared within the group.
        SumThenNormalize = "sum_then_normalize",
        /// Each is compared within the group by itself, then the weighted sum within all completions.
        NormalizeThenSum = "normalize_then_sum",
    }
}

choice! {
    /// `trl.importance_sampling_level`: what ratios to the policy that sampled are of.
    ImportanceSamplingLevel {
        /// Each token.
        Token = "token",
        /// A completion: the geometric mean of its tokens' (Zheng et al. 2025, arXiv 2507.18071).
        Sequence = "sequence",
    }
}

choice! {
    /// `bnb_4bit_quant_type`: what four bits stand for.
    QuantType {
        /// Quantiles of a normal distribution.
        Nf4 = "nf4",
        /// A sign, two bits of exponent, one of fraction.
        Fp4 = "fp4",
    }
}

choice! {
    /// `optimizer`. Both names of AdamW are the same here: one pass over memory either way.
    Optimizer {
        /// AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) under its plain name.
        AdamwTorch = "adamw_torch",
        /// AdamW under the name that Axolotl defaults to.
        AdamwTorchFused = "adamw_torch_fused",
    }
}

choice! {
    /// `lr_scheduler`: the learning rate after the warm-up.
    LrScheduler {
        /// Down to `cosine_min_lr_ratio` of the peak along half a cosine.
        Cosine = "cosine",
        /// Down to zero along a line.
        Linear = "linear",
        /// The same throughout; no warm-up.
        Constant = "constant",
        /// The same after the warm-up.
        ConstantWithWarmup = "constant_with_warmup",
    }
}

choice! {
    /// `excess_length_strategy`: what happens to a sample longer than `sequence_len`.
    ExcessLengthStrategy {
        /// It is left out and counted.
        Drop = "drop",
        /// Its first `sequence_len` tokens are kept.
        Truncate = "truncate",
        /// The run stops.
        Raise = "raise",
    }
}

choice! {
    /// `datasets[].train_on_eos`: which end-of-turn tokens are learned.
    TrainOnEos {
        /// Every one.
        All = "all",
        /// Those of turns that are learned.
        Turn = "turn",
        /// Only the last one of a conversation.
        Last = "last",
        /// None.
        None = "none",
    }
}

choice! {
    /// `eval_strategy`: when the model is evaluated.
    Cadence {
        /// Never.
        No = "no",
        /// Every `eval_steps` steps.
        Steps = "steps",
        /// At the end of each epoch.
        Epoch = "epoch",
    }
}

choice! {
    /// `save_strategy`: when a checkpoint is saved.
    SaveStrategy {
        /// Never.
        No = "no",
        /// Every `save_steps` steps.
        Steps = "steps",
        /// At the end of each epoch.
        Epoch = "epoch",
        /// At each evaluation that is the best so far.
        Best = "best",
    }
}

choice! {
    /// What a rule's findings count as, where the config says so (`rules[].severity`).
    RuleSeverity {
        /// Not shown.
        Off = "off",
        /// Good to know.
        Note = "note",
        /// Shown; the run goes on.
        Warning = "warning",
        /// The run does not start.
        Error = "error",
    }
}

/// `auto`, `true` or `false`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoBool {
    /// What the device does best.
    Auto,
    /// Yes or no.
    Is(bool),
}

impl Serialize for AutoBool {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Is(value) => serializer.serialize_bool(*value),
        }
    }
}

impl JsonSchema for AutoBool {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AutoBool".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "boolean" }, { "const": "auto" }] })
    }
}

/// Where training computes: `auto`, `cpu`, or `cuda:N` for an NVIDIA GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU, or the CPU where there is none.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of a number.
    Cuda(u32),
}

impl std::str::FromStr for DeviceChoice {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number =
                    word.strip_prefix("cuda:").filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
                number.and_then(|number| number.parse().ok()).map(Self::Cuda).ok_or(())
            }
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for DeviceChoice {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DeviceChoice".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["auto", "cpu", "cuda"] }, { "type": "string", "pattern": "^cuda:[0-9]+$" }] })
    }
}

/// A number of something, or a share of all of it: `val_set_size`, `eval_steps`, `save_steps`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Amount {
    /// That many.
    Count(u64),
    /// That share, above 0 and below 1.
    Fraction(f64),
}

impl JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let share = json_schema!({ "type": "number", "minimum": 0, "exclusiveMaximum": 1 });
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0 }, share] })
    }
}

impl Amount {
    /// How many of `total`: the count itself, or the share of `total` rounded up, as Hugging Face rounds it.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Fraction(share) => (share * total as f64).ceil() as u64,
        }
    }

    /// True if it is none at all.
    pub fn is_zero(self) -> bool {
        self.of(1) == 0
    }
}

/// Modules that get an adapter (`lora_target_modules`), as PEFT reads them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum TargetModules {
    /// Names, or what names end in after a dot: `q_proj`, `self_attn.q_proj`, `lm_head`.
    Names(Vec<String>),
    /// A regular expression that is matched with whole names: `.*self_attn\.(q|v)_proj`.
    Pattern(String),
}

impl TargetModules {
    /// True if nothing is named.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Names(names) if names.is_empty())
    }
}

/// Values by regular expressions, in the order of the file: the first expression that matches counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Patterns<T>(pub Vec<(String, T)>);

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for Patterns<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(pattern, value)| (pattern, value)))
    }
}

impl<T: JsonSchema> JsonSchema for Patterns<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Patterns_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "type": "object", "additionalProperties": value })
    }
}

/// A plugin by name, with the config that the user wrote for it: `alpaca` or `{name: acme:dialogue, config: {field: turns}}`.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginRef {
    /// Bare for a bundled one (`alpaca`), `namespace:name` for others.
    pub name: String,
    /// The plugin's own config, as JSON; empty where none was written.
    pub config: Map<String, Value>,
}

impl PluginRef {
    /// A plugin without a config of its own.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), config: Map::new() }
    }

    /// The config as JSON text, `{}` where none was written.
    pub fn config_json(&self) -> String {
        Value::Object(self.config.clone()).to_string()
    }
}

impl Serialize for PluginRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.config.is_empty() {
            return serializer.serialize_str(&self.name);
        }
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("config", &self.config)?;
        map.end()
    }
}

impl JsonSchema for PluginRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PluginRef".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        plugin::<Named>(generator)
    }
}

/// A plugin with its config.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Named {
    /// Bare for a bundled plugin (`alpaca`), `namespace:name` for others.
    name: String,
    /// The plugin's own config.
    config: Map<String, Value>,
}

/// A plugin by its name alone, or with more beside it.
fn plugin<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let whole = generator.subschema_for::<T>();
    json_schema!({ "anyOf": [{ "type": "string" }, whole] })
}

choice! {
    /// `eval_reward_funcs[].on_error`: what a completion costs on which a reward crashes, reaches a limit or gives no finite
    /// number.
    OnError {
        /// The run.
        Fail = "fail",
        /// Its own score, which is 0.
        Zero = "zero",
        /// The judgement of this reward: the completion has no score of it.
        Skip = "skip",
    }
}

/// A reward plugin (`eval_reward_funcs[]`): `exact-match` or `{name: code-tests, config: {mode: fraction}, on_error: zero}`.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardRef {
    /// The plugin and its config.
    pub plugin: PluginRef,
    /// When it crashes, reaches a limit or gives no finite number. Default: `fail`.
    pub on_error: OnError,
}

impl JsonSchema for RewardRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RewardRef".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        plugin::<NamedReward>(generator)
    }
}

/// A reward plugin with its config.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct NamedReward {
    /// Bare for a bundled plugin (`exact-match`), `namespace:name` for others.
    name: String,
    /// The plugin's own config.
    config: Map<String, Value>,
    /// What a completion costs on which it crashes, reaches a limit or gives no finite number. Default: `fail`.
    on_error: OnError,
}

impl Serialize for RewardRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.on_error == OnError::Fail {
            return self.plugin.serialize(serializer);
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.plugin.name)?;
        if !self.plugin.config.is_empty() {
            map.serialize_entry("config", &self.plugin.config)?;
        }
        map.serialize_entry("on_error", &self.on_error)?;
        map.end()
    }
}

/// An environment plugin (`environment`): `acme:shop` or `{name: acme:shop, config: {…}, max_turns: 4}`.
#[derive(Debug, Clone, PartialEq)]
pub struct EnvironmentRef {
    /// The plugin and its config.
    pub plugin: PluginRef,
    /// Turns that the model has in an episode, at most. Default: 8.
    pub max_turns: u32,
    /// What the sum of an episode's rewards counts beside `trl.reward_funcs`. Default: 1.
    pub weight: f64,
    /// When it crashes, reaches a limit or gives what it must not on a turn. Default: `fail`.
    pub on_error: OnError,
}

impl EnvironmentRef {
    /// A plugin with the defaults of everything else.
    pub fn of(plugin: PluginRef) -> Self {
        Self { plugin, max_turns: 8, weight: 1.0, on_error: OnError::Fail }
    }
}

impl JsonSchema for EnvironmentRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EnvironmentRef".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        plugin::<NamedEnvironment>(generator)
    }
}

/// An environment plugin with its config.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct NamedEnvironment {
    /// Bare for a bundled plugin, `namespace:name` for others.
    name: String,
    /// The plugin's own config.
    config: Map<String, Value>,
    /// Turns that the model has in an episode, at most. Default: 8.
    max_turns: u32,
    /// What the sum of an episode's rewards counts beside `trl.reward_funcs`. Default: 1.
    weight: f64,
    /// What a turn costs on which it crashes, reaches a limit or gives what it must not: the run; or the episode, which ends
    /// there with nothing for that turn (`zero`), or without a reward of the environment (`skip`). Default: `fail`.
    on_error: OnError,
}

impl Serialize for EnvironmentRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &self.plugin.name)?;
        if !self.plugin.config.is_empty() {
            map.serialize_entry("config", &self.plugin.config)?;
        }
        map.serialize_entry("max_turns", &self.max_turns)?;
        map.serialize_entry("weight", &self.weight)?;
        if self.on_error != OnError::Fail {
            map.serialize_entry("on_error", &self.on_error)?;
        }
        map.end()
    }
}

/// A compatibility-rule plugin (`rules[]`): `acme:house-rules` or `{name: axolotl-compat, severity: {D16: off}}`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct RuleRef {
    /// The plugin.
    pub name: String,
    /// The plugin's own config, as JSON.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
    /// Rule id → what its findings count as, instead of what the plugin says.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub severity: BTreeMap<String, RuleSeverity>,
}

/// A row-filter plugin (`row_filters[]`): `curate` or `{name: curate, config: {min_chars: 20}, min_score: 0.5}`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FilterRef {
    /// The plugin.
    pub name: String,
    /// The plugin's own config, as JSON.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub config: Map<String, Value>,
    /// Rows with a lower score are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
}

/// What gives the learning rate of each step (`lr_scheduler`).
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Scheduler {
    /// One of the trainer's own.
    BuiltIn(LrScheduler),
    /// A schedule plugin.
    Plugin(PluginRef),
}

/// Limits that the user sets for one plugin (`plugins[].limits`), instead of the defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PluginLimits {
    /// Linear memory, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Wall time of one call, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_ms: Option<u64>,
    /// What one call may hand over, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_mb: Option<u64>,
    /// All rows of a dataset, MiB; without it, 64 and 32 times what its files have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_mb: Option<u64>,
    /// Log messages in a run, KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_kb: Option<u64>,
    /// Size of the file, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mb: Option<u64>,
    /// Wall time of compiling it, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compile_ms: Option<u64>,
    /// Memory for compiling it, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compile_mb: Option<u64>,
}

/// What the user lets one plugin use beside its data (`plugins[].grants`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PluginGrants {
    /// Directories whose files it may read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<String>,
}

impl PluginGrants {
    fn is_empty(&self) -> bool {
        self.read.is_empty()
    }
}

/// What the user wants of a plugin that is used anywhere in the config (`plugins[]`).
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct PluginPin {
    /// The plugin.
    pub name: String,
    /// It must have this version, or one that starts with it (`"0.2"` fits 0.2.7).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// It must be exactly these bytes (SHA-256, lower-case hexadecimal).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Limits instead of the defaults.
    pub limits: PluginLimits,
    /// What it may use beside its data; nothing unless it is written here.
    #[serde(skip_serializing_if = "PluginGrants::is_empty")]
    pub grants: PluginGrants,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Choice;

    #[test]
    fn amounts_round_up_as_hugging_face_does() {
        assert_eq!(Amount::Fraction(0.1).of(15), 2);
        assert_eq!(Amount::Fraction(0.5).of(10), 5);
        assert_eq!(Amount::Count(7).of(3), 7);
        assert!(Amount::Count(0).is_zero());
        assert!(!Amount::Fraction(0.001).is_zero());
    }

    #[test]
    fn values_serialize_to_what_a_user_writes() {
        let mut with_config = PluginRef::named("acme:dialogue");
        with_config.config.insert("field".to_owned(), Value::from("turns"));
        let value = serde_json::json!([
            AutoBool::Auto,
            AutoBool::Is(false),
            Amount::Count(3),
            Amount::Fraction(0.25),
            PluginRef::named("alpaca"),
            with_config,
            LrScheduler::ConstantWithWarmup,
        ]);
        assert_eq!(
            value.to_string(),
            r#"["auto",false,3,0.25,"alpaca",{"name":"acme:dialogue","config":{"field":"turns"}},"constant_with_warmup"]"#
        );
        for (word, choice) in LrScheduler::ALL {
            assert_eq!(choice.name(), *word);
        }
    }
}
