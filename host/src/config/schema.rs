//! The config as a run uses it: every key with its meaning, unit, default and an example.
//!
//! Names and meanings are Axolotl's; the few keys of our own say so. Where a default depends on other keys, `defaults.rs`
//! fills it in, so a loaded config has a value wherever the type is not an `Option`. The doc comments are the reference.

use std::collections::BTreeMap;

use engine::architecture::config::Quantization;
use engine::architecture::scores::Classifier;
use engine::kernels::Packing;
use schemars::JsonSchema;
use serde::Serialize;

use super::curation::Curation;
use super::preference_types::PREFERENCE;
use super::recipe::{Lock, Recipe};
use super::split::Split;
use super::supervised_types::TOKENIZED;
use super::techniques::Techniques;
use super::values::{
    Adapter, Aggregation, Amount, AutoBool, Cadence, DeviceChoice, EnvironmentRef, ExcessLengthStrategy, FilterRef,
    GrpoLossType, ImportanceSamplingLevel, KtoLossType, Optimizer, Patterns, PluginPin, PluginRef, QuantType,
    RewardRef, Rl, RuleRef, SaveStrategy, ScaleRewards, Scheduler, TargetModules, TrainOnEos,
};

/// Everything that a run is told.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Config {
    // --- recipe ---
    /// Ours. What this config is called, and whose it is: `{name, version, authors, license, description, tags, host}`. It makes a
    /// recipe of it that others can run: its paths are those beside it, and it may name no others, grant plugins nothing, and raise
    /// no limit. Default: none. Example: `{name: tiny-alpaca, version: 1.0.0}`.
    #[serde(skip_serializing)]
    pub recipe: Option<Recipe>,
    /// Ours. What the recipe ran with and what came of it; `host recipe lock` writes it. Default: none.
    #[serde(skip_serializing)]
    pub lock: Option<Lock>,

    // --- model ---
    /// Directory of the model: `config.json`, safetensors weights, tokenizer files; or its name on the Hugging Face hub. Required.
    /// Example: `models/SmolLM2-135M`.
    #[schemars(extend("x-fixed" = true))]
    pub base_model: String,
    /// Branch, tag or commit of a `base_model` of the hub. A commit means the same for ever. Default: none, which is the branch
    /// `main`.
    #[schemars(extend("x-fixed" = true))]
    pub revision_of_model: Option<String>,
    /// Directory whose `config.json` is used. Default: `base_model`.
    pub base_model_config: String,
    /// Other values for keys of the model's `config.json`, in what is exported too. Default: `{}`. Example:
    /// `{rope_scaling: {rope_type: yarn, factor: 4.0, original_max_position_embeddings: 32768}}`.
    #[schemars(extend("x-fixed" = true))]
    pub model_config: serde_json::Map<String, serde_json::Value>,
    /// Directory whose tokenizer files are used. Default: `base_model_config`.
    pub tokenizer_config: String,
    /// Architecture that the model must have, such as `LlamaForCausalLM`, or `AutoModelForCausalLM` for any;
    /// `AutoModelForSequenceClassification` with `reward_model`, `AutoModelForTokenClassification` with `process_reward_model`.
    /// Default: any.
    #[schemars(schema_with = "super::json_schema::model_type")]
    pub model_type: Option<String>,
    /// Class name of the tokenizer, for Axolotl configs: whatever it says, `tokenizer.json` is what is read. Default: none.
    pub tokenizer_type: Option<String>,
    /// Start from fresh seeded weights instead of the ones in `base_model`, which then needs no weight files.
    /// Default: `false`.
    pub reinit_weights: bool,
    /// An embedding of at least as many rows as the tokenizer has tokens, rounded up to a multiple of 32. Default: `false`.
    #[schemars(extend("x-fixed" = true))]
    pub resize_token_embeddings_to_32x: bool,
    /// New rows of embedding and output projection start as the mean of those that there are, as in transformers, which adds a
    /// trace of noise; `false`: at random, with the model's `initializer_range`. Default: `true`.
    #[schemars(extend("x-fixed" = true))]
    pub mean_resizing_embeddings: bool,
    /// Special tokens instead of the tokenizer's own. One that the vocabulary lacks is added, with a new row of the embedding
    /// unless it is the `pad_token`, which is never looked up. Example: `{pad_token: "<|pad|>"}`.
    #[schemars(extend("x-fixed" = true))]
    pub special_tokens: SpecialTokens,
    /// Texts that become one token each, with new rows of embedding and output projection where the vocabulary lacks them.
    /// Default: `[]`. Example: `['<|im_start|>', '<|im_end|>']`.
    #[schemars(extend("x-fixed" = true))]
    pub tokens: Vec<String>,
    /// Other texts for added tokens of the tokenizer, such as reserved ones, by their ids. Default: `{}`. Example:
    /// `{128041: '<|im_start|>'}`.
    #[schemars(extend("x-fixed" = true))]
    pub added_tokens_overrides: BTreeMap<u32, String>,

    // --- device and precision ---
    /// Where training computes: `cpu`, `cuda` or `cuda:N` for an NVIDIA GPU (N counts from 0), or `auto` for the first GPU
    /// that is there, else the CPU. Default: `auto`.
    pub device: DeviceChoice,
    /// bfloat16 with float32 sums, and float32 beside it for what is trained: where the device has it (`auto`), or not at
    /// all. On the CPU training computes in float32, and `true` is a warning. Default: `auto`.
    pub bf16: AutoBool,
    /// float16 with loss scaling, which is not here: a warning says that bfloat16 or float32 takes its place. Default: `false`.
    pub fp16: bool,
    /// TensorFloat-32: without effect, products of float32 are computed in full. Default: `auto`.
    pub tf32: AutoBool,
    /// Train in float32 whatever the device has. Default: `false`.
    pub float32: bool,

    // --- data ---
    /// What is trained on; at least one entry.
    pub datasets: Vec<DatasetConfig>,
    /// Axolotl's key for plain texts, in place of `datasets`: a file, or a list of `{path, text_column}`; it is read as
    /// `datasets` with `type: completion`. A loaded config has none.
    #[serde(skip_serializing)]
    pub pretraining_dataset: Option<serde_json::Value>,
    /// Ours. Row-filter plugins for every entry of `datasets`, in this order: a name or `{name, config, min_score}`. What
    /// they leave out is counted by reason; rows with a score below `min_score` are left out too. Default: none.
    /// Example: `[{name: curate, config: {min_chars: 20}, min_score: 0.5}]`.
    #[schemars(extend("x-fixed" = true))]
    #[schemars(schema_with = "super::json_schema::plugins::<FilterRef>")]
    pub row_filters: Vec<FilterRef>,
    /// Ours. What `host curate` leaves out of `datasets`: duplicates (`exact_duplicates`, `near_duplicates: {threshold, ngram,
    /// permutations}`), rows that an evaluation has too (`decontaminate: {against, ngram}`, beside `test_datasets`), rows by
    /// what they look like (`heuristics: {min_words, max_words, max_mean_word_length, max_symbol_ratio, max_duplicate_lines,
    /// max_repeated_ngrams, drop_lorem_ipsum, languages}`), and all but a part of the rest (`keep`), which is random or chosen by a score
    /// (`score: {by, prefer, prompt, like}`: `by` is `perplexity`, `accuracy`, `judge`, `similarity` or `words`, `prefer` is `low`,
    /// `high` or `spread`); `text` names the columns that are compared. It writes configs that train on what is kept and on a random control of the same size; this config itself
    /// is not trained then. Default: none. Example: `{near_duplicates: {threshold: 0.7}, decontaminate: {against: [eval.jsonl]}}`.
    pub curation: Option<Curation>,
    /// Make samples of `datasets` while the run learns from them, and keep none of them on disk; the run begins at once. Rows come in
    /// their order, and are shuffled and packed within windows of `streaming_multipack_buffer_size`. One dataset; needs
    /// `max_steps`; not with `val_set_size`, `rl` and the like. Default: `false`.
    #[schemars(extend("x-fixed" = true))]
    pub streaming: bool,
    /// Rows of a window of a stream, rounded up to whole 256; two windows are in memory. Default: `10000`.
    #[schemars(extend("x-fixed" = true))]
    pub streaming_multipack_buffer_size: u32,
    /// What is evaluated on; not together with `val_set_size`. Default: none.
    pub test_datasets: Vec<DatasetConfig>,
    /// Part of `datasets` kept back for evaluation: a share (`0.05`) or a number of rows (`200`). Default: `0`.
    pub val_set_size: Amount,
    /// Longest sample, in tokens; with packing also the length of a packed row. Default: `512`.
    #[schemars(extend("x-fixed" = true))]
    pub sequence_len: u32,
    /// What happens to a longer sample: `drop`, `truncate` or `raise`. A text that is learned as a whole (`completion`) is cut in
    /// pieces instead, as in Axolotl. Default: `drop`.
    pub excess_length_strategy: ExcessLengthStrategy,
    /// Several samples in one row, each with its own positions and attention. Default: `false`.
    #[schemars(extend("x-fixed" = true))]
    pub sample_packing: bool,
    /// The same for evaluation. Default: as `sample_packing`.
    pub eval_sample_packing: bool,
    /// Also learn the prompt, not only the answer. Default: `false`.
    pub train_on_inputs: bool,
    /// Shuffle the rows of all datasets together, anew each epoch. Default: `true`.
    #[schemars(extend("x-fixed" = true))]
    pub shuffle_merged_datasets: bool,

    // --- chat ---
    /// Chat template: `tokenizer_default` (the model's own), one of Axolotl's by name, or `jinja` with `chat_template_jinja`.
    /// `tokenizer_default_fallback_NAME` is the model's own, and that name for a model without one. Default:
    /// `tokenizer_default`.
    #[schemars(schema_with = "super::json_schema::chat_template")]
    pub chat_template: String,
    /// The template itself, or the path of a file that holds it. Default: none.
    pub chat_template_jinja: Option<String>,
    /// A system message for conversations that have none. Default: none.
    pub default_system_message: Option<String>,
    /// Tokens that end a turn beside the tokenizer's `eos_token`. Default: none. Example: `["<|im_end|>"]`.
    pub eot_tokens: Vec<String>,

    // --- what is trained ---
    /// `lora`, `qlora` (the same with `load_in_4bit`), or nothing for the model's own weights. Default: none.
    #[schemars(extend("x-fixed" = true))]
    pub adapter: Option<Adapter>,
    /// Keep the frozen linear layers of the decoder in four bits, as bitsandbytes packs them. Needs an `adapter`; required with
    /// `adapter: qlora`. Default: `false`.
    #[schemars(extend("x-fixed" = true))]
    pub load_in_4bit: bool,
    /// The same in eight bits (LLM.int8), a scale a row. Products are with the unpacked weights: activations are not rounded to
    /// eight bits, as they are in bitsandbytes. Needs an `adapter`. Default: `false`.
    #[schemars(extend("x-fixed" = true))]
    pub load_in_8bit: bool,
    /// Details of `load_in_4bit`.
    #[schemars(extend("x-fixed" = true))]
    pub bnb_config_kwargs: BnbConfigKwargs,
    /// Rank of the adapters, 1 or more. Required with an `adapter`. Example: `16`.
    #[schemars(extend("x-fixed" = true))]
    pub lora_r: Option<u32>,
    /// Adapters are scaled by `lora_alpha / lora_r` (`/ sqrt(lora_r)` with `peft_use_rslora`). Required with an `adapter`.
    /// Example: `32`.
    #[schemars(extend("x-fixed" = true))]
    pub lora_alpha: Option<f64>,
    /// Share of an adapter's inputs that is zeroed in training, from 0 up to but not including 1. Default: `0`.
    #[schemars(extend("x-fixed" = true))]
    pub lora_dropout: f64,
    /// Linear layers that get an adapter, as PEFT reads them: a list of names (`q_proj k_proj v_proj o_proj gate_proj up_proj
    /// down_proj lm_head`), of what full names end in after a dot (`self_attn.q_proj`) or of full names
    /// (`model.layers.0.mlp.up_proj`); or a text, which is a regular expression over whole names
    /// (`'.*self_attn\.(q|v)_proj'`); or `all-linear`, which is all but `lm_head`. Required with an `adapter`, unless
    /// `lora_target_linear`.
    #[schemars(extend("x-fixed" = true))]
    #[schemars(schema_with = "super::json_schema::linear_modules")]
    pub lora_target_modules: TargetModules,
    /// Weights of experts that get an adapter, and routers, by what their full names end in (PEFT's `target_parameters`):
    /// `mlp.experts.gate_up_proj`, `mlp.experts.down_proj`, `mlp.gate.weight`. Default: `[]`.
    #[schemars(extend("x-fixed" = true))]
    pub lora_target_parameters: Vec<String>,
    /// An adapter for every linear layer but `lm_head`. Default: `false`.
    #[schemars(extend("x-fixed" = true))]
    pub lora_target_linear: bool,
    /// Layout of weights stored transposed: only `false`. Default: `false`.
    pub lora_fan_in_fan_out: bool,
    /// Scale adapters by `lora_alpha / sqrt(lora_r)` (arXiv 2312.03732). Default: `false`.
    #[schemars(extend("x-fixed" = true))]
    pub peft_use_rslora: bool,
    /// Train the length of each row of the adapted weights beside its direction (DoRA, arXiv 2402.09353). Not with `lm_head`
    /// among the targets. Default: `false`.
    #[schemars(extend("x-fixed" = true))]
    pub peft_use_dora: bool,
    /// Ranks of some modules, by regular expressions over the end of a full name, from its start or a dot; the first that
    /// matches counts (PEFT's `rank_pattern`). Default: `{}`. Example: `{'layers\.0\.mlp\.down_proj': 64}`.
    #[schemars(extend("x-fixed" = true))]
    pub lora_rank_pattern: Patterns<u32>,
    /// The same of `lora_alpha` (PEFT's `alpha_pattern`). Default: `{}`. Example: `{down_proj: 128}`.
    #[schemars(extend("x-fixed" = true))]
    pub lora_alpha_pattern: Patterns<f64>,
    /// Modules that are trained whole beside the adapters and saved with them, by what their full names end in (PEFT's
    /// `modules_to_save`): `embed_tokens`, `lm_head`, norms. Where the two are one tensor, each of them that is named is trained
    /// by itself. Default: `[]`. Example: `[embed_tokens, lm_head]`.
    #[schemars(extend("x-fixed" = true))]
    pub lora_modules_to_save: Vec<String>,
    /// Directory of the samples that are kept, so that a run with the same data, tokenizer, plugins and settings does not make them
    /// again. Default: one in the user's cache. Example: `last_run_prepared`.
    pub dataset_prepared_path: Option<String>,
    /// Directory of an adapter in PEFT's form that training starts from, instead of a fresh one: of the same modules, ranks and
    /// scales as this config says.
    pub lora_model_dir: Option<String>,
    /// Layers that get adapters, counted from 0. Default: all.
    #[schemars(extend("x-fixed" = true))]
    pub peft_layers_to_transform: Option<Vec<u32>>,
    /// Train only parameters whose name matches one of these regular expressions at its start (Python's `re.match`), or with a
    /// range behind it these rows of them. Default: all. Example: `['model\.layers\.2[0-9]\.', '^lm_head\.weight$[32000:]']`.
    #[schemars(extend("x-fixed" = true))]
    pub unfrozen_parameters: Vec<String>,
    /// Keep only each layer's input during the forward pass and compute the rest again in the backward pass:
    /// the same gradients, less memory, more time. Axolotl's `offload` is read as `true`. Default: `false`.
    #[schemars(schema_with = "super::json_schema::checkpointing")]
    pub gradient_checkpointing: bool,
    /// Details of it.
    pub gradient_checkpointing_kwargs: GradientCheckpointingKwargs,

    // --- preferences ---
    /// What is learned instead of supervised texts: from pairs of answers `dpo`, `ipo`, `simpo`, `cpo` or `orpo`; from answers
    /// that are wanted or not `kto`; from what the model writes and rewards say of it `grpo` or `gdpo`. Default: none.
    #[schemars(extend("x-fixed" = true))]
    pub rl: Option<Rl>,
    /// How far answers may go from those of the model as it was, above 0; a factor of log-probabilities where there is no
    /// such reference; of `rl: orpo` the weight of the odds ratio. Default: `0.1` with `rl`.
    #[schemars(extend("x-fixed" = true))]
    pub rl_beta: Option<f64>,
    /// `rl: dpo`: losses of TRL's `DPOTrainer`, whose weighted sum is learned: `sigmoid`, `hinge`, `ipo`, `exo_pair`,
    /// `nca_pair`, `robust`, `bco_pair`, `sppo_hard`, `apo_zero`, `apo_down`, `discopop`, `sigmoid_norm`, and `sft`, which is
    /// cross-entropy of the chosen answers. Default: `[sigmoid]` with `rl: dpo`, `[ipo]` with `rl: ipo`.
    #[schemars(extend("x-fixed" = true))]
    #[schemars(schema_with = "super::json_schema::pair_losses")]
    pub dpo_loss_type: Vec<String>,
    /// Weights of the losses, one for each. Default: 1 each.
    #[schemars(extend("x-fixed" = true))]
    pub dpo_loss_weights: Vec<f64>,
    /// Share of pairs that are taken to be the wrong way round, of `robust` and `exo_pair`: from 0 up to but not including 0.5.
    /// Default: `0`.
    #[schemars(extend("x-fixed" = true))]
    pub dpo_label_smoothing: f64,
    /// Weight of cross-entropy of the chosen answers beside `dpo_loss_type`: another way to write `sft` among the losses, which
    /// is what a loaded config has. Default: none.
    pub rpo_alpha: Option<f64>,
    /// `rl: simpo`: margin between the answers. Default: `0.5`.
    #[schemars(extend("x-fixed" = true))]
    pub simpo_gamma: f64,
    /// `rl: simpo` and `rl: cpo`: weight of cross-entropy of the chosen answers; 0 is SimPO as its paper has it. Default: `1`.
    #[schemars(extend("x-fixed" = true))]
    pub cpo_alpha: f64,
    /// `rl: orpo`: weight of the odds ratio beside cross-entropy, the paper's lambda; another way to write `rl_beta`, which is
    /// what a loaded config has. Default: none.
    pub orpo_alpha: Option<f64>,
    /// `rl: kto`: weight of answers that are wanted, 0 or more. Where these are few, about as much more as they are fewer.
    /// Default: `1`.
    #[schemars(extend("x-fixed" = true))]
    pub kto_desirable_weight: f64,
    /// `rl: kto`: weight of answers that are not wanted, 0 or more. Default: `1`.
    #[schemars(extend("x-fixed" = true))]
    pub kto_undesirable_weight: f64,
    /// `rl: kto`: what an answer is held against: with `kto` how far the model is from where it began, estimated in each
    /// forward pass from prompts with answers to others; with `apo_zero_unpaired` nothing. Default: `kto`.
    #[schemars(extend("x-fixed" = true))]
    pub kto_loss_type: KtoLossType,

    // --- reward models ---
    /// Train a model that scores texts (`AutoModelForSequenceClassification` of transformers) from pairs of answers: the chosen
    /// one is to score higher (Bradley and Terry, as TRL's `RewardTrainer` has it). A text is scored at its last token that is
    /// no padding. A language model gets a new head for that, which starts from `seed`; a column `margin` of the data, where it
    /// is, says by how much. Not with `rl`. Default: `false`.
    #[schemars(extend("x-fixed" = true))]
    pub reward_model: bool,
    /// `reward_model: true`: weight of the square of the sum of a pair's scores, which keeps scores around 0 (Eisenstein et al.
    /// 2023, arXiv 2312.09244). Default: none. Example: `0.01`.
    #[schemars(extend("x-fixed" = true))]
    pub center_rewards_coefficient: Option<f64>,
    /// Train a model that scores the steps of an answer (`AutoModelForTokenClassification` of transformers), from steps that are
    /// right or wrong (`type: stepwise_supervised`): cross-entropy of the label at the last token of each (Lightman et al. 2023,
    /// arXiv 2305.20050, as TRL's `PRMTrainer` has it). A language model gets a new head for that, which starts from `seed`. Not
    /// with `rl`. Default: `false`.
    #[schemars(extend("x-fixed" = true))]
    pub process_reward_model: bool,
    /// Scores that a model gives: 1 with `reward_model`; with `process_reward_model` one for each label, 2 or more. Default: 1,
    /// or 2.
    #[schemars(extend("x-fixed" = true))]
    pub num_labels: Option<u32>,

    // --- rewards ---
    /// `rl: grpo` and `rl: distill`: how completions are sampled, judged and learned. Default: none.
    #[schemars(extend("x-fixed" = true))]
    pub trl: Option<Trl>,
    /// Ours. `rl: grpo` over several turns: an environment plugin that answers what the model writes and rewards it, a name
    /// or `{name, config, max_turns, weight, on_error}`. It opens an episode for each row, `trl.max_completion_length` bounds
    /// each turn and `sequence_len` all of them together; only what the model writes is learned. A turn on which the plugin
    /// crashes, reaches a limit or gives what it must not ends the run (`on_error: fail`, the default), or its episode, with
    /// nothing for that turn (`zero`) or without a reward of the environment (`skip`).
    /// `max_turns` is 8 and `weight`, beside `trl.reward_funcs`, is 1 by default. Default: none. Example:
    /// `{name: 'acme:shop', max_turns: 4}`.
    #[schemars(extend("x-fixed" = true))]
    pub environment: Option<EnvironmentRef>,

    // --- batches and length of the run ---
    /// Rows in one forward pass. Default: `1`.
    #[schemars(extend("x-fixed" = true))]
    pub micro_batch_size: u32,
    /// Forward passes in one optimizer step. Default: `1`.
    #[schemars(extend("x-fixed" = true))]
    pub gradient_accumulation_steps: u32,
    /// Rows in one optimizer step, instead of one of the two above. Turned into the missing one when the config is
    /// loaded; a loaded config has none.
    pub batch_size: Option<u32>,
    /// Rows in one forward pass of an evaluation. Default: `micro_batch_size`.
    pub eval_batch_size: u32,
    /// Times that the data is seen. Default: `1`.
    pub num_epochs: f64,
    /// Optimizer steps at most; wins over `num_epochs`. -1 is none, as in transformers. Default: none.
    #[schemars(schema_with = "super::json_schema::max_steps")]
    pub max_steps: Option<u64>,

    // --- optimizer ---
    /// `adamw_torch` or `adamw_torch_fused`, which are the same here. Names of AdamW with an 8-bit, 4-bit or paged state are
    /// taken with a warning: the state has 32 bits. Default: `adamw_torch_fused`.
    #[schemars(schema_with = "super::json_schema::optimizer")]
    pub optimizer: Optimizer,
    /// Highest learning rate, above 0. Required. Example: `2e-4`.
    pub learning_rate: f64,
    /// Decoupled weight decay, 0 or more; not applied to norms and biases. Default: `0`.
    pub weight_decay: f64,
    /// Decay of AdamW's first moment, from 0 up to but not including 1. Default: `0.9`.
    pub adam_beta1: f64,
    /// Decay of AdamW's second moment, from 0 up to but not including 1. Default: `0.999`.
    pub adam_beta2: f64,
    /// Added to AdamW's denominator, above 0. Default: `1e-8`.
    pub adam_epsilon: f64,
    /// Gradients are scaled down to this norm; 0 leaves them alone. Default: `1`.
    pub max_grad_norm: f64,
    /// `cosine`, `linear`, `constant`, `constant_with_warmup`, or a schedule plugin: `wsd`, `acme:steps`, or
    /// `{name: …, config: {…}}`. Default: `cosine`. Example: `{name: wsd, config: {num_decay_steps: 200}}`.
    #[schemars(extend("x-fixed" = true))]
    pub lr_scheduler: Scheduler,
    /// Steps of linear rise from zero, or a share of the run; not together with `warmup_ratio`. Default: 3 % of the run, 100 at most.
    pub warmup_steps: Option<Amount>,
    /// The same as a share of the run, from 0 to 1. Default: none.
    pub warmup_ratio: Option<f64>,
    /// The cosine ends at this share of `learning_rate`, from 0 to 1. Default: `0`.
    pub cosine_min_lr_ratio: f64,
    /// Techniques beside the plain step.
    #[serde(flatten)]
    pub techniques: Techniques,
    /// Seed of everything random: order of the data, dropout, fresh weights, sampling. Default: `42`.
    #[schemars(extend("x-fixed" = true))]
    pub seed: u64,

    // --- log, evaluate, save ---
    /// Steps between two lines of `metrics.jsonl`. Default: 0.5 % of the run, from 1 to 10.
    pub logging_steps: Option<u64>,
    /// Steps between two evaluations, or a share of the run. Default: none.
    pub eval_steps: Option<Amount>,
    /// Evaluations in each epoch; not together with `eval_steps`. Default: none.
    pub evals_per_epoch: Option<u64>,
    /// `no`, `steps` or `epoch`. Default: `steps` if `eval_steps` or `evals_per_epoch` is set; else `epoch` if there is
    /// something to evaluate on; else `no`.
    pub eval_strategy: Cadence,
    /// Steps between two checkpoints, or a share of the run. Default: none.
    pub save_steps: Option<Amount>,
    /// Checkpoints in each epoch; not together with `save_steps`. Default: none.
    pub saves_per_epoch: Option<u64>,
    /// `no`, `steps`, `epoch`, or `best` for each evaluation that is the best so far (`metric_for_best_model`). Default: `steps` if
    /// `save_steps` or `saves_per_epoch` is set; else `epoch`.
    pub save_strategy: SaveStrategy,
    /// Checkpoints that are kept, 1 or more; the oldest go first. Default: all.
    pub save_total_limit: Option<u32>,
    /// Directory for checkpoints, logs and the final model. Default: `./model-out`.
    pub output_dir: String,
    /// Checkpoint to go on from. Default: none.
    pub resume_from_checkpoint: Option<String>,
    /// Go on from the newest complete checkpoint in `output_dir`, if there is one. Default: `false`.
    pub auto_resume_from_checkpoints: bool,

    // --- ours ---
    /// Ours. Reward plugins that score generations on the evaluation set: a name or `{name, config, on_error}`. A
    /// completion on which the plugin crashes, reaches a limit or gives no finite number ends the run (`on_error: fail`, the
    /// default), scores 0 (`zero`), or has no score of this reward (`skip`); the last two are counted as
    /// `rewards/<name>/errors`. Default: `trl.reward_funcs`, or none. Example: `[exact-match]`.
    pub eval_reward_funcs: Vec<RewardRef>,
    /// Tokens that such a generation has at most. Default: `trl.max_completion_length`, or `128`.
    pub eval_max_new_tokens: u32,
    /// Rows of the evaluation set that are generated for. Default: all.
    pub num_generation_samples: Option<u64>,
    /// A loss above this is too high: the bundled `loss-watch` is added to `run_health`. Default: none is. A loaded config has
    /// none.
    pub loss_watchdog_threshold: Option<f64>,
    /// Logged steps in a row with such a loss that stop the run. Default: 3.
    pub loss_watchdog_patience: Option<u64>,
    /// Ours. Run-health plugins that watch what is written to `metrics.jsonl` and may stop the run: a name or
    /// `{name, config}`. Default: `reward-watch` with `rl: grpo`, else none. Example: `[{name: loss-watch, config: {threshold: 5, patience: 10}}]`.
    pub run_health: Vec<PluginRef>,
    /// Ours. Compatibility-rule plugins beside the bundled `axolotl-compat` and `practice`, which are always on. Name one of
    /// those to change the severity of its rules. Default: none. Example: `[{name: practice, severity: {H11: off}}]`.
    #[schemars(schema_with = "super::json_schema::plugins::<RuleRef>")]
    pub rules: Vec<RuleRef>,
    /// Ours. Pins, limits and grants of plugins used above. Default: none.
    pub plugins: Vec<PluginPin>,
}

impl Config {
    /// Steps of the warm-up in a run of `total_steps`.
    pub fn warmup_of(&self, total_steps: u64) -> u64 {
        match (self.warmup_steps, self.warmup_ratio) {
            (Some(steps), _) => steps.of(total_steps),
            (None, Some(ratio)) => (ratio * total_steps as f64).ceil() as u64,
            (None, None) => ((0.03 * total_steps as f64) as u64).min(100),
        }
    }
}

/// `trl`: the names and defaults are those of TRL's `GRPOConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Trl {
    /// `rl: distill`: directory of the model that is learned from, with the same vocabulary. Required there.
    pub teacher_model_name_or_path: Option<String>,
    /// Reward plugins: a name or `{name, config, on_error}`, as in `eval_reward_funcs`; a run that goes on may have another
    /// `on_error`. Required without `environment`. Example: `[exact-match, {name: length, config: {max: 80}}]`.
    pub reward_funcs: Vec<RewardRef>,
    /// What each counts. Default: 1 each.
    pub reward_weights: Vec<f64>,
    /// Completions of a prompt, which are compared with each other; 2 or more. They must divide the completions of a
    /// generation: `micro_batch_size` x `steps_per_generation`. Default: `8`.
    pub num_generations: u32,
    /// Tokens that a completion has at most, or each turn in an `environment`. Prompts have at most `sequence_len` less these. Default: `512`, or half of
    /// `sequence_len` where that is less.
    pub max_completion_length: u32,
    /// Logits are divided by this where completions are sampled and where they are learned. Default: `1`.
    pub temperature: f64,
    /// Micro-batches whose completions are sampled together. Default: `gradient_accumulation_steps`.
    pub steps_per_generation: u32,
    /// Times that completions are learned from. Default: `1`.
    pub num_iterations: u32,
    /// How far a ratio to the policy that sampled may go below 1, and above where there is no `epsilon_high`. Default: `0.2`.
    pub epsilon: f64,
    /// How far above; of `loss_type: cispo` the bound itself. Default: `epsilon`.
    pub epsilon_high: Option<f64>,
    /// A bound for the ratios of completions that are to become less likely, above 1 + `epsilon`. Default: none.
    pub delta: Option<f64>,
    /// Weight of the divergence from the model as training began, the reference. With it, the weights that are trained are
    /// there twice: an adapter, or all of the model. Default: `0`, no reference. With `rl: distill` what is learned, from 0 to
    /// 1: `0` is the divergence of the teacher from the model, `1` that of the model from the teacher, the default there, and
    /// between them that of both from a mixture.
    pub beta: f64,
    /// The divergence is estimated under the policy as it is, not under the one that sampled. Default: `true`.
    pub use_bias_correction_kl: bool,
    /// How the tokens of completions count: `grpo`, `bnpo`, `dr_grpo`, `dapo` or `cispo`. Default: `dapo`.
    pub loss_type: GrpoLossType,
    /// What ratios are of: `token` or `sequence`, which is GSPO. Default: `token`.
    pub importance_sampling_level: ImportanceSamplingLevel,
    /// What advantages are divided by: the standard deviation of the rewards of the `group` or of the `batch`, or `none`.
    /// `true` is `group` and `false` is `none`. Default: `group`.
    pub scale_rewards: ScaleRewards,
    /// How several rewards become one advantage: `sum_then_normalize`, or `normalize_then_sum`, which is GDPO.
    /// Default: `sum_then_normalize`; with `rl: gdpo` the other.
    pub multi_objective_aggregation: Aggregation,
    /// Learn nothing from completions that reached `max_completion_length`. Default: `false`.
    pub mask_truncated_completions: bool,
    /// Ours. A control: the rewards of a generation are dealt out to its completions at random, so that there is nothing to
    /// learn from them. What rises all the same does not come from them. Default: `false`.
    pub shuffle_rewards: bool,
    /// Ours. Completions of a logged step that are written to `completions.jsonl`, with their rewards. Default: `16`.
    pub num_completions_to_log: u32,
}

impl Default for Trl {
    fn default() -> Self {
        Self {
            teacher_model_name_or_path: None,
            reward_funcs: Vec::new(),
            reward_weights: Vec::new(),
            num_generations: 8,
            max_completion_length: 512,
            temperature: 1.0,
            steps_per_generation: 1,
            num_iterations: 1,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            beta: 0.0,
            use_bias_correction_kl: true,
            loss_type: GrpoLossType::Dapo,
            importance_sampling_level: ImportanceSamplingLevel::Token,
            scale_rewards: ScaleRewards::Group,
            multi_objective_aggregation: Aggregation::SumThenNormalize,
            mask_truncated_completions: false,
            shuffle_rewards: false,
            num_completions_to_log: 16,
        }
    }
}

/// `special_tokens`: none leaves the tokenizer's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SpecialTokens {
    /// Beginning of a text.
    pub bos_token: Option<String>,
    /// End of a text.
    pub eos_token: Option<String>,
    /// Filler; never trained on.
    pub pad_token: Option<String>,
    /// Stands for what the vocabulary lacks.
    pub unk_token: Option<String>,
}

/// `gradient_checkpointing_kwargs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct GradientCheckpointingKwargs {
    /// PyTorch's variant that loses gradients where a block's input needs none. Ours never does; `false` or unset.
    pub use_reentrant: Option<bool>,
}

/// `bnb_config_kwargs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct BnbConfigKwargs {
    /// What four bits stand for: `nf4` or `fp4`. Default: `nf4`.
    pub bnb_4bit_quant_type: QuantType,
    /// Pack the scales of four bits too, which saves another half bit or so an element. Default: `true`.
    pub bnb_4bit_use_double_quant: bool,
}

impl Default for BnbConfigKwargs {
    fn default() -> Self {
        Self { bnb_4bit_quant_type: QuantType::Nf4, bnb_4bit_use_double_quant: true }
    }
}

impl Config {
    /// The head of scores that the model is to have, where it has one: what is scored, and the labels.
    pub fn scores(&self) -> Option<(Classifier, usize)> {
        if self.reward_model {
            return Some((Classifier::Sequence, 1));
        }
        self.process_reward_model.then(|| (Classifier::Token, self.num_labels.unwrap_or(2) as usize))
    }

    /// How the frozen linear layers are packed.
    pub fn quantization(&self) -> Option<Quantization> {
        let packing = match self.bnb_config_kwargs.bnb_4bit_quant_type {
            QuantType::Nf4 => Packing::Nf4,
            QuantType::Fp4 => Packing::Fp4,
        };
        match (self.load_in_4bit, self.load_in_8bit) {
            (true, _) => Some(Quantization { packing, is_nested: self.bnb_config_kwargs.bnb_4bit_use_double_quant }),
            (false, true) => Some(Quantization { packing: Packing::Int8, is_nested: false }),
            (false, false) => None,
        }
    }
}

/// One entry of `datasets` or `test_datasets`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct DatasetConfig {
    /// The file or directory, as the loader plugin understands it, or the name of a dataset on the Hugging Face hub
    /// (`tatsu-lab/alpaca`). Required. Of a directory, all files of the loader's format are read, in the order of their names;
    /// where one of them has `train` in its path, those with `test` or `validation` in theirs are passed over. Of a dataset of
    /// the hub, the files are read that `datasets` of Hugging Face would read. Files that gzip or zstd has packed are read as
    /// what they hold. Example: `data/train.jsonl`.
    pub path: String,
    /// Of a dataset of the hub: its config, which other pages call a subset. Default: the only one, or the one that the
    /// dataset says is its default. Example: `en`.
    pub name: Option<String>,
    /// Of a dataset of the hub: a branch, a tag or a commit. `run.json` has the commit that it meant. Default: `main`. Example:
    /// `refs/convert/parquet`.
    pub revision: Option<String>,
    /// Loader plugin: `json` (one object per line, or one list), `csv`, `tsv`, `text`, `parquet`, `arrow`, or one of your own.
    /// Default: by the extension of `path`, or of most files in it; `json` where that says nothing.
    pub ds_type: PluginRef,
    /// Only these files of a directory or of a dataset of the hub: a name or a list of names, each with `*`, `?`, `[…]` and `**`
    /// for more than one. Of the hub, they are the split `train`. Default: all. Example: `['2024/*.jsonl', extra.jsonl.gz]`.
    pub data_files: Vec<String>,
    /// Prompt-strategy plugin: a name, `{name: acme:dialogue, config: {…}}`, or Axolotl's inline shape
    /// (`{field_instruction: …, format: …}`), which is `alpaca` with that config. Axolotl's names (`alpaca_chat.load_qa`, `gpteacher:chat`,
    /// `sharegpt` …) are plugins with a config. An empty `type`, or `tokenized`, is for rows that are tokens already
    /// (`input_ids`, `labels`, `attention_mask`). Required.
    #[serde(rename = "type")]
    #[schemars(schema_with = "super::json_schema::strategy")]
    pub strategy: PluginRef,
    /// Ours. Row-filter plugins for this dataset, after those of the top level, which are for
    /// `datasets` only. Default: none. Example: `[acme:polite]`.
    #[schemars(schema_with = "super::json_schema::plugins::<FilterRef>")]
    pub row_filters: Vec<FilterRef>,
    /// Split of the dataset, and the rows of it that are meant, as `datasets` of Hugging Face reads them: `train[:1%]`,
    /// `train[100:200]`, `train[-10%:]`, `validation`, `train[:500]+test`. A file is `train`; of a directory, words in the paths
    /// of files say of which split they are. Percent go to the closest row, and a boundary behind the last row is the last
    /// row. Default: `train`.
    #[schemars(schema_with = "super::json_schema::split")]
    pub split: Split,
    /// Only one of so many parts of those rows, which are even and drawn at random with `seed`: that of `shards_idx`. Default:
    /// all rows. Example: `10`.
    pub shards: Option<u32>,
    /// Which of the `shards`, counted from 0. Default: `0`.
    pub shards_idx: u32,
    /// Ours. How often each sample is seen in an epoch: `2` is twice; `0.25` is a quarter of the samples, another one each epoch,
    /// so that all have been seen after four. Of `datasets` only. Default: `1`. Example: `0.25`.
    pub weight: f64,
    /// `type: completion`: column with the text. Default: `text`.
    pub field: Option<String>,
    /// Conversations: column with the messages. Default: `messages`.
    pub field_messages: String,
    /// `type: preference`: column with the better answer. Default: that of the strategy, `chosen`.
    pub field_chosen: Option<String>,
    /// `type: preference`: column with the worse answer. Default: that of the strategy, `rejected`.
    pub field_rejected: Option<String>,
    /// `type: stepwise_supervised`: text behind each step, at whose last token the step is judged. Default: a line break. Example:
    /// `'<step>'`.
    pub step_separator: Option<String>,
    /// `type: stepwise_supervised`: tokens that the steps of a row have at most; what is beyond is cut off. Default: none.
    pub max_completion_length: Option<u32>,
    /// `type: stepwise_supervised`: only the last step of a row is learned. Default: `false`.
    pub train_on_last_step_only: bool,
    /// Conversations: column with the tool definitions. Default: `tools`.
    pub field_tools: String,
    /// Conversations: what a template calls a field → the field of a message. Default: `{role: role, content: content}`.
    pub message_property_mappings: BTreeMap<String, String>,
    /// Conversations: older name of `message_property_mappings.role`; a loaded config has none.
    #[serde(skip_serializing)]
    pub message_field_role: Option<String>,
    /// Conversations: older name of `message_property_mappings.content`; a loaded config has none.
    #[serde(skip_serializing)]
    pub message_field_content: Option<String>,
    /// Conversations: role → the names that the data has for it. Default: `human`/`gpt` and the like as Axolotl maps them.
    pub roles: Option<BTreeMap<String, Vec<String>>>,
    /// Conversations: roles whose turns are learned. Default: `[assistant]`.
    pub roles_to_train: Vec<String>,
    /// Conversations: which end-of-turn tokens are learned: `all`, `turn`, `last` or `none`. Default: `turn`.
    pub train_on_eos: TrainOnEos,
    /// Conversations: Axolotl's other name of `train_on_eos`; here one rule is for all tokens that end a turn. A loaded config
    /// has none.
    #[serde(skip_serializing)]
    pub train_on_eot: Option<TrainOnEos>,
    /// Conversations: field of a message with what was thought before its content. Default: `reasoning_content`.
    pub field_thinking: Option<String>,
    /// Conversations: what the template calls that field. Default: `reasoning_content`.
    pub template_thinking_key: Option<String>,
    /// Conversations: an assistant's content that begins with its thoughts (`<think>…</think>`, `<reasoning>…</reasoning>`) is
    /// split in the two. Default: `false`.
    pub split_thinking: bool,
    /// Conversations: leave the data's system messages out. Default: `false`.
    pub drop_system_message: bool,
    /// Conversations: field of a message that says whether it is learned (`true` or `false`). Default: none.
    pub message_field_training: Option<String>,
    /// Conversations: field of a message with parts that are learned or not. Default: none.
    pub message_field_training_detail: Option<String>,
}

impl DatasetConfig {
    /// Rows are tokens already; the strategy is no plugin.
    pub fn is_tokenized(&self) -> bool {
        self.strategy.name == TOKENIZED
    }

    /// Whether rows become conversations, as far as the bundled strategies go: those need a chat template.
    pub fn has_conversations(&self) -> bool {
        let format = self.strategy.config.get("format").and_then(|format| format.as_str());
        self.strategy.name == "chat_template" || (self.strategy.name == PREFERENCE && format == Some("chat_template"))
    }
}
