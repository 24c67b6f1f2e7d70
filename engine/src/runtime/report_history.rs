//! The reports on the settlement chain, brought forward by the events that are recorded.
//!
//! Events are read once. Only when the chain takes some back, and when an originator is new, all are read again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, minute_of};
use hawser_rules::Registry;
use hawser_storage::{
    Mark, NewReportEvents, PayerReportChange, PayerReportEvent, ReadError, ReportEventsRead,
    Snapshot, Store,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::ledger::LedgerAppender;
use super::settled_leaves::{SettledLeaves, last_leaves};
use crate::payer_reports::{AHEAD_MINUTES, ChainReports, minute_at, originators_of};
use crate::ports::Clock;

/// The most settlements that wait for the ledger. A guess: a network settles as many in some hours, and the ledger
/// follows within seconds. Bounded because an endpoint can make up any number. Settlements without room are read again
/// when half of the room is free.
const WAITING_MAX: usize = 1024;
/// The block up to which settlements are booked while no balance is known.
const ALL_BLOCKS: u64 = u64::MAX;

/// The reports on the chain. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(super) struct ReportHistory(Arc<ReportHistoryState>);

struct ReportHistoryState {
    store: Store,
    clock: Arc<dyn Clock>,
    registry: watch::Receiver<Arc<Registry>>,
    ledger: LedgerAppender,
    kept: Mutex<KeptHistory>,
}

/// The reports on the chain as of the last reading, and the state of that reading.
#[derive(Default)]
struct KeptHistory {
    reports: Arc<ChainReports>,
    /// The originators whose events are kept. An endpoint could make up events of others without end.
    of: BTreeSet<OriginatorId>,
    read: Option<ReportEventsRead>,
    /// The last settlement of each report that the ledger does not confirm yet: the payer registry has not been read up
    /// to its block, or the ledger has fewer settled amounts there, because its reader follows another branch of the
    /// chain or an endpoint lies. Until the ledger confirms it, the fees of the report count as unsettled: no balance
    /// was reduced by them yet, so payers could spend them twice.
    waiting: VecDeque<PayerReportEvent>,
    /// True if some settlements had no room in `waiting`.
    has_dropped: bool,
    settled_leaves: SettledLeaves,
    /// The block up to which the payer registry had been read at that reading.
    booked_through: u64,
    /// The version of the ledger's settlements at that reading.
    settled_version: u64,
    /// The heads of strands when the envelopes at the ends of reports were last looked for.
    looked_at: BTreeMap<OriginatorId, SequenceId>,
}

/// The reports on the chain at one moment, and the view of that moment.
pub(super) struct ReportsNow<'a> {
    pub(super) snapshot: Snapshot<'a>,
    pub(super) reports: Arc<ChainReports>,
}

impl ReportHistory {
    pub(super) fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        registry: watch::Receiver<Arc<Registry>>,
        ledger: LedgerAppender,
    ) -> Self {
        let kept = Mutex::default();
        Self(Arc::new(ReportHistoryState { store, clock, registry, ledger, kept }))
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
            *kept = KeptHistory { of, ..KeptHistory::default() };
        }
        // Held while the snapshot is taken, so that both are of one moment.
        let settled = self.0.ledger.settled();
        let mut new = self.0.store.new_report_events(kept.read.take());
        let has_gone_back = settled.version() != kept.settled_version
            || booked_through(&new.snapshot)? < kept.booked_through;
        // If the registry is read again, settlements that counted before may be in no balance now.
        // Those that had no room in `waiting` may have some.
        let has_room = kept.has_dropped && kept.waiting.len() <= WAITING_MAX / 2;
        if has_gone_back || has_room {
            new = self.0.store.new_report_events(None);
        }
        kept.settled_version = settled.version();
        if new.is_anew {
            kept.reports = Arc::default();
            kept.looked_at.clear();
            kept.waiting.clear();
            kept.settled_leaves = SettledLeaves::default();
            kept.has_dropped = false;
        }
        let booked_through = booked_through(&new.snapshot)?;
        kept.booked_through = booked_through;
        let KeptHistory {
            reports, of, read, waiting, has_dropped, looked_at, settled_leaves, ..
        } = &mut *kept;
        // First, because a settlement counts only if the ledger has all amounts of its block.
        new.read(|event| settled_leaves.note(&event))?;
        let latest = minute_of(self.0.clock.now_ns()).saturating_add(AHEAD_MINUTES);
        let compared = settled_leaves.beside(&settled);
        let may_count = |event: &PayerReportEvent| {
            let is_all_booked = booked_through == ALL_BLOCKS || last_leaves(event).is_none();
            is_all_booked || event.block <= booked_through && compared.are_all_in(event)
        };
        let (booked, later): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(waiting).into_iter().partition(&may_count);
        *waiting = later;
        booked.into_iter().for_each(|event| Arc::make_mut(reports).note(event, None, latest));
        let so_far = read_reports(&new, |event, held_minute| {
            if !of.contains(&event.originator) {
                return;
            }
            if may_count(&event) {
                Arc::make_mut(reports).note(event, held_minute, latest);
                return;
            }
            waiting.push_back(event);
            if waiting.len() > WAITING_MAX {
                waiting.pop_front();
                *has_dropped = true;
            }
        })?;
        *read = Some(so_far);
        note_minutes(&new.snapshot, reports, looked_at)?;
        Ok(ReportsNow { snapshot: new.snapshot, reports: reports.clone() })
    }
}

/// Returns the block up to which the settlements of the payer registry are booked. All are, as long as no balance is
/// known, since nothing can be spent by it.
///
/// # Errors
/// When a row cannot be read.
fn booked_through(snapshot: &Snapshot<'_>) -> Result<u64, ReadError> {
    match snapshot.knows_balances()? {
        true => Ok(snapshot.ledger_position()?.map_or(ALL_BLOCKS, |at| at.block)),
        false => Ok(ALL_BLOCKS),
    }
}

/// Calls `each` with the events, in the order of the chain, each with the minute of the envelope at the end of the
/// report that it submits, if this node holds the envelope. Returns the part that is read then.
///
/// # Errors
/// When a row cannot be read.
fn read_reports(
    new: &NewReportEvents<'_>,
    mut each: impl FnMut(PayerReportEvent, Option<u32>),
) -> Result<ReportEventsRead, ReadError> {
    new.read(|event| {
        let held_minute = minute_of_end(&new.snapshot, &event);
        each(event, held_minute);
    })
}

/// Returns the minute of the envelope at the end of a report that an event submits, if this node holds the envelope.
fn minute_of_end(snapshot: &Snapshot<'_>, event: &PayerReportEvent) -> Option<u32> {
    match &event.change {
        PayerReportChange::Submitted { end, .. } => {
            readable_minute(snapshot, EnvelopeId::new(event.originator, *end))
        }
        PayerReportChange::Settled { .. } => None,
    }
}

/// Returns the minute of an envelope, if this node holds it. One that the disk has damaged counts as not held:
/// otherwise no report would be known, and no payer's balance, because of one place at the end of an old report. It is
/// looked for again when its strand has grown.
pub(super) fn readable_minute(snapshot: &Snapshot<'_>, at: EnvelopeId) -> Option<u32> {
    minute_at(snapshot, at).unwrap_or_else(|error| {
        tracing::debug!(envelope = %at, %error, "the end of a payer report cannot be read");
        None
    })
}

/// Looks for the envelopes that this node did not hold yet when it read the reports that end with them. `looked_at` are
/// the heads of the strands at the last look: a strand that has not grown is not looked at again.
fn note_minutes(
    snapshot: &Snapshot<'_>,
    reports: &mut Arc<ChainReports>,
    looked_at: &mut BTreeMap<OriginatorId, SequenceId>,
) -> Result<(), ReadError> {
    let (mut found, mut lost, mut heads) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (index, last) in reports.without_minute() {
        let head = match heads.get(&last.originator) {
            Some(head) => *head,
            None => snapshot.head(last.originator)?,
        };
        heads.insert(last.originator, head);
        // A strand that this node does not follow costs one row, however many reports are about it.
        if last.sequence > head || looked_at.get(&last.originator) == Some(&head) {
            continue;
        }
        if let Some(minute) = readable_minute(snapshot, last) {
            found.push((last.originator, index, minute));
        } else if matches!(snapshot.mark(last), Ok(Some(Mark::Expired { .. }))) {
            lost.push((last.originator, index));
        }
    }
    looked_at.extend(heads);
    if !found.is_empty() || !lost.is_empty() {
        let reports = Arc::make_mut(reports);
        found.into_iter().for_each(|(originator, index, minute)| {
            reports.set_minute(originator, index, minute);
        });
        lost.into_iter().for_each(|(originator, index)| reports.set_lost(originator, index));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hawser_proto::envelope::{OriginatorEnvelope, Proof};
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_proto::price::SettledAmount;
    use hawser_proto::sign::originator_digest;
    use hawser_proto::{Bytes, SecretKey};
    use hawser_rules::{NodeRecord, PicoDollarPrice};
    use hawser_storage::{
        ChainPosition, Change, Family, InvalidRule, LedgerEventId, LogEntry, SkipReason,
        StoreIdentity, Validity,
    };
    use prost::Message as _;

    use super::*;
    use crate::ledger::{LedgerAction, LedgerEvent, LedgerMicroDollars};

    fn registry(nodes: &[u32]) -> Arc<Registry> {
        let public_key = SecretKey::from_bytes(&[1; 32]).unwrap().public_key();
        let record = |node: &u32| NodeRecord {
            id: OriginatorId(*node),
            public_key,
            owner: public_key.address(),
            http_address: Some("http://127.0.0.1:5050".into()),
            quic_address: None,
            canonical: true,
        };
        Arc::new(nodes.iter().map(record).collect())
    }

    struct StillClock;

    impl Clock for StillClock {
        fn now_ns(&self) -> i64 {
            0
        }
    }

    fn submitted(block: u64, originator: u32) -> PayerReportEvent {
        let change = PayerReportChange::Submitted {
            start: SequenceId(0),
            end: SequenceId(9),
            end_minute: 5,
            root: [1; 32],
            nodes: vec![OriginatorId(100)],
        };
        let originator = OriginatorId(originator);
        PayerReportEvent { block, log_index: 0, originator, index: 0, change }
    }

    fn store() -> Store {
        let public_key = SecretKey::from_bytes(&[1; 32]).unwrap().public_key();
        let identity =
            StoreIdentity { network: "test".into(), node: OriginatorId(100), public_key };
        Store::in_memory(identity, |_, _| PicoDollarPrice(0)).unwrap()
    }

    /// The settlement of the last leaves of a report.
    fn last_settlement(leaves: u64) -> PayerReportChange {
        PayerReportChange::Settled { leaves, left: 0, microdollars: SettledAmount(1) }
    }

    /// The settlement of one payer's part in the payer registry.
    fn usage_settled(block: u64, log_index: u8) -> LedgerEvent {
        let mut id = [log_index; 32];
        id[..8].copy_from_slice(&block.to_be_bytes());
        LedgerEvent {
            id: LedgerEventId(id),
            block,
            payer: hawser_proto::Address([7; 20]),
            action: LedgerAction::UsageSettled(LedgerMicroDollars(1)),
        }
    }

    fn history_of(store: &Store, registry: watch::Receiver<Arc<Registry>>) -> ReportHistory {
        let ledger = LedgerAppender::new(store.clone());
        ReportHistory::new(store.clone(), Arc::new(StillClock), registry, ledger)
    }

    /// Returns a store, the appender of its ledger, and the reports about node 100.
    fn with_ledger() -> (Store, LedgerAppender, ReportHistory) {
        let (store, (_nodes, watched)) = (store(), watch::channel(registry(&[100])));
        let (ledger, clock) = (LedgerAppender::new(store.clone()), Arc::new(StillClock));
        let history = ReportHistory::new(store.clone(), clock, watched, ledger.clone());
        (store, ledger, history)
    }

    fn at(block: u64) -> ChainPosition {
        ChainPosition { block, hash: [9; 32] }
    }

    /// An envelope that states a minute.
    fn append(sequence: u64, minute: i64) -> Change {
        let id = EnvelopeId::new(OriginatorId(200), SequenceId(sequence));
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: id.originator.0,
            originator_sequence_id: sequence,
            originator_ns: minute * 60_000_000_000,
            ..pb::UnsignedOriginatorEnvelope::default()
        };
        let statement = Bytes::from(statement.encode_to_vec());
        let key = SecretKey::from_bytes(&[2; 32]).unwrap();
        let proof = Proof::Signature(key.sign(originator_digest(&statement)));
        let bytes = OriginatorEnvelope::encode(statement, proof);
        Change::Append(LogEntry {
            id,
            bytes,
            validity: Validity::Invalid(InvalidRule(1)),
            facts: None,
        })
    }

    fn skip(from: u64, through: u64, reason: SkipReason) -> Change {
        let (from, through) = (SequenceId(from), SequenceId(through));
        Change::Skip { originator: OriginatorId(200), from, through, reason }
    }

    /// Places that a strand lacks cost nothing at the next look, unless it has grown.
    #[test]
    fn ends_that_are_not_held_are_looked_for_when_the_strand_has_grown_and_not_if_they_have_expired()
     {
        let store = store();
        let (_nodes, watched) = watch::channel(registry(&[100, 200]));
        let history = history_of(&store, watched);
        let mut second = submitted(2, 200);
        if let PayerReportChange::Submitted { start, end, .. } = &mut second.change {
            (*start, *end) = (SequenceId(9), SequenceId(20));
        }
        second.index = 1;
        let position = at(9);
        store.record_payer_reports(0, &[submitted(1, 200), second], position).unwrap();
        let reports = || history.now().unwrap().reports;
        let open = || reports().without_minute().map(|(index, _)| index).collect::<Vec<_>>();
        assert_eq!(open(), [0, 1], "the strand ends before them");
        store
            .commit(&[skip(1, 10, SkipReason::Expired), skip(11, 20, SkipReason::Missing)])
            .unwrap();
        assert_eq!(open(), [1], "the first one has expired");
        store.commit(&[append(20, 7)]).unwrap();
        assert_eq!(open(), [1], "the strand has not grown");
        store.commit(&[append(21, 8)]).unwrap();
        assert!(open().is_empty());
        let minutes: Vec<_> =
            reports().about(OriginatorId(200)).map(|report| report.last_minute()).collect();
        assert_eq!(minutes, [5, 7], "the second one is that of its envelope");
    }

    /// A report ends with a place that the disk has damaged.
    #[test]
    fn a_place_that_cannot_be_read_hides_no_report() {
        let store = store();
        store.commit(&[skip(1, 20, SkipReason::Missing)]).unwrap();
        let key = [&200_u32.to_be_bytes()[..], &9_u64.to_be_bytes()].concat();
        store.put_raw_row(Family::Mark, &key, &[0xff]);
        let end = EnvelopeId::new(OriginatorId(200), SequenceId(9));
        assert!(minute_at(&store.snapshot(), end).is_err());
        let position = at(9);
        store.record_payer_reports(0, &[submitted(1, 200), submitted(2, 100)], position).unwrap();
        let (_nodes, watched) = watch::channel(registry(&[100, 200]));
        let history = history_of(&store, watched);
        let reports = history.now().unwrap().reports;
        assert_eq!(reports.about(OriginatorId(100)).count(), 1);
        let of_damaged: Vec<_> = reports.about(OriginatorId(200)).collect();
        assert_eq!(of_damaged.len(), 1);
        assert_eq!(of_damaged[0].held_minute, None, "it may be known later");
    }

    #[test]
    fn reports_go_on_with_new_events_and_begin_anew_for_a_new_node() {
        let store = store();
        let (nodes, watched) = watch::channel(registry(&[100]));
        let history = history_of(&store, watched);
        let record = |from, events: &[PayerReportEvent]| {
            let position = at(9);
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

    /// A node reads the registry and the reports apart, and either may come first.
    #[test]
    fn a_report_is_settled_once_the_registry_has_been_read_up_to_its_last_settlement() {
        let store = store();
        let (_nodes, watched) = watch::channel(registry(&[100]));
        let history = history_of(&store, watched);
        store.note_payers_read(at(1)).unwrap();
        store.note_payer_reports_read(at(1)).unwrap();
        store.record_ledger(0, &[], Some(at(1))).unwrap();
        let is_settled = || history.now().unwrap().reports.is_settled(OriginatorId(100), 0);
        let settled =
            PayerReportEvent { block: 3, change: last_settlement(1), ..submitted(2, 100) };
        store.record_payer_reports(0, &[submitted(2, 100), settled.clone()], at(3)).unwrap();
        assert_eq!([is_settled(), is_settled()], [false, false], "no balance is without its fees");
        store.record_ledger(0, &[], Some(at(2))).unwrap();
        assert!(!is_settled(), "the registry may have it in the next block");
        store.record_ledger(0, &[], Some(at(3))).unwrap();
        assert_eq!([is_settled(), is_settled()], [true, true]);
        store.record_payer_reports(3, &[], at(4)).unwrap();
        assert!(!is_settled(), "the chain has taken it back");
        store.record_payer_reports(3, &[settled], at(4)).unwrap();
        assert!(is_settled(), "the registry was first");
        store.record_ledger(0, &[], Some(at(2))).unwrap();
        assert_eq!([is_settled(), is_settled()], [false, false], "the registry is read again");
        store.record_ledger(0, &[], Some(at(3))).unwrap();
        assert!(is_settled());
    }

    /// After a reorganisation, each of the two readers follows when its endpoint does; an endpoint may also hide events
    /// from one of them.
    #[test]
    fn a_report_is_settled_while_the_ledger_has_a_settlement_in_that_block() {
        let (store, ledger, history) = with_ledger();
        let book = |from, settled_in: &[u64], through| {
            let events: Vec<_> = settled_in.iter().map(|block| usage_settled(*block, 0)).collect();
            ledger.append(from, &events, at(through)).unwrap();
        };
        let show = |from: u64, settled_in: u64, through| {
            let change = last_settlement(1);
            let settled = PayerReportEvent { block: settled_in, change, ..submitted(2, 100) };
            let all = [submitted(2, 100), settled];
            let events = all.iter().filter(|event| event.block >= from).cloned();
            let events: Vec<_> = events.collect();
            store.record_payer_reports(from, &events, at(through)).unwrap();
        };
        let is_settled = || history.now().unwrap().reports.is_settled(OriginatorId(100), 0);
        book(0, &[], 1);
        store.note_payers_read(at(1)).unwrap();
        show(0, 3, 3);
        store.note_payer_reports_read(at(3)).unwrap();
        book(2, &[], 5);
        assert_eq!([is_settled(), is_settled()], [false, false], "it is of another branch");
        book(3, &[3], 5);
        assert_eq!([is_settled(), is_settled()], [true, true], "the ledger has followed");
        book(3, &[], 6);
        assert_eq!([is_settled(), is_settled()], [false, false], "the ledger has it taken back");
        show(3, 6, 7);
        assert!(!is_settled(), "the branch of the ledger has none there");
        book(6, &[6], 7);
        assert!(is_settled(), "both have followed");
        book(8, &[9], 9);
        assert!(is_settled(), "later settlements change nothing");
        show(3, 8, 9);
        assert!(!is_settled(), "the reports were first");
        book(3, &[8], 9);
        assert!(is_settled());
    }

    /// Played by an endpoint that makes up settlements which the registry does not have.
    #[test]
    fn settlements_that_are_in_no_ledger_are_forgotten_the_oldest_first() {
        let (store, ledger, history) = with_ledger();
        let position = at(5000);
        ledger.append(0, &[], position).unwrap();
        store.note_payers_read(position).unwrap();
        let made_up =
            |block| PayerReportEvent { block, change: last_settlement(1), ..submitted(2, 100) };
        let events: Vec<_> = (3..3000).map(made_up).collect();
        store.record_payer_reports(0, &events, position).unwrap();
        store.note_payer_reports_read(position).unwrap();
        history.now().unwrap();
        let kept = history.0.kept.lock();
        assert_eq!(kept.waiting.len(), WAITING_MAX);
        assert_eq!(kept.waiting.back().map(|event| event.block), Some(2999));
    }

    /// The reader of the ledger stood still for days, because endpoints contradicted each other, and goes on.
    #[test]
    fn settlements_for_which_there_was_no_room_count_once_the_ledger_has_followed() {
        let (store, ledger, history) = with_ledger();
        ledger.append(0, &[], at(2)).unwrap();
        store.note_payers_read(at(2)).unwrap();
        let settled_in: Vec<u64> = (3..=3 + WAITING_MAX as u64).collect();
        let settled = |block: &u64| PayerReportEvent {
            block: *block,
            index: *block - 3,
            change: last_settlement(1),
            ..submitted(2, 100)
        };
        let mut events = vec![submitted(2, 100)];
        events.extend(settled_in.iter().map(settled));
        store.record_payer_reports(0, &events, at(5000)).unwrap();
        store.note_payer_reports_read(at(5000)).unwrap();
        let is_settled = || history.now().unwrap().reports.is_settled(OriginatorId(100), 0);
        assert!(!is_settled(), "the ledger is behind");
        let booked: Vec<_> = settled_in.iter().map(|block| usage_settled(*block, 0)).collect();
        ledger.append(3, &booked, at(5000)).unwrap();
        is_settled();
        assert!(is_settled(), "it was the one without room");
    }

    /// An endpoint hides the settlement of one payer of several from the reader of the ledger, or makes up that of a
    /// report in a block with another one.
    #[test]
    fn a_report_is_not_settled_by_fewer_amounts_in_the_ledger_or_by_none() {
        let (store, ledger, history) = with_ledger();
        ledger.append(0, &[], at(2)).unwrap();
        store.note_payers_read(at(2)).unwrap();
        let show = |all: &[u64]| {
            let settled = |(index, leaves): (u64, &u64)| {
                let change = last_settlement(*leaves);
                PayerReportEvent { block: 3, log_index: index, index, change, ..submitted(2, 100) }
            };
            let settled = (0..).zip(all).map(settled);
            let events: Vec<_> = [submitted(2, 100)].into_iter().chain(settled).collect();
            store.record_payer_reports(0, &events, at(3)).unwrap();
            store.note_payer_reports_read(at(3)).unwrap();
        };
        let is_settled = || history.now().unwrap().reports.is_settled(OriginatorId(100), 0);
        show(&[2]);
        ledger.append(3, &[usage_settled(3, 0)], at(3)).unwrap();
        assert_eq!([is_settled(), is_settled()], [false, false], "one of two is hidden");
        ledger.append(3, &[usage_settled(3, 0), usage_settled(3, 1)], at(3)).unwrap();
        assert_eq!([is_settled(), is_settled()], [true, true]);
        show(&[3]);
        assert!(!is_settled());
        show(&[2, 1]);
        assert!(!is_settled(), "one amount is hidden of a block in which two reports are settled");
        let all = [0, 1, 2].map(|index| usage_settled(3, index));
        ledger.append(3, &all, at(3)).unwrap();
        assert_eq!([is_settled(), is_settled()], [true, true]);
        show(&[0]);
        assert!(!is_settled(), "the contract tells so of empty reports only");
    }

    /// Nothing can be spent before a balance is known. The registry's reader may then be behind the one of the reports.
    #[test]
    fn a_settlement_that_was_read_before_any_balance_was_known_waits_for_the_registry() {
        let store = store();
        let (_nodes, watched) = watch::channel(registry(&[100]));
        let history = history_of(&store, watched);
        let is_settled = || history.now().unwrap().reports.is_settled(OriginatorId(100), 0);
        let settled =
            PayerReportEvent { block: 3, change: last_settlement(1), ..submitted(2, 100) };
        store.record_payer_reports(0, &[submitted(2, 100), settled], at(3)).unwrap();
        assert!(is_settled());
        store.record_ledger(0, &[], Some(at(2))).unwrap();
        store.note_payers_read(at(2)).unwrap();
        store.note_payer_reports_read(at(3)).unwrap();
        assert_eq!([is_settled(), is_settled()], [false, false], "no balance is without its fees");
        store.record_ledger(0, &[], Some(at(3))).unwrap();
        assert!(is_settled());
    }

    /// Settled usage of a strand stays settled, whatever the registry has as the key of its node.
    #[test]
    fn reports_about_a_node_whose_record_cannot_be_used_count() {
        let store = store();
        let position = at(9);
        store.record_payer_reports(0, &[submitted(1, 200)], position).unwrap();
        let unusable = [(OriginatorId(200), false)];
        let registry = Registry::clone(&registry(&[100])).with_unusable(unusable);
        let (_nodes, watched) = watch::channel(Arc::new(registry));
        let history = history_of(&store, watched);
        assert_eq!(history.now().unwrap().reports.about(OriginatorId(200)).count(), 1);
    }
}
