//! What a repository has at a revision: names, sizes and digests of its files.

use serde::Deserialize;

use crate::client::Question;
use crate::digest::Expected;
use crate::name::{check_revision, encode, is_commit, is_inside};
use crate::{Hub, HubError, Kind, Repository};

/// Bytes of a listing.
const LISTING: u64 = 64 << 20;
/// Files of a repository.
const FILES: usize = 200_000;

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its name, with the folders it is in.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    pub(crate) digest: Expected,
}

/// What a repository has at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit that the revision means now.
    pub commit: String,
    /// Its files, by name.
    pub files: Vec<RemoteFile>,
}

impl Listing {
    /// The file of a name.
    pub fn file(&self, name: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Hub {
    /// Asks what a repository has.
    ///
    /// # Errors
    /// [`HubError`] says why that is not known.
    pub fn list(&self, repository: &Repository, revision: &str) -> Result<Listing, HubError> {
        check_revision(revision)?;
        if self.is_offline() {
            return Err(HubError::Offline { repository: repository.to_string() });
        }
        let path = format!("{}/revision/{}?blobs=true", repository.api(), encode(revision, true));
        let (address, page) = (self.client.address(&path), self.page(repository));
        let question = Question { repository, revision, file: None, page: &page };
        let bytes = self.client.get(&address, question, LISTING)?;
        let listing = read(&bytes).map_err(|reason| HubError::Invalid { address, reason })?;
        if repository.kind() == Kind::Dataset {
            self.keep_listing(repository, &listing.commit, &bytes)?;
        }
        Ok(listing)
    }

    /// What a dataset has at a commit, as the hub said when it was last asked; none where it has not been.
    pub fn listed(&self, repository: &Repository, commit: &str) -> Option<Listing> {
        let listing = read(&self.kept_listing(repository, commit, LISTING)?).ok()?;
        Some(listing).filter(|listing| listing.commit == commit)
    }
}

fn read(bytes: &[u8]) -> Result<Listing, String> {
    let answer: Answer = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if !is_commit(&answer.sha) {
        return Err("`sha` is no commit".into());
    }
    if answer.siblings.len() > FILES {
        return Err(format!("more than {FILES} files"));
    }
    let file = |Sibling { rfilename: name, size, blob_id, lfs }: Sibling| {
        // Names that do not stay inside are nobody's files.
        if !is_inside(&name) {
            return Err("a file has a name that leads out of the repository".to_owned());
        }
        let (digest, size) = match lfs {
            Some(lfs) => (lfs.sha256.as_deref().and_then(Expected::sha256), lfs.size.or(size)),
            None => (blob_id.as_deref().and_then(Expected::git), size),
        };
        match digest.zip(size) {
            Some((digest, size)) => Ok(RemoteFile { name, size, digest }),
            None => Err(format!("`{name}` has no size or no digest")),
        }
    };
    let mut files = answer.siblings.into_iter().map(file).collect::<Result<Vec<_>, _>>()?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = files.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(format!("`{}` is there twice", pair[0].name));
    }
    Ok(Listing { commit: answer.sha, files })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_that_lies_is_none() {
        let listing =
            |sha: &str, siblings: &str| read(format!(r#"{{"sha": "{sha}", "siblings": [{siblings}]}}"#).as_bytes());
        let commit = "a".repeat(40);
        let small = format!(r#"{{"rfilename": "config.json", "size": 3, "blobId": "{}"}}"#, "b".repeat(40));
        let large = format!(
            r#"{{"rfilename": "x/m.safetensors", "size": 9, "blobId": "{}", "lfs": {{"sha256": "{}", "size": 9, "pointerSize": 1}}}}"#,
            "b".repeat(40),
            "c".repeat(64)
        );
        let found = listing(&commit, &format!("{large}, {small}")).unwrap();
        assert_eq!(
            found.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(),
            ["config.json", "x/m.safetensors"]
        );
        assert_eq!(found.file("x/m.safetensors").unwrap().digest.digits(), "c".repeat(64));
        for (sha, siblings, words) in [
            ("../../x", small.as_str(), "no commit"),
            (&commit, r#"{"rfilename": "../x", "size": 1, "blobId": "b"}"#, "out of the repository"),
            (&commit, r#"{"rfilename": "x", "size": 1, "blobId": "../x"}"#, "no digest"),
            (&commit, r#"{"rfilename": "x", "blobId": "b"}"#, "no size"),
            (&commit, &format!("{small}, {small}"), "twice"),
        ] {
            let error = listing(sha, siblings).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
