//! Boundaries of gRPC messages in a body: a flag, a length of four bytes, the message.

/// Bytes before each message. Specified: gRPC over HTTP/2, Length-Prefixed-Message.
pub(crate) const HEAD_LEN_BYTES: usize = 5;
/// The flag of a message that is compressed. Specified: gRPC over HTTP/2, Compressed-Flag.
pub(crate) const COMPRESSED: u8 = 1;

/// A decoder of message boundaries that keeps no bytes of messages. The pieces of the body may be
/// cut anywhere.
#[derive(Debug, Default)]
pub(crate) struct BoundaryDecoder {
    head: [u8; HEAD_LEN_BYTES],
    /// Bytes of `head` that have been read.
    head_len: usize,
    /// Bytes of the current message that are still to come.
    missing: usize,
}

/// The boundaries in one piece of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageBoundaries {
    /// Messages whose head was completed in this piece.
    pub(crate) begun: u64,
    /// End of the last message that ended in this piece; `None` if none did.
    pub(crate) whole: Option<usize>,
}

/// The reason a message head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageHeadError {
    /// The flag is neither 0 (plain) nor 1 (compressed).
    #[error("invalid message flag {0}")]
    Flag(u8),
    #[error("message of {len_bytes} bytes is larger than the {max_bytes} allowed")]
    TooLarge { len_bytes: usize, max_bytes: usize },
}

impl BoundaryDecoder {
    /// Advances over the next piece of the body.
    ///
    /// # Errors
    /// [`MessageHeadError`] as soon as a complete head is refused.
    pub(crate) fn step(
        &mut self,
        mut piece: &[u8],
        max_bytes: usize,
    ) -> Result<MessageBoundaries, MessageHeadError> {
        let len = piece.len();
        let mut step = MessageBoundaries { begun: 0, whole: None };
        while !piece.is_empty() {
            if self.missing == 0 {
                piece = self.read_head(piece);
                if self.head_len < HEAD_LEN_BYTES {
                    break;
                }
                self.begin(max_bytes)?;
                step.begun += 1;
            }
            let taken = self.missing.min(piece.len());
            self.missing -= taken;
            piece = &piece[taken..];
            if self.missing == 0 {
                step.whole = Some(len - piece.len());
            }
        }
        Ok(step)
    }

    /// Returns true between two messages, and before the first.
    pub(crate) fn at_boundary(&self) -> bool {
        self.missing == 0 && self.head_len == 0
    }

    fn read_head<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = piece.split_at(piece.len().min(HEAD_LEN_BYTES - self.head_len));
        self.head[self.head_len..self.head_len + taken.len()].copy_from_slice(taken);
        self.head_len += taken.len();
        rest
    }

    fn begin(&mut self, max_bytes: usize) -> Result<(), MessageHeadError> {
        let [flag, length @ ..] = self.head;
        if flag > 1 {
            return Err(MessageHeadError::Flag(flag));
        }
        let len_bytes = u32::from_be_bytes(length) as usize;
        if len_bytes > max_bytes {
            return Err(MessageHeadError::TooLarge { len_bytes, max_bytes });
        }
        self.head_len = 0;
        self.missing = len_bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(lens: &[usize]) -> Vec<u8> {
        let mut body = Vec::new();
        for &len in lens {
            body.push(0);
            body.extend_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
            body.extend(std::iter::repeat_n(7, len));
        }
        body
    }

    proptest! {
        #[test]
        fn messages_are_found_whatever_pieces_they_come_in(
            lens in proptest::collection::vec(0usize..40, 0..8),
            cuts in proptest::collection::vec(1usize..30, 1..40),
        ) {
            let body = body(&lens);
            let ends: Vec<usize> = lens
                .iter()
                .scan(0, |end, len| { *end += HEAD_LEN_BYTES + len; Some(*end) })
                .collect();
            let (mut boundaries, mut at, mut begun) = (BoundaryDecoder::default(), 0, 0);
            for cut in cuts.into_iter().cycle() {
                let piece = &body[at..body.len().min(at + cut)];
                let step = boundaries.step(piece, 40).unwrap();
                begun += step.begun;
                let end = ends.iter().rfind(|&&end| at < end && end <= at + piece.len());
                prop_assert_eq!(step.whole, end.map(|end| end - at));
                at += piece.len();
                prop_assert_eq!(boundaries.at_boundary(), at == 0 || ends.contains(&at));
                if at == body.len() {
                    break;
                }
            }
            prop_assert_eq!(begun, lens.len() as u64);
        }
    }

    #[test]
    fn a_length_is_judged_as_soon_as_it_is_read() {
        let mut boundaries = BoundaryDecoder::default();
        assert!(boundaries.step(&[0, 0, 0, 0], 10).is_ok());
        let refused = boundaries.step(&[11], 10);
        assert_eq!(refused, Err(MessageHeadError::TooLarge { len_bytes: 11, max_bytes: 10 }));
    }

    #[test]
    fn a_flag_of_another_protocol_is_refused() {
        assert_eq!(
            BoundaryDecoder::default().step(&[0x80, 0, 0, 0, 0], 10),
            Err(MessageHeadError::Flag(0x80))
        );
    }
}
