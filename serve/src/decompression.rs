//! Decompression of request messages (gzip, RFC 1952).
//!
//! A few compressed bytes may expand to gigabytes. So memory is charged before each piece is decompressed, and a
//! message is refused as soon as it exceeds the limit of a message, or has become long and is much longer than its
//! compressed bytes.
//! Decompression yields to other calls after each turn. Compressed bytes may also expand to nothing, in millions
//! of empty blocks. So a turn is bounded by its input as well, and a message of such bytes is refused. Content that
//! shrinks well may hide such blocks, before or between them. So all turns of a message but one take place beside the
//! runtime's threads, where callers take turns ([`Decompressor::is_long`]).

use std::collections::VecDeque;
use std::io::{self, Read};

use bytes::{Buf, Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use tonic::Status;

use crate::call_share::CallCharge;
use crate::message_boundaries::HEAD_LEN_BYTES;

/// Shortest and longest piece that is decompressed at once. The pieces of a message double in length from the
/// shortest to the longest. Guesses: a small message takes little memory, and a large one few pieces.
const PIECE_LEN_BYTES_MIN: usize = 4 * 1024;
const PIECE_LEN_BYTES_MAX: usize = 64 * 1024;
/// Pieces that are decompressed before other calls have a turn. A guess: together they take about a millisecond.
const PIECES_PER_TURN: usize = 4;
/// Bounds the decompressed size of a message to this multiple of the compressed bytes, once it is longer than the
/// constant below. gzip reaches a factor of 1032, which would let a caller cause the work of a thousand bytes by
/// sending one. Measured: 10,000 topics, each with the same cursor of 100 originators, shrink to a 43rd. The constant
/// is a guess: more than a usual publish has, even of equal bytes. Decompressing as much takes some milliseconds in
/// sixteen turns, all but the first part of them beside the runtime's threads, and memory that is charged piece by
/// piece.
const GROWTH_MAX: usize = 64;
const GROWTH_FREE_BYTES: usize = 4 * 1024 * 1024;
/// Compressed bytes that are read before other calls have their turn. A guess: a few milliseconds of work for the most
/// expensive blocks.
const INPUT_PER_TURN: usize = 8 * 1024;
/// Bytes by which a compressed message may exceed its decompressed length. A guess: for content that does not shrink
/// gzip adds five bytes to each 64 KiB, and a usually short header.
const SHRINKAGE_FREE_BYTES: usize = 16 * 1024;
/// Charge of a message that is being decompressed: the window, the tables and the buffer of its decoder. From
/// the types: 32 KiB of window, 32 KiB of buffer and about 12 KiB of tables.
const DECODER_BYTES: usize = 80 * 1024;

/// The compressed messages of one request, and the pieces of decompressed ones.
#[derive(Default)]
pub(crate) struct Decompressor {
    /// Complete messages as received, heads included.
    compressed: VecDeque<Bytes>,
    compressed_bytes: usize,
    current: Option<CompressedMessage>,
}

/// A message that is being decompressed.
struct CompressedMessage {
    decoder: MultiGzDecoder<Pieces>,
    decompressed: VecDeque<Bytes>,
    len_bytes: usize,
    /// The greatest decompressed length that its compressed bytes allow.
    grown_bytes_max: usize,
    piece_len_bytes: usize,
    /// The piece that is being filled, and its length so far.
    piece: Option<(BytesMut, usize)>,
}

/// The result of reading a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The piece is full.
    Full,
    /// The turn has read [`INPUT_PER_TURN`].
    Paused,
    /// The message is complete.
    End,
}

/// The result of a turn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The message is not complete yet; other calls have a turn.
    Again,
    /// The pieces of a complete message, with the head of an uncompressed one.
    Whole(VecDeque<Bytes>),
}

impl Decompressor {
    /// Creates a decompressor of one compressed message that has no head.
    pub(crate) fn of_message(body: Bytes) -> Self {
        let length = u32::try_from(body.len()).expect("messages are far below 4 GiB");
        let head = [&[1][..], &length.to_be_bytes()[..]].concat();
        let mut decompressor = Self::default();
        decompressor.push(head.into());
        decompressor.push(body);
        decompressor
    }

    /// Adds a piece of whole messages.
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.compressed_bytes += piece.len();
        self.compressed.push_back(piece);
    }

    /// Returns true if messages wait.
    pub(crate) fn has_work(&self) -> bool {
        self.current.is_some() || self.compressed_bytes > 0
    }

    /// Returns true if the work on the messages that wait may take more than one turn, or has done so.
    pub(crate) fn is_long(&self) -> bool {
        self.current.is_some() || self.compressed_bytes > INPUT_PER_TURN
    }

    /// Returns the bytes of messages that wait, without one that is being decompressed.
    pub(crate) fn compressed_bytes(&self) -> usize {
        self.compressed_bytes
    }

    /// Returns true while a message is being decompressed.
    pub(crate) fn is_decompressing(&self) -> bool {
        self.current.is_some()
    }

    /// Drops all messages.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Decompresses a part of the next message. Charges the decompressed bytes to `charge` as a part of the request.
    ///
    /// # Errors
    /// The status that refuses the request: the bytes are not gzip, the message becomes longer than
    /// `len_bytes_max` or than its compressed bytes allow, or the caller holds too much memory.
    pub(crate) fn turn(
        &mut self,
        charge: &CallCharge,
        len_bytes_max: usize,
    ) -> Result<Turn, Status> {
        let mut message = match self.current.take() {
            Some(message) => message,
            None => {
                let (is_compressed, body) = self.split_message();
                // Specified: Connect protocol, Unary-Request. Clients may leave an empty message as it is.
                if !is_compressed || body.is_empty() {
                    return Ok(Turn::Whole(with_head(body)));
                }
                charge.take_for_request(DECODER_BYTES)?;
                let compressed_bytes: usize = body.iter().map(Bytes::len).sum();
                CompressedMessage {
                    grown_bytes_max: compressed_bytes
                        .saturating_mul(GROWTH_MAX)
                        .max(GROWTH_FREE_BYTES),
                    decoder: MultiGzDecoder::new(Pieces {
                        waiting: body,
                        taken: 0,
                        left_in_turn: 0,
                    }),
                    decompressed: VecDeque::new(),
                    len_bytes: 0,
                    piece_len_bytes: PIECE_LEN_BYTES_MIN,
                    piece: None,
                }
            }
        };
        message.decoder.get_mut().left_in_turn = INPUT_PER_TURN;
        for _ in 0..PIECES_PER_TURN {
            if message.piece.is_none() {
                charge.take_for_request(message.piece_len_bytes)?;
            }
            match message.read_piece(len_bytes_max)? {
                Progress::Full => {}
                Progress::Paused => break,
                Progress::End => return Ok(Turn::Whole(with_head(message.decompressed))),
            }
        }
        self.current = Some(message);
        Ok(Turn::Again)
    }

    /// Splits the next message off. Returns true if it is compressed, and its body.
    fn split_message(&mut self) -> (bool, VecDeque<Bytes>) {
        let mut head = [0; HEAD_LEN_BYTES];
        let taken = self.take(HEAD_LEN_BYTES);
        let mut at = 0;
        for piece in &taken {
            head[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        let [flag, length @ ..] = head;
        (flag == 1, self.take(u32::from_be_bytes(length) as usize))
    }

    fn take(&mut self, mut len_bytes: usize) -> VecDeque<Bytes> {
        debug_assert!(len_bytes <= self.compressed_bytes, "only whole messages are pushed");
        let mut pieces = VecDeque::new();
        while len_bytes > 0
            && let Some(mut piece) = self.compressed.pop_front()
        {
            let taken = piece.split_to(len_bytes.min(piece.len()));
            len_bytes -= taken.len();
            self.compressed_bytes -= taken.len();
            pieces.push_back(taken);
            if !piece.is_empty() {
                self.compressed.push_front(piece);
            }
        }
        pieces
    }
}

impl CompressedMessage {
    /// Decompresses one piece, or a part of it.
    fn read_piece(&mut self, len_bytes_max: usize) -> Result<Progress, Status> {
        let empty = || (BytesMut::zeroed(self.piece_len_bytes), 0);
        let (mut piece, mut filled) = self.piece.take().unwrap_or_else(empty);
        let before = filled;
        let mut progress = Progress::Full;
        while filled < piece.len() && progress == Progress::Full {
            match self.decoder.read(&mut piece[filled..]) {
                Ok(0) => progress = Progress::End,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    progress = Progress::Paused;
                }
                Err(error) => {
                    let text = format!("the message is not valid gzip: {error}");
                    return Err(Status::invalid_argument(text));
                }
            }
        }
        self.len_bytes += filled - before;
        self.check_length(len_bytes_max)?;
        if progress == Progress::Paused {
            self.piece = Some((piece, filled));
            return Ok(progress);
        }
        piece.truncate(filled);
        if filled > 0 {
            self.decompressed.push_back(piece.freeze());
        }
        self.piece_len_bytes = (2 * self.piece_len_bytes).min(PIECE_LEN_BYTES_MAX);
        Ok(progress)
    }

    fn check_length(&self, len_bytes_max: usize) -> Result<(), Status> {
        let refused = |text: String| Err(Status::resource_exhausted(text));
        if self.len_bytes > len_bytes_max {
            return refused(format!(
                "the decompressed message is larger than the {len_bytes_max} bytes allowed"
            ));
        }
        if self.len_bytes > self.grown_bytes_max {
            return refused(format!(
                "the message becomes more than {GROWTH_MAX} times as long when it is decompressed: send it as it is"
            ));
        }
        if self.decoder.get_ref().taken > self.len_bytes + SHRINKAGE_FREE_BYTES {
            return refused(
                "the message becomes shorter when it is decompressed: send it as it is".into(),
            );
        }
        Ok(())
    }
}

/// Puts the head of an uncompressed message before its pieces.
fn with_head(mut pieces: VecDeque<Bytes>) -> VecDeque<Bytes> {
    let len_bytes: usize = pieces.iter().map(Bytes::len).sum();
    let length = u32::try_from(len_bytes).expect("messages are far below 4 GiB").to_be_bytes();
    let mut head = vec![0];
    head.extend(length);
    pieces.push_front(head.into());
    pieces
}

/// Compressed bytes, of which a turn gets only a part.
struct Pieces {
    waiting: VecDeque<Bytes>,
    /// Bytes that were read.
    taken: usize,
    /// Bytes that this turn may still read.
    left_in_turn: usize,
}

impl Read for Pieces {
    /// # Errors
    /// `WouldBlock` when the turn is over; the decoder continues at the next one.
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Some(first) = self.waiting.front_mut() else { return Ok(0) };
        if self.left_in_turn == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = to.len().min(first.len()).min(self.left_in_turn);
        first.copy_to_slice(&mut to[..len]);
        if first.is_empty() {
            self.waiting.pop_front();
        }
        self.taken += len;
        self.left_in_turn -= len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;
    use crate::budget::MemoryBudget;

    fn charge(budget: &MemoryBudget) -> CallCharge {
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        CallCharge::new(budget.connection(address, budget.account(None)).unwrap())
    }

    pub(super) fn gzip(message: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(message).unwrap();
        encoder.finish().unwrap()
    }

    fn framed(flag: u8, body: &[u8]) -> Vec<u8> {
        let mut framed = vec![flag];
        framed.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        framed.extend(body);
        framed
    }

    /// Decompresses one message, in as many turns as it takes.
    fn next(
        decompressor: &mut Decompressor,
        charge: &CallCharge,
        max: usize,
    ) -> Result<Vec<u8>, Status> {
        loop {
            if let Turn::Whole(pieces) = decompressor.turn(charge, max)? {
                return Ok(pieces.into_iter().flatten().collect());
            }
        }
    }

    proptest! {
        #[test]
        fn messages_are_what_they_were_whatever_pieces_they_come_in(
            messages in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec(0u8..4, 0..20_000)), 0..4),
            piece in 1usize..5000,
        ) {
            let wire = messages.iter().flat_map(|(is_compressed, message)| match is_compressed {
                true => framed(1, &gzip(message)),
                false => framed(0, message),
            });
            let wire: Vec<u8> = wire.collect();
            let budget = MemoryBudget::new(1 << 30);
            let (mut decompressor, charge) = (Decompressor::default(), charge(&budget));
            wire.chunks(piece).for_each(|piece| decompressor.push(Bytes::copy_from_slice(piece)));
            for (_, message) in &messages {
                prop_assert!(decompressor.has_work());
                let decompressed = next(&mut decompressor, &charge, 1 << 20).unwrap();
                prop_assert_eq!(decompressed, framed(0, message));
            }
            prop_assert!(!decompressor.has_work());
        }

        #[test]
        fn bytes_that_are_not_gzip_are_refused(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            let budget = MemoryBudget::new(1 << 30);
            let mut decompressor = Decompressor::default();
            decompressor.push(framed(1, &bytes).into());
            let refused = next(&mut decompressor, &charge(&budget), 1 << 20).unwrap_err();
            prop_assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        }
    }

    /// Bytes that shrink to a ninth.
    fn compressible(len: usize) -> Vec<u8> {
        let numbers = (0u32..).flat_map(|number| {
            [&number.wrapping_mul(2_654_435_761).to_be_bytes()[..], &[0; 60]].concat()
        });
        numbers.take(len).collect()
    }

    #[test]
    fn what_is_empty_is_not_decompressed() {
        let budget = MemoryBudget::new(1 << 30);
        let (mut decompressor, charge) = (Decompressor::default(), charge(&budget));
        for empty in [framed(1, b""), framed(1, &gzip(b""))] {
            decompressor.push(empty.into());
            assert_eq!(next(&mut decompressor, &charge, 100).unwrap(), framed(0, b""));
            assert!(!decompressor.has_work());
        }
    }

    #[test]
    fn the_length_is_limited_after_decompression() {
        let budget = MemoryBudget::new(1 << 30);
        for (len, fits) in [(100_000, true), (100_001, false)] {
            let mut decompressor = Decompressor::default();
            decompressor.push(framed(1, &gzip(&compressible(len))).into());
            let decompressed = next(&mut decompressor, &charge(&budget), 100_000);
            assert_eq!(decompressed.is_ok(), fits, "{len}");
        }
    }

    #[test]
    fn memory_is_charged_before_a_message_grows_and_given_back() {
        let budget = MemoryBudget::new(4 << 20);
        let call = charge(&budget);
        let mut decompressor = Decompressor::default();
        decompressor.push(framed(1, &gzip(&compressible(20 << 20))).into());
        let refused = next(&mut decompressor, &call, 25 << 20).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(
            refused.metadata().get("retry-after").is_some(),
            "the budget refuses, not the limit"
        );
        assert!(budget.used_bytes() <= 4 << 20);
        drop(call);
        assert_eq!(budget.used_bytes(), 0);
    }

    /// Returns empty deflate blocks. A block takes ten bits (RFC 1951 §3.2.6), and the decoder builds its tables
    /// again for each.
    fn empty_blocks(count: usize) -> Vec<u8> {
        let block = [false, true, false, false, false, false, false, false, false, false];
        let mut bits = block.repeat(count);
        bits.extend([true, true, false, false, false, false, false, false, false, false]);
        let byte =
            |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
        let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        bytes.extend(bits.chunks(8).map(byte));
        bytes.extend([0; 8]);
        bytes
    }

    #[test]
    fn blocks_without_content_are_taken_in_in_turns_and_refused_when_there_are_many() {
        let budget = MemoryBudget::new(1 << 30);
        let call = charge(&budget);
        let mut decompressor = Decompressor::default();
        decompressor.push(framed(1, &empty_blocks(10_000)).into());
        assert_eq!(decompressor.turn(&call, 1 << 20).unwrap(), Turn::Again, "12 KiB in two turns");
        assert_eq!(next(&mut decompressor, &call, 1 << 20).unwrap(), framed(0, b""));

        decompressor.push(framed(1, &empty_blocks(1_000_000)).into());
        let refused = next(&mut decompressor, &call, 25 << 20).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("shorter"), "{refused}");
    }

    /// Random bytes become a little longer by compression.
    #[test]
    fn a_message_that_does_not_shrink_is_taken_in() {
        let random = random(1 << 20);
        let budget = MemoryBudget::new(1 << 30);
        let mut decompressor = Decompressor::default();
        decompressor.push(framed(1, &gzip(&random)).into());
        assert_eq!(next(&mut decompressor, &charge(&budget), 2 << 20).unwrap(), framed(0, &random));
    }

    /// Bytes without a pattern that gzip finds.
    fn random(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn the_work_of_a_message_is_bounded_by_what_came() {
        let budget = MemoryBudget::new(1 << 30);
        let lens = [
            (1 << 20, true),
            (GROWTH_FREE_BYTES, true),
            (GROWTH_FREE_BYTES + 1, false),
            (20 << 20, false),
        ];
        for (len, fits) in lens {
            let call = charge(&budget);
            let compressed = gzip(&vec![0; len]);
            let mut decompressor = Decompressor::default();
            decompressor.push(framed(1, &compressed).into());
            let decompressed = next(&mut decompressor, &call, 25 << 20);
            assert_eq!(decompressed.is_ok(), fits, "{len}");
            if let Err(refused) = decompressed {
                assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
                assert!(refused.message().contains("64 times"), "{refused}");
                let most =
                    GROWTH_FREE_BYTES.max(compressed.len() * GROWTH_MAX) + PIECE_LEN_BYTES_MAX;
                assert!(
                    budget.used_bytes() <= most + DECODER_BYTES + (1 << 17),
                    "it has stopped early"
                );
            }
        }
    }

    #[test]
    fn a_large_message_takes_many_turns() {
        let budget = MemoryBudget::new(1 << 30);
        let call = charge(&budget);
        let mut decompressor = Decompressor::default();
        decompressor.push(framed(1, &gzip(&compressible(4 << 20))).into());
        let mut turns = 1;
        while decompressor.turn(&call, 25 << 20).unwrap() == Turn::Again {
            turns += 1;
        }
        assert!(turns >= (4 << 20) / (PIECES_PER_TURN * PIECE_LEN_BYTES_MAX), "{turns}");
    }
}
