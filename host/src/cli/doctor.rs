//! `host doctor`: what this machine has and what this program can do with it, to be pasted into a report.

use std::path::Path;

use clap::Args;
use engine::kernels::cuda::system;
use serde_json::{Value, json};

use super::open_plugins;
use crate::capabilities;
use crate::config::{AutoBool, DeviceChoice};
use crate::device::{self, Device};
use crate::diagnostic::{ExitStatus, Failure};
use crate::memory::{available_memory_bytes, total_memory_bytes};
use crate::report::{Output, emit};
use crate::terminal::{Safe, print, print_file};

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
        print_file(&capabilities::markdown())?;
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
    print(&Safe::text(&text(&facts)))?;
    Ok(ExitStatus::Done)
}

fn facts() -> Result<Value, Failure> {
    let bundled = open_plugins(&[])?.plugins().count();
    let cache = crate::directories::cache();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "plugin_api": plugin_runtime::API,
        "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        "device": default_device(),
        "processor": processor(),
        "cores": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "instructions": engine::kernels::cpu::instructions(),
        "memory_bytes": total_memory_bytes(),
        "memory_available_bytes": available_memory_bytes(),
        "disk_free_bytes": free(Path::new(".")),
        "cache": cache.as_ref().map(|path| path.display().to_string()),
        "bundled_plugins": bundled,
        "cuda": cuda(),
    }))
}

/// What `device: auto` takes.
fn default_device() -> &'static str {
    Device::choose_for(DeviceChoice::Auto, AutoBool::Auto).map_or("none", |device| device.kind())
}

/// Driver, libraries and devices of CUDA, as far as they are there.
fn cuda() -> Value {
    let system = device::system();
    let major = system.as_ref().ok().map(|system| system.version.0);
    let nvml = device::nvml();
    let devices = system.as_ref().map_or(&[][..], |system| &system.gpus);
    let devices: Vec<Value> = devices
        .iter()
        .map(|gpu| {
            let reading = nvml.as_ref().map(|nvml| nvml.reading(&gpu.uuid));
            let (reading, problem) = match reading.transpose() {
                Ok(reading) => (reading, None),
                Err(problem) => (None, Some(problem.to_string())),
            };
            json!({
                "index": gpu.ordinal,
                "name": gpu.name,
                "uuid": gpu.uuid,
                "compute_capability": format!("{}.{}", gpu.capability.0, gpu.capability.1),
                "multiprocessors": gpu.multiprocessors,
                "memory_bytes": gpu.memory,
                "precision": gpu.precision().name(),
                "reading": reading,
                "problem": problem,
            })
        })
        .collect();
    json!({
        "problem": system.as_ref().err().map(ToString::to_string),
        "driver_version": nvml.and_then(|nvml| nvml.driver_version().ok()),
        "libraries": system::libraries(device::search(), major),
        "devices": devices,
    })
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
    let mut rows = vec![
        ("host", format!("{}, plugin API {}", plain("version"), plain("plugin_api"))),
        ("system", plain("system")),
        ("device", format!("{}, where a config says `device: auto`", plain("device"))),
        ("cpu", format!("{}; {} cores, {instructions}", plain("processor"), plain("cores"))),
        ("memory", format!("{}, {} available", gigabytes("memory_bytes"), gigabytes("memory_available_bytes"))),
        ("disk", format!("{} free here", gigabytes("disk_free_bytes"))),
        ("cache", plain("cache")),
        ("plugins", format!("{} bundled", plain("bundled_plugins"))),
        ("trains", format!("{}: `host doctor --capabilities`", capabilities::ARCHITECTURES.join(", "))),
    ];
    rows.extend(cuda_rows(&facts["cuda"]));
    rows.iter().map(|(name, value)| format!("{name:<8}  {value}\n")).collect()
}

/// A row for each device and each library. Without a driver, the rest is not missed.
fn cuda_rows(cuda: &Value) -> Vec<(&'static str, String)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let libraries = list(&cuda["libraries"]);
    let (devices, has_driver) = (
        list(&cuda["devices"]),
        libraries.iter().any(|library| library["name"] == "libcuda" && !library["path"].is_null()),
    );
    let mut rows: Vec<(&str, String)> = devices.iter().map(|gpu| ("gpu", gpu_words(gpu))).collect();
    if devices.is_empty() {
        let problem = text(&cuda["problem"]).unwrap_or_default();
        rows.push(("gpu", if has_driver { problem } else { "none: there is no NVIDIA driver".to_owned() }));
    }
    for library in &libraries {
        let name = text(&library["name"]).unwrap_or_default();
        let problem = text(&library["problem"]);
        let words = match text(&library["path"]) {
            Some(path) => {
                let version = problem.or_else(|| text(&library["version"])).unwrap_or_default();
                format!("{name} {version}: {path} ({})", text(&library["place"]).unwrap_or_default())
            }
            None if has_driver && (library["needed"] == true || !list(&library["skipped"]).is_empty()) => {
                problem.unwrap_or_default()
            }
            // Where it was looked for is no one's concern.
            None if has_driver => {
                let problem = problem.unwrap_or_default();
                format!("{name}: not found\n{}", problem.lines().last().unwrap_or_default())
            }
            None => format!("{name}: not found"),
        };
        rows.push(("cuda", words));
        if !library["path"].is_null() {
            rows.extend(list(&library["skipped"]).iter().filter_map(text).map(|skipped| ("", skipped)));
        }
    }
    // Several lines stay in their column.
    rows.into_iter().map(|(name, words)| (name, words.replace('\n', "\n          "))).collect()
}

fn gpu_words(gpu: &Value) -> String {
    let number = |value: &Value| value.as_u64();
    let gigabytes = |value: &Value| number(value).map(|bytes| format!("{:.1} GB", bytes as f64 / 1e9));
    let reading = &gpu["reading"];
    let mut words = format!(
        "cuda:{} {}, compute capability {}, {}",
        gpu["index"],
        gpu["name"].as_str().unwrap_or_default(),
        gpu["compute_capability"].as_str().unwrap_or_default(),
        gigabytes(&gpu["memory_bytes"]).unwrap_or_default(),
    );
    let watts = |value: &Value| number(value).map(|milliwatts| format!("{:.0}", milliwatts as f64 / 1e3));
    let power = match (watts(&reading["power_milliwatts"]), watts(&reading["power_limit_milliwatts"])) {
        (Some(power), Some(limit)) => Some(format!("{power} of {limit} W")),
        (Some(power), None) => Some(format!("{power} W")),
        _ => None,
    };
    let parts = [
        gigabytes(&reading["memory_free_bytes"]).map(|free| format!("{free} free")),
        number(&reading["utilization_percent"]).map(|percent| format!("{percent} % busy")),
        power,
        number(&reading["temperature_celsius"]).map(|degrees| format!("{degrees} °C")),
    ];
    for part in parts.into_iter().flatten() {
        words.push_str(", ");
        words.push_str(&part);
    }
    if let Some(problem) = gpu["problem"].as_str() {
        words.push('\n');
        words.push_str(problem);
    }
    words
}
