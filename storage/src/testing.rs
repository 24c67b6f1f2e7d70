//! The store of this crate's unit tests, and envelopes of a peer that expire.

use hawser_proto::price::PicoDollarPrice;
use hawser_proto::{EnvelopeId, OriginatorId, SecretKey, SequenceId};

use crate::change::Facts;
use crate::expiring::Expiring;
use crate::settings::StoreIdentity;
use crate::store::Store;

/// The node to which the store belongs.
pub(crate) const NODE: OriginatorId = OriginatorId(100);
/// Another node, whose envelopes the store holds.
pub(crate) const PEER: OriginatorId = OriginatorId(200);

/// Returns an empty store in memory, in which no envelope costs anything.
pub(crate) fn store() -> Store {
    let public_key = SecretKey::from_bytes(&[1; 32]).expect("these bytes are a key").public_key();
    let identity = StoreIdentity { network: "test".to_owned(), node: NODE, public_key };
    Store::in_memory(identity, |_, _| PicoDollarPrice(0)).expect("memory can be opened")
}

/// Returns the id of a place of the peer's strand.
pub(crate) fn id(place: u64) -> EnvelopeId {
    EnvelopeId::new(PEER, SequenceId(place))
}

/// Returns the facts of an envelope of 1970 that is on no topic, costs nothing, and never expires.
pub(crate) fn bare_facts() -> Facts {
    Facts {
        topic: None,
        originator_ns: 40_000_000_000,
        depends_on: Vec::new(),
        expiry_unix_s: None,
        receipt: None,
        charge: None,
        counts_for_congestion: false,
        addresses: Vec::new(),
    }
}

/// Returns the facts of the peer's envelope at a place: like [`bare_facts`], but it expires as many seconds after 1970
/// as the number of its place.
pub(crate) fn facts(place: u64) -> Facts {
    Facts { expiry_unix_s: Some(place), ..bare_facts() }
}

/// Returns the row by expiry of the peer's envelope at a place.
pub(crate) fn expiring(place: u64) -> Expiring {
    Expiring { expiry_unix_s: place, id: id(place), ..Expiring::default() }
}
