//! What is asked of the hub, and how often: answers are bounded, redirects are followed by hand, and the token goes nowhere
//! else.

use std::io::Read as _;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use ureq::http::uri::{PathAndQuery, Scheme};
use ureq::http::{Response, StatusCode, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Error, Timeout};

use crate::{HubError, Repository, Settings};

/// Times that something is tried without getting further.
const TRIES: u32 = 5;
/// Redirects that are followed.
const REDIRECTS: u32 = 8;
/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(15);
/// Until an answer begins.
const ANSWER: Duration = Duration::from_secs(30);
/// Until a part of a file is there: then the rest is asked for again, from where it is.
const BODY: Duration = Duration::from_mins(2);
/// The longest that a server's wish to wait is followed.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Bytes of a file of certificates.
const CERTIFICATES: u64 = 16 << 20;

/// Asks the hub.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    endpoint: Uri,
    token: Option<String>,
    pause: Duration,
}

/// What is asked for, for the words of an error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) revision: &'a str,
    pub(crate) file: Option<&'a str>,
    pub(crate) page: &'a str,
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Self, HubError> {
        let invalid = |name, reason: String| HubError::Setting { name, reason };
        let endpoint: Uri = settings.endpoint.parse().map_err(|_| invalid("HF_ENDPOINT", "it is no address".into()))?;
        let is_web = endpoint.scheme().is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
        if !is_web || endpoint.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err(invalid("HF_ENDPOINT", "it is no address that begins with `https://`".into()));
        }
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.certificates {
            let all = certificates(path).map_err(|reason| invalid("SSL_CERT_FILE", reason))?;
            tls = tls.root_certs(RootCerts::from(all));
        }
        let agent = Agent::config_builder()
            .tls_config(tls.build())
            .user_agent(concat!("host/", env!("CARGO_PKG_VERSION")))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER))
            .timeout_recv_body(Some(BODY))
            .build()
            .into();
        Ok(Self { agent, endpoint, token: settings.token.clone(), pause: settings.pause })
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The address of a path of the hub, whose parts are encoded already.
    pub(crate) fn address(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint.to_string().trim_end_matches('/'))
    }

    /// An answer of at most `limit` bytes.
    pub(crate) fn get(&self, address: &str, question: Question<'_>, limit: u64) -> Result<Vec<u8>, HubError> {
        let mut tries = Tries::new(self.pause);
        loop {
            let answer = self.ask(address, question, None, &mut tries)?;
            let mut bytes = Vec::new();
            match answer.into_body().into_reader().take(limit + 1).read_to_end(&mut bytes) {
                Ok(_) if bytes.len() as u64 > limit => {
                    let reason = format!("it is larger than {limit} bytes");
                    return Err(HubError::Invalid { address: address.to_owned(), reason });
                }
                Ok(_) => return Ok(bytes),
                Err(error) => tries.again(address, &error.to_string())?,
            }
        }
    }

    /// The answer to a question that has one, from byte `start` on where that is given, up to `end`: with status 200, 206 or 416.
    pub(crate) fn ask(
        &self,
        address: &str,
        question: Question<'_>,
        range: Option<(u64, Option<u64>)>,
        tries: &mut Tries,
    ) -> Result<Response<Body>, HubError> {
        let range =
            range.map(|(start, end)| format!("bytes={start}-{}", end.map_or(String::new(), |end| end.to_string())));
        loop {
            let answer = match self.follow(address, range.as_deref())? {
                Ok(answer) => answer,
                Err(reason) => {
                    if reason.is_connect {
                        tries.hurry();
                    }
                    tries.again(address, &reason.words)?;
                    continue;
                }
            };
            let status = answer.status();
            match status.as_u16() {
                200 | 206 => return Ok(answer),
                416 if range.is_some() => return Ok(answer),
                429 => {
                    let seconds =
                        answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                    let wait = seconds.map(Duration::from_secs);
                    if wait.is_some_and(|wait| wait > LONGEST_WAIT) || !tries.wait(wait) {
                        return Err(HubError::TooMany { address: address.to_owned() });
                    }
                }
                408 | 500..=599 => {
                    if !tries.wait(None) {
                        return Err(HubError::Status { address: address.to_owned(), status: status.as_u16() });
                    }
                }
                _ => return Err(self.refused(&answer, address, question)),
            }
        }
    }

    /// One try, through redirects; inside, what went wrong on the way.
    fn follow(&self, address: &str, range: Option<&str>) -> Result<Result<Response<Body>, Failed>, HubError> {
        let invalid = |reason: &str| HubError::Invalid { address: address.to_owned(), reason: reason.to_owned() };
        let mut uri: Uri = address.parse().map_err(|_| invalid("it is no address"))?;
        for _ in 0..REDIRECTS {
            let mut request = self.agent.get(&uri).header("accept-encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| self.is_trusted(&uri)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if let Some(range) = range {
                request = request.header("range", range);
            }
            let answer = match request.call() {
                Ok(answer) => answer,
                Err(Error::Http(_) | Error::BadUri(_)) => return Err(invalid("a header cannot be sent")),
                Err(error) => return Ok(Err(Failed::new(&error))),
            };
            let status = answer.status();
            let is_redirect = [301, 302, 303, 307, 308].contains(&status.as_u16());
            if !is_redirect {
                return Ok(Ok(answer));
            }
            let target = answer.headers().get("location").and_then(|value| value.to_str().ok());
            let target: Uri =
                target.and_then(|target| target.parse().ok()).ok_or_else(|| invalid("it leads nowhere"))?;
            uri = joined(&uri, target).ok_or_else(|| invalid("it leads to what is no address of the web"))?;
        }
        Err(invalid("it leads from one address to another without end"))
    }

    /// True for an address of the hub itself, where nobody on the way can read along.
    fn is_trusted(&self, uri: &Uri) -> bool {
        let is_hub = uri.scheme() == self.endpoint.scheme() && uri.authority() == self.endpoint.authority();
        let is_here = uri.host().is_some_and(|host| ["localhost", "127.0.0.1", "[::1]"].contains(&host));
        is_hub && (uri.scheme() == Some(&Scheme::HTTPS) || is_here)
    }

    fn refused(&self, answer: &Response<Body>, address: &str, question: Question<'_>) -> HubError {
        let Question { repository, revision, file, page } = question;
        let (repository, page, has_token) = (repository.to_string(), page.to_owned(), self.has_token());
        let code = answer.headers().get("x-error-code").and_then(|value| value.to_str().ok()).unwrap_or_default();
        match (code, answer.status()) {
            ("GatedRepo", _) => HubError::Gated { repository, page, has_token },
            ("RevisionNotFound", _) => HubError::NoRevision { repository, revision: revision.to_owned(), page },
            ("EntryNotFound", _) => HubError::NoFile { repository, file: file.unwrap_or_default().to_owned() },
            ("RepoNotFound", _) | (_, StatusCode::NOT_FOUND) => HubError::NoRepository { repository, page, has_token },
            // Without a token the hub does not tell a private repository from one that is not there.
            (_, StatusCode::UNAUTHORIZED) if has_token => HubError::Token { repository },
            (_, StatusCode::UNAUTHORIZED) => HubError::NoRepository { repository, page, has_token },
            (_, StatusCode::FORBIDDEN) => HubError::Gated { repository, page, has_token },
            (_, status) => HubError::Status { address: address.to_owned(), status: status.as_u16() },
        }
    }

    pub(crate) fn tries(&self) -> Tries {
        Tries::new(self.pause)
    }
}

/// What went wrong on the way.
struct Failed {
    words: String,
    /// There was no connection.
    is_connect: bool,
}

impl Failed {
    fn new(error: &Error) -> Self {
        let is_refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        let is_connect = match error {
            Error::HostNotFound | Error::ConnectionFailed | Error::Timeout(Timeout::Connect | Timeout::Resolve) => true,
            Error::Io(error) => is_refused(error),
            _ => false,
        };
        Self { words: error.to_string(), is_connect }
    }
}

/// Where a redirect leads: to an address of its own, or to another path of the same server. From an encrypted connection none
/// leads to one that is not.
fn joined(from: &Uri, to: Uri) -> Option<Uri> {
    let mut parts = to.into_parts();
    if parts.authority.is_none() {
        parts.scheme = from.scheme().cloned();
        parts.authority = from.authority().cloned();
    }
    let scheme = parts.scheme.as_ref()?;
    let is_web = *scheme == Scheme::HTTPS || (*scheme == Scheme::HTTP && from.scheme() == Some(&Scheme::HTTP));
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    if is_web { Uri::from_parts(parts).ok() } else { None }
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(CERTIFICATES).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let all: Vec<_> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if all.is_empty() { Err("there is no certificate in it".into()) } else { Ok(all) }
}

/// How often something was tried without getting further.
#[derive(Debug)]
pub(crate) struct Tries {
    left: u32,
    pause: Duration,
    first: Duration,
    has_arrived: bool,
}

impl Tries {
    fn new(pause: Duration) -> Self {
        Self { left: TRIES, pause, first: pause, has_arrived: false }
    }

    /// Something has arrived: all tries are there again.
    pub(crate) fn further(&mut self) {
        (self.left, self.pause, self.has_arrived) = (TRIES, self.first, true);
    }

    /// A machine without a network is told so at once, but for one more try.
    fn hurry(&mut self) {
        if !self.has_arrived {
            self.left = self.left.min(2);
        }
    }

    /// Waits; false where it has been tried often enough.
    fn wait(&mut self, wanted: Option<Duration>) -> bool {
        self.left -= 1;
        if self.left == 0 {
            return false;
        }
        sleep(wanted.unwrap_or(self.pause).max(self.pause));
        self.pause *= 2;
        true
    }

    /// Waits before the next try.
    pub(crate) fn again(&mut self, address: &str, reason: &str) -> Result<(), HubError> {
        if self.wait(None) {
            return Ok(());
        }
        Err(HubError::Unreachable { address: address.to_owned(), reason: reason.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_the_web_and_encrypted() {
        let from: Uri = "https://hub.co/a/b?c".parse().unwrap();
        let to = |text: &str| joined(&from, text.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(to("/x?y=1").unwrap(), "https://hub.co/x?y=1");
        assert_eq!(to("https://cdn.co/x").unwrap(), "https://cdn.co/x");
        assert_eq!(to("http://hub.co/x"), None);
        assert_eq!(to("ftp://hub.co/x"), None);
    }
}
