//! The program that `cargo xtask fuzz` runs: libFuzzer around one target, which `FUZZ_TARGET` names.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod libfuzzer {
    use std::sync::LazyLock;

    static TARGET: LazyLock<fuzz::Target> = LazyLock::new(|| {
        let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
        fuzz::target(&name).unwrap_or_else(|| panic!("there is no target `{name}`"))
    });

    libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
}

#[cfg(not(fuzzing))]
#[expect(clippy::print_stderr, reason = "it has nothing else to do")]
fn main() -> std::process::ExitCode {
    eprintln!("run it with `cargo xtask fuzz`, which builds it around a fuzzer");
    std::process::ExitCode::from(2)
}
