//! The rewards of a run, tried before a weight is loaded: on the references of its own data, or on completions that are given.

use std::collections::HashMap;
use std::path::Path;

use engine::generate::Completion;
use plugin_runtime::types::{Context, Item};
use serde_json::{Value, json};

use super::eval::GENERATION_BATCH;
use super::job::Job;
use crate::check::{plugins, selection};
use crate::config::{OnError, RewardRef};
use crate::data::dataset::Example;
use crate::data::set::Set;
use crate::diagnostic::{Diagnostic, Failure};
use crate::rl::given::{self, Given};
use crate::rl::reward::item;
use crate::rl::trial::{Candidate, SAMPLES, Trial};

/// What rewards were tried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// References of the data.
    References,
    /// Completions of a file.
    Completions,
    /// Nothing: an environment's rows are no episodes.
    NoEpisodes,
    /// Nothing: no row has a reference.
    NoReferences,
}

/// The rewards of a key of the config, tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Tried {
    /// The key.
    pub key: &'static str,
    /// On what.
    pub on: On,
    /// Completions that there were to judge.
    pub samples: usize,
    /// Of the first samples, those without a reference; they were left out.
    pub without_reference: usize,
    /// Given completions whose prompt is that of no sample.
    pub without_sample: usize,
    /// Each reward; none where they were tried on nothing.
    pub rewards: Vec<Trial>,
    /// What is wrong.
    pub remarks: Vec<Diagnostic>,
}

impl Tried {
    /// For a program.
    pub fn to_json(&self) -> Value {
        let reward = |trial: &Trial| {
            let [mean, std] = trial.moments();
            json!({
                "name": trial.name,
                "mean": mean,
                "std": std,
                "judged": trial.judged(),
                "not_judged": trial.seen() - trial.judged() - trial.errors(),
                "errors": trial.errors(),
                "seconds_per_item": trial.seconds_each(),
            })
        };
        json!({
            "key": self.key,
            "on": match self.on {
                On::References => "references",
                On::Completions => "completions",
                On::NoEpisodes | On::NoReferences => "nothing",
            },
            "samples": self.samples,
            "without_reference": self.without_reference,
            "without_sample": self.without_sample,
            "rewards": self.rewards.iter().map(reward).collect::<Vec<_>>(),
        })
    }
}

/// Tries the rewards that are learned from, and those of evaluations where they are others. `completions` is a file of
/// completions to judge in place of the data's references.
///
/// # Errors
/// A file that cannot be read, or that there is no reward for, and a reward that does not start.
pub fn try_rewards(job: &Job<'_>, completions: Option<&Path>) -> Result<Vec<Tried>, Failure> {
    let (config, data) = (&job.loaded.config, &job.plan.data);
    let learned: &[RewardRef] = config.trl.as_ref().map_or(&[], |trl| &trl.reward_funcs);
    let evaluated = &config.eval_reward_funcs[..];
    let is_evaluated = !data.eval.is_empty() && evaluated != learned;
    let group = config.trl.as_ref().map_or(1, |trl| trl.num_generations as usize);
    let keys = [
        ("trl.reward_funcs", plugins::learned_rewards(job.loaded), learned, &data.train, group),
        ("eval_reward_funcs", plugins::rewards(job.loaded), evaluated, &data.eval, GENERATION_BATCH),
    ];
    let keys = keys
        .into_iter()
        .filter(|(key, _, rewards, ..)| !rewards.is_empty() && (*key == "trl.reward_funcs" || is_evaluated));
    let given = completions.map(|path| given::read(path, SAMPLES)).transpose()?;
    let mut all = Vec::new();
    for (key, uses, references, samples, at_a_time) in keys {
        let mut tried = gather(job, key, samples, given.as_deref())?;
        let context = Context { step: 1, total_steps: job.plan.total_steps, seed: config.seed };
        let paths: Vec<String> = uses.iter().map(|used| used.path.clone()).collect();
        // What a failure costs is said here, of each completion by itself.
        let failing = references.iter().map(|reference| RewardRef { on_error: OnError::Fail, ..reference.clone() });
        let failing: Vec<RewardRef> = failing.collect();
        let rewards = if tried.1.is_empty() { Vec::new() } else { job.sources().rewards(uses, &failing)? };
        for ((mut reward, reference), path) in rewards.into_iter().zip(references).zip(paths) {
            let goes_on = reference.on_error != OnError::Fail;
            let trial = Trial::new(&mut reward, goes_on, &tried.1, at_a_time, &context);
            let place = job.loaded.source.nearest_place(&path);
            tried.0.remarks.extend(trial.remarks(&tried.1, tried.0.on == On::References, place.as_ref()));
            tried.0.rewards.push(trial);
        }
        all.push(tried.0);
    }
    match completions.filter(|_| all.is_empty()) {
        Some(path) => {
            let message = format!("there is no reward to judge the completions of `{}`", path.display());
            Err(Diagnostic::error("cli::no-reward", message)
                .help("name one in the config: `trl.reward_funcs`, or `eval_reward_funcs` beside an evaluation set")
                .into())
        }
        None => Ok(all),
    }
}

/// What there is to judge.
fn gather(
    job: &Job<'_>,
    key: &'static str,
    samples: &Set,
    given: Option<&[Given]>,
) -> Result<(Tried, Vec<Candidate>), Failure> {
    let mut tried = Tried {
        key,
        on: On::Completions,
        samples: 0,
        without_reference: 0,
        without_sample: 0,
        rewards: Vec::new(),
        remarks: Vec::new(),
    };
    let mut candidates = Vec::new();
    if let Some(given) = given {
        let of_prompts = by_prompt(job, samples, given)?;
        for given in given {
            let sample = given.prompt.as_deref().and_then(|prompt| of_prompts.get(prompt).and_then(Option::as_ref));
            tried.without_sample += usize::from(sample.is_none());
            candidates.push(candidate(job, given, sample)?);
        }
    } else if job.loaded.config.environment.is_some() {
        tried.on = On::NoEpisodes;
    } else {
        tried.on = On::References;
        let ends = job.model.end_tokens(&selection::end_of_turn(job.loaded, job.model)?);
        for (index, example) in samples.iter().take(SAMPLES).enumerate() {
            match reference(job, &example?, &ends)? {
                Some(item) => candidates.push(Candidate { item, position: format!("sample {}", index + 1) }),
                None => tried.without_reference += 1,
            }
        }
        if candidates.is_empty() {
            tried.on = On::NoReferences;
        }
    }
    tried.samples = candidates.len();
    Ok((tried, candidates))
}

/// A sample's reference as if the model had written it; none where it has none, or one that is not wanted.
fn reference(job: &Job<'_>, example: &Example, ends: &[u32]) -> Result<Option<Item>, Failure> {
    if example.desirable == Some(false) {
        return Ok(None);
    }
    let written = example.tokens.completion_ids();
    let length = written.iter().rposition(|id| !ends.contains(id)).map_or(0, |last| last + 1);
    let completion = Completion {
        entropies: Vec::new(),
        ids: written[..length].to_vec(),
        end: written.get(length).copied(),
        stopped: true,
        log_probs: Vec::new(),
    };
    let item = item(&job.model.tokenizer, example, &completion)?;
    Ok(Some(item).filter(|item| !item.completion.is_empty()))
}

/// The samples that given completions are about.
fn by_prompt<'g>(
    job: &Job<'_>,
    samples: &Set,
    given: &'g [Given],
) -> Result<HashMap<&'g str, Option<Example>>, Failure> {
    let mut found: HashMap<&str, Option<Example>> =
        given.iter().filter_map(|given| Some((given.prompt.as_deref()?, None))).collect();
    let mut left = found.len();
    for example in samples.iter() {
        if left == 0 {
            break;
        }
        let example = example?;
        let prompt = job.model.tokenizer.decode(example.tokens.prompt_ids()).map_err(Diagnostic::from)?;
        if let Some(slot @ None) = found.get_mut(prompt.as_str()) {
            *slot = Some(example);
            left -= 1;
        }
    }
    Ok(found)
}

/// A given completion with what is known of it. Without a sample, its own line stands for the row.
fn candidate(job: &Job<'_>, given: &Given, sample: Option<&Example>) -> Result<Candidate, Failure> {
    let tokenizer = &job.model.tokenizer;
    let reference = match (&given.reference, sample) {
        (Some(reference), _) => reference.clone(),
        (None, Some(sample)) => tokenizer.decode(sample.tokens.completion_ids()).map_err(Diagnostic::from)?,
        (None, None) => String::new(),
    };
    let tokens = tokenizer.encode(&given.completion).map_err(Diagnostic::from)?.len();
    let item = Item {
        prompt: given.prompt.clone().unwrap_or_default(),
        completion: given.completion.clone(),
        completion_tokens: tokens as u32,
        finished: given.finished,
        reference,
        row_json: sample.map_or_else(|| given.json.clone(), |sample| sample.row_json.to_string()),
    };
    Ok(Candidate { item, position: format!("line {}", given.line) })
}
