//! The streams of strands: batches of envelopes, and gaps between them.

use std::num::NonZeroU64;

use bytes::{BufMut, Bytes, BytesMut};

use super::buffer::FrameInput;
use super::fields::Fields;
use super::{
    EncodeError, FrameError, HEAD_LEN, MAX_BATCH_ENVELOPES, MAX_BATCH_FRAME, MAX_ENVELOPE,
    put_frame,
};
use crate::checkpoint::{PREFIX_LEN_MAX, SignedPrefix};
use crate::ids::{OriginatorId, SequenceId};

// Types of data frames, and lengths of their bodies (docs/protocol/replication.md).
const HEADER: u8 = 0x41;
const BATCH: u8 = 0x42;
const GAP: u8 = 0x43;
const END: u8 = 0x44;
const PREFIX: u8 = 0x45;
const NUMBERED_HEADER: u8 = 0x46;

const HEADER_LEN: u32 = 4 + 8;
const NUMBERED_HEADER_LEN: u32 = HEADER_LEN + 8;
const GAP_LEN: u32 = 8 + 8 + 1;
const END_LEN: u32 = 8;
#[expect(clippy::cast_possible_truncation, reason = "some kilobytes")]
const PREFIX_LEN: u32 = PREFIX_LEN_MAX as u32;

/// Length of flags and count, before the envelopes of a batch.
pub(super) const BATCH_HEAD_LEN: u32 = 1 + 4;
/// Length of the length before each envelope.
pub(super) const ENVELOPE_HEAD_LEN: u32 = 4;

/// A frame on the stream of one strand. Frames ascend by sequence id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataFrame {
    /// Opens the stream; appears once.
    Header(StreamHeader),
    /// Carries envelopes.
    Batch(BatchFrame),
    /// Names sequence ids that the sender does not hold.
    Gap(GapFrame),
    /// Closes a stream whose want had an end.
    End(EndFrame),
    /// Proves that a signed tree begins with the strand up to the end of the next batch. Sent only to a peer that has
    /// set [`FEATURE_PREFIXES`](super::FEATURE_PREFIXES).
    Prefix(Box<SignedPrefix>),
}

/// Names the want that this stream answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamHeader {
    /// Originator of the strand.
    pub originator: OriginatorId,
    /// The `after` of the want; the first envelope follows it.
    pub after: SequenceId,
    /// The number of the want among those of its sender on the connection, from 1. Sent only to a peer that has set
    /// [`FEATURE_WANT_NUMBERS`](super::FEATURE_WANT_NUMBERS).
    pub want: Option<NonZeroU64>,
}

/// Envelopes of one strand in ascending order, as their originator signed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchFrame {
    count: u32,
    /// Length and bytes of each envelope. The decoder has checked that they end with the last one.
    packed: Bytes,
}

/// A range of sequence ids that the sender does not hold. A claim without proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GapFrame {
    /// The first id, included.
    pub from: SequenceId,
    /// The last id, included.
    pub to: SequenceId,
    /// The sender's reason.
    pub reason: GapFrameReason,
}

/// The reason an envelope is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum GapFrameReason {
    /// The sender never held it.
    Missing = 1,
    /// The sender held it until its retention ran out.
    Expired = 2,
}

/// Ends a stream: every sequence id up to `through` was sent or named as a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndFrame {
    /// The last sequence id covered: the `up_to` of the want, or the sender's head if that is lower.
    pub through: SequenceId,
}

impl DataFrame {
    /// Appends the frame to `out`. A [`BatchBuilder`] is cheaper for batches: it copies each envelope
    /// once.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Header(header) => put_frame(out, header.kind(), |body| {
                body.put_u32(header.originator.0);
                body.put_u64(header.after.0);
                header.want.into_iter().for_each(|want| body.put_u64(want.get()));
            }),
            Self::Batch(batch) => put_frame(out, BATCH, |body| {
                body.put_u8(0);
                body.put_u32(batch.count);
                body.put_slice(&batch.packed);
            }),
            Self::Gap(gap) => put_frame(out, GAP, |body| {
                body.put_u64(gap.from.0);
                body.put_u64(gap.to.0);
                body.put_u8(gap.reason as u8);
            }),
            Self::End(end) => put_frame(out, END, |body| body.put_u64(end.through.0)),
            Self::Prefix(prefix) => {
                put_frame(out, PREFIX, |body| body.put_slice(&prefix.encode()));
            }
        }
    }

    fn decode(kind: u8, body: Bytes) -> Result<Self, FrameError> {
        let mut fields = Fields::new(kind, body);
        let frame = match kind {
            HEADER | NUMBERED_HEADER => Self::Header(StreamHeader::decode(kind, &mut fields)?),
            BATCH => return BatchFrame::decode(fields).map(Self::Batch),
            GAP => Self::Gap(GapFrame::decode(&mut fields)?),
            END => Self::End(EndFrame { through: fields.sequence("through")? }),
            PREFIX => {
                let decoded = SignedPrefix::decode(&fields.into_rest());
                let bad = |_| FrameError::Value { kind, field: "prefix" };
                return decoded.map_err(bad).map(|it| Self::Prefix(Box::new(it)));
            }
            _ => return Err(FrameError::Unknown { kind }),
        };
        fields.finish()?;
        Ok(frame)
    }
}

impl StreamHeader {
    fn kind(&self) -> u8 {
        if self.want.is_some() { NUMBERED_HEADER } else { HEADER }
    }

    fn decode(kind: u8, fields: &mut Fields) -> Result<Self, FrameError> {
        let (originator, after) = (fields.originator()?, fields.sequence("after")?);
        let want = match kind {
            NUMBERED_HEADER => {
                Some(NonZeroU64::new(fields.u64()?).ok_or_else(|| fields.bad("want"))?)
            }
            _ => None,
        };
        Ok(Self { originator, after, want })
    }
}

impl GapFrame {
    fn decode(fields: &mut Fields) -> Result<Self, FrameError> {
        let (from, to) = (fields.sequence("from")?, fields.sequence("to")?);
        if from == SequenceId::NONE || from > to {
            return Err(fields.bad("from"));
        }
        let reason = match fields.u8()? {
            1 => GapFrameReason::Missing,
            2 => GapFrameReason::Expired,
            _ => return Err(fields.bad("reason")),
        };
        Ok(Self { from, to, reason })
    }
}

impl BatchFrame {
    /// Returns the number of envelopes, at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        usize::try_from(self.count).expect("held below MAX_BATCH_ENVELOPES")
    }

    /// Iterates over the envelopes in order, each a slice of the frame.
    #[must_use]
    pub fn envelopes(&self) -> Envelopes {
        Envelopes { left: self.len(), packed: self.packed.clone() }
    }

    /// Checks all lengths once, so that iterating needs no check.
    fn decode(mut fields: Fields) -> Result<Self, FrameError> {
        if fields.u8()? != 0 {
            return Err(fields.bad("flags")); // no flag is defined, and an unknown one could change the layout
        }
        let count = fields.u32()?;
        if count == 0 || count > MAX_BATCH_ENVELOPES {
            return Err(fields.bad("count"));
        }
        let mut rest = &fields.rest()[..];
        for _ in 0..count {
            let (head, tail) = rest.split_first_chunk().ok_or(fields.truncated())?;
            let len = usize::try_from(u32::from_be_bytes(*head)).map_err(|_| fields.truncated())?;
            if len == 0 {
                return Err(fields.bad("envelope"));
            }
            rest = tail.get(len..).ok_or(fields.truncated())?;
        }
        if !rest.is_empty() {
            return Err(FrameError::Trailing { kind: BATCH, extra: rest.len() });
        }
        Ok(Self { count, packed: fields.into_rest() })
    }
}

/// The envelopes of a [`BatchFrame`], in order.
#[derive(Debug, Clone)]
pub struct Envelopes {
    left: usize,
    packed: Bytes,
}

impl Iterator for Envelopes {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.left = self.left.checked_sub(1)?;
        let head = self.packed.split_to(4);
        let len = u32::from_be_bytes(head[..].try_into().expect("split to four bytes"));
        Some(self.packed.split_to(usize::try_from(len).expect("within the frame")))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Envelopes {}

/// The result of [`BatchBuilder::push`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchPush {
    /// The batch has the envelope.
    Taken,
    /// The batch has no room: finish it and push the envelope to the next.
    Full,
}

/// Builder of batch frames. Copies each envelope once.
#[derive(Debug)]
pub struct BatchBuilder {
    frame: BytesMut,
    count: u32,
    bytes: usize,
    bytes_max: usize,
    /// The length of the last frame, which the next one gets at once: a buffer that grows is copied many times.
    room: usize,
}

impl BatchBuilder {
    /// Returns an empty builder. The envelopes of a batch have at most `bytes_max` bytes together, but
    /// the first one is taken at any length.
    #[must_use]
    pub fn new(bytes_max: u32) -> Self {
        Self {
            frame: BytesMut::new(),
            count: 0,
            bytes: 0,
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            room: 0,
        }
    }

    /// Appends an envelope unless the batch is full.
    ///
    /// # Errors
    /// Returns an error if the envelope is empty or too long for any batch; the batch is then unchanged.
    pub fn push(&mut self, envelope: &[u8]) -> Result<BatchPush, EncodeError> {
        let len = self.checked_len(envelope)?;
        if !self.has_room(envelope.len()) {
            return Ok(BatchPush::Full);
        }
        if self.count == 0 {
            self.frame.reserve(self.room);
            self.frame.put_bytes(0, HEAD_LEN + BATCH_HEAD_LEN as usize); // filled in at the end
        }
        self.frame.put_u32(len);
        self.frame.put_slice(envelope);
        self.count += 1;
        self.bytes += envelope.len();
        Ok(BatchPush::Taken)
    }

    fn checked_len(&self, envelope: &[u8]) -> Result<u32, EncodeError> {
        match u32::try_from(envelope.len()) {
            Ok(0) => Err(EncodeError::EmptyEnvelope),
            Ok(len) if len <= MAX_ENVELOPE => Ok(len),
            _ => Err(EncodeError::Envelope { len_bytes: envelope.len() }),
        }
    }

    fn has_room(&self, len: usize) -> bool {
        let frame_max = HEAD_LEN + MAX_BATCH_FRAME as usize;
        self.count == 0
            || (self.count < MAX_BATCH_ENVELOPES
                && self.bytes + len <= self.bytes_max
                && self.frame.len() + ENVELOPE_HEAD_LEN as usize + len <= frame_max)
    }

    /// Returns the number of envelopes pushed.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.count).expect("held below MAX_BATCH_ENVELOPES")
    }

    /// Returns true before the first envelope.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes the complete frame, and leaves an empty builder without memory: it may wait long for the next envelope,
    /// and the last one may have had megabytes. `None` if nothing was pushed.
    pub fn finish(&mut self) -> Option<Bytes> {
        if self.is_empty() {
            return None;
        }
        let body_len = u32::try_from(self.frame.len() - HEAD_LEN).expect("bounded by `has_room`");
        let is_within = body_len <= MAX_BATCH_FRAME && self.count <= MAX_BATCH_ENVELOPES;
        assert!(is_within, "a peer closes the connection over a larger batch");
        let mut head = &mut self.frame[..];
        head.put_u8(BATCH);
        head.put_u32(body_len);
        head.put_u8(0);
        head.put_u32(self.count);
        self.room = self.frame.len().min(self.bytes_max);
        (self.count, self.bytes) = (0, 0);
        Some(std::mem::take(&mut self.frame).freeze())
    }
}

/// Position of a decoder within its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum StreamState {
    /// Before the header.
    #[default]
    Start,
    /// Between header and end.
    Strand,
    /// Behind a prefix, which belongs to the batch that follows.
    Prefixed,
    /// After the end; no frame may follow.
    Ended,
}

/// Decoder of one strand's stream. Enforces the order of frames: the header first and once, a batch after a prefix,
/// nothing after the end. Does no I/O.
///
/// Call [`next_frame`](Self::next_frame) until it yields `None` after each
/// [`push`](Self::push): then it holds one unfinished frame at most.
#[derive(Debug, Default)]
pub struct DataDecoder {
    input: FrameInput,
    state: StreamState,
}

impl DataDecoder {
    /// Returns a decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the bytes that arrived next, split at any point.
    pub fn push(&mut self, chunk: Bytes) {
        self.input.push(chunk);
    }

    /// Returns the number of bytes that were pushed and are in no frame yet: the memory that an unfinished frame takes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.input.len()
    }

    /// Returns the next complete frame, or `None` until more bytes have arrived.
    ///
    /// # Errors
    /// Returns an error if the bytes break the protocol; every later call returns the same error.
    pub fn next_frame(&mut self) -> Result<Option<DataFrame>, FrameError> {
        let state = &mut self.state;
        self.input.read(|buffer| {
            let Some((kind, body)) = buffer.next_frame(|kind| limit(kind, *state))? else {
                return Ok(None);
            };
            let frame = DataFrame::decode(kind, body)?;
            *state = match frame {
                DataFrame::End(_) => StreamState::Ended,
                DataFrame::Prefix(_) => StreamState::Prefixed,
                DataFrame::Header(_) | DataFrame::Batch(_) | DataFrame::Gap(_) => {
                    StreamState::Strand
                }
            };
            Ok(Some(frame))
        })
    }

    /// Checks that the stream ended between two frames. Call it after the last frame was taken.
    ///
    /// A stream may end without an [`EndFrame`]; it then promises nothing about envelopes that were not
    /// sent.
    ///
    /// # Errors
    /// [`FrameError::Unfinished`] if the stream ended inside a frame, or the earlier error.
    pub fn finish(&self) -> Result<(), FrameError> {
        self.input.finish()
    }
}

/// Returns the longest body of a frame type, or refuses the type by its position in the stream.
fn limit(kind: u8, state: StreamState) -> Result<u32, FrameError> {
    let max = match kind {
        HEADER => HEADER_LEN,
        NUMBERED_HEADER => NUMBERED_HEADER_LEN,
        BATCH => MAX_BATCH_FRAME,
        GAP => GAP_LEN,
        END => END_LEN,
        PREFIX => PREFIX_LEN,
        _ => return Err(FrameError::Unknown { kind }),
    };
    match (state, kind) {
        (StreamState::Start, HEADER | NUMBERED_HEADER) | (StreamState::Prefixed, BATCH) => Ok(max),
        (StreamState::Start | StreamState::Prefixed | StreamState::Ended, _)
        | (StreamState::Strand, HEADER | NUMBERED_HEADER) => Err(FrameError::Order { kind }),
        (StreamState::Strand, _) => Ok(max),
    }
}
