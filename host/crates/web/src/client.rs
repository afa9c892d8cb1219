//! Questions and their answers.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use ureq::http::request::Builder;
use ureq::http::{self, Method, Response, Uri};
use ureq::{Agent, Body, Error, SendBody, Timeout};

use crate::agent::agent;
use crate::{Failure, Origin, Plain, Tries, Unusable, joined};

/// Redirects that are followed.
const REDIRECTS: u32 = 8;
/// Until a part of what is sent has gone.
const WRITE: Duration = Duration::from_mins(1);
/// Until a server has taken in a file that was sent: it computes the file's digest, and may copy it.
const TAKEN_IN: Duration = Duration::from_mins(10);

/// Asks servers.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    plain: Plain,
    pause: Duration,
}

/// What lets the user in, and where.
#[derive(Clone, Copy)]
pub struct Authorization<'a> {
    /// The one server that it is sent to.
    pub origin: &'a Origin,
    /// The header's value.
    pub value: &'a str,
}

impl std::fmt::Debug for Authorization<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorization").field("origin", self.origin).finish_non_exhaustive()
    }
}

/// A question.
#[derive(Clone)]
pub struct Request<'a> {
    /// What is to be done. Redirects are followed of `GET` and `HEAD` alone.
    pub method: Method,
    /// The address of it.
    pub address: &'a str,
    /// Names and values of headers.
    pub headers: &'a [(&'static str, &'a str)],
    /// What lets the user in, and where; where a redirect leads elsewhere, it is not sent.
    pub authorization: Option<Authorization<'a>>,
    /// What is sent with it.
    pub content: Option<&'a [u8]>,
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets are in addresses and in what is sent.
        f.debug_struct("Request").field("method", &self.method).finish_non_exhaustive()
    }
}

impl<'a> Request<'a> {
    /// A question for what an address has.
    pub fn get(address: &'a str) -> Self {
        Self { method: Method::GET, address, headers: &[], authorization: None, content: None }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// As it came.
    pub response: Response<Body>,
    /// What was asked for it: where it was redirected, the last address.
    pub uri: Uri,
}

impl Answer {
    /// The status of HTTP.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The first header of a name; none where it is not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The body, up to `limit` bytes; none where it has more.
    ///
    /// # Errors
    /// Where the connection ends.
    pub fn bytes(self, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        self.response.into_body().into_reader().take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= limit))
    }
}

/// What went wrong on the way.
#[derive(Debug)]
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

impl Client {
    /// A client that trusts the certificates in a file, or the usual ones. It waits for `pause` before the second try of
    /// something, and for twice as long before each after that.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn new(certificates: Option<&Path>, plain: Plain, pause: Duration) -> Result<Self, String> {
        Ok(Self { agent: agent(certificates)?, plain, pause })
    }

    /// All tries.
    pub fn tries(&self) -> Tries {
        Tries::new(self.pause)
    }

    /// The answer to a question, of whatever status but those that say that another time there may be another answer.
    ///
    /// # Errors
    /// [`Failure`] says why there is none.
    pub fn ask(&self, request: &Request<'_>, tries: &mut Tries) -> Result<Answer, Failure> {
        loop {
            match self.follow(request)? {
                Ok(answer) => {
                    if !tries.is_for_later(&answer)? {
                        return Ok(answer);
                    }
                }
                Err(failed) => {
                    if failed.is_connect {
                        tries.hurry();
                    }
                    tries.again(&failed.words)?;
                }
            }
        }
    }

    /// The answer to a question, asked once; none and the words for it where there is none.
    ///
    /// # Errors
    /// [`Failure::Unusable`] for what cannot be asked.
    pub fn ask_once(&self, request: &Request<'_>) -> Result<Result<Answer, String>, Failure> {
        Ok(self.follow(request)?.map_err(|failed| failed.words))
    }

    /// The answer to `size` bytes that are sent once; what was sent of them is gone. It is not redirected. Where `asks_first` is
    /// set, the server may answer before anything is sent (`Expect: 100-continue`).
    ///
    /// # Errors
    /// [`Failure::Unreachable`] where the connection ends, and [`Failure::Unusable`] for what cannot be asked.
    pub fn send(
        &self,
        request: &Request<'_>,
        size: u64,
        content: &mut dyn Read,
        asks_first: bool,
    ) -> Result<Answer, Failure> {
        let uri = self.address(request)?;
        let mut question = builder(request, &uri).header("content-length", size);
        if asks_first {
            question = question.header("expect", "100-continue");
        }
        let question = question.body(SendBody::from_reader(content));
        let question = question.map_err(|_| Unusable::Header)?;
        let question = self.agent.configure_request(question);
        let question = question.timeout_per_write(Some(WRITE)).timeout_recv_response(Some(TAKEN_IN)).build();
        match self.agent.run(question) {
            Ok(response) => Ok(Answer { response, uri }),
            Err(error) => Err(lost(&error).map_or_else(Failure::from, |failed| Failure::Unreachable(failed.words))),
        }
    }

    /// One try, through redirects; inside, what went wrong on the way.
    fn follow(&self, request: &Request<'_>) -> Result<Result<Answer, Failed>, Unusable> {
        let mut uri = self.address(request)?;
        for _ in 0..REDIRECTS {
            let builder = builder(request, &uri);
            let answer = match request.content {
                Some(content) => self.agent.run(builder.body(content).map_err(|_| Unusable::Header)?),
                None => self.agent.run(builder.body(()).map_err(|_| Unusable::Header)?),
            };
            let answer = match answer {
                Ok(response) => Answer { response, uri },
                Err(error) => return lost(&error).map(Err),
            };
            let is_redirect = [301, 302, 303, 307, 308].contains(&answer.status());
            if !is_redirect || !matches!(request.method, Method::GET | Method::HEAD) {
                return Ok(Ok(answer));
            }
            let target: Option<Uri> = answer.header("location").and_then(|target| target.parse().ok());
            let target = target.ok_or(Unusable::Nowhere)?;
            let elsewhere = Unusable::Elsewhere(Origin::of(&target).map(|origin| origin.to_string()));
            uri = joined(&answer.uri, target).filter(|uri| self.plain.allows(uri)).ok_or(elsewhere)?;
        }
        Err(Unusable::Endless)
    }

    fn address(&self, request: &Request<'_>) -> Result<Uri, Unusable> {
        request.address.parse().ok().filter(|uri| self.plain.allows(uri)).ok_or(Unusable::Address)
    }
}

fn builder(request: &Request<'_>, uri: &Uri) -> Builder {
    let mut builder =
        http::Request::builder().method(request.method.clone()).uri(uri).header("accept-encoding", "identity");
    for (name, value) in request.headers {
        builder = builder.header(*name, *value);
    }
    match request.authorization.filter(|authorization| authorization.origin.trusts(uri)) {
        Some(authorization) => builder.header("authorization", authorization.value),
        None => builder,
    }
}

/// What went wrong on the way; an error where nothing was on the way.
fn lost(error: &Error) -> Result<Failed, Unusable> {
    match error {
        Error::Http(_) | Error::BadUri(_) => Err(Unusable::Header),
        error => Ok(Failed::new(error)),
    }
}
