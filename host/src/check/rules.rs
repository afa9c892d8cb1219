//! Compatibility rules: plugins that look at the whole config with the facts beside it and say what does not go together.

use plugin_runtime::types::{Edit as GuestEdit, Facts, Finding, Severity as GuestSeverity};
use plugin_runtime::{Kind, PluginHost};
use serde_json::Value;

use super::facts::{ModelFacts, machine_json};
use super::plugins::{BUNDLED_RULES, Use, locate};
use crate::config::{LoadedConfig, RuleRef, RuleSeverity};
use crate::device::Device;
use crate::diagnostic::{Diagnostic, Edit, Severity};
use crate::evidence::{Setup, Table};

/// Runs the bundled rules and those that the config names.
pub fn check(loaded: &LoadedConfig, plugins: &PluginHost, model: Option<&ModelFacts>) -> Vec<Diagnostic> {
    run(loaded, plugins, model, None)
}

/// The same once the data is read: what the rules find now and did not find `before`.
pub fn check_data(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    model: &ModelFacts,
    data: &Value,
    before: &[Diagnostic],
) -> Vec<Diagnostic> {
    let mut found = run(loaded, plugins, Some(model), Some(data));
    let is_known = |new: &Diagnostic| before.iter().any(|old| (&old.code, &old.message) == (&new.code, &new.message));
    found.retain(|new| !is_known(new));
    found
}

fn run(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    model: Option<&ModelFacts>,
    data: Option<&Value>,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let device = Device::of(&loaded.config);
    let table = Table::load().unwrap_or_else(|failure| {
        let warning = |diagnostic| Diagnostic { severity: Severity::Warning, ..diagnostic };
        found.extend(failure.0.into_iter().map(warning));
        Table::default()
    });
    let outcomes_json = model.filter(|_| !table.records.is_empty()).map(|model| {
        let setup = Setup::of(&loaded.config, &device, &model.config.architecture, model.parameters());
        table.facts(&setup, loaded.recipe_digest().as_deref()).to_string()
    });
    let facts = Facts {
        config_json: loaded.to_sound_json().to_string(),
        given_paths: loaded.given.clone(),
        model_json: model.map(|model| model.to_json().to_string()),
        data_json: data.map(ToString::to_string),
        machine_json: Some(machine_json(&device).to_string()),
        outcomes_json,
    };
    let named = &loaded.config.rules;
    let bundled = BUNDLED_RULES.map(|name| RuleRef {
        name: name.to_owned(),
        config: serde_json::Map::new(),
        severity: std::collections::BTreeMap::new(),
    });
    let always = bundled.iter().filter(|bundled| !named.iter().any(|rule| rule.name == bundled.name));
    let always = always.map(|rule| (None, rule));
    for (index, rule) in always.chain(named.iter().enumerate().map(|(index, rule)| (Some(index), rule))) {
        let config_json = Value::Object(rule.config.clone()).to_string();
        // What its schema finds is said where plugins are looked up.
        if !plugins.config_problems(&rule.name, Kind::CompatRules, &config_json).is_empty() {
            continue;
        }
        let findings = plugins.checker(&rule.name, &config_json).and_then(|mut checker| {
            let known = if rule.severity.is_empty() { None } else { Some(checker.rules()?) };
            Ok((checker.check(&facts)?, known))
        });
        match findings {
            Ok((findings, known)) => {
                if let (Some(known), Some(index)) = (known, index) {
                    let ids: Vec<&str> = known.iter().map(|rule| rule.id.as_str()).collect();
                    for id in rule.severity.keys().filter(|id| !ids.contains(&id.as_str())) {
                        found.push(unknown_rule(loaded, plugins, rule, index, id, &ids));
                    }
                }
                let mut own = findings.iter().filter_map(|finding| diagnostic(loaded, rule, finding));
                found.extend(own.by_ref().take(FINDINGS));
                let more = own.count();
                if more > 0 {
                    let message = format!("`{}` found {more} things more, which are not shown", rule.name);
                    found.push(Diagnostic::warning("rule::more", message).plugin(&rule.name));
                }
            }
            // That a named plugin does not exist is said where plugins are looked up.
            Err(error) if error.code == "plugin::unknown" || error.code == "plugin::wrong-kind" => {}
            Err(error) => {
                let path = index.map_or_else(|| "rules".to_owned(), |index| format!("rules[{index}]"));
                let used = Use { kind: Kind::CompatRules, name: rule.name.clone(), config_json, path, data: None };
                found.push(locate(loaded, &used, error));
            }
        }
    }
    found
}

/// Findings of one plugin that are shown.
const FINDINGS: usize = 100;
/// Places that one finding is about, and edits that mend it.
const PLACES: usize = 20;
/// Bytes of a path and a value of an edit.
const EDIT: usize = 1000;

fn unknown_rule(
    loaded: &LoadedConfig,
    plugins: &PluginHost,
    rule: &RuleRef,
    index: usize,
    id: &str,
    known: &[&str],
) -> Diagnostic {
    let path = format!("rules[{index}].severity.{id}");
    let has_it = |name: &&str| {
        let rules = plugins.checker(name, "{}").and_then(|mut checker| checker.rules());
        rules.is_ok_and(|rules| rules.iter().any(|rule| rule.id == id))
    };
    let help = match BUNDLED_RULES.iter().find(|name| **name != rule.name && has_it(name)) {
        Some(name) => format!("it is a rule of `{name}`: `{{name: {name}, severity: {{{id}: …}}}}`"),
        None => format!("it has: {}", known.join(", ")),
    };
    Diagnostic::error("config::unknown-rule", format!("`{}` has no rule `{id}`", rule.name))
        .at(loaded.source.key_place(&path))
        .help(help)
}

/// A finding, with the severity that the config gives it; none where the config switches the rule off.
pub fn diagnostic(loaded: &LoadedConfig, rule: &RuleRef, finding: &Finding) -> Option<Diagnostic> {
    let severity = match rule.severity.get(&finding.rule) {
        Some(RuleSeverity::Off) => return None,
        Some(RuleSeverity::Note) => Severity::Note,
        Some(RuleSeverity::Warning) => Severity::Warning,
        Some(RuleSeverity::Error) => Severity::Error,
        None => match finding.severity {
            GuestSeverity::Error => Severity::Error,
            GuestSeverity::Warning => Severity::Warning,
            GuestSeverity::Note => Severity::Note,
        },
    };
    let mut diagnostic = Diagnostic::new(severity, format!("rule::{}", finding.rule), &finding.message);
    let mut paths = finding.paths.iter().take(PLACES);
    if let Some(first) = paths.next() {
        diagnostic = loaded.locate(diagnostic, first);
    }
    for path in paths {
        if let Some(place) = loaded.source.place(path) {
            diagnostic = diagnostic.related(place, "because of this");
        }
    }
    if !finding.why.is_empty() {
        diagnostic = diagnostic.why(&finding.why);
    }
    // Some of the edits alone could be worse than none.
    let is_long = |edit: &GuestEdit| match edit {
        GuestEdit::Set((path, value)) => path.len().max(value.len()) > EDIT,
        GuestEdit::Remove(path) => path.len() > EDIT,
    };
    let is_sound = finding.fix.len() <= PLACES && !finding.fix.iter().any(is_long);
    let edits = if is_sound { &finding.fix[..] } else { &[] };
    diagnostic.help = finding.help.clone().or_else(|| (!edits.is_empty()).then(|| words(edits)));
    diagnostic.fix = edits.iter().map(edit).collect();
    if !BUNDLED_RULES.contains(&rule.name.as_str()) {
        diagnostic = diagnostic.note(format!("a rule of the plugin `{}`", rule.name)).plugin(&rule.name);
    }
    Some(diagnostic)
}

fn edit(edit: &GuestEdit) -> Edit {
    match edit.clone() {
        GuestEdit::Set((path, value)) => Edit::Set { path, value },
        GuestEdit::Remove(path) => Edit::Remove { path },
    }
}

fn words(edits: &[GuestEdit]) -> String {
    let words = edits.iter().map(|edit| match edit {
        GuestEdit::Set((path, value)) => format!("set `{path}: {value}`"),
        GuestEdit::Remove(path) => format!("remove `{path}`"),
    });
    words.collect::<Vec<_>>().join(", ")
}
