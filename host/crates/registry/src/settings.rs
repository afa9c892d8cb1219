//! Who asks, and how: by the variables that Docker's client reads.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Logins, RegistryError};

/// Who asks, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What lets the user in (`config.json` in `DOCKER_CONFIG` or `~/.docker`).
    pub logins: Logins,
    /// Nothing may be asked of a registry (`HOST_OFFLINE`).
    pub is_offline: bool,
    /// A file with the certificates to trust in place of the usual ones (`SSL_CERT_FILE`).
    pub certificates: Option<PathBuf>,
    /// How long to wait before the first new try; it doubles.
    pub pause: Duration,
}

impl Settings {
    /// By variables of the environment, which `get` looks up. Docker's `config.json` is read, where there is one.
    ///
    /// # Errors
    /// [`RegistryError::Setting`] for one that cannot be used.
    pub fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Result<Self, RegistryError> {
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        let folder = set("DOCKER_CONFIG").map(PathBuf::from);
        let folder = folder.or_else(|| Some(PathBuf::from(set("HOME")?).join(".docker")));
        let logins = folder.map(|folder| Logins::read(&folder.join("config.json"))).transpose();
        let is_offline = match set("HOST_OFFLINE").map(OsString::into_string) {
            None => false,
            Some(Ok(value)) => ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str()),
            Some(Err(_)) => {
                return Err(RegistryError::Setting { name: "HOST_OFFLINE", reason: "it is not UTF-8".into() });
            }
        };
        Ok(Self {
            logins: logins
                .map_err(|reason| RegistryError::Setting { name: "DOCKER_CONFIG", reason })?
                .unwrap_or_default(),
            is_offline,
            certificates: set("SSL_CERT_FILE").map(PathBuf::from),
            pause: Duration::from_secs(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::logins::Login;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, RegistryError> {
        let get = |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into());
        Settings::from_variables(get)
    }

    #[test]
    fn variables_are_those_of_docker() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        let found = settings(&[("HOME", path), ("HOST_OFFLINE", "true"), ("SSL_CERT_FILE", "/a.pem")]).unwrap();
        assert!(found.is_offline && matches!(found.logins.of("a.b"), Login::Missing));
        assert_eq!(found.certificates, Some("/a.pem".into()));
        fs::create_dir(home.path().join(".docker")).unwrap();
        // `printf 'user:secret' | base64`.
        let config = r#"{"auths": {"a.b": {"auth": "dXNlcjpzZWNyZXQ="}}}"#;
        fs::write(home.path().join(".docker/config.json"), config).unwrap();
        let found = settings(&[("HOME", path), ("HOST_OFFLINE", "0")]).unwrap();
        assert!(!found.is_offline && matches!(found.logins.of("a.b"), Login::Basic { .. }));
        assert!(!format!("{found:?}").contains("secret"));
        let other = tempfile::tempdir().unwrap();
        let other = [("HOME", path), ("DOCKER_CONFIG", other.path().to_str().unwrap())];
        assert!(matches!(settings(&other).unwrap().logins.of("a.b"), Login::Missing));
        assert!(matches!(settings(&[]).unwrap().logins.of("a.b"), Login::Missing));
    }
}
