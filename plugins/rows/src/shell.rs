//! Words of commands that a message suggests.

/// A text as one word of a shell command.
pub fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./+,:@%=".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The file beside `name` that its rows are written to: never `name` itself.
pub fn converted(name: &str) -> String {
    let (folder, file) = name.rfind('/').map_or(("", name), |at| name.split_at(at + 1));
    let mut stem = file;
    for extension in ["gz", "zst", "xz", "bz2", "lz4", "zip"] {
        stem = stem.strip_suffix(extension).and_then(|stem| stem.strip_suffix('.')).unwrap_or(stem);
    }
    let stem = stem.rsplit_once('.').map_or(stem, |(stem, _)| stem);
    let rows = format!("{folder}{stem}.jsonl");
    if rows == name { format!("{folder}{stem}-rows.jsonl") } else { rows }
}

/// The file that a packed file becomes beside it.
pub fn unpacked(name: &str) -> String {
    let plain = ["gz", "zst"].iter().find_map(|packed| name.strip_suffix(packed)?.strip_suffix('.'));
    plain.map_or_else(|| format!("{name}.unpacked"), ToOwned::to_owned)
}
