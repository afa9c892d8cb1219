//! The manifest section: what a plugin says about itself, put into the WebAssembly file by the macros.

/// A text as an array, for a `static` of its own section.
pub const fn bytes<const N: usize>(text: &str) -> [u8; N] {
    let source = text.as_bytes();
    let mut array = [0; N];
    let mut index = 0;
    while index < N {
        array[index] = source[index];
        index += 1;
    }
    array
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

/// Puts the manifest into the plugin.
#[doc(hidden)]
#[macro_export]
macro_rules! __manifest {
    ($kind:literal, $name:literal, $version:expr, $description:literal) => {
        const _: () = {
            const TEXT: &str = concat!(
                "{\"name\":\"",
                $name,
                "\",\"version\":\"",
                $version,
                "\",\"api\":\"0.1\",\"kind\":\"",
                $kind,
                "\",\"description\":\"",
                $description,
                "\"}"
            );
            assert!(
                $crate::__private::is_plain($name)
                    && $crate::__private::is_plain($version)
                    && $crate::__private::is_plain($description),
                "name, version and description must not have quotes, backslashes or line breaks"
            );
            #[cfg(target_family = "wasm")]
            #[used]
            #[unsafe(link_section = "trainer:plugin-manifest")]
            static MANIFEST: [u8; TEXT.len()] = $crate::__private::bytes(TEXT);
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
}
