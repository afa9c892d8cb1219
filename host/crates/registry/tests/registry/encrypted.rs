//! A registry that is encrypted, and leads to servers that are not. Its answers are files, which `openssl` sends.

use std::fs;
use std::process::Command;

use registry::{Logins, Registry, RegistryError, Settings};

use crate::common::{reference, settings};
use crate::server::{Reply, Server};
use crate::tls::{Running, files};

#[test]
#[expect(clippy::print_stderr, reason = "a test that is passed over says so")]
fn nothing_leads_out_of_an_encrypted_connection() {
    let folder = tempfile::tempdir().unwrap();
    let Some(files) = files(folder.path()) else {
        eprintln!("passed over: there is no `openssl`");
        return;
    };
    let plain = Server::new(|_| Reply::new(200, "{}").header("content-type", "a/b"));
    let manifests = folder.path().join("v2/a/manifests");
    fs::create_dir_all(&manifests).unwrap();
    let end = "connection: close\r\n\r\n";
    let redirect = format!("HTTP/1.1 307 x\r\nlocation: http://{}/x\r\n{end}", plain.host);
    fs::write(manifests.join("redirected"), redirect).unwrap();
    let tokens = "HTTP/1.1 401 x\r\nwww-authenticate: Bearer realm=\"http://a.example/token\"\r\n";
    fs::write(manifests.join("tokens"), format!("{tokens}{end}")).unwrap();
    fs::write(manifests.join("there"), format!("HTTP/1.1 200 x\r\ncontent-type: a/b\r\n{end}content")).unwrap();

    let mut command = Command::new("openssl");
    command.args(["s_server", "-HTTP", "-accept", "127.0.0.1:0"]);
    command.arg("-cert").arg(&files.certificate).arg("-key").arg(&files.key).current_dir(folder.path());
    let (_running, port) = Running::start(&mut command);

    let host = format!("localhost:{port}");
    let logins = Logins::default().with(&host, "user", "secret");
    let trusting = Settings { certificates: Some(files.authority), ..settings(logins) };
    let registry = Registry::new(trusting).unwrap();
    let get = |tag: &str| registry.manifest(&reference(&host, &format!("a:{tag}")), 100);
    let found = get("there").unwrap();
    assert_eq!((found.media_type.as_str(), &*found.bytes), ("a/b", &b"content"[..]));
    assert!(matches!(get("redirected"), Err(RegistryError::Redirect { .. })));
    let error = get("tokens").unwrap_err();
    assert!(
        matches!(&error, RegistryError::Invalid { reason, .. } if reason.contains("must be encrypted")),
        "{error:?}"
    );
    assert!(plain.requests().is_empty());
}
