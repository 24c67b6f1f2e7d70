//! The store of this crate's unit tests.

use hawser_proto::price::PicoDollarPrice;
use hawser_proto::{OriginatorId, SecretKey};

use crate::settings::StoreIdentity;
use crate::store::Store;

/// The node to which the store belongs.
pub(crate) const NODE: OriginatorId = OriginatorId(100);

/// Returns an empty store in memory, in which no envelope costs anything.
pub(crate) fn store() -> Store {
    let public_key = SecretKey::from_bytes(&[1; 32]).expect("these bytes are a key").public_key();
    let identity = StoreIdentity { network: "test".to_owned(), node: NODE, public_key };
    Store::in_memory(identity, |_, _| PicoDollarPrice(0)).expect("memory can be opened")
}
