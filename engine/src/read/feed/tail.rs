//! Envelopes that were committed while their topics or strands were being read from disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_proto::{EnvelopeId, Topic};

use super::holds::{HeldLane, Hold, held_len};
use crate::committed::Committed;
use crate::read::limits::{BatchLimits, wire_len_bytes};

/// Bounded buffer of live envelopes. When it grows too long it drops everything, and the envelopes
/// are read from disk too.
#[derive(Debug, Default)]
pub(super) struct Tail {
    items: Vec<Arc<Committed>>,
    holds: BTreeMap<HeldLane, Hold>,
    len_bytes: usize,
    lost: bool,
}

impl Tail {
    /// Keeps an envelope for later. All tails of a stream share the bound of `limits` on bytes, and keep
    /// `kept_bytes` now; a single envelope always fits.
    pub(super) fn push(&mut self, item: &Arc<Committed>, kept_bytes: usize, limits: BatchLimits) {
        let len_bytes = wire_len_bytes(item.bytes.len());
        let fits = kept_bytes == 0 || kept_bytes + len_bytes <= limits.len_bytes;
        if !fits || self.items.len() >= limits.envelopes {
            self.lose();
        }
        if !self.lost {
            self.items.push(Arc::clone(item));
            self.len_bytes += len_bytes;
        }
        debug_assert!(self.items.len() <= limits.envelopes, "tails are bounded");
    }

    /// Notes that a lane stops at `item`: everything in it from there on is left out.
    pub(super) fn hold(&mut self, lane: HeldLane, item: &Committed, on: EnvelopeId) {
        let (lane, hold) = Hold::at(lane, &item.topic, item.id, on);
        self.holds.insert(lane, hold);
    }

    /// Notes that an envelope of `topic` is left out, if its lane has stopped here. Returns false if
    /// it has not.
    pub(super) fn note(&mut self, lane: &HeldLane, topic: &Topic) -> bool {
        let Some(hold) = self.holds.get_mut(lane) else { return false };
        hold.note(lane, topic);
        true
    }

    /// Returns the number of lanes that stopped, as [`held_len`] counts them.
    pub(super) fn held_len(&self) -> usize {
        held_len(&self.holds)
    }

    /// Drops everything, because an envelope is missing in it.
    pub(super) fn lose(&mut self) {
        *self = Self { lost: true, ..Self::default() };
    }

    /// Returns true if an envelope is missing in it.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Returns every envelope that was committed since the tail was made, and the lanes that stopped.
    pub(super) fn take(self) -> (Vec<Arc<Committed>>, BTreeMap<HeldLane, Hold>) {
        (self.items, self.holds)
    }

    /// Returns the bytes of the kept envelopes, as on the wire.
    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}
