//! What a recipe is and what running it takes, from what it says of itself: shown before anything is brought or spent.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::config::recipe::{Lock, LockedPlugin};
use crate::recipe::opened::Opened;
use crate::report::progress::{bytes, whole};

/// As text.
pub(super) fn text(opened: &Opened, output_dir: Option<&str>) -> String {
    let recipe = opened.recipe();
    let mut text = format!("{} {}", recipe.name, recipe.version);
    if !recipe.authors.is_empty() {
        let _ = write!(text, " by {}", recipe.authors.join(", "));
    }
    let _ = writeln!(text, ", {}", recipe.license.as_deref().unwrap_or("no licence named"));
    if let Some(description) = &recipe.description {
        for line in description.lines() {
            let _ = writeln!(text, "  {line}");
        }
    }
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<9}{value}");
    };
    row("from", &opened.from);
    if let Some(image) = opened.image() {
        row("digest", &format!("sha256:{}", image.sha256));
    }
    let Some(lock) = opened.lock() else {
        row("locked", "no: nothing says which bytes it is made of");
        return text;
    };
    let size = lock.files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size));
    row("files", &format!("{} beside it, {}", whole(lock.files.len() as f64), bytes(size)));
    for locked in &lock.hub {
        let size = locked.bytes.map(|size| format!(", {}", bytes(size))).unwrap_or_default();
        row("hub", &format!("{} at commit {} ({}){size}", locked.name, locked.commit, locked.key));
    }
    let (bundled, own): (Vec<_>, Vec<_>) = lock.plugins.iter().partition(|plugin| plugin.source == "bundled");
    let names: Vec<&str> = bundled.iter().map(|plugin| plugin.name.as_str()).collect();
    row("plugins", &format!("{}, bundled", names.join(", ")));
    for plugin in own {
        row("", &format!("{} {}, {}", plugin.name, plugin.version, plugin.source));
        row("", &format!("  sha256 {}", plugin.sha256));
        row("", &format!("  imports {}", imports(plugin)));
        if !plugin.wants.is_empty() {
            let grant = format!("--grant {}=DIRECTORY", plugin.name);
            row("", &format!("  would like to read files beside its data: `{grant}`"));
        }
    }
    let all = plugin_runtime::Limits::default();
    row(
        "limits",
        &format!("{} of memory and {} s a call for a plugin", bytes(all.memory_bytes as u64), all.call.as_secs()),
    );
    for line in limits(opened) {
        row("", &line);
    }
    if let Some(output_dir) = output_dir {
        row("writes", output_dir);
    }
    for (name, line) in gave(lock) {
        row(name, &line);
    }
    text
}

/// What a plugin imports: what is of this program by its name, what every guest has by its package.
fn imports(plugin: &LockedPlugin) -> String {
    let mut names: Vec<&str> = Vec::new();
    for import in &plugin.imports {
        let name = if import.starts_with("wasi:") { import.split('/').next().unwrap_or(import) } else { import };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// Limits that the recipe lowers.
fn limits(opened: &Opened) -> Vec<String> {
    let config = &opened.loaded.config;
    let set = config.plugins.iter().map(|pin| (&pin.name, serde_json::to_value(pin.limits).unwrap_or_default()));
    let set = set.filter(|(_, limits)| limits.as_object().is_some_and(|limits| !limits.is_empty()));
    set.map(|(name, limits)| format!("{name} {limits}")).collect()
}

/// What its own run took and gave.
fn gave(lock: &Lock) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(data) = &lock.data {
        let eval = if data.eval_samples > 0 {
            format!(", {} to evaluate on", whole(data.eval_samples as f64))
        } else {
            String::new()
        };
        lines.push(("data", format!("{} rows, {} samples{eval}", whole(data.rows as f64), whole(data.samples as f64))));
    }
    let Some(result) = &lock.result else {
        lines.push(("gave", "not recorded: nobody has locked a run of it".to_owned()));
        return lines;
    };
    let on = format!("{}, {}, {} threads", result.kernels, result.precision, result.threads);
    let device = if result.device == "cpu" { on } else { format!("{} ({on})", result.device) };
    lines.push((
        "took",
        format!(
            "{:.0} s and {} of memory for {} steps on {device}",
            result.seconds.ceil(),
            bytes(result.peak_memory_bytes),
            result.steps
        ),
    ));
    let of = |name: &str| {
        let known = |point: &crate::config::recipe::LockedPoint| point.metrics.get(name).copied().flatten();
        let (first, last) = (result.curve.iter().find_map(known)?, result.curve.iter().rev().find_map(known)?);
        Some(format!("{name} {first:.4} → {last:.4}"))
    };
    let told: Vec<String> = ["loss", "eval_loss", "reward"].into_iter().filter_map(of).collect();
    lines.push(("gave", told.join(", ")));
    lines
}

/// As JSON.
pub(super) fn fields(opened: &Opened) -> Value {
    let digest = opened.image().map(|image| format!("sha256:{}", image.sha256));
    json!({ "from": opened.from, "digest": digest, "recipe": opened.recipe(), "lock": opened.lock() })
}
