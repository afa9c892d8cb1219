//! Attention of long documents by cuDNN: that the CUDA backend asks it for the right thing, and does without it where it is
//! not as it should be. One test, since the emulated library is told how to behave by the environment.

#[path = "emulator/attend.rs"]
mod attend;
mod emulator;

use std::io::Write as _;

use attend::{assert_near, attend, heads};
use engine::kernels::Precision;
use engine::kernels::cpu::CpuKernels;

/// Three for cuDNN, and one that is too short for it.
const DOCUMENTS: [u32; 4] = [300, 20, 512, 257];

#[test]
#[expect(clippy::disallowed_methods, reason = "says past the test's captured output that it is skipped")]
fn long_documents_are_computed_by_cudnn_where_it_can_be_trusted() {
    let shape = heads(3, 1, 64);
    let expected = attend(&CpuKernels, shape, None, &DOCUMENTS);
    // On a GPU there is what there is.
    let real = std::env::var_os("HOST_TEST_GPU").is_some();
    for (behaviour, version, told) in [
        ("", "92600", "documents of up to 512 tokens: forward by cuDNN; backward by cuDNN"),
        (
            "forward",
            "92600",
            "forward by cuDNN; backward not by cuDNN: cudnnBackendFinalize: CUDNN_STATUS_NOT_SUPPORTED",
        ),
        ("wrong", "92600", "forward not by cuDNN: its output is 1.0e-1 away from this trainer's"),
        ("random", "92600", "backward not by cuDNN: its gradient has not the same bits twice"),
        (
            "none",
            "92600",
            "forward not by cuDNN: cudnnBackendFinalize: CUDNN_STATUS_NOT_SUPPORTED (status 3000): no ker",
        ),
        (
            "failing",
            "92600",
            "forward not by cuDNN: cudnnBackendExecute: CUDNN_STATUS_EXECUTION_FAILED (status 5000): no luck; backward not",
        ),
        ("", "92000", "documents of more than 256 tokens: not by cuDNN: 9.21.0 or newer needed, 9.20.0 found"),
    ] {
        // SAFETY: this program has one test, and no other thread reads the environment now.
        unsafe {
            std::env::set_var("HOST_EMULATOR_CUDNN", behaviour);
            std::env::set_var("HOST_EMULATOR_CUDNN_VERSION", version);
        }
        let Some(kernels) = emulator::device(Precision::Bf16) else { return };
        let found = attend(&kernels, shape, None, &DOCUMENTS);
        let what = format!("cuDNN {version} {behaviour}: {:?}", kernels.attention());
        assert_near(&found, &expected, 8e-3, &what);
        if real {
            let _ = writeln!(std::io::stderr(), "{what}");
            return;
        }
        assert!(matches!(&kernels.attention()[..], [line] if line.contains(told)), "{what}");
    }
}
