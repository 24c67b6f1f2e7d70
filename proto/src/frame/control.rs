//! The control stream: hello, proof, wants, clocks, checkpoints and statements about void places.

use bytes::{BufMut, Bytes, BytesMut};

use super::buffer::FrameInput;
use super::fields::Fields;
use super::{
    EncodeError, FrameError, MAX_CLOCK_ENTRIES, MAX_CONTROL_FRAME, MAX_VERSIONS, put_frame,
};
use crate::checkpoint::{COSIGNATURES_MAX, CosignedCheckpoint, WITNESSES_MAX};
use crate::cursor::Cursor;
use crate::ids::{EnvelopeId, OriginatorId, SequenceId};
use crate::void::SignedVoid;

// Types of control frames (docs/protocol/replication.md).
const HELLO: u8 = 0x01;
const PROOF: u8 = 0x02;
const WANT: u8 = 0x03;
const STOP: u8 = 0x04;
const CLOCK: u8 = 0x05;
const REFUSED: u8 = 0x06;
const CHECKPOINT: u8 = 0x07;
const VOID: u8 = 0x09;

/// Length of originator and sequence id.
const CLOCK_ENTRY_LEN: usize = 12;

/// A frame of the control stream, in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlFrame {
    /// The first frame of either end.
    Hello(Hello),
    /// The second frame of either end. No other frame is accepted before it.
    Proof(NodeProof),
    /// Requests a strand.
    Want(WantFrame),
    /// Withdraws a want.
    Stop(StopFrame),
    /// The sender's durable heads.
    Clock(ClockFrame),
    /// Refuses a want.
    Refused(WantRefused),
    /// Shows a checkpoint with the cosignatures that the sender has seen. Only where both ends have set
    /// [`FEATURE_CHECKPOINTS`](super::FEATURE_CHECKPOINTS).
    Checkpoint(Box<CosignedCheckpoint>),
    /// Shows a node's statement about void places of its strand. Versions without this frame skip it.
    Void(SignedVoid),
}

/// The sender's versions, features, claimed id and durable heads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Frame versions of the sender, ascending. The highest common one is used.
    pub versions: Vec<u16>,
    /// One bit for each optional feature; unknown bits are ignored.
    pub features: u64,
    /// The node id that the sender is going to prove.
    pub node_id: OriginatorId,
    /// The sender's durable head of each strand.
    pub clock: Cursor,
}

/// Proves the id of the hello: see [`proof_preimage`](super::proof_preimage).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeProof {
    /// The signer's id, as in its hello.
    pub node_id: OriginatorId,
    /// The signature, r ‖ s ‖ v.
    pub signature: [u8; 65],
}

/// Asks the peer to send one strand. Replaces an earlier want for the same originator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantFrame {
    /// Originator of the strand.
    pub originator: OriginatorId,
    /// The highest sequence id that the follower holds; excluded.
    pub after: SequenceId,
    /// The last wanted sequence id, included. `None` follows the strand without end.
    pub up_to: Option<SequenceId>,
    /// The maximum number of bytes of envelopes in a batch. A larger envelope is sent in a batch of its own.
    /// [`GAPS_ALONE`](super::GAPS_ALONE) may ask for no envelopes.
    pub bytes_max: u32,
}

/// Withdraws a want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopFrame {
    /// Originator of the strand that is no longer wanted.
    pub originator: OriginatorId,
}

/// The sender's durable heads. Entries only rise. A clock may be partial: strands without an entry are
/// unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockFrame {
    /// The heads that have changed.
    pub entries: Cursor,
}

/// Refuses a want. The follower may ask another peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantRefused {
    /// Originator of the wanted strand.
    pub originator: OriginatorId,
    /// The reason.
    pub reason: RefusalReason,
}

/// The reason a strand is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// The peer holds no envelope of the strand.
    UnknownOriginator,
    /// Strands below 100 are read from the chain, never from peers.
    NotFromPeers,
    /// The peer already sends as many strands as it sends at a time. Ask again later.
    Busy,
    /// A reason that a later version added.
    Other(u8),
}

impl RefusalReason {
    fn code(self) -> u8 {
        match self {
            Self::UnknownOriginator => 1,
            Self::NotFromPeers => 2,
            Self::Busy => 3,
            Self::Other(code) => code,
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::UnknownOriginator,
            2 => Self::NotFromPeers,
            3 => Self::Busy,
            other => Self::Other(other),
        }
    }
}

impl ControlFrame {
    /// Appends the frame to `out`.
    ///
    /// # Errors
    /// Returns an error if a list is too long for a frame; `out` is then unchanged.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Hello(hello) => return hello.encode(out),
            Self::Clock(clock) => return clock.encode(out),
            Self::Checkpoint(checkpoint) => return encode_checkpoint(checkpoint, out),
            Self::Void(signed) => put_frame(out, VOID, |body| body.put_slice(&signed.encode())),
            Self::Proof(proof) => put_frame(out, PROOF, |body| {
                body.put_u32(proof.node_id.0);
                body.put_slice(&proof.signature);
            }),
            Self::Want(want) => put_frame(out, WANT, |body| {
                body.put_u32(want.originator.0);
                body.put_u64(want.after.0);
                body.put_u64(want.up_to.unwrap_or(SequenceId::NONE).0);
                body.put_u32(want.bytes_max);
            }),
            Self::Stop(stop) => put_frame(out, STOP, |body| body.put_u32(stop.originator.0)),
            Self::Refused(refused) => put_frame(out, REFUSED, |body| {
                body.put_u32(refused.originator.0);
                body.put_u8(refused.reason.code());
            }),
        }
        Ok(())
    }

    /// Decodes a body; `None` for a type that a later version added.
    fn decode(kind: u8, body: Bytes) -> Result<Option<Self>, FrameError> {
        let mut fields = Fields::new(kind, body);
        let frame = match kind {
            HELLO => Self::Hello(Hello::decode(&mut fields)?),
            PROOF => {
                Self::Proof(NodeProof { node_id: fields.originator()?, signature: fields.array()? })
            }
            WANT => Self::Want(WantFrame::decode(&mut fields)?),
            STOP => Self::Stop(StopFrame { originator: fields.originator()? }),
            CLOCK => Self::Clock(ClockFrame { entries: decode_clock(&mut fields)? }),
            REFUSED => Self::Refused(WantRefused {
                originator: fields.originator()?,
                reason: RefusalReason::from_code(fields.u8()?),
            }),
            CHECKPOINT => {
                let bytes = fields.into_rest();
                let decoded = CosignedCheckpoint::decode(&bytes);
                let bad = |_| FrameError::Value { kind, field: "checkpoint" };
                return decoded.map_err(bad).map(|it| Some(Self::Checkpoint(Box::new(it))));
            }
            VOID => {
                let decoded = SignedVoid::decode(&fields.into_rest());
                let bad = |_| FrameError::Value { kind, field: "statement about void places" };
                return decoded.map_err(bad).map(|it| Some(Self::Void(it)));
            }
            _ => return Ok(None),
        };
        fields.finish()?;
        Ok(Some(frame))
    }
}

impl Hello {
    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let count = self.versions.len();
        if count == 0 || count > MAX_VERSIONS || !self.versions.is_sorted_by(|a, b| a < b) {
            return Err(EncodeError::Versions { count });
        }
        let entries = clock_count(&self.clock)?;
        put_frame(out, HELLO, |body| {
            body.put_u8(u8::try_from(count).expect("held below MAX_VERSIONS above"));
            self.versions.iter().for_each(|version| body.put_u16(*version));
            body.put_u64(self.features);
            body.put_u32(self.node_id.0);
            put_clock(body, entries, &self.clock);
        });
        Ok(())
    }

    fn decode(fields: &mut Fields) -> Result<Self, FrameError> {
        let count = usize::from(fields.u8()?);
        if count == 0 || count > MAX_VERSIONS {
            return Err(fields.bad("versions"));
        }
        let versions = (0..count).map(|_| fields.u16()).collect::<Result<Vec<_>, _>>()?;
        if !versions.is_sorted_by(|a, b| a < b) {
            return Err(fields.bad("versions"));
        }
        Ok(Self {
            versions,
            features: fields.u64()?,
            node_id: fields.originator()?,
            clock: decode_clock(fields)?,
        })
    }
}

impl WantFrame {
    fn decode(fields: &mut Fields) -> Result<Self, FrameError> {
        let (originator, after) = (fields.originator()?, fields.sequence("after")?);
        let up_to = Some(fields.sequence("up_to")?).filter(|id| *id != SequenceId::NONE);
        if up_to.is_some_and(|id| id <= after) {
            return Err(fields.bad("up_to"));
        }
        Ok(Self { originator, after, up_to, bytes_max: fields.u32()? })
    }
}

impl ClockFrame {
    fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let count = clock_count(&self.entries)?;
        put_frame(out, CLOCK, |body| put_clock(body, count, &self.entries));
        Ok(())
    }
}

fn encode_checkpoint(
    checkpoint: &CosignedCheckpoint,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    let (nodes, witnesses) = (checkpoint.cosignatures.len(), checkpoint.witnesses.len());
    if nodes > COSIGNATURES_MAX || witnesses > WITNESSES_MAX {
        return Err(EncodeError::Cosignatures { count: nodes + witnesses });
    }
    put_frame(out, CHECKPOINT, |body| body.put_slice(&checkpoint.encode()));
    Ok(())
}

fn clock_count(clock: &Cursor) -> Result<u16, EncodeError> {
    let count = clock.len();
    if count > MAX_CLOCK_ENTRIES {
        return Err(EncodeError::Clock { count });
    }
    Ok(u16::try_from(count).expect("MAX_CLOCK_ENTRIES fits"))
}

fn put_clock(body: &mut BytesMut, count: u16, clock: &Cursor) {
    body.put_u16(count);
    for id in clock.iter() {
        body.put_u32(id.originator.0);
        body.put_u64(id.sequence.0);
    }
}

/// Decodes a clock. It is the last field of its frames, so its count must match the remaining bytes.
fn decode_clock(fields: &mut Fields) -> Result<Cursor, FrameError> {
    let count = usize::from(fields.u16()?);
    if count > MAX_CLOCK_ENTRIES {
        return Err(fields.bad("clock"));
    }
    fields.expect_rest(count * CLOCK_ENTRY_LEN)?;
    let mut clock = Cursor::new();
    let mut last = None;
    for _ in 0..count {
        let id = EnvelopeId::new(fields.originator()?, fields.sequence("clock")?);
        if id.sequence == SequenceId::NONE || last.is_some_and(|last| last >= id.originator) {
            return Err(fields.bad("clock")); // one clock, one form: ascending, nothing empty
        }
        last = Some(id.originator);
        clock.advance(id);
    }
    Ok(clock)
}

/// Decoder of a control stream. Does no I/O.
///
/// Call [`next_frame`](Self::next_frame) until it yields `None` after each
/// [`push`](Self::push): then it holds one unfinished frame at most.
#[derive(Debug, Default)]
pub struct ControlDecoder {
    input: FrameInput,
}

impl ControlDecoder {
    /// Returns a decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the bytes that arrived next, split at any point.
    pub fn push(&mut self, chunk: Bytes) {
        self.input.push(chunk);
    }

    /// Returns the next complete frame, or `None` until more bytes have arrived. Frames of unknown
    /// types are skipped.
    ///
    /// # Errors
    /// Returns an error if the bytes break the protocol; every later call returns the same error.
    pub fn next_frame(&mut self) -> Result<Option<ControlFrame>, FrameError> {
        self.input.read(|buffer| {
            while let Some((kind, body)) = buffer.next_frame(|_| Ok(MAX_CONTROL_FRAME))? {
                if let Some(frame) = ControlFrame::decode(kind, body)? {
                    return Ok(Some(frame));
                }
            }
            Ok(None)
        })
    }

    /// Checks that the stream ended between two frames. Call it after the last frame was taken.
    ///
    /// # Errors
    /// [`FrameError::Unfinished`] if the stream ended inside a frame, or the earlier error.
    pub fn finish(&self) -> Result<(), FrameError> {
        self.input.finish()
    }
}
