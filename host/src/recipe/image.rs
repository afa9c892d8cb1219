//! A recipe as an OCI artifact: a manifest that names each file with its digest, and the files as blobs. In a `.recipe` file it is
//! an OCI image layout within a tar archive, the same bytes wherever it is made.
//!
//! What is read was written by a stranger. Names, sizes and digests of the manifest are checked before anything is made of them,
//! and a file is there only when all its bytes have the digest that the manifest says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::check::contents::{BYTES, FILE, FILES, PLUGINS};
use crate::config::is_inside;
use crate::config::recipe::{LockedFile, Recipe};
use crate::diagnostic::Diagnostic;
use crate::digest::hex;

/// Media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What kind of artifact a recipe is.
pub const ARTIFACT: &str = "application/vnd.host.recipe.v1";
/// Media types of its files: the config, a plugin, any other.
const CONFIG: &str = "application/vnd.host.recipe.v1+yaml";
pub(super) const WASM: &str = "application/wasm";
const OTHER: &str = "application/vnd.host.recipe.file.v1";
pub(super) const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// What has no config of its own has this one.
pub(super) const EMPTY: &[u8] = b"{}";
/// The name of a file within the recipe.
const TITLE: &str = "org.opencontainers.image.title";
/// Bytes of a manifest: so many files, each with its longest name.
pub const MANIFEST_LIMIT: u64 = 4 << 20;
/// Bytes of a recipe's config.
const CONFIG_LIMIT: u64 = crate::config::FILE_LIMIT;

/// One blob of an artifact, as a manifest describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// A manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schema_version: u32,
    media_type: String,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Value>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// What a recipe consists of.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest, to the byte.
    pub manifest: Vec<u8>,
    /// Its SHA-256, which names the recipe.
    pub sha256: String,
    /// All files, the config first.
    pub files: Vec<LockedFile>,
}

/// That an artifact is no recipe, or none that can be read.
pub(super) fn invalid(why: impl Into<String>) -> Diagnostic {
    Diagnostic::error("recipe::image", "this is no recipe that can be read").why(why)
}

/// A name as far as it fits into a message.
fn shown(name: &str) -> String {
    name.chars().take(100).collect()
}

impl Image {
    /// The image of a recipe whose config has these bytes.
    pub fn new(recipe: &Recipe, config: &[u8], files: &[LockedFile]) -> Self {
        let own = LockedFile { path: FILE.into(), size: config.len() as u64, sha256: hex(&Sha256::digest(config)) };
        let all: Vec<LockedFile> = std::iter::once(own).chain(files.iter().cloned()).collect();
        let mut annotations = BTreeMap::from([
            (TITLE.to_owned(), recipe.name.clone()),
            ("org.opencontainers.image.version".to_owned(), recipe.version.clone()),
        ]);
        let more = [
            ("description", recipe.description.clone()),
            ("licenses", recipe.license.clone()),
            ("authors", (!recipe.authors.is_empty()).then(|| recipe.authors.join(", "))),
        ];
        for (name, text) in more {
            annotations.extend(text.map(|text| (format!("org.opencontainers.image.{name}"), text)));
        }
        let layer = |file: &LockedFile| Descriptor {
            media_type: media_type(&file.path).to_owned(),
            digest: format!("sha256:{}", file.sha256),
            size: file.size,
            annotations: BTreeMap::from([(TITLE.to_owned(), file.path.clone())]),
        };
        let written = Written {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: ARTIFACT.to_owned(),
            config: Descriptor {
                media_type: EMPTY_TYPE.to_owned(),
                digest: format!("sha256:{}", hex(&Sha256::digest(EMPTY))),
                size: EMPTY.len() as u64,
                annotations: BTreeMap::new(),
            },
            layers: all.iter().map(layer).collect(),
            subject: None,
            annotations,
        };
        let manifest = serde_json::to_vec(&written).expect("a manifest is plain data");
        Self { sha256: hex(&Sha256::digest(&manifest)), manifest, files: all }
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// What of it cannot be.
    pub fn read(manifest: Vec<u8>) -> Result<Self, Diagnostic> {
        let written: Written = serde_json::from_slice(&manifest).map_err(|error| invalid(error.to_string()))?;
        if written.schema_version != 2 || written.media_type != MANIFEST {
            return Err(invalid("its manifest is of another kind"));
        }
        if written.artifact_type != ARTIFACT {
            let found = shown(&written.artifact_type);
            return Err(invalid(format!("it is an artifact of type `{found}`, a recipe is `{ARTIFACT}`")));
        }
        if written.layers.len() > FILES {
            let count = written.layers.len();
            return Err(invalid(format!("it has {count} files; a recipe has at most {FILES}")));
        }
        let mut files: Vec<LockedFile> = Vec::new();
        let mut known = std::collections::BTreeSet::new();
        let mut bytes = 0_u64;
        for layer in &written.layers {
            let Some(path) = layer.annotations.get(TITLE) else {
                return Err(invalid("a file of it has no name"));
            };
            let shown = shown(path);
            if !is_inside(path) || path.split('/').any(|part| part.is_empty() || part == ".") {
                return Err(invalid(format!("`{shown}` leads out of the recipe's directory")));
            }
            if path.split('/').any(|part| part.starts_with('.')) || path.chars().any(plugin_runtime::is_hidden) {
                return Err(invalid(format!("`{shown}` is a name that hides")));
            }
            // Two names that one file system tells apart, and another does not.
            if !known.insert(path.to_lowercase()) {
                return Err(invalid(format!("`{shown}` is there twice")));
            }
            let sha256 = layer.digest.strip_prefix("sha256:").filter(|digits| is_sha256(digits));
            let Some(sha256) = sha256 else {
                return Err(invalid(format!("the digest of `{shown}` is no SHA-256")));
            };
            bytes = bytes.saturating_add(layer.size);
            files.push(LockedFile { path: path.clone(), size: layer.size, sha256: sha256.to_owned() });
        }
        if bytes > BYTES {
            return Err(invalid(format!("it has {} GiB; a recipe has at most {}", bytes >> 30, BYTES >> 30)));
        }
        let folders =
            files.iter().flat_map(|file| file.path.match_indices('/').map(|(at, _)| file.path[..at].to_lowercase()));
        if let Some(both) = folders.into_iter().find(|folder| known.contains(folder)) {
            return Err(invalid(format!("`{}` is a file and a directory", shown(&both))));
        }
        match files.first() {
            Some(first) if first.path == FILE && first.size <= CONFIG_LIMIT => {}
            Some(first) if first.path == FILE => return Err(invalid(format!("its `{FILE}` is too large"))),
            _ => return Err(invalid(format!("its first file is not `{FILE}`"))),
        }
        Ok(Self { sha256: hex(&Sha256::digest(&manifest)), manifest, files })
    }

    /// The manifest with what it belongs to, another one in the same repository of a registry, by its descriptor.
    ///
    /// # Errors
    /// What of it cannot be.
    pub fn with_subject(&self, subject: &Value) -> Result<Vec<u8>, Diagnostic> {
        let mut written: Written =
            serde_json::from_slice(&self.manifest).map_err(|error| invalid(error.to_string()))?;
        written.subject = Some(subject.clone());
        Ok(serde_json::to_vec(&written).expect("a manifest is plain data"))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }
}

fn is_sha256(digits: &str) -> bool {
    digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_plugin(path: &str) -> bool {
    let path = Path::new(path);
    path.starts_with(PLUGINS) && path.extension().is_some_and(|extension| extension == "wasm")
}

/// The media type of a file of a recipe.
pub fn media_type(path: &str) -> &'static str {
    match path {
        FILE => CONFIG,
        _ if is_plugin(path) => WASM,
        _ => OTHER,
    }
}

/// Writes an image as a `.recipe` file. `read` opens a file of it.
///
/// # Errors
/// What cannot be read or written, and a file that is not what the image says.
pub fn pack(image: &Image, directory: &Path, config: &[u8], out: &mut File) -> Result<(), Diagnostic> {
    let failed =
        |error: io::Error| Diagnostic::error("io::write", "the recipe cannot be written").why(error.to_string());
    let mut archive = tar::Builder::new(io::BufWriter::new(&mut *out));
    archive.mode(tar::HeaderMode::Deterministic);
    let manifest = json!({
        "mediaType": MANIFEST, "digest": format!("sha256:{}", image.sha256), "size": image.manifest.len(), "artifactType": ARTIFACT,
    });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest] });
    entry(&mut archive, LAYOUT_FILE, LAYOUT.len() as u64, LAYOUT).map_err(failed)?;
    let index = index.to_string();
    entry(&mut archive, INDEX_FILE, index.len() as u64, index.as_bytes()).map_err(failed)?;
    entry(&mut archive, &blob(&image.sha256), image.manifest.len() as u64, image.manifest.as_slice())
        .map_err(failed)?;
    let mut there = std::collections::BTreeSet::from([image.sha256.clone()]);
    for (index, file) in image.files.iter().enumerate() {
        // Two files with the same bytes are one blob.
        if !there.insert(file.sha256.clone()) {
            continue;
        }
        if index == 0 {
            entry(&mut archive, &blob(&file.sha256), file.size, config).map_err(failed)?;
            continue;
        }
        let path = directory.join(&file.path);
        let unreadable = |error: io::Error| {
            Diagnostic::error("recipe::file", format!("`{}` cannot be read", path.display())).why(error.to_string())
        };
        let opened = intake::open(&path).map_err(unreadable)?;
        let mut hashed = Hashed { reader: opened.take(file.size), hasher: Sha256::new(), count: 0 };
        entry(&mut archive, &blob(&file.sha256), file.size, &mut hashed).map_err(failed)?;
        if hashed.count != file.size || hex(&hashed.hasher.finalize()) != file.sha256 {
            let message = format!("`{}` has changed while it was packed", path.display());
            return Err(Diagnostic::error("recipe::changed", message).help("pack it again"));
        }
    }
    let empty = hex(&Sha256::digest(EMPTY));
    if there.insert(empty.clone()) {
        entry(&mut archive, &blob(&empty), EMPTY.len() as u64, EMPTY).map_err(failed)?;
    }
    let written = archive.into_inner().and_then(|buffer| buffer.into_inner().map_err(io::IntoInnerError::into_error));
    written.and_then(|file| file.sync_all()).map_err(failed)
}

const LAYOUT_FILE: &str = "oci-layout";
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX_FILE: &str = "index.json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Bytes of an index.
const INDEX_LIMIT: u64 = 1 << 20;

fn blob(sha256: &str) -> String {
    format!("blobs/sha256/{sha256}")
}

/// Adds a file of so many bytes, whoever made it and whenever.
fn entry(archive: &mut tar::Builder<impl Write>, name: &str, size: u64, content: impl Read) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    // What is missing at its end, the digest tells.
    archive.append(&header, content.chain(io::repeat(0)).take(size))
}

/// Counts and digests what is read.
struct Hashed<R> {
    reader: R,
    hasher: Sha256,
    count: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        Ok(count)
    }
}

/// The digest of the one manifest of an index.
fn named(index: &Value) -> Result<&str, Diagnostic> {
    let digest = match index["manifests"].as_array().map(Vec::as_slice) {
        Some([one]) => one["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:")),
        _ => return Err(invalid("its index names not one manifest")),
    };
    digest.filter(|digits| is_sha256(digits)).ok_or_else(|| invalid("its index names no digest"))
}

/// What the beginning of a `.recipe` file says: its manifest, and the bytes of its config, which are not held against its digest.
/// The rest is not read.
///
/// # Errors
/// What is no recipe, and one whose parts are in another order.
pub fn prefix(reader: impl Read) -> Result<(Image, Vec<u8>), Diagnostic> {
    let mut archive = tar::Archive::new(reader.take(MANIFEST_LIMIT + CONFIG_LIMIT + INDEX_LIMIT));
    let (mut image, mut index): (Option<Image>, Value) = (None, Value::Null);
    let order =
        || invalid("its parts are in an order that cannot be read from an address; download it, and name the file");
    for found in archive.entries().map_err(|error| invalid(error.to_string()))?.take(8) {
        let mut found = found.map_err(|_| invalid("it is no tar archive that can be read to its end"))?;
        let name = String::from_utf8_lossy(&found.path_bytes()).into_owned();
        let digits = name.strip_prefix("blobs/sha256/").map(str::to_owned);
        let limit = match (&digits, &image) {
            (None, _) => INDEX_LIMIT,
            (Some(_), None) => MANIFEST_LIMIT,
            (Some(_), Some(_)) => CONFIG_LIMIT,
        };
        if found.header().entry_type() != tar::EntryType::Regular || found.size() > limit {
            return Err(order());
        }
        let mut bytes = Vec::new();
        found.read_to_end(&mut bytes).map_err(|error| invalid(error.to_string()))?;
        let Some(digits) = digits else {
            if name == INDEX_FILE {
                index = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
            }
            continue;
        };
        match image.take() {
            None => {
                if named(&index)? != digits {
                    return Err(order());
                }
                let read = Image::read(bytes)?;
                if read.sha256 != digits {
                    return Err(differs("the manifest", &digits, &read.sha256));
                }
                image = Some(read);
            }
            Some(image) if image.files[0].sha256 == digits => return Ok((image, bytes)),
            Some(_) => return Err(order()),
        }
    }
    Err(order())
}

/// A `.recipe` file.
#[derive(Debug)]
pub struct Packed {
    file: File,
    /// Where each blob begins, and its bytes.
    blobs: BTreeMap<String, (u64, u64)>,
    /// What is in it.
    pub image: Image,
}

impl Packed {
    /// Opens a `.recipe` file. Only what names its parts is read.
    ///
    /// # Errors
    /// What is no recipe, and what cannot be read.
    pub fn open(path: &Path) -> Result<Self, Diagnostic> {
        let unreadable = |error: io::Error| {
            Diagnostic::error("recipe::file", format!("`{}` cannot be read", path.display())).why(error.to_string())
        };
        let file = intake::open(path).map_err(unreadable)?;
        let mut entries = BTreeMap::new();
        let mut archive = tar::Archive::new(&file);
        let mut count = 0;
        for found in archive.entries_with_seek().map_err(|error| invalid(error.to_string()))? {
            let found = found.map_err(|_| invalid("it is no tar archive that can be read to its end"))?;
            count += 1;
            if count > FILES + 8 {
                return Err(invalid(format!("it has more than {} entries", FILES + 8)));
            }
            let name = found.path_bytes().into_owned();
            let name = String::from_utf8(name).map_err(|_| invalid("the name of an entry is not UTF-8"))?;
            let shown = shown(&name);
            let kind = found.header().entry_type();
            if kind.is_dir() && ["blobs/", "blobs", "blobs/sha256/", "blobs/sha256"].contains(&name.as_str()) {
                continue;
            }
            if kind != tar::EntryType::Regular {
                return Err(invalid(format!("its entry `{shown}` is no plain file")));
            }
            let digits = name.strip_prefix("blobs/sha256/");
            if !matches!(name.as_str(), LAYOUT_FILE | INDEX_FILE) && !digits.is_some_and(is_sha256) {
                return Err(invalid(format!("its entry `{shown}` belongs to no image layout")));
            }
            let place = (found.raw_file_position(), found.size());
            if entries.insert(name, place).is_some() {
                return Err(invalid(format!("its entry `{shown}` is there twice")));
            }
        }
        let small = |name: &str, limit: u64| -> Result<Vec<u8>, Diagnostic> {
            let &(start, size) = entries.get(name).ok_or_else(|| invalid(format!("it has no `{name}`")))?;
            if size > limit {
                return Err(invalid(format!("its `{name}` is too large")));
            }
            part(&file, start, size).map_err(unreadable)
        };
        if small(LAYOUT_FILE, 1 << 10).is_ok_and(|layout| serde_json::from_slice::<Value>(&layout).is_err()) {
            return Err(invalid("its `oci-layout` is no JSON"));
        }
        let index: Value =
            serde_json::from_slice(&small(INDEX_FILE, INDEX_LIMIT)?).map_err(|error| invalid(error.to_string()))?;
        let digest = named(&index)?;
        let manifest = small(&blob(digest), MANIFEST_LIMIT)?;
        let image = Image::read(manifest)?;
        if image.sha256 != digest {
            return Err(differs("the manifest", digest, &image.sha256));
        }
        let blobs = entries
            .into_iter()
            .filter_map(|(name, place)| Some((name.strip_prefix("blobs/sha256/")?.to_owned(), place)));
        let packed = Self { blobs: blobs.collect(), file, image };
        for file in &packed.image.files {
            match packed.blobs.get(&file.sha256) {
                None => return Err(invalid(format!("it lacks the bytes of `{}`", file.path))),
                Some(&(_, size)) if size != file.size => {
                    return Err(invalid(format!(
                        "`{}` has {size} bytes, and its manifest says {}",
                        file.path, file.size
                    )));
                }
                Some(_) => {}
            }
        }
        Ok(packed)
    }

    /// The bytes of the config, which are not held against its digest yet.
    ///
    /// # Errors
    /// That the archive cannot be read.
    pub fn config(&self) -> Result<Vec<u8>, Diagnostic> {
        let mut bytes = Vec::new();
        let read = self.reader(&self.image.files[0]).and_then(|mut reader| reader.read_to_end(&mut bytes));
        read.map_err(|error| invalid(error.to_string()))?;
        Ok(bytes)
    }

    /// The bytes of a file, which are not held against its digest yet.
    ///
    /// # Errors
    /// That the archive cannot be read.
    pub fn reader(&self, file: &LockedFile) -> io::Result<impl Read + use<>> {
        let missing = || io::Error::other("the archive lacks it");
        let &(start, size) = self.blobs.get(&file.sha256).ok_or_else(missing)?;
        let mut own = self.file.try_clone()?;
        own.seek(SeekFrom::Start(start))?;
        Ok(own.take(size))
    }
}

fn part(mut file: &File, start: u64, size: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// That something has another digest than was said.
pub(super) fn differs(what: &str, wanted: &str, found: &str) -> Diagnostic {
    Diagnostic::error("recipe::digest", format!("{what} is not what the recipe says"))
        .why(format!("wanted  {wanted}\nfound   {found}"))
        .help("get the recipe again, from where it was made")
}

/// Writes the bytes of a file where it belongs below `directory`, if they are what the image says.
///
/// # Errors
/// Bytes that differ, and a disk that is full.
pub(super) fn put(file: &LockedFile, reader: impl Read, directory: &Path) -> Result<PathBuf, Diagnostic> {
    let path = directory.join(&file.path);
    let failed = |error: io::Error| {
        Diagnostic::error("io::write", format!("`{}` cannot be written", path.display())).why(error.to_string())
    };
    std::fs::create_dir_all(path.parent().unwrap_or(directory)).map_err(failed)?;
    let mut out = File::create_new(&path).map_err(failed)?;
    let mut hashed = Hashed { reader: reader.take(file.size.saturating_add(1)), hasher: Sha256::new(), count: 0 };
    io::copy(&mut hashed, &mut out).map_err(failed)?;
    let shown = format!("`{}`", file.path);
    if hashed.count != file.size {
        let bytes = |count: u64| format!("{count} bytes");
        let found = if hashed.count > file.size { "more".to_owned() } else { bytes(hashed.count) };
        return Err(differs(&shown, &bytes(file.size), &found));
    }
    let found = hex(&hashed.hasher.finalize());
    if found != file.sha256 {
        return Err(differs(&shown, &file.sha256, &found));
    }
    out.sync_all().map_err(failed)?;
    Ok(path)
}
