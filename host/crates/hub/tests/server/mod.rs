//! A server on loopback that speaks the hub's API, with the faults that a test asks for.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// The commit that every revision means.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Request {
    /// The byte that is asked for first, and the last.
    pub(crate) fn range(&self) -> Option<(usize, Option<usize>)> {
        let (start, end) = self.headers.get("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((start.parse().ok()?, end.parse().ok()))
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub(crate) cut: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

/// A server, for as long as the test runs.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (asked, answer) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, answer) = (Arc::clone(&asked), Arc::clone(&answer));
                // A client that goes away is none of the test's business.
                std::thread::spawn(move || drop(serve(stream, &asked, &*answer)));
            }
        });
        Self { address, requests }
    }

    /// What was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, asked: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Reply) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path =
            line.split(' ').nth(1).unwrap_or_default().replace("%20", " ").replace("%5B", "[").replace("%5D", "]");
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let request = Request { path, headers };
        asked.lock().unwrap().push(request.clone());
        let Reply { status, headers, body, cut } = answer(&request);
        write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n", body.len())?;
        for (name, value) in headers {
            write!(stream, "{name}: {value}\r\n")?;
        }
        stream.write_all(b"\r\n")?;
        stream.write_all(&body[..cut.unwrap_or(body.len())])?;
        if cut.is_some() {
            return Ok(());
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A part of a file, as the range of the request says.
pub(crate) fn part(request: &Request, content: &[u8]) -> Reply {
    match request.range() {
        Some((start, _)) if start >= content.len() => Reply::new(416, ""),
        Some((start, end)) => {
            let end = end.map_or(content.len(), |end| (end + 1).min(content.len()));
            let range = format!("bytes {start}-{}/{}", end - 1, content.len());
            Reply::new(206, &content[start..end]).header("content-range", range)
        }
        None => Reply::new(200, content),
    }
}

/// Repositories, `models/org/name` or `datasets/org/name`, each with its files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repositories(pub(crate) BTreeMap<String, BTreeMap<String, Vec<u8>>>);

impl Repositories {
    pub(crate) fn with(mut self, name: &str, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        self.0.entry(name.to_owned()).or_default().extend(files);
        self
    }

    /// The answer of a hub that has them; large files are at `elsewhere`, where that is given.
    pub(crate) fn answer(&self, request: &Request, elsewhere: Option<&str>) -> Reply {
        let path = request.path.split('?').next().unwrap_or_default().trim_start_matches('/');
        if let Some(name) = path.strip_prefix("api/") {
            let Some((name, _)) = name.split_once("/revision/") else { return Reply::new(404, "") };
            return match self.0.get(name) {
                Some(files) => Reply::new(200, listing(files)),
                None => Reply::new(404, "").header("x-error-code", "RepoNotFound"),
            };
        }
        let Some((name, file)) = path.split_once(&format!("/resolve/{COMMIT}/")) else { return Reply::new(404, "") };
        let name = if name.starts_with("datasets/") { name.to_owned() } else { format!("models/{name}") };
        let Some(content) = self.0.get(&name).and_then(|files| files.get(file)) else {
            return Reply::new(404, "").header("x-error-code", "EntryNotFound");
        };
        match elsewhere.filter(|_| is_large(file)) {
            Some(elsewhere) => Reply::new(302, "").header("location", format!("{elsewhere}/{name}/{file}")),
            None => part(request, content),
        }
    }
}

/// Files that the hub keeps apart.
fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".parquet")
}

fn listing(files: &BTreeMap<String, Vec<u8>>) -> String {
    let file = |(name, content): (&String, &Vec<u8>)| {
        let mut git = Sha1::new();
        git.update(format!("blob {}\0", content.len()));
        git.update(content);
        let (size, git) = (content.len(), hex(&git.finalize()));
        let large =
            format!(r#", "lfs": {{"sha256": "{}", "size": {size}, "pointerSize": 1}}"#, hex(&Sha256::digest(content)));
        let large = if is_large(name) { large } else { String::new() };
        format!(r#"{{"rfilename": "{name}", "size": {size}, "blobId": "{git}"{large}}}"#)
    };
    let files: Vec<String> = files.iter().map(file).collect();
    format!(r#"{{"sha": "{COMMIT}", "siblings": [{}]}}"#, files.join(", "))
}
