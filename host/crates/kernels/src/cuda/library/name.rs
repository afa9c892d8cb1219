//! The names of NVIDIA's libraries, and how to get them.

use std::ffi::CStr;
use std::fmt;

/// Major versions of CUDA whose libraries are used, newest first.
pub(super) const MAJORS: [u32; 2] = [13, 12];

/// A library of NVIDIA's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// libcuda: the driver.
    Driver,
    /// libnvrtc: the compiler for kernels.
    Nvrtc,
    /// libcublasLt: products of matrices.
    BlasLt,
    /// libcudnn: attention, where it is the faster one.
    Cudnn,
    /// libnvidia-ml: what a device is doing.
    Nvml,
}

impl Name {
    /// All of them, in the order in which they are needed.
    pub const ALL: [Self; 5] = [Self::Driver, Self::Nvrtc, Self::BlasLt, Self::Cudnn, Self::Nvml];

    /// What users call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Driver => "the NVIDIA driver",
            Self::Nvrtc => "NVRTC",
            Self::BlasLt => "cuBLASLt",
            Self::Cudnn => "cuDNN",
            Self::Nvml => "NVML",
        }
    }

    /// Names for the loader, with the major version of CUDA where it is part of the name; newest first, and none that
    /// needs a driver for a CUDA newer than `max_major`.
    pub fn sonames(self, max_major: Option<u32>) -> Vec<(String, Option<u32>)> {
        if let Some(number) = self.own_number() {
            return vec![(format!("{}.so.{number}", self.stem()), None)];
        }
        let allowed = MAJORS.into_iter().filter(|&major| max_major.is_none_or(|most| major <= most));
        allowed.map(|major| (format!("{}.so.{major}", self.stem()), Some(major))).collect()
    }

    /// How to get it where the driver is for a CUDA of `max_major`.
    pub fn how_to_get(self, max_major: Option<u32>) -> String {
        let oldest = MAJORS[MAJORS.len() - 1];
        let wheels = match max_major {
            _ if self.is_of_driver() => {
                return "install NVIDIA's driver with the package of your distribution or from \
                        https://www.nvidia.com/drivers (a container needs the NVIDIA Container Toolkit and `--gpus all`)"
                    .to_owned();
            }
            Some(most) if most < oldest => {
                return format!(
                    "update NVIDIA's driver: it is for CUDA {most}, and CUDA {oldest} is the oldest that works"
                );
            }
            Some(most) => format!("`{}`", self.pip(most)),
            None => format!("`{}` (for CUDA 13) or `{}` (for CUDA 12)", self.pip(13), self.pip(12)),
        };
        if self == Self::Cudnn {
            return format!(
                "{wheels}, or install cuDNN 9; nothing needs it, but on compute capability 9.0 and newer it may compute \
                 attention of long documents faster"
            );
        }
        format!("{wheels}, or install the CUDA toolkit")
    }

    pub(super) fn is_of_driver(self) -> bool {
        matches!(self, Self::Driver | Self::Nvml)
    }

    /// Whether no GPU can be trained on without it.
    pub fn is_needed(self) -> bool {
        !matches!(self, Self::Cudnn | Self::Nvml)
    }

    /// The number in its name, where that is not the major version of CUDA.
    pub(super) fn own_number(self) -> Option<u32> {
        match self {
            Self::Driver | Self::Nvml => Some(1),
            Self::Cudnn => Some(9),
            Self::Nvrtc | Self::BlasLt => None,
        }
    }

    /// The name of its file up to `.so`.
    pub fn stem(self) -> &'static str {
        match self {
            Self::Driver => "libcuda",
            Self::Nvrtc => "libnvrtc",
            Self::BlasLt => "libcublasLt",
            Self::Cudnn => "libcudnn",
            Self::Nvml => "libnvidia-ml",
        }
    }

    /// The command that installs it, of the newest CUDA that a driver supports.
    pub(super) fn pip(self, most: u32) -> &'static str {
        match (self, most >= 13) {
            (Self::Cudnn, true) => "pip install nvidia-cudnn-cu13",
            (Self::Cudnn, false) => "pip install nvidia-cudnn-cu12",
            (_, true) => "pip install nvidia-cuda-nvrtc nvidia-cublas",
            (_, false) => "pip install nvidia-cuda-nvrtc-cu12 nvidia-cublas-cu12",
        }
    }

    /// A function that every version of it has.
    pub(super) fn function(self) -> &'static CStr {
        match self {
            Self::Driver => c"cuInit",
            Self::Nvrtc => c"nvrtcVersion",
            Self::BlasLt => c"cublasLtCreate",
            Self::Cudnn => c"cudnnBackendExecute",
            Self::Nvml => c"nvmlInit_v2",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.title(), self.stem())
    }
}
