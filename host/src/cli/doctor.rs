//! `host doctor`: what this machine has and what this program can do with it, to be pasted into a report.

use std::io::Write as _;
use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use super::open_plugins;
use crate::capabilities;
use crate::diagnostic::{ExitStatus, Failure};
use crate::memory::{available_memory_bytes, total_memory_bytes};
use crate::report::{Output, emit};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// What can be trained, and how, as a page
    #[arg(long, conflicts_with = "json")]
    capabilities: bool,
    /// One JSON object on one line
    #[arg(long)]
    json: bool,
}

impl DoctorArgs {
    pub(super) fn output(&self) -> Output {
        if self.json { Output::Json } else { Output::Human }
    }
}

pub(super) fn run(args: &DoctorArgs) -> Result<ExitStatus, Failure> {
    if args.capabilities {
        let _ = std::io::stdout().write_all(capabilities::markdown().as_bytes());
        return Ok(ExitStatus::Done);
    }
    let facts = facts()?;
    if args.json {
        let architectures = capabilities::ARCHITECTURES.map(|name| (name.to_owned(), capabilities::of(name).into()));
        let mut fields = facts;
        fields["capabilities"] = Value::Object(architectures.into_iter().collect());
        emit("doctor", fields);
        return Ok(ExitStatus::Done);
    }
    let _ = std::io::stdout().write_all(text(&facts).as_bytes());
    Ok(ExitStatus::Done)
}

fn facts() -> Result<Value, Failure> {
    let bundled = open_plugins(&[])?.plugins().count();
    let cache = crate::directories::cache();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "plugin_api": plugin_runtime::API,
        "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "device": "cpu",
        "processor": processor(),
        "cores": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "instructions": engine::kernels::cpu::instructions(),
        "memory_bytes": total_memory_bytes(),
        "memory_available_bytes": available_memory_bytes(),
        "disk_free_bytes": free(Path::new(".")),
        "cache": cache.as_ref().map(|path| path.display().to_string()),
        "bundled_plugins": bundled,
    }))
}

/// Of the first processor, as Linux calls it.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Bytes that may still be written where `path` lies.
fn free(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

fn text(facts: &Value) -> String {
    let plain = |key: &str| match &facts[key] {
        Value::Null => "unknown".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let gigabytes =
        |key: &str| facts[key].as_u64().map_or("unknown".to_owned(), |bytes| format!("{:.1} GB", bytes as f64 / 1e9));
    let instructions: Vec<&str> =
        facts["instructions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let instructions = if instructions.is_empty() { "baseline".to_owned() } else { instructions.join(", ") };
    let rows = [
        ("host", format!("{}, plugin API {}", plain("version"), plain("plugin_api"))),
        ("system", plain("system")),
        ("device", format!("{}: {}", plain("device"), plain("processor"))),
        ("cores", format!("{}, {instructions}", plain("cores"))),
        ("memory", format!("{}, {} available", gigabytes("memory_bytes"), gigabytes("memory_available_bytes"))),
        ("disk", format!("{} free here", gigabytes("disk_free_bytes"))),
        ("cache", plain("cache")),
        ("plugins", format!("{} bundled", plain("bundled_plugins"))),
        ("trains", format!("{} in float32: `host doctor --capabilities`", capabilities::ARCHITECTURES.join(", "))),
    ];
    rows.iter().map(|(name, value)| format!("{name:<8}  {value}\n")).collect()
}
