//! The evidence that reports were made of, and the evidence that cannot be judged yet.

use std::collections::BTreeMap;

use hawser_proto::OriginatorId;
use hawser_storage::{EvidenceTime, StoredEvidence};

/// A piece of evidence that cannot be judged yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitingEvidence {
    /// Its position.
    pub(crate) at: EvidenceTime,
    /// The position of the piece before it.
    pub(crate) before: EvidenceTime,
    /// The node that it is about, which the registry may not have yet.
    pub(crate) accused: OriginatorId,
    /// The prices as of its time are needed.
    pub(crate) is_fee: bool,
}

/// The position up to which evidence was looked at, and the pieces before it that wait. Does no I/O.
///
/// Evidence that waits holds up none after it. Only [`reported`](Self::reported) is stored, the position before the
/// first piece that waits: a restart looks at everything behind it again, and a report of a known fact is not kept
/// twice. Bounded by the evidence that is kept about each node.
#[derive(Debug)]
pub(crate) struct EvidenceProgress {
    scanned: EvidenceTime,
    waiting: BTreeMap<EvidenceTime, WaitingEvidence>,
}

impl EvidenceProgress {
    /// Starts behind the evidence that reports were made of.
    pub(crate) fn new(reported: EvidenceTime) -> Self {
        Self { scanned: reported, waiting: BTreeMap::new() }
    }

    /// Returns the position up to which all evidence was looked at.
    pub(crate) fn scanned(&self) -> EvidenceTime {
        self.scanned
    }

    /// Returns the position up to which all evidence was judged.
    pub(crate) fn reported(&self) -> EvidenceTime {
        self.waiting.first_key_value().map_or(self.scanned, |(_, first)| first.before)
    }

    /// Returns the evidence that waits, oldest first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &WaitingEvidence> {
        self.waiting.values()
    }

    /// Notes that a piece of evidence was judged, or is gone.
    pub(crate) fn note_judged(&mut self, at: EvidenceTime) {
        self.waiting.remove(&at);
        self.scanned = self.scanned.max(at);
    }

    /// Notes that the next piece cannot be judged yet, or that one that waits must wait on.
    pub(crate) fn note_waiting(&mut self, stored: &StoredEvidence) {
        let waiting = WaitingEvidence { before: self.scanned, ..WaitingEvidence::of(stored) };
        self.waiting.entry(stored.at).or_insert(waiting);
        self.scanned = self.scanned.max(stored.at);
    }
}

impl WaitingEvidence {
    /// Returns the needs of a piece of evidence, as if it were the first one.
    pub(crate) fn of(stored: &StoredEvidence) -> Self {
        Self {
            at: stored.at,
            before: EvidenceTime::default(),
            accused: stored.evidence.at.originator,
            is_fee: stored.evidence.misbehavior.is_about_fees(),
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{EnvelopeId, SequenceId};
    use hawser_storage::{Evidence, Misbehavior};

    use super::*;

    fn at(counter: u16) -> EvidenceTime {
        EvidenceTime { server_time_ns: 7, counter }
    }

    fn stored(counter: u16) -> StoredEvidence {
        let id = EnvelopeId::new(OriginatorId(200), SequenceId(1));
        let misbehavior = Misbehavior::Fee;
        let evidence = Evidence { misbehavior, at: id, from: None, envelopes: Vec::new() };
        StoredEvidence { at: at(counter), evidence }
    }

    #[test]
    fn what_lasts_is_the_position_before_the_first_piece_that_waits() {
        let mut progress = EvidenceProgress::new(at(1));
        progress.note_judged(at(2));
        assert_eq!((progress.scanned(), progress.reported()), (at(2), at(2)));
        progress.note_waiting(&stored(3));
        progress.note_judged(at(4));
        progress.note_waiting(&stored(5));
        assert_eq!((progress.scanned(), progress.reported()), (at(5), at(2)));
        // The later one may be judged first.
        progress.note_judged(at(5));
        progress.note_waiting(&stored(3));
        assert_eq!(progress.reported(), at(2));
        progress.note_judged(at(3));
        assert_eq!((progress.scanned(), progress.reported()), (at(5), at(5)));
        assert_eq!(progress.waiting().count(), 0);
    }
}
