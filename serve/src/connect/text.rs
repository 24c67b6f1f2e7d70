//! JSON that is being written. Its memory is charged before it grows.

use std::io;
use std::sync::Arc;

use crate::budget::ConnectionShare;
use crate::charged_bytes::ChargedBytes;
use crate::overloaded::OverloadedError;

/// A text that is charged to a caller until it is taken.
pub(super) struct ChargedText {
    text: Vec<u8>,
    share: Arc<ConnectionShare>,
    /// The charge of the text's room.
    held: ChargedBytes,
}

impl ChargedText {
    /// Creates a text that begins with `first` and has room for `more_bytes`.
    ///
    /// # Errors
    /// [`OverloadedError`]: the caller must be refused.
    pub(super) fn new(
        first: &[u8],
        more_bytes: usize,
        share: Arc<ConnectionShare>,
    ) -> Result<Self, OverloadedError> {
        let room_bytes = first.len() + more_bytes;
        let mut held = ChargedBytes::new(share.clone());
        held.take(room_bytes)?;
        let mut text = Vec::with_capacity(room_bytes);
        text.extend_from_slice(first);
        Ok(Self { text, share, held })
    }

    /// Returns the text, and ends its charge. From then on its length is charged, so it keeps no further room.
    pub(super) fn into_text(mut self) -> Vec<u8> {
        self.text.shrink_to_fit();
        self.text
    }

    /// Replaces the room of the text by at least twice as much. Both are charged until the text is copied.
    fn grow(&mut self, needed_bytes: usize) -> Result<(), OverloadedError> {
        let room_bytes = needed_bytes.max(2 * self.text.capacity());
        let mut held = ChargedBytes::new(self.share.clone());
        held.take(room_bytes)?;
        let mut text = Vec::with_capacity(room_bytes);
        text.extend_from_slice(&self.text);
        self.text = text;
        self.held = held;
        Ok(())
    }
}

impl io::Write for ChargedText {
    /// # Errors
    /// [`OverloadedError`] if the caller may not hold a longer text.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let needed_bytes = self.text.len() + bytes.len();
        if needed_bytes > self.text.capacity() {
            self.grow(needed_bytes).map_err(io::Error::other)?;
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::Ipv4Addr;

    use super::*;
    use crate::budget::MemoryBudget;

    #[test]
    fn a_text_is_charged_before_it_grows_and_refused_if_it_may_not() {
        let budget = MemoryBudget::new(1 << 20);
        let share = budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None)).unwrap();
        let before = budget.used_bytes();
        let mut text = ChargedText::new(b"ab", 4, share.clone()).unwrap();
        assert_eq!(budget.used_bytes(), before + 6);
        text.write_all(b"cdef").unwrap();
        assert_eq!(budget.used_bytes(), before + 6, "it had room");
        text.write_all(&[b'g'; 1000]).unwrap();
        assert_eq!(budget.used_bytes(), before + 1006);
        let refused = text.write_all(&[b'h'; 1 << 20]).unwrap_err();
        assert_eq!(refused.to_string(), OverloadedError.to_string());
        assert_eq!(budget.used_bytes(), before + 1006);
        let text = text.into_text();
        assert_eq!((&text[..6], text.len()), (&b"abcdef"[..], 1006));
        assert_eq!(budget.used_bytes(), before);
        assert!(ChargedText::new(b"", 1 << 20, share).is_err());
    }
}
