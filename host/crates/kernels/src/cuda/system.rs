//! What this machine has of CUDA: driver, libraries, devices.

use std::path::PathBuf;

use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUuuid, cudaError_enum};

use super::cudnn;
use super::device::{CudaKernels, Libraries};
use super::library::{self, Missing, Name, Opened, Search};
use super::nvml::Nvml;
use super::symbols::{BlasLt, Cudnn, Driver, Nvrtc, text};
use crate::DeviceError;
use crate::Precision;

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum Absent {
    /// The driver's library is not there, or cannot be opened.
    #[error("{0}")]
    NoDriver(Missing),
    /// The driver is there and says that there is no device.
    #[error("the NVIDIA driver is installed, but sees no GPU")]
    NoDevice,
    /// The driver is there and does not work.
    #[error("the NVIDIA driver does not work: {0}")]
    Broken(String),
}

/// Why a device could not be taken into use.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A library is missing.
    #[error("{0}")]
    Missing(Missing),
    /// A library was found that lacks a function.
    #[error("`{path}` cannot be used: {reason}", path = path.display())]
    Unusable {
        /// The library.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// A GPU, before it is taken into use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its number among those that the driver shows.
    pub ordinal: usize,
    /// As the driver names it.
    pub name: String,
    /// As NVML knows it: `GPU-` and hexadecimal digits.
    pub uuid: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub memory: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
}

impl Gpu {
    /// What training works in where nothing is asked for: bfloat16 from compute capability 8.0 on.
    pub fn precision(&self) -> Precision {
        if self.capability >= (8, 0) { Precision::Bf16 } else { Precision::F32 }
    }
}

/// What was found of a library.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LibraryReport {
    /// Its file's name up to `.so`.
    pub name: &'static str,
    /// Whether no GPU can be trained on without it.
    pub needed: bool,
    /// Its file.
    pub path: Option<PathBuf>,
    /// How it was found.
    pub place: Option<String>,
    /// As it says of itself.
    pub version: Option<String>,
    /// Why it cannot be used.
    pub problem: Option<String>,
    /// Files that could not be used, with the reason.
    pub skipped: Vec<String>,
}

impl LibraryReport {
    /// Of a library that was looked for, and what it says of itself.
    fn new(
        name: Name,
        found: Result<Opened, Missing>,
        version: impl FnOnce(&Opened) -> Result<String, String>,
    ) -> Self {
        let (path, place, version, problem, skipped) = match found {
            Ok(opened) => {
                let (version, problem) = match version(&opened) {
                    Ok(version) => (Some(version), None),
                    Err(problem) => (None, Some(problem)),
                };
                (Some(opened.path), Some(opened.place.to_string()), version, problem, opened.skipped)
            }
            Err(missing) => {
                let problem = format!("{missing}\nhelp: {}", missing.help());
                (None, None, None, Some(problem), missing.skipped)
            }
        };
        Self { name: name.stem(), needed: name.is_needed(), path, place, version, problem, skipped }
    }
}

/// What there is of each library; `major` is the CUDA version of the driver.
pub fn libraries(search: &Search, major: Option<u32>) -> Vec<LibraryReport> {
    let driver = LibraryReport::new(Name::Driver, library::open(Name::Driver, search, None), |opened| {
        let (major, minor) = Driver::new(opened.library)?.version()?;
        Ok(format!("CUDA {major}.{minor}"))
    });
    let nvrtc = LibraryReport::new(Name::Nvrtc, library::open(Name::Nvrtc, search, major), |opened| {
        let (major, minor) = Nvrtc::new(opened.library)?.version();
        Ok(format!("{major}.{minor}"))
    });
    let blas = LibraryReport::new(Name::BlasLt, library::open(Name::BlasLt, search, major), |opened| {
        let (major, minor, patch) = BlasLt::new(opened.library)?.version();
        Ok(format!("{major}.{minor}.{patch}"))
    });
    let nvml = LibraryReport::new(Name::Nvml, library::open(Name::Nvml, search, None), |opened| {
        let nvml = Nvml::open(opened).map_err(|error| error.to_string())?;
        nvml.driver_version().map_err(|error| error.to_string())
    });
    let cudnn = LibraryReport::new(Name::Cudnn, library::open(Name::Cudnn, search, major), |opened| {
        Ok(cudnn_version(Cudnn::new(opened.library)?.version()))
    });
    vec![driver, nvrtc, blas, cudnn, nvml]
}

/// A driver that works, and its devices; at least one.
#[derive(Debug)]
pub struct System {
    /// Where the driver's library is.
    pub driver: Opened,
    /// CUDA version that the driver supports, major and minor.
    pub version: (u32, u32),
    /// The devices.
    pub gpus: Vec<Gpu>,
    /// The compiler that goes with the driver.
    pub nvrtc: Result<Opened, Missing>,
    /// The matrix library that goes with the driver.
    pub blas: Result<Opened, Missing>,
    /// cuDNN, which nothing needs.
    pub cudnn: Result<Opened, Missing>,
}

impl System {
    /// Looks for a driver, asks it for its devices, and looks for the libraries that go with it.
    ///
    /// # Errors
    /// [`Absent`] says why there is none.
    pub fn find(search: &Search) -> Result<Self, Absent> {
        let opened = library::open(Name::Driver, search, None).map_err(Absent::NoDriver)?;
        let driver = Driver::new(opened.library).map_err(Absent::Broken)?;
        // SAFETY: the driver is started once before anything else is called, which may be done again.
        let status = unsafe { (driver.cuInit)(0) };
        if status == cudaError_enum::CUDA_ERROR_NO_DEVICE {
            return Err(Absent::NoDevice);
        }
        if !status.is_success() {
            return Err(Absent::Broken(driver.words(status)));
        }
        let version = driver.version().map_err(Absent::Broken)?;
        let mut count = 0;
        // SAFETY: writes one number.
        let status = unsafe { (driver.cuDeviceGetCount)(&raw mut count) };
        if !status.is_success() {
            return Err(Absent::Broken(driver.words(status)));
        }
        if count <= 0 {
            return Err(Absent::NoDevice);
        }
        let gpus = (0..count.unsigned_abs() as usize).map(|ordinal| gpu(&driver, ordinal)).collect::<Result<_, _>>();
        let gpus = gpus.map_err(Absent::Broken)?;
        // cuDNN opens the compiler by its bare name, which the loader answers with the one that is open.
        let [nvrtc, blas, cudnn] =
            [Name::Nvrtc, Name::BlasLt, Name::Cudnn].map(|name| library::open(name, search, Some(version.0)));
        Ok(Self { driver: opened, version, gpus, nvrtc, blas, cudnn })
    }

    /// The library that computes attention on a device, or why this trainer's kernels do.
    fn cudnn(&self, gpu: &Gpu, precision: Precision) -> Result<Cudnn, String> {
        let (needed, has) = (cudnn::CAPABILITY, gpu.capability);
        if precision != Precision::Bf16 {
            return Err(format!("it has none in {}", precision.name()));
        }
        if has < needed {
            return Err(format!("compute capability {}.{} needed, {}.{} found", needed.0, needed.1, has.0, has.1));
        }
        // Where it was looked for and how to get it is for `libraries`.
        let missing = |missing: &Missing| missing.to_string().lines().next().unwrap_or_default().to_owned();
        let opened = self.cudnn.as_ref().map_err(missing)?;
        let functions = Cudnn::new(opened.library)?;
        let version = functions.version();
        if version < cudnn::OLDEST {
            let (oldest, found) = (cudnn_version(cudnn::OLDEST), cudnn_version(version));
            return Err(format!("{oldest} or newer needed, {found} found in `{}`", opened.path.display()));
        }
        // It ends the process where it does not find them.
        for beside in [&self.nvrtc, &self.blas].into_iter().flatten() {
            if beside.major != Some(functions.major()) {
                let (name, found) = (beside.name.title(), beside.path.display());
                return Err(format!("it is for CUDA {}, and the {name} in use is `{found}`", functions.major()));
            }
        }
        Ok(functions)
    }

    /// Whether cuDNN computes attention of long documents on a device, as far as can be told before it is in use.
    pub fn fuses_attention(&self, gpu: &Gpu, precision: Precision) -> bool {
        self.cudnn(gpu, precision).is_ok()
    }

    /// Takes a device into use. What is compiled for it is kept in `cache`.
    ///
    /// # Errors
    /// [`OpenError`]: a library that is missing or cannot be used, a device that fails.
    pub fn open(&self, ordinal: usize, precision: Precision, cache: Option<PathBuf>) -> Result<CudaKernels, OpenError> {
        let there = |found: &'_ Result<Opened, Missing>| found.clone().map_err(OpenError::Missing);
        let (nvrtc, blas) = (there(&self.nvrtc)?, there(&self.blas)?);
        let unusable = |opened: &Opened| {
            let path = opened.path.clone();
            move |reason| OpenError::Unusable { path, reason }
        };
        let libraries = Libraries {
            driver: Driver::new(self.driver.library).map_err(unusable(&self.driver))?,
            nvrtc: Nvrtc::new(nvrtc.library).map_err(unusable(&nvrtc))?,
            blas: BlasLt::new(blas.library).map_err(unusable(&blas))?,
            cudnn: self.gpus.get(ordinal).map_or(Err("no such GPU".to_owned()), |gpu| self.cudnn(gpu, precision)),
        };
        Ok(CudaKernels::open(libraries, ordinal, precision, cache)?)
    }
}

/// Major, minor and patch, as people write them.
fn cudnn_version(number: usize) -> String {
    format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
}

fn gpu(driver: &Driver, ordinal: usize) -> Result<Gpu, String> {
    let (mut device, mut memory) = (0, 0);
    let (mut name, mut uuid) = ([0; 256], CUuuid { bytes: [0; 16] });
    let mut numbers = [0; 3];
    let attributes = [
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
    ];
    let index = i32::try_from(ordinal).map_err(|error| error.to_string())?;
    // SAFETY: each call writes one value of the type that its signature says; the name's last byte stays zero.
    unsafe {
        let mut statuses = vec![(driver.cuDeviceGet)(&raw mut device, index)];
        statuses.push((driver.cuDeviceGetName)(name.as_mut_ptr(), 255, device));
        statuses.push((driver.cuDeviceGetUuid_v2)(&raw mut uuid, device));
        statuses.push((driver.cuDeviceTotalMem_v2)(&raw mut memory, device));
        for (number, attribute) in numbers.iter_mut().zip(attributes) {
            statuses.push((driver.cuDeviceGetAttribute)(number, attribute, device));
        }
        if let Some(&failed) = statuses.iter().find(|status| !status.is_success()) {
            return Err(driver.words(failed));
        }
    }
    let [major, minor, multiprocessors] = numbers.map(i32::unsigned_abs);
    Ok(Gpu {
        ordinal,
        // SAFETY: it ends with zero.
        name: unsafe { text(name.as_ptr()) }.unwrap_or_default(),
        uuid: uuid_text(uuid.bytes.map(|byte| byte as u8)),
        capability: (major, minor),
        memory: memory as u64,
        multiprocessors: multiprocessors as usize,
    })
}

/// As NVML writes it.
fn uuid_text(bytes: [u8; 16]) -> String {
    use std::fmt::Write as _;
    let mut text = "GPU".to_owned();
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_the_name_that_nvml_knows() {
        let bytes = std::array::from_fn(|index| index as u8);
        assert_eq!(uuid_text(bytes), "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
