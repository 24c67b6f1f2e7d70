//! What was committed while its topics or strands were being read from disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_proto::EnvelopeId;

use super::holds::{HeldLane, Hold};
use crate::committed::Committed;
use crate::read::limits::{Limits, wire_len_bytes};

/// Bounded: what is too much is given up, and then read from disk too.
#[derive(Debug, Default)]
pub(super) struct Tail {
    items: Vec<Arc<Committed>>,
    holds: BTreeMap<HeldLane, Hold>,
    len_bytes: usize,
    lost: bool,
}

impl Tail {
    /// Keeps an envelope for later. All tails of a stream, which keep `kept_bytes` by now, share
    /// one bound on bytes; a single envelope always fits.
    pub(super) fn push(&mut self, item: &Arc<Committed>, kept_bytes: usize) {
        let len_bytes = wire_len_bytes(item.bytes.len());
        let fits = kept_bytes == 0 || kept_bytes + len_bytes <= Limits::QUEUE.len_bytes;
        if !fits || self.items.len() >= Limits::QUEUE.envelopes {
            self.lose();
        }
        if !self.lost {
            self.items.push(Arc::clone(item));
            self.len_bytes += len_bytes;
        }
    }

    /// Notes that a lane stops at `id`. Everything in it from there on is to be left out.
    pub(super) fn hold(&mut self, lane: HeldLane, id: EnvelopeId, on: EnvelopeId) {
        let after = EnvelopeId { sequence: id.sequence.previous(), ..id };
        self.holds.insert(lane, Hold { after, on });
    }

    /// Whether a lane has stopped here.
    pub(super) fn holds(&self, lane: &HeldLane) -> bool {
        !self.holds.is_empty() && self.holds.contains_key(lane)
    }

    /// Gives everything up: something is missing in it.
    pub(super) fn lose(&mut self) {
        *self = Self { lost: true, ..Self::default() };
    }

    /// Whether something is missing in it.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Everything that was committed since it was made.
    pub(super) fn take(self) -> (Vec<Arc<Committed>>, BTreeMap<HeldLane, Hold>) {
        (self.items, self.holds)
    }

    /// What it keeps, as it would be on the wire.
    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}
