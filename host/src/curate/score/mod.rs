//! Scores: a number for each row that the other steps leave, by its words or by what the base model says of it.
//!
//! Texts go by a batch at a time. What the model says of a text is kept in the cache (`kept.rs`), so that a run that was killed
//! goes on and one that only chooses otherwise asks nothing; the model is loaded at the first text that nothing is kept of.

mod base;
mod kept;
mod measure;
mod question;

use std::path::{Path, PathBuf};

use plugin_runtime::PluginHost;
use serde_json::json;
use sha2::{Digest as _, Sha256};

pub use self::base::BaseModel;
use self::kept::{Digest, Kept};
use self::measure::{Measure, Measuring};
use self::question::Question;
use super::curated::Scored;
use super::passes::{changed, each};
use super::text::text_of;
use super::verdict::{NoScore, Verdict};
use crate::check::facts::ModelFacts;
use crate::check::plugins::LIKE;
use crate::config::{Curation, DatasetConfig, LoadedConfig, Score, ScoreBy, rows_of};
use crate::data::render::{BATCH, Learns, Row};
use crate::data::tokenize::TokenSample;
use crate::device::Device;
use crate::diagnostic::{Diagnostic, Failure};
use crate::digest::hex;
use crate::samples::{Maker, Preparing};

/// Tokens of a pass: more make nothing faster.
const PASS: usize = 1 << 16;

/// The scores of all rows.
#[derive(Debug)]
pub(super) struct Scores {
    /// What was measured.
    pub(super) by: ScoreBy,
    /// Of each row; none for one that was left out before, or that has none.
    pub(super) of: Vec<Option<f64>>,
    /// Rows that the model was asked about now.
    pub(super) asked: u64,
}

impl Scores {
    /// What there is to tell of them; none without any.
    pub(super) fn scored(&self) -> Option<Scored> {
        let mut sorted: Vec<f64> = self.of.iter().flatten().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let range = [*sorted.first()?, sorted[sorted.len() / 2], *sorted.last()?];
        Some(Scored { by: self.by, rows: sorted.len() as u64, asked: self.asked, range })
    }
}

/// Scores the rows that are kept so far. Those that have no score are left out. `told` hears how many are done, of how many.
pub(super) fn score(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    (curation, score): (&Curation, &Score),
    base: Option<BaseModel<'_>>,
    lengths: &[u32],
    verdicts: &mut [Verdict],
    told: &mut dyn FnMut(u64, u64),
) -> Result<Scores, Failure> {
    let mut scores = Scores { by: score.by, of: vec![None; verdicts.len()], asked: 0 };
    let is_kept = |row: &usize| verdicts[*row] == Verdict::Kept;
    if score.by == ScoreBy::Words {
        (0..verdicts.len()).filter(is_kept).for_each(|row| scores.of[row] = Some(f64::from(lengths[row])));
        return Ok(scores);
    }
    let Some(base) = base else {
        let message = format!("`by: {}` needs the base model", score.by.name());
        return Err(Diagnostic::error("curation::no-model", message)
            .at(loaded.source.nearest_place("curation.score.by"))
            .into());
    };
    let all = (0..verdicts.len()).filter(is_kept).count() as u64;
    let mut asking = Asking::new(loaded, plugins, score, base, all, told)?;
    let mut waiting: (usize, Vec<Waiting>) = (0, Vec::new());
    let datasets = ("datasets", loaded.config.datasets.as_slice());
    let pass = each(loaded, plugins, datasets, &loaded.config.row_filters, &mut |row| {
        let Some(verdict) = verdicts.get(row.index as usize) else { return Err(changed(loaded)) };
        if *verdict != Verdict::Kept {
            return Ok(());
        }
        if waiting.0 != row.dataset || waiting.1.len() >= BATCH as usize {
            asking.take(waiting.0, std::mem::take(&mut waiting.1))?;
            waiting.0 = row.dataset;
        }
        let text = if score.by == ScoreBy::Judge { text_of(&row.value, &curation.text) } else { String::new() };
        let given = Row { json: row.json.to_owned(), position: row.position.to_owned() };
        waiting.1.push(Waiting { index: row.index, given, text });
        Ok(())
    })?;
    if pass.rows != verdicts.len() as u64 {
        return Err(changed(loaded));
    }
    asking.take(waiting.0, waiting.1)?;
    asking.ask()?;
    scores.asked = asking.asked;
    for (row, outcome) in asking.done {
        match outcome {
            Ok(score) => scores.of[row as usize] = Some(score),
            Err(why) => verdicts[row as usize] = Verdict::NoScore(why),
        }
    }
    Ok(scores)
}

/// A row whose texts are still to be made.
struct Waiting {
    index: u32,
    given: Row,
    /// Its text, for a judge.
    text: String,
}

/// The texts that a row's score is of, with what is learned of them.
struct Item {
    row: u32,
    digest: Digest,
    texts: Vec<TokenSample>,
}

/// What texts are made of.
enum Source<'a> {
    /// The samples of rows, each dataset's by its own maker.
    Samples(Vec<Maker<'a>>),
    /// Questions about rows.
    Questions(Question<'a>),
}

/// A model that is asked about rows.
struct Asking<'a> {
    loaded: &'a LoadedConfig,
    facts: &'a ModelFacts,
    told: &'a mut dyn FnMut(u64, u64),
    source: Source<'a>,
    measuring: Measuring,
    device: Device,
    /// The model, once it is needed.
    measure: Option<Box<dyn Measure>>,
    kept: Kept,
    pending: Vec<Item>,
    /// Tokens of the pending texts, and how many a batch has.
    tokens: usize,
    most: usize,
    /// Tokens that one text may have.
    longest: usize,
    done: Vec<(u32, Result<f64, NoScore>)>,
    all: u64,
    asked: u64,
}

impl<'a> Asking<'a> {
    fn new(
        loaded: &'a LoadedConfig,
        plugins: &'a PluginHost,
        score: &Score,
        base: BaseModel<'a>,
        all: u64,
        told: &'a mut dyn FnMut(u64, u64),
    ) -> Result<Self, Failure> {
        let BaseModel { facts, template } = base;
        let config = &loaded.config;
        let preparing = Preparing { loaded, plugins, model: facts, template, learns: Learns::Texts };
        let makers = || -> Result<Vec<Maker<'a>>, Failure> {
            (0..config.datasets.len()).map(|dataset| preparing.maker(dataset)).collect()
        };
        let (source, measuring) = match score.by {
            ScoreBy::Judge => {
                let question = Question::new(loaded, base, score)?;
                let digits = question.digits()?;
                (Source::Questions(question), Measuring::Judge { digits })
            }
            ScoreBy::Similarity => {
                let mut maker = preparing.maker(0)?;
                let targets = targets(loaded, plugins, score, &mut maker)?;
                (Source::Samples(makers()?), Measuring::Similarity { targets })
            }
            ScoreBy::Accuracy => (Source::Samples(makers()?), Measuring::Accuracy),
            ScoreBy::Perplexity | ScoreBy::Words => (Source::Samples(makers()?), Measuring::Perplexity),
        };
        let device = Device::choose(config)?;
        let targets = match &measuring {
            Measuring::Similarity { targets } => Some(hex(&digest_of(targets))),
            _ => None,
        };
        let digits = match measuring {
            Measuring::Judge { digits } => Some(digits),
            _ => None,
        };
        let weights = engine::weights::digest(&loaded.resolve(&config.base_model)).map_err(Diagnostic::from)?;
        let key = json!({
            "v": 1,
            "by": score.by,
            "weights": hex(&weights),
            "model": format!("{:?}", facts.config),
            "device": [device.kind(), device.precision().name()],
            "like": targets,
            "digits": digits,
        });
        let kept = Kept::open(&hex(&Sha256::digest(key.to_string())))?;
        let most = (config.sequence_len as usize).saturating_mul(config.micro_batch_size as usize).min(PASS);
        let longest = match &source {
            Source::Questions(question) => question.limit,
            Source::Samples(_) => (config.sequence_len as usize).min(facts.config.max_position_embeddings.max(PASS)),
        };
        Ok(Self {
            loaded,
            facts,
            told,
            source,
            measuring,
            device,
            measure: None,
            kept,
            pending: Vec::new(),
            tokens: 0,
            most,
            longest,
            done: Vec::new(),
            all,
            asked: 0,
        })
    }

    /// Takes rows of a dataset, and asks about them whenever a batch is full.
    fn take(&mut self, dataset: usize, rows: Vec<Waiting>) -> Result<(), Failure> {
        let indices: Vec<u32> = rows.iter().map(|row| row.index).collect();
        let made: Vec<Result<Vec<TokenSample>, NoScore>> = match &mut self.source {
            Source::Samples(makers) => {
                let path = data_path(self.loaded, dataset);
                let rows = rows.into_iter().map(|row| row.given).collect();
                let made = makers[dataset].make(&path, rows)?;
                made.into_iter().map(|texts| texts.map_err(NoScore::NoSample)).collect()
            }
            Source::Questions(question) => {
                rows.iter().map(|row| question.about(&row.text)).collect::<Result<_, _>>()?
            }
        };
        for (row, texts) in indices.into_iter().zip(made) {
            let texts = match texts {
                Ok(texts) => texts,
                Err(why) => {
                    self.done.push((row, Err(why)));
                    continue;
                }
            };
            let digest = kept::short(digest_of(std::slice::from_ref(&texts)));
            if let Some(score) = self.kept.get(&digest) {
                self.done.push((row, finite(score)));
                continue;
            }
            let tokens: usize = texts.iter().map(|text| text.ids.len()).sum();
            if self.tokens + tokens > self.most {
                self.ask()?;
            }
            self.tokens += tokens;
            self.pending.push(Item { row, digest, texts });
        }
        Ok(())
    }

    /// Asks about the pending rows, and keeps the answers.
    fn ask(&mut self) -> Result<(), Failure> {
        if self.pending.is_empty() {
            return Ok(());
        }
        (self.told)(self.done.len() as u64, self.all);
        let measure = match &mut self.measure {
            Some(measure) => measure,
            None => self.measure.insert(measure::load(
                self.facts,
                &self.device,
                &self.measuring,
                (self.most, self.longest),
            )?),
        };
        let texts: Vec<&[TokenSample]> = self.pending.iter().map(|item| item.texts.as_slice()).collect();
        let scores = measure.measure(&texts)?;
        let answers: Vec<(Digest, f64)> =
            self.pending.iter().zip(&scores).map(|(item, &score)| (item.digest, score)).collect();
        self.kept.add(&answers)?;
        self.asked += scores.len() as u64;
        self.done.extend(self.pending.drain(..).zip(scores).map(|(item, score)| (item.row, finite(score))));
        self.tokens = 0;
        Ok(())
    }
}

fn data_path(loaded: &LoadedConfig, dataset: usize) -> PathBuf {
    loaded.data_path(&format!("datasets[{dataset}]"), &loaded.config.datasets[dataset].path)
}

fn finite(score: f64) -> Result<f64, NoScore> {
    if score.is_finite() { Ok(score) } else { Err(NoScore::NotFinite) }
}

/// The texts of the rows that others are to be near to; those without a sample are passed over.
fn targets(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    score: &Score,
    maker: &mut Maker<'_>,
) -> Result<Vec<Vec<TokenSample>>, Failure> {
    let files: Vec<DatasetConfig> = score.like.iter().map(|file| rows_of(file)).collect();
    let mut targets = Vec::new();
    let mut waiting: (usize, Vec<Row>) = (0, Vec::new());
    let mut make = |file: usize, rows: Vec<Row>| -> Result<(), Failure> {
        targets.extend(maker.make(Path::new(&files[file].path), rows)?.into_iter().flatten());
        Ok(())
    };
    let pass = each(loaded, plugins, (LIKE, &files), &[], &mut |row| {
        if waiting.0 != row.dataset || waiting.1.len() >= BATCH as usize {
            make(waiting.0, std::mem::take(&mut waiting.1))?;
            waiting.0 = row.dataset;
        }
        waiting.1.push(Row { json: row.json.to_owned(), position: row.position.to_owned() });
        Ok(())
    })?;
    make(waiting.0, waiting.1)?;
    if targets.is_empty() {
        let message = format!("none of the {} rows of `like` has a sample", pass.rows);
        return Err(Diagnostic::error("curation::no-targets", message)
            .at(loaded.source.nearest_place("curation.score.like"))
            .why("a row has none where it is longer than `sequence_len`, or nothing of it is learned")
            .help("name rows that could be trained on")
            .into());
    }
    Ok(targets)
}

/// SHA-256 of the texts of some rows: tokens, and what of them is learned.
fn digest_of(rows: &[Vec<TokenSample>]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for texts in rows {
        hasher.update((texts.len() as u64).to_le_bytes());
        for text in texts {
            hasher.update((text.ids.len() as u64).to_le_bytes());
            text.ids.iter().for_each(|id| hasher.update(id.to_le_bytes()));
            let learned: Vec<u8> = (0..text.ids.len()).map(|at| u8::from(text.is_learned(at))).collect();
            hasher.update(learned);
        }
    }
    hasher.finalize().into()
}
