use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

const NVRTC: &str = "int nvrtcVersion(int *major, int *minor) { *major = 12; *minor = 97; return 0; }";

/// Compiles a library; false, with a reason, where there is no compiler.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
pub(in super::super) fn shared(path: &Path, source: &str, options: &[&str]) -> bool {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let text = path.with_extension("c");
    fs::write(&text, source).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"]).arg(path).arg(&text).args(options);
    match cc.output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(error) => {
            eprintln!("skipped: `cc` cannot be started: {error}");
            false
        }
    }
}

fn put(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Places below `root`, without the loader of this machine.
fn search(root: &Path, variables: &[(&'static str, PathBuf)]) -> Search {
    let variables: HashMap<_, OsString> = variables.iter().map(|(name, path)| (*name, path.into())).collect();
    Search::new(|name| variables.get(name).cloned(), root, false)
}

fn places(search: &Search) -> Vec<String> {
    search.0.iter().map(|step| step.place.to_string()).collect()
}

/// Where the packages of pip are looked for, below `root`.
fn packages(search: &Search, root: &Path) -> Vec<String> {
    let found = search.0.iter().filter_map(|step| match &step.place {
        Place::Pip(packages) => Some(packages.strip_prefix(root).unwrap().display().to_string()),
        _ => None,
    });
    found.collect()
}

/// Runs the test `name` of this file again, in a process whose loader looks in `library_path`.
fn again(name: &str, root: &Path, library_path: &Path) {
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "--nocapture", &format!("{module}::{name}")]);
    let output = test.env("HOST_TEST_ROOT", root).env("LD_LIBRARY_PATH", library_path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// In such a process: the places, with the loader.
fn search_again() -> Option<(PathBuf, Search)> {
    let root = PathBuf::from(std::env::var_os("HOST_TEST_ROOT")?);
    let search = Search::new(|name| std::env::var_os(name).filter(|_| name == "LD_LIBRARY_PATH"), &root, true);
    Some((root, search))
}

#[test]
fn what_is_nowhere_is_missing_with_places_and_help() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    fs::create_dir_all(root.join("home/.local/lib/python3.12/site-packages")).unwrap();
    fs::create_dir_all(root.join("mine")).unwrap();
    let variables = [(OVERRIDE, root.join("mine")), ("CUDA_HOME", root.join("absent")), ("HOME", root.join("home"))];
    let missing = open(Name::Nvrtc, &search(root, &variables), Some(12)).unwrap_err();
    let text = missing.to_string();
    assert!(text.starts_with("cannot find NVRTC: `libnvrtc.so.12`\nlooked in:\n"), "{text}");
    assert!(text.contains(&format!("\n  HOST_CUDA_LIBRARY_PATH: `{}`\n", root.join("mine").display())), "{text}");
    assert!(text.contains(&format!("\n  CUDA_HOME: none of `{}`", root.join("absent/lib64").display())), "{text}");
    assert!(text.contains("\n  /usr/local/cuda: none of "), "{text}");
    let packages = root.join("home/.local/lib/python3.12/site-packages");
    assert!(text.ends_with(&format!("\n  pip: no CUDA libraries in `{}`", packages.display())), "{text}");
    assert!(
        missing.help().starts_with("`pip install nvidia-cuda-nvrtc-cu12 nvidia-cublas-cu12`, or"),
        "{}",
        missing.help()
    );
    assert!(missing.help().ends_with("if it is installed, set `HOST_CUDA_LIBRARY_PATH` to its directory"));
    assert!(!text.contains("not usable"), "{text}");

    for name in Name::ALL {
        let missing = open(name, &Search::default(), None).unwrap_err();
        assert!(missing.to_string().ends_with("looked in: no place"), "{missing}");
    }
}

#[test]
fn how_to_get_a_library_goes_by_the_driver() {
    assert!(Name::BlasLt.how_to_get(Some(13)).starts_with("`pip install nvidia-cuda-nvrtc nvidia-cublas`"));
    assert!(Name::BlasLt.how_to_get(Some(12)).contains("nvidia-cublas-cu12"));
    let both = Name::Nvrtc.how_to_get(None);
    assert!(both.contains("nvidia-cublas`") && both.contains("-cu12"), "{both}");
    assert!(Name::Nvrtc.how_to_get(Some(11)).starts_with("update NVIDIA's driver: it is for CUDA 11"));
    assert!(Name::Nvml.how_to_get(Some(12)).starts_with("install NVIDIA's driver"));
    assert_eq!(Name::Nvrtc.to_string(), "NVRTC (libnvrtc)");
    assert_eq!(Name::Driver.sonames(Some(12)), [("libcuda.so.1".to_owned(), None)]);
    assert_eq!(Name::BlasLt.sonames(Some(14)).len(), 2);
    assert_eq!(Name::BlasLt.sonames(Some(11)), []);
}

#[test]
fn broken_files_are_reported_and_the_search_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let file = |directory: &str| root.join(directory).join("libnvrtc.so.12");
    put(&file("text"), "an error page ".repeat(100));
    put(&file("short"), "\x7fELF");
    put(&file("cut-header"), [b"\x7fELF\x02\x01".as_slice(), &[1; 58]].concat());
    fs::create_dir_all(file("directory")).unwrap();
    fs::create_dir_all(root.join("dangling")).unwrap();
    symlink("libnvrtc.so.12.4.127", file("dangling")).unwrap();
    let mut directories =
        ["absent", "text", "short", "cut-header", "directory", "dangling"].map(|name| root.join(name)).to_vec();
    let variables = |directories: &[PathBuf]| [(OVERRIDE, std::env::join_paths(directories).unwrap().into())];
    let missing = open(Name::Nvrtc, &search(root, &variables(&directories)), Some(12)).unwrap_err();
    let text = missing.to_string();
    assert!(text.starts_with("cannot use NVRTC: `libnvrtc.so.12`\n"), "{text}");
    let said = |directory: &str, why: &str| text.contains(&format!("\n  `{}`: {why}", file(directory).display()));
    assert!(text.contains("\nfound, but not usable:\n"), "{text}");
    if cfg!(target_env = "gnu") {
        assert!(said("text", "invalid ELF header\n") && said("short", "file too short\n"), "{text}");
    }
    assert!(said("cut-header", "cut off: the file has 64 bytes"), "{text}");
    assert!(said("directory", "") && said("dangling", "No such file or directory"), "{text}");
    assert_eq!(missing.skipped.len(), 5, "{text}");

    if !shared(&file("good"), NVRTC, &[]) {
        return;
    }
    let whole = fs::read(file("good")).unwrap();
    put(&file("cut"), &whole[..whole.len() / 3]);
    shared(&file("other"), "int other;", &[]);
    shared(&root.join("other/libneeded.so"), "int needed;", &[]);
    let needed = root.join("other/libneeded.so");
    shared(&file("lonely"), NVRTC, &["-Wl,--no-as-needed", needed.to_str().unwrap()]);
    fs::remove_file(needed).unwrap();
    directories.extend(["cut", "other", "lonely", "good"].map(|name| root.join(name)));
    let opened = open(Name::Nvrtc, &search(root, &variables(&directories)), Some(12)).unwrap();
    assert_eq!(opened.path, file("good").canonicalize().unwrap());
    assert_eq!((opened.major, opened.place.to_string().as_str()), (Some(12), OVERRIDE));
    let notes = |directory: &str| {
        let start = format!("`{}`: ", file(directory).display());
        opened.skipped.iter().filter(|note| note.starts_with(&start)).map(String::as_str).collect::<String>()
    };
    assert!(notes("cut").contains("cut off: "), "{:?}", opened.skipped);
    assert!(notes("other").contains("nvrtcVersion"), "{:?}", opened.skipped);
    assert!(notes("lonely").contains("libneeded.so"), "{:?}", opened.skipped);
    assert!(notes("good").contains("`libnvrtc-builtins.so.12.*` is not beside it"), "{:?}", opened.skipped);
    // SAFETY: the test's own function, which writes two numbers.
    let version = unsafe {
        let version = opened.library.get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(c"nvrtcVersion");
        let (mut major, mut minor) = (0, 0);
        version.unwrap()(&raw mut major, &raw mut minor);
        (major, minor)
    };
    assert_eq!(version, (12, 97));
}

#[test]
fn stubs_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let stub = root.join("cuda/lib64/stubs/libcuda.so.1");
    put(&stub, "");
    fs::create_dir_all(root.join("links")).unwrap();
    symlink(&stub, root.join("links/libcuda.so.1")).unwrap();
    for directory in ["cuda/lib64/stubs", "links"] {
        let missing = open(Name::Driver, &search(root, &[(OVERRIDE, root.join(directory))]), None).unwrap_err();
        let note = format!("`{}`: {STUB}", root.join(directory).join("libcuda.so.1").display());
        assert_eq!(missing.skipped, [note]);
    }
    // Nor is a driver looked for in a toolkit.
    let missing = open(Name::Driver, &search(root, &[("CUDA_HOME", root.join("cuda"))]), None).unwrap_err();
    assert!(missing.skipped.is_empty() && missing.looked.len() == 1, "{missing}");
}

#[test]
fn the_newest_version_that_the_driver_allows_is_taken() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let source = "int cublasLtCreate(void) { return 0; }";
    for major in 11..=14 {
        if !shared(&root.join(format!("libcublasLt.so.{major}")), source, &[]) {
            return;
        }
    }
    let open = |most| open(Name::BlasLt, &search(root, &[(OVERRIDE, root.to_path_buf())]), most);
    assert_eq!(open(None).unwrap().major, Some(13));
    assert_eq!(open(Some(13)).unwrap().major, Some(13));
    let opened = open(Some(12)).unwrap();
    assert_eq!(opened.major, Some(12));
    let note = format!(
        "`{}`: needs a driver for CUDA 13; this driver is for CUDA 12: update the driver or `pip install \
         nvidia-cuda-nvrtc-cu12 nvidia-cublas-cu12`",
        root.join("libcublasLt.so.13").display()
    );
    assert!(opened.skipped.contains(&note), "{:?}", opened.skipped);
    let missing = open(Some(11)).unwrap_err();
    let text = missing.to_string();
    assert!(text.starts_with("cannot use cuBLASLt: libcublasLt\n"), "{text}");
    assert!(text.contains("libcublasLt.so.11`: of CUDA 11, which is too old"), "{text}");
    assert!(text.contains("needs a driver for CUDA 12; this driver is for CUDA 11: update the driver\n"), "{text}");
    assert!(missing.help().contains("update NVIDIA's driver"), "{}", missing.help());
    let known = open(None).unwrap().skipped;
    assert!(known[0].ends_with("of CUDA 14; the newest that is known is CUDA 13"), "{known:?}");
}

#[test]
fn places_are_looked_through_in_order() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let targets = search::TARGETS;
    let order = [
        ("mine", OVERRIDE),
        ("home/lib64", "CUDA_HOME"),
        ("home/lib", "CUDA_HOME"),
        (&format!("path/{targets}"), "CUDA_PATH"),
        ("conda/lib", "CONDA_PREFIX"),
        ("usr/local/cuda/lib64", "/usr/local/cuda"),
        ("usr/local/cuda-12.10/lib64", "/usr/local/cuda"),
        ("usr/local/cuda-12.4/lib64", "/usr/local/cuda"),
        ("venv/lib/python3.12/site-packages/nvidia/cu12/lib", "pip"),
        ("venv/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib", "pip"),
        ("venv/lib/python3.9/site-packages/nvidia/cuda_nvrtc/lib", "pip"),
        ("conda/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib", "pip"),
    ];
    for (directory, _) in order {
        if !shared(&root.join(directory).join("libnvrtc.so.12"), NVRTC, &[]) {
            return;
        }
    }
    let variables = [
        (OVERRIDE, root.join("mine")),
        ("CUDA_HOME", root.join("home")),
        ("CUDA_PATH", root.join("path")),
        ("VIRTUAL_ENV", root.join("venv")),
        ("CONDA_PREFIX", root.join("conda")),
    ];
    let search = search(root, &variables);
    for (directory, place) in order {
        let file = root.join(directory).join("libnvrtc.so.12");
        let opened = open(Name::Nvrtc, &search, Some(12)).unwrap();
        assert_eq!(opened.path, file.canonicalize().unwrap());
        assert!(opened.place.to_string().starts_with(place), "{} is not {place}", opened.place);
        fs::remove_file(file).unwrap();
    }
    assert!(open(Name::Nvrtc, &search, Some(12)).is_err());
    let with_loader = Search::new(|name| (name == OVERRIDE).then(|| "/mine".into()), root, true);
    let names = places(&with_loader);
    assert_eq!(names, [OVERRIDE, "the loader", "directories of the driver", "/usr/local/cuda"]);
}

#[test]
fn the_driver_is_found_where_wsl_puts_it() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("usr/lib/wsl/lib/libnvidia-ml.so.1");
    if shared(&file, "int nvmlInit_v2(void) { return 0; }", &[]) {
        let opened = open(Name::Nvml, &search(root.path(), &[]), None).unwrap();
        assert_eq!((opened.path, opened.place, opened.major), (file.canonicalize().unwrap(), Place::Driver, None));
        assert!(opened.skipped.is_empty());
    }
}

#[test]
fn packages_are_those_of_the_python_on_the_path() {
    let root = tempfile::tempdir().unwrap();
    let root = &root.path().canonicalize().unwrap();
    for prefix in ["system", "system/local", "venv", "copied", "home/.local", "pyenv/versions/3.11.7"] {
        fs::create_dir_all(root.join(prefix).join("lib/python3.11/site-packages")).unwrap();
    }
    fs::create_dir_all(root.join("system/local/lib/python3.11/dist-packages")).unwrap();
    let path = |bin: &str| {
        let path = std::env::join_paths([&root.join("none"), &root.join(bin)]).unwrap();
        packages(&search(root, &[("PATH", path.into()), ("HOME", root.join("home"))]), root)
    };
    put(&root.join("system/bin/python3.11"), "");
    symlink("python3.11", root.join("system/bin/python3")).unwrap();
    let user = "home/.local/lib/python3.11/site-packages";
    let system = [
        "system/lib/python3.11/site-packages",
        "system/local/lib/python3.11/site-packages",
        "system/local/lib/python3.11/dist-packages",
    ];
    assert_eq!(path("system/bin"), [&[user], &system[..]].concat());

    fs::create_dir_all(root.join("venv/bin")).unwrap();
    symlink(root.join("system/bin/python3"), root.join("venv/bin/python3")).unwrap();
    assert_eq!(path("venv/bin"), [&[user, "venv/lib/python3.11/site-packages"], &system[..]].concat());

    put(&root.join("copied/bin/python3"), "");
    put(&root.join("copied/pyvenv.cfg"), format!("home = {}\nversion = 3.11.7\n", root.join("system/bin").display()));
    assert_eq!(path("copied/bin"), [&[user, "copied/lib/python3.11/site-packages"], &system[..]].concat());

    put(&root.join("pyenv/shims/python3"), "#!/usr/bin/env bash\n");
    assert_eq!(path("pyenv/shims"), [user, "pyenv/versions/3.11.7/lib/python3.11/site-packages"]);
    assert_eq!(path("none"), [user]);
}

#[test]
fn the_compilers_builtins_are_opened_with_it() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let source = format!(
        "#include <dlfcn.h>\n{NVRTC}\nint finds(void) {{ return dlopen(\"libnvrtc-builtins.so.12.97\", RTLD_NOW) != 0; }}"
    );
    // The link leads elsewhere: what is beside the file itself counts too.
    let (store, links) = (root.join("store"), root.join("links"));
    if !shared(&store.join("libnvrtc.so.12"), &source, &["-ldl"]) {
        return;
    }
    fs::create_dir_all(&links).unwrap();
    symlink(store.join("libnvrtc.so.12"), links.join("libnvrtc.so.12")).unwrap();
    let builtins = store.join("libnvrtc-builtins.so.12.97");
    put(&builtins, "\x7fELF");
    let open = || open(Name::Nvrtc, &search(root, &[(OVERRIDE, links.clone())]), Some(12));
    let text = open().unwrap_err().to_string();
    assert!(text.contains(&format!("libnvrtc.so.12`: needs `{}`: ", builtins.display())), "{text}");
    shared(&builtins, "int builtins;", &["-Wl,-soname,libnvrtc-builtins.so.12.97"]);
    let opened = open().unwrap();
    assert!(opened.skipped.is_empty(), "{:?}", opened.skipped);
    // SAFETY: the test's own function, which takes nothing.
    assert_eq!(unsafe { opened.library.get::<unsafe extern "C" fn() -> c_int>(c"finds").unwrap()() }, 1);
}

#[test]
fn the_loader_is_asked_and_tells_the_file() {
    if let Some((root, search)) = search_again() {
        let opened = open(Name::Nvrtc, &search, None).unwrap();
        assert_eq!(opened.path, root.join("store/libnvrtc.so.13.0"));
        assert_eq!((opened.major, opened.place), (Some(13), Place::Loader));
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let root = &root.path().canonicalize().unwrap();
    if shared(&root.join("store/libnvrtc.so.13.0"), NVRTC, &["-Wl,-soname,libnvrtc.so.13"]) {
        fs::create_dir_all(root.join("known")).unwrap();
        symlink("../store/libnvrtc.so.13.0", root.join("known/libnvrtc.so.13")).unwrap();
        again("the_loader_is_asked_and_tells_the_file", root, &root.join("known"));
    }
}

#[test]
fn what_the_loader_trips_over_does_not_hide_the_driver() {
    if let Some((root, search)) = search_again() {
        let opened = open(Name::Driver, &search, None).unwrap();
        assert_eq!(opened.path, root.join("usr/lib64/libcuda.so.1"));
        assert_eq!(opened.skipped, [format!("`{}`: {STUB}", root.join("stubs/libcuda.so.1").display())]);
        // The loader no longer answers with the stub.
        // SAFETY: the test's own number.
        assert_eq!(unsafe { **opened.library.get::<*const c_int>(c"real").unwrap() }, 1);
        assert!(!fs::read_to_string("/proc/self/maps").unwrap().contains("/stubs/"));
        // A library of CUDA 13 that only a newer driver could use is named.
        let missing = open(Name::BlasLt, &search, Some(12));
        let skipped = missing.map_or_else(|missing| missing.skipped, |opened| opened.skipped);
        let broken = format!("`{}`: ", root.join("stubs/libcublasLt.so.12").display());
        assert_eq!(skipped.iter().filter(|note| note.starts_with(&broken)).count(), 1, "{skipped:?}");
        assert!(skipped.iter().any(|note| note.contains("libcublasLt.so.13`: needs a driver for CUDA 13")));
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let root = &root.path().canonicalize().unwrap();
    let source = |real| format!("int cuInit(void) {{ return 0; }} int real = {real};");
    let soname = ["-Wl,-soname,libcuda.so.1"];
    if cfg!(target_env = "gnu") && shared(&root.join("stubs/libcuda.so.1"), &source(0), &soname) {
        shared(&root.join("usr/lib64/libcuda.so.1"), &source(1), &soname);
        put(&root.join("stubs/libcublasLt.so.12"), "an error page ".repeat(100));
        put(&root.join("usr/lib64/libcublasLt.so.13"), "");
        again("what_the_loader_trips_over_does_not_hide_the_driver", root, &root.join("stubs"));
    }
}
