//! Envelopes whose fees are to be judged once the price list is new enough. They are kept across restarts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use hawser_proto::minute::CONGESTION_MINUTES;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{CommitError, Store};
use parking_lot::Mutex;

/// Envelopes of one originator whose fees wait to be judged. A guess: some seconds of a busy strand. The fees of
/// further envelopes are not judged. Booked amounts do not depend on the judgement, and the stated fees stay in the log
/// and in the tallies.
const OF_ORIGINATOR_MAX: usize = 1024;

/// Envelopes whose stated fees no known rate explains. Bounded by [`OF_ORIGINATOR_MAX`] for each node that the registry
/// names.
#[derive(Debug, Default)]
pub(super) struct DoubtedFees {
    waiting: Mutex<WaitingFees>,
    /// Held during a write of the places. So no older state is written over a newer state, and a task that has added a
    /// place returns only after its write.
    writing: Mutex<()>,
}

/// Names the first of an originator's doubted fees at once: the price list decides minutes later.
pub(super) fn name_doubted(at: EnvelopeId) {
    tracing::info!(
        code = "fees_doubted",
        envelope = %at,
        "an envelope states fees that no known rate explains: they are judged once the price list reaches its time"
    );
}

/// The largest numbers of envelopes that may have counted for the congestion fee at a place, if they are known.
type MostCounted = Option<[u64; CONGESTION_MINUTES]>;

#[derive(Debug, Default)]
struct WaitingFees {
    /// The places of each originator. The numbers are in memory only.
    places: BTreeMap<OriginatorId, BTreeMap<SequenceId, MostCounted>>,
    /// True if the disk has others.
    has_changed: bool,
}

impl DoubtedFees {
    /// Returns those of earlier runs. If they cannot be read, the evidence of those is lost, and nothing else.
    pub(super) fn read(store: &Store) -> Self {
        let doubted = Self::default();
        match store.doubted_fees() {
            Ok(places) => places.into_iter().for_each(|at| _ = doubted.push(at, None)),
            Err(error) => {
                tracing::warn!(%error, "the doubted fees of earlier runs cannot be read");
            }
        }
        doubted.waiting.lock().has_changed = false;
        doubted
    }

    /// Adds the fees at a place. `most` are the largest numbers of envelopes that may have counted for its congestion
    /// fee, if all of them are known. Returns true if no other fees of the originator wait.
    pub(super) fn push(&self, at: EnvelopeId, most: MostCounted) -> bool {
        let mut waiting = self.waiting.lock();
        let of_originator = waiting.places.entry(at.originator).or_default();
        let is_first = of_originator.is_empty();
        if of_originator.len() < OF_ORIGINATOR_MAX
            && let Entry::Vacant(place) = of_originator.entry(at.sequence)
        {
            place.insert(most);
            waiting.has_changed = true;
        }
        is_first
    }

    /// Returns the numbers that were added with a place, unless an earlier run has added it.
    pub(super) fn most(&self, at: EnvelopeId) -> MostCounted {
        let waiting = self.waiting.lock();
        waiting.places.get(&at.originator)?.get(&at.sequence).copied().flatten()
    }

    /// Removes those that are decided.
    pub(super) fn remove(&self, decided: &[EnvelopeId]) {
        let mut waiting = self.waiting.lock();
        for at in decided {
            if let Some(of_originator) = waiting.places.get_mut(&at.originator)
                && of_originator.remove(&at.sequence).is_some()
            {
                waiting.has_changed = true;
            }
        }
    }

    /// Returns all of them, which stay.
    pub(super) fn all(&self) -> Vec<EnvelopeId> {
        self.waiting.lock().all()
    }

    /// Writes them to the disk if it has others. If that fails, the next call does it.
    pub(super) fn record(&self, store: &Store) -> Result<(), CommitError> {
        let _one = self.writing.lock();
        let present = {
            let mut waiting = self.waiting.lock();
            if !std::mem::take(&mut waiting.has_changed) {
                return Ok(());
            }
            waiting.all()
        };
        let written = store.record_doubted_fees(&present);
        if written.is_err() {
            self.waiting.lock().has_changed = true;
        }
        written
    }
}

impl WaitingFees {
    fn all(&self) -> Vec<EnvelopeId> {
        let places = self.places.iter().flat_map(|(originator, places)| {
            places.keys().map(move |sequence| EnvelopeId::new(*originator, *sequence))
        });
        places.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(originator: u32, sequence: u64) -> EnvelopeId {
        EnvelopeId::new(OriginatorId(originator), SequenceId(sequence))
    }

    #[test]
    fn doubts_about_one_originator_take_no_room_from_others_and_none_is_held_twice() {
        let doubted = DoubtedFees::default();
        let first = (1..=10_000).chain(1..=10).filter(|it| doubted.push(at(300, *it), None));
        assert_eq!(first.collect::<Vec<_>>(), [1]);
        assert!(doubted.push(at(200, 1), Some([7; 5])));
        let all = doubted.all();
        assert_eq!(all.len(), OF_ORIGINATOR_MAX + 1);
        assert_eq!(all[..2], [at(200, 1), at(300, 1)], "the first ones stay");
        assert_eq!((doubted.most(at(200, 1)), doubted.most(at(300, 1))), (Some([7; 5]), None));
        doubted.remove(&all);
        assert_eq!(doubted.all(), []);
        assert!(doubted.push(at(300, 11), None), "the next doubt is named again");
    }
}
