//! How the config's section `curation` is read.

use curation::Language;
use serde_json::Value;

use super::curation::{Curation, Decontaminate, Heuristics, NearDuplicates, Score, ScoreBy};
use super::read::{Context, Read, Section, fill};
use super::recipe_fields::paths;
use super::schema::Config;
use super::values::Amount;
use crate::diagnostic::Edit;

/// Words of a shingle or a run, at most.
const NGRAM: u32 = 100;
/// Permutations, at least and at most.
const PERMUTATIONS: std::ops::RangeInclusive<u32> = 16..=1024;
/// Words of the shortest run that decontamination looks for.
const SHORTEST: u32 = curation::SHORTEST as u32;

/// What stands for a row's text in the prompt of a judge.
pub const ROW: &str = "{{ row }}";

/// Reads the section.
pub(super) fn curation(top: &Section<'_>, config: &mut Config) {
    let Some(section) = top.value("curation").and_then(|value| Section::of(top.cx, "curation", value, &[])) else {
        return;
    };
    let (cx, mut curation) = (top.cx, Curation::default());
    fill(&mut curation.exact_duplicates, section.read("exact_duplicates"));
    match switched(&section, "near_duplicates") {
        Switch::Default => {}
        Switch::Is(is_on) => curation.near_duplicates = is_on.then(NearDuplicates::default),
        Switch::Section(section) => curation.near_duplicates = Some(near_duplicates(section)),
    }
    match switched(&section, "decontaminate") {
        Switch::Default => {}
        Switch::Is(is_on) => curation.decontaminate = is_on.then(Decontaminate::default),
        Switch::Section(section) => curation.decontaminate = Some(decontaminate(section)),
    }
    let named = section.value("heuristics").and_then(|value| Section::of(cx, "curation.heuristics", value, &[]));
    curation.heuristics = named.map(heuristics);
    let named = section.value("score").and_then(|value| Section::of(cx, "curation.score", value, &[]));
    curation.score = named.and_then(|named| score(named, section.value("keep").is_some()));
    let amount = "1 or more, or a share between 0 and 1";
    curation.keep = section.checked("keep", amount, |amount: Amount| !amount.is_zero());
    fill(&mut curation.text, section.read("text"));
    section.finish(|_| None);
    together(cx, config, &curation);
    config.curation = Some(curation);
}

/// A key that is a mapping, or `true` or `false`.
enum Switch<'a> {
    Default,
    Is(bool),
    Section(Section<'a>),
}

fn switched<'a>(section: &Section<'a>, key: &'static str) -> Switch<'a> {
    let path = section.at(key);
    match section.value(key) {
        Some(Value::Bool(is_on)) => Switch::Is(*is_on),
        Some(value @ Value::Object(_)) => {
            Section::of(section.cx, path, value, &[]).map_or(Switch::Default, Switch::Section)
        }
        Some(other) => {
            section.cx.wrong_type(&path, "a mapping, `true` or `false`", other);
            Switch::Default
        }
        None => Switch::Default,
    }
}

fn near_duplicates(section: Section<'_>) -> NearDuplicates {
    let mut near = NearDuplicates::default();
    let threshold = section.checked("threshold", "from 0.1 to 1", |n: f64| (0.1..=1.0).contains(&n));
    fill(&mut near.threshold, threshold);
    fill(&mut near.ngram, section.checked("ngram", "from 1 to 100", |n: u32| (1..=NGRAM).contains(&n)));
    let permutations = section.checked("permutations", "from 16 to 1024", |n: u32| PERMUTATIONS.contains(&n));
    fill(&mut near.permutations, permutations);
    section.finish(|_| None);
    near
}

fn decontaminate(section: Section<'_>) -> Decontaminate {
    let mut decontaminate = Decontaminate::default();
    let against = section.read("against").map(|files| paths(section.cx, &section.at("against"), files));
    fill(&mut decontaminate.against, against);
    let ngram = section.checked("ngram", "from 5 to 100", |n: u32| (SHORTEST..=NGRAM).contains(&n));
    fill(&mut decontaminate.ngram, ngram);
    section.finish(|_| None);
    decontaminate
}

fn heuristics(section: Section<'_>) -> Heuristics {
    let positive = |key| section.checked(key, "above 0", |n: f64| n > 0.0 && n.is_finite());
    let share = |key| section.checked(key, "from 0 to 1", |n: f64| (0.0..=1.0).contains(&n));
    let heuristics = Heuristics {
        min_words: section.read("min_words"),
        max_words: section.checked("max_words", "1 or more", |n: u32| n > 0),
        max_mean_word_length: positive("max_mean_word_length"),
        max_symbol_ratio: section.checked("max_symbol_ratio", "0 or more", |n: f64| n >= 0.0 && n.is_finite()),
        max_duplicate_lines: share("max_duplicate_lines"),
        max_repeated_ngrams: share("max_repeated_ngrams"),
        drop_lorem_ipsum: section.read("drop_lorem_ipsum").unwrap_or(false),
        languages: languages(&section),
    };
    section.finish(|_| None);
    heuristics
}

/// `chooses` says whether rows are kept by the scores.
fn score(section: Section<'_>, chooses: bool) -> Option<Score> {
    let cx = section.cx;
    let by: Option<ScoreBy> = section.choice("by");
    if section.value("by").is_none() {
        cx.missing("curation.score.by", "say what is measured: `by: perplexity`");
    }
    let (prefer, prompt) = (section.choice("prefer"), section.read::<String>("prompt"));
    let like: Vec<String> = section.read("like").unwrap_or_default();
    let like = paths(cx, &section.at("like"), like);
    match (section.value("prefer"), chooses) {
        (Some(_), false) => {
            let message = "`prefer` chooses nothing without `curation.keep`";
            let help = "say how many rows stay: `keep: 0.5`; or delete `prefer`, and rows are only measured";
            cx.report(cx.error("missing-key", "curation.score.prefer", message).help(help));
        }
        (None, true) => {
            let message = "`curation.keep` keeps rows, and `score` does not say which";
            let help = "write `prefer: low`, `prefer: high` or `prefer: spread`; or delete `score`, and rows are drawn";
            cx.report(cx.error("missing-key", "curation.score", message).help(help));
        }
        _ => {}
    }
    if prompt.as_ref().is_some_and(|prompt| !prompt.contains(ROW)) {
        let message = format!("the prompt has no `{ROW}`, so the judge would not see the row");
        let help = format!("write `{ROW}` where the text of the row belongs");
        cx.report(cx.error("missing-key", "curation.score.prompt", message).help(help));
    }
    section.finish(|_| None);
    let by = by?;
    for (key, is_given, owner) in
        [("prompt", prompt.is_some(), ScoreBy::Judge), ("like", !like.is_empty(), ScoreBy::Similarity)]
    {
        if is_given && by != owner {
            let message = format!("`{key}` means nothing with `by: {}`", by.name());
            let help = format!("delete it, or write `by: {}`", owner.name());
            cx.report(cx.error("conflict", &format!("curation.score.{key}"), message).help(help));
        }
    }
    if by == ScoreBy::Similarity && like.is_empty() {
        let help = "name files of rows that the rows are to be near to: `like: [targets.jsonl]`";
        cx.missing("curation.score.like", help);
    }
    Some(Score { by, prefer, prompt, like })
}

/// What of the whole config does not go with the scores.
pub(super) fn scores_of_rows_together(cx: &Context<'_>, config: &Config) {
    let Some(score) = config.curation.as_ref().and_then(|curation| curation.score.as_ref()) else { return };
    let by = score.by.name();
    let conflict = |message: String, help: &str| {
        cx.report(cx.error("conflict", "curation.score.by", message).help(help));
    };
    if score.by == ScoreBy::Words {
        return;
    }
    if config.reinit_weights {
        let message = format!("`by: {by}` asks the base model, and `reinit_weights` leaves nothing of it");
        conflict(message, "delete `reinit_weights`, or write `by: words`");
    }
    let other = match (config.scores().is_some(), config.rl) {
        (true, _) => Some(if config.reward_model { "reward_model" } else { "process_reward_model" }),
        // A judge is given the text of a row, whatever is learned of it.
        (false, Some(_)) if score.by != ScoreBy::Judge => Some("rl"),
        _ => None,
    };
    if let Some(key) = other {
        let message = format!("`by: {by}` is for texts that the model learns to write, and not with `{key}`");
        let help = if key == "rl" { "write `by: judge` or `by: words`" } else { "write `by: words`" };
        conflict(message, help);
    }
}

/// Codes of languages that are told from others.
fn languages(section: &Section<'_>) -> Vec<String> {
    let codes: Option<Vec<Code>> = section.read("languages");
    if codes.as_ref().is_some_and(Vec::is_empty) {
        let path = section.at("languages");
        let error = section.cx.error("missing-key", &path, "`languages` names no language");
        section.cx.report(error.help("name those that stay, such as `[en, de]`, or delete the line"));
    }
    codes.unwrap_or_default().into_iter().map(|code| code.0).collect()
}

/// A code of ISO 639-1.
struct Code(String);

impl Read for Code {
    fn read(cx: &Context<'_>, path: &str, value: &Value) -> Option<Self> {
        let word = String::read(cx, path, value)?;
        if Language::of_code(&word).is_some() {
            return Some(Self(word));
        }
        let error = cx.error("unknown-value", path, format!("`{word}` is no language that is told from others"));
        let spoken = |language: &Language| format!("`{}` ({})", language.code(), language.name());
        let near = Language::meant_by(&word);
        let help = match near.as_slice() {
            [] => "write a code of ISO 639-1, such as `en` (English) or `de` (German)".to_owned(),
            near => format!("did you mean {}?", near.iter().map(spoken).collect::<Vec<_>>().join(", ")),
        };
        let fix = match near.as_slice() {
            [only] if word.len() > 2 => Some(Edit::Set { path: path.to_owned(), value: only.code().to_owned() }),
            _ => None,
        };
        cx.report(error.help(help).fix(fix));
        None
    }
}

/// What means nothing together.
fn together(cx: &Context<'_>, config: &Config, curation: &Curation) {
    let against = curation.decontaminate.as_ref().map(|decontaminate| decontaminate.against.len());
    if against == Some(0) && config.test_datasets.is_empty() {
        let message = "`curation.decontaminate` has no evaluation to look for";
        let help = "name its files: `against: [eval.jsonl]`, or set `test_datasets`";
        cx.report(cx.error("missing-key", "curation.decontaminate", message).help(help));
    }
    if let Some(Heuristics { min_words: Some(least), max_words: Some(most), .. }) = &curation.heuristics
        && least > most
    {
        let message = format!("`min_words` is {least} and `max_words` is {most}: no row has both");
        cx.report(cx.error("conflict", "curation.heuristics.min_words", message).help("exchange the two"));
    }
    let is_idle = Curation { exact_duplicates: false, near_duplicates: None, text: Vec::new(), ..Curation::default() };
    if (Curation { text: Vec::new(), ..curation.clone() }) == is_idle {
        let message = "`curation` leaves nothing out: all of it is switched off";
        cx.report(cx.error("conflict", "curation", message).help("delete the section, or switch something on"));
    }
}
