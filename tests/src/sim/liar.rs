//! A peer that lies in every way that the protocol allows to express.

use bytes::Bytes;
use hawser_engine::replication::{RequestId, StrandItem};
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{OriginatorId, SequenceId};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::members::LIAR;
use super::strands::{Version, envelope};

/// Returns true for sequence ids that the liar has burned: no node ever holds an envelope there.
pub(super) fn is_withheld(sequence: SequenceId) -> bool {
    sequence.0 % 11 == 5
}

/// Returns true for items that the liar withholds from one node, if the faults say so.
pub(super) fn is_kept_back(item: &StrandItem<Bytes>, originator: OriginatorId) -> bool {
    let is = |bytes: &Bytes, n| *bytes == envelope(LIAR, SequenceId(n), Version::True);
    originator == LIAR
        && matches!(item, StrandItem::Envelope(bytes) if (1..20).any(|n| n % 7 == 3 && is(bytes, n)))
}

/// Returns the items that the liar sends in place of the honest ones. Every second request gets another history of
/// its own strand, so that a follower that asks again meets two statements for a place.
pub(super) fn twist(
    honest: Vec<StrandItem<Bytes>>,
    originator: OriginatorId,
    position: SequenceId,
    request: RequestId,
    rng: &mut StdRng,
) -> Vec<StrandItem<Bytes>> {
    let honest = honest.into_iter().map(|item| match item {
        StrandItem::Envelope(bytes) if originator == LIAR && request.0.is_multiple_of(2) => {
            StrandItem::Envelope(other_story(&bytes))
        }
        item => item,
    });
    let mut items = Vec::new();
    let mut at = position;
    for item in honest {
        if matches!(item, StrandItem::Envelope(_)) {
            at = at.next();
        }
        if rng.random_ratio(9, 10) {
            items.push(item);
        } else {
            items.extend(lie(item, originator, at, rng));
        }
    }
    items
}

/// Returns the liar's second statement for the place of an envelope of its own.
fn other_story(bytes: &Bytes) -> Bytes {
    let (statement, _) = OriginatorEnvelope::open(bytes.clone()).unwrap();
    let (id, _) = OriginatorEnvelope::statement(statement).unwrap();
    envelope(LIAR, id.sequence, Version::Other)
}

fn lie(
    item: StrandItem<Bytes>,
    originator: OriginatorId,
    at: SequenceId,
    rng: &mut StdRng,
) -> Vec<StrandItem<Bytes>> {
    // It has one key, so it can sign arbitrary statements of its own strand only.
    let of = |sequence, version| {
        let version = if originator == LIAR { version } else { Version::Forged };
        StrandItem::Envelope(envelope(originator, sequence, version))
    };
    match rng.random_range(0..10) {
        0 => vec![], // withheld
        1 => vec![of(at, Version::Forged)],
        2 => vec![of(at, Version::Other)],
        3 => vec![of(at, Version::Overpriced)],
        4 => vec![item.clone(), item], // twice
        5 => vec![of(at.next(), Version::True), item],
        6 => vec![StrandItem::Envelope(envelope(stranger(originator), at, Version::True))],
        7 => {
            let to = SequenceId(at.0 + rng.random_range(0..30));
            vec![StrandItem::Gap { from: at, to, expired: rng.random() }]
        }
        8 => vec![StrandItem::End],
        _ => vec![StrandItem::Envelope(Bytes::from_static(b"no envelope"))],
    }
}

fn stranger(originator: OriginatorId) -> OriginatorId {
    OriginatorId(if originator == OriginatorId(100) { 200 } else { 100 })
}
