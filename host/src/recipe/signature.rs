//! Who has signed a recipe: a signature of minisign over the digest of its manifest, beside it.

use std::path::Path;

use minisign_verify::{PublicKey, Signature};

use super::opened::Opened;
use crate::diagnostic::Diagnostic;

/// Bytes of a key's file.
const KEY_BYTES: u64 = 4096;

/// What is signed: a line with the digest.
pub fn signed(sha256: &str) -> String {
    format!("sha256:{sha256}\n")
}

/// A signature that holds.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The key that made it.
    pub key: String,
    /// What its owner says of it, which is signed too.
    pub comment: String,
}

/// Holds a recipe against the keys of which one must have signed it: each the text of a key, or a file with one.
///
/// # Errors
/// That none of them has.
pub fn check(opened: &Opened, keys: &[String]) -> Result<Signed, Diagnostic> {
    let image = opened.made_image()?;
    let name = &opened.recipe().name;
    let Some(text) = opened.signature()? else {
        let error = Diagnostic::error("recipe::signature", format!("`{name}` is not signed"));
        return Err(error.help("ask who made it, or leave `--key` out"));
    };
    held(name, &image.sha256, &text, keys)
}

/// Holds a signature against a digest and the keys.
fn held(name: &str, sha256: &str, text: &str, keys: &[String]) -> Result<Signed, Diagnostic> {
    let error = |message: String| Diagnostic::error("recipe::signature", message);
    let signature = Signature::decode(text);
    let signature =
        signature.map_err(|why| error(format!("the signature of `{name}` cannot be read")).why(why.to_string()))?;
    let mut why = Vec::new();
    for key in keys {
        match public_key(key)?.verify(signed(sha256).as_bytes(), &signature, false) {
            Ok(()) => return Ok(Signed { key: key.clone(), comment: signature.trusted_comment().to_owned() }),
            Err(error) => why.push(format!("{key}: {error}")),
        }
    }
    let error = error(format!("`{name}` is signed by none of the keys that you name")).why(why.join("\n"));
    Err(error.help("what is signed is its digest: `host recipe inspect` shows it"))
}

fn public_key(key: &str) -> Result<PublicKey, Diagnostic> {
    let unusable = |why: String| {
        let error = Diagnostic::error("recipe::key", format!("`{key}` is no key of minisign")).why(why);
        error.help("name the line that begins with `RW`, or a file `….pub`")
    };
    let path = Path::new(key);
    if !path.is_file() {
        return PublicKey::from_base64(key).map_err(|error| unusable(error.to_string()));
    }
    let text = intake::read_text(path, KEY_BYTES).map_err(|error| unusable(error.to_string()))?;
    PublicKey::decode(&text).map_err(|error| unusable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // minisign 0.11: `minisign -G -W`, then `minisign -S -m FILE -t "tiny 1.0.0"` of the line with the digest of 64 times `a`.
    const KEY: &str = "RWSFBYkL1UIzLuPD2WJV+QK1XFGwg3/bxBGhNwWYussmzfqlZo8rprMi";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUSFBYkL1UIzLlrd1de5Vw5bBCmTbH0KhhOlnEz9+b8JwyjMFVpdAnf6Q2Gv3j77dOHymOFHV7rn475FJmRaPui5dLyy+EFNqAs=
trusted comment: tiny 1.0.0
QA7TdGRTGNTUWPpiIdDOHepUTjlYSIu8UCj5JCwMChnmfeQP/OEWlLMZxxlP7T4IM3ZA8cqvL3sAZhYvdJWsAQ==";

    #[test]
    fn a_signature_of_minisign_holds_for_its_digest_alone() {
        let digest = "a".repeat(64);
        let keys = [KEY.to_owned()];
        let signed = held("tiny", &digest, SIGNATURE, &keys).unwrap();
        assert_eq!((signed.key.as_str(), signed.comment.as_str()), (KEY, "tiny 1.0.0"));
        let other = held("tiny", &"b".repeat(64), SIGNATURE, &keys).unwrap_err();
        assert!(other.message.contains("signed by none of the keys"), "{}", other.message);
        let comment = SIGNATURE.replace("tiny 1.0.0", "tiny 2.0.0");
        assert!(held("tiny", &digest, &comment, &keys).is_err());
        assert!(held("tiny", &digest, "no signature", &keys).unwrap_err().message.contains("cannot be read"));
        assert_eq!(held("tiny", &digest, SIGNATURE, &["RWno".to_owned()]).unwrap_err().code, "recipe::key");
    }
}
