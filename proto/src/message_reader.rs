//! The messages in the bytes of an answer, by gRPC's framing: a state machine without I/O, for callers of servers that
//! are not trusted.
//!
//! The transport's own reader gathers a message whose length its caller learns only at the end. It sets memory aside by
//! the length that the server claims, and keeps that of the longest message until the answer ends. This reader reports
//! a long message before it takes the message, and keeps nothing between two messages.

use bytes::{Buf as _, Bytes};

/// Bytes beyond which a message is a long one. A guess: most messages of a strand are below it.
pub const LONG_BYTES: usize = 1024 * 1024;
/// A byte that says whether the message is compressed, for which no caller here asks, and four for its length.
const HEADER_BYTES: usize = 5;

/// Cuts the bytes of one answer into messages.
///
/// Invariant: holds at most one message and the rest of one HTTP/2 frame. It holds only bytes that the server has sent.
#[derive(Debug)]
pub struct MessageReader {
    /// Longest message that is taken.
    bytes_max: usize,
    header: Vec<u8>,
    body: Vec<u8>,
    /// Bytes behind those that are gathered.
    rest: Bytes,
}

/// The next step of a [`MessageReader`].
#[derive(Debug, PartialEq, Eq)]
pub enum ReadStep {
    /// A whole message.
    Message(Bytes),
    /// More bytes are needed.
    More,
    /// A long message of so many bytes has begun. Nothing of it is gathered before it is allowed.
    Long(usize),
}

/// The reason bytes of an answer are no messages that a reader takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageFramingError {
    /// A message is longer than allowed. Found before it arrives.
    #[error("a message of the answer is too long")]
    TooLong,
    /// A message is compressed, or the bytes have another framing.
    #[error("a message of the answer is compressed, or the answer is not gRPC")]
    Compressed,
}

impl MessageReader {
    /// Returns a reader at the start of an answer whose messages have at most `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, header: Vec::new(), body: Vec::new(), rest: Bytes::new() }
    }

    /// Takes the next bytes of the answer. To be called when more are needed.
    pub fn push(&mut self, bytes: Bytes) {
        debug_assert!(self.rest.is_empty(), "the bytes before have been used up");
        self.rest = bytes;
    }

    /// Returns true while no message has begun.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.header.is_empty() && self.rest.is_empty()
    }

    /// Returns the next step. `may_be_long` allows one long message.
    ///
    /// # Errors
    /// When a message is longer than allowed, or its framing is wrong.
    pub fn step(&mut self, may_be_long: bool) -> Result<ReadStep, MessageFramingError> {
        gather(&mut self.header, HEADER_BYTES, &mut self.rest);
        let &[compressed, a, b, c, d] = &self.header[..] else { return Ok(ReadStep::More) };
        if compressed != 0 {
            return Err(MessageFramingError::Compressed);
        }
        let claimed = u32::from_be_bytes([a, b, c, d]);
        let len = usize::try_from(claimed).ok().filter(|len| *len <= self.bytes_max);
        let len = len.ok_or(MessageFramingError::TooLong)?;
        if len > LONG_BYTES && !may_be_long {
            return Ok(ReadStep::Long(len));
        }
        gather(&mut self.body, len, &mut self.rest);
        if self.body.len() < len {
            return Ok(ReadStep::More);
        }
        self.header.clear();
        Ok(ReadStep::Message(std::mem::take(&mut self.body).into()))
    }
}

/// Moves bytes to the end of `part` until it has `len`. An empty `rest` keeps no memory of what was read together.
fn gather(part: &mut Vec<u8>, len: usize, rest: &mut Bytes) {
    let more = rest.len().min(len.saturating_sub(part.len()));
    part.extend_from_slice(&rest[..more]);
    rest.advance(more);
    if rest.is_empty() {
        *rest = Bytes::new();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let len = u32::try_from(message.len()).unwrap();
        [&[0][..], &len.to_be_bytes(), message].concat()
    }

    fn is_long(step: &Result<ReadStep, MessageFramingError>) -> bool {
        matches!(step, Ok(ReadStep::Long(_)))
    }

    #[test]
    fn a_long_message_is_taken_only_when_it_is_allowed() {
        let mut reader = MessageReader::new(2 * LONG_BYTES);
        reader.push(framed(&vec![7; LONG_BYTES]).into());
        assert!(matches!(reader.step(false), Ok(ReadStep::Message(_))), "it is no long one");
        let long = vec![7; LONG_BYTES + 1];
        reader.push(framed(&long)[..9].to_vec().into());
        assert_eq!(reader.step(false), Ok(ReadStep::Long(LONG_BYTES + 1)));
        assert_eq!(
            (reader.step(false), reader.body.capacity()),
            (Ok(ReadStep::Long(LONG_BYTES + 1)), 0)
        );
        assert_eq!(reader.step(true), Ok(ReadStep::More));
        assert!(reader.body.capacity() < 1024, "a claim costs nothing");
        reader.push(long[4..].to_vec().into());
        assert!(is_long(&reader.step(false)), "also in its middle");
        assert_eq!(reader.step(true), Ok(ReadStep::Message(long.into())));
        assert!(reader.is_between() && reader.body.capacity() == 0, "nothing of it is kept");
    }

    /// Played by a server that sends a message, or a part of one, on each of many streams, and leaves these open.
    #[test]
    fn nothing_of_what_was_read_is_kept() {
        let message = framed(&[7; 40]);
        for len in [3, 20, message.len()] {
            let packets = Bytes::from([&message[..len], &[0; 1000]].concat());
            let mut reader = MessageReader::new(40);
            reader.push(packets.slice(..len));
            assert_eq!(reader.step(true) == Ok(ReadStep::More), len < message.len());
            assert!(packets.is_unique(), "{len}");
        }
    }

    #[test]
    fn wrong_framing_is_refused() {
        let step = |header: [u8; 5]| {
            let mut reader = MessageReader::new(1000);
            reader.push(header.to_vec().into());
            reader.step(true)
        };
        assert_eq!(step([0, 0, 0, 3, 0xe8]), Ok(ReadStep::More));
        assert_eq!(step([0, 0, 0, 3, 0xe9]), Err(MessageFramingError::TooLong));
        assert_eq!(step([0, 0xff, 0xff, 0xff, 0xff]), Err(MessageFramingError::TooLong));
        assert_eq!(step([1, 0, 0, 0, 1]), Err(MessageFramingError::Compressed));
        assert_eq!(step(*b"<html"), Err(MessageFramingError::Compressed));
        assert_eq!(step([0; 5]), Ok(ReadStep::Message(Bytes::new())));
    }

    proptest! {
        #[test]
        fn messages_are_read_wherever_their_bytes_are_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            cuts in proptest::collection::vec(1usize..30, 1..20),
            left_out in 0usize..50,
        ) {
            let all: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
            let sent = &all[..all.len().saturating_sub(left_out)];
            let (mut reader, mut read, mut rest) = (MessageReader::new(40), Vec::new(), sent);
            let mut cuts = cuts.into_iter().cycle();
            loop {
                match reader.step(false).unwrap() {
                    ReadStep::Message(message) => read.push(message.to_vec()),
                    ReadStep::More if rest.is_empty() => break,
                    ReadStep::More => {
                        let (next, behind) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                        reader.push(next.to_vec().into());
                        rest = behind;
                    }
                    ReadStep::Long(_) => unreachable!("none is long"),
                }
            }
            prop_assert!(messages.starts_with(&read));
            let whole: usize = read.iter().map(|message| message.len() + HEADER_BYTES).sum();
            prop_assert_eq!(reader.is_between(), whole == sent.len());
        }
    }
}
