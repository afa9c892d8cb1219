//! Compiling a stranger's plugin in a process of its own. wasmtime bounds what a guest does when it runs, not what it
//! costs to compile it; a process can be given a limit of memory and can be ended.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use wasmtime::Engine;

use crate::error::{PluginError, one_line};
use crate::limits::Limits;
use crate::sandbox::engine_config;

/// Bytes of compiled code that are taken from the process.
const CODE_LIMIT: u64 = 1 << 30;
/// Bytes of what it says that are kept.
const WORDS_LIMIT: u64 = 4096;
/// Status of the process for a plugin that does not compile.
const REFUSED: i32 = 3;

/// How to start a process that compiles: a program with arguments that ends in [`compile_main`].
pub type CompilerCommand = Vec<OsString>;

/// Compiles in a process of its own, within the limits of time and memory.
pub(crate) fn apart(
    command: &CompilerCommand,
    bytes: &[u8],
    name: &str,
    limits: &Limits,
) -> Result<Vec<u8>, PluginError> {
    let failed = |error: std::io::Error| {
        PluginError::new("plugin::engine", format!("the process that compiles `{name}` cannot be started"))
            .plugin(name)
            .why(error.to_string())
    };
    let (program, arguments) = command.split_first().expect("a command has a program");
    let mut process = Command::new(program)
        .args(arguments)
        .arg(limits.compile_bytes.to_string())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (process.stdin.take(), process.stdout.take(), process.stderr.take())
    else {
        unreachable!("all three were asked for")
    };
    std::thread::scope(|scope| {
        // A process that ended early closes the pipe; what it says tells why.
        scope.spawn(move || drop(stdin.write_all(bytes)));
        let code = scope.spawn(move || read(stdout, CODE_LIMIT));
        let words = scope.spawn(move || read(stderr, WORDS_LIMIT));
        let ended = wait(&mut process, limits.compile);
        let (code, words) = (code.join().unwrap_or_default(), words.join().unwrap_or_default());
        let words = one_line(String::from_utf8_lossy(&words).trim(), 500);
        match ended {
            Ok(Some(status)) if status.success() => Ok(code),
            Ok(Some(status)) if status.code() == Some(REFUSED) => {
                Err(PluginError::new("plugin::invalid", format!("plugin `{name}` cannot be compiled"))
                    .plugin(name)
                    .why(words))
            }
            Ok(Some(status)) => {
                let said = if words.is_empty() { "nothing".to_owned() } else { format!("`{words}`") };
                // Out of memory, an allocation aborts the process.
                Err(if status.code().is_none() {
                    let megabytes = (limits.compile_bytes >> 20) as u128;
                    too_much(name, &format!("{megabytes} MiB of memory"), "compile_mb", megabytes)
                } else {
                    PluginError::new("plugin::engine", format!("the process that compiles `{name}` failed"))
                        .plugin(name)
                }
                .note(format!("it ended with {status} and said {said}")))
            }
            Ok(None) => {
                let milliseconds = limits.compile.as_millis();
                Err(too_much(name, &format!("{milliseconds} ms"), "compile_ms", milliseconds))
            }
            Err(error) => Err(failed(error)),
        }
    })
}

fn too_much(name: &str, what: &str, key: &str, limit: u128) -> PluginError {
    PluginError::new("plugin::limit", format!("compiling plugin `{name}` takes more than {what}"))
        .plugin(name)
        .why("it is very large, or made to be hard to compile")
        .help(format!("if you trust it: `plugins: [{{name: {name}, limits: {{{key}: {}}}}}]`", limit * 4))
}

fn read(from: impl Read, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read before an error is what there is.
    let _ = from.take(limit).read_to_end(&mut bytes);
    bytes
}

/// Waits for the end; none where the time ran out and the process was ended.
fn wait(process: &mut Child, limit: Duration) -> std::io::Result<Option<std::process::ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = process.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            process.kill()?;
            process.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The process that compiles: a component on stdin, compiled code on stdout. `memory` is the most it may take, in bytes.
#[expect(clippy::disallowed_methods, reason = "whoever started this process reads it")]
pub fn compile_main(memory: u64) -> ExitCode {
    end_with_parent();
    limit_memory(memory);
    let mut bytes = Vec::new();
    let compiled = std::io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(wasmtime::Error::from)
        .and_then(|_| Engine::new(&engine_config())?.precompile_component(&bytes));
    match compiled {
        Ok(code) if std::io::stdout().lock().write_all(&code).is_ok() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _ = write!(std::io::stderr(), "{error:#}");
            ExitCode::from(REFUSED as u8)
        }
    }
}

/// Whoever waits for the code ends this process too, however it ends.
fn end_with_parent() {
    #[cfg(target_os = "linux")]
    // SAFETY: asks for a signal to this process.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
}

/// Memory that this process may map from now on: past that, allocation fails and the process ends.
fn limit_memory(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: changes only what this process may use.
    unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: as above; running out of memory is no reason for a core file.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
}
