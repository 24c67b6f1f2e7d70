//! Strands that were taken over from the older network: no node is at fault for their times and expiries.

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::Rate;
use hawser_rules::retention::{RETENTION_INFINITE, RETENTION_MIGRATED};

use super::judge::not_expired;
use super::testing::{MemoryLog, draft_for, ns_of, settings};
use super::*;

const STRAND: OriginatorId = OriginatorId::MIGRATED[0];

/// A log with this strand alone.
struct TakenOver(MemoryLog);

impl TakenOver {
    /// Makes a strand of these times, without checkpoints: no node of the registry signs any about it.
    fn of(times_ns: impl IntoIterator<Item = i64>) -> Self {
        let envelope = |(at, ns): (u64, i64)| {
            let mut draft = draft_for(at, ns, STRAND, &[1, 7]);
            draft.statement.originator_node_id = STRAND.0;
            (draft.seal(), StoredMark::Valid)
        };
        let mut log = MemoryLog::of((1..).zip(times_ns).map(envelope).collect());
        log.checkpoints.clear();
        log.congestion.clear(); // it is no load of this network
        Self(log)
    }

    fn kinds(&self) -> Vec<FaultKind> {
        let settings = settings();
        let mut replay = Replay::new(self, &settings, None).unwrap();
        let report = replay.run(|_, _| true).unwrap().expect("nothing pauses it");
        report.all_faults().kept().iter().map(|it| it.kind).collect()
    }
}

impl LogSource for TakenOver {
    fn identity(&self) -> LogIdentity {
        self.0.identity()
    }

    fn heads(&self) -> Result<Vec<EnvelopeId>, SourceError> {
        Ok(vec![EnvelopeId::new(STRAND, SequenceId(self.0.head))])
    }

    fn last_held(&self, originator: OriginatorId) -> Result<Option<SequenceId>, SourceError> {
        self.0.last_held(originator)
    }

    fn rows(&self, after: EnvelopeId, head: SequenceId) -> LogRows<'_> {
        self.0.rows(after, head)
    }

    fn beside(&self, originator: OriginatorId) -> Box<dyn StrandRows + '_> {
        self.0.beside(originator)
    }

    fn shows_gaps(&self) -> bool {
        self.0.shows_gaps()
    }

    fn unchecked(&self) -> Vec<String> {
        self.0.unchecked()
    }

    fn rates(&self) -> Result<Vec<Rate>, SourceError> {
        self.0.rates()
    }
}

/// A row that could not be taken over at first is taken over after those behind it.
#[test]
fn a_row_that_was_taken_over_later_than_those_behind_it_is_no_fault() {
    let times_ns = (1..=50).map(|at| if at == 20 { ns_of(90) } else { ns_of(at) });
    let kinds = TakenOver::of(times_ns).kinds();
    assert!(!kinds.contains(&FaultKind::TimeBack), "{kinds:?}");
}

/// Nodes prune these strands too, by the time at which an envelope was first sent.
#[test]
fn pruned_places_are_no_fault_of_their_keeper() {
    let now_ns = settings().now_ns;
    for originator in OriginatorId::MIGRATED {
        let judged = |originator_ns, retention_days| {
            let id = EnvelopeId::new(originator, SequenceId(3));
            not_expired(id, originator_ns, retention_days, now_ns).map(|it| it.kind)
        };
        assert_eq!(judged(Some(now_ns), Some(60)), None);
        assert_eq!(judged(Some(now_ns), None), None);
        let fault = Some(FaultKind::NotExpired);
        for days in [RETENTION_INFINITE, RETENTION_MIGRATED] {
            assert_eq!(judged(Some(0), Some(days)), fault, "its retention is for ever");
        }
        assert_eq!(judged(None, Some(60)), fault, "it has no record");
    }
}
