//! The first pass: what becomes of each row.
//!
//! The first reason counts: what the text looks like, then evaluations, then exact duplicates, then near ones among those that
//! are left, then the score or the draw. A row without text is not compared with others.

use std::collections::{BTreeSet, HashMap};

use ::curation::{
    Contamination, Digest, Evaluation, FLOOR, Language, Measures, Options, Words, clusters, digest, language, measure,
};
use engine::rng::Philox;
use plugin_runtime::PluginHost;

use super::passes::each;
use super::score::{BaseModel, Scores, score};
use super::select::select;
use super::text::text_of;
use super::verdict::{Reason, Verdict};
use crate::check::plugins::AGAINST;
use crate::config::{Curation, Heuristics, LoadedConfig, rows_of};
use crate::data::filter::FilterReport;
use crate::data::shuffle::shuffle;
use crate::diagnostic::{Diagnostic, Failure, Severity};

/// RNG stream of the control; other rooms use other numbers.
const CONTROL_STREAM: u64 = 0x636f_6e74;
/// Thresholds that the page has a line for, beside the config's own.
const THRESHOLDS: [f64; 7] = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0];

/// What is known of all rows after the first pass.
#[derive(Debug)]
pub(super) struct Judged {
    /// What becomes of each row.
    pub(super) verdicts: Vec<Verdict>,
    /// Words of each row.
    pub(super) lengths: Vec<u32>,
    /// True for the rows of the control.
    pub(super) control: Vec<bool>,
    /// Scores of the rows that the steps before left.
    pub(super) scores: Option<Scores>,
    /// What rows have of evaluations; verdicts count in it.
    pub(super) contaminations: Vec<Contamination>,
    /// What a person finds the evaluation's rows by.
    pub(super) evaluation: Vec<String>,
    /// Thresholds of near duplicates with the rows that each would leave out; empty where they are not looked for.
    pub(super) thresholds: Vec<(f64, u64)>,
    /// What the row filters did.
    pub(super) filters: Vec<FilterReport>,
    /// What may surprise.
    pub(super) remarks: Vec<Diagnostic>,
}

impl Judged {
    /// Rows that stay.
    pub(super) fn kept(&self) -> u64 {
        self.verdicts.iter().filter(|verdict| **verdict == Verdict::Kept).count() as u64
    }

    /// Rows left out by each reason that there was.
    pub(super) fn dropped(&self) -> Vec<(Reason, u64)> {
        let count = |reason| self.verdicts.iter().filter(|verdict| verdict.reason() == Some(reason)).count() as u64;
        Reason::ALL.into_iter().map(|reason| (reason, count(reason))).filter(|(_, rows)| *rows > 0).collect()
    }
}

/// Reads all rows and judges them. `told` hears how many are scored, of how many.
pub(super) fn judge(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    curation: &Curation,
    base: Option<BaseModel<'_>>,
    told: &mut dyn FnMut(u64, u64),
) -> Result<Judged, Failure> {
    let config = &loaded.config;
    let mut remarks = Vec::new();
    let (mut evaluation, names) = evaluation(loaded, plugins, curation, &mut remarks)?;
    let own = curation.near_duplicates.as_ref();
    let mut near = own.map(|near| {
        ::curation::NearDuplicates::new(Options {
            floor: near.threshold.min(FLOOR),
            ngram: near.ngram as usize,
            permutations: near.permutations as usize,
        })
    });
    let mut words = Words::new();
    let (mut verdicts, mut lengths, mut contaminations) = (Vec::new(), Vec::new(), Vec::new());
    let mut known: HashMap<Digest, u32> = HashMap::new();
    let (mut empty, mut columns) = (0_u64, BTreeSet::new());
    let datasets = ("datasets", config.datasets.as_slice());
    let pass = each(loaded, plugins, datasets, &config.row_filters, &mut |row| {
        columns.extend(curation.text.iter().filter(|column| row.value.get(column.as_str()).is_some()).cloned());
        let text = text_of(&row.value, &curation.text);
        words.read(&text);
        lengths.push(words.len() as u32);
        empty += u64::from(words.is_empty());
        let looks = curation.heuristics.as_ref().and_then(|rules| {
            broken_rule(rules, &measure(&text, &words)).or_else(|| other_language(rules, &text, &words))
        });
        let mut found = || evaluation.as_mut().and_then(|evaluation| evaluation.find(&words));
        verdicts.push(if let Some((rule, value)) = looks {
            Verdict::Heuristic(rule, value as f32)
        } else if words.is_empty() {
            Verdict::Kept
        } else if let Some(found) = found() {
            contaminations.push(found);
            Verdict::Contaminated(contaminations.len() as u32 - 1)
        } else if let Some(of) = curation.exact_duplicates.then(|| *known.entry(digest(&words)).or_insert(row.index))
            && of != row.index
        {
            Verdict::ExactDuplicate(of)
        } else {
            if let Some(near) = &mut near {
                near.push(row.index, &words);
            }
            Verdict::Kept
        });
        Ok(())
    })?;
    remarks.extend(pass.remarks);
    missing_columns(loaded, curation, &columns)?;
    if empty > 0 {
        let message = format!("{empty} of {} rows have no text that could be compared", pass.rows);
        let remark = Diagnostic::warning("curation::no-text", message).at(loaded.source.nearest_place("curation"));
        remarks.push(remark.why("numbers are not compared; such rows are never taken for duplicates"));
    }
    let edges = near.as_ref().map(::curation::NearDuplicates::edges).unwrap_or_default();
    let mut thresholds = Vec::new();
    if let Some(own) = own {
        for cluster in clusters(&edges, own.threshold) {
            for (row, like, similarity) in cluster.others {
                verdicts[row as usize] = Verdict::NearDuplicate(cluster.first, like, similarity);
            }
        }
        let mut all: Vec<f64> = THRESHOLDS.into_iter().chain([own.threshold]).collect();
        all.sort_by(f64::total_cmp);
        all.dedup();
        let dropped = |at| clusters(&edges, at).iter().map(|cluster| cluster.others.len() as u64).sum();
        thresholds = all.into_iter().map(|at| (at, dropped(at))).collect();
    }
    let scores = match &curation.score {
        Some(by) => Some(score(loaded, plugins, (curation, by), base, &lengths, &mut verdicts, told)?),
        None => None,
    };
    if let Some(keep) = curation.keep {
        let prefer = curation.score.as_ref().and_then(|score| score.prefer);
        select(keep, scores.as_ref().zip(prefer), config.seed, &mut verdicts);
    }
    let control = control(&verdicts, config.seed);
    let (evaluation, filters) = (names, pass.filters);
    let judged =
        Judged { verdicts, lengths, control, scores, contaminations, evaluation, thresholds, filters, remarks };
    if judged.kept() == 0 {
        return Err(nothing_left(&judged));
    }
    Ok(judged)
}

/// The texts that no row is to have anything of, with what a person finds each by.
fn evaluation(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    curation: &Curation,
    remarks: &mut Vec<Diagnostic>,
) -> Result<(Option<Evaluation>, Vec<String>), Failure> {
    let Some(decontaminate) = &curation.decontaminate else { return Ok((None, Vec::new())) };
    let (mut evaluation, mut names) = (Evaluation::new(decontaminate.ngram as usize), Vec::new());
    let mut words = Words::new();
    let against: Vec<_> = decontaminate.against.iter().map(|file| rows_of(file)).collect();
    for (key, datasets) in [("test_datasets", &loaded.config.test_datasets), (AGAINST, &against)] {
        let pass = each(loaded, plugins, (key, datasets), &[], &mut |row| {
            words.read(&text_of(&row.value, &curation.text));
            evaluation.push(names.len() as u32, &words);
            names.push(format!("{}, {}", datasets[row.dataset].path, row.position));
            Ok(())
        })?;
        remarks.extend(pass.remarks);
    }
    if evaluation.is_empty() {
        let message = format!("none of the {} rows of the evaluation can be looked for", names.len());
        let why = format!("a row of fewer than {} words would be found everywhere", ::curation::SHORTEST);
        let place = loaded.source.nearest_place("curation.decontaminate");
        return Err(Diagnostic::error("curation::no-evaluation", message)
            .at(place)
            .why(why)
            .help("name the columns that have its texts in `curation.text`, or delete `decontaminate`")
            .into());
    }
    if evaluation.short() > 0 {
        let message =
            format!("{} of {} rows of the evaluation are too short to be looked for", evaluation.short(), names.len());
        let remark = Diagnostic::warning("curation::short-evaluation", message);
        let why = format!("they have fewer than {} words", ::curation::SHORTEST);
        remarks.push(remark.at(loaded.source.nearest_place("curation.decontaminate")).why(why));
    }
    if evaluation.common() > 0 {
        let message =
            format!("{} runs of words stand in many rows of the evaluation and were passed over", evaluation.common());
        let note = Diagnostic::new(Severity::Note, "curation::common-words", message);
        let why = "what many of them begin with says nothing of any of them";
        remarks.push(note.at(loaded.source.nearest_place("curation.decontaminate")).why(why));
    }
    Ok((Some(evaluation), names))
}

/// The first rule that a text breaks, by its number in [`rule`], and what was measured.
fn broken_rule(rules: &Heuristics, measures: &Measures) -> Option<(u8, f64)> {
    let words = measures.words as f64;
    let below = |value: f64, least: Option<f64>| least.is_some_and(|least| value < least);
    let above = |value: f64, most: Option<f64>| most.is_some_and(|most| value > most);
    let all = [
        (below(words, rules.min_words.map(f64::from)), words),
        (above(words, rules.max_words.map(f64::from)), words),
        (above(measures.mean_word_length, rules.max_mean_word_length), measures.mean_word_length),
        (above(measures.symbol_ratio, rules.max_symbol_ratio), measures.symbol_ratio),
        (above(measures.duplicate_lines, rules.max_duplicate_lines), measures.duplicate_lines),
        (above(measures.repeated_ngrams, rules.max_repeated_ngrams), measures.repeated_ngrams),
        (rules.drop_lorem_ipsum && measures.lorem_ipsum, 1.0),
    ];
    let broken = all.iter().position(|(is_broken, _)| *is_broken)?;
    Some((broken as u8, all[broken].1))
}

/// The number of the rule `languages`; what it measures is a place among all languages.
const LANGUAGES: u8 = 7;

/// The language of a text that is certainly none of those that are wanted.
fn other_language(rules: &Heuristics, text: &str, words: &Words) -> Option<(u8, f64)> {
    let found = if rules.languages.is_empty() { None } else { language(text, words) }?;
    let is_wanted = rules.languages.iter().any(|code| code == found.code());
    let place = Language::all().position(|language| language == found).filter(|_| !is_wanted)?;
    Some((LANGUAGES, place as f64))
}

/// The key of a rule, and what a broken one says of the text.
pub(super) fn rule(number: u8, value: f32) -> (&'static str, String) {
    let words = || format!("{value} {}", if value as u64 == 1 { "word" } else { "words" });
    match number {
        0 => ("min_words", words()),
        1 => ("max_words", words()),
        2 => ("max_mean_word_length", format!("words of {value:.1} characters on average")),
        3 => ("max_symbol_ratio", format!("{value:.2} `#` and ellipses for each word")),
        4 => ("max_duplicate_lines", format!("{:.0} % of its lines stand there before", 100.0 * value)),
        5 => ("max_repeated_ngrams", format!("{:.0} % of its runs of five words stand there before", 100.0 * value)),
        LANGUAGES => {
            let language = Language::all().nth(value as usize);
            let spoken = language.map(|language| format!("looks like {} ({})", language.name(), language.code()));
            ("languages", spoken.unwrap_or_default())
        }
        _ => ("drop_lorem_ipsum", "it has \"lorem ipsum\"".to_owned()),
    }
}

/// A column that no row has is a typing mistake.
fn missing_columns(loaded: &LoadedConfig, curation: &Curation, seen: &BTreeSet<String>) -> Result<(), Failure> {
    let missing = curation.text.iter().enumerate().filter(|(_, column)| !seen.contains(*column));
    let problems = missing.map(|(index, column)| {
        let place = loaded.source.nearest_place(&loaded.entry_path("curation.text", index));
        Diagnostic::error("curation::no-column", format!("no row has a column `{column}`"))
            .at(place)
            .help("name a column that the rows have, or delete the line: then all texts of a row are compared")
    });
    Failure::check(problems.collect()).map(drop)
}

/// As many rows as are kept, drawn from all of them.
fn control(verdicts: &[Verdict], seed: u64) -> Vec<bool> {
    let count = verdicts.iter().filter(|verdict| **verdict == Verdict::Kept).count();
    let mut order: Vec<usize> = (0..verdicts.len()).collect();
    shuffle(&mut order, &mut Philox::new(seed, CONTROL_STREAM));
    let mut control = vec![false; verdicts.len()];
    order.into_iter().take(count).for_each(|row| control[row] = true);
    control
}

fn nothing_left(judged: &Judged) -> Failure {
    let reasons: Vec<String> =
        judged.dropped().iter().map(|(reason, rows)| format!("{rows}: {}", reason.words())).collect();
    let message = format!("none of the {} rows is left", judged.verdicts.len());
    let why = if reasons.is_empty() { "the row filters leave none".to_owned() } else { reasons.join("\n") };
    Diagnostic::error("curation::nothing-left", message).why(why).help("loosen what leaves them out").into()
}
