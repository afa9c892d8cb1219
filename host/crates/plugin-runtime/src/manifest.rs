//! What a plugin says about itself, read from its bytes without compiling or running it, and checked against what it
//! really imports and exports.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wasmparser::{ComponentExternalKind, ComponentTypeRef, Parser, Payload, Validator};

use crate::error::{PluginError, one_line};
use crate::kind::{Kind, Start};
use crate::schema;

/// The version of the plugin API that this host speaks.
pub const API: &str = "0.1";
/// Bytes of a file that are read to see what it is. What a plugin may have is one of its limits.
pub const FILE_LIMIT: u64 = 256 << 20;
/// Bytes of a manifest, its schema included.
const MANIFEST_BYTES: usize = 256 << 10;
/// Manifests of one component: of its own, and of what it is made of.
const MANIFESTS: usize = 16;
/// Characters of what a plugin says it is for, and of its version.
const DESCRIPTION: usize = 2000;
const VERSION: usize = 100;
/// Name of the custom section that holds the manifest.
pub(crate) const SECTION: &str = "trainer:plugin-manifest";

/// The manifest section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Bare for bundled plugins, `namespace:name` for all others.
    pub name: String,
    /// The plugin's own version.
    pub version: String,
    /// The API version that it was built for (`0.1`).
    pub api: String,
    /// What it is for.
    pub kind: Kind,
    /// One line.
    #[serde(default)]
    pub description: String,
    /// What the plugin's config may be, as a JSON Schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_schema: Option<serde_json::Value>,
}

/// Where a plugin came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Part of this binary.
    Bundled,
    /// A file in a `--plugins` directory.
    File(PathBuf),
}

/// All that can be known about a plugin without running it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// What it says about itself.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// SHA-256 of its bytes, lower-case hexadecimal.
    pub sha256: String,
    /// Length of the file.
    pub bytes: usize,
    /// Interfaces that it needs.
    pub imports: Vec<String>,
    /// Interfaces that it offers.
    pub exports: Vec<String>,
}

impl Inspection {
    /// True if it asks for directories beside its data.
    pub fn needs_grants(&self) -> bool {
        self.imports.iter().any(|import| import.starts_with("trainer:plugin/grants@"))
    }

    /// What it offers beside the interface of its kind. Nobody calls that.
    pub fn other_exports(&self) -> Vec<String> {
        let own = self.manifest.kind.interface();
        self.exports.iter().filter(|export| without_version(export) != own).cloned().collect()
    }
}

/// Reads a plugin file, refusing one that is too large to be a plugin.
pub fn read_file(path: &Path) -> Result<Vec<u8>, PluginError> {
    intake::read(path, FILE_LIMIT).map_err(|error| {
        let shown = path.display();
        if error.kind() == std::io::ErrorKind::FileTooLarge {
            let message = format!("the plugin `{shown}` has more than {} MiB", FILE_LIMIT >> 20);
            return PluginError::new("plugin::too-large", message);
        }
        PluginError::new("plugin::unreadable", format!("the plugin `{shown}` cannot be read")).why(error.to_string())
    })
}

/// Inspects a plugin. `shown` is what messages call it.
pub fn inspect(bytes: &[u8], shown: &str) -> Result<Inspection, PluginError> {
    check_magic(bytes, shown)?;
    let manifest = manifest(bytes, shown)?;
    let (imports, exports) = interfaces(bytes).map_err(|error| {
        let message = format!("`{shown}` is not a valid component");
        PluginError::new("plugin::invalid", message).why(one_line(&error.to_string(), 500))
    })?;
    check_api(&manifest, &imports, &exports, shown)?;
    check_exports(&manifest, &exports, shown)?;
    check_imports(&manifest, &imports, shown)?;
    let sha256 = digest(bytes);
    Ok(Inspection { manifest, sha256, bytes: bytes.len(), imports, exports })
}

/// The digest by which a plugin is pinned.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Names of what a valid component imports and exports, types aside.
fn interfaces(bytes: &[u8]) -> Result<(Vec<String>, Vec<String>), wasmparser::BinaryReaderError> {
    Validator::new().validate_all(bytes)?;
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    // Modules and components inside have imports and exports of their own.
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import?;
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        imports.push(import.name.name.to_owned());
                    }
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export?;
                    if export.kind != ComponentExternalKind::Type {
                        exports.push(export.name.name.to_owned());
                    }
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

pub(crate) fn check_magic(bytes: &[u8], shown: &str) -> Result<(), PluginError> {
    let rebuild = "build it with `cargo build --release --target wasm32-wasip2`";
    match bytes {
        [b'\0', b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        [b'\0', b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            let message = format!("`{shown}` is a core WebAssembly module, not a component");
            let why = "a plugin is a component, with typed imports and exports";
            Err(PluginError::new("plugin::not-a-component", message).why(why).help(rebuild))
        }
        [b'\0', b'a', b's', b'm', ..] => {
            let message = format!("`{shown}` is WebAssembly of a version that this host does not know");
            Err(PluginError::new("plugin::not-a-component", message).help(rebuild))
        }
        [0x7f, b'E', b'L', b'F', ..] => {
            let message = format!("`{shown}` is native code, not WebAssembly");
            let why = "precompiled plugins would run outside the sandbox, so they are never loaded";
            Err(PluginError::new("plugin::not-a-component", message).why(why).help(rebuild))
        }
        _ => Err(PluginError::new("plugin::not-a-component", format!("`{shown}` is not WebAssembly")).help(rebuild)),
    }
}

fn manifest(bytes: &[u8], shown: &str) -> Result<Manifest, PluginError> {
    let mut found = manifests(bytes, shown)?;
    if found.windows(2).any(|two| two[0] != two[1]) {
        let message = format!("`{shown}` has two manifests that differ");
        return Err(PluginError::new("plugin::manifest", message));
    }
    let manifest = found.pop().ok_or_else(|| {
        PluginError::new("plugin::manifest", format!("`{shown}` has no plugin manifest"))
            .why(format!("section `{SECTION}` says what a plugin is called and what it is for"))
            .help("the `plugin-sdk` macros write one; for other languages: `host plugin pack FILE --manifest plugin.json`")
    })?;
    check_manifest(&manifest, shown)?;
    Ok(manifest)
}

/// Every manifest section of a component, or of what it is made of.
pub(crate) fn manifests(bytes: &[u8], shown: &str) -> Result<Vec<Manifest>, PluginError> {
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| {
            PluginError::new("plugin::invalid", format!("`{shown}` is not a valid component")).why(error.to_string())
        })?;
        let Payload::CustomSection(section) = payload else { continue };
        if section.name() != SECTION {
            continue;
        }
        // Looked at before it is read: a value takes many times what its text does.
        if section.data().len() > MANIFEST_BYTES || found.len() >= MANIFESTS {
            let message = format!("the manifest of `{shown}` is larger than any that is needed");
            return Err(PluginError::new("plugin::manifest", message).why(format!(
                "a manifest has at most {} KiB, and a component {MANIFESTS} of them",
                MANIFEST_BYTES >> 10
            )));
        }
        found.push(serde_json::from_slice(section.data()).map_err(|error| {
            PluginError::new("plugin::manifest", format!("the manifest of `{shown}` cannot be read"))
                .why(error.to_string())
                .help(format!("section `{SECTION}` is JSON with `name`, `version`, `api`, `kind` and `description`"))
        })?);
    }
    Ok(found)
}

/// Checks what a manifest says, whatever it came from.
pub(crate) fn check_manifest(manifest: &Manifest, shown: &str) -> Result<(), PluginError> {
    check_name(&manifest.name, shown)?;
    for (what, text, most) in
        [("description", &manifest.description, DESCRIPTION), ("version", &manifest.version, VERSION)]
    {
        if text.chars().count() > most {
            let message = format!("the `{what}` of `{shown}` has more than {most} characters");
            return Err(PluginError::new("plugin::manifest", message).plugin(&manifest.name));
        }
    }
    if let Some(schema) = &manifest.config_schema {
        schema::check(schema).map_err(|why| {
            PluginError::new("plugin::manifest", format!("the `config_schema` of `{shown}` cannot be used"))
                .plugin(&manifest.name)
                .why(why)
                .help("it is a JSON Schema object that refers to nothing outside itself")
        })?;
    }
    Ok(())
}

/// Names are shown, logged and typed: letters, digits, `-`, `_`, and one `:` after a namespace.
pub(crate) fn check_name(name: &str, shown: &str) -> Result<(), PluginError> {
    let word = |word: &str| {
        !word.is_empty()
            && word.len() <= 64
            && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let fine = match name.split_once(':') {
        Some((namespace, name)) => word(namespace) && word(name),
        None => word(name),
    };
    if fine {
        return Ok(());
    }
    let message = format!("`{shown}` is called `{}`, which is not a plugin name", one_line(name, 80));
    Err(PluginError::new("plugin::manifest", message).help("use letters, digits, `-` and `_`: `acme:dialogue`"))
}

fn check_api(manifest: &Manifest, imports: &[String], exports: &[String], shown: &str) -> Result<(), PluginError> {
    let newer = |version: &str| {
        PluginError::new("plugin::api-version", format!("`{shown}` needs plugin API {version}; this host speaks {API}"))
            .plugin(&manifest.name)
            .help(format!("use a host with API {version}, or a version of the plugin that was built for {API}"))
    };
    if manifest.api != API {
        return Err(newer(&one_line(&manifest.api, 20)));
    }
    for name in imports.iter().chain(exports) {
        if let Some(rest) = name.strip_prefix("trainer:plugin/") {
            let version = rest.split_once('@').map_or("", |(_, version)| version);
            if version.split('.').take(2).ne(API.split('.')) {
                return Err(newer(version));
            }
        }
    }
    Ok(())
}

fn check_exports(manifest: &Manifest, exports: &[String], shown: &str) -> Result<(), PluginError> {
    let wanted = manifest.kind.interface();
    if exports.iter().any(|export| without_version(export) == wanted) {
        return Ok(());
    }
    let message =
        format!("`{shown}` says that it is a {} plugin, but does not export `{wanted}`", manifest.kind.name());
    let error = PluginError::new("plugin::manifest", message).plugin(&manifest.name);
    Err(if exports.is_empty() {
        error.why("it exports nothing")
    } else {
        error.why(format!("it exports {}", list(exports)))
    })
}

fn check_imports(manifest: &Manifest, imports: &[String], shown: &str) -> Result<(), PluginError> {
    let refused: Vec<&String> = imports.iter().filter(|import| !may_import(import, manifest.kind)).collect();
    let Some(first) = refused.first() else { return Ok(()) };
    let message = format!("`{shown}` needs {}, which no plugin gets", list(&refused));
    let why = match without_version(first) {
        name if name.starts_with("wasi:filesystem") => {
            "a plugin has no file system; a loader reads what the host opened for it"
        }
        name if name.starts_with("wasi:sockets") || name.starts_with("wasi:http") => "a plugin has no network",
        name if name.starts_with("wasi_snapshot_preview1") => "it was built for WASI preview 1",
        _ => "the sandbox has nothing of that name",
    };
    Err(PluginError::new("plugin::import", message)
        .plugin(&manifest.name)
        .why(why)
        .help("remove the code (or the library) that uses it; an unused import disappears in a release build with `lto = true`"))
}

/// What a guest that was built with the standard library of `wasm32-wasip2` needs, and our own interfaces.
fn may_import(import: &str, kind: Kind) -> bool {
    let name = without_version(import);
    let version = import.split_once('@').map_or("", |(_, version)| version);
    match name {
        "trainer:plugin/types" | "trainer:plugin/log" => true,
        "trainer:plugin/files" | "trainer:plugin/grants" => kind.start() == Start::Data,
        "wasi:io/error"
        | "wasi:io/poll"
        | "wasi:io/streams"
        | "wasi:clocks/monotonic-clock"
        | "wasi:clocks/wall-clock"
        | "wasi:random/random"
        | "wasi:random/insecure"
        | "wasi:random/insecure-seed" => version.starts_with("0.2."),
        name => {
            name.starts_with("wasi:cli/") && version.starts_with("0.2.") && CLI.contains(&&name["wasi:cli/".len()..])
        }
    }
}

const CLI: &[&str] = &[
    "environment",
    "exit",
    "stdin",
    "stdout",
    "stderr",
    "terminal-input",
    "terminal-output",
    "terminal-stdin",
    "terminal-stdout",
    "terminal-stderr",
];

fn without_version(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

fn list<T: AsRef<str>>(names: &[T]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", one_line(name.as_ref(), 80))).collect();
    quoted.join(", ")
}

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_told_apart() {
        let message = |bytes: &[u8]| inspect(bytes, "x.wasm").unwrap_err().to_string();
        assert!(message(b"\0asm\x01\0\0\0").starts_with("`x.wasm` is a core WebAssembly module, not a component"));
        assert!(message(b"\x7fELF...").starts_with("`x.wasm` is native code"));
        assert_eq!(message(b"fn main() {}"), "`x.wasm` is not WebAssembly");
        assert_eq!(message(b""), "`x.wasm` is not WebAssembly");
        assert_eq!(
            message(b"\0asm\x0d\0\x01\0"),
            "`x.wasm` has no plugin manifest: section `trainer:plugin-manifest` says what a plugin is called and what it is for"
        );
        assert!(message(b"\0asm\x0d\0\x01\0\xff\xff").starts_with("`x.wasm` is not a valid component"));
    }

    #[test]
    fn imports_are_an_allow_list() {
        for import in [
            "wasi:cli/stderr@0.2.6",
            "wasi:io/streams@0.2.0",
            "wasi:clocks/monotonic-clock@0.2.6",
            "wasi:random/random@0.2.6",
            "trainer:plugin/log@0.1.0",
        ] {
            assert!(may_import(import, Kind::Reward), "{import}");
        }
        for import in [
            "wasi:filesystem/types@0.2.6",
            "wasi:sockets/tcp@0.2.6",
            "wasi:clocks/timezone@0.2.6",
            "wasi:clocks/wall-clock@0.3.0",
            "wasi:cli/run@0.2.6",
            "wasi:cli/stderr@0.3.0",
            "wasi:io/streams",
            "trainer:plugin/files@0.1.0",
            "acme:thing/x",
        ] {
            assert!(!may_import(import, Kind::Reward), "{import}");
        }
        assert!(may_import("trainer:plugin/files@0.1.0", Kind::DatasetLoader));
    }

    #[test]
    fn names_are_plain_words() {
        for name in ["alpaca", "acme:house-rules", "a_b:c1"] {
            check_name(name, "x").unwrap();
        }
        for name in ["", "a:b:c", "a b", ":a", "a:", "../a", "a\u{202e}b", &"x".repeat(65)] {
            assert!(check_name(name, "x").is_err(), "{name}");
        }
    }
}
