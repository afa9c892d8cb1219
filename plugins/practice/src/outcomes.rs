//! What came of others' runs, where the user imported a table of them: a combination that mostly went wrong is worth a word.

use std::collections::BTreeMap;

use plugin_sdk::rules::{Facts, Rule, Severity, Violation};
use plugin_sdk::serde_json::Value;

pub(crate) const RULES: &[Rule] = &[
    Rule {
        id: "E1",
        severity: Severity::Warning,
        summary: "most runs like this one went well",
        evidence: "the outcomes on this machine: `host evidence show`",
        check: |facts| seen(facts).filter(Seen::is_mostly_bad).map(|seen| seen.violation()),
    },
    Rule {
        id: "E2",
        severity: Severity::Note,
        summary: "all runs like this one went well",
        evidence: "the outcomes on this machine: `host evidence show`",
        check: |facts| seen(facts).filter(|seen| seen.bad() > 0 && !seen.is_mostly_bad()).map(|seen| seen.violation()),
    },
    Rule {
        id: "E3",
        severity: Severity::Warning,
        summary: "most runs of this recipe went well",
        evidence: "the outcomes on this machine: `host evidence show`",
        check: |facts| runs(facts).filter(|runs| 2 * runs.bad() >= runs.all()).map(|runs| runs.violation()),
    },
    Rule {
        id: "E4",
        severity: Severity::Note,
        summary: "how runs of this recipe ended",
        evidence: "the outcomes on this machine: `host evidence show`",
        check: |facts| runs(facts).filter(|runs| 2 * runs.bad() < runs.all()).map(|runs| runs.violation()),
    },
];

/// Fewer runs say nothing.
const ENOUGH: u64 = 3;
/// How far apart the learning rates of runs alike may be.
const RATES: f64 = 3.0;
/// The same of their models' sizes.
const SIZES: f64 = 4.0;

/// Runs with the techniques of this one.
struct Seen {
    /// Where the learning rate is like this run's: how they ended, and how many.
    ends: BTreeMap<String, u64>,
    /// Learning rates below this run's at which all went well, and how many runs that were: the highest one.
    better: Option<(f64, u64)>,
    rate: f64,
}

/// None where nothing is known of enough runs like this one.
fn seen(facts: &Facts) -> Option<Seen> {
    let table = facts.outcomes.as_ref()?;
    let run = &table["run"];
    let (rate, size) = (run["learning_rate"].as_f64()?, run["parameters"].as_f64()?);
    let is_near = |value: &Value, to: f64, times: f64| {
        value.as_f64().is_some_and(|value| value <= to * times * 1.000_001 && to <= value * times * 1.000_001)
    };
    let alike = table["outcomes"].as_array()?.iter().filter(|group| {
        ["architecture", "device", "techniques"].iter().all(|key| group[*key] == run[*key])
            && is_near(&group["parameters"], size, SIZES)
    });
    let mut ends = BTreeMap::new();
    // Learning rate, all runs, bad ones.
    let mut below: Vec<(f64, u64, u64)> = Vec::new();
    for group in alike {
        let (Some(end), Some(runs)) = (group["outcome"].as_str(), group["runs"].as_u64()) else { continue };
        if is_near(&group["learning_rate"], rate, RATES) {
            *ends.entry(end.to_owned()).or_insert(0_u64) += runs;
        }
        if let Some(other) = group["learning_rate"].as_f64().filter(|other| *other < rate) {
            let bad = if is_bad(end) { runs } else { 0 };
            match below.iter_mut().find(|(known, ..)| (*known - other).abs() <= 1e-9 * rate) {
                Some((_, all, all_bad)) => (*all, *all_bad) = (*all + runs, *all_bad + bad),
                None => below.push((other, runs, bad)),
            }
        }
    }
    let well = below.into_iter().filter(|(_, runs, bad)| *bad == 0 && *runs >= ENOUGH);
    let better = well.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(rate, runs, _)| (rate, runs));
    let seen = Seen { ends, better, rate };
    (seen.all() >= ENOUGH).then_some(seen)
}

/// A user who stops a run, and whatever has to do with the machine and not with the config, says nothing.
fn is_bad(end: &str) -> bool {
    ["diverged", "unhealthy", "not-finite", "no-gradient", "killed"].contains(&end)
}

impl Seen {
    fn all(&self) -> u64 {
        self.ends.values().sum()
    }

    fn bad(&self) -> u64 {
        self.ends.iter().filter(|(end, _)| is_bad(end)).map(|(_, runs)| runs).sum()
    }

    fn is_mostly_bad(&self) -> bool {
        2 * self.bad() >= self.all()
    }

    fn violation(&self) -> Violation {
        let words: Vec<String> = self.ends.iter().map(|(end, runs)| format!("{runs} {}", in_words(end))).collect();
        let message = format!("{} of {} runs like this one went wrong", self.bad(), self.all());
        let why = format!(
            "seen with the same techniques, architecture and device, at learning rates near {}: {}",
            self.rate,
            words.join(", ")
        );
        let violation = Violation::at("learning_rate", message, why);
        match self.better {
            Some((rate, runs)) => violation.help(format!("all {runs} runs went well with `learning_rate: {rate}`")),
            None => violation.help("`host evidence show` has them all"),
        }
    }
}

/// Runs of the recipe that this is one of.
struct Runs(Vec<Group>);

/// Runs of a recipe that ended alike, with the same program on the same kind of device.
struct Group {
    end: String,
    device: String,
    host_version: String,
    runs: u64,
}

fn runs(facts: &Facts) -> Option<Runs> {
    let groups = facts.outcomes.as_ref()?.get("recipe")?.as_array()?;
    let group = |group: &Value| {
        let text = |key: &str| group[key].as_str().map(str::to_owned);
        let (end, device, host_version) = (text("outcome")?, text("device")?, text("host_version")?);
        Some(Group { end, device, host_version, runs: group["runs"].as_u64()? })
    };
    Some(Runs(groups.iter().filter_map(group).collect())).filter(|runs| runs.all() > 0)
}

impl Runs {
    fn all(&self) -> u64 {
        self.0.iter().map(|group| group.runs).sum()
    }

    fn of(&self, is_wanted: impl Fn(&Group) -> bool) -> u64 {
        self.0.iter().filter(|group| is_wanted(group)).map(|group| group.runs).sum()
    }

    /// Those that their users did not stop, and that did not finish.
    fn bad(&self) -> u64 {
        self.of(|group| !["finished", "stopped"].contains(&group.end.as_str()))
    }

    fn violation(&self) -> Violation {
        let finished = self.of(|group| group.end == "finished");
        let message = format!("this recipe: {finished} of {} runs finished", self.all());
        let others: Vec<String> = self
            .0
            .iter()
            .filter(|group| group.end != "finished")
            .map(|group| {
                format!("{} {} ({}, host {})", group.runs, in_words(&group.end), group.device, group.host_version)
            })
            .collect();
        let why = if others.is_empty() { "none ended otherwise".to_owned() } else { others.join(", ") };
        let violation = Violation::at("recipe", message, why);
        match self.in_common() {
            Some(words) => violation.help(format!("all that did not finish ran {words}, and none that did")),
            None => violation.help("`host evidence show` has them all"),
        }
    }

    /// What all runs that did not finish have in common, and no other.
    fn in_common(&self) -> Option<String> {
        type Look = (fn(&Group) -> &str, &'static str);
        let looks: [Look; 2] = [(|group| &group.device, "on"), (|group| &group.host_version, "with host")];
        let (good, bad): (Vec<&Group>, Vec<&Group>) = self.0.iter().partition(|group| group.end == "finished");
        let first = bad.first()?;
        looks.iter().find_map(|(look, word)| {
            let is_theirs = bad.iter().all(|group| look(group) == look(first)) && !good.is_empty();
            let is_alone = good.iter().all(|group| look(group) != look(first));
            (is_theirs && is_alone).then(|| format!("{word} {}", look(first)))
        })
    }
}

fn in_words(end: &str) -> &str {
    match end {
        "finished" => "finished",
        "stopped" => "stopped by their user",
        "diverged" => "diverged",
        "unhealthy" => "stopped by a monitor",
        "not-finite" => "with a gradient that was not finite",
        "no-gradient" => "with a parameter that got no gradient",
        "killed" => "killed (out of memory, perhaps)",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use plugin_sdk::serde_json::json;

    use super::*;

    #[test]
    fn runs_of_a_recipe_are_counted_and_what_failed_has_in_common() {
        let found = |groups: Value| {
            let outcomes = Some(json!({"run": {}, "outcomes": [], "recipe": groups}));
            let facts = Facts { outcomes, ..Facts::of(json!({}), json!({})) };
            let findings: Vec<_> = RULES.iter().filter_map(|rule| rule.judge(&facts)).collect();
            findings
                .into_iter()
                .map(|finding| (finding.rule, finding.message, finding.help.unwrap()))
                .collect::<Vec<_>>()
        };
        let group = |outcome: &str, device: &str, runs: u64| json!({"outcome": outcome, "device": device, "host_version": "0.1.0", "runs": runs});
        let told = |rule: &str, message: &str, help: &str| vec![(rule.to_owned(), message.to_owned(), help.to_owned())];
        assert_eq!(
            found(json!([group("finished", "cuda", 12), group("killed", "cpu", 2)])),
            told("E4", "this recipe: 12 of 14 runs finished", "all that did not finish ran on cpu, and none that did")
        );
        assert_eq!(
            found(json!([group("finished", "cpu", 1), group("diverged", "cpu", 2)])),
            told("E3", "this recipe: 1 of 3 runs finished", "`host evidence show` has them all")
        );
        assert!(found(json!([])).is_empty());
    }

    fn found(groups: &[(f64, &str, u64)]) -> Vec<(String, String)> {
        let setup = json!({"architecture": "LlamaForCausalLM", "parameters": 1_000_000, "device": "cpu",
            "techniques": ["full", "packing"], "learning_rate": 1e-3});
        let outcomes = groups.iter().map(|(rate, end, runs)| {
            let mut group = setup.clone();
            (group["learning_rate"], group["outcome"], group["runs"]) = ((*rate).into(), (*end).into(), (*runs).into());
            group
        });
        let mut outcomes: Vec<Value> = outcomes.collect();
        // Runs that are not like it.
        for (key, value) in
            [("techniques", json!(["lora"])), ("device", json!("cuda")), ("parameters", json!(9_000_000))]
        {
            let mut group = setup.clone();
            group[key] = value;
            (group["outcome"], group["runs"]) = ("diverged".into(), 100.into());
            outcomes.push(group);
        }
        let outcomes = Some(json!({"run": setup, "outcomes": outcomes}));
        let facts = Facts { outcomes, ..Facts::of(json!({"learning_rate": 1e-3}), json!({})) };
        let findings = RULES.iter().filter_map(|rule| rule.judge(&facts));
        findings.map(|finding| (finding.rule, format!("{}; {}", finding.message, finding.help.unwrap()))).collect()
    }

    fn one(rule: &str, words: &str) -> Vec<(String, String)> {
        vec![(rule.to_owned(), words.to_owned())]
    }

    #[test]
    fn e1_most_runs_like_it_went_wrong() {
        let show = "`host evidence show` has them all";
        let nine = [(1e-3, "diverged", 8), (2e-3, "not-finite", 1), (1e-3, "finished", 5)];
        assert_eq!(found(&nine), one("E1", &format!("9 of 14 runs like this one went wrong; {show}")));
        let lower = [(1e-3, "killed", 3), (1e-4, "finished", 3), (2e-4, "finished", 4), (2e-4, "diverged", 1)];
        let help = "all 3 runs went well with `learning_rate: 0.0001`";
        assert_eq!(found(&lower), one("E1", &format!("3 of 3 runs like this one went wrong; {help}")));
    }

    #[test]
    fn e2_some_went_wrong() {
        let some = [(1e-3, "diverged", 1), (1e-3, "finished", 13)];
        let words = "1 of 14 runs like this one went wrong; `host evidence show` has them all";
        assert_eq!(found(&some), one("E2", words));
    }

    #[test]
    fn neither_of_runs_that_are_few_or_went_well_or_say_nothing() {
        assert_eq!(found(&[]), []);
        assert_eq!(found(&[(1e-3, "diverged", 2)]), [], "too few");
        assert_eq!(found(&[(1e-3, "finished", 9), (1e-3, "stopped", 4), (1e-3, "failed", 4)]), []);
        assert_eq!(found(&[(1e-2, "diverged", 9)]), [], "another learning rate");
    }

    #[test]
    fn tables_of_the_wrong_kind_say_nothing() {
        for outcomes in [
            json!(null),
            json!([]),
            json!({"run": 3}),
            json!({"run": {"learning_rate": 1, "parameters": 1}, "outcomes": [1, {"runs": -1}]}),
        ] {
            let facts = Facts { outcomes: Some(outcomes), ..Facts::default() };
            assert!(RULES.iter().all(|rule| rule.judge(&facts).is_none()));
        }
    }
}
