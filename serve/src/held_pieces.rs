//! Bytes of a body that wait, in pieces whose memory is known exactly.
//!
//! A piece of a body keeps the connection's whole read buffer alive, so many small pieces would hold far more memory
//! than they are long. Short pieces are copied together into chunks. A chunk is as large as everything before it, up to
//! the length of a long piece, and is filled to its end before there is a next one. So the last chunk alone has room
//! that is not used yet, and that room is a part of [`HeldPieces::held_bytes`].

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Length from which a piece is kept as it is, and of the largest chunk. A whole HTTP/2 frame (RFC 9113 §4.2).
const PIECE_LEN_BYTES_MIN: usize = 16 * 1024;
/// Length of the smallest chunk. A guess: a ping, or the head of a message.
const CHUNK_LEN_BYTES_MIN: usize = 64;

/// Bytes in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct HeldPieces {
    /// Long pieces and full chunks.
    full: VecDeque<Bytes>,
    full_bytes: usize,
    /// The last chunk, which has room for more.
    chunk: BytesMut,
}

impl HeldPieces {
    /// Returns the memory that is held.
    pub(crate) fn held_bytes(&self) -> usize {
        self.full_bytes + self.chunk.capacity()
    }

    /// Returns the memory that a piece of this length will add.
    pub(crate) fn growth_bytes(&self, len: usize) -> usize {
        match len.saturating_sub(self.room()) {
            0 => 0,
            rest if rest < PIECE_LEN_BYTES_MIN => self.chunk_len(rest),
            rest => rest,
        }
    }

    /// Appends a piece.
    pub(crate) fn push(&mut self, mut piece: Bytes) {
        let fitting = piece.split_to(piece.len().min(self.room()));
        self.chunk.extend_from_slice(&fitting);
        if piece.is_empty() {
            return;
        }
        self.close_chunk();
        if piece.len() < PIECE_LEN_BYTES_MIN {
            self.chunk = BytesMut::with_capacity(self.chunk_len(piece.len()));
            self.chunk.extend_from_slice(&piece);
        } else {
            self.full_bytes += piece.len();
            self.full.push_back(piece);
        }
    }

    /// Takes the first piece. It holds no more memory than it is long.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        if self.full.is_empty() {
            self.close_chunk();
        }
        let piece = self.full.pop_front()?;
        self.full_bytes -= piece.len();
        Some(piece)
    }

    /// Takes all pieces, with `last` behind them. They hold no more memory than they are long.
    pub(crate) fn finish(&mut self, last: Bytes) -> VecDeque<Bytes> {
        self.close_chunk();
        self.full_bytes = 0;
        let mut pieces = std::mem::take(&mut self.full);
        pieces.push_back(last);
        pieces
    }

    fn room(&self) -> usize {
        self.chunk.capacity() - self.chunk.len()
    }

    /// Returns the length of a new chunk that begins with `len` bytes, fewer than those of a long piece.
    fn chunk_len(&self, len: usize) -> usize {
        let len = self.held_bytes().max(len.next_power_of_two());
        len.clamp(CHUNK_LEN_BYTES_MIN, PIECE_LEN_BYTES_MIN)
    }

    /// Moves the last chunk to the full ones, without the room that it has left.
    fn close_chunk(&mut self) {
        if self.chunk.is_empty() {
            return;
        }
        let is_full = self.room() == 0;
        let chunk = std::mem::take(&mut self.chunk);
        self.full_bytes += chunk.len();
        self.full.push_back(if is_full { chunk.freeze() } else { Bytes::copy_from_slice(&chunk) });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let len = prop_oneof![0usize..20, 0usize..5000, 16_000usize..17_000, 0usize..70_000];
        let piece = (any::<u8>(), len).prop_map(|(byte, len)| vec![byte; len]);
        proptest::collection::vec(piece, 0..40)
    }

    /// Counts the memory of the pieces themselves.
    fn counted_bytes(held: &HeldPieces) -> usize {
        held.full.iter().map(Bytes::len).sum::<usize>() + held.chunk.capacity()
    }

    proptest! {
        #[test]
        fn the_memory_of_each_piece_is_known_before_it_is_taken(pieces in pieces()) {
            let mut held = HeldPieces::default();
            for piece in &pieces {
                let expected = held.held_bytes() + held.growth_bytes(piece.len());
                held.push(piece.clone().into());
                prop_assert_eq!(held.held_bytes(), expected);
                prop_assert_eq!(counted_bytes(&held), expected);
            }
            let len_bytes: usize = pieces.iter().map(Vec::len).sum();
            prop_assert!(held.held_bytes() <= (2 * len_bytes).max(CHUNK_LEN_BYTES_MIN));
            prop_assert!(held.held_bytes() <= len_bytes + PIECE_LEN_BYTES_MIN);
        }

        #[test]
        fn bytes_come_out_as_they_went_in(pieces in pieces(), popped in 0usize..50) {
            let sent = pieces.concat();
            let mut held = HeldPieces::default();
            pieces.into_iter().for_each(|piece| held.push(piece.into()));
            let mut taken = Vec::new();
            for _ in 0..popped {
                let Some(piece) = held.pop() else { break };
                taken.extend_from_slice(&piece);
                prop_assert_eq!(held.held_bytes(), counted_bytes(&held));
            }
            held.finish(Bytes::from_static(b"last")).into_iter().for_each(|piece| {
                taken.extend_from_slice(&piece);
            });
            prop_assert_eq!(held.held_bytes(), 0);
            prop_assert_eq!(taken, [&sent[..], b"last"].concat());
        }
    }

    #[test]
    fn short_pieces_share_few_chunks() {
        let mut held = HeldPieces::default();
        (0..100_000).for_each(|_| held.push(Bytes::from_static(&[7])));
        assert!(held.full.len() < 16, "{}", held.full.len());
    }
}
