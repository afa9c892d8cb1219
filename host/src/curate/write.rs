//! The second pass: rows into their files, and the texts that the page shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use plugin_runtime::PluginHost;
use serde_json::{Value, json};

use super::configs::Groups;
use super::judge::{Judged, rule};
use super::passes::{changed, each};
use super::score::Scores;
use super::text::text_of;
use super::verdict::{Reason, Verdict};
use crate::config::{Curation, LoadedConfig};
use crate::diagnostic::{Diagnostic, Failure};

/// Rows of each reason that the page shows.
const SHOWN: usize = 6;
/// Rows with the lowest scores that the page shows; as many with those in the middle, and with the highest.
const SCORED: usize = 4;

/// A row as the page shows it.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// Its text.
    pub(super) text: String,
    /// What a person finds it by.
    pub(super) position: String,
}

/// Rows that the page shows.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// Some rows of each reason.
    pub(super) of: Vec<(Reason, Vec<u32>)>,
    /// Rows with the lowest scores, with those in the middle, and with the highest, in this order.
    pub(super) scored: [Vec<u32>; 3],
    /// Their texts, and those of the rows that they repeat.
    pub(super) texts: BTreeMap<u32, Sample>,
}

/// Writes `kept`, `control` and `dropped`.
pub(super) fn rows(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    curation: &Curation,
    judged: &Judged,
    groups: &Groups,
    directory: &Path,
) -> Result<Samples, Failure> {
    let of = Reason::ALL.into_iter().map(|reason| (reason, chosen(judged, reason)));
    let scored = judged.scores.as_ref().map(extremes).unwrap_or_default();
    let mut samples = Samples { of: of.collect(), scored, texts: BTreeMap::new() };
    let of_reasons = samples.of.iter().flat_map(|(_, rows)| rows);
    let shown: BTreeSet<u32> = of_reasons
        .chain(samples.scored.iter().flatten())
        .flat_map(|&row| [Some(row), repeated(judged.verdicts[row as usize])])
        .flatten()
        .collect();
    // What is told of a dropped row names where the row that it repeats stands.
    let named: BTreeSet<u32> = judged.verdicts.iter().flat_map(|verdict| of_others(*verdict)).collect();
    let mut positions: BTreeMap<u32, String> = BTreeMap::new();
    let open = |name: &str| {
        let path = directory.join(name);
        File::create(&path).map(BufWriter::new).map_err(|error| unwritable(&path, &error))
    };
    let mut kept = groups.files("kept").iter().map(|name| open(name)).collect::<Result<Vec<_>, _>>()?;
    let mut control = groups.files("control").iter().map(|name| open(name)).collect::<Result<Vec<_>, _>>()?;
    let mut dropped = open("dropped.jsonl")?;
    let failed = |error: std::io::Error| unwritable(directory, &error);
    let datasets = ("datasets", loaded.config.datasets.as_slice());
    let pass = each(loaded, plugins, datasets, &loaded.config.row_filters, &mut |row| {
        let Some(&verdict) = judged.verdicts.get(row.index as usize) else { return Err(changed(loaded)) };
        let (index, group) = (row.index as usize, groups.of[row.dataset]);
        let position = || format!("{}, {}", loaded.config.datasets[row.dataset].path, row.position);
        if named.contains(&row.index) {
            positions.insert(row.index, position());
        }
        if verdict == Verdict::Kept {
            writeln!(kept[group], "{}", row.json).map_err(failed)?;
        }
        if judged.control[index] {
            writeln!(control[group], "{}", row.json).map_err(failed)?;
        }
        let needs_text = shown.contains(&row.index) || matches!(verdict, Verdict::Contaminated(_));
        let text = if needs_text { text_of(&row.value, &curation.text) } else { String::new() };
        if let Some(reason) = verdict.reason() {
            let at = |row: u32| json!({ "row": row, "position": positions.get(&row) });
            let mut line = json!({ "row": row.index, "position": position(), "reason": reason.name() });
            if let Some(score) = judged.scores.as_ref().and_then(|scores| scores.of[index]) {
                line["score"] = score.into();
            }
            match verdict {
                Verdict::Heuristic(number, value) => {
                    let (key, words) = rule(number, value);
                    line["rule"] = key.into();
                    line["because"] = words.into();
                }
                Verdict::Contaminated(number) => {
                    let found = &judged.contaminations[number as usize];
                    line["evaluation"] = judged.evaluation[found.text as usize].clone().into();
                    line["span"] = text.get(found.span.clone()).unwrap_or_default().into();
                }
                Verdict::ExactDuplicate(of) => line["duplicate_of"] = at(of),
                Verdict::NearDuplicate(of, like, similarity) => {
                    line["duplicate_of"] = at(of);
                    line["most_like"] = at(like);
                    line["similarity"] = rounded(similarity);
                }
                Verdict::NoScore(why) => line["because"] = why.words().into(),
                Verdict::Kept | Verdict::Score | Verdict::NotDrawn => {}
            }
            writeln!(dropped, "{line}").map_err(failed)?;
        }
        if shown.contains(&row.index) {
            samples.texts.insert(row.index, Sample { text, position: position() });
        }
        Ok(())
    })?;
    if pass.rows != judged.verdicts.len() as u64 {
        return Err(changed(loaded));
    }
    for mut file in kept.into_iter().chain(control).chain([dropped]) {
        file.flush().map_err(failed)?;
    }
    Ok(samples)
}

/// The row that one is shown beside.
pub(super) fn repeated(verdict: Verdict) -> Option<u32> {
    match verdict {
        Verdict::ExactDuplicate(of) => Some(of),
        Verdict::NearDuplicate(_, like, _) => Some(like),
        _ => None,
    }
}

/// The rows that a line about one names.
fn of_others(verdict: Verdict) -> impl Iterator<Item = u32> {
    let both = match verdict {
        Verdict::ExactDuplicate(of) => [Some(of), None],
        Verdict::NearDuplicate(of, like, _) => [Some(of), Some(like)],
        _ => [None, None],
    };
    both.into_iter().flatten()
}

/// Three digits say all that an estimate knows.
fn rounded(similarity: f32) -> Value {
    json!((f64::from(similarity) * 1000.0).round() / 1000.0)
}

/// Rows with the lowest scores, with those in the middle, and with the highest; none twice.
fn extremes(scores: &Scores) -> [Vec<u32>; 3] {
    let mut rows: Vec<(f64, u32)> =
        scores.of.iter().zip(0..).filter_map(|(score, row)| Some(((*score)?, row))).collect();
    rows.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let count = SCORED.min(rows.len() / 3);
    let middle = (rows.len() - count) / 2;
    let part = |from: usize| rows[from..from + count].iter().map(|&(_, row)| row).collect();
    [part(0), part(middle), part(rows.len() - count)]
}

/// Some rows of a reason, from all over the data. Of near duplicates half are those that were closest to staying.
fn chosen(judged: &Judged, reason: Reason) -> Vec<u32> {
    let mut all: Vec<u32> = (0..judged.verdicts.len() as u32)
        .filter(|&row| judged.verdicts[row as usize].reason() == Some(reason))
        .collect();
    let similarity = |row: u32| match judged.verdicts[row as usize] {
        Verdict::NearDuplicate(_, _, similarity) => similarity,
        _ => 1.0,
    };
    let mut rows = Vec::new();
    if reason == Reason::NearDuplicate {
        all.sort_by(|&a, &b| similarity(a).total_cmp(&similarity(b)));
        rows.extend(all.drain(..all.len().min(SHOWN / 2)));
    }
    let places = SHOWN - rows.len();
    if all.len() <= places {
        rows.extend(all);
    } else {
        rows.extend((0..places).map(|place| all[place * all.len() / places]));
    }
    rows
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Diagnostic::error("io::write", format!("`{}` cannot be written", path.display())).why(error.to_string()).into()
}
