//! The device that a run is on: what the config asks for, as this machine has it.

use std::sync::OnceLock;

use engine::kernels::Precision;
use engine::kernels::counting::Profile;
use engine::kernels::cpu::instructions;
use engine::kernels::cuda::CudaKernels;
use engine::kernels::cuda::library::{self, Missing, Name, Search};
use engine::kernels::cuda::nvml::Nvml;
use engine::kernels::cuda::system::{Absent, Gpu, OpenError, System};
use serde_json::{Value, json};

use crate::config::{AutoBool, Config, DeviceChoice, LoadedConfig};
use crate::diagnostic::{Diagnostic, Edit, Severity};

/// Where training computes, and in what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// The CPU, in float32.
    Cpu,
    /// A GPU.
    Cuda(Gpu, Precision),
}

/// The places where libraries are looked for.
pub fn search() -> &'static Search {
    static SEARCH: OnceLock<Search> = OnceLock::new();
    SEARCH.get_or_init(Search::of_process)
}

/// The driver and its GPUs, looked up once.
pub fn system() -> &'static Result<System, Absent> {
    static SYSTEM: OnceLock<Result<System, Absent>> = OnceLock::new();
    SYSTEM.get_or_init(|| System::find(search()))
}

/// What the driver measures, where it can be asked.
pub fn nvml() -> Option<Nvml> {
    Nvml::open(&library::open(Name::Nvml, search(), None).ok()?).ok()
}

impl Device {
    /// The one that a config asks for.
    ///
    /// # Errors
    /// What is missing, where it was looked for, and how to get it.
    pub fn choose(config: &Config) -> Result<Self, Diagnostic> {
        let bf16 = if config.float32 { AutoBool::Is(false) } else { config.bf16 };
        Self::choose_for(config.device, bf16)
    }

    /// The one that is asked for, working in bfloat16 if that is wanted.
    ///
    /// # Errors
    /// As for [`Self::choose`].
    pub fn choose_for(device: DeviceChoice, bf16: AutoBool) -> Result<Self, Diagnostic> {
        let wanted = match device {
            DeviceChoice::Cpu => return Ok(Self::Cpu),
            DeviceChoice::Auto => None,
            DeviceChoice::Cuda(number) => Some(number as usize),
        };
        let system = match (system(), wanted) {
            (Ok(system), _) => system,
            (Err(Absent::NoDriver(_) | Absent::NoDevice), None) => return Ok(Self::Cpu),
            (Err(absent), _) => return Err(no_device(absent, wanted)),
        };
        let Some(gpu) = system.gpus.get(wanted.unwrap_or(0)) else {
            let (wanted, count) = (wanted.unwrap_or(0), system.gpus.len());
            let message = format!("there is no GPU {wanted}: this machine has {count}");
            let names: Vec<String> =
                system.gpus.iter().map(|gpu| format!("`cuda:{}` is {}", gpu.ordinal, gpu.name)).collect();
            return Err(Diagnostic::error("device::missing", message).help(names.join("; ")));
        };
        for library in [&system.nvrtc, &system.blas] {
            library.as_ref().map_err(|missing| no_library(missing, gpu))?;
        }
        let precision = match bf16 {
            AutoBool::Is(false) => Precision::F32,
            AutoBool::Auto => gpu.precision(),
            AutoBool::Is(true) if gpu.precision() == Precision::Bf16 => Precision::Bf16,
            AutoBool::Is(true) => return Err(no_bf16(gpu)),
        };
        Ok(Self::Cuda(gpu.clone(), precision))
    }

    /// The one that a config asks for, or the CPU where it cannot be had: for what is only told.
    pub fn of(config: &Config) -> Self {
        Self::choose(config).unwrap_or(Self::Cpu)
    }

    /// `cpu` or `cuda`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda(..) => "cuda",
        }
    }

    /// What training computes in.
    pub fn precision(&self) -> Precision {
        match self {
            Self::Cpu => Precision::F32,
            Self::Cuda(_, precision) => *precision,
        }
    }

    /// Whose memory is counted.
    pub fn profile(&self) -> Profile {
        match self {
            Self::Cpu => Profile::Cpu,
            Self::Cuda(gpu, precision) => Profile::Cuda {
                precision: *precision,
                multiprocessors: gpu.multiprocessors,
                fused_attention: system().as_ref().is_ok_and(|system| system.fuses_attention(gpu, *precision)),
            },
        }
    }

    /// Bytes of a GPU's own memory that are free, as far as can be told without taking it into use.
    pub fn free_memory(&self) -> Option<u64> {
        let Self::Cuda(gpu, _) = self else { return None };
        let reading = nvml().and_then(|nvml| nvml.reading(&gpu.uuid).ok());
        Some(reading.and_then(|reading| reading.memory_free_bytes).unwrap_or(gpu.memory))
    }

    /// For `run.json` and for rules.
    pub fn to_json(&self) -> Value {
        let kernels = match self {
            Self::Cpu => [vec!["cpu"], instructions()].concat().join(" "),
            Self::Cuda(gpu, _) => format!("cuda sm_{}{}", gpu.capability.0, gpu.capability.1),
        };
        let mut fields = json!({ "device": self.kind(), "precision": self.precision().name(), "kernels": kernels });
        if let Self::Cuda(gpu, _) = self {
            fields["device_name"] = json!(gpu.name);
            fields["device_memory_bytes"] = json!(gpu.memory);
            fields["compute_capability"] = json!(format!("{}.{}", gpu.capability.0, gpu.capability.1));
        }
        fields
    }

    /// Takes a GPU into use.
    ///
    /// # Errors
    /// What the driver or a library says.
    pub fn open(gpu: &Gpu, precision: Precision) -> Result<CudaKernels, Diagnostic> {
        let system = system().as_ref().map_err(|absent| no_device(absent, Some(gpu.ordinal)))?;
        let cache = crate::directories::cache().map(|cache| cache.join("kernels"));
        system.open(gpu.ordinal, precision, cache).map_err(|error| match error {
            OpenError::Missing(missing) => no_library(&missing, gpu),
            OpenError::Device(error) => engine::EngineError::from(error).into(),
            OpenError::Unusable { .. } => Diagnostic::error("device::library", error.to_string())
                .help("install a CUDA toolkit that belongs to the driver; `host doctor` says what was found"),
        })
    }
}

/// What a config and this machine do not have in common.
pub fn check(loaded: &LoadedConfig) -> Vec<Diagnostic> {
    let at = |diagnostic: Diagnostic, key: &str| {
        let place = loaded.source.place(key).or_else(|| loaded.source.nearest_place("base_model"));
        diagnostic.at(place)
    };
    match Device::choose(&loaded.config) {
        Err(diagnostic) if diagnostic.code == "device::bf16" => vec![at(diagnostic, "bf16")],
        Err(diagnostic) => vec![at(diagnostic, "device")],
        Ok(Device::Cpu) if loaded.config.bf16 == AutoBool::Is(true) => {
            let message = "`bf16: true`, but on the CPU training computes in float32";
            let warning = Diagnostic { severity: Severity::Warning, ..Diagnostic::error("device::no-effect", message) };
            let fix = Edit::Set { path: "bf16".to_owned(), value: "auto".to_owned() };
            let why = "the CPU has no bfloat16 that is worth it; float32 is more exact, and takes twice the memory";
            vec![at(warning.why(why).help("write `bf16: auto`: bfloat16 where the device has it").fix(fix), "bf16")]
        }
        Ok(_) => Vec::new(),
    }
}

fn no_device(absent: &Absent, wanted: Option<usize>) -> Diagnostic {
    let help = "write `device: cpu` to train on the CPU; `host doctor` says what this machine has";
    match (absent, wanted) {
        (Absent::NoDriver(missing), _) => {
            Diagnostic::error("device::missing", "there is no NVIDIA driver for `device: cuda`")
                .why(missing.to_string())
                .help(format!("{}; or {help}", missing.help()))
        }
        (Absent::NoDevice, _) => Diagnostic::error("device::missing", absent.to_string()).help(help),
        (Absent::Broken(reason), _) => {
            Diagnostic::error("device::missing", "the NVIDIA driver does not work").why(reason.clone()).help(help)
        }
    }
}

fn no_library(missing: &Missing, gpu: &Gpu) -> Diagnostic {
    let message = format!("`cuda:{}` ({}) cannot be used: a library is missing", gpu.ordinal, gpu.name);
    Diagnostic::error("device::library", message)
        .why(missing.to_string())
        .help(format!("{}; or write `device: cpu` to train on the CPU", missing.help()))
}

fn no_bf16(gpu: &Gpu) -> Diagnostic {
    let (major, minor) = gpu.capability;
    let message = format!("`bf16: true`, but {} has no bfloat16", gpu.name);
    Diagnostic::error("device::bf16", message)
        .why(format!("bfloat16 needs compute capability 8.0; this GPU has {major}.{minor}"))
        .help("write `bf16: auto`: float32 where the device has no bfloat16")
        .fix(Edit::Set { path: "bf16".to_owned(), value: "auto".to_owned() })
}
