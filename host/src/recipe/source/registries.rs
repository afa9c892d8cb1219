//! Recipes in OCI registries.

use std::io::Read;
use std::path::Path;

use registry::{Content, Digest, NotLetIn, Reference, Registry, RegistryError, Settings};
use serde_json::json;

use super::files::{Files, Found, downloads, open, signature_of, unreadable};
use crate::check::contents::{FILE, SIGNATURE_BYTES};
use crate::config::recipe::LockedFile;
use crate::diagnostic::Diagnostic;
use crate::recipe::image::{EMPTY, EMPTY_TYPE, Image, MANIFEST, MANIFEST_LIMIT, WASM};
use crate::report::fetching::Fetching;

/// Media type of a signature.
const SIGNATURE_TYPE: &str = "application/vnd.minisign.signature.v1";

/// A recipe in a registry.
#[derive(Debug)]
pub(super) struct InRegistry {
    registry: Registry,
    reference: Reference,
}

fn connect(reference: &str) -> Result<(Registry, Reference), Diagnostic> {
    let settings = Settings::from_variables(|name| std::env::var_os(name)).map_err(said)?;
    Ok((Registry::new(settings).map_err(said)?, Reference::parse(reference).map_err(said)?))
}

impl InRegistry {
    pub(super) fn find(from: &str) -> Result<Found, Diagnostic> {
        let (registry, reference) = connect(from)?;
        let manifest = registry.manifest(&reference, MANIFEST_LIMIT).map_err(said)?;
        let image = Image::read(manifest.bytes)?;
        // Whatever its tag means by the time the files are asked for.
        let reference = reference.with_digest(manifest.digest);
        let own = Self { registry, reference };
        let mut config = Vec::new();
        let first = &image.files[0];
        let read = own.open(first)?.take(first.size.saturating_add(1)).read_to_end(&mut config);
        read.map_err(|error| unreadable(FILE, &error))?;
        Ok(Found { path: FILE.into(), config, image: Some(image), files: Box::new(own) })
    }
}

impl Files for InRegistry {
    fn open(&self, file: &LockedFile) -> Result<Box<dyn Read>, Diagnostic> {
        let digest = Digest::parse(&format!("sha256:{}", file.sha256))
            .ok_or_else(|| Diagnostic::error("recipe::image", format!("the digest of `{}` cannot be", file.path)))?;
        let told = Fetching::new(&self.reference);
        let path = self.registry.fetch_blob(&self.reference, &digest, file.size, &downloads()?, &told).map_err(said)?;
        open(&path)
    }

    fn signature(&self) -> Result<Option<String>, Diagnostic> {
        let Some(tag) = self.reference.digest().map(tag_of_signature) else { return Ok(None) };
        let place = place_of_signature(&self.reference, &tag)?;
        let manifest = match self.registry.manifest(&place, MANIFEST_LIMIT) {
            Ok(manifest) => manifest,
            Err(RegistryError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(said(error)),
        };
        let written: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
        let layer = &written["layers"][0];
        let digest = layer["digest"].as_str().and_then(Digest::parse);
        let size = layer["size"].as_u64().filter(|size| *size <= SIGNATURE_BYTES);
        let Some((digest, size)) = digest.zip(size) else { return Ok(None) };
        let told = Fetching::new(&place);
        let path = self.registry.fetch_blob(&place, &digest, size, &downloads()?, &told).map_err(said)?;
        let text = signature_of(&path);
        let _ = std::fs::remove_file(path);
        text
    }
}

/// Under which tag the signature of a manifest is.
fn tag_of_signature(digest: &Digest) -> String {
    format!("{}.minisig", digest.file_name())
}

fn place_of_signature(reference: &Reference, tag: &str) -> Result<Reference, Diagnostic> {
    Reference::parse(&format!("oci://{}/{}:{tag}", reference.host(), reference.repository())).map_err(said)
}

/// The bytes of a plugin, and its reference with the digest: the one layer of WebAssembly of an artifact, as `wkg` and `oras`
/// push it.
pub(super) fn plugin(from: &str) -> Result<(Vec<u8>, String), Diagnostic> {
    let (registry, reference) = connect(from)?;
    let manifest = registry.manifest(&reference, MANIFEST_LIMIT).map_err(said)?;
    let invalid = |why: &str| {
        Diagnostic::error("plugin::source", format!("`{from}` is no plugin"))
            .why(why)
            .help("a plugin is one layer of `application/wasm`")
    };
    let written: serde_json::Value =
        serde_json::from_slice(&manifest.bytes).map_err(|_| invalid("its manifest is no JSON"))?;
    let layers = written["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let wasm: Vec<_> = layers.iter().filter(|layer| layer["mediaType"] == WASM).collect();
    let [layer] = wasm[..] else { return Err(invalid("it does not have one layer of WebAssembly")) };
    let digest =
        layer["digest"].as_str().and_then(Digest::parse).ok_or_else(|| invalid("the digest of its layer cannot be"))?;
    let size = layer["size"].as_u64().filter(|size| *size <= plugin_runtime::FILE_LIMIT);
    let size = size.ok_or_else(|| invalid("it is too large"))?;
    let told = Fetching::new(&reference);
    let path = registry.fetch_blob(&reference, &digest, size, &downloads()?, &told).map_err(said)?;
    let bytes = plugin_runtime::read_file(&path)?;
    let _ = std::fs::remove_file(path);
    Ok((bytes, reference.with_digest(manifest.digest).to_string()))
}

/// What was pushed, and where.
#[derive(Debug)]
pub struct Pushed {
    /// The reference, with the manifest's digest.
    pub reference: String,
    /// The manifest's digest: another than before where it has a subject.
    pub digest: String,
}

/// Pushes an image whose files are in `directory`, the first of them with the bytes `config`. With `subject`, a reference in
/// the same repository, the registry lists it beside that.
///
/// # Errors
/// What the registry says, and files that have changed.
pub fn push(
    image: &Image,
    directory: &Path,
    config: &[u8],
    to: &str,
    subject: Option<&str>,
    signature: Option<&str>,
) -> Result<Pushed, Diagnostic> {
    let (registry, reference) = connect(to)?;
    let mut manifest = image.manifest.clone();
    if let Some(subject) = subject {
        let of = Reference::parse(subject).map_err(said)?;
        if (of.host(), of.repository()) != (reference.host(), reference.repository()) {
            let message = format!("`{subject}` is not in the repository that the recipe is pushed to");
            let why = "a registry links only what is in one repository";
            return Err(Diagnostic::error("recipe::subject", message)
                .why(why)
                .help("push the recipe there, or leave `--subject` out"));
        }
        let found = registry.manifest(&of, MANIFEST_LIMIT).map_err(said)?;
        let described =
            json!({ "mediaType": found.media_type, "digest": found.digest.to_string(), "size": found.bytes.len() });
        manifest = image.with_subject(&described)?;
    }
    let told = Fetching::new(&reference);
    let digest = |digits: &str| Digest::parse(&format!("sha256:{digits}")).expect("it was computed");
    for (index, file) in image.files.iter().enumerate() {
        let path = directory.join(&file.path);
        let content = if index == 0 { Content::Bytes(config) } else { Content::File(&path) };
        registry.push_blob(&reference, &digest(&file.sha256), file.size, content, &told).map_err(said)?;
    }
    let empty = Digest::of(EMPTY);
    registry.push_blob(&reference, &empty, EMPTY.len() as u64, Content::Bytes(EMPTY), &told).map_err(said)?;
    let digest = registry.push_manifest(&reference, MANIFEST, &manifest).map_err(said)?;
    let pushed = digest.to_string();
    if let Some(signature) = signature {
        let place = place_of_signature(&reference, &tag_of_signature(&digest))?;
        let (bytes, own) = (signature.as_bytes(), Digest::of(signature.as_bytes()));
        registry.push_blob(&place, &own, bytes.len() as u64, Content::Bytes(bytes), &told).map_err(said)?;
        let layer = json!({ "mediaType": SIGNATURE_TYPE, "digest": own.to_string(), "size": bytes.len() });
        let nothing = json!({ "mediaType": EMPTY_TYPE, "digest": empty.to_string(), "size": EMPTY.len() });
        let of = json!({ "mediaType": MANIFEST, "digest": pushed, "size": manifest.len() });
        let written = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": SIGNATURE_TYPE, "config": nothing, "layers": [layer],
            "subject": of,
        });
        registry.push_manifest(&place, MANIFEST, written.to_string().as_bytes()).map_err(said)?;
    }
    Ok(Pushed { reference: reference.with_digest(digest).to_string(), digest: pushed })
}

/// What is said where something of a registry cannot be had.
fn said(error: RegistryError) -> Diagnostic {
    let told = |code: &str| Diagnostic::error(code, error.to_string());
    match &error {
        RegistryError::Reference { .. } => told("recipe::source").help("write `oci://HOST/REPOSITORY:TAG`"),
        RegistryError::Setting { name, .. } => {
            told("registry::setting").help(format!("set `{name}` to another value, or unset it"))
        }
        RegistryError::Offline { .. } => told("registry::offline").help("unset `HOST_OFFLINE`, or name a file"),
        RegistryError::Unreachable { .. } => {
            told("registry::unreachable").help("see to the network and the name of the registry")
        }
        RegistryError::NotFound { .. } | RegistryError::NoBlob { .. } => told("registry::missing")
            .help("see that the name and the tag are those that are meant; a private one needs a login"),
        RegistryError::Unauthorized { why: NotLetIn::NoLogin { host } | NotLetIn::Refused { host }, .. } => {
            told("registry::login")
                .help(format!("`docker login {host}`, or `oras login {host}`, writes a login where it is looked for"))
        }
        RegistryError::Unauthorized { .. } => told("registry::login"),
        RegistryError::Denied { .. } => told("registry::denied").help("ask the owner of the repository"),
        RegistryError::TooMany { .. } => told("registry::busy").help("wait some minutes"),
        RegistryError::Disk { .. } => told("io::write").help("make room, or set `HOST_CACHE_DIR` to a larger disk"),
        RegistryError::Corrupt { .. } | RegistryError::TooLarge { .. } => {
            told("registry::corrupt").help("try again; what had arrived of it has been thrown away where it was wrong")
        }
        RegistryError::Content { .. } => told("recipe::changed").help("lock it again: `host recipe lock`"),
        RegistryError::Status { .. } | RegistryError::Invalid { .. } | RegistryError::Redirect { .. } => {
            told("registry::answer").help("try again later")
        }
    }
}
