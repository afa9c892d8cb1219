//! Debian's `docker-registry`, with a password and encrypted: what is pushed there is had again.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use registry::{Content, Digest, IMAGE_MANIFEST, Logins, NotLetIn, Registry, RegistryError, Settings};

use crate::common::{Told, bytes, names, reference, settings};
use crate::tls::{Files, Running, files};

const PROGRAM: &str = "/usr/bin/docker-registry";

/// What lets `user` in with `secret`; none where there is no `htpasswd`.
fn password_file() -> Option<Vec<u8>> {
    let output = Command::new("htpasswd").args(["-nbBC", "4", "user", "secret"]).stderr(Stdio::null()).output();
    output.ok().filter(|output| output.status.success()).map(|output| output.stdout)
}

/// Runs the registry, encrypted where there are files for that, and says where.
fn start(folder: &Path, files: Option<&Files>) -> (Running, u16) {
    let at = |name: &str| folder.join(name).display().to_string();
    let tls = files.map_or_else(String::new, |files| {
        let [certificate, key] = [&files.certificate, &files.key].map(|path| path.display());
        format!("  tls:\n    certificate: {certificate}\n    key: {key}\n")
    });
    let config = format!(
        "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{tls}\
         auth:\n  htpasswd:\n    realm: here\n    path: {}\n",
        at("storage"),
        at("passwords")
    );
    fs::write(at("config.yml"), config).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg(at("config.yml"));
    Running::start(&mut command)
}

/// Pushes an artifact and pulls it again.
fn round_trip(host: &str, settings: Settings) {
    let (registry, tagged) = (Registry::new(settings).unwrap(), reference(host, "org/recipes/tiny:1.0"));
    let folder = tempfile::tempdir().unwrap();
    let (layer, config) = (bytes(5_000_000), b"{}");
    let (path, told) = (folder.path().join("layer"), Told::default());
    fs::write(&path, &layer).unwrap();
    let (digest, size) = (Digest::of(&layer), layer.len() as u64);
    assert!(!registry.exists(&tagged).unwrap());
    assert!(matches!(registry.manifest(&tagged, 100), Err(RegistryError::NotFound { .. })));
    registry.push_blob(&tagged, &digest, size, Content::File(&path), &told).unwrap();
    registry.push_blob(&tagged, &Digest::of(config), 2, Content::Bytes(config), &told).unwrap();
    assert!(told.0.borrow().contains(&size));
    let manifest = format!(
        r#"{{"schemaVersion": 2, "mediaType": "{IMAGE_MANIFEST}",
            "config": {{"mediaType": "application/vnd.oci.empty.v1+json", "digest": "{}", "size": 2}},
            "layers": [{{"mediaType": "application/x-recipe", "digest": "{digest}", "size": {size}}}]}}"#,
        Digest::of(config)
    );
    let pushed = registry.push_manifest(&tagged, IMAGE_MANIFEST, manifest.as_bytes()).unwrap();
    assert_eq!(pushed, Digest::of(manifest.as_bytes()));

    let pinned = tagged.with_digest(pushed.clone());
    assert!(registry.exists(&tagged).unwrap() && registry.exists(&pinned).unwrap());
    for reference in [&tagged, &pinned] {
        let found = registry.manifest(reference, 1 << 20).unwrap();
        assert_eq!((&found.digest, found.media_type.as_str()), (&pushed, IMAGE_MANIFEST));
        assert_eq!(found.bytes, manifest.as_bytes());
    }
    // What was begun is gone on with.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(format!("{}.incomplete", digest.file_name())), &layer[..2_000_000]).unwrap();
    let told = Told::default();
    let got = registry.fetch_blob(&pinned, &digest, size, folder.path(), &told).unwrap();
    assert!(fs::read(got).unwrap() == layer && told.0.borrow()[0] == 2_000_000);
    assert_eq!(names(folder.path()), [digest.file_name()]);
    let missing = registry.fetch_blob(&pinned, &Digest::of(b"x"), 1, folder.path(), &told);
    assert!(matches!(missing, Err(RegistryError::NoBlob { .. })), "{missing:?}");
    // What the manifest names must be there.
    let other = reference(host, "org/other:1");
    assert!(registry.push_manifest(&other, IMAGE_MANIFEST, manifest.as_bytes()).is_err());
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that is passed over says so")]
fn what_is_pushed_to_a_real_registry_is_had_again() {
    let folder = tempfile::tempdir().unwrap();
    let (passwords, files) = (password_file(), files(folder.path()));
    let (true, Some(passwords), Some(files)) = (Path::new(PROGRAM).is_file(), passwords, files) else {
        eprintln!("passed over: it needs Debian's `docker-registry`, `apache2-utils` and `openssl`");
        return;
    };
    fs::write(folder.path().join("passwords"), passwords).unwrap();
    let (_plain, port) = start(folder.path(), None);
    let host = format!("127.0.0.1:{port}");
    let with = |host: &str, password: &str| settings(Logins::default().with(host, "user", password));
    round_trip(&host, with(&host, "secret"));
    let here = reference(&host, "org/recipes/tiny:1.0");
    let ask = |settings: Settings| Registry::new(settings).unwrap().manifest(&here, 1 << 20);
    let refused = ask(with(&host, "other"));
    assert!(matches!(refused, Err(RegistryError::Unauthorized { why: NotLetIn::Refused { .. }, .. })), "{refused:?}");
    let refused = ask(settings(Logins::default()));
    assert!(matches!(refused, Err(RegistryError::Unauthorized { why: NotLetIn::NoLogin { .. }, .. })), "{refused:?}");

    fs::remove_dir_all(folder.path().join("storage")).unwrap();
    let (_encrypted, port) = start(folder.path(), Some(&files));
    let host = format!("localhost:{port}");
    // As a user has it: `docker login` has been there.
    let config = format!(r#"{{"auths": {{"{host}": {{"auth": "{}"}}}}}}"#, BASE64_STANDARD.encode("user:secret"));
    fs::write(folder.path().join("config.json"), config).unwrap();
    let settings = Settings::from_variables(|name| match name {
        "DOCKER_CONFIG" => Some(folder.path().into()),
        "SSL_CERT_FILE" => Some(files.authority.clone().into()),
        _ => None,
    });
    round_trip(&host, settings.unwrap());
    // Without the authority, the registry may be anybody.
    let error = Registry::new(with(&host, "secret")).unwrap().exists(&reference(&host, "a")).unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
}
