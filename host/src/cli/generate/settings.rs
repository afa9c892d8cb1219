//! How the model is sampled from: what the command line says, else `generation_config.json`, else transformers' defaults.

use std::path::Path;

use clap::Args;
use engine::generate::GenerateOptions;

use crate::data::generation::GenerationConfig;
use crate::diagnostic::Diagnostic;

/// Sampling flags by their names in transformers. Without a flag, `generation_config.json` of the model decides.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Sampling {
    /// Tokens that are written at most. Without it as `generation_config.json` says, else 128
    #[arg(long)]
    pub(super) max_new_tokens: Option<usize>,
    /// Sample instead of taking the likeliest token: `--do-sample`, or `--do-sample=false` where `generation_config.json`
    /// asks for it
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "true|false")]
    do_sample: Option<bool>,
    /// Sampling: below 1 bolder in what is likely, above 1 more even. Default: 1
    #[arg(long)]
    temperature: Option<f64>,
    /// Sampling: only the k likeliest tokens; 0 for all. Default: 50
    #[arg(long)]
    top_k: Option<usize>,
    /// Sampling: only the likeliest tokens that together have this probability. Default: 1
    #[arg(long)]
    top_p: Option<f64>,
    /// Sampling: only tokens that have at least this share of the likeliest one's probability. Default: 0
    #[arg(long)]
    min_p: Option<f64>,
    /// Above 1: tokens that are already there become less likely. Default: 1
    #[arg(long)]
    repetition_penalty: Option<f64>,
    /// Seed of the sampling
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

/// What holds, and what is to be said of it.
pub(super) struct Settings {
    pub(super) options: GenerateOptions,
    /// What was taken from the file, where it makes the model sample.
    pub(super) told: Option<String>,
    /// Flags and keys without effect.
    pub(super) warnings: Vec<Diagnostic>,
}

impl Sampling {
    /// Fills in what no flag says. `directory` is that of the file.
    pub(super) fn settle(&self, file: &GenerationConfig, directory: &Path, eos_token_ids: Vec<u32>) -> Settings {
        let options = GenerateOptions {
            max_new_tokens: self.max_new_tokens.or(file.max_new_tokens).unwrap_or(128),
            do_sample: self.do_sample.or(file.do_sample).unwrap_or(false),
            temperature: self.temperature.or(file.temperature).unwrap_or(1.0),
            top_k: self.top_k.or(file.top_k).unwrap_or(50),
            top_p: self.top_p.or(file.top_p).unwrap_or(1.0),
            min_p: self.min_p.or(file.min_p).unwrap_or(0.0),
            repetition_penalty: self.repetition_penalty.or(file.repetition_penalty).unwrap_or(1.0),
            eos_token_ids,
            seed: self.seed,
            ..GenerateOptions::default()
        };
        let mut warnings = Vec::new();
        let path = directory.join("generation_config.json");
        let unheeded = file.unheeded();
        if !unheeded.is_empty() {
            let message = format!("`{}` asks for what `host generate` does not have", path.display());
            warnings.push(
                Diagnostic::warning("model::generation", message)
                    .why(format!("{} is left out; transformers would write another text", unheeded.join(", "))),
            );
        }
        let flags = [
            ("--temperature", self.temperature.is_some()),
            ("--top-k", self.top_k.is_some()),
            ("--top-p", self.top_p.is_some()),
            ("--min-p", self.min_p.is_some()),
        ];
        let given: Vec<&str> = flags.into_iter().filter_map(|(flag, given)| given.then_some(flag)).collect();
        if !options.do_sample && !given.is_empty() {
            let message = format!("`{}` has no effect: the likeliest token is taken", given.join("`, `"));
            warnings.push(Diagnostic::warning("cli::no-effect", message).help("add `--do-sample`"));
        }
        let told = (options.do_sample && self.do_sample.is_none()).then(|| self.told(file, &path));
        Settings { options, told, warnings }
    }

    fn told(&self, file: &GenerationConfig, path: &Path) -> String {
        let shown = |flag: bool, name: &str, value: Option<String>| {
            value.filter(|_| !flag).map(|value| format!(", {name} {value}")).unwrap_or_default()
        };
        let number = |value: Option<f64>| value.map(|value| value.to_string());
        format!(
            "sampling as `{}` says: do_sample true{}{}{}{}{}; `--do-sample=false` takes the likeliest token",
            path.display(),
            shown(self.temperature.is_some(), "temperature", number(file.temperature)),
            shown(self.top_k.is_some(), "top_k", file.top_k.map(|k| k.to_string())),
            shown(self.top_p.is_some(), "top_p", number(file.top_p)),
            shown(self.min_p.is_some(), "min_p", number(file.min_p)),
            shown(self.repetition_penalty.is_some(), "repetition_penalty", number(file.repetition_penalty)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> GenerationConfig {
        GenerationConfig {
            do_sample: Some(true),
            temperature: Some(0.6),
            top_p: Some(0.9),
            max_new_tokens: Some(7),
            ..GenerationConfig::default()
        }
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let flags = Sampling { temperature: Some(0.2), ..Sampling::default() };
        let Settings { options, told, warnings } = flags.settle(&file(), Path::new("m"), vec![2]);
        assert_eq!((options.do_sample, options.temperature, options.top_p), (true, 0.2, 0.9));
        assert_eq!((options.top_k, options.max_new_tokens), (50, 7));
        assert_eq!(warnings, []);
        assert_eq!(
            told.unwrap(),
            "sampling as `m/generation_config.json` says: do_sample true, top_p 0.9; `--do-sample=false` takes the likeliest token"
        );
        let off = Sampling { do_sample: Some(false), ..Sampling::default() };
        let settings = off.settle(&file(), Path::new("m"), vec![]);
        assert!(!settings.options.do_sample && settings.told.is_none());
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let flags = Sampling { top_k: Some(3), ..Sampling::default() };
        let warnings = flags.settle(&GenerationConfig::default(), Path::new("m"), vec![]).warnings;
        assert_eq!(warnings[0].message, "`--top-k` has no effect: the likeliest token is taken");
    }
}
