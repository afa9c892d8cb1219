//! Regular expressions of a config, within limits.

/// Bytes that a pattern of a config may become. One for the names of a model's parameters takes a few thousand; classes that
/// are repeated a thousand times would take seconds and all memory.
const PATTERN_BYTES: usize = 256 << 10;

/// A regular expression of a config for names of a model, which are ASCII, within limits.
///
/// # Errors
/// What is wrong with it.
pub fn pattern(pattern: &str) -> Result<regex::bytes::Regex, regex::Error> {
    let mut builder = regex::bytes::RegexBuilder::new(pattern);
    builder.unicode(false).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build()
}
