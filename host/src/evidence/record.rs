//! The record of one run.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{Config, DatasetConfig, Scheduler};
use crate::device::Device;
use crate::diagnostic::Failure;
use crate::digest::hex;

/// Version of the format.
pub const VERSION: u32 = 1;
/// A loss that ends this many times as high as it began has not merely been noisy.
const NOISE: f64 = 1.2;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// All steps are done, and the loss is not higher than it was.
    Finished,
    /// By its user; the state is saved.
    Stopped,
    /// All steps are done, and the loss of the evaluation is higher than it was. Without one: the loss of the last step is
    /// higher than that of the first by a fifth, and than that of guessing.
    Diverged,
    /// By a monitor (`run_health`).
    Unhealthy,
    /// A gradient was not finite.
    NotFinite,
    /// A parameter that was to be trained got no gradient.
    NoGradient,
    /// The process was gone before its end: out of memory, killed, without power.
    Killed,
    /// By anything else: a plugin, a full disk.
    Failed,
}

impl Ending {
    /// How a run ended that has a failure to show.
    pub fn of_failure(failure: &Failure) -> Self {
        let has = |code: &str| failure.0.iter().any(|diagnostic| diagnostic.code == code);
        match () {
            () if has("train::not-finite") => Self::NotFinite,
            () if has("train::no-gradient") => Self::NoGradient,
            () => Self::Failed,
        }
    }

    /// How a run ended that did all its steps, by its losses before and after. `guessing` is the loss of a model that
    /// knows nothing: the logarithm of its vocabulary.
    pub fn of_losses(step: Option<(f64, f64)>, eval: Option<(f64, f64)>, guessing: f64) -> Self {
        let is_worse = match (eval, step) {
            (Some((before, after)), _) => after > before,
            (None, Some((first, last))) => last > (NOISE * first).max(guessing),
            (None, None) => false,
        };
        if is_worse { Self::Diverged } else { Self::Finished }
    }
}

/// How a run was set up, as far as others' runs can be like it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Of the model (`LlamaForCausalLM`).
    pub architecture: String,
    /// Of the model, to two digits.
    pub parameters: u64,
    /// What was trained on.
    pub device: String,
    /// What was done: `lora`, `packing`, `checkpointing` and so on, sorted.
    pub techniques: Vec<String>,
    /// The highest, to two digits.
    pub learning_rate: f64,
    /// Rows in an optimizer step.
    pub batch_size: u64,
    /// Longest sample, in tokens.
    pub sequence_len: u64,
}

impl Setup {
    /// That of a config's run on a device with a model of this architecture and number of parameters.
    pub fn of(config: &Config, device: &Device, architecture: &str, parameters: u64) -> Self {
        Self {
            architecture: architecture.to_owned(),
            parameters: two_digits(parameters as f64) as u64,
            device: device.kind().to_owned(),
            techniques: techniques(config).into_iter().collect(),
            learning_rate: two_digits(config.learning_rate),
            batch_size: u64::from(config.micro_batch_size) * u64::from(config.gradient_accumulation_steps),
            sequence_len: u64::from(config.sequence_len),
        }
    }
}

/// What a config does that can go wrong together. Plugins of others are not told apart: their names are their owners'.
fn techniques(config: &Config) -> BTreeSet<String> {
    let is_lora = config.adapter.is_some();
    let is_chat = config.datasets.iter().any(DatasetConfig::has_conversations);
    let mut found: BTreeSet<String> = [
        (if is_lora { "lora" } else { "full" }, true),
        ("4bit", config.load_in_4bit),
        ("8bit", config.load_in_8bit),
        ("rslora", is_lora && config.peft_use_rslora),
        ("dora", is_lora && config.peft_use_dora),
        (
            "lora-patterns",
            is_lora && !(config.lora_rank_pattern.0.is_empty() && config.lora_alpha_pattern.0.is_empty()),
        ),
        ("modules-saved", is_lora && !config.lora_modules_to_save.is_empty()),
        ("adapter-start", is_lora && config.lora_model_dir.is_some()),
        ("lora-dropout", is_lora && config.lora_dropout > 0.0),
        ("freezing", !is_lora && !config.unfrozen_parameters.is_empty()),
        ("fresh-weights", config.reinit_weights),
        ("checkpointing", config.gradient_checkpointing),
        ("packing", config.sample_packing),
        ("accumulation", config.gradient_accumulation_steps > 1),
        ("no-clipping", config.max_grad_norm == 0.0),
        ("train-on-inputs", config.train_on_inputs),
        ("chat", is_chat),
    ]
    .into_iter()
    .filter(|(_, is_used)| *is_used)
    .map(|(name, _)| name.to_owned())
    .collect();
    found.insert(match &config.lr_scheduler {
        Scheduler::BuiltIn(scheduler) => format!("{}-schedule", scheduler.name().replace('_', "-")),
        Scheduler::Plugin(_) => "plugin-schedule".to_owned(),
    });
    found
}

fn two_digits(value: f64) -> f64 {
    format!("{value:.1e}").parse().unwrap_or(value)
}

/// What is kept of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Always `outcome`.
    pub event: String,
    /// [`VERSION`].
    pub v: u32,
    /// Tells runs apart, and nothing else: a digest.
    pub id: String,
    /// Of this program.
    pub host_version: String,
    /// Of a recipe's run, which recipe: the first 16 digits of the digest of what it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    /// How the run was set up.
    pub setup: Setup,
    /// That were done.
    pub steps: u64,
    /// How it ended.
    pub outcome: Ending,
}

impl Record {
    /// That of a run that starts, as it is if nothing more is heard of it. A run that goes on is the same run.
    pub fn start(setup: Setup, recipe: Option<String>, earlier: Option<&Self>) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let fresh = || hex(&Sha256::digest(format!("{now} {} {setup:?}", std::process::id())))[..16].to_owned();
        Self {
            event: "outcome".to_owned(),
            v: VERSION,
            id: earlier.map_or_else(fresh, |earlier| earlier.id.clone()),
            host_version: env!("CARGO_PKG_VERSION").to_owned(),
            recipe,
            setup,
            steps: 0,
            outcome: Ending::Killed,
        }
    }

    /// That of a run which `run.json` describes, if it left one.
    pub fn of_run(run: &serde_json::Value) -> Option<Self> {
        Self::deserialize(&run["outcome"]).ok().filter(|record| record.flaw().is_none())
    }

    /// For `run.json`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a record is plain data")
    }

    /// Why it cannot be one that this program wrote, if it cannot.
    pub(super) fn flaw(&self) -> Option<String> {
        let setup = &self.setup;
        let is_word = |text: &str, more: &str| {
            (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        if self.event != "outcome" {
            return Some("`event` is not `outcome`".to_owned());
        }
        if self.v != VERSION {
            return Some(format!("its format is version {}, this program reads {VERSION}", self.v));
        }
        let words = [
            ("id", &self.id, ""),
            ("host_version", &self.host_version, ".-+"),
            ("architecture", &setup.architecture, "_"),
            ("device", &setup.device, "-_"),
        ];
        let techniques = setup.techniques.iter().map(|technique| ("techniques", technique, "-"));
        let odd = words.into_iter().chain(techniques).find(|(_, text, more)| !is_word(text, more));
        if let Some((key, ..)) = odd {
            return Some(format!("`{key}` is not a word of at most 64 letters and digits"));
        }
        let is_digest = |text: &String| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !self.recipe.iter().all(is_digest) {
            return Some("`recipe` is not 16 hexadecimal digits".to_owned());
        }
        if setup.techniques.len() > 32 {
            return Some("`techniques` has more than 32 entries".to_owned());
        }
        let is_rate = setup.learning_rate.is_finite() && setup.learning_rate > 0.0;
        (!is_rate).then(|| "`learning_rate` is not above 0".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Diagnostic;

    #[test]
    fn a_run_ends_in_one_way() {
        let of = |codes: &[&str]| {
            Ending::of_failure(&Failure(codes.iter().map(|code| Diagnostic::error(*code, "x")).collect()))
        };
        assert_eq!(of(&["train::not-finite"]), Ending::NotFinite);
        assert_eq!(of(&["train::no-gradient", "train::no-gradient"]), Ending::NoGradient);
        assert_eq!(of(&["plugin::trap"]), Ending::Failed);
        let of = |step, eval| Ending::of_losses(step, eval, 6.0);
        assert_eq!(of(Some((2.0, 2.5)), None), Ending::Finished, "a batch that is harder");
        assert_eq!(of(Some((6.1, 6.2)), None), Ending::Finished, "noise");
        assert_eq!(of(Some((2.0, 7.0)), None), Ending::Diverged);
        assert_eq!(of(Some((2.0, 7.0)), Some((2.0, 1.9))), Ending::Finished, "the evaluation knows better");
        assert_eq!(of(Some((2.0, 1.0)), Some((2.0, 2.1))), Ending::Diverged);
        assert_eq!(of(None, None), Ending::Finished);
    }

    #[test]
    fn numbers_have_two_digits() {
        let words = [134_515_008.0, 2e-5, 0.000_123_4].map(|value| two_digits(value).to_string());
        assert_eq!(words, ["130000000", "0.00002", "0.00012"]);
    }
}
