//! Where the hub is, where its files are kept, and who asks: by the variables that Python's `huggingface_hub` reads.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::HubError;

/// Bytes of a file with a token.
const TOKEN_BYTES: u64 = 4096;

/// Where the hub is, where its files are kept, and who asks.
#[derive(Clone)]
pub struct Settings {
    /// Address of the hub, without a slash at its end (`HF_ENDPOINT`).
    pub endpoint: String,
    /// Where repositories are kept (`HF_HUB_CACHE`, or `hub` in `HF_HOME`).
    pub cache: PathBuf,
    /// The user's token (`HF_TOKEN`, or the file that `hf auth login` wrote).
    pub token: Option<String>,
    /// Nothing may be asked of the hub (`HF_HUB_OFFLINE`).
    pub is_offline: bool,
    /// A file with the certificates to trust in place of the usual ones (`SSL_CERT_FILE`).
    pub certificates: Option<PathBuf>,
    /// How long to wait before the first new try; it doubles.
    pub pause: Duration,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is nobody's business.
        let Self { endpoint, cache, token, is_offline, .. } = self;
        let has_token = token.is_some();
        f.debug_struct("Settings")
            .field("endpoint", endpoint)
            .field("cache", cache)
            .field("has_token", &has_token)
            .field("is_offline", is_offline)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// By variables of the environment, which `get` looks up.
    ///
    /// # Errors
    /// [`HubError::Setting`] for one that cannot be used.
    pub fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        let text = |name: &'static str| {
            let invalid = |_| HubError::Setting { name, reason: "it is not UTF-8".into() };
            set(name).map(|value| value.into_string().map_err(invalid)).transpose()
        };
        let is_on = |name: &'static str| {
            let on = |value: String| ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str());
            text(name).map(|value| value.is_some_and(on))
        };
        let of_user =
            || set("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(set("HOME")?).join(".cache")));
        let home = set("HF_HOME").map(PathBuf::from).or_else(|| Some(of_user()?.join("huggingface")));
        let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub"))).ok_or_else(|| HubError::Setting {
            name: "HF_HOME",
            reason: "neither it nor `HOME` is set, so there is no place for files of the hub".into(),
        })?;
        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| "https://huggingface.co".into());
        let token = match text("HF_TOKEN")?.or(text("HUGGING_FACE_HUB_TOKEN")?) {
            Some(token) => Some(token),
            None if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN")? => None,
            None => set("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home?.join("token"))).and_then(kept_token),
        };
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache,
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            is_offline: is_on("HF_HUB_OFFLINE")?,
            certificates: set("SSL_CERT_FILE").map(PathBuf::from),
            pause: Duration::from_secs(1),
        })
    }
}

/// The token in a file; none where there is no such file.
fn kept_token(path: PathBuf) -> Option<String> {
    use std::io::Read as _;
    let mut token = String::new();
    let file = std::fs::File::open(path).ok().filter(|file| file.metadata().is_ok_and(|found| found.is_file()))?;
    file.take(TOKEN_BYTES).read_to_string(&mut token).ok()?;
    Some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let get = |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into());
        Settings::from_variables(get).unwrap()
    }

    #[test]
    fn variables_are_those_of_huggingface_hub() {
        let found = settings(&[("HOME", "/home/a")]);
        assert_eq!(found.cache, PathBuf::from("/home/a/.cache/huggingface/hub"));
        assert_eq!((found.endpoint.as_str(), found.token, found.is_offline), ("https://huggingface.co", None, false));
        let found =
            settings(&[("HOME", "/home/a"), ("HF_HOME", "/b"), ("HF_TOKEN", " hf_x\n"), ("HF_HUB_OFFLINE", "1")]);
        assert_eq!(found.cache, PathBuf::from("/b/hub"));
        assert_eq!((found.token.as_deref(), found.is_offline), (Some("hf_x"), true));
        let found = settings(&[("HF_HUB_CACHE", "/c"), ("HF_ENDPOINT", "http://localhost:1/"), ("HOME", "/home/a")]);
        assert_eq!((found.cache, found.endpoint.as_str()), (PathBuf::from("/c"), "http://localhost:1"));
        assert!(Settings::from_variables(|_| None).is_err());
    }

    #[test]
    fn a_token_is_never_shown() {
        let found = settings(&[("HOME", "/home/a"), ("HF_TOKEN", "hf_secret")]);
        assert!(!format!("{found:?}").contains("hf_secret"));
    }
}
