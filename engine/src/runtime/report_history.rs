//! The reports on the settlement chain, brought forward by the events that are recorded.
//!
//! Events are read once. Only when the chain takes some back, and when an originator is new, all are read again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hawser_proto::{EnvelopeId, OriginatorId};
use hawser_rules::Registry;
use hawser_storage::{
    NewReportEvents, PayerReportChange, PayerReportEvent, ReadError, ReportEventsRead, Snapshot,
    Store,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::payer_reports::{ChainReports, minute_at, originators_of};

/// The reports on the chain. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(super) struct ReportHistory(Arc<State>);

struct State {
    store: Store,
    registry: watch::Receiver<Arc<Registry>>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    reports: Arc<ChainReports>,
    /// The originators whose events are kept. An endpoint could make up events of others without end.
    of: BTreeSet<OriginatorId>,
    read: Option<ReportEventsRead>,
}

/// The reports on the chain at one moment, and the view of that moment.
pub(super) struct ReportsNow<'a> {
    pub(super) snapshot: Snapshot<'a>,
    pub(super) reports: Arc<ChainReports>,
}

impl ReportHistory {
    pub(super) fn new(store: Store, registry: watch::Receiver<Arc<Registry>>) -> Self {
        Self(Arc::new(State { store, registry, kept: Mutex::default() }))
    }

    /// Returns the reports of now. Blocks on the disk.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub(super) fn now(&self) -> Result<ReportsNow<'_>, ReadError> {
        let of: BTreeSet<_> = originators_of(&self.0.registry.borrow()).into_iter().collect();
        let mut kept = self.0.kept.lock();
        if !of.is_subset(&kept.of) {
            // Its events were passed over.
            *kept = Kept { of, ..Kept::default() };
        }
        let new = self.0.store.new_report_events(kept.read.take());
        if new.is_anew {
            kept.reports = Arc::default();
        }
        let Kept { reports, of, read } = &mut *kept;
        let so_far = read_reports(&new, |event, held_minute| {
            if of.contains(&event.originator) {
                Arc::make_mut(reports).note(event, held_minute);
            }
        })?;
        *read = Some(so_far);
        note_minutes(&new.snapshot, reports)?;
        Ok(ReportsNow { snapshot: new.snapshot, reports: reports.clone() })
    }
}

/// Calls `each` with the events, in the order of the chain, each with the minute of the envelope at the end of the report that
/// it submits, if this node holds the envelope. Returns the part that is read then.
///
/// # Errors
/// When a row cannot be read.
fn read_reports(
    new: &NewReportEvents<'_>,
    mut each: impl FnMut(PayerReportEvent, Option<u32>),
) -> Result<ReportEventsRead, ReadError> {
    let mut failed = None;
    let read = new.read(|event| match minute_of_end(&new.snapshot, &event) {
        Ok(held_minute) => each(event, held_minute),
        Err(error) => failed = Some(error),
    })?;
    failed.map_or(Ok(read), Err)
}

/// Returns the minute of the envelope at the end of a report that an event submits, if this node holds the envelope.
fn minute_of_end(
    snapshot: &Snapshot<'_>,
    event: &PayerReportEvent,
) -> Result<Option<u32>, ReadError> {
    match &event.change {
        PayerReportChange::Submitted { end, .. } => {
            minute_at(snapshot, EnvelopeId::new(event.originator, *end))
        }
        PayerReportChange::Settled { .. } => Ok(None),
    }
}

/// Looks for the envelopes that this node did not hold yet when it read the reports that end with them.
fn note_minutes(snapshot: &Snapshot<'_>, reports: &mut Arc<ChainReports>) -> Result<(), ReadError> {
    let (mut found, mut heads) = (Vec::new(), BTreeMap::new());
    for (index, last) in reports.without_minute() {
        let head = match heads.get(&last.originator) {
            Some(head) => *head,
            None => snapshot.head(last.originator)?,
        };
        heads.insert(last.originator, head);
        // A strand that this node does not follow costs one row, however many reports are about it.
        if last.sequence <= head
            && let Some(minute) = minute_at(snapshot, last)?
        {
            found.push((last.originator, index, minute));
        }
    }
    if !found.is_empty() {
        let reports = Arc::make_mut(reports);
        found.into_iter().for_each(|(originator, index, minute)| {
            reports.set_minute(originator, index, minute);
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hawser_proto::{SecretKey, SequenceId};
    use hawser_rules::NodeRecord;
    use hawser_storage::{ChainPosition, StoreIdentity};

    use super::*;

    fn registry(nodes: &[u32]) -> Arc<Registry> {
        let public_key = SecretKey::from_bytes(&[1; 32]).unwrap().public_key();
        let record = |node: &u32| NodeRecord {
            id: OriginatorId(*node),
            public_key,
            owner: public_key.address(),
            http_address: "http://127.0.0.1:5050".into(),
            quic_address: None,
            canonical: true,
        };
        Arc::new(nodes.iter().map(record).collect())
    }

    fn submitted(block: u64, originator: u32) -> PayerReportEvent {
        let change = PayerReportChange::Submitted {
            start: SequenceId(0),
            end: SequenceId(9),
            end_minute: 5,
            root: [1; 32],
            nodes: vec![100],
        };
        let originator = OriginatorId(originator);
        PayerReportEvent { block, log_index: 0, originator, index: 0, change }
    }

    #[test]
    fn reports_go_on_with_new_events_and_begin_anew_for_a_new_node() {
        let public_key = SecretKey::from_bytes(&[1; 32]).unwrap().public_key();
        let identity =
            StoreIdentity { network: "test".into(), node: OriginatorId(100), public_key };
        let store = Store::in_memory(identity, |_, _| 0).unwrap();
        let (nodes, watched) = watch::channel(registry(&[100]));
        let history = ReportHistory::new(store.clone(), watched);
        let record = |from, events: &[PayerReportEvent]| {
            let position = ChainPosition { block: 9, hash: [9; 32] };
            store.record_payer_reports(from, events, position).unwrap();
        };
        let of = |node| history.now().unwrap().reports.about(OriginatorId(node)).count();
        record(0, &[submitted(1, 100), submitted(2, 200)]);
        assert_eq!(
            [of(100), of(200)],
            [1, 0],
            "an originator that no registry knows is passed over"
        );
        let (first, again) = (history.now().unwrap().reports, history.now().unwrap().reports);
        assert!(Arc::ptr_eq(&first, &again), "nothing was new");
        nodes.send_replace(registry(&[100, 200]));
        assert_eq!([of(100), of(200)], [1, 1]);
        record(2, &[]);
        assert_eq!([of(100), of(200)], [1, 0], "the chain has taken one back");
        nodes.send_replace(registry(&[100]));
        assert_eq!(of(100), 1);
    }
}
