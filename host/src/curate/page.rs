//! The page of a curation: what was left out and why, to be judged by a person. Rows are strangers' texts: everything is escaped,
//! and the page has no script and asks nobody for anything.

use std::fmt::Write as _;

use super::curated::{Curated, rounded};
use super::judge::{Judged, rule};
use super::score::Scores;
use super::verdict::{Reason, Verdict};
use super::write::{Sample, Samples, repeated};
use crate::config::{Curation, LoadedConfig, Prefer, ScoreBy};
use crate::report::page::{begin, html};
use crate::report::progress::whole;

/// Characters of a text that are shown.
const TEXT: usize = 900;
/// Characters in front of a span that are shown.
const BEFORE: usize = 200;

/// The whole page.
pub(super) fn page(
    loaded: &LoadedConfig,
    curation: &Curation,
    curated: &Curated,
    judged: &Judged,
    samples: &Samples,
    commands: &[String; 2],
) -> String {
    let config = html(&loaded.source.path.display().to_string());
    let mut page = begin(&format!("Curation of {config}"), &format!("Curation of <code>{config}</code>"));
    let share = 100.0 * curated.kept as f64 / curated.rows.max(1) as f64;
    let _ = writeln!(
        page,
        "<p class=\"lead\"><b>{}</b> of {} rows are kept ({share:.1} %).</p>",
        number(curated.kept),
        number(curated.rows)
    );
    page += &counts(curated);
    page += &next(loaded, curated, commands);
    page += &lengths(judged);
    page += &thresholds(curation, judged);
    page += &scores(curation, judged, samples);
    for (reason, rows) in &samples.of {
        let Some((_, count)) = curated.dropped.iter().find(|(known, _)| known == reason) else { continue };
        let _ = write!(
            page,
            "<section>\n<h2>{}</h2>\n<p>{} {}</p>\n",
            capital(&spoken(*reason)),
            plural(*count, "row"),
            about(*reason)
        );
        for &row in rows {
            page += &sample(judged, samples, row);
        }
        page += "</section>\n";
    }
    page + "</main>\n</body>\n</html>\n"
}

fn counts(curated: &Curated) -> String {
    let rows = curated.rows.max(1) as f64;
    let mut out = String::from("<table class=\"counts\">\n<tr><th>rows</th><th></th><th></th><th>share</th></tr>\n");
    let mut line = |name: &str, count: u64, class: &str| {
        let share = 100.0 * count as f64 / rows;
        let _ = writeln!(
            out,
            "<tr><td>{name}</td><td class=\"n\">{}</td><td class=\"bar\"><i class=\"{class}\" style=\"width:{share:.2}%\"></i></td>\
             <td class=\"n\">{share:.1} %</td></tr>",
            number(count)
        );
    };
    line("kept", curated.kept, "kept");
    for (reason, count) in &curated.dropped {
        line(&spoken(*reason), *count, "out");
    }
    out += "</table>\n";
    for filter in &curated.filters {
        let words =
            format!("Before that, the row filter {} left {} of {} rows", filter.plugin, filter.kept, filter.rows);
        let _ = writeln!(out, "<p class=\"note\">{}.</p>", html(&words));
    }
    out
}

fn next(loaded: &LoadedConfig, curated: &Curated, commands: &[String; 2]) -> String {
    let mut out = format!(
        "<section>\n<h2>Does it help?</h2>\n\
         <p>The control is <b>{}</b> drawn at random from all {}, whatever was said of them: as many as are kept. Train on both; what \
         was left out was worth leaving out if the first does better. Much of what is used to choose data does no better than such \
         a control (<a href=\"https://arxiv.org/abs/2410.09335\">2410.09335</a>, \
         <a href=\"https://arxiv.org/abs/2503.01807\">2503.01807</a>).</p>\n<pre>{}\n{}</pre>\n",
        plural(curated.kept, "row"),
        plural(curated.rows, "row"),
        html(&commands[0]),
        html(&commands[1])
    );
    if loaded.config.test_datasets.is_empty() {
        out += "<p class=\"note\">The config has no <code>test_datasets</code>, so the two runs would not be measured by the same rows.</p>\n";
    }
    out + "</section>\n"
}

/// A bar of a histogram.
struct Bin {
    all: u64,
    kept: u64,
    /// Where it begins.
    start: String,
    /// What is in it.
    range: String,
}

/// Rows by their words, in bins that grow by half an octave.
fn lengths(judged: &Judged) -> String {
    let bin = |words: u32| (2.0 * f64::from(words + 1).log2()).floor() as usize;
    let start = |bin: usize| (2_f64.powf(bin as f64 / 2.0) - 1.0).ceil().max(0.0) as u64;
    let most = judged.lengths.iter().map(|&words| bin(words)).max().unwrap_or(0);
    let least = judged.lengths.iter().map(|&words| bin(words)).min().unwrap_or(0);
    let (mut all, mut kept) = (vec![0_u64; most + 1], vec![0_u64; most + 1]);
    for (words, verdict) in judged.lengths.iter().zip(&judged.verdicts) {
        all[bin(*words)] += 1;
        kept[bin(*words)] += u64::from(*verdict == Verdict::Kept);
    }
    // Bins that no whole number falls into are left out.
    let bins = (least..=most).filter(|&bin| start(bin) < start(bin + 1)).map(|bin| Bin {
        all: all[bin],
        kept: kept[bin],
        start: start(bin).to_string(),
        range: format!("{} to {} words", start(bin), start(bin + 1) - 1),
    });
    let bins: Vec<Bin> = bins.collect();
    format!(
        "<section>\n<h2>Lengths</h2>\n<p>Rows by their number of words: <span class=\"key all\"></span> all, <span class=\"key kept\"></span> kept.</p>\n\
         {}</section>\n",
        histogram(&bins, "Histogram of lengths before and after")
    )
}

fn histogram(bins: &[Bin], label: &str) -> String {
    let top = bins.iter().map(|bin| bin.all).max().unwrap_or(1).max(1) as f64;
    let (height, width) = (150.0, 640.0 / bins.len().max(1) as f64);
    let mut out = format!("<svg viewBox=\"0 0 660 190\" role=\"img\" aria-label=\"{label}\">\n");
    let labelled = bins.len().div_ceil(12);
    for (place, bin) in bins.iter().enumerate() {
        let x = 10.0 + width * place as f64;
        for (count, class) in [(bin.all, "all"), (bin.kept, "kept")] {
            let tall = height * count as f64 / top;
            let _ = writeln!(
                out,
                "<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\"><title>{}: {} of {} rows kept</title></rect>",
                x + 1.0,
                10.0 + height - tall,
                (width - 2.0).max(1.0),
                bin.range,
                bin.kept,
                bin.all
            );
        }
        if place % labelled == 0 {
            let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"178\">{}</text>", bin.start);
        }
    }
    let _ = writeln!(out, "<line x1=\"10\" x2=\"650\" y1=\"{0}\" y2=\"{0}\"/>\n</svg>", 10.0 + height);
    out
}

/// How the scores lie, and rows from both ends and the middle of them.
fn scores(curation: &Curation, judged: &Judged, samples: &Samples) -> String {
    let Some(scores) = &judged.scores else { return String::new() };
    let chosen = match curation.score.as_ref().and_then(|score| score.prefer) {
        None => "Nothing was chosen by them.",
        Some(Prefer::Low) => "Rows with low scores were chosen.",
        Some(Prefer::High) => "Rows with high scores were chosen.",
        Some(Prefer::Spread) => "As many rows were chosen from each tenth of them.",
    };
    let mut out = format!(
        "<section>\n<h2>Scores</h2>\n<p>{} {chosen} Rows by their score: <span class=\"key all\"></span> all that were left to \
         choose from, <span class=\"key kept\"></span> kept.</p>\n{}",
        measured(scores.by),
        histogram(&bins(scores, &judged.verdicts), "Histogram of scores before and after")
    );
    for (title, rows) in ["Lowest", "In the middle", "Highest"].into_iter().zip(&samples.scored) {
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(out, "<h3>{title}</h3>");
        for &row in rows {
            let Some(sample) = samples.texts.get(&row) else { continue };
            let label = if judged.verdicts[row as usize] == Verdict::Kept { "kept" } else { "left out" };
            let score = scores.of[row as usize].map(rounded).unwrap_or_default();
            let sample = Sample { position: format!("{score}, {}", sample.position), ..sample.clone() };
            let _ = write!(out, "<article>\n{}</article>\n", card(label, &sample, &cut(&sample.text)));
        }
    }
    out + "</section>\n"
}

/// What the scores are.
fn measured(by: ScoreBy) -> &'static str {
    match by {
        ScoreBy::Perplexity => {
            "The score is the perplexity of the tokens that would be learned, under the base model before training."
        }
        ScoreBy::Accuracy => {
            "The score is the share of the tokens that would be learned which the base model finds most likely itself, given the \
             right ones before them: low is difficult."
        }
        ScoreBy::Judge => {
            "The score is the digit from 1 to 5 that the base model answers when it is asked about a row, as an expectation over its \
             probabilities. A small or untuned model says little by it."
        }
        ScoreBy::Similarity => {
            "The score is the cosine similarity to the nearest row of <code>like</code>, between means of the base model's last \
             hidden states that are weighted by their positions (RDS+, <a href=\"https://arxiv.org/abs/2503.01807\">2503.01807</a>; its \
             authors let the rows of <code>like</code> take turns instead)."
        }
        ScoreBy::Words => "The score is the number of words: the baseline that others must beat.",
    }
}

/// Scores in bins that are as wide as each other; those that are ratios grow by as much.
fn bins(scores: &Scores, verdicts: &[Verdict]) -> Vec<Bin> {
    const BINS: usize = 24;
    let grows = matches!(scores.by, ScoreBy::Perplexity | ScoreBy::Words);
    let [scale, back]: [fn(f64) -> f64; 2] =
        if grows { [f64::ln_1p, f64::exp_m1] } else { [|score| score, |score| score] };
    let rows = || scores.of.iter().zip(verdicts).filter_map(|(score, verdict)| Some((scale((*score)?), *verdict)));
    let least = rows().map(|(score, _)| score).fold(f64::INFINITY, f64::min);
    let most = rows().map(|(score, _)| score).fold(f64::NEG_INFINITY, f64::max);
    if least > most {
        return Vec::new();
    }
    let width = (most - least) / BINS as f64;
    let start = |bin: usize| rounded(back(least + width * bin as f64));
    let new = |bin| Bin { all: 0, kept: 0, start: start(bin), range: format!("{} to {}", start(bin), start(bin + 1)) };
    let mut bins: Vec<Bin> = (0..BINS).map(new).collect();
    for (score, verdict) in rows() {
        // All in the first where there is one score alone.
        let bin = &mut bins[(((score - least) / width) as usize).min(BINS - 1)];
        bin.all += 1;
        bin.kept += u64::from(verdict == Verdict::Kept);
    }
    bins
}

fn thresholds(curation: &Curation, judged: &Judged) -> String {
    let Some(near) = &curation.near_duplicates else { return String::new() };
    let mut out = format!(
        "<section>\n<h2>Thresholds</h2>\n<p>Near duplicates that each <code>near_duplicates.threshold</code> would leave out: rows \
         that hang together by pairs which have at least that share of their runs of {} words in common; the first of them stays.</p>\n\
         <table>\n<tr><th>threshold</th><th>rows left out</th></tr>\n",
        near.ngram
    );
    for (threshold, rows) in &judged.thresholds {
        let is_own = (threshold - near.threshold).abs() < f64::EPSILON;
        let (class, mark) = if is_own { (" class=\"own\"", " (this config)") } else { ("", "") };
        let _ = writeln!(out, "<tr{class}><td>{threshold}{mark}</td><td class=\"n\">{}</td></tr>", number(*rows));
    }
    out + "</table>\n</section>\n"
}

fn about(reason: Reason) -> &'static str {
    match reason {
        Reason::Heuristic => "break a rule of <code>heuristics</code>. Some of them:",
        Reason::Contaminated => {
            "have a run of words in common with a row of an evaluation, which is marked. Some of them:"
        }
        Reason::ExactDuplicate => {
            "have the words of an earlier row, whatever case, spaces and punctuation. Some of them, beside the row that stays:"
        }
        Reason::NearDuplicate => {
            "have most of their runs of words in common with another row. Some of them, each beside the row that it is most like; \
             those that were closest to staying come first:"
        }
        Reason::NoScore => "could not be scored. Some of them:",
        Reason::Score => "were left and not chosen by their score. Some of them:",
        Reason::NotDrawn => "were left and not drawn. Some of them:",
    }
}

fn sample(judged: &Judged, samples: &Samples, row: u32) -> String {
    let Some(own) = samples.texts.get(&row) else { return String::new() };
    let verdict = judged.verdicts[row as usize];
    let (title, shown) = match verdict {
        Verdict::Heuristic(number, value) => {
            let (key, words) = rule(number, value);
            (format!("<code>{key}</code>: {}", html(&words)), cut(&own.text))
        }
        Verdict::Contaminated(number) => {
            let found = &judged.contaminations[number as usize];
            let title = format!(
                "{} in common with {}",
                plural(found.words as u64, "word"),
                html(&judged.evaluation[found.text as usize])
            );
            (title, marked(&own.text, found.span.clone()))
        }
        Verdict::NoScore(why) => {
            (html(why.words()).replace("`sequence_len`", "<code>sequence_len</code>"), cut(&own.text))
        }
        Verdict::Score => {
            let score = judged.scores.as_ref().and_then(|scores| scores.of[row as usize]);
            (score.map(rounded).unwrap_or_default(), cut(&own.text))
        }
        Verdict::NearDuplicate(_, _, similarity) => (format!("{:.0} % in common", 100.0 * similarity), cut(&own.text)),
        _ => (String::new(), cut(&own.text)),
    };
    let mut out = String::from("<article>\n");
    if !title.is_empty() {
        let _ = writeln!(out, "<h3>{title}</h3>");
    }
    let other = repeated(verdict).and_then(|other| samples.texts.get(&other).map(|sample| (other, sample)));
    let _ = write!(
        out,
        "<div class=\"{}\">\n{}",
        if other.is_some() { "two" } else { "one" },
        card("left out", own, &shown)
    );
    if let Some((other, sample)) = other {
        // A row that it is like may itself be left out for a third.
        let kept = judged.verdicts[other as usize] == Verdict::Kept;
        out += &card(if kept { "kept" } else { "left out too" }, sample, &cut(&sample.text));
    }
    out + "</div>\n</article>\n"
}

fn card(label: &str, sample: &Sample, shown: &str) -> String {
    let class = if label == "kept" { "kept" } else { "out" };
    format!(
        "<figure class=\"{class}\"><figcaption><b>{label}</b> {}</figcaption><div class=\"text\">{shown}</div></figure>\n",
        html(&sample.position)
    )
}

/// The beginning of a text.
fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((end, _)) => format!("{}<span class=\"more\">…</span>", html(&text[..end])),
        None => html(text),
    }
}

/// A part of a text around a span, which is marked.
fn marked(text: &str, span: std::ops::Range<usize>) -> String {
    let Some(inner) = text.get(span.clone()) else { return cut(text) };
    let before = &text[..span.start];
    let start = before.char_indices().rev().nth(BEFORE - 1).map_or(0, |(start, _)| start);
    let more = if start > 0 { "<span class=\"more\">…</span>" } else { "" };
    format!("{more}{}<mark>{}</mark>{}", html(&before[start..]), cut(inner), cut(&text[span.end..]))
}

fn spoken(reason: Reason) -> String {
    reason.words().replace("`keep`", "<code>keep</code>")
}

fn capital(words: &str) -> String {
    let mut all = words.to_owned();
    if let Some(first) = all.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    all
}

fn number(count: u64) -> String {
    whole(count as f64)
}

fn plural(count: u64, word: &str) -> String {
    format!("{} {word}{}", number(count), if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        let hostile = "<script>alert('1')</script>&amp;\"\u{202e}x\u{1b}[2J";
        let shown = html(hostile);
        assert!(!shown.contains(['<', '>', '"', '\'', '\u{202e}', '\u{1b}']), "{shown}");
        assert!(shown.starts_with("&lt;script&gt;alert(&#39;1&#39;)") && shown.contains("&amp;amp;"), "{shown}");
        assert_eq!(marked("a <b> c", 2..5), "a <mark>&lt;b&gt;</mark> c");
        assert!(cut(&"é<".repeat(600)).ends_with("<span class=\"more\">…</span>"));
    }
}
