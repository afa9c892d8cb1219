//! Devices: what is there and what is missing, and runs on the emulated GPU of `tests/gpu/emulator`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use super::support::{CONFIG, Outcome, Project, finish, root};

/// The emulated libraries; none, said past the test's captured output, where they cannot be built.
#[expect(clippy::disallowed_methods, reason = "says past the test's captured output that it is skipped")]
fn emulator() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
        let done = Command::new("sh").arg(root().join("tests/gpu/emulator/build.sh")).arg(&built).output();
        if done.as_ref().is_ok_and(|done| done.status.success()) {
            return Some(built);
        }
        let _ = writeln!(std::io::stderr(), "skipped, nothing is run on an emulated GPU: {done:?}");
        None
    };
    BUILT.get_or_init(build).as_deref()
}

/// A command that finds the libraries of a directory, and none elsewhere.
fn with_libraries(project: &Project, directory: &Path, knobs: &[(&str, &str)], arguments: &[&str]) -> Outcome {
    let mut command = project.command(arguments);
    for variable in ["LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX", "VIRTUAL_ENV"] {
        command.env_remove(variable);
    }
    command.env("HOST_CUDA_LIBRARY_PATH", directory).envs(knobs.iter().copied());
    finish(command.spawn().unwrap())
}

fn doctor(project: &Project, directory: &Path, knobs: &[(&str, &str)]) -> Value {
    let outcome = with_libraries(project, directory, knobs, &["doctor", "--json"]);
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn the_doctor_says_what_there_is_of_cuda() {
    let Some(emulator) = emulator() else { return };
    let project = Project::new();
    let facts = doctor(&project, emulator, &[("HOST_EMULATOR_DEVICES", "2")]);
    assert_eq!((facts["device"].as_str(), facts["cuda"]["driver_version"].as_str()), (Some("cuda"), Some("550.54.15")));
    let second = &facts["cuda"]["devices"][1];
    assert_eq!((second["name"].as_str(), second["precision"].as_str()), (Some("Emulated GPU 1"), Some("bfloat16")));
    assert_eq!(second["reading"]["power_milliwatts"], 81_000);
    for library in facts["cuda"]["libraries"].as_array().unwrap() {
        assert!(library["path"].as_str().unwrap().starts_with(emulator.canonicalize().unwrap().to_str().unwrap()));
        assert_eq!(library["problem"], Value::Null);
    }
    // cuDNN is the one that nothing needs; that it is not there is no problem.
    let project = Project::new();
    std::fs::create_dir(project.path("libraries")).unwrap();
    for file in std::fs::read_dir(emulator).unwrap().map(Result::unwrap) {
        if file.file_name() != "libcudnn.so.9" {
            std::fs::copy(file.path(), project.path("libraries").join(file.file_name())).unwrap();
        }
    }
    let outcome = with_libraries(&project, &project.path("libraries"), &[], &["doctor"]);
    assert!(
        outcome.stdout.contains("cuda      libcudnn: not found\n          help: `pip install"),
        "{}",
        outcome.stdout
    );

    let facts = doctor(&project, emulator, &[("HOST_EMULATOR_DEVICES", "0")]);
    assert_eq!((facts["device"].as_str(), facts["cuda"]["devices"].as_array().unwrap().len()), (Some("cpu"), 0));
    let problem = facts["cuda"]["problem"].as_str().unwrap();
    assert!(problem.contains("sees no GPU"), "{problem}");
}

#[test]
fn a_broken_library_is_named_and_the_doctor_stays_well() {
    let project = Project::new();
    std::fs::create_dir(project.path("libraries")).unwrap();
    project.write("libraries/libcuda.so.1", "not a library");
    let facts = doctor(&project, &project.path("libraries"), &[]);
    let problem = facts["cuda"]["libraries"][0]["problem"].as_str().unwrap();
    assert!(problem.contains("libraries/libcuda.so.1`: file too short"), "{problem}");
}

#[test]
fn what_a_config_asks_for_and_the_machine_lacks_is_said_before_anything_is_spent() {
    let Some(emulator) = emulator() else { return };
    let project = Project::new();
    let check = |directory: &Path, knobs: &[(&str, &str)], set: &str| {
        let outcome = with_libraries(&project, directory, knobs, &["check", "host.yml", "--set", set]);
        assert_eq!(outcome.status, 1, "{}", outcome.stderr);
        outcome.stdout + &outcome.stderr
    };
    let text = check(emulator, &[], "device=gpu");
    assert!(text.contains("error[config::unknown-value]: `gpu` is not a value of `device`"), "{text}");
    let text = check(emulator, &[], "device=cuda:3");
    assert!(text.contains("error[device::missing]: there is no GPU 3: this machine has 1"), "{text}");
    let text = check(emulator, &[("HOST_EMULATOR_DEVICES", "0")], "device=cuda");
    assert!(text.contains("error[device::missing]: the NVIDIA driver is installed, but sees no GPU"), "{text}");
    let text = check(emulator, &[("HOST_EMULATOR_CAPABILITY", "75")], "bf16=true");
    assert!(text.contains("error[device::bf16]: `bf16: true`, but Emulated GPU 0 has no bfloat16"), "{text}");
    let text = check(emulator, &[("HOST_EMULATOR_FAIL", "cuInit:1")], "sequence_len=64");
    assert!(text.contains("error[device::missing]: the NVIDIA driver does not work"), "{text}");

    // The driver alone: a GPU is there and cannot be used. On the CPU nobody trains by accident.
    std::fs::create_dir(project.path("libraries")).unwrap();
    std::fs::copy(emulator.join("libcuda.so.1"), project.path("libraries/libcuda.so.1")).unwrap();
    let text = check(&project.path("libraries"), &[], "sequence_len=64");
    assert!(text.contains("error[device::library]: `cuda:0` (Emulated GPU 0) cannot be used"), "{text}");
    assert!(text.contains("cannot find NVRTC: `libnvrtc.so.12`"), "{text}");
    assert!(text.contains("help: `pip install nvidia-cuda-nvrtc-cu12 nvidia-cublas-cu12`"), "{text}");
    let outcome =
        with_libraries(&project, &project.path("libraries"), &[], &["check", "host.yml", "--set", "device=cpu"]);
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
}

#[test]
fn a_run_on_a_gpu_goes_on_byte_for_byte_and_a_failure_of_the_device_is_told() {
    let Some(emulator) = emulator() else { return };
    let project = Project::new();
    project.write("host.yml", format!("{CONFIG}device: cuda\nsave_steps: 2\n"));
    let train = |output: &str, knobs: &[(&str, &str)], more: &[&str]| {
        let directory = format!("output_dir={output}");
        with_libraries(&project, emulator, knobs, &[&["train", "host.yml", "--set", &directory], more].concat())
    };
    let outcome = train("whole", &[], &[]);
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    let run: Value = serde_json::from_str(&project.read("whole/run.json")).unwrap();
    assert_eq!((run["device"].as_str(), run["precision"].as_str()), (Some("cuda"), Some("bfloat16")));
    assert_eq!(run["device_name"], "Emulated GPU 0");
    let usage = &run["summary"]["device_usage"];
    let peak = usage["peak_memory_bytes"].as_u64().unwrap();
    assert!(peak > 1 << 20 && usage["remarks"] == serde_json::json!([]), "{usage}");
    assert!(usage["graph_launches"].as_u64().unwrap() > 0, "{usage}");
    assert!(outcome.stderr.contains(" MB of the GPU's, "), "{}", outcome.stderr);

    // The device gives up in the third step: what was saved is there, and the run goes on from it.
    let outcome = train("failing", &[("HOST_EMULATOR_FAIL", "cuLaunchKernel:330")], &[]);
    assert_eq!(outcome.status, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("error[device::failed]"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("unknown error (CUDA_ERROR_UNKNOWN)"), "{}", outcome.stderr);
    assert!(project.path("failing/checkpoint-2").is_dir(), "{}", outcome.stderr);
    let outcome = train("failing", &[], &["--resume", "auto"]);
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    let bytes = |output: &str| std::fs::read(project.path(&format!("{output}/model.safetensors"))).unwrap();
    assert!(bytes("whole") == bytes("failing"), "a run that went on is the same");

    // The plan foresees what does not fit, and the device says so too.
    let outcome = train("small", &[("HOST_EMULATOR_MEMORY", "30000000")], &[]);
    assert_eq!(outcome.status, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("warning[plan::memory]: the run needs about"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("`cuda:0` (Emulated GPU 0) has"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("error[device::memory]"), "{}", outcome.stderr);
}
