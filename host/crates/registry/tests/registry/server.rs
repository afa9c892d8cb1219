//! A registry on loopback, with the faults that a test asks for.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use registry::Digest;

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The byte that is asked for first.
    pub(crate) fn start(&self) -> Option<usize> {
        self.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }

    /// What is sent to be let in.
    pub(crate) fn pass(&self) -> Option<&str> {
        self.headers.get("authorization").map(String::as_str)
    }

    pub(crate) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
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
    /// The length is not announced.
    pub(crate) is_silent: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// One that never comes.
    pub(crate) fn lost() -> Self {
        Self::default()
    }
}

/// A server, for as long as the test runs.
#[derive(Clone)]
pub(crate) struct Server {
    /// Host and port.
    pub(crate) host: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;
type Early = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

impl Server {
    pub(crate) fn new(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::with_early(answer, |_| None)
    }

    /// A server that may answer those who wait for that before they have sent anything.
    pub(crate) fn with_early(
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        early: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (asked, answer, early) = (Arc::clone(&requests), Arc::new(answer), Arc::new(early));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, answer, early) = (Arc::clone(&asked), Arc::clone(&answer), Arc::clone(&early));
                // A client that goes away is none of the test's business.
                std::thread::spawn(move || drop(serve(stream, &asked, &*answer, &*early)));
            }
        });
        Self { host, requests }
    }

    /// What was asked so far, but for the question which scheme is spoken.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let all = self.requests.lock().unwrap();
        all.iter().filter(|request| request.path != "/v2/").cloned().collect()
    }

    /// How often something was asked.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.requests().iter().filter(|request| request.is(method, part)).count()
    }
}

fn serve(stream: TcpStream, asked: &Mutex<Vec<Request>>, answer: &Answer, early: &Early) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ').map(ToOwned::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let mut request = Request { method, path, headers, body: Vec::new() };
        let refusal = if request.headers.contains_key("expect") { early(&request) } else { None };
        if refusal.is_none() {
            if request.headers.contains_key("expect") {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let length = request.headers.get("content-length").and_then(|length| length.parse().ok());
            request.body.resize(length.unwrap_or(0), 0);
            reader.read_exact(&mut request.body)?;
        }
        asked.lock().unwrap().push(request.clone());
        let Reply { status, headers, body, cut, is_silent } = refusal.unwrap_or_else(|| answer(&request));
        if status == 0 {
            return Ok(());
        }
        // In one piece, as servers send what is short.
        let mut sent = format!("HTTP/1.1 {status} x\r\n").into_bytes();
        for (name, value) in headers {
            write!(sent, "{name}: {value}\r\n")?;
        }
        if is_silent {
            write!(sent, "connection: close\r\n\r\n")?;
        } else {
            write!(sent, "content-length: {}\r\n\r\n", body.len())?;
        }
        if request.method != "HEAD" {
            sent.extend_from_slice(&body[..cut.unwrap_or(body.len())]);
        }
        stream.write_all(&sent)?;
        if cut.is_some() || is_silent {
            return Ok(());
        }
    }
}

/// What a registry has. Copies have the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    blobs: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<String, (String, Vec<u8>)>,
}

impl Store {
    pub(crate) fn with_blob(self, content: &[u8]) -> Self {
        self.0.lock().unwrap().blobs.insert(Digest::of(content).to_string(), content.to_vec());
        self
    }

    pub(crate) fn with_manifest(self, name: &str, media_type: &str, content: &[u8]) -> Self {
        self.0.lock().unwrap().manifests.insert(name.to_owned(), (media_type.to_owned(), content.to_vec()));
        self
    }

    /// The answer of a registry that wants no login, and has one repository, whatever it is called.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let mut kept = self.0.lock().unwrap();
        let path = request.path.split('?').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        let created = |digest: &str| Reply::new(201, "").header("docker-content-digest", digest);
        match request.method.as_str() {
            "GET" | "HEAD" if path == "/v2/" => Reply::new(200, "{}"),
            "POST" if path.ends_with("/blobs/uploads/") => {
                Reply::new(202, "").header("location", format!("{path}place?_state=x"))
            }
            "PUT" if path.ends_with("/blobs/uploads/place") => {
                let digest = Digest::of(&request.body).to_string();
                if !request.path.ends_with(&format!("?_state=x&digest={}", digest.replace(':', "%3A"))) {
                    return flaw(400, "DIGEST_INVALID", "another digest");
                }
                kept.blobs.insert(digest.clone(), request.body.clone());
                created(&digest)
            }
            "PUT" if path.contains("/manifests/") => {
                let digest = Digest::of(&request.body).to_string();
                let manifest = (request.headers["content-type"].clone(), request.body.clone());
                kept.manifests.insert(name.to_owned(), manifest.clone());
                kept.manifests.insert(digest.clone(), manifest);
                created(&digest)
            }
            "GET" | "HEAD" if path.contains("/blobs/") => match kept.blobs.get(name) {
                Some(content) => part(request, content),
                None => flaw(404, "BLOB_UNKNOWN", "no such blob"),
            },
            "GET" | "HEAD" if path.contains("/manifests/") => match kept.manifests.get(name) {
                Some((media_type, content)) => Reply::new(200, content.clone())
                    .header("content-type", media_type)
                    .header("docker-content-digest", Digest::of(content)),
                None => flaw(404, "MANIFEST_UNKNOWN", "no such manifest"),
            },
            _ => Reply::new(405, ""),
        }
    }
}

/// A refusal as the specification has it.
pub(crate) fn flaw(status: u16, code: &str, message: &str) -> Reply {
    Reply::new(status, format!(r#"{{"errors": [{{"code": "{code}", "message": "{message}"}}]}}"#))
}

/// A part of a blob, as the range of the request says.
fn part(request: &Request, content: &[u8]) -> Reply {
    match request.start() {
        Some(start) if start >= content.len() => Reply::new(416, ""),
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
            Reply::new(206, &content[start..]).header("content-range", range)
        }
        None => Reply::new(200, content),
    }
}
