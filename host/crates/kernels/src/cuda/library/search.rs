//! The places where NVIDIA's libraries may be, in the order in which they are looked through.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::name::Name;

/// The variable that goes before everything else.
pub(super) const OVERRIDE: &str = "HOST_CUDA_LIBRARY_PATH";
/// Where a toolkit has its libraries for this kind of machine.
pub(super) const TARGETS: &str =
    if cfg!(target_arch = "aarch64") { "targets/sbsa-linux/lib" } else { "targets/x86_64-linux/lib" };
/// Where a toolkit has its libraries.
const TOOLKIT: [&str; 3] = ["lib64", "lib", TARGETS];
/// Where wheels have theirs, in site-packages.
const WHEELS: [&str; 5] =
    ["nvidia/cu13/lib", "nvidia/cu12/lib", "nvidia/cuda_nvrtc/lib", "nvidia/cublas/lib", "nvidia/cudnn/lib"];
/// Where drivers are put that the loader may not know: by WSL, NixOS, and Kubernetes.
const DRIVERS: [&str; 3] = ["usr/lib/wsl/lib", "run/opengl-driver/lib", "usr/local/nvidia/lib64"];
/// Where the loader looks, as far as it can be told.
const USUAL: [&str; 4] = ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib"];

/// How a library was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A directory that a variable names, or one below it.
    Variable(&'static str),
    /// The loader's own search: `LD_LIBRARY_PATH`, what ldconfig knows, the system's directories.
    Loader,
    /// Where drivers are put on some systems.
    Driver,
    /// Where the toolkit is installed.
    Toolkit,
    /// Packages of a Python installation: its `site-packages`.
    Pip(PathBuf),
}

impl Place {
    /// Whether a library may be there.
    pub(super) fn may_have(&self, name: Name) -> bool {
        match self {
            Self::Variable(OVERRIDE) | Self::Loader => true,
            Self::Driver => name.is_of_driver(),
            _ => !name.is_of_driver(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(variable) => f.write_str(variable),
            Self::Loader => f.write_str("the loader"),
            Self::Driver => f.write_str("directories of the driver"),
            Self::Toolkit => f.write_str("/usr/local/cuda"),
            Self::Pip(packages) => write!(f, "pip ({})", packages.display()),
        }
    }
}

/// The places where libraries are looked for, in order. The default has none, as a machine without CUDA.
#[derive(Debug, Clone, Default)]
pub struct Search(pub(super) Vec<Step>);

/// A place with its directories; at least one.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) place: Place,
    pub(super) directories: Vec<PathBuf>,
}

impl Search {
    /// The places of this process: its environment, its loader, the system's directories.
    pub fn of_process() -> Self {
        Self::new(std::env::var_os::<&str>, Path::new("/"), true)
    }

    /// The places for variables, a root of the file system, and with or without the loader's own search:
    ///
    /// 1. the directories of `HOST_CUDA_LIBRARY_PATH`;
    /// 2. the loader's own search;
    /// 3. for what comes with the driver, where WSL, NixOS and Kubernetes put it; that ends its search;
    /// 4. toolkits in `CUDA_HOME`, `CUDA_PATH`, `CONDA_PREFIX`;
    /// 5. toolkits in `/usr/local/cuda` and `/usr/local/cuda-*`, newest first;
    /// 6. wheels in the site-packages of `VIRTUAL_ENV`, `CONDA_PREFIX`, the user, and the `python3` of `PATH`.
    pub fn new(variable: impl Fn(&'static str) -> Option<OsString>, root: &Path, loader: bool) -> Self {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let list = |name| -> Vec<PathBuf> {
            let paths = set(name).map(|value| std::env::split_paths(&value).collect::<Vec<_>>()).unwrap_or_default();
            paths.into_iter().filter(|path| !path.as_os_str().is_empty()).collect()
        };
        let below = |places: &[&str]| places.iter().map(|place| root.join(place)).collect::<Vec<_>>();
        let mut steps = vec![(Place::Variable(OVERRIDE), list(OVERRIDE))];
        if loader {
            steps.push((Place::Loader, [list("LD_LIBRARY_PATH"), below(&USUAL)].concat()));
        }
        steps.push((Place::Driver, below(&DRIVERS)));
        for name in ["CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX"] {
            let directories = set(name).map(|home| toolkit(Path::new(&home))).unwrap_or_default();
            steps.push((Place::Variable(name), directories));
        }
        let local = root.join("usr/local");
        let homes = [vec![local.join("cuda")], numbered(&local, "cuda-")].concat();
        steps.push((Place::Toolkit, homes.iter().flat_map(|home| toolkit(home)).collect()));
        let mut prefixes: Vec<_> =
            ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(set).map(PathBuf::from).collect();
        prefixes.extend(set("HOME").map(|home| Path::new(&home).join(".local")));
        prefixes.extend(python_prefixes(&list("PATH")));
        for packages in site_packages(&prefixes) {
            let directories = WHEELS.iter().map(|wheel| packages.join(wheel)).collect();
            steps.push((Place::Pip(packages), directories));
        }
        let steps = steps.into_iter().map(|(place, directories)| Step { place, directories });
        Self(steps.filter(|step| !step.directories.is_empty()).collect())
    }
}

/// Where a search went, for messages: a line for each place.
pub(super) fn looked(steps: &[&Step]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut without = Vec::new();
    for Step { place, directories } in steps {
        let (there, absent): (Vec<_>, Vec<_>) = directories.iter().partition(|directory| directory.is_dir());
        match place {
            Place::Loader => lines.push(format!("{place} (LD_LIBRARY_PATH, ldconfig)")),
            Place::Pip(packages) if there.is_empty() => without.push(packages),
            _ if there.is_empty() => lines.push(format!("{place}: none of {} is there", listed(&absent))),
            _ => lines.push(format!("{place}: {}", listed(&there))),
        }
    }
    if !without.is_empty() {
        lines.push(format!("pip: no CUDA libraries in {}", listed(&without)));
    }
    lines
}

fn listed(paths: &[&PathBuf]) -> String {
    paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ")
}

fn toolkit(home: &Path) -> Vec<PathBuf> {
    TOOLKIT.iter().map(|directory| home.join(directory)).collect()
}

/// Entries of a directory whose names start with `prefix`, by the numbers that follow, largest first.
pub(super) fn numbered(directory: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let rest = name.to_str()?.strip_prefix(prefix)?;
            let numbers = rest.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
            Some((numbers.collect::<Vec<u32>>(), entry.path()))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

/// Where the `python3` that a shell would start is installed. It is not started: that takes long, and it may be a script.
fn python_prefixes(path: &[PathBuf]) -> Vec<PathBuf> {
    let Some(python) = path.iter().map(|directory| directory.join("python3")).find(|python| python.is_file()) else {
        return Vec::new();
    };
    let prefix_of = |bin: Option<&Path>| bin.and_then(Path::parent).map(Path::to_path_buf);
    // That of a virtual environment first, whose python is a link or a copy, then what it was made from.
    let mut prefixes: Vec<_> = prefix_of(python.parent()).into_iter().collect();
    let settings = prefixes.iter().find_map(|prefix| fs::read_to_string(prefix.join("pyvenv.cfg")).ok());
    let home = settings.iter().flat_map(|text| text.lines()).filter_map(|line| line.split_once('='));
    let homes = home.filter(|(key, _)| key.trim() == "home").map(|(_, value)| PathBuf::from(value.trim()));
    prefixes.extend(homes.filter_map(|bin| prefix_of(Some(&bin))).collect::<Vec<_>>());
    prefixes.extend(python.canonicalize().ok().and_then(|python| prefix_of(python.parent())));
    // Debian's pip installs into /usr/local, and pyenv's `python3` is a script that chooses among versions.
    let beside: Vec<_> = prefixes
        .iter()
        .flat_map(|prefix| [vec![prefix.join("local")], numbered(&prefix.join("versions"), "3.")].concat())
        .collect();
    prefixes.extend(beside);
    prefixes
}

fn site_packages(prefixes: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut seen = Vec::new();
    for library in prefixes.iter().flat_map(|prefix| [prefix.join("lib"), prefix.join("lib64")]) {
        for python in numbered(&library, "python3") {
            for packages in [python.join("site-packages"), python.join("dist-packages")] {
                let Ok(real) = packages.canonicalize() else { continue };
                if real.is_dir() && !seen.contains(&real) {
                    seen.push(real);
                    found.push(packages);
                }
            }
        }
    }
    found
}
