//! How deep source nests, judged before it is parsed: the parser calls itself for each level, and the stack is small.
//!
//! Strings and comments count as code, since what is a string is known only after parsing; real code stays far below the
//! limits, and nothing can be hidden in a quote.

/// Levels of an expression: brackets within brackets, and operators in a row (`not not x`, `a + b + c`, `a.b().c()`).
const MAX_EXPRESSION: usize = 64;
/// Levels of indentation.
const MAX_INDENTATION: usize = 24;
/// Functions within functions: the interpreter's work doubles with each.
const MAX_FUNCTIONS: usize = 6;
/// Words that take an expression after them into one.
const WORDS: [&[u8]; 6] = [b"not", b"lambda", b"if", b"else", b"await", b"yield"];

/// The line where source nests too deep, if it does.
pub(crate) fn too_deep(source: &str) -> Option<usize> {
    let bytes = source.as_bytes();
    // Operators since the last comma, for each open bracket and the statement itself.
    let mut chains = vec![0_usize];
    let mut depth = 0;
    // Width of each block around this line, and whether a function or class opens it.
    let mut blocks = vec![(0_usize, false)];
    let mut line = 1;
    let mut at = 0;
    let mut starts_line = true;
    while at < bytes.len() {
        if starts_line {
            starts_line = false;
            let width = bytes[at..].iter().take_while(|byte| matches!(byte, b' ' | b'\t' | 0x0c)).count();
            at += width;
            let is_blank = matches!(bytes.get(at), None | Some(b'\n' | b'\r' | b'#'));
            if chains.len() == 1 && !is_blank {
                let rest = &bytes[at..];
                let opens_function = [&b"def"[..], b"async", b"class"].iter().any(|word| rest.starts_with(word));
                blocks.retain(|(outer, _)| *outer < width);
                blocks.push((width, opens_function));
                let functions = blocks.iter().filter(|(_, is_function)| *is_function).count();
                if blocks.len() > MAX_INDENTATION || functions > MAX_FUNCTIONS {
                    return Some(line);
                }
            }
            continue;
        }
        let byte = bytes[at];
        let last = chains.len() - 1;
        let mut step = 1;
        match byte {
            b'\n' | b'\r' => {
                line += usize::from(byte == b'\n' || bytes.get(at + 1) != Some(&b'\n'));
                let goes_on = last > 0 || at > 0 && bytes[at - 1] == b'\\';
                if !goes_on {
                    depth -= chains[0];
                    chains[0] = 0;
                }
                starts_line = true;
            }
            b',' | b';' => {
                depth -= chains[last];
                chains[last] = 0;
            }
            b'(' | b'[' | b'{' => {
                chains[last] += 1;
                chains.push(0);
                depth += 1;
            }
            b')' | b']' | b'}' if last > 0 => depth -= chains.pop().unwrap_or_default(),
            b'+' | b'-' | b'*' | b'/' | b'%' | b'@' | b'&' | b'|' | b'^' | b'~' | b'<' | b'>' | b'.' => {
                chains[last] += 1;
                depth += 1;
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'0'..=b'9' | 0x80.. => {
                let is_word = |byte: &&u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'0'..=b'9' | 0x80..);
                step = bytes[at..].iter().take_while(is_word).count();
                if WORDS.contains(&&bytes[at..at + step]) {
                    chains[last] += 1;
                    depth += 1;
                }
            }
            _ => {}
        }
        if depth > MAX_EXPRESSION {
            return Some(line);
        }
        at += step;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_source_is_found() {
        let n = 1000;
        for deep in [
            "(".repeat(n),
            "[".repeat(n) + &"]".repeat(n),
            "not ".repeat(n) + "x",
            "-".repeat(n) + "1",
            "lambda: ".repeat(n) + "1",
            "x if y else ".repeat(n) + "x",
            "a".to_owned() + &"()".repeat(n),
            "a".to_owned() + &".b".repeat(n),
            "a".to_owned() + &"+a".repeat(n),
            "a".to_owned() + &"[0]".repeat(n),
            "f'".to_owned() + &"{f\"".repeat(n),
            "(\n-\\\n".repeat(n),
            "'#' + ".to_owned() + &"(".repeat(n),
        ] {
            assert!(too_deep(&deep).is_some(), "{deep:.40}");
        }
        let staircase = |line: &str| (0..n).fold(String::new(), |text, level| text + &" ".repeat(level) + line + "\n");
        assert_eq!(too_deep(&staircase("if x:")), Some(MAX_INDENTATION + 1));
        assert_eq!(too_deep(&staircase("def f():")), Some(MAX_FUNCTIONS + 1));
    }

    #[test]
    fn ordinary_source_is_not() {
        let long =
            format!("x = [{}]\n", (0..10_000).map(|i| format!("f({i}) + a.b[-1]")).collect::<Vec<_>>().join(", "));
        assert_eq!(too_deep(&long), None);
        assert_eq!(too_deep(&"x = a.b(1) + 2\n".repeat(10_000)), None);
        assert_eq!(too_deep("def f(x):\n    '''Dots... and - dashes (so.'''\n    return [\n        1,\n    ]\n"), None);
        assert_eq!(too_deep(&"if a:\n  if b:\n      x\n\n  y\n".repeat(100)), None);
    }
}
