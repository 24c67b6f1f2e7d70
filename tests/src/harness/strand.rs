//! Reading whole strands, and what must be true of them.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId};

use super::client::Client;
use super::load::Ledger;

/// The unit of the gap behind which a node continues after a quarantine: `docs/protocol/replication.md`, A node's own
/// strand.
const GAP: u64 = 1_000_000;
/// The maximum number of units of such a gap.
const GAP_UNITS_MAX: u64 = 256;

/// Returns true if a node may leave out so many places after a quarantine. The number of units differs for each folder
/// and each start.
#[must_use]
pub fn is_gap(places: u64) -> bool {
    places.is_multiple_of(GAP) && (1..=GAP_UNITS_MAX).contains(&(places / GAP))
}

/// Parses an envelope that a node has shown.
///
/// # Panics
/// Panics if it is not in the one form in which nodes keep and send envelopes.
#[must_use]
pub fn open(bytes: &Bytes) -> OriginatorEnvelope {
    OriginatorEnvelope::parse(bytes.clone())
        .unwrap_or_else(|error| panic!("{error}: {}", hex::encode(bytes)))
}

/// Originator and sequence id of an envelope that a node has shown.
#[must_use]
pub fn id_of(bytes: &Bytes) -> EnvelopeId {
    open(bytes).id()
}

/// The client's bytes in an envelope that a node has shown.
#[must_use]
pub fn client_bytes_of(bytes: &Bytes) -> Bytes {
    open(bytes).unsigned().payer().client().as_bytes().clone()
}

/// Reads a whole strand by queries, page by page.
///
/// # Panics
/// Panics if the node refuses, or shows envelopes out of order or of another strand.
pub async fn read(client: &Client, originator: OriginatorId) -> BTreeMap<u64, Bytes> {
    let mut strand = BTreeMap::new();
    let mut after = Cursor::new();
    loop {
        let page = client.query_originators(&[originator], &after, 0).await.unwrap();
        if page.is_empty() {
            return strand;
        }
        for bytes in page {
            let id = id_of(&bytes);
            assert_eq!(id.originator, originator, "asked for one strand only");
            assert!(id.sequence > after.get(originator), "{id} does not ascend");
            after.advance(id);
            strand.insert(id.sequence.0, bytes);
        }
    }
}

/// Every strand below its head, by originator, as a node shows them.
pub async fn read_all(client: &Client) -> BTreeMap<u32, BTreeMap<u64, Bytes>> {
    let heads = client.cursor().await.unwrap();
    let mut strands = BTreeMap::new();
    for head in heads.iter() {
        strands.insert(head.originator.0, read(client, head.originator).await);
    }
    strands
}

/// Asserts the invariants of a node's own strand, which hold after any crash: ids from 1 without
/// gap, times that strictly increase, nothing twice.
///
/// # Panics
/// Panics if it is not.
pub fn assert_sound(strand: &BTreeMap<u64, Bytes>) {
    let mut last_ns = i64::MIN;
    let mut seen = HashMap::new();
    for ((sequence, bytes), expected) in strand.iter().zip(1..) {
        assert_eq!(*sequence, expected, "a sequence id is missing");
        let envelope = open(bytes);
        assert_eq!(envelope.id().sequence, SequenceId(expected));
        assert!(envelope.unsigned().originator_ns() > last_ns, "time stands still at {sequence}");
        last_ns = envelope.unsigned().originator_ns();
        let client = envelope.unsigned().payer().client().as_bytes().clone();
        if let Some(earlier) = seen.insert(client, *sequence) {
            panic!("stored twice: at {earlier} and at {sequence}");
        }
    }
}

/// Every acknowledged envelope is in the strand once, with the very bytes of the answer.
///
/// # Panics
/// Panics if one is not.
pub fn assert_holds(strand: &BTreeMap<u64, Bytes>, ledger: &Ledger) {
    let lost = lost(strand, ledger);
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged envelopes are lost or changed, the first at {}",
        lost.len(),
        ledger.acknowledged().count(),
        lost[0],
    );
}

/// The acknowledged envelopes that the strand does not hold as they were answered.
#[must_use]
pub fn lost(strand: &BTreeMap<u64, Bytes>, ledger: &Ledger) -> Vec<EnvelopeId> {
    ledger
        .acknowledged()
        .map(|answer| (id_of(answer), answer))
        .filter(|(id, answer)| strand.get(&id.sequence.0) != Some(answer))
        .map(|(id, _)| id)
        .collect()
}
