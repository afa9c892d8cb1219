//! How blobs are put on a registry: each in one piece.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use web::http::{Method, Uri};
use web::{Answer, Failure, Origin, Plain, Progress, joined};

use crate::ask::Question;
use crate::error::{place, without_query};
use crate::login::Access;
use crate::manifest::see_that_it_was_taken;
use crate::scheme::Server;
use crate::{Digest, Reference, Registry, RegistryError};

/// Bytes from which on a registry is asked whether it takes a blob, before the blob is sent.
const LARGE: u64 = 1 << 20;

/// What is to be put on a registry.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// What is in a file.
    File(&'a Path),
}

impl Registry {
    /// Puts a blob into a reference's repository, where it is not there yet. Its content is held against its digest and its
    /// size before anything is sent.
    ///
    /// # Errors
    /// [`RegistryError`] says why it cannot be put there.
    pub fn push_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        content: Content<'_>,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        self.see_that_it_may_ask(reference)?;
        match content {
            Content::Bytes(bytes) => {
                self.push(reference, digest, size, &mut std::io::Cursor::new(bytes), progress, &|error| {
                    RegistryError::Content { reference: reference.to_string(), reason: error.to_string() }
                })
            }
            Content::File(path) => {
                let mut file = File::open(path).map_err(RegistryError::disk(path))?;
                self.push(reference, digest, size, &mut file, progress, &|error| RegistryError::disk(path)(error))
            }
        }
    }

    fn push<R: Read + Seek>(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        content: &mut R,
        progress: &dyn Progress,
        io: &dyn Fn(std::io::Error) -> RegistryError,
    ) -> Result<(), RegistryError> {
        let (found, bytes) = Digest::of_reader(content).map_err(io)?;
        if (&found, bytes) != (digest, size) {
            let reason = format!("it has {bytes} bytes and the digest {found}, not {size} bytes and {digest}");
            return Err(RegistryError::Content { reference: reference.to_string(), reason });
        }
        let server = self.server(reference)?;
        if self.has_blob(reference, &server, digest)? {
            return Ok(());
        }
        progress.begin(&digest.to_string(), size, 0);
        let mut tries = self.web.tries();
        let (mut is_renewed, mut asks_first) = (false, size > LARGE);
        loop {
            let place = self.begin_upload(reference, &server, digest)?;
            content.rewind().map_err(io)?;
            let question = Question {
                access: Access::Push,
                method: Method::PUT,
                headers: &[("content-type", "application/octet-stream")],
                ..Question::get(reference, &server, &place)
            };
            let pass = self.passes.get(reference, Access::Push);
            let mut sent = Sent { content: &mut *content, progress, bytes: 0 };
            let answer = match self.web.send(&question.request(pass.as_deref()), size, &mut sent, asks_first) {
                Ok(answer) => answer,
                Err(Failure::Unreachable(reason)) => {
                    tries.again(&reason).map_err(RegistryError::of(&place))?;
                    progress.at(0);
                    continue;
                }
                Err(failure) => return Err(RegistryError::of(&place)(failure)),
            };
            if question.wants_login(&answer) {
                if is_renewed {
                    return Err(question.not_let_in(self));
                }
                self.log_in(reference, Access::Push, &place, &answer, pass.as_deref())?;
                is_renewed = true;
            } else if answer.status() == 417 && asks_first {
                asks_first = false;
            } else if answer.status() == 404 {
                // What it had begun is gone.
                let reason = "the registry does not know any more where the blob should go";
                tries.again(reason).map_err(RegistryError::of(&place))?;
            } else if !tries.is_for_later(&answer).map_err(RegistryError::of(&place))? {
                see_that_it_was_taken(&question, answer, digest)?;
                progress.end();
                return Ok(());
            }
            progress.at(0);
        }
    }

    fn has_blob(&self, reference: &Reference, server: &Server, digest: &Digest) -> Result<bool, RegistryError> {
        let address = server.address(reference, &format!("blobs/{digest}"));
        let (access, method) = (Access::Push, Method::HEAD);
        let question = Question { access, method, ..Question::get(reference, server, &address) };
        let answer = self.ask(&question, &mut self.web.tries())?;
        match answer.status() {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(question.refused(answer)),
        }
    }

    /// The address that a blob is to be sent to.
    fn begin_upload(&self, reference: &Reference, server: &Server, digest: &Digest) -> Result<String, RegistryError> {
        let address = server.address(reference, "blobs/uploads/");
        let (access, method) = (Access::Push, Method::POST);
        let question = Question { access, method, content: Some(&[]), ..Question::get(reference, server, &address) };
        let answer = self.ask(&question, &mut self.web.tries())?;
        if answer.status() != 202 {
            return Err(question.refused(answer));
        }
        upload(&answer, server, digest)
    }
}

/// The address that an answer gives for a blob: of the registry itself, or encrypted.
fn upload(answer: &Answer, server: &Server, digest: &Digest) -> Result<String, RegistryError> {
    let address = without_query(&answer.uri.to_string());
    let target: Option<Uri> = answer.header("location").and_then(|target| target.parse().ok());
    let Some(target) = target else {
        return Err(RegistryError::Invalid { address, reason: "it has no place for the blob".into() });
    };
    let to = place(Origin::of(&target).map(|origin| origin.to_string()));
    let is_allowed =
        |uri: &Uri| Plain::Loopback.allows(uri) && (server.origin.has(uri) || uri.scheme_str() == Some("https"));
    let uri = joined(&answer.uri, target).filter(is_allowed);
    let uri = uri.ok_or(RegistryError::Redirect { address, to })?;
    let separator = if uri.query().is_some() { '&' } else { '?' };
    Ok(format!("{uri}{separator}digest=sha256%3A{}", digest.digits()))
}

/// Content on its way.
struct Sent<'a, R> {
    content: &'a mut R,
    progress: &'a dyn Progress,
    bytes: u64,
}

impl<R: Read> Read for Sent<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.bytes += count as u64;
        self.progress.at(self.bytes);
        Ok(count)
    }
}
