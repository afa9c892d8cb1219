//! What devices are doing, as NVML tells it: the memory, load, power and temperature that `nvidia-smi` shows. Opened at run
//! time like the other libraries; what a device does not report is absent.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::path::PathBuf;

use super::library::{self, Opened};

/// What a call answers; any number, as libraries grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
#[must_use]
struct Status(c_uint);

impl Status {
    const SUCCESS: Self = Self(0);
    /// Not supported, no permission, a function that the driver lacks, nothing measured yet.
    const ABSENT: [Self; 4] = [Self(3), Self(4), Self(13), Self(21)];
}

/// `nvmlDevice_t`.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
struct Device(*mut c_void);

/// `nvmlMemory_t`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Memory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlUtilization_t`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

/// `nvmlTemperatureSensors_t`: that of the GPU's die.
const TEMPERATURE_GPU: c_int = 0;
/// Bytes of the longest text that NVML writes.
const TEXT_BYTES: usize = 96;

/// Why NVML did not tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NvmlError {
    /// The library lacks a function.
    #[error("`{path}` has no `{function}`: {reason}", path = path.display())]
    Function {
        /// The library.
        path: PathBuf,
        /// What was looked up.
        function: &'static str,
        /// The loader's words.
        reason: String,
    },
    /// A call failed.
    #[error("`{call}` failed: {reason}")]
    Call {
        /// What was called.
        call: &'static str,
        /// What NVML says the answer means.
        reason: String,
    },
}

/// The functions that are called, looked up by name.
macro_rules! table {
    ($($name:ident($($type:ty),*) -> $answer:ty;)*) => {
        #[derive(Debug)]
        #[expect(non_snake_case, reason = "NVIDIA's names")]
        struct Functions {
            $($name: unsafe extern "C" fn($($type),*) -> $answer,)*
        }

        impl Functions {
            fn new(opened: &Opened) -> Result<Self, NvmlError> {
                Ok(Self { $($name: {
                    // SAFETY: the table says what the function is; the library is never closed.
                    let symbol = unsafe { opened.library.get(concat!(stringify!($name), "\0")) };
                    *symbol.map_err(|error| NvmlError::Function {
                        path: opened.path.clone(),
                        function: stringify!($name),
                        reason: library::words(&error),
                    })?
                },)* })
            }
        }
    };
}

table! {
    nvmlInit_v2() -> Status;
    nvmlShutdown() -> Status;
    nvmlErrorString(Status) -> *const c_char;
    nvmlSystemGetDriverVersion(*mut c_char, c_uint) -> Status;
    nvmlDeviceGetHandleByUUID(*const c_char, *mut Device) -> Status;
    nvmlDeviceGetName(Device, *mut c_char, c_uint) -> Status;
    nvmlDeviceGetUUID(Device, *mut c_char, c_uint) -> Status;
    nvmlDeviceGetMemoryInfo(Device, *mut Memory) -> Status;
    nvmlDeviceGetUtilizationRates(Device, *mut Utilization) -> Status;
    nvmlDeviceGetPowerUsage(Device, *mut c_uint) -> Status;
    nvmlDeviceGetEnforcedPowerLimit(Device, *mut c_uint) -> Status;
    nvmlDeviceGetTemperature(Device, c_int, *mut c_uint) -> Status;
}

/// What a device reports; a field is absent where the device or the driver does not report it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct DeviceReading {
    /// As the driver names it.
    pub name: Option<String>,
    /// `GPU-` and hexadecimal digits: the same in every process, whatever devices it sees.
    pub uuid: Option<String>,
    /// Memory there is.
    pub memory_total_bytes: Option<u64>,
    /// Memory in use, by all processes and the driver.
    pub memory_used_bytes: Option<u64>,
    /// Memory that is free.
    pub memory_free_bytes: Option<u64>,
    /// Part of the last moments in which a kernel ran.
    pub utilization_percent: Option<u32>,
    /// Part of the last moments in which memory was read or written.
    pub memory_utilization_percent: Option<u32>,
    /// What the device draws.
    pub power_milliwatts: Option<u32>,
    /// The limit that is in force.
    pub power_limit_milliwatts: Option<u32>,
    /// Of the GPU's die.
    pub temperature_celsius: Option<u32>,
}

/// NVML, started. It counts its starts, so that values of this type do not disturb each other.
#[derive(Debug)]
pub struct Nvml(Functions);

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: it was started once for this value.
        let _ = unsafe { (self.0.nvmlShutdown)() };
    }
}

impl Nvml {
    /// Starts the library that [`library::open`] found.
    ///
    /// # Errors
    /// [`NvmlError::Function`] for a library that is too old, [`NvmlError::Call`] where it does not start: the driver is
    /// not loaded, or is of another version than the library.
    pub fn open(opened: &Opened) -> Result<Self, NvmlError> {
        let functions = Functions::new(opened)?;
        // SAFETY: takes nothing.
        let status = unsafe { (functions.nvmlInit_v2)() };
        functions.judge("nvmlInit_v2", status)?;
        Ok(Self(functions))
    }

    /// The version of NVIDIA's driver, such as `550.54.14`.
    ///
    /// # Errors
    /// [`NvmlError::Call`].
    pub fn driver_version(&self) -> Result<String, NvmlError> {
        // SAFETY: writes at most as many bytes as it is told.
        let get = |bytes, length| unsafe { (self.0.nvmlSystemGetDriverVersion)(bytes, length) };
        self.0.text("nvmlSystemGetDriverVersion", get).map(Option::unwrap_or_default)
    }

    /// The device with a UUID, as [`DeviceReading::uuid`] has it.
    ///
    /// # Errors
    /// [`NvmlError::Call`]: there is no such device, or it fails.
    pub fn reading(&self, uuid: &str) -> Result<DeviceReading, NvmlError> {
        let call = "nvmlDeviceGetHandleByUUID";
        let uuid = CString::new(uuid).map_err(|error| NvmlError::Call { call, reason: error.to_string() })?;
        let mut device = Device(std::ptr::null_mut());
        // SAFETY: reads a text that ends with zero, writes one handle.
        let status = unsafe { (self.0.nvmlDeviceGetHandleByUUID)(uuid.as_ptr(), &raw mut device) };
        self.0.judge(call, status)?;
        self.0.read(device)
    }
}

impl Functions {
    fn judge(&self, call: &'static str, status: Status) -> Result<(), NvmlError> {
        if status == Status::SUCCESS {
            return Ok(());
        }
        // SAFETY: takes any number, and may be called before the library is started.
        let words = unsafe { (self.nvmlErrorString)(status) };
        let reason = if words.is_null() {
            format!("status {}", status.0)
        } else {
            // SAFETY: a text of the library's, which stays.
            format!("{} (status {})", unsafe { CStr::from_ptr(words) }.to_string_lossy(), status.0)
        };
        Err(NvmlError::Call { call, reason })
    }

    /// A value, unless it is absent.
    fn optional<T: Default>(
        &self,
        call: &'static str,
        get: impl FnOnce(*mut T) -> Status,
    ) -> Result<Option<T>, NvmlError> {
        let mut value = T::default();
        let status = get(&raw mut value);
        if Status::ABSENT.contains(&status) { Ok(None) } else { self.judge(call, status).map(|()| Some(value)) }
    }

    fn text(
        &self,
        call: &'static str,
        get: impl FnOnce(*mut c_char, c_uint) -> Status,
    ) -> Result<Option<String>, NvmlError> {
        // One byte more than NVML knows of: it ends with zero whatever is written.
        let mut bytes = [0_u8; TEXT_BYTES + 1];
        let status = get(bytes.as_mut_ptr().cast(), TEXT_BYTES as c_uint);
        if Status::ABSENT.contains(&status) {
            return Ok(None);
        }
        self.judge(call, status)?;
        Ok(CStr::from_bytes_until_nul(&bytes).ok().map(|text| text.to_string_lossy().into_owned()))
    }

    /// What a device reports.
    fn read(&self, device: Device) -> Result<DeviceReading, NvmlError> {
        let mut reading = DeviceReading::default();
        // SAFETY: in all of these the handle is one that NVML gave, and it writes one value of the type that the
        // signature says, or at most as many bytes as it is told.
        unsafe {
            reading.name =
                self.text("nvmlDeviceGetName", |text, length| (self.nvmlDeviceGetName)(device, text, length))?;
            reading.uuid =
                self.text("nvmlDeviceGetUUID", |text, length| (self.nvmlDeviceGetUUID)(device, text, length))?;
            let memory = self.optional("nvmlDeviceGetMemoryInfo", |to| (self.nvmlDeviceGetMemoryInfo)(device, to))?;
            reading.memory_total_bytes = memory.map(|memory: Memory| memory.total);
            reading.memory_used_bytes = memory.map(|memory| memory.used);
            reading.memory_free_bytes = memory.map(|memory| memory.free);
            let get = |to| (self.nvmlDeviceGetUtilizationRates)(device, to);
            let utilization: Option<Utilization> = self.optional("nvmlDeviceGetUtilizationRates", get)?;
            reading.utilization_percent = utilization.map(|part| part.gpu);
            reading.memory_utilization_percent = utilization.map(|part| part.memory);
            let get = |to| (self.nvmlDeviceGetPowerUsage)(device, to);
            reading.power_milliwatts = self.optional("nvmlDeviceGetPowerUsage", get)?;
            let get = |to| (self.nvmlDeviceGetEnforcedPowerLimit)(device, to);
            reading.power_limit_milliwatts = self.optional("nvmlDeviceGetEnforcedPowerLimit", get)?;
            let get = |to| (self.nvmlDeviceGetTemperature)(device, TEMPERATURE_GPU, to);
            reading.temperature_celsius = self.optional("nvmlDeviceGetTemperature", get)?;
        }
        Ok(reading)
    }
}

#[cfg(test)]
mod tests {
    use super::library::{Name, Search, tests::shared};
    use super::*;

    /// A library with a device that reports everything, one that reports little, and one that is lost.
    const NVML: &str = r#"
        #include <string.h>
        typedef unsigned U;
        static int starts;
        int nvmlInit_v2(void) { return INIT ? INIT : (starts++, 0); }
        int nvmlShutdown(void) { starts--; return 0; }
        int started(void) { return starts; }
        const char *nvmlErrorString(U s) { return s == 9 ? "Driver Not Loaded" : s == 15 ? "GPU is lost" : s == 6 ? "Not Found" : 0; }
        int nvmlSystemGetDriverVersion(char *to, U n) { strncpy(to, "550.54.14", n); return 0; }
        int nvmlDeviceGetHandleByUUID(const char *u, void **d) {
            *d = (void *)(8L + u[4] - '0'); return u[4] < '3' ? 0 : 77 + 0 * (*d != 0); }
        int nvmlDeviceGetName(void *d, char *to, U n) { if (d == (void *)9) memset(to, 'x', n); else strncpy(to, "Fake", n); return 0; }
        int nvmlDeviceGetUUID(void *d, char *to, U n) { strcpy(to, "GPU-0"); to[4] += (long)d - 8; return 0; }
        int nvmlDeviceGetMemoryInfo(void *d, unsigned long long *m) {
            m[0] = 1ULL << 40; m[1] = 3; m[2] = m[0] - 3; return d == (void *)10 ? 15 : d == (void *)9 ? 3 : 0; }
        int nvmlDeviceGetUtilizationRates(void *d, U *u) { u[0] = 97; u[1] = 41; return d == (void *)9 ? 21 : 0; }
        int nvmlDeviceGetPowerUsage(void *d, U *p) { *p = 312000; return d == (void *)9 ? 4 : 0; }
        #ifndef OLD
        int nvmlDeviceGetEnforcedPowerLimit(void *d, U *p) { *p = 700000; return d == (void *)9 ? 13 : 0; }
        #endif
        int nvmlDeviceGetTemperature(void *d, int which, U *t) { *t = 61 + which; return 0; }
    "#;

    /// The library, compiled with options.
    fn fake(options: &[&str]) -> Option<Opened> {
        let root = tempfile::tempdir().unwrap();
        if !shared(&root.path().join("libnvidia-ml.so.1"), NVML, options) {
            return None;
        }
        let path = root.path().as_os_str();
        let search = Search::new(|name| (name == "HOST_CUDA_LIBRARY_PATH").then(|| path.into()), root.path(), false);
        Some(library::open(Name::Nvml, &search, None).unwrap())
    }

    #[test]
    fn devices_tell_what_they_report() {
        let Some(opened) = fake(&["-DINIT=0"]) else { return };
        // SAFETY: the test's own function, which takes nothing.
        let started = || unsafe { opened.library.get::<unsafe extern "C" fn() -> c_int>(c"started").unwrap()() };
        let nvml = Nvml::open(&opened).unwrap();
        assert_eq!(nvml.driver_version().unwrap(), "550.54.14");
        let whole = DeviceReading {
            name: Some("Fake".into()),
            uuid: Some("GPU-0".into()),
            memory_total_bytes: Some(1 << 40),
            memory_used_bytes: Some((1 << 40) - 3),
            memory_free_bytes: Some(3),
            utilization_percent: Some(97),
            memory_utilization_percent: Some(41),
            power_milliwatts: Some(312_000),
            power_limit_milliwatts: Some(700_000),
            temperature_celsius: Some(61),
        };
        assert_eq!(nvml.reading("GPU-0").unwrap(), whole);
        let little = DeviceReading {
            name: Some("x".repeat(TEXT_BYTES)),
            uuid: Some("GPU-1".into()),
            temperature_celsius: Some(61),
            ..DeviceReading::default()
        };
        assert_eq!(nvml.reading("GPU-1").unwrap(), little);
        let problem = "`nvmlDeviceGetMemoryInfo` failed: GPU is lost (status 15)";
        assert_eq!(nvml.reading("GPU-2").unwrap_err().to_string(), problem);
        let unknown = nvml.reading("GPU-7").unwrap_err().to_string();
        assert_eq!(unknown, "`nvmlDeviceGetHandleByUUID` failed: status 77");
        assert!(nvml.reading("GPU\0").is_err());
        assert_eq!(started(), 1);
        drop(nvml);
        assert_eq!(started(), 0);
    }

    #[test]
    fn a_library_that_does_not_start_says_why() {
        let Some(opened) = fake(&["-DINIT=9"]) else { return };
        let error = Nvml::open(&opened).unwrap_err();
        assert_eq!(error.to_string(), "`nvmlInit_v2` failed: Driver Not Loaded (status 9)");
    }

    #[test]
    fn a_function_that_an_old_library_lacks_is_named() {
        let Some(opened) = fake(&["-DINIT=0", "-DOLD"]) else { return };
        let error = Nvml::open(&opened).unwrap_err().to_string();
        assert!(error.contains("libnvidia-ml.so.1` has no `nvmlDeviceGetEnforcedPowerLimit`: "), "{error}");
    }
}
