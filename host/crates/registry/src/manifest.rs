//! Manifests: what a reference means.

use web::http::Method;

use crate::ask::Question;
use crate::error::safe;
use crate::login::Access;
use crate::{Digest, Reference, Registry, RegistryError};

/// The media type of a manifest.
pub const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Characters of a media type.
const MEDIA_TYPE: usize = 255;

/// What a reference means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its digest, which means the same for ever.
    pub digest: Digest,
    /// What the registry says that it is, without parameters.
    pub media_type: String,
    /// As it came.
    pub bytes: Vec<u8>,
}

impl Registry {
    /// The manifest of a reference, of at most `limit` bytes. Where the reference has a digest, it has that one.
    ///
    /// # Errors
    /// [`RegistryError`] says why it cannot be had.
    pub fn manifest(&self, reference: &Reference, limit: u64) -> Result<Manifest, RegistryError> {
        self.see_that_it_may_ask(reference)?;
        let server = self.server(reference)?;
        let address = server.address(reference, &format!("manifests/{}", reference.manifest()));
        let headers = [("accept", IMAGE_MANIFEST)];
        let question = Question { headers: &headers, ..Question::get(reference, &server, &address) };
        let mut tries = self.web.tries();
        loop {
            let answer = self.ask(&question, &mut tries)?;
            if answer.status() != 200 {
                return Err(question.refused(answer));
            }
            let (announced, media_type) = (announced(&answer), media_type(&answer));
            match answer.bytes(limit) {
                Ok(Some(bytes)) => {
                    let digest = Digest::of(&bytes);
                    for wanted in reference.digest().into_iter().chain(&announced) {
                        if *wanted != digest {
                            let reason = format!("its digest is {digest}, not {wanted}");
                            return Err(RegistryError::Corrupt { what: reference.to_string(), reason });
                        }
                    }
                    let invalid =
                        || RegistryError::Invalid { address: safe(&address), reason: "it has no media type".into() };
                    return Ok(Manifest { digest, media_type: media_type.ok_or_else(invalid)?, bytes });
                }
                Ok(None) => return Err(RegistryError::TooLarge { what: reference.to_string(), limit }),
                Err(error) => tries.again(&error.to_string()).map_err(RegistryError::of(&address))?,
            }
        }
    }

    /// True if the registry has what a reference means.
    ///
    /// # Errors
    /// [`RegistryError`] says why that is not known.
    pub fn exists(&self, reference: &Reference) -> Result<bool, RegistryError> {
        self.see_that_it_may_ask(reference)?;
        let server = self.server(reference)?;
        let address = server.address(reference, &format!("manifests/{}", reference.manifest()));
        let headers = [("accept", IMAGE_MANIFEST)];
        let question =
            Question { method: Method::HEAD, headers: &headers, ..Question::get(reference, &server, &address) };
        let answer = self.ask(&question, &mut self.web.tries())?;
        match answer.status() {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(question.refused(answer)),
        }
    }

    /// Puts a manifest where a reference says: under its tag, or without one under its digest. What the manifest names must be
    /// there already. Where the reference has a digest, the manifest must have that one.
    ///
    /// # Errors
    /// [`RegistryError`] says why it cannot be put there.
    pub fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        self.see_that_it_may_ask(reference)?;
        let digest = Digest::of(bytes);
        if let Some(wanted) = reference.digest().filter(|wanted| **wanted != digest) {
            let reason = format!("its digest is {digest}, not {wanted}");
            return Err(RegistryError::Content { reference: reference.to_string(), reason });
        }
        let server = self.server(reference)?;
        let name = reference.tag().map_or_else(|| digest.to_string(), ToOwned::to_owned);
        let address = server.address(reference, &format!("manifests/{name}"));
        let headers = [("content-type", media_type)];
        let question = Question {
            access: Access::Push,
            method: Method::PUT,
            headers: &headers,
            content: Some(bytes),
            ..Question::get(reference, &server, &address)
        };
        let answer = self.ask(&question, &mut self.web.tries())?;
        see_that_it_was_taken(&question, answer, &digest)?;
        Ok(digest)
    }
}

/// The digest that a registry announces; none where it has another algorithm, which is nothing to hold bytes against here.
pub(crate) fn announced(answer: &web::Answer) -> Option<Digest> {
    Digest::parse(answer.header("docker-content-digest")?)
}

/// Refuses an answer to what was put on a registry that does not say that it is there.
pub(crate) fn see_that_it_was_taken(
    question: &Question<'_>,
    answer: web::Answer,
    digest: &Digest,
) -> Result<(), RegistryError> {
    if ![200, 201, 204].contains(&answer.status()) {
        return Err(question.refused(answer));
    }
    match announced(&answer).filter(|found| found != digest) {
        Some(found) => {
            let reason = format!("the registry says that its digest is {found}, not {digest}");
            Err(RegistryError::Corrupt { what: question.reference.to_string(), reason })
        }
        None => Ok(()),
    }
}

fn media_type(answer: &web::Answer) -> Option<String> {
    let text = answer.header("content-type")?.split(';').next()?.trim();
    let is_type = text.contains('/') && text.len() <= MEDIA_TYPE && text.bytes().all(|byte| byte.is_ascii_graphic());
    is_type.then(|| text.to_owned())
}
