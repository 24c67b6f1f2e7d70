//! Envelopes whose fees are to be judged once the price list is new enough.

use std::collections::VecDeque;

use hawser_proto::EnvelopeId;
use parking_lot::Mutex;

/// Envelopes whose fees wait to be judged. A guess: some minutes of a busy strand. Beyond it the fees of
/// further ones are not judged: what is booked does not depend on it, and what was stated stays in the
/// log and in the tallies.
const DOUBTED_MAX: usize = 4096;
/// Envelopes whose stated fees no known rate explains. Bounded by [`DOUBTED_MAX`].
#[derive(Debug, Default)]
pub(super) struct DoubtedFees(Mutex<VecDeque<EnvelopeId>>);

impl DoubtedFees {
    pub(super) fn push(&self, id: EnvelopeId) {
        let mut doubted = self.0.lock();
        if doubted.len() < DOUBTED_MAX {
            doubted.push_back(id);
        }
    }

    pub(super) fn take(&self, count: usize) -> Vec<EnvelopeId> {
        let mut doubted = self.0.lock();
        let count = count.min(doubted.len());
        doubted.drain(..count).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}
