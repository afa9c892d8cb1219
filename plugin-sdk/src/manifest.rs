//! The manifest section: what a plugin says about itself, put into the WebAssembly file by the macros.

/// Texts one after another as an array, for a `static` of its own section.
pub const fn bytes<const N: usize>(texts: &[&str]) -> [u8; N] {
    let mut array = [0; N];
    let (mut filled, mut text) = (0, 0);
    while text < texts.len() {
        let source = texts[text].as_bytes();
        let mut index = 0;
        while index < source.len() {
            array[filled] = source[index];
            filled += 1;
            index += 1;
        }
        text += 1;
    }
    array
}

/// Bytes that texts have together.
pub const fn len(texts: &[&str]) -> usize {
    let (mut sum, mut text) = (0, 0);
    while text < texts.len() {
        sum += texts[text].len();
        text += 1;
    }
    sum
}

/// True if a text can stand in a JSON string as it is.
pub const fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        if bytes[index] == b'"' || bytes[index] == b'\\' || bytes[index] < b' ' {
            return false;
        }
        index += 1;
    }
    true
}

/// Puts the manifest into the plugin: `name`, `version` (that of the crate, unless given), `description`, and
/// `config_schema`, which is JSON and stands in the manifest as it is.
#[doc(hidden)]
#[macro_export]
macro_rules! __manifest {
    ($kind:literal, name: $name:literal, description: $($rest:tt)*) => {
        $crate::__manifest!($kind, name: $name, version: env!("CARGO_PKG_VERSION"), description: $($rest)*);
    };
    ($kind:literal, name: $name:literal, version: $version:expr, description: $description:literal $(,)?) => {
        $crate::__manifest!(@ $kind, $name, $version, $description, "}");
    };
    ($kind:literal, name: $name:literal, version: $version:expr, description: $description:literal, config_schema: $schema:expr $(,)?) => {
        $crate::__manifest!(@ $kind, $name, $version, $description, ",\"config_schema\":", $schema, "}");
    };
    (@ $kind:literal, $name:literal, $version:expr, $description:literal, $($rest:expr),+) => {
        const _: () = {
            const TEXTS: &[&str] = &[
                "{\"name\":\"",
                $name,
                "\",\"version\":\"",
                $version,
                "\",\"api\":\"0.1\",\"kind\":\"",
                $kind,
                "\",\"description\":\"",
                $description,
                "\"",
                $($rest),+
            ];
            assert!(
                $crate::__private::is_plain($name)
                    && $crate::__private::is_plain($version)
                    && $crate::__private::is_plain($description),
                "name, version and description must not have quotes, backslashes or line breaks"
            );
            #[cfg(target_family = "wasm")]
            #[used]
            #[unsafe(link_section = "trainer:plugin-manifest")]
            static MANIFEST: [u8; $crate::__private::len(TEXTS)] = $crate::__private::bytes(TEXTS);
        };
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn quotes_and_breaks_are_not_plain() {
        assert!(super::is_plain("Alpaca prompts, as Stanford wrote them"));
        for text in ["a\"b", "a\\b", "a\nb"] {
            assert!(!super::is_plain(text), "{text}");
        }
    }

    #[test]
    fn texts_are_put_together() {
        const TEXTS: &[&str] = &["{\"a\":", "", "1}"];
        assert_eq!(super::bytes::<{ super::len(TEXTS) }>(TEXTS), *b"{\"a\":1}");
    }
}
