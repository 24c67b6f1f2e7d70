//! The version of an object, as its place names it.

use std::fmt;

/// The longest tag in bytes. A guess: those of S3 have 32 to 70.
const LEN_BYTES_MAX: usize = 256;

/// A name that a place gives to one version of an object, such as the entity tag of S3. An object that is written again
/// has another tag, unless its bytes are the same. A tag says nothing about the bytes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectTag(String);

impl ObjectTag {
    /// Takes the text of a place. `None` for a text that is empty, long, or not of visible characters of ASCII only:
    /// such a version counts as unknown.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        // Services quote a tag in one answer and not in another.
        let text = text.trim_matches('"');
        let is_visible = !text.is_empty() && text.bytes().all(|it| it.is_ascii_graphic());
        (is_visible && text.len() <= LEN_BYTES_MAX).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for ObjectTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
