//! What goes beside the weights of a run: tokenizer, template, generation defaults, and the model card.

use std::fmt::Write as _;

use engine::architecture::scores::Classifier;

use super::run::Outcome;
use crate::check::facts::ModelFacts;
use crate::check::selection;
use crate::checkpoint::export::{ModelFiles, generation_config};
use crate::config::LoadedConfig;
use crate::data::template::ChatTemplate;

/// The files of a model beside its weights.
pub fn model_files<'a>(
    loaded: &'a LoadedConfig,
    model: &'a ModelFacts,
    template: Option<&'a ChatTemplate>,
) -> ModelFiles<'a> {
    // A token that is not there is an error of the plan, long before anything is written.
    let end_of_turn = selection::end_of_turn(loaded, model).unwrap_or_default();
    ModelFiles {
        tokenizer: &model.tokenizer,
        chat_template: template.map(ChatTemplate::source),
        base_model: &loaded.config.base_model,
        generation: model.config.scores.is_none().then(|| {
            let ends = model.end_tokens(&end_of_turn);
            generation_config(&model.config, &model.generation, &model.tokenizer, ends)
        }),
    }
}

/// The model card of the finished model.
pub fn card(loaded: &LoadedConfig, total_steps: u64, outcome: &Outcome) -> String {
    let config = &loaded.config;
    let mut card = String::from("---\n");
    let _ = writeln!(card, "base_model: {}", serde_json::json!(config.base_model));
    if config.adapter.is_some() {
        card.push_str("library_name: peft\n");
    } else {
        card.push_str("library_name: transformers\n");
    }
    let task = match config.scores() {
        Some((Classifier::Sequence, _)) => "text-classification",
        Some((Classifier::Token, _)) => "token-classification",
        None => "text-generation",
    };
    let _ = writeln!(card, "pipeline_tag: {task}\n---\n\n# Fine-tuned model\n");
    let what = if config.adapter.is_some() { "A LoRA adapter for" } else { "Fine-tuned from" };
    let _ = writeln!(card, "{what} `{}`, {} steps, seed {}.\n", config.base_model, total_steps, config.seed);
    if let Some(recipe) = &config.recipe {
        let _ = writeln!(card, "Made by the recipe `{}` {}.\n", recipe.name, recipe.version);
    }
    if let Some((before, after)) = &outcome.eval {
        card.push_str("| | before | after |\n|---|---|---|\n");
        if let (Some(before), Some(after)) = (before.eval_loss, after.eval_loss) {
            let _ = writeln!(card, "| evaluation loss | {before:.4} | {after:.4} |");
        }
        for (name, value) in &after.metrics {
            let from = before.metrics.get(name).copied().unwrap_or(f64::NAN);
            let _ = writeln!(card, "| {name} | {from:.4} | {value:.4} |");
        }
        for (name, value) in after.rewards.iter().filter(|(name, _)| name.ends_with("/mean")) {
            let from = before.rewards.get(name).copied().unwrap_or(f64::NAN);
            let _ = writeln!(card, "| {name} | {from:.4} | {value:.4} |");
        }
        card.push('\n');
    }
    card.push_str("The config as run is in `config.resolved.yml`; versions and digests are in `run.json`.\n");
    card
}
