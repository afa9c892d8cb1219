//! The keys of training techniques beside the basic ones: noise, learning rates of their own, stopping early.

use schemars::JsonSchema;
use serde::Serialize;

/// Techniques that recipes name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Techniques {
    // --- which weights learn ---
    /// Train only this share of each kind of projection, of the layers whose weights hold most signal: singular values above the
    /// edge of the Marchenko–Pastur distribution, by those below it (Spectrum, arXiv 2406.06623). Embedding and output projection
    /// are trained too; norms are not. Measured once for the same weights, and kept in the user's cache. From above 0 to below 1; not
    /// with an `adapter`. Default: none. Example: `0.5`.
    #[schemars(extend("x-fixed" = true))]
    pub spectrum_top_fraction: Option<f64>,
    /// Train this many decoder layers at a time, others after each `lisa_step_interval`, drawn with `seed` (LISA, arXiv
    /// 2403.17919). What is not in a layer is trained throughout. Only the layers that learn have gradients and moments; those of a
    /// layer begin anew when it is drawn. Not with an `adapter`. Default: none. Example: `2`.
    #[schemars(extend("x-fixed" = true))]
    pub lisa_n_layers: Option<u32>,
    /// Optimizer steps before `lisa_n_layers` others are drawn, 1 or more. Default: none; required with `lisa_n_layers`.
    /// Example: `20`.
    #[schemars(extend("x-fixed" = true))]
    pub lisa_step_interval: Option<u64>,

    // --- noise and learning rates ---
    /// Noise of the embeddings in training: each element of a text of L tokens is moved by up to `alpha / sqrt(L * hidden size)`
    /// (NEFTune, arXiv 2310.05914). L counts a text's own tokens, also where several are packed into one row. Not where the model
    /// writes answers that it learns from. Default: none. Example: `5`.
    #[schemars(extend("x-fixed" = true))]
    pub neftune_noise_alpha: Option<f64>,
    /// Learning rate of embedding and output projection, which then have no weight decay. Default: as `learning_rate`.
    pub embedding_lr: Option<f64>,
    /// The same as a factor of `learning_rate`. Default: none.
    pub embedding_lr_scale: Option<f64>,
    /// Learning rates of some modules: all trained parameters whose names contain one of `modules`. The first group that has
    /// one counts. Default: `[]`. Example: `[{name: attention, modules: [self_attn], lr: 1e-5}]`.
    pub lr_groups: Vec<LrGroup>,
    /// Factor of the learning rate of the adapters' `B`, and of DoRA's lengths (LoRA+, arXiv 2402.12354). Default: none. Example: `16`.
    pub loraplus_lr_ratio: Option<f64>,

    // --- which weights of a run are the result ---
    /// End the run after so many evaluations in a row that were no better than the best one. Default: none.
    pub early_stopping_patience: Option<u64>,
    /// The result is the model as it was at the best evaluation, not as it is at the end. A checkpoint is saved at each
    /// evaluation that is the best so far, and the best one is kept whatever `save_total_limit` says. Default: `false`.
    pub load_best_model_at_end: bool,
    /// What makes an evaluation the best: a number of its line in `metrics.jsonl`, with or without `eval_` before it.
    /// Default: none, which is `eval_loss`. Example: `rewards/exact-match/mean`.
    pub metric_for_best_model: Option<String>,
    /// More of it is better. Default: of a loss and of a perplexity less is, of anything else more.
    pub greater_is_better: Option<bool>,
}

/// A learning rate of some modules.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct LrGroup {
    /// What it is called.
    pub name: String,
    /// Parts of the names of its parameters.
    pub modules: Vec<String>,
    /// Highest learning rate, 0 or more.
    pub lr: f64,
}

impl Techniques {
    /// The metric by which evaluations are held against each other, as it is called in `metrics.jsonl`, and whether more of it is
    /// better.
    pub fn metric(&self) -> (String, bool) {
        let name = self.metric_for_best_model.as_deref().unwrap_or("eval_loss");
        let is_whole = name.starts_with("eval_") || name.starts_with("rewards/");
        let name = if is_whole { name.to_owned() } else { format!("eval_{name}") };
        let is_less = name.ends_with("loss") || name.ends_with("perplexity");
        (name, self.greater_is_better.unwrap_or(!is_less))
    }

    /// Evaluations of the run are held against each other.
    pub fn compares(&self) -> bool {
        self.early_stopping_patience.is_some() || self.load_best_model_at_end
    }
}
