//! What Axolotl has and this trainer lacks, with what to do instead; and the names that other trainers use.
//!
//! A key here with a null, false or empty value asks for nothing and is accepted. Names are those of Axolotl 0.19;
//! `name_*` stands for all keys with that beginning.

/// What becomes of a key that only Axolotl has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// It asks for something that we do not do: an error, with what to do instead.
    Instead(&'static str),
    /// What it asks for is always so here, or changes no result: accepted, with a note that says why.
    NoEffect(&'static str),
    /// Another trainer's name for this key.
    Called(&'static str),
}

use Lack::{Called, Instead, NoEffect};

/// Rows of a table: names that share an answer.
pub(super) type Table = &'static [(&'static [&'static str], Lack)];

/// The answer for a key.
pub(super) fn find<'a>(table: &'a [(&'static [&'static str], Lack)], key: &str) -> Option<&'a Lack> {
    let fits = |name: &&str| match name.strip_suffix('*') {
        Some(start) => key.starts_with(start),
        None => *name == key,
    };
    table.iter().find(|(names, _)| names.iter().any(&fits)).map(|(_, lack)| lack)
}

/// Keys of the top level.
#[rustfmt::skip]
pub(super) const TOP: Table = &[
    // --- always so here, or without influence on the result ---
    (&["flash_attention", "sdp_attention", "sdpa_attention", "eager_attention", "xformers_attention", "flex_attention", "attn_implementation", "flash_attn_*", "sample_packing_eff_est", "sage_attention", "sdpa_varlen", "flash_optimum", "flex_attn_compile_kwargs", "gemma4_hybrid_attn_impl"],
        NoEffect("attention is exact and never crosses from one sample into another, whatever it is called")),
    (&["pad_to_sequence_len", "pad_to_multiple_of", "group_by_length", "batch_flattening", "remove_unused_columns", "sample_packing_group_size", "sample_packing_bin_size", "sample_packing_sequentially", "sample_packing_mp_start_method", "multipack_real_batches", "pretrain_multipack_attn"],
        NoEffect("batches have no padding here: samples are laid end to end and keep their own positions")),
    (&["dataset_num_proc", "dataset_processes", "dataset_keep_in_memory", "resources_per_worker", "dataloader_*"],
        NoEffect("data is read and tokenized on all cores when a run starts")),
    (&["low_cpu_mem_usage", "gc_steps", "gc_collect_steps", "torch_empty_cache_steps", "is_llama_derived_model", "is_mistral_derived_model", "is_falcon_derived_model", "is_qwen_derived_model", "type_of_model", "tokenizer_save_jinja_files", "total_num_tokens", "total_supervised_tokens", "fp32_norm_classes", "torchdistx_path", "tokenizer_use_fast", "save_safetensors", "strict", "use_kernels"],
        NoEffect("this is how it works here")),
    (&["include_tokens_per_second", "include_tkps"],
        NoEffect("`tokens_per_second` is in every line of `metrics.jsonl`")),
    (&["lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel", "liger_*", "cut_cross_entropy", "chunked_cross_entropy*", "fused_attn_kernel"],
        NoEffect("adapters, norms and the loss are fused here without asking")),
    (&["bfloat16"],
        NoEffect("`bf16` says whether training computes in bfloat16; what is trained stays in float32 beside it")),
    (&["save_only_model"],
        NoEffect("checkpoints always keep the optimizer, so that a run can go on; the final model is saved without it")),
    (&["experimental_skip_move_to_device"],
        NoEffect("weights are read straight to where they stay")),

    // --- model and tokenizer ---
    (&["trust_remote_code"],
        NoEffect("no code of a model is ever run here; the architectures that are here need none")),
    (&["model_revision"], Called("revision_of_model")),
    (&["overrides_of_model_config"], Called("model_config")),
    (&["cls_model_config", "overrides_of_model_kwargs", "model_kwargs", "model_quantization_config*", "rope_scaling"],
        Instead("other values for keys of `config.json` belong under `model_config`")),
    (&["tokenizer_legacy", "tokenizer_use_mistral_common", "processor_*", "image_*", "shrink_embeddings", "fix_untrained_tokens", "embeddings_skip_upcast"],
        Instead("the tokenizer is used as its files are; new tokens belong under `tokens`")),

    (&["expert_*", "dense_mixer", "dsv4_*", "gemma4_*", "llama4_*", "moe_*", "use_dsv4_kernels", "use_glm_dsa_kernels"],
        Instead("tokens go to experts as the model's `config.json` says; delete the line")),
    (&["experts_implementation", "use_scattermoe", "use_sonicmoe"],
        NoEffect("products of experts are grouped, and no token is dropped")),
    (&["quantize_moe_experts"],
        NoEffect("of a model of experts, no weight can be held in few bits here; other models have nothing that it is about")),
    (&["ple_cpu_offload"],
        Instead("models with an embedding per layer are not here (`host doctor --capabilities`); delete the line")),
    (&["scaling_softmax_*"],
        Instead("attention is as the model was trained; delete the line")),

    // --- precision and weights in few bits ---
    (&["gptq", "gptq_*", "quantization", "qat", "use_onebitllms"],
        Instead("frozen weights are quantized as bitsandbytes does it: `load_in_4bit: true` or `load_in_8bit: true` with an adapter")),
    (&["nvfp4_*", "nonexpert_quantization", "llmcompressor", "save_compressed", "qlora_sharded_model_loading"],
        Instead("delete the line, and compress the finished model with other tools")),
    (&["float16"],
        NoEffect("weights that are trained stay in float32, and training computes in bfloat16 where the device has it (`bf16`)")),
    (&["fp8", "fp8_*"],
        Instead("training computes in bfloat16 or in float32 (`bf16`, `float32`); delete the line")),

    // --- adapters and freezing ---
    (&["peft_trainable_token_indices", "peft_init_lora_weights", "peft_layers_pattern", "peft_layer_replication", "peft", "peft_*", "lora_on_cpu"],
        Instead("adapters are LoRA on linear layers, plain, rank-stabilized or with DoRA: `lora_r`, `lora_alpha`, `lora_target_modules`, `peft_use_rslora`, `peft_use_dora`, `peft_layers_to_transform`")),
    (&["mora", "mora_type", "use_mora", "train_attn", "train_mlp", "train_unembed", "hatchery"],
        Instead("adapters are LoRA: `lora_r`, `lora_alpha`, `lora_target_modules`")),
    (&["relora", "relora_*", "jagged_restart_*", "merge_lora", "merge_method"],
        Instead("adapters are trained once and saved in PEFT's format; `host merge-lora` merges them")),
    (&["freeze_mm_modules"],
        NoEffect("of a model of several parts, the text model alone is trained")),
    (&["spectrum_model_name"],
        NoEffect("signals are measured of the weights themselves")),
    (&["lisa_layers_attribute"],
        NoEffect("the layers are those of the decoder")),
    (&["unfrozen_parameters_*"],
        Instead("name the parameters to train in `unfrozen_parameters`")),

    // --- data ---
    (&["max_packed_sequence_len"],
        Instead("write `sample_packing: true` with `sequence_len`")),
    (&["role_boundaries"],
        Instead("write `datasets[].roles_to_train` and `eot_tokens`")),
    (&["preprocess_iterable", "pretraining_sample_concatenation", "skip_prepare_dataset"],
        Instead("list files under `datasets`: samples are kept on disk, so memory does not grow with rows; `streaming: true` keeps none")),
    (&["pretrain_multipack_buffer_size"], Called("streaming_multipack_buffer_size")),
    (&["dataset_exact_deduplication", "dataset_shard_num", "dataset_shard_idx", "num_dataset_shards_to_save", "curriculum_sampling", "shuffle_before_merging_datasets", "min_sample_len", "max_prompt_len", "eval_sequence_len", "use_pose", "pose_*", "chat_template_kwargs"],
        Instead("prepare the data file that way; what is in `datasets` is trained as it is")),
    (&["hub_*", "push_to_hub_*"],
        NoEffect("nothing is uploaded; after the run: `hf upload ORG/NAME OUTPUT_DIR`")),
    (&["push_dataset_to_hub"],
        Instead("nothing is uploaded; delete the line")),
    (&["hf_use_auth_token"],
        Instead("the token of `HF_TOKEN`, or of `hf auth login`, is used wherever the hub is asked; delete the line")),

    // --- optimization ---
    (&["noisy_embedding_alpha"], Called("neftune_noise_alpha")),
    (&["loraplus_lr_embedding"],
        NoEffect("embeddings have no adapters here; `lora_modules_to_save: [embed_tokens]` trains them whole, and `embedding_lr` is their learning rate")),
    (&["optim_args", "optim_target_modules", "adam_beta3", "adam_epsilon2", "dion_*", "qgalore_*", "lr_scheduler_kwargs", "lr_quadratic_warmup", "cosine_constant_lr_ratio", "lr_div_factor", "log_sweep_*"],
        Instead("AdamW has one learning rate here: `learning_rate`, `lr_scheduler`, `warmup_steps`, `weight_decay`, `adam_beta1`, `adam_beta2`, `adam_epsilon`")),
    (&["auto_find_batch_size"],
        Instead("set `micro_batch_size`; halve it, and double `gradient_accumulation_steps`, when memory is short")),

    // --- memory and speed ---
    (&["activation_offloading", "layer_offloading", "tiled_mlp", "tiled_mlp_*"],
        NoEffect("activations and layers stay on the device; `gradient_checkpointing: true` saves the memory")),
    (&["torch_compile", "torch_compile_*"],
        NoEffect("the schedule is compiled ahead of time, and its kernels are fused")),
    (&["selective_checkpointing"],
        Instead("use `gradient_checkpointing: true`")),
    (&["max_memory", "gpu_memory_limit", "large_head_attention", "scaling_softmax"],
        Instead("there is no PyTorch here; delete the line")),
    (&["s2_attention"],
        Instead("shifted sparse attention is not here; delete the line")),

    // --- other losses and other ways of training ---
    (&["diffusion", "kd_*", "use_eaft", "eaft_*", "importance_weighting"],
        Instead("the loss is next-token cross-entropy; delete the line")),
    (&["grokfast_*"],
        Instead("gradients are used as they are; delete the line")),
    (&["nemo_gym_*"],
        Instead("environments are plugins: `environment`")),
    (&["gradio_*"],
        Instead("`host generate` talks to a model")),

    // --- logging, evaluation, checkpoints ---
    (&["wandb_*", "mlflow_*", "comet_*", "use_comet", "trackio_*", "use_trackio", "use_wandb", "use_mlflow", "swanlab_*", "use_swanlab", "use_tensorboard", "otel_*", "use_otel_metrics", "hf_mlflow_log_artifacts", "report_to"],
        NoEffect("nothing is sent anywhere: metrics are in `OUTPUT_DIR/metrics.jsonl`, one JSON object a line")),
    (&["profiler_steps", "profiler_steps_start", "log_level"],
        Instead("delete the line; a loss or gradient that is not finite always stops the run")),
    (&["generate_samples", "generation_*", "do_causal_lm_eval", "eval_causal_lm_metrics", "do_bench_eval", "bench_*", "eval_table_size", "eval_table_max_new_tokens", "lm_eval_*"],
        Instead("use `eval_reward_funcs: [exact-match]` with `eval_max_new_tokens` and `num_generation_samples`")),
    (&["save_first_step", "dynamic_checkpoint"],
        Instead("use `save_steps`; SIGINT (Ctrl-C) saves too, and the run can go on from there")),

    // --- preference and reinforcement learning ---
    (&["precompute_ref_log_probs"],
        NoEffect("what the reference says is always computed once, before training, and kept with the checkpoints")),
    (&["dpo_use_logits_to_keep", "dpo_padding_free", "dpo_use_liger_kernel"],
        NoEffect("logits are of answers alone, and batches have no padding")),
    (&["dpo_beta", "beta"], Called("rl_beta")),
    (&["dpo_use_weighting", "dpo_norm_loss", "dpo_generate_during_eval"],
        Instead("losses of pairs are those of `dpo_loss_type`; delete the line")),
    (&["vllm"],
        NoEffect("completions are sampled by the model that is trained")),
    (&["desirable_weight"], Called("kto_desirable_weight")),
    (&["undesirable_weight"], Called("kto_undesirable_weight")),
    (&["ebft"],
        Instead("learning from preferences is `rl: dpo`, `ipo`, `simpo`, `cpo`, `orpo` or `kto` here, and from rewards `grpo`")),

    // --- several devices ---
    (&["deepspeed", "deepcompile", "fsdp", "fsdp_*", "dp_shard_size", "dp_replicate_size", "ddp", "ddp_*", "tensor_parallel_size", "context_parallel_size", "sequence_parallel_degree", "ring_attn_func", "heads_k_stride", "use_ray", "ray_*"],
        NoEffect("a run is one process, so nothing is divided among devices; `host check --plan` says whether it fits into this one")),
    (&["expert_parallel_size", "fp32_norms", "world_size", "local_rank", "device_map", "accelerator_config"],
        Instead("one process trains on all cores of one machine")),
    (&["trainer_cls", "experimental_*"],
        Instead("nothing of the host can be replaced by Python; see the plugin kinds in `host plugin list`")),
    (&["debug"],
        Instead("use `host check` and `host train --dry-run`")),

    // --- what other trainers call it ---
    (&["model", "model_name_or_path", "model_name", "model_path", "pretrained_model_name_or_path"], Called("base_model")),
    (&["dataset", "train_file", "data_path", "dataset_path", "train_dataset"], Called("datasets")),
    (&["eval_dataset", "eval_datasets", "eval_file", "validation_file"], Called("test_datasets")),
    (&["per_device_train_batch_size", "train_batch_size"], Called("micro_batch_size")),
    (&["per_device_eval_batch_size"], Called("eval_batch_size")),
    (&["grad_accum", "gradient_accumulation", "grad_accumulation_steps"], Called("gradient_accumulation_steps")),
    (&["num_train_epochs", "epochs"], Called("num_epochs")),
    (&["lr", "initial_lr"], Called("learning_rate")),
    (&["lr_scheduler_type", "scheduler"], Called("lr_scheduler")),
    (&["optim"], Called("optimizer")),
    (&["max_seq_length", "max_seq_len", "max_length", "cutoff_len", "block_size", "model_max_length", "sequence_length"], Called("sequence_len")),
    (&["packing"], Called("sample_packing")),
    (&["lora_rank", "rank"], Called("lora_r")),
    (&["lora_target", "target_modules"], Called("lora_target_modules")),
    (&["use_rslora"], Called("peft_use_rslora")),
    (&["use_dora"], Called("peft_use_dora")),
    (&["evaluation_strategy"], Called("eval_strategy")),
    (&["val_size", "test_size", "validation_split"], Called("val_set_size")),
    (&["template"], Called("chat_template")),
    (&["random_seed", "data_seed"], Called("seed")),
    (&["out_dir", "output", "save_dir"], Called("output_dir")),
    (&["grad_clip", "gradient_clipping", "max_gradient_norm", "clip_grad_norm"], Called("max_grad_norm")),
    (&["reward_funcs", "eval_rewards"], Called("eval_reward_funcs")),
];

/// Keys of `trl`.
#[rustfmt::skip]
pub(super) const TRL: Table = &[
    (&["use_vllm", "vllm_*", "async_prefetch", "use_data_producer", "log_completions", "use_liger_*"],
        NoEffect("completions are sampled by the model that is trained, and written to `completions.jsonl`")),
    (&["disable_dropout", "ds3_gather_for_generation", "cast_lm_head_to_fp32", "generation_kwargs", "cache_implementation", "use_transformers_paged", "shuffle_dataset"],
        Instead("sampling is set with `temperature`; delete the line")),
    (&["sync_ref_model", "ref_model_*"],
        Instead("the reference of `beta` is the model as training began; delete the line")),
    (&["entropy_*", "use_adaptive_entropy", "top_entropy_quantile", "off_policy_mask_threshold", "replay_*", "reroll_*", "skip_zero_advantage_batches", "reward_num_workers", "streaming_*", "batch_flattening", "rollout_func", "log_multimodal", "chat_template_kwargs"],
        Instead("this part of GRPO is not here; delete the line")),
    (&["num_completions_to_print"], Called("num_completions_to_log")),
    (&["max_prompt_length"],
        Instead("prompts have at most `sequence_len` less `trl.max_completion_length` tokens")),
    (&["teacher_model_revision", "teacher_model_init_kwargs"],
        Instead("the teacher is `teacher_model_name_or_path`, a directory or the branch `main` of a model of the hub; delete the line")),
    (&["reward_processing_classes", "reward_model_path"],
        Instead("rewards are plugins: `reward_funcs`")),
];

/// Keys of an entry of `datasets` or `test_datasets`.
#[rustfmt::skip]
pub(super) const DATASET: Table = &[
    (&["preprocess_shards"],
        NoEffect("data is read and tokenized on all cores when a run starts")),
    (&["trust_remote_code"],
        Instead("no code of a dataset is ever run here; delete the line")),
    (&["data_dir"],
        Instead("write `data_files: 'DIRECTORY/**'`")),
    (&["weight", "fraction", "max_samples", "num_samples", "temperature"],
        Instead("write which rows are meant: `split: train[:1000]`, `split: train[:10%]`")),
    (&["chat_template", "chat_template_jinja"],
        Instead("set it at the top level; all datasets of a run share one template")),
    (&["conversation"],
        Instead("write `type: chat_template`, with `chat_template` at the top level")),
    (&["train_on_split"], Called("split")),
    (&["field_human", "field_model", "field_system", "field_instruction", "field_input", "field_output", "format", "no_input_format", "system_prompt", "system_format"],
        Instead("write it under `type`: `type: {field_instruction: …, field_output: …, format: …}`")),
    (&["input_format", "input_transform", "skip", "text_column", "logprobs_field"],
        Instead("a prompt-strategy plugin can do this; see `plugin-sdk/README.md`")),
    (&["loader", "dataset_type", "format_type"], Called("ds_type")),
    (&["strategy", "prompt_strategy"], Called("type")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_two_answers() {
        for table in [TOP, DATASET, TRL] {
            let mut seen = std::collections::BTreeSet::new();
            for name in table.iter().flat_map(|(names, _)| *names) {
                assert!(seen.insert(*name), "{name} twice");
            }
        }
    }

    #[test]
    fn beginnings_and_whole_names_are_found() {
        assert!(matches!(find(TOP, "gptq_groupsize"), Some(Instead(_))));
        assert!(matches!(find(TOP, "lr"), Some(Called("learning_rate"))));
        assert!(matches!(find(TOP, "flash_attention"), Some(NoEffect(_))));
        assert_eq!(find(TOP, "no_such_key"), None);
    }

    /// Every key of Axolotl is here or is known not to be.
    #[test]
    fn axolotls_keys_are_known_by_name() {
        let defaults = super::super::json_schema::schema();
        let own = |at: &str, key: &str| defaults.pointer(at).is_some_and(|keys| keys.get(key).is_some());
        let names = include_str!("../../../tests/axolotl/keys.txt").lines().filter(|line| !line.starts_with('#'));
        let unknown: Vec<&str> = names
            .filter(|name| match name.strip_prefix("datasets[].") {
                Some(key) => find(DATASET, key).is_none() && !own("/properties/datasets/items/properties", key),
                None => find(TOP, name).is_none() && !own("/properties", name),
            })
            .collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
