//! Copies of envelopes that share memory.

use bytes::{Bytes, BytesMut};

/// First size of a piece of memory, in bytes; doubled up to the last. A scan of few envelopes holds little, and a long
/// one allocates seldom. Guesses.
const PIECE_LEN_BYTES_MIN: usize = 4 * 1024;
const PIECE_LEN_BYTES_MAX: usize = 64 * 1024;

/// Makes copies of the envelopes of one scan, in pieces of memory of at most 64 KiB. A copy keeps its piece alive.
///
/// A copy with memory of its own would cost an allocation, and another one when it is first shared, as the encoding of
/// an answer does.
#[derive(Debug)]
pub(crate) struct SharedCopies {
    /// The rest of the last piece.
    rest: BytesMut,
    /// Size of the next piece.
    piece_len_bytes: usize,
}

impl SharedCopies {
    /// Begins without memory.
    pub(crate) fn new() -> Self {
        Self { rest: BytesMut::new(), piece_len_bytes: PIECE_LEN_BYTES_MIN }
    }

    /// Copies `envelope`. A large one gets memory of its own.
    pub(crate) fn copy(&mut self, envelope: &[u8]) -> Bytes {
        if envelope.len() > self.piece_len_bytes / 4 {
            return Bytes::copy_from_slice(envelope);
        }
        if self.rest.capacity() < envelope.len() {
            self.rest = BytesMut::with_capacity(self.piece_len_bytes);
            self.piece_len_bytes = PIECE_LEN_BYTES_MAX.min(2 * self.piece_len_bytes);
        }
        self.rest.extend_from_slice(envelope);
        self.rest.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_follow_one_another_in_few_pieces_and_large_ones_stand_alone() {
        let mut copies = SharedCopies::new();
        let envelope = |number: u16| vec![number.to_be_bytes()[1]; 600 + usize::from(number % 7)];
        let made: Vec<Bytes> = (0..200).map(|number| copies.copy(&envelope(number))).collect();
        for (number, copy) in (0..200).zip(&made) {
            assert_eq!(*copy, envelope(number));
        }
        let is_apart = |pair: &&[Bytes]| pair[0].as_ptr_range().end != pair[1].as_ptr();
        let pieces = 1 + made.windows(2).filter(is_apart).count();
        assert!((4..=7).contains(&pieces), "{pieces} pieces for 120,000 bytes");
        let large = copies.copy(&vec![1; PIECE_LEN_BYTES_MAX]);
        assert!(large.is_unique() && !made[199].is_unique());
        assert_eq!(copies.copy(&[]), Bytes::new());
    }
}
