//! A certificate for `localhost`, of an authority that nobody else trusts; and programs that are servers.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Files of an authority and of a server.
pub(crate) struct Files {
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Makes them in a folder; none where there is no `openssl`.
pub(crate) fn files(folder: &Path) -> Option<Files> {
    std::fs::write(folder.join("names"), "subjectAltName = DNS:localhost, IP:127.0.0.1\n").unwrap();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority = ["-x509", "-days", "2", "-subj", "/CN=authority of a test", "-keyout", "ca.key", "-out", "ca.pem"];
    let request = ["-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "request.pem"];
    let signed = ["x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    let rest = ["-days", "2", "-extfile", "names", "-out", "cert.pem"];
    for arguments in [
        [&["req"][..], &key, &authority].concat(),
        [&["req"][..], &key, &request].concat(),
        [&signed[..], &rest].concat(),
    ] {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
        match command.stderr(Stdio::null()).status() {
            Ok(status) => assert!(status.success(), "openssl: {status}"),
            Err(_) => return None,
        }
    }
    let [authority, certificate, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| folder.join(name));
    Some(Files { authority, certificate, key })
}

/// A server that runs as long as a test.
pub(crate) struct Running(Child);

impl Running {
    /// Starts a program on a port of 127.0.0.1 that nobody has, and says which that is: as a line that it writes does.
    pub(crate) fn start(command: &mut Command) -> (Self, u16) {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Self(command.spawn().unwrap());
        let (sender, receiver) = std::sync::mpsc::channel();
        let watch = |stream: Box<dyn Read + Send>| {
            let sender = sender.clone();
            // All is read, so that the program never waits for that.
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let mut words = ["ACCEPT 127.0.0.1:", "listening on 127.0.0.1:"].into_iter();
                    let place = words.find_map(|words| line.split_once(words).map(|(_, rest)| rest));
                    let digits = place.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
                    if let Some(port) = digits.and_then(|digits| digits.parse().ok()) {
                        let _: Result<(), _> = sender.send(port);
                    }
                }
            });
        };
        watch(Box::new(running.0.stdout.take().unwrap()));
        watch(Box::new(running.0.stderr.take().unwrap()));
        let port = receiver.recv_timeout(std::time::Duration::from_secs(20)).expect("it says where it listens");
        (running, port)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
