//! How a registry is made to let the user in: with a password, or with a token of the server that it names
//! (<https://distribution.github.io/distribution/spec/auth/token/>).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use web::http::{Method, Uri};
use web::{Answer, Authorization, Origin, Plain, Request};

use crate::challenge::{Challenge, challenge};
use crate::error::{place, safe, without_query};
use crate::logins::{Login, header};
use crate::{NotLetIn, Reference, Registry, RegistryError};

/// Bytes of a token server's answer.
const ANSWER: u64 = 1 << 20;
/// The shortest that a token is good for, and how long it is where nothing is said of it; both as the specification has it.
const SHORTEST: u64 = 60;
/// The longest that is believed.
const LONGEST: u64 = 24 * 60 * 60;
/// How this program calls itself where a token server asks.
const CLIENT: &str = "host";

/// What is to be done in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    /// Something is read.
    Pull,
    /// Something is put there.
    Push,
}

/// What a pass is for.
type Key = (String, String, Access);

/// A header's value that lets the user in.
#[derive(Clone)]
struct Pass {
    value: String,
    until: Option<Instant>,
}

/// What registries have let the user in with. It never shows them.
#[derive(Default)]
pub(crate) struct Passes(Mutex<BTreeMap<Key, Pass>>);

impl std::fmt::Debug for Passes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passes").finish_non_exhaustive()
    }
}

fn key(reference: &Reference, access: Access) -> Key {
    (reference.host().to_owned(), reference.repository().to_owned(), access)
}

impl Passes {
    /// The header's value for what is to be done, where there is one that is still good.
    pub(crate) fn get(&self, reference: &Reference, access: Access) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pass = all.get(&key(reference, access))?;
        pass.until.is_none_or(|until| Instant::now() < until).then(|| pass.value.clone())
    }

    fn put(&self, reference: &Reference, access: Access, pass: Pass) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key(reference, access), pass);
    }
}

/// What a token server says.
#[derive(Deserialize)]
struct Tokens {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Registry {
    /// Gets what a refusal asks for, and keeps it. `sent` is what was sent and refused.
    pub(crate) fn log_in(
        &self,
        reference: &Reference,
        access: Access,
        address: &str,
        answer: &Answer,
        sent: Option<&str>,
    ) -> Result<(), RegistryError> {
        let login = self.settings.logins.of(reference.host());
        let pass = match challenge(answer.response.headers()) {
            Some(Challenge::Basic) => match &login {
                Login::Basic { user, password } => Pass { value: header(user, password), until: None },
                _ => return Err(not_let_in(reference, &login)),
            },
            Some(Challenge::Bearer { realm, service, scope }) => {
                let actions = if access == Access::Push { "pull,push" } else { "pull" };
                let scope = scope.unwrap_or_else(|| format!("repository:{}:{actions}", reference.repository()));
                self.token(reference, &login, address, &realm, service.as_deref(), &scope)?
            }
            None => {
                let reason = "it wants a login, but neither a password nor a token".into();
                return Err(RegistryError::Invalid { address: without_query(address), reason });
            }
        };
        if sent == Some(pass.value.as_str()) {
            return Err(not_let_in(reference, &login));
        }
        self.passes.put(reference, access, pass);
        Ok(())
    }

    /// A token of the server that a registry names.
    fn token(
        &self,
        reference: &Reference,
        login: &Login,
        address: &str,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<Pass, RegistryError> {
        let server = realm.parse::<Uri>().ok();
        let origin = server.as_ref().and_then(Origin::of);
        let (Some(server), Some(origin)) = (server.filter(|uri| Plain::Loopback.allows(uri)), &origin) else {
            let to = place(origin.map(|origin| origin.to_string()));
            let reason =
                format!("its tokens are at {to}, which is not asked: it must be encrypted, with no login in it");
            return Err(RegistryError::Invalid { address: without_query(address), reason });
        };
        let answer = match login {
            Login::Identity(token) => {
                let mut form = format!("grant_type=refresh_token&client_id={CLIENT}&scope={}", encode(scope));
                form += &service.map_or_else(String::new, |service| format!("&service={}", encode(service)));
                write!(form, "&refresh_token={}", encode(token)).expect("a string takes all");
                let headers = [("content-type", "application/x-www-form-urlencoded")];
                let content = Some(form.as_bytes());
                self.ask_for_token(&Request {
                    method: Method::POST,
                    headers: &headers,
                    content,
                    ..Request::get(realm)
                })?
            }
            login => {
                let mut question = server.to_string();
                let mut separator = if server.query().is_some() { '&' } else { '?' };
                let parts = service.map(|service| ("service", service));
                for (name, value) in parts.into_iter().chain(scope.split(' ').map(|scope| ("scope", scope))) {
                    write!(question, "{separator}{name}={}", encode(value)).expect("a string takes all");
                    separator = '&';
                }
                let value = match login {
                    Login::Basic { user, password } => Some(header(user, password)),
                    _ => None,
                };
                let authorization = value.as_deref().map(|value| Authorization { origin, value });
                self.ask_for_token(&Request { authorization, ..Request::get(&question) })?
            }
        };
        let (status, bytes) = answer;
        let address = without_query(realm);
        match status {
            200 => {}
            401 | 403 => return Err(not_let_in(reference, login)),
            status => return Err(RegistryError::Status { address, status, reason: crate::ask::words(&bytes) }),
        }
        let invalid = |reason: &str| RegistryError::Invalid { address: address.clone(), reason: reason.into() };
        // What serde says may quote the token.
        let tokens: Tokens = serde_json::from_slice(&bytes).map_err(|_| invalid("it sends no token"))?;
        let token = tokens.token.or(tokens.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| invalid("it sends no token"))?;
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("its token cannot be sent"));
        }
        let seconds = tokens.expires_in.unwrap_or(SHORTEST).clamp(SHORTEST, LONGEST);
        let until = Instant::now().checked_add(Duration::from_secs(seconds));
        Ok(Pass { value: format!("Bearer {token}"), until })
    }

    fn ask_for_token(&self, request: &Request<'_>) -> Result<(u16, Vec<u8>), RegistryError> {
        let mut tries = self.web.tries();
        loop {
            let answer = self.web.ask(request, &mut tries).map_err(RegistryError::of(request.address))?;
            let status = answer.status();
            match answer.bytes(ANSWER) {
                Ok(Some(bytes)) => return Ok((status, bytes)),
                Ok(None) => {
                    return Err(RegistryError::TooLarge { what: without_query(request.address), limit: ANSWER });
                }
                Err(error) => tries.again(&error.to_string()).map_err(RegistryError::of(request.address))?,
            }
        }
    }
}

/// What is said where a registry does not let the user in.
pub(crate) fn not_let_in(reference: &Reference, login: &Login) -> RegistryError {
    let host = reference.host().to_owned();
    let why = match login {
        Login::Missing => NotLetIn::NoLogin { host: host.clone() },
        Login::Basic { .. } | Login::Identity(_) => NotLetIn::Refused { host: host.clone() },
        Login::Helper(name) => {
            NotLetIn::Helper { host: host.clone(), program: safe(&format!("docker-credential-{name}")) }
        }
    };
    RegistryError::Unauthorized { host, reference: reference.to_string(), why }
}

/// A text as a part of a query.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(byte as char);
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes all");
        }
    }
    encoded
}
