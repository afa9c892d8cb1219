//! The config's section `curation`: which rows `host curate` leaves out.

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::choice::choice;
use super::values::Amount;

/// `curation`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Curation {
    /// Leave out rows whose words are those of an earlier row, whatever case, spaces and punctuation. Default: `true`.
    pub exact_duplicates: bool,
    /// Leave out rows that have most of their runs of words in common with an earlier row: a mapping, or `false`. Default:
    /// `{threshold: 0.8, ngram: 5, permutations: 128}`.
    #[serde(serialize_with = "or_false")]
    #[schemars(schema_with = "super::json_schema::or_switch::<NearDuplicates>")]
    pub near_duplicates: Option<NearDuplicates>,
    /// Leave out rows that have a run of words in common with a row of `test_datasets` or of the files here: a mapping, or
    /// `true`. Default: none.
    #[schemars(schema_with = "super::json_schema::or_switch::<Decontaminate>")]
    pub decontaminate: Option<Decontaminate>,
    /// Leave out rows by what their text looks like. Default: none.
    pub heuristics: Option<Heuristics>,
    /// Score the rows that are left, so that `keep` chooses by the scores. Default: none.
    pub score: Option<Score>,
    /// Keep so many of the rows that are left (`1000`), or a share of them (`0.5`): those that `score.prefer` says, or drawn at
    /// random with `seed`. Default: all.
    pub keep: Option<Amount>,
    /// Columns that are compared and measured. Default: all texts of a row, wherever they stand in it.
    pub text: Vec<String>,
}

/// `curation.near_duplicates`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct NearDuplicates {
    /// Share of the runs of words of two rows that both have (Jaccard similarity), from which on the later one is left out.
    /// Default: `0.8`.
    pub threshold: f64,
    /// Words of a run. Default: `5`.
    pub ngram: u32,
    /// Hash functions, and hashes that are kept of a row. Default: `128`.
    pub permutations: u32,
}

/// `curation.decontaminate`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Decontaminate {
    /// Files of rows beside `test_datasets`, read like `datasets[].path`. Default: none. Example: `[eval.jsonl]`.
    pub against: Vec<String>,
    /// Words of a run; a row of fewer words must be found as a whole. Default: `13`.
    pub ngram: u32,
}

/// `curation.heuristics`: what is named here is looked at, and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Heuristics {
    /// Fewer words than this.
    pub min_words: Option<u32>,
    /// More words than this.
    pub max_words: Option<u32>,
    /// Longer words than this on average, in characters: links, base64, text without spaces. Gopher's limit is 10.
    pub max_mean_word_length: Option<f64>,
    /// More `#` and ellipses for each word than this: hashtags, text that was cut off. Gopher's limit is 0.1.
    pub max_symbol_ratio: Option<f64>,
    /// A larger share of lines that stand there before. Gopher's limit is 0.3.
    pub max_duplicate_lines: Option<f64>,
    /// A larger share of runs of five words that stand there before. Gopher's limit is 0.15, in characters.
    pub max_repeated_ngrams: Option<f64>,
    /// Text that has "lorem ipsum", as in C4. Default: `false`.
    pub drop_lorem_ipsum: bool,
    /// Text whose first 4000 characters are certainly in another language than these, codes of ISO 639-1; where that is in doubt,
    /// as in fewer than ten words, it stays. Default: any. Example: `[en, de]`.
    pub languages: Vec<String>,
}

/// `curation.score`: a number for each row that the other steps leave. Scores by a model are kept in the cache directory.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Score {
    /// What is measured.
    pub by: ScoreBy,
    /// Which rows `curation.keep` keeps. Default: none, rows are only measured.
    pub prefer: Option<Prefer>,
    /// `by: judge`: what the model is asked, with `{{ row }}` in the place of the row's text. The answer is a digit from 1 to 5.
    /// Default: a question for the educational value.
    pub prompt: Option<String>,
    /// `by: similarity`: files of rows that the rows are to be near to, read like `datasets[].path`, with the `type` of the first
    /// dataset. Default: none. Example: `[targets.jsonl]`.
    pub like: Vec<String>,
}

impl Default for Curation {
    fn default() -> Self {
        Self {
            exact_duplicates: true,
            near_duplicates: Some(NearDuplicates::default()),
            decontaminate: None,
            heuristics: None,
            score: None,
            keep: None,
            text: Vec::new(),
        }
    }
}

impl Default for NearDuplicates {
    fn default() -> Self {
        Self { threshold: 0.8, ngram: 5, permutations: 128 }
    }
}

impl Default for Decontaminate {
    fn default() -> Self {
        Self { against: Vec::new(), ngram: 13 }
    }
}

/// Without a value, `false`: nothing would be the default.
#[expect(clippy::ref_option, reason = "serde asks for it")]
fn or_false<S: Serializer>(value: &Option<NearDuplicates>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => value.serialize(serializer),
        None => serializer.serialize_bool(false),
    }
}

choice! {
    /// `curation.score.by`: what is measured of a row.
    ScoreBy {
        /// `exp` of the mean negative log-likelihood of the tokens that would be learned, under the base model.
        Perplexity = "perplexity",
        /// The share of the tokens that would be learned which the base model finds most likely itself, given the right ones
        /// before them (teacher-forced). Low is difficult: by the accuracy of answers that the model wrote, the authors of Birbal
        /// chose rows (Jindal et al. 2024, arXiv 2403.02247).
        Accuracy = "accuracy",
        /// The digit from 1 to 5 that the base model answers to `prompt`, as an expectation over its probabilities (Liu et al.
        /// 2023, arXiv 2303.16634). By scores of a model the authors of Llama-3.1-Storm chose rows.
        Judge = "judge",
        /// RDS+ (Ivison et al. 2025, arXiv 2503.01807): the cosine similarity to the nearest row of `like`, between means of the
        /// base model's last hidden states, weighted by their positions. Its authors let the rows of `like` take turns; here the
        /// nearest one counts.
        Similarity = "similarity",
        /// The number of words, which takes no model: the baseline.
        Words = "words",
    }
}

choice! {
    /// `curation.score.prefer`: which rows `curation.keep` keeps.
    Prefer {
        /// Those with the lowest scores.
        Low = "low",
        /// Those with the highest scores.
        High = "high",
        /// As many from each tenth of the rows by their scores, drawn at random with `seed`.
        Spread = "spread",
    }
}
