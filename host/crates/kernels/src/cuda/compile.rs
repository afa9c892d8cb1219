//! The kernels: their sources, compiled by nvrtc for the device at hand. What was compiled is kept on disk, by the whole of
//! what it was made from, so that only the first start on a machine takes the second or two.

use std::ffi::{CString, c_char, c_int};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::ptr;

use super::symbols::Nvrtc;
use crate::DeviceError;

/// What every source starts with.
const PRELUDE: &str = include_str!("source/prelude.cuh");

/// A source and its kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    /// Its file, for messages.
    pub(super) name: &'static str,
    /// Its text, without the prelude.
    pub(super) text: &'static str,
    /// The kernels in it that are launched.
    pub(super) kernels: &'static [&'static str],
}

impl Source {
    /// What nvrtc compiles.
    pub(super) fn whole(&self) -> String {
        format!("#line 1 \"prelude.cuh\"\n{PRELUDE}\n#line 1 \"{}\"\n{}", self.name, self.text)
    }
}

/// The compiler, and where it keeps what it made.
#[derive(Debug)]
pub(super) struct Compiler<'a> {
    nvrtc: &'a Nvrtc,
    version: (u32, u32),
    cache: Option<&'a Path>,
}

impl<'a> Compiler<'a> {
    /// `cache` is a directory; without one nothing is kept.
    pub(super) fn new(nvrtc: &'a Nvrtc, cache: Option<&'a Path>) -> Self {
        Self { nvrtc, version: nvrtc.version(), cache }
    }

    /// The image of a source for devices of a compute capability, with `defines` like `-DREAL_BF16`.
    ///
    /// # Errors
    /// [`DeviceError::Failed`] with the compiler's log.
    pub(super) fn compile(
        &self,
        source: &Source,
        capability: (u32, u32),
        defines: &[String],
    ) -> Result<Vec<u8>, DeviceError> {
        let text = source.whole();
        let mut options = vec![
            format!("--gpu-architecture=sm_{}{}", capability.0, capability.1),
            "--std=c++17".to_owned(),
            "-default-device".to_owned(),
        ];
        options.extend_from_slice(defines);
        let (major, minor) = self.version;
        let identity = format!("nvrtc {major}.{minor}\n{}\n{text}", options.join(" "));
        let kept = self.cache.map(|cache| cache.join(format!("{}-{:016x}.cubin", source.name, fingerprint(&identity))));
        if let Some(image) = kept.as_deref().and_then(|path| read_kept(path, &identity)) {
            return Ok(image);
        }
        let image = self.run(source.name, &text, &options)?;
        if let Some(path) = kept {
            // A cache that cannot be written costs time, no more.
            let _ = keep(&path, &identity, &image);
        }
        Ok(image)
    }

    fn run(&self, name: &str, text: &str, options: &[String]) -> Result<Vec<u8>, DeviceError> {
        let failed = |reason: String| DeviceError::Failed { device: "nvrtc".into(), call: name.to_owned(), reason };
        let c_string = |text: &str| CString::new(text).map_err(|error| failed(error.to_string()));
        let (text, name) = (c_string(text)?, c_string(name)?);
        let options = options.iter().map(|option| c_string(option)).collect::<Result<Vec<_>, _>>()?;
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let (nvrtc, mut program) = (self.nvrtc, ptr::null_mut());
        // SAFETY: texts end with a zero byte and stay; there are no headers.
        let status = unsafe {
            (nvrtc.nvrtcCreateProgram)(&raw mut program, text.as_ptr(), name.as_ptr(), 0, ptr::null(), ptr::null())
        };
        if !status.is_success() {
            return Err(failed(nvrtc.words(status)));
        }
        // SAFETY: the program was just made; so many options are there.
        let status = unsafe { (nvrtc.nvrtcCompileProgram)(program, options.len() as c_int, options.as_ptr()) };
        let result = if status.is_success() {
            let mut bytes = 0;
            // SAFETY: writes a size, then so many bytes.
            let sized = unsafe { (nvrtc.nvrtcGetCUBINSize)(program, &raw mut bytes) };
            let mut image = vec![0u8; bytes];
            // SAFETY: as above.
            let got = unsafe { (nvrtc.nvrtcGetCUBIN)(program, image.as_mut_ptr().cast()) };
            if sized.is_success() && got.is_success() && bytes > 0 { Ok(image) } else { Err(failed(nvrtc.words(got))) }
        } else {
            Err(failed(format!("{}\n{}", nvrtc.words(status), self.log(program))))
        };
        // SAFETY: nobody names the program any more.
        let _ = unsafe { (nvrtc.nvrtcDestroyProgram)(&raw mut program) };
        result
    }

    fn log(&self, program: cudarc::nvrtc::sys::nvrtcProgram) -> String {
        let mut bytes = 0;
        // SAFETY: writes a size.
        let status = unsafe { (self.nvrtc.nvrtcGetProgramLogSize)(program, &raw mut bytes) };
        let mut log = vec![0u8; if status.is_success() { bytes } else { 0 }];
        if !log.is_empty() {
            // SAFETY: writes so many bytes.
            let _ = unsafe { (self.nvrtc.nvrtcGetProgramLog)(program, log.as_mut_ptr().cast()) };
        }
        String::from_utf8_lossy(&log).trim_end_matches(['\0', '\n']).to_owned()
    }
}

/// A number that differs for what differs, nearly always: files are compared as a whole.
fn fingerprint(identity: &str) -> u64 {
    crate::rng::stream_of(identity)
}

/// A kept image, if it was made from the same things.
fn read_kept(path: &Path, identity: &str) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (made_from, image) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    (made_from == identity.as_bytes() && !image.is_empty()).then(|| image.to_vec())
}

fn keep(path: &Path, identity: &str, image: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let temporary: PathBuf = path.with_extension(format!("tmp-{}", std::process::id()));
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(&(identity.len() as u64).to_le_bytes())?;
    file.write_all(identity.as_bytes())?;
    file.write_all(image)?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::library::{self, Name, Search};
    use super::super::modules::sources;
    use super::*;
    use crate::{AttentionShape, Precision};

    /// NVRTC needs no GPU; `HOST_TEST_NVRTC` may be its directory. Without it there is nothing to see, which is said past the
    /// test's captured output.
    #[expect(clippy::disallowed_methods, reason = "says past the test's captured output that it is skipped")]
    fn nvrtc() -> Option<Nvrtc> {
        let search = match std::env::var_os("HOST_TEST_NVRTC") {
            Some(directory) => {
                let variable = |name: &str| (name == "HOST_CUDA_LIBRARY_PATH").then(|| directory.clone());
                Search::new(variable, Path::new("/nowhere"), false)
            }
            None => Search::of_process(),
        };
        match library::open(Name::Nvrtc, &search, None) {
            Ok(opened) => Some(Nvrtc::new(opened.library).expect("NVRTC has all that is called")),
            Err(missing) => {
                let mut stderr = std::io::stderr();
                let _ = writeln!(stderr, "skipped, kernels are not compiled: {missing}");
                None
            }
        }
    }

    fn shape(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionShape {
        AttentionShape { heads, kv_heads, head_dim, scale: 1.0, cap: None }
    }

    #[test]
    fn every_source_compiles_for_ampere_and_hopper() {
        let Some(nvrtc) = nvrtc() else { return };
        let compiler = Compiler::new(&nvrtc, None);
        let mut seen = std::collections::BTreeSet::new();
        for precision in [Precision::F32, Precision::Bf16] {
            let capped = AttentionShape { cap: Some(50.0), ..shape(8, 4, 256) };
            for shape in [shape(9, 3, 64), shape(32, 8, 64), shape(32, 8, 128), shape(4, 2, 16), capped] {
                for (source, defines) in sources(precision, shape) {
                    for capability in [(8, 0), (9, 0)] {
                        if !seen.insert((source.name, defines.clone(), capability)) {
                            continue;
                        }
                        let image = compiler.compile(&source, capability, &defines);
                        let image = image.unwrap_or_else(|error| panic!("{} {defines:?}: {error}", source.name));
                        let is_there = |kernel: &str| image.windows(kernel.len()).any(|part| part == kernel.as_bytes());
                        let missing: Vec<_> = source.kernels.iter().filter(|kernel| !is_there(kernel)).collect();
                        assert!(missing.is_empty(), "{}: {missing:?}", source.name);
                    }
                }
            }
        }
    }

    #[test]
    fn a_source_that_does_not_compile_shows_the_compilers_words() {
        let Some(nvrtc) = nvrtc() else { return };
        let wrong =
            Source { name: "wrong.cu", text: "KERNEL wrong(float* x) { x[0] = nothing; }", kernels: &["wrong"] };
        let error = Compiler::new(&nvrtc, None).compile(&wrong, (9, 0), &[]).unwrap_err().to_string();
        assert!(error.contains("wrong.cu(1)") && error.contains("nothing"), "{error}");
    }

    #[test]
    fn what_was_compiled_is_kept_by_all_that_it_was_made_from() {
        let Some(nvrtc) = nvrtc() else { return };
        let directory = tempfile::tempdir().unwrap();
        let source = Source { name: "one.cu", text: "KERNEL one(float* x) { x[0] = VALUE; }", kernels: &["one"] };
        let compile = |value: &str| {
            let compiler = Compiler::new(&nvrtc, Some(directory.path()));
            compiler.compile(&source, (9, 0), &[format!("-DVALUE={value}")]).unwrap()
        };
        let files = || std::fs::read_dir(directory.path()).unwrap().count();
        let first = compile("1.0f");
        assert_eq!((files(), compile("1.0f") == first, files()), (1, true, 1));
        let second = compile("2.0f");
        assert_eq!((files(), second == first), (2, false));
        // A file that says it was made from something else, or is cut off, is made again.
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            std::fs::write(entry.unwrap().path(), b"cut").unwrap();
        }
        assert_eq!((compile("1.0f") == first, compile("2.0f") == second), (true, true));
    }
}
