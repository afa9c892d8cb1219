//! Every default, in one place: a config before the user said anything, and what follows from other keys afterwards.

use std::collections::BTreeMap;

use engine::objective::PairLoss;

use super::read::Context;
use super::schema::{BnbConfigKwargs, Config, DatasetConfig, GradientCheckpointingKwargs, SpecialTokens};
use super::split::Split;
use super::techniques::Techniques;
use super::trl_fields;
use super::values::{
    Amount, AutoBool, Cadence, DeviceChoice, ExcessLengthStrategy, KtoLossType, LrScheduler, Optimizer, Patterns,
    PluginRef, Rl, SaveStrategy, Scheduler, TargetModules, TrainOnEos,
};
use crate::diagnostic::{Diagnostic, Edit, Severity};

/// A config in which nothing is set. `base_model`, `datasets` and `learning_rate` have no default: empty and zero stand
/// for "missing" until the file is read, and no config leaves this room with them.
pub(super) fn config() -> Config {
    Config {
        base_model: String::new(),
        revision_of_model: None,
        base_model_config: String::new(),
        model_config: serde_json::Map::new(),
        tokenizer_config: String::new(),
        model_type: None,
        tokenizer_type: None,
        reinit_weights: false,
        resize_token_embeddings_to_32x: false,
        mean_resizing_embeddings: true,
        special_tokens: SpecialTokens::default(),
        tokens: Vec::new(),
        added_tokens_overrides: BTreeMap::new(),
        device: DeviceChoice::Auto,
        bf16: AutoBool::Auto,
        fp16: false,
        tf32: AutoBool::Auto,
        float32: false,
        datasets: Vec::new(),
        recipe: None,
        lock: None,
        pretraining_dataset: None,
        row_filters: Vec::new(),
        curation: None,
        streaming: false,
        streaming_multipack_buffer_size: 10_000,
        test_datasets: Vec::new(),
        val_set_size: Amount::Count(0),
        sequence_len: 512,
        excess_length_strategy: ExcessLengthStrategy::Drop,
        sample_packing: false,
        eval_sample_packing: false,
        train_on_inputs: false,
        shuffle_merged_datasets: true,
        chat_template: "tokenizer_default".to_owned(),
        chat_template_jinja: None,
        default_system_message: None,
        eot_tokens: Vec::new(),
        adapter: None,
        load_in_4bit: false,
        load_in_8bit: false,
        bnb_config_kwargs: BnbConfigKwargs::default(),
        lora_r: None,
        lora_alpha: None,
        lora_dropout: 0.0,
        lora_target_modules: TargetModules::Names(Vec::new()),
        lora_target_parameters: Vec::new(),
        lora_target_linear: false,
        lora_fan_in_fan_out: false,
        peft_use_rslora: false,
        peft_use_dora: false,
        lora_rank_pattern: Patterns::default(),
        lora_alpha_pattern: Patterns::default(),
        lora_modules_to_save: Vec::new(),
        dataset_prepared_path: None,
        lora_model_dir: None,
        peft_layers_to_transform: None,
        unfrozen_parameters: Vec::new(),
        gradient_checkpointing: false,
        gradient_checkpointing_kwargs: GradientCheckpointingKwargs::default(),
        rl: None,
        rl_beta: None,
        dpo_loss_type: Vec::new(),
        dpo_loss_weights: Vec::new(),
        dpo_label_smoothing: 0.0,
        rpo_alpha: None,
        simpo_gamma: 0.5,
        cpo_alpha: 1.0,
        orpo_alpha: None,
        kto_desirable_weight: 1.0,
        kto_undesirable_weight: 1.0,
        kto_loss_type: KtoLossType::Kto,
        reward_model: false,
        process_reward_model: false,
        center_rewards_coefficient: None,
        num_labels: None,
        trl: None,
        environment: None,
        micro_batch_size: 1,
        gradient_accumulation_steps: 1,
        batch_size: None,
        eval_batch_size: 1,
        num_epochs: 1.0,
        max_steps: None,
        optimizer: Optimizer::AdamwTorchFused,
        learning_rate: 0.0,
        weight_decay: 0.0,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        max_grad_norm: 1.0,
        lr_scheduler: Scheduler::BuiltIn(LrScheduler::Cosine),
        warmup_steps: None,
        warmup_ratio: None,
        cosine_min_lr_ratio: 0.0,
        techniques: Techniques::default(),
        seed: 42,
        logging_steps: None,
        eval_steps: None,
        evals_per_epoch: None,
        eval_strategy: Cadence::No,
        save_steps: None,
        saves_per_epoch: None,
        save_strategy: SaveStrategy::Epoch,
        save_total_limit: None,
        output_dir: "./model-out".to_owned(),
        resume_from_checkpoint: None,
        auto_resume_from_checkpoints: false,
        eval_reward_funcs: Vec::new(),
        eval_max_new_tokens: 128,
        num_generation_samples: None,
        loss_watchdog_threshold: None,
        loss_watchdog_patience: None,
        run_health: Vec::new(),
        rules: Vec::new(),
        plugins: Vec::new(),
    }
}

/// A dataset of which only the path and the strategy are known.
pub(super) fn dataset(path: String, strategy: PluginRef) -> DatasetConfig {
    DatasetConfig {
        path,
        ds_type: PluginRef::named("jsonl"),
        strategy,
        row_filters: Vec::new(),
        data_files: Vec::new(),
        name: None,
        revision: None,
        split: Split::default(),
        shards: None,
        shards_idx: 0,
        weight: 1.0,
        field: None,
        field_messages: "messages".to_owned(),
        field_chosen: None,
        field_rejected: None,
        step_separator: None,
        max_completion_length: None,
        train_on_last_step_only: false,
        field_tools: "tools".to_owned(),
        message_property_mappings: ["role", "content"].map(|name| (name.to_owned(), name.to_owned())).into(),
        message_field_role: None,
        message_field_content: None,
        roles: None,
        roles_to_train: vec!["assistant".to_owned()],
        train_on_eos: TrainOnEos::Turn,
        train_on_eot: None,
        field_thinking: None,
        template_thinking_key: None,
        split_thinking: false,
        drop_system_message: false,
        message_field_training: None,
        message_field_training_detail: None,
    }
}

/// Fills in what depends on other keys. `is_given` says whether the user wrote a top-level key.
pub(super) fn derive(cx: &Context<'_>, config: &mut Config, is_given: impl Fn(&str) -> bool) {
    if config.base_model_config.is_empty() {
        config.base_model_config.clone_from(&config.base_model);
    }
    if config.tokenizer_config.is_empty() {
        config.tokenizer_config.clone_from(&config.base_model_config);
    }
    if config.chat_template_jinja.is_some() && !is_given("chat_template") {
        "jinja".clone_into(&mut config.chat_template);
    }
    if !is_given("eval_sample_packing") {
        config.eval_sample_packing = config.sample_packing;
    }
    preferences(config);
    batch(cx, config, &is_given);
    trl_fields::derive(config, &is_given);
    if !is_given("eval_batch_size") {
        config.eval_batch_size = config.micro_batch_size;
    }
    if !is_given("eval_strategy") {
        let has_evaluation_data = !config.test_datasets.is_empty() || !config.val_set_size.is_zero();
        config.eval_strategy = match (config.eval_steps, config.evals_per_epoch) {
            (None, None) if has_evaluation_data => Cadence::Epoch,
            (None, None) => Cadence::No,
            _ => Cadence::Steps,
        };
    }
    watchdog(cx, config);
    if !is_given("save_strategy") && (config.save_steps.is_some() || config.saves_per_epoch.is_some()) {
        config.save_strategy = SaveStrategy::Steps;
    }
}

/// Axolotl's watchdog over the loss is a run-health plugin here.
fn watchdog(cx: &Context<'_>, config: &mut Config) {
    match (config.loss_watchdog_threshold.take(), config.loss_watchdog_patience.take()) {
        (Some(threshold), patience) => {
            let mut plugin = PluginRef::named("loss-watch");
            plugin.config.insert("threshold".to_owned(), threshold.into());
            plugin.config.extend(patience.map(|patience| ("patience".to_owned(), patience.into())));
            config.run_health.push(plugin);
        }
        (None, Some(_)) => {
            let message = "`loss_watchdog_patience` has no effect without `loss_watchdog_threshold`";
            let key = "loss_watchdog_patience";
            let warning = Diagnostic { severity: Severity::Warning, ..cx.error("no-effect", key, message) };
            cx.report(warning.help("delete the line").fix(Edit::Remove { path: key.to_owned() }));
        }
        (None, None) => {}
    }
}

/// What a method of learning from preferences has by itself.
fn preferences(config: &mut Config) {
    let Some(rl) = config.rl else { return };
    if rl.writes() {
        return;
    }
    if rl == Rl::Orpo
        && let Some(alpha) = config.orpo_alpha.take()
    {
        config.rl_beta = Some(alpha);
    }
    config.rl_beta.get_or_insert(0.1);
    if !matches!(rl, Rl::Dpo | Rl::Ipo) {
        return;
    }
    if config.dpo_loss_type.is_empty() {
        let loss = if rl == Rl::Ipo { PairLoss::Ipo } else { PairLoss::Sigmoid };
        config.dpo_loss_type.push(loss.name().to_owned());
    }
    let losses = config.dpo_loss_type.len();
    if config.dpo_loss_weights.is_empty() {
        config.dpo_loss_weights = vec![1.0; losses];
    }
    if let Some(alpha) = config.rpo_alpha.take() {
        config.dpo_loss_type.push(PairLoss::Sft.name().to_owned());
        config.dpo_loss_weights.push(alpha);
    }
}

/// `batch_size` = `micro_batch_size` × `gradient_accumulation_steps`: whichever is missing follows from the other two.
fn batch(cx: &Context<'_>, config: &mut Config, is_given: &impl Fn(&str) -> bool) {
    let Some(batch_size) = config.batch_size.take() else { return };
    let given = (is_given("micro_batch_size"), is_given("gradient_accumulation_steps"));
    let (divisor, name) = match given {
        (true, true) => {
            let product = u64::from(config.micro_batch_size) * u64::from(config.gradient_accumulation_steps);
            let message = "`batch_size` and `gradient_accumulation_steps` are both set";
            let diagnostic = cx.error("conflict", "batch_size", message).why(format!(
                "`micro_batch_size` x `gradient_accumulation_steps` is {product} already; `batch_size` says {batch_size}"
            ));
            cx.report(diagnostic.help("delete one of them"));
            return;
        }
        (false, true) => (config.gradient_accumulation_steps, "gradient_accumulation_steps"),
        (_, false) => (config.micro_batch_size, "micro_batch_size"),
    };
    if batch_size % divisor != 0 {
        let message = format!("`batch_size` {batch_size} is not a multiple of `{name}` {divisor}");
        cx.report(
            cx.error("conflict", "batch_size", message)
                .why("a step is a whole number of forward passes of the same size")
                .help(format!(
                    "set `batch_size` to {} or {}",
                    (batch_size / divisor).max(1) * divisor,
                    (batch_size / divisor + 1) * divisor
                )),
        );
        return;
    }
    if name == "micro_batch_size" {
        config.gradient_accumulation_steps = batch_size / divisor;
    } else {
        config.micro_batch_size = batch_size / divisor;
    }
}
