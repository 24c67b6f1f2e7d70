//! Manifests of backups and of snapshots: texts whose last line is the hash of all lines before it.

/// Appends the line with the hash to lines.
pub(crate) fn with_hash(lines: &[u8]) -> Vec<u8> {
    let end = blake3::hash(lines);
    [lines, b"end=", hex::encode(end.as_bytes()).as_bytes(), b"\n"].concat()
}

/// Returns the lines before the one with the hash; `None` if the hash is not theirs.
pub(crate) fn hashed_lines(text: &str) -> Option<&str> {
    let (lines, end) = split_last_line(text)?;
    let hash = blake3::hash(lines.as_bytes());
    (end.strip_prefix("end=")? == hex::encode(hash.as_bytes())).then_some(lines)
}

/// Splits the last line off, which must end with a line break.
pub(crate) fn split_last_line(text: &str) -> Option<(&str, &str)> {
    let whole = text.strip_suffix('\n')?;
    let at = whole.rfind('\n')? + 1;
    Some((&text[..at], &whole[at..]))
}

/// Returns the number of the first line, from 1, in which two texts differ.
pub(crate) fn first_other_line(one: &str, other: &str) -> usize {
    one.lines().zip(other.lines()).take_while(|(a, b)| a == b).count() + 1
}
