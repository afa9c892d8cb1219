//! What is asked of the hub, and what its refusals mean. How it is asked is `web`'s: answers are bounded, redirects are followed
//! by hand, and the token goes nowhere else.

use web::http::uri::Scheme;
use web::http::{StatusCode, Uri};
use web::{Answer, Authorization, Failure, Origin, Plain, Request, Tries};

use crate::{HubError, Repository, Settings};

/// Asks the hub.
pub(crate) struct Client {
    web: web::Client,
    endpoint: Uri,
    origin: Origin,
    /// The header's value that lets the user in.
    authorization: Option<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
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
        let has_user = endpoint.authority().is_none_or(|authority| authority.as_str().contains('@'));
        let origin = Origin::of(&endpoint).filter(|_| is_web && !has_user);
        let origin =
            origin.ok_or_else(|| invalid("HF_ENDPOINT", "it is no address that begins with `https://`".into()))?;
        let web = web::Client::new(settings.certificates.as_deref(), Plain::Anywhere, settings.pause);
        let web = web.map_err(|reason| invalid("SSL_CERT_FILE", reason))?;
        let authorization = settings.token.as_ref().map(|token| format!("Bearer {token}"));
        Ok(Self { web, endpoint, origin, authorization })
    }

    pub(crate) fn has_token(&self) -> bool {
        self.authorization.is_some()
    }

    /// The address of a path of the hub, whose parts are encoded already.
    pub(crate) fn address(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint.to_string().trim_end_matches('/'))
    }

    /// An answer of at most `limit` bytes.
    pub(crate) fn get(&self, address: &str, question: Question<'_>, limit: u64) -> Result<Vec<u8>, HubError> {
        let mut tries = self.tries();
        loop {
            match self.ask(address, question, None, &mut tries)?.bytes(limit) {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => {
                    let reason = format!("it is larger than {limit} bytes");
                    return Err(HubError::Invalid { address: address.to_owned(), reason });
                }
                Err(error) => tries.again(&error.to_string()).map_err(HubError::of(address))?,
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
    ) -> Result<Answer, HubError> {
        let range =
            range.map(|(start, end)| format!("bytes={start}-{}", end.map_or(String::new(), |end| end.to_string())));
        let headers: Vec<_> = range.iter().map(|range| ("range", range.as_str())).collect();
        let authorization = self.authorization.as_deref().map(|value| Authorization { origin: &self.origin, value });
        let request = Request { headers: &headers, authorization, ..Request::get(address) };
        let answer = self.web.ask(&request, tries).map_err(HubError::of(address))?;
        match answer.status() {
            200 | 206 => Ok(answer),
            416 if range.is_some() => Ok(answer),
            _ => Err(self.refused(&answer, address, question)),
        }
    }

    fn refused(&self, answer: &Answer, address: &str, question: Question<'_>) -> HubError {
        let Question { repository, revision, file, page } = question;
        let (repository, page, has_token) = (repository.to_string(), page.to_owned(), self.has_token());
        let code = answer.header("x-error-code").unwrap_or_default();
        match (code, answer.response.status()) {
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
        self.web.tries()
    }
}

impl HubError {
    /// Of an address that has no answer.
    pub(crate) fn of(address: &str) -> impl FnOnce(Failure) -> Self {
        let address = address.to_owned();
        move |failure| match failure {
            Failure::Unusable(unusable) => Self::Invalid { address, reason: unusable.to_string() },
            Failure::Unreachable(reason) => Self::Unreachable { address, reason },
            Failure::TooMany => Self::TooMany { address },
            Failure::Status(status) => Self::Status { address, status },
        }
    }
}
