//! Strands of which this node holds a part that was signed with a key which the registry has replaced since.
//!
//! No contract changes the key of an id. So the settlement chain was reorganised, and has given the id to another node.
//! The envelopes of the former key are no statements of that node: they are no evidence, peers cannot verify them, and
//! no damaged place of them can be fetched. They stay in the log, and the strand is followed on with the present key.
//!
//! A hostile node cannot bring its own strand here: envelopes are held as verified only with its key in the registry.

use std::collections::BTreeSet;

use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::sign::originator_digest;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PublicKey, SequenceId};
use hawser_storage::{LogItem, ReadError, Store};
use parking_lot::Mutex;

use crate::runtime::stoppable::blocking;

/// Items of a strand that are read to find its first envelope. A guess: a strand begins with one range of expired
/// places, or with few.
const LOOKED_AT_MAX: usize = 64;

/// The strands that begin with what another key than the registry's has signed.
#[derive(Debug, Default)]
pub(super) struct FormerKeys(Mutex<BTreeSet<OriginatorId>>);

impl FormerKeys {
    /// Returns true if the strand begins with envelopes of a former key.
    pub(super) fn has(&self, originator: OriginatorId) -> bool {
        self.0.lock().contains(&originator)
    }

    /// Notes if a strand begins with envelopes that were not signed with `key`, which the registry has now. Its places
    /// up to `verified` are verified. A strand that cannot be read now counts as signed with the key.
    pub(super) async fn note_key(
        &self,
        store: &Store,
        originator: OriginatorId,
        verified: SequenceId,
        key: PublicKey,
    ) {
        if !originator.is_node() {
            return;
        }
        let store = store.clone();
        let is_former = move || begins_with_other_key(&store, originator, verified, &key);
        let is_former = blocking(is_former).await.unwrap_or(false);
        self.note(originator, is_former);
    }

    fn note(&self, originator: OriginatorId, is_former: bool) {
        let mut strands = self.0.lock();
        let is_news = match is_former {
            true => strands.insert(originator),
            false => strands.remove(&originator),
        };
        if is_news && is_former {
            tracing::error!(
                code = "strand_of_former_key",
                originator_id = %originator,
                "this node holds a part of a node's strand that was signed with a key which the registry does not have any \
                 more: peers do not get the strand from here, and readers cannot verify that part"
            );
        }
    }
}

/// Returns true if the first held envelope of a strand, of those up to the place `verified`, has another signer.
fn begins_with_other_key(
    store: &Store,
    originator: OriginatorId,
    verified: SequenceId,
    key: &PublicKey,
) -> Result<bool, ReadError> {
    if verified == SequenceId::NONE {
        return Ok(false);
    }
    let snapshot = store.snapshot();
    let start = EnvelopeId::new(originator, SequenceId::NONE);
    for item in snapshot.log(start, verified).take(LOOKED_AT_MAX) {
        if let LogItem::Envelope { bytes, .. } = item? {
            return Ok(!is_signed_by(&bytes, key));
        }
    }
    Ok(false)
}

/// Returns true if an envelope was signed with this key.
pub(super) fn is_signed_by(envelope: &Bytes, key: &PublicKey) -> bool {
    let Ok((statement, Proof::Signature(signature))) = OriginatorEnvelope::open(envelope.clone())
    else {
        return false;
    };
    signature.recover(originator_digest(&statement)) == Ok(*key)
}
