//! The ids of client envelopes that gateways have published, in the form in which they share them through Redis, and
//! the bounds of what Redis keeps of them and of the nodes of topics.
//!
//! An id from Redis is a hint only: a node has to show exactly this client envelope at the id before a request is
//! answered with it. So a Redis that lies, or has lost its data, causes at most a second publish.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, TransactionHash};
use sha2::{Digest as _, Sha256};

/// A memory in Redis, of ids or of the nodes of topics. It has two generations; when the newer one is full or old, the
/// older one is deleted.
#[derive(Debug)]
pub(crate) struct PlaceMemory {
    /// Part of the names of its keys.
    pub(crate) name: &'static str,
    /// Least time for which an entry is kept, ms, unless `places_max` newer ones are written meanwhile.
    pub(crate) kept_ms: u64,
    /// Largest number of entries in a generation.
    pub(crate) places_max: u64,
}

/// The memory of envelopes of nodes. Guesses: ids are kept for as long as a gateway keeps results, and longer than
/// clients repeat a request; a generation takes about 20 MB of Redis for each payer key.
pub(crate) const OF_NODES: PlaceMemory =
    PlaceMemory { name: "landed", kept_ms: 600_000, places_max: 200_000 };
/// The memory of payloads on the chain. It is apart, because every reader of a topic can repeat a payload at any time,
/// and each one that is sent again costs gas. Guesses: ids are kept for 30 to 60 days, or until 200,000 newer ones are
/// stored, if that is earlier; a generation takes about 30 MB of Redis for each payer key.
pub(crate) const OF_CHAIN: PlaceMemory =
    PlaceMemory { name: "on-chain", kept_ms: 30 * 86_400_000, places_max: 200_000 };
/// The memory of the nodes of topics. Guesses: a node is kept for a week or two after it was written, longer than
/// readers are usually behind, or until 200,000 newer ones are stored, if that is earlier; a generation takes about
/// 20 MB of Redis for each payer key. Without a bound in number, a caller would fill Redis with new topics.
pub(crate) const OF_TOPICS: PlaceMemory =
    PlaceMemory { name: "topics", kept_ms: 7 * 86_400_000, places_max: 200_000 };
/// Largest number of envelopes or topics in one operation. A guess: Lua's `unpack` takes some thousand values.
pub(crate) const PLACES_PER_CALL: usize = 1000;

/// The digest under which a client envelope is stored. The envelope's bytes include its topic, so equal payloads of
/// two topics differ.
pub(crate) type ClientKey = [u8; 16];

/// Returns the first 16 bytes of the SHA-256 of a client envelope.
pub(crate) fn client_key(client: &[u8]) -> ClientKey {
    let hash = Sha256::digest(client);
    let mut key = [0; 16];
    key.copy_from_slice(&hash[..16]);
    key
}

/// The id of a published envelope, and for an envelope of a chain its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LandedEnvelope {
    pub(crate) id: EnvelopeId,
    pub(crate) transaction: Option<TransactionHash>,
}

impl LandedEnvelope {
    /// Returns the text for Redis: originator, sequence id and, on a chain, the transaction hash in hex, separated
    /// by dots.
    pub(crate) fn to_text(self) -> Vec<u8> {
        let EnvelopeId { originator, sequence } = self.id;
        let place = format!("{}.{}", originator.0, sequence.0);
        let text = match self.transaction {
            Some(hash) => format!("{place}.{}", hex::encode(hash.0)),
            None => place,
        };
        text.into_bytes()
    }

    /// Parses the text of [`to_text`](Self::to_text); `None` if it has another form. Another program may have
    /// written any bytes.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(text).ok()?.split('.');
        let originator = OriginatorId(parts.next()?.parse().ok()?);
        let sequence = SequenceId(parts.next()?.parse().ok().filter(|sequence| *sequence > 0)?);
        let transaction = match parts.next() {
            Some(hash) => Some(TransactionHash(hex::decode(hash).ok()?.try_into().ok()?)),
            None => None,
        };
        let is_whole = parts.next().is_none();
        is_whole.then(|| Self { id: EnvelopeId::new(originator, sequence), transaction })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_as_it_was_told() {
        let id = EnvelopeId::new(OriginatorId(100), SequenceId(u64::MAX));
        for transaction in [None, Some(TransactionHash([7; 32]))] {
            let landed = LandedEnvelope { id, transaction };
            assert_eq!(LandedEnvelope::read(&landed.to_text()), Some(landed));
        }
    }

    #[test]
    fn a_text_of_another_form_is_no_place() {
        for text in ["", "100", "100.", "100.0", ".1", "-1.1", "4294967296.1", "0.1.07", "0.1.zz"] {
            assert_eq!(LandedEnvelope::read(text.as_bytes()), None, "{text}");
        }
        let long = format!("0.1.{}.1", hex::encode([7; 32]));
        assert_eq!(LandedEnvelope::read(long.as_bytes()), None);
        assert_eq!(LandedEnvelope::read(&[0xff, b'.', b'1']), None);
    }
}
