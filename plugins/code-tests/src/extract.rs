//! The code of a completion.

/// The last fenced block that is Python or does not say what it is; everything, where there is none. A fence that is
/// never closed, as in a completion cut by the length limit, ends with the text.
pub(crate) fn fenced(completion: &str) -> &str {
    let mut found = None;
    let mut open: Option<(usize, usize, bool)> = None;
    let mut at = 0;
    for line in completion.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let text = line.trim();
        let ticks = text.bytes().take_while(|byte| *byte == b'`').count();
        match open {
            None if ticks >= 3 => {
                let language = text[ticks..].trim().to_ascii_lowercase();
                let is_python = matches!(language.as_str(), "" | "python" | "py" | "python3");
                open = Some((ticks, at, is_python));
            }
            Some((opened, from, is_python)) if ticks >= opened && ticks == text.len() => {
                if is_python {
                    found = Some((from, start));
                }
                open = None;
            }
            _ => {}
        }
    }
    if let Some((_, from, true)) = open {
        found = Some((from, completion.len()));
    }
    found.map_or(completion, |(from, to)| &completion[from..to])
}

#[cfg(test)]
mod tests {
    use super::fenced;

    #[test]
    fn the_last_python_fence_counts() {
        assert_eq!(fenced("x = 1"), "x = 1");
        assert_eq!(fenced("So:\n```python\na\n```\nor\n```py\nb\n```\nDone."), "b\n");
        assert_eq!(fenced("```\na\n```\n```sh\nls\n```"), "a\n");
        assert_eq!(fenced("````python\na\n```\nb\n````"), "a\n```\nb\n");
        assert_eq!(fenced("```python\nx = 1\ny ="), "x = 1\ny =");
        assert_eq!(fenced("```python\r\nx\r\n```\r\n"), "x\r\n");
        assert_eq!(fenced("```"), "");
        assert_eq!(fenced(""), "");
    }
}
