//! The CUDA backend on the emulated device of `tests/gpu/emulator`, or on the machine's own where `HOST_TEST_GPU` is set.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use engine::kernels::Precision;
use engine::kernels::cuda::CudaKernels;
use engine::kernels::cuda::library::Search;
use engine::kernels::cuda::system::System;

/// Where the libraries are; none, said past the test's captured output, where there is neither a GPU nor an emulator.
#[expect(clippy::disallowed_methods, reason = "says past the test's captured output that it is skipped")]
fn search() -> Option<&'static Search> {
    static SEARCH: OnceLock<Option<Search>> = OnceLock::new();
    let find = || {
        if std::env::var_os("HOST_TEST_GPU").is_some() {
            return Some(Search::of_process());
        }
        let emulator = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/gpu/emulator");
        let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
        let done = Command::new("sh").arg(emulator.join("build.sh")).arg(&built).output();
        let python = Command::new("python3").arg("--version").output();
        match (done, python) {
            (Ok(done), Ok(_)) if done.status.success() => {
                let variable = |name: &str| (name == "HOST_CUDA_LIBRARY_PATH").then(|| built.clone().into_os_string());
                Some(Search::new(variable, Path::new("/nowhere"), false))
            }
            (done, _) => {
                let _ = writeln!(std::io::stderr(), "skipped, the CUDA backend is not run: no emulator: {done:?}");
                None
            }
        }
    };
    SEARCH.get_or_init(find).as_ref()
}

/// Where compiled kernels are kept. What the emulator makes of a source depends on its own text too.
fn cache() -> PathBuf {
    let emulator = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/gpu/emulator");
    let mut hasher = DefaultHasher::new();
    for file in ["device.h", "compile.py", "nvrtc.cpp"] {
        std::fs::read(emulator.join(file)).unwrap().hash(&mut hasher);
    }
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{:016x}", hasher.finish()))
}

pub(super) fn device(precision: Precision) -> Option<CudaKernels> {
    let search = search()?;
    let system = System::find(search).unwrap();
    // A test program on a GPU may have been built elsewhere.
    let on_gpu = std::env::var_os("HOST_TEST_GPU").is_some();
    let cache = if on_gpu { std::env::temp_dir().join("host-test-kernels") } else { cache() };
    Some(system.open(0, precision, Some(cache)).unwrap())
}
