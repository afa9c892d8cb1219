//! Where NVIDIA's libraries are: found and opened while the program runs, so that it starts on machines without them.
//!
//! [`Search`] is the list of places, from the environment; [`open`] goes through it. What is there and cannot be used does
//! not end the search: it is kept, in the loader's words, in [`Opened`] and in [`Missing`].

use std::error::Error;
use std::ffi::{CStr, OsStr, c_int, c_void};
use std::fmt;
use std::fs::File;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use libloading::Library;
use libloading::os::unix::{self, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};

mod name;
mod search;
#[cfg(test)]
pub(super) mod tests;

use name::MAJORS;
pub use name::Name;
use search::{OVERRIDE, numbered};
pub use search::{Place, Search};

/// Why a file of a directory `stubs` is refused.
const STUB: &str = "a stub to link with, which does nothing";

/// A library that is in use. It is never closed: NVIDIA's do not survive that.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Which it is.
    pub name: Name,
    /// The file that was loaded, links resolved.
    pub path: PathBuf,
    /// How it was found.
    pub place: Place,
    /// The major version of CUDA in its name; the driver's libraries have none.
    pub major: Option<u32>,
    /// To look functions up in.
    pub library: &'static Library,
    /// What was found before it and could not be used, and why.
    pub skipped: Vec<String>,
}

/// A library that is nowhere, or nowhere in a state to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which it is.
    pub name: Name,
    /// The newest major version of CUDA that the driver supports, if that was known.
    pub max_major: Option<u32>,
    /// The places, each with its directories, in order.
    pub looked: Vec<String>,
    /// What was found and could not be used, and why.
    pub skipped: Vec<String>,
}

impl Missing {
    /// What to do about it.
    pub fn help(&self) -> String {
        let Self { name, max_major, .. } = self;
        format!("{}; if it is installed, set `{OVERRIDE}` to its directory", name.how_to_get(*max_major))
    }
}

impl Error for Missing {}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.name.sonames(self.max_major).into_iter().map(|(soname, _)| format!("`{soname}`"));
        let names = names.collect::<Vec<_>>().join(" or ");
        let (state, title) = (if self.skipped.is_empty() { "find" } else { "use" }, self.name.title());
        write!(f, "cannot {state} {title}: {}", if names.is_empty() { self.name.stem() } else { &names })?;
        f.write_str("\nlooked in:")?;
        for place in &self.looked {
            write!(f, "\n  {place}")?;
        }
        if self.looked.is_empty() {
            f.write_str(" no place")?;
        }
        if !self.skipped.is_empty() {
            f.write_str("\nfound, but not usable:")?;
        }
        for reason in &self.skipped {
            write!(f, "\n  {reason}")?;
        }
        Ok(())
    }
}

/// Opens a library: the first in the order of places that the loader takes, in each directory the newest version first.
/// Libraries that need a driver for a CUDA newer than `max_major` are passed over.
///
/// # Errors
/// [`Missing`] with all that was looked at.
pub fn open(name: Name, search: &Search, max_major: Option<u32>) -> Result<Opened, Missing> {
    let mut attempt = Attempt { name, max_major, tried: Vec::new(), skipped: Vec::new() };
    let steps: Vec<_> = search.0.iter().filter(|step| step.place.may_have(name)).collect();
    for step in &steps {
        let found = match step.place {
            Place::Loader => attempt.by_soname(&step.directories),
            _ => step.directories.iter().find_map(|directory| attempt.inside(directory)),
        };
        if let Some((library, path, major)) = found {
            let (library, place) = (&*Box::leak(Box::new(library)), step.place.clone());
            return Ok(Opened { name, path, place, major, library, skipped: attempt.skipped });
        }
    }
    Err(Missing { name, max_major, looked: search::looked(&steps), skipped: attempt.skipped })
}

type Found = (Library, PathBuf, Option<u32>);

/// One search.
struct Attempt {
    name: Name,
    max_major: Option<u32>,
    /// Files that were looked at, links resolved.
    tried: Vec<PathBuf>,
    skipped: Vec<String>,
}

impl Attempt {
    /// Notes that a file cannot be used. The loader's words often start with the file.
    fn skip(&mut self, file: &Path, why: &str) {
        let why = why.strip_prefix(&format!("{}: ", file.display())).unwrap_or(why);
        let note = format!("`{}`: {why}", file.display());
        if !self.skipped.contains(&note) {
            self.skipped.push(note);
        }
    }

    /// The library that the loader has for its name; where it has none, or one that cannot be used, in the directories
    /// that it `knows`, of which it gives the first file alone.
    fn by_soname(&mut self, knows: &[PathBuf]) -> Option<Found> {
        for (soname, major) in self.name.sonames(self.max_major) {
            let library = match dlopen(Path::new(&soname), RTLD_LOCAL) {
                Ok(library) => library,
                Err(why) => {
                    // Of another library it says so too, where that is needed by this one: in glibc's words, in musl's.
                    let absent = why.contains("No such file") && why.contains(&soname) && !why.contains("needed by");
                    let named = why.split_once(": ").filter(|(file, _)| file.ends_with(&soname));
                    let (file, why) = named.unwrap_or((&soname, &why));
                    if !absent {
                        self.tried.extend(Path::new(file).canonicalize());
                        self.skip(Path::new(file), why);
                    }
                    continue;
                }
            };
            let path = match self.file_of(&library) {
                Ok(path) => path,
                Err(why) => {
                    self.leave(library, Path::new(&soname), &why);
                    continue;
                }
            };
            self.tried.push(path.clone());
            if is_stub(&path) {
                self.skip(&path, STUB);
                // It has no state, and as long as it is open the loader answers with it.
                drop(library);
                continue;
            }
            match self.keep_builtins(&path, &path, major) {
                Ok(remark) => return Some(self.take(library, path, major, remark)),
                Err(why) => self.leave(library, &path, &why),
            }
        }
        knows.iter().find_map(|directory| self.inside(directory))
    }

    /// The library in a directory.
    fn inside(&mut self, directory: &Path) -> Option<Found> {
        let candidates = self.candidates(directory);
        candidates.into_iter().find_map(|(path, major)| self.file(&path, major))
    }

    /// Files in a directory that are of a version to be used, newest first. The others are noted.
    fn candidates(&mut self, directory: &Path) -> Vec<(PathBuf, Option<u32>)> {
        let allowed = self.name.sonames(self.max_major);
        let prefix = format!("{}.so.", self.name.stem());
        let mut usable = Vec::new();
        for path in numbered(directory, &prefix) {
            let soname = path.file_name().unwrap_or_default();
            if let Some((_, major)) = allowed.iter().find(|(allowed, _)| allowed.as_str() == soname) {
                usable.push((path, *major));
                continue;
            }
            let number = soname.to_str().and_then(|soname| soname.strip_prefix(&prefix)?.parse::<u32>().ok());
            // Files with more numbers are what links lead to.
            let Some(number) = number.filter(|_| self.name.own_number().is_none()) else { continue };
            let why = match self.max_major {
                Some(most) if number > most => {
                    let instead =
                        if most < MAJORS[1] { String::new() } else { format!(" or `{}`", self.name.pip(most)) };
                    format!(
                        "needs a driver for CUDA {number}; this driver is for CUDA {most}: update the driver{instead}"
                    )
                }
                _ if number > MAJORS[0] => format!("of CUDA {number}; the newest that is known is CUDA {}", MAJORS[0]),
                _ => format!("of CUDA {number}, which is too old"),
            };
            self.skip(&path, &why);
        }
        usable
    }

    /// The library in a file.
    fn file(&mut self, path: &Path, major: Option<u32>) -> Option<Found> {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if self.tried.contains(&real) {
            return None;
        }
        self.tried.push(real.clone());
        if is_stub(path) || is_stub(&real) {
            self.skip(path, STUB);
            return None;
        }
        let opened = whole(&real).and_then(|()| {
            let remark = self.keep_builtins(path, &real, major)?;
            Ok((dlopen(path, RTLD_LOCAL)?, remark))
        });
        match opened {
            Ok((library, remark)) => match self.file_of(&library) {
                Ok(loaded) => return Some(self.take(library, loaded, major, remark)),
                Err(why) => self.leave(library, path, &why),
            },
            Err(why) => self.skip(path, &why),
        }
        None
    }

    /// The library that the search ends with.
    fn take(&mut self, library: Library, path: PathBuf, major: Option<u32>, remark: Option<String>) -> Found {
        if let Some(remark) = remark {
            self.skip(&path, &remark);
        }
        (library, path, major)
    }

    /// Notes that a library cannot be used, and leaves it open.
    fn leave(&mut self, library: Library, path: &Path, why: &str) {
        mem::forget(library);
        self.skip(path, why);
    }

    /// The file that a library was loaded from.
    fn file_of(&self, library: &Library) -> Result<PathBuf, String> {
        // SAFETY: only the function's address is used.
        let address = unsafe { library.get::<*mut c_void>(self.name.function()) }.map_err(|error| words(&error))?;
        // SAFETY: plain numbers and pointers, for which zero is a value.
        let mut info: libc::Dl_info = unsafe { mem::zeroed() };
        // SAFETY: writes one such value; the loader compares the address with those of its libraries.
        if unsafe { libc::dladdr(*address, &raw mut info) } == 0 || info.dli_fname.is_null() {
            return Err("the loader does not say which file it is".to_owned());
        }
        // SAFETY: a text of the loader's, there as long as the library.
        let file = unsafe { CStr::from_ptr(info.dli_fname) };
        let file = PathBuf::from(OsStr::from_bytes(file.to_bytes()));
        Ok(file.canonicalize().unwrap_or(file))
    }

    /// Opens what nvrtc opens by its bare name once it compiles, which is beside it and need not be where the loader looks.
    /// A remark where it is not beside it.
    fn keep_builtins(&self, path: &Path, real: &Path, major: Option<u32>) -> Result<Option<String>, String> {
        let (Name::Nvrtc, Some(major)) = (self.name, major) else { return Ok(None) };
        let prefix = format!("libnvrtc-builtins.so.{major}.");
        let beside = [path, real].map(|file| file.parent().map(|directory| numbered(directory, &prefix)));
        let Some(builtins) = beside.into_iter().flatten().find(|files| !files.is_empty()) else {
            return Ok(Some(format!("used, though `{prefix}*` is not beside it: the loader has to find that")));
        };
        // Nearly always one; of several, nvrtc takes the one of its version.
        let opened = builtins.iter().map(|file| {
            let library = whole(file).and_then(|()| dlopen(file, RTLD_GLOBAL));
            library.map(mem::forget).map_err(|why| format!("needs `{}`: {why}", file.display()))
        });
        let opened: Vec<Result<(), String>> = opened.collect();
        let kept = opened.iter().any(Result::is_ok);
        if kept { Ok(None) } else { opened.into_iter().collect::<Result<(), _>>().map(|()| None) }
    }
}

/// Toolkits have libraries to link with that do nothing.
fn is_stub(path: &Path) -> bool {
    path.components().any(|component| component.as_os_str() == "stubs")
}

/// Refuses a file that ends before the parts that the loader would map: touching those ends the process.
fn whole(path: &Path) -> Result<(), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let mut header = [0; 64];
    // What is not a 64-bit ELF file, the loader refuses in its own words.
    if file.read_exact_at(&mut header, 0).is_err() || !header.starts_with(b"\x7fELF\x02\x01") {
        return Ok(());
    }
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
    let (table, entries) = (word(&header, 32), u64::from(u16::from_le_bytes([header[56], header[57]])));
    let mut needed = 0;
    for index in 0..entries {
        let mut entry = [0; 56];
        if file.read_exact_at(&mut entry, table.saturating_add(index * 56)).is_err() {
            return Err(format!("cut off: the file has {length} bytes, and its table of segments lies beyond"));
        }
        // Segments to be loaded: kind 1, with place and length in the file.
        if entry[..4] == [1, 0, 0, 0] {
            needed = needed.max(word(&entry, 8).saturating_add(word(&entry, 32)));
        }
    }
    if needed > length { Err(format!("cut off: {length} of at least {needed} bytes are there")) } else { Ok(()) }
}

fn dlopen(file: &Path, scope: c_int) -> Result<Library, String> {
    // SAFETY: runs what the library does when it is loaded. The user, or whoever keeps the system, chose the file.
    let library = unsafe { unix::Library::open(Some(file), RTLD_NOW | scope) };
    library.map(Library::from).map_err(|error| words(&error))
}

/// What the loader says, which libloading keeps behind its own words.
pub(super) fn words(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
