//! Payer envelopes as they are read by software that keeps fields which it does not expect, or knows more fields.
//!
//! Decoders of protobuf differ. The one of the reference implementation passes over a known field that has another wire
//! type, over groups that are nested ten thousand deep, and in groups over numbers of fields that no message can have.
//! The one of this program refuses all of these. It also refuses long payloads that a later one replaces
//! ([`LayerError::TooLong`](crate::envelope::LayerError::TooLong)). An envelope that only this program refuses is no
//! fault of the node that signed it.
//!
//! Schemas are extended. A node of a newer version signs payloads and kinds of topics that this version does not know.
//! They are no fault of that node either.

use bytes::Bytes;
use prost::encoding::{WireType, decode_key, decode_varint};

use crate::ids::OriginatorId;
use crate::sign::{Digest, payer_digest};
use crate::topic::{Topic, TopicError, TopicKind};

/// Groups that may be open at once. The reference implementation reads as many.
const OPEN_GROUPS_MAX: usize = 10_001;
/// The highest number of a field in a group that the reference implementation reads. Outside of groups it has the limit
/// of every decoder: 29 bits.
const GROUPED_NUMBER_MAX: u32 = i32::MAX.cast_unsigned();

/// The parts of a payer envelope, where those of its fields that have an unexpected form are passed over.
///
/// Reading does not look into the payload, so this is also read from some envelopes that no software accepts. It takes
/// no more memory than the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoosePayerEnvelope {
    client: Bytes,
    signature: Option<Bytes>,
    target: OriginatorId,
    retention_days: u32,
    kind: Option<TopicKind>,
    is_newer: bool,
}

impl LoosePayerEnvelope {
    /// Reads a payer envelope. Returns `None` if its fields, or those of its client envelope, cannot be told apart, or
    /// if there is no topic or no payload. If this version knows both, also returns `None` if they do not belong
    /// together, or are not for a node to put in order.
    #[must_use]
    pub fn read(bytes: &Bytes) -> Option<Self> {
        let (mut client, mut signature): (&[u8], Option<&[u8]>) = (&[], None);
        let (mut target, mut retention_days) = (0, 0);
        each_field(bytes, |number, content| {
            match (number, content) {
                (1, FieldContent::Bytes(bytes)) => client = bytes,
                (2, FieldContent::Bytes(message)) => {
                    let last = last_bytes(message, 1)?;
                    // A message that occurs twice is merged.
                    signature = last.or(signature).or(Some(&[]));
                }
                (3, FieldContent::Number(number)) => target = low_half(number)?,
                (4, FieldContent::Number(number)) => retention_days = low_half(number)?,
                _ => {}
            }
            Some(())
        })?;
        let (kind, is_newer) = read_client(client)?;
        let client = bytes.slice_ref(client);
        let signature = signature.map(|it| bytes.slice_ref(it));
        let target = OriginatorId(target);
        Some(Self { client, signature, target, retention_days, kind, is_newer })
    }

    /// Returns the payer's signature as sent, of any length; `None` if there is none.
    #[must_use]
    pub fn signature_bytes(&self) -> Option<&Bytes> {
        self.signature.as_ref()
    }

    /// Returns the digest that the payer's signature must cover.
    #[must_use]
    pub fn digest(&self) -> Digest {
        payer_digest(self.target, &self.client)
    }

    /// Returns the node that the payer asks to sequence this envelope.
    #[must_use]
    pub fn target(&self) -> OriginatorId {
        self.target
    }

    /// Returns the requested retention in days.
    #[must_use]
    pub fn retention_days(&self) -> u32 {
        self.retention_days
    }

    /// Returns the kind of the topic; `None` if it is none that this version knows. Then nothing here shows whether the
    /// topic is free.
    #[must_use]
    pub fn kind(&self) -> Option<TopicKind> {
        self.kind
    }

    /// Returns true if the payload, or the kind of the topic, is none that this version knows. Then nothing here shows
    /// whether the two belong together.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        self.is_newer
    }
}

/// Returns the kind of a client envelope's topic if this version knows it. Also returns true if the envelope has no
/// payload but one that this version does not know, or a topic of such a kind and any payload. Of all others, requires
/// that the last payload is of the topic's kind, and put in order by a node.
fn read_client(client: &[u8]) -> Option<(Option<TopicKind>, bool)> {
    let (mut named, mut payload, mut has_newer) = (None, None, false);
    each_field(client, |number, content| {
        match (number, content) {
            (1, FieldContent::Bytes(aad)) => named = last_bytes(aad, 2)?.or(named),
            (2..=7, FieldContent::Bytes(_)) => payload = Some(number),
            // A payload is a message, so a newer one has bytes.
            (8.., FieldContent::Bytes(_)) => has_newer = true,
            _ => {}
        }
        Some(())
    })?;
    let kind = match Topic::parse(Bytes::copy_from_slice(named?)) {
        Ok(topic) => Some(topic.kind()),
        Err(TopicError::UnknownKind(_)) => None,
        Err(TopicError::TooShort) => return None,
    };
    let (Some(known), Some(payload)) = (kind, payload) else {
        return (payload.is_some() || has_newer).then_some((kind, true));
    };
    let expected = match payload {
        2 => TopicKind::GroupMessages,
        3 => TopicKind::Welcomes,
        4 => TopicKind::KeyPackages,
        _ => return None,
    };
    (known == expected).then_some((kind, false))
}

/// The content of a field.
enum FieldContent<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A group, or a number of fixed length. No field of the layers has these types.
    Skipped,
}

/// Hands over each field of a message in its order. Returns `None` if the message is malformed, or `each` does.
fn each_field<'a>(
    mut rest: &'a [u8],
    mut each: impl FnMut(u32, FieldContent<'a>) -> Option<()>,
) -> Option<()> {
    while !rest.is_empty() {
        let (number, wire_type) = decode_key(&mut rest).ok()?;
        let content = match wire_type {
            WireType::StartGroup => {
                skip_group(number, &mut rest)?;
                FieldContent::Skipped
            }
            wire_type => content(wire_type, &mut rest)?,
        };
        each(number, content)?;
    }
    Some(())
}

/// Returns the last content of a field with bytes, if the message has the field; `None` if the message is malformed.
fn last_bytes(message: &[u8], wanted: u32) -> Option<Option<&[u8]>> {
    let mut last = None;
    each_field(message, |number, content| {
        if let FieldContent::Bytes(bytes) = content
            && number == wanted
        {
            last = Some(bytes);
        }
        Some(())
    })?;
    Some(last)
}

/// Takes the content of a field that is no group.
fn content<'a>(wire_type: WireType, rest: &mut &'a [u8]) -> Option<FieldContent<'a>> {
    let len = match wire_type {
        WireType::Varint => return decode_varint(rest).ok().map(FieldContent::Number),
        WireType::LengthDelimited => usize::try_from(decode_varint(rest).ok()?).ok()?,
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    let (bytes, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(match wire_type {
        WireType::LengthDelimited => FieldContent::Bytes(bytes),
        _ => FieldContent::Skipped,
    })
}

/// Moves past the rest of a group. Only remembers the numbers of the groups inside it: a sender can open one with each
/// byte.
fn skip_group(number: u32, rest: &mut &[u8]) -> Option<()> {
    let mut open = vec![number];
    while let Some(&innermost) = open.last() {
        match grouped_key(rest)? {
            (number, WireType::StartGroup) if open.len() < OPEN_GROUPS_MAX => open.push(number),
            (number, WireType::EndGroup) if number == innermost => {
                open.pop();
            }
            (_, wire_type) => {
                content(wire_type, rest)?;
            }
        }
    }
    Some(())
}

/// Takes the key of a field in a group.
fn grouped_key(rest: &mut &[u8]) -> Option<(u32, WireType)> {
    let key = decode_varint(rest).ok()?;
    let number = u32::try_from(key >> 3).ok()?;
    let wire_type = WireType::try_from(key & 7).ok()?;
    (1..=GROUPED_NUMBER_MAX).contains(&number).then_some((number, wire_type))
}

/// Returns the number of a 32-bit field, which is the low half of a longer one.
fn low_half(number: u64) -> Option<u32> {
    u32::try_from(number & u64::from(u32::MAX)).ok()
}
