//! What is asked of a registry, and what its refusals mean.

use serde::Deserialize;
use web::http::Method;
use web::{Answer, Authorization, Request, Tries};

use crate::error::{safe, without_query};
use crate::login::{Access, not_let_in};
use crate::scheme::Server;
use crate::{Reference, Registry, RegistryError};

/// Bytes of what a registry says of a refusal.
const REFUSAL: u64 = 1 << 16;

/// What is asked of a registry.
#[derive(Clone)]
pub(crate) struct Question<'a> {
    pub(crate) reference: &'a Reference,
    pub(crate) server: &'a Server,
    pub(crate) access: Access,
    pub(crate) method: Method,
    pub(crate) address: &'a str,
    pub(crate) headers: &'a [(&'static str, &'a str)],
    pub(crate) content: Option<&'a [u8]>,
}

impl<'a> Question<'a> {
    /// A question for what an address has.
    pub(crate) fn get(reference: &'a Reference, server: &'a Server, address: &'a str) -> Self {
        Self { reference, server, access: Access::Pull, method: Method::GET, address, headers: &[], content: None }
    }

    pub(crate) fn request<'b>(&'b self, pass: Option<&'b str>) -> Request<'b> {
        let authorization = pass.map(|value| Authorization { origin: &self.server.origin, value });
        let Self { method, address, headers, content, .. } = self;
        Request { method: method.clone(), address, headers, authorization, content: *content }
    }

    /// True for an answer that asks for a login, of the registry itself.
    pub(crate) fn wants_login(&self, answer: &Answer) -> bool {
        answer.status() == 401 && self.server.origin.has(&answer.uri)
    }

    /// What is said where the user has been let in, and still is not.
    pub(crate) fn not_let_in(&self, registry: &Registry) -> RegistryError {
        not_let_in(self.reference, &registry.settings.logins.of(self.reference.host()))
    }

    /// What an answer means that is not the one that was asked for.
    pub(crate) fn refused(&self, answer: Answer) -> RegistryError {
        let (status, is_own) = (answer.status(), self.server.origin.has(&answer.uri));
        let reason = answer.bytes(REFUSAL).ok().flatten().map(|bytes| words(&bytes)).unwrap_or_default();
        let reference = self.reference.to_string();
        match status {
            404 if is_own => RegistryError::NotFound { reference },
            401 | 403 if is_own => RegistryError::Denied { host: self.reference.host().to_owned(), reference, reason },
            status => RegistryError::Status { address: without_query(self.address), status, reason },
        }
    }
}

impl Registry {
    /// The answer to a question, for which the user is let in as the registry wants it: once, and once more where what it has
    /// given for that is no longer good.
    pub(crate) fn ask(&self, question: &Question<'_>, tries: &mut Tries) -> Result<Answer, RegistryError> {
        let mut is_renewed = false;
        loop {
            let pass = self.passes.get(question.reference, question.access);
            let answer = self.web.ask(&question.request(pass.as_deref()), tries);
            let answer = answer.map_err(RegistryError::of(question.address))?;
            if !question.wants_login(&answer) {
                return Ok(answer);
            }
            if is_renewed {
                return Err(question.not_let_in(self));
            }
            self.log_in(question.reference, question.access, question.address, &answer, pass.as_deref())?;
            is_renewed = true;
        }
    }
}

/// Errors as the specification has them.
#[derive(Deserialize)]
struct Errors {
    errors: Vec<Flaw>,
}

#[derive(Deserialize)]
struct Flaw {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a registry says of a refusal; empty where that is nothing.
pub(crate) fn words(bytes: &[u8]) -> String {
    let first = serde_json::from_slice::<Errors>(bytes).ok().and_then(|errors| errors.errors.into_iter().next());
    match first {
        Some(Flaw { code, message }) if message.is_empty() => safe(&code),
        Some(Flaw { code, message }) if code.is_empty() => safe(&message),
        Some(Flaw { code, message }) => safe(&format!("{code}: {message}")),
        None => String::new(),
    }
}
