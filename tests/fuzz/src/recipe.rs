//! What a stranger's recipe is read from: an archive, a manifest, an index, a model card.

use std::collections::BTreeSet;
use std::io::Read as _;

use host::config::is_inside;
use host::config::recipe::Recipe;
use host::recipe::image::{Image, Packed, prefix};
use host::recipe::{card, index};

use crate::readable;

/// The first byte says what it is: `a` an archive, `m` a manifest, `i` an index, `c` a card.
pub(crate) fn recipe(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else { return };
    match first {
        b'a' => archive(rest),
        b'm' => match Image::read(rest.to_vec()) {
            Ok(image) => sound(&image),
            Err(error) => readable(&error),
        },
        b'i' => match index::read(rest, "https://example.org/recipes/index.json") {
            Ok(entries) => {
                let is_address = |from: &str| from.contains("://") || from.starts_with("hf:");
                assert!(entries.iter().all(|entry| is_address(&entry.from)), "{entries:?}");
            }
            Err(error) => readable(&error),
        },
        b'c' => {
            let text = String::from_utf8_lossy(rest);
            if let Some(card) = card::read(&text) {
                assert!(card.config.lines().any(|line| line.starts_with("base_model:")), "{card:?}");
            }
            assert!(Recipe::is_name(&card::name_of(&text)), "{text:?}");
        }
        _ => {}
    }
}

fn archive(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    std::io::Write::write_all(&mut file, bytes).expect("it is written");
    let packed = Packed::open(file.path());
    let first = prefix(bytes);
    match packed {
        Ok(packed) => {
            sound(&packed.image);
            for file in &packed.image.files {
                let mut read = Vec::new();
                packed.reader(file).and_then(|mut reader| reader.read_to_end(&mut read)).expect("it is there");
                assert!(read.len() as u64 <= file.size, "{file:?}");
            }
            // What an address says first is what the file says.
            if let Ok((image, config)) = first {
                assert_eq!(image.sha256, packed.image.sha256);
                assert_eq!(config, packed.config().expect("it is there"));
            }
        }
        Err(error) => {
            readable(&error);
            first.err().iter().for_each(readable);
        }
    }
}

/// Names that stay inside, each once whatever the file system, the config first.
fn sound(image: &Image) {
    assert_eq!(image.files[0].path, "recipe.yml");
    let mut known = BTreeSet::new();
    for file in &image.files {
        assert!(is_inside(&file.path) && !file.path.starts_with('/') && !file.path.contains("//"), "{file:?}");
        assert!(file.path.split('/').all(|part| !part.starts_with('.')), "{file:?}");
        assert!(known.insert(file.path.to_lowercase()), "{file:?} is there twice");
        assert_eq!(file.sha256.len(), 64);
    }
    assert!(image.files.len() <= host::check::contents::FILES && image.bytes() <= host::check::contents::BYTES);
}
