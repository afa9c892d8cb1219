//! Puts a manifest into a component whose language cannot: a custom section at its end, as the format allows.

use crate::error::PluginError;
use crate::manifest::{Inspection, Manifest, SECTION, check_magic, check_manifest, inspect, manifests};

/// The component with the manifest in it, and what it then is. One that has this very manifest stays as it is. `shown` is
/// what messages call it.
pub fn pack(bytes: &[u8], manifest: &Manifest, shown: &str) -> Result<(Vec<u8>, Inspection), PluginError> {
    check_magic(bytes, shown)?;
    check_manifest(manifest, shown)?;
    let there = manifests(bytes, shown)?;
    if let Some(other) = there.iter().find(|other| *other != manifest) {
        let message = format!("`{shown}` has a manifest already, and another one");
        return Err(PluginError::new("plugin::manifest", message)
            .plugin(&manifest.name)
            .why(format!("it says `{}` {}, a {} plugin", other.name, other.version, other.kind.name()))
            .help("pack the file as the compiler made it; a plugin that the SDK's macros made needs no packing"));
    }
    let mut packed = bytes.to_vec();
    if there.is_empty() {
        let json = serde_json::to_vec(manifest).expect("a manifest is plain data");
        let mut section = Vec::new();
        length(SECTION.len(), &mut section);
        section.extend(SECTION.as_bytes());
        section.extend(json);
        packed.push(0);
        length(section.len(), &mut packed);
        packed.extend(section);
    }
    let inspection = inspect(&packed, shown)?;
    Ok((packed, inspection))
}

/// A length as WebAssembly writes it (LEB128).
fn length(mut length: usize, out: &mut Vec<u8>) {
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;
    use crate::manifest::API;

    #[test]
    fn the_section_can_be_read_again() {
        let empty = b"\0asm\x0d\0\x01\0";
        let manifest = Manifest {
            name: "acme:x".to_owned(),
            version: "1.0".to_owned(),
            api: API.to_owned(),
            kind: Kind::Reward,
            description: "x".repeat(300),
            config_schema: None,
        };
        // The manifest is there; that nothing is exported is the next thing that is seen.
        let error = pack(empty, &manifest, "x.wasm").unwrap_err();
        assert_eq!(
            error.message,
            "`x.wasm` says that it is a reward plugin, but does not export `trainer:plugin/reward`"
        );
        let error = pack(b"\0asm\x01\0\0\0", &manifest, "x.wasm").unwrap_err();
        assert_eq!(error.code, "plugin::not-a-component");
    }
}
