//! Decides which envelopes of which strand may be pruned. Does no I/O and reads no clock.
//!
//! An envelope may go when its expiry is over, its strand belongs to no chain, and its place is below the end of a
//! payer report about the strand that the settlement chain has (`docs/protocol/pruning.md`). Three rules keep more than
//! that:
//!
//! - The time is the earlier one of this node's clock and of what payer reports on the chain show, so a clock that
//!   jumps ahead prunes nothing early. A clock that goes back prunes less. Reports of an originator that has stopped
//!   show nothing, and neither do reports whose last envelope this node does not hold.
//! - The envelopes at both ends of a report that is not settled stay, of the newest 256 about a strand: its figures
//!   are computed from there. If one was removed nevertheless, its record has the minute.
//! - An envelope with retention for ever stays, whatever expiry its originator states.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::stored_terms::StoredTerms;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::retention::is_endless;
use hawser_storage::{ExpiredEnvelope, Expiring, Facts};

use crate::facts;
use crate::payer_reports::ChainReports;

/// Seconds that the reports about an originator may be behind those about another one before it counts as stopped. A
/// guess: two days. By default any node reports about an originator that has traffic after 12 hours.
const STOPPED_AFTER_S: u64 = 2 * 24 * 3600;

/// A reason for which an expired envelope stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeepReason {
    /// The strand is a chain's, which is kept for ever.
    Chain,
    /// The settlement chain has no payer report about its strand.
    NoReport,
    /// The payer reports about its strand end before it, or with it.
    NotReported,
    /// A payer report begins or ends with it and is not settled, or is the last one.
    ReportEnds,
    /// The bound on removals from its strand in one run is reached. The next run continues.
    Later,
    /// The envelope's bytes, or the state of the log or of the disk, forbid its removal.
    Refused,
}

impl KeepReason {
    /// All reasons.
    pub const ALL: [Self; 6] = [
        Self::Chain,
        Self::NoReport,
        Self::NotReported,
        Self::ReportEnds,
        Self::Later,
        Self::Refused,
    ];

    /// Returns a name for output, which stays the same.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::NoReport => "no_report",
            Self::NotReported => "not_reported",
            Self::ReportEnds => "report_ends",
            Self::Later => "later",
            Self::Refused => "refused",
        }
    }
}

/// The verdict on an envelope of the expiry index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneVerdict {
    /// The envelope may be removed.
    Goes,
    /// The envelope has expired and stays.
    Stays(KeepReason),
    /// The envelope has not expired, and neither has any later row of the index.
    NotExpired,
}

/// The state of one strand.
#[derive(Debug, Clone, PartialEq, Eq)]
struct StrandRules {
    /// Places from here on stay.
    below: SequenceId,
    /// Places below that stay as well.
    kept: BTreeSet<SequenceId>,
    /// Places that may still go in this run.
    left: u64,
}

/// The rules of one run. Each verdict [`PruneVerdict::Goes`] counts against the bound of its strand, unless the log
/// then refuses to let the envelope go ([`PruneRules::note_refused`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneRules {
    now_unix_s: u64,
    strands: BTreeMap<OriginatorId, StrandRules>,
}

impl PruneRules {
    /// Makes the rules of a run at `own_unix_s` by this node's clock, from the payer reports on the settlement chain,
    /// with the [minutes](crate::payer_reports::ChainReport::held_minute) of the envelopes at their ends. At most
    /// `places_max` places of a strand go.
    #[must_use]
    pub fn new(chain: &ChainReports, own_unix_s: u64, places_max: u64) -> Self {
        let mut strands: BTreeMap<OriginatorId, StrandRules> = BTreeMap::new();
        for report in chain.all().filter(|it| !it.originator.is_of_chain()) {
            let rules = strands.entry(report.originator).or_insert_with(|| StrandRules {
                below: SequenceId::NONE,
                kept: BTreeSet::new(),
                left: places_max,
            });
            rules.below = rules.below.max(report.end.sequence);
            if !report.is_settled {
                rules.kept.extend([report.start, report.end.sequence]);
            }
        }
        for (&originator, rules) in &mut strands {
            rules.kept.extend(chain.last_end(originator).map(|end| end.sequence));
        }
        Self { now_unix_s: own_unix_s.min(reported_unix_s(chain, own_unix_s)), strands }
    }

    /// Returns the time that expiries are compared with, unix seconds.
    #[must_use]
    pub fn now_unix_s(&self) -> u64 {
        self.now_unix_s
    }

    /// Decides about one envelope of the expiry index (`docs/protocol/pruning.md`, The conditions).
    #[must_use]
    pub fn verdict(&mut self, at: Expiring) -> PruneVerdict {
        let Expiring { expiry_unix_s, id: EnvelopeId { originator, sequence }, .. } = at;
        if expiry_unix_s >= self.now_unix_s {
            return PruneVerdict::NotExpired;
        }
        let stay = match self.strands.get_mut(&originator) {
            _ if originator.is_of_chain() => KeepReason::Chain,
            None => KeepReason::NoReport,
            Some(rules) if sequence >= rules.below => KeepReason::NotReported,
            Some(rules) if rules.kept.contains(&sequence) => KeepReason::ReportEnds,
            Some(StrandRules { left: 0, .. }) => KeepReason::Later,
            Some(rules) => {
                rules.left -= 1;
                return PruneVerdict::Goes;
            }
        };
        PruneVerdict::Stays(stay)
    }

    /// Takes back one verdict [`PruneVerdict::Goes`] of a strand: a refused envelope must not count against the
    /// bound.
    pub fn note_refused(&mut self, originator: OriginatorId) {
        if let Some(rules) = self.strands.get_mut(&originator) {
            rules.left = rules.left.saturating_add(1);
        }
    }
}

/// Returns a time that has passed, by the payer reports on the chain: each ends with an envelope that a majority of
/// nodes has found in its own log, and this node has its minute. The minute that a report states does not count: nodes
/// of the reference implementation attest any, so one node could state minutes ahead about all originators. An
/// originator chooses the times of its envelopes, so of several originators the one whose reports reach furthest does
/// not count. Reports follow the time by hours, which delays pruning by as much.
///
/// An originator that stopped, left the network or has no traffic gets no report any more. It counts only while its
/// reports are at most [`STOPPED_AFTER_S`] behind the furthest ones: otherwise nothing would be pruned for ever where
/// one other originator is left. Furthest is nothing beyond this node's clock, so an originator that dates itself ahead
/// makes no other one look stopped while the clock is right.
fn reported_unix_s(chain: &ChainReports, own_unix_s: u64) -> u64 {
    let mut newest: BTreeMap<OriginatorId, u64> = BTreeMap::new();
    for report in chain.all() {
        let Some(minute) = report.held_minute else { continue };
        let reported = newest.entry(report.originator).or_default();
        *reported = (u64::from(minute) * 60).max(*reported);
    }
    let furthest = newest.values().copied().max().unwrap_or(0).min(own_unix_s);
    newest.retain(|_, reported| reported.saturating_add(STOPPED_AFTER_S) >= furthest);
    let mut times: Vec<u64> = newest.into_values().collect();
    times.sort_unstable_by(|a, b| b.cmp(a));
    times.get(1).or(times.first()).copied().unwrap_or(0)
}

/// Returns true if the bytes of a stored envelope let it be pruned: it can be read, and is not to be kept for ever.
#[must_use]
pub fn may_expire(bytes: &Bytes) -> bool {
    StoredTerms::of_stored(bytes.clone()).is_ok_and(|terms| is_to_expire(terms.retention_days))
}

fn is_to_expire(retention_days: u32) -> bool {
    !is_endless(retention_days)
}

/// Returns the facts of stored envelopes, of each whose bytes let it be pruned.
#[must_use]
pub fn of_expired(expired: &[ExpiredEnvelope], own: OriginatorId) -> Vec<Option<Facts>> {
    let facts = facts::of_expired_many(expired, own, is_to_expire).into_iter();
    facts.map(|facts| facts.filter(|facts| facts.expiry_unix_s.is_some())).collect()
}

#[cfg(test)]
mod tests {
    use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Payload, Proof};
    use hawser_proto::pb::xmtp::identity::associations::identity_action::Kind;
    use hawser_proto::pb::xmtp::identity::associations::{
        CreateInbox, IdentityAction, IdentityUpdate,
    };
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_proto::price::SettledAmount;
    use hawser_proto::sign::originator_digest;
    use hawser_proto::{PayerAddress, SecretKey};
    use hawser_rules::retention::{RETENTION_INFINITE, RETENTION_MIGRATED};
    use hawser_storage::{PayerReportChange, PayerReportEvent, Validity};
    use proptest::prelude::*;

    use super::*;

    const NODE: OriginatorId = OriginatorId(100);
    const OTHER: OriginatorId = OriginatorId(200);
    const CLIENT: &str = "0a13121100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa12250a230a210001000210aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000000000000101000000";

    fn submitted(
        originator: OriginatorId,
        index: u64,
        range: (u64, u64),
        minute: u32,
    ) -> PayerReportEvent {
        let (start, end) = (SequenceId(range.0), SequenceId(range.1));
        let (root, nodes) = ([1; 32], vec![NODE, OTHER]);
        let change = PayerReportChange::Submitted { start, end, end_minute: minute, root, nodes };
        PayerReportEvent { block: index, log_index: 0, originator, index, change }
    }

    fn settled(originator: OriginatorId, index: u64) -> PayerReportEvent {
        let change =
            PayerReportChange::Settled { leaves: 1, left: 0, microdollars: SettledAmount(1) };
        PayerReportEvent { block: index, log_index: 1, originator, index, change }
    }

    fn at(expiry_unix_s: u64, originator: OriginatorId, sequence: u64) -> Expiring {
        let id = EnvelopeId::new(originator, SequenceId(sequence));
        Expiring { expiry_unix_s, id, payer: None, receipt: None }
    }

    /// Returns the reports of a node that holds the envelopes at their ends, in the minutes that they state.
    fn true_reports(events: Vec<PayerReportEvent>) -> ChainReports {
        let mut chain = ChainReports::default();
        for event in events {
            let minute = match &event.change {
                PayerReportChange::Submitted { end_minute, .. } => Some(*end_minute),
                PayerReportChange::Settled { .. } => None,
            };
            chain.note(event, minute, u32::MAX);
        }
        chain
    }

    fn rules(events: Vec<PayerReportEvent>, own_unix_s: u64) -> PruneRules {
        PruneRules::new(&true_reports(events), own_unix_s, u64::MAX)
    }

    #[test]
    fn only_what_has_expired_and_is_reported_goes() {
        let events = vec![
            submitted(NODE, 0, (0, 10), 100),
            settled(NODE, 0),
            submitted(NODE, 1, (10, 20), 200),
        ];
        let mut rules = rules(events, 200 * 60);
        let mut verdict =
            |expiry, originator, sequence| rules.verdict(at(expiry, originator, sequence));
        let stays = PruneVerdict::Stays;
        assert_eq!(verdict(11_999, NODE, 5), PruneVerdict::Goes);
        assert_eq!(verdict(12_000, NODE, 5), PruneVerdict::NotExpired, "an expiry in the past");
        assert_eq!(verdict(0, NODE, 19), PruneVerdict::Goes, "submitted, if not settled");
        assert_eq!(verdict(0, NODE, 20), stays(KeepReason::NotReported), "the end itself");
        assert_eq!(verdict(0, NODE, 21), stays(KeepReason::NotReported));
        assert_eq!(
            verdict(0, NODE, 10),
            stays(KeepReason::ReportEnds),
            "the next report starts there"
        );
        assert_eq!(verdict(0, OTHER, 1), stays(KeepReason::NoReport));
        assert_eq!(verdict(0, OriginatorId(10), 1), stays(KeepReason::NoReport));
    }

    #[test]
    fn a_chains_strand_stays_even_with_a_report() {
        let chain = OriginatorId::IDENTITY_UPDATES;
        let mut rules = rules(vec![submitted(chain, 0, (0, 10), 100)], u64::MAX);
        assert_eq!(rules.verdict(at(0, chain, 5)), PruneVerdict::Stays(KeepReason::Chain));
    }

    #[test]
    fn the_start_of_a_settled_report_goes_when_a_later_one_is_there() {
        let events = vec![
            submitted(NODE, 0, (0, 10), 100),
            settled(NODE, 0),
            submitted(NODE, 1, (10, 20), 200),
            settled(NODE, 1),
            submitted(NODE, 2, (20, 30), 300),
        ];
        let mut rules = rules(events, u64::MAX);
        assert_eq!(rules.verdict(at(0, NODE, 10)), PruneVerdict::Goes);
        assert_eq!(rules.verdict(at(0, NODE, 20)), PruneVerdict::Stays(KeepReason::ReportEnds));
    }

    #[test]
    fn a_clock_that_is_ahead_prunes_nothing_early() {
        let events = vec![submitted(NODE, 0, (0, 10), 100), submitted(OTHER, 0, (0, 10), 90)];
        let mut ahead = rules(events.clone(), u64::MAX);
        assert_eq!(ahead.now_unix_s(), 90 * 60);
        assert_eq!(ahead.verdict(at(90 * 60, NODE, 1)), PruneVerdict::NotExpired);
        let behind = rules(events, 17);
        assert_eq!(behind.now_unix_s(), 17, "the own clock counts as well");
        // One originator dates its envelopes a thousand years ahead.
        let liar = vec![submitted(NODE, 0, (0, 10), u32::MAX), submitted(OTHER, 0, (0, 10), 90)];
        assert_eq!(rules(liar.clone(), 90 * 60 + 7 * 3600).now_unix_s(), 90 * 60);
        let both = 90 * 60 + STOPPED_AFTER_S;
        assert_eq!(rules(liar, both).now_unix_s(), 90 * 60, "a clock ahead by less than two days");
        assert_eq!(rules(Vec::new(), u64::MAX).now_unix_s(), 0, "nothing is known of the time");
    }

    /// One node may write reports about all originators, and nodes of the reference implementation attest any minute.
    #[test]
    fn the_minute_that_a_report_states_shows_no_time() {
        let now = |[of_node, of_other]: [Option<u32>; 2]| {
            let mut chain = ChainReports::default();
            for (originator, held) in [(NODE, of_node), (OTHER, of_other)] {
                chain.note(submitted(originator, 0, (0, 10), u32::MAX), held, u32::MAX);
            }
            PruneRules::new(&chain, u64::MAX, u64::MAX).now_unix_s()
        };
        assert_eq!(now([Some(100), Some(90)]), 90 * 60);
        assert_eq!(now([Some(100), None]), 100 * 60, "what is not held is of no originator");
        assert_eq!(now([None, None]), 0);
    }

    /// A network of two nodes, of which one stops or leaves, must not keep everything for ever.
    #[test]
    fn an_originator_that_stopped_does_not_stop_the_time() {
        let stopped = u32::try_from(STOPPED_AFTER_S / 60).unwrap();
        let reports =
            |minute| vec![submitted(NODE, 0, (0, 10), minute), submitted(OTHER, 0, (0, 10), 100)];
        let at_minute = |minute: u32| u64::from(minute) * 60;
        let own = at_minute(stopped + 1_000);
        assert_eq!(rules(reports(stopped + 100), own).now_unix_s(), at_minute(100), "it is late");
        let last = stopped + 101;
        let mut gone = rules(reports(last), own);
        assert_eq!(gone.now_unix_s(), at_minute(last), "it has stopped");
        assert_eq!(gone.verdict(at(0, OTHER, 5)), PruneVerdict::Goes, "its strand is pruned, too");
        assert_eq!(gone.verdict(at(0, OTHER, 10)), PruneVerdict::Stays(KeepReason::NotReported));
        // Of those that have not stopped, the one that reaches furthest does not count.
        let third = submitted(OriginatorId(300), 0, (0, 10), last + 7);
        let of_three = [reports(last), vec![third]].concat();
        assert_eq!(rules(of_three, own).now_unix_s(), at_minute(last));
    }

    #[test]
    fn no_more_of_a_strand_goes_than_a_run_may_take() {
        let reports = vec![submitted(NODE, 0, (0, 10), 100)];
        let mut rules = PruneRules::new(&true_reports(reports), u64::MAX, 2);
        let verdicts: Vec<_> = (1..=4).map(|place| rules.verdict(at(0, NODE, place))).collect();
        let later = PruneVerdict::Stays(KeepReason::Later);
        assert_eq!(verdicts, [PruneVerdict::Goes, PruneVerdict::Goes, later, later]);
        rules.note_refused(NODE);
        rules.note_refused(OTHER);
        assert_eq!(rules.verdict(at(0, NODE, 5)), PruneVerdict::Goes, "another one has stayed");
        assert_eq!(rules.verdict(at(0, NODE, 6)), later);
    }

    /// An envelope for so many days that states this expiry.
    fn stored(days: u32, expiry_unixtime: u64) -> Bytes {
        stored_of(hex::decode(CLIENT).unwrap().into(), days, expiry_unixtime)
    }

    fn stored_of(client: Bytes, days: u32, expiry_unixtime: u64) -> Bytes {
        use prost::Message as _;
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: NODE.0,
            originator_sequence_id: 7,
            originator_ns: 1_600_000_000_000_000_000,
            payer_envelope_bytes: PayerEnvelope::sign(client, NODE, days, &key)
                .encode_to_vec()
                .into(),
            base_fee_picodollars: 1,
            congestion_fee_picodollars: 2,
            expiry_unixtime,
        };
        let statement = Bytes::from(statement.encode_to_vec());
        let signature = key.sign(originator_digest(&statement));
        OriginatorEnvelope::encode(statement, Proof::Signature(signature))
    }

    #[test]
    fn retention_for_ever_stays_whatever_expiry_is_stated() {
        let goes = |bytes| facts_of(vec![(bytes, None, None)], NODE)[0].is_some();
        assert!(goes(stored(2, 1_700_000_000)));
        assert!(!goes(stored(RETENTION_INFINITE, 1)), "wrapped around");
        assert!(!goes(stored(RETENTION_MIGRATED, 1)), "wrapped around");
        assert!(!goes(stored(60, 0)), "no expiry");
        assert!(!goes(stored(60, u64::MAX)));
        assert!(!goes(Bytes::from_static(b"no envelope")));
    }

    fn facts_of(
        expired: Vec<(Bytes, Option<PayerAddress>, Option<[u8; 32]>)>,
        own: OriginatorId,
    ) -> Vec<Option<Facts>> {
        let id = EnvelopeId::new(NODE, SequenceId(7));
        let expired = expired.into_iter();
        let expired =
            expired.map(|(bytes, payer, receipt)| ExpiredEnvelope { id, bytes, payer, receipt });
        of_expired(&expired.collect::<Vec<_>>(), own)
    }

    /// Rows of the index with payer and receipt and without, and bytes that stay between them.
    #[test]
    fn facts_are_those_of_a_rebuild_with_a_known_payer_and_receipt_and_without() {
        let bytes = stored(2, 1_700_000_000);
        let payer = SecretKey::from_bytes(&[7; 32]).unwrap().public_key().address();
        for own in [NODE, OTHER] {
            let expected = facts::of_stored(&bytes, Validity::Valid, own).unwrap();
            assert_eq!(expected.charge.map(|it| it.payer), Some(payer));
            assert_eq!(expected.receipt.is_some(), own == NODE);
            let receipt = expected.receipt;
            let rows = vec![
                (bytes.clone(), Some(payer), receipt),
                (stored(RETENTION_INFINITE, 1), None, None),
                (bytes.clone(), None, None),
                (Bytes::from_static(b"no envelope"), None, None),
                (bytes.clone(), Some(payer), None),
                (bytes.clone(), None, receipt),
            ];
            let facts = facts_of(rows, own);
            let some = Some(expected);
            assert_eq!(facts, [some.clone(), None, some.clone(), None, some.clone(), some]);
        }
    }

    /// The update would otherwise be pruned, and its inbox could not be found by the address any more.
    #[test]
    fn the_addresses_of_an_identity_update_are_read_also_if_its_payer_and_receipt_are_known() {
        use prost::Message as _;
        let initial_identifier = format!("0x{}", "ab".repeat(20));
        let create = CreateInbox { initial_identifier, ..CreateInbox::default() };
        let action = IdentityAction { kind: Some(Kind::CreateInbox(create)) };
        let update = IdentityUpdate { actions: vec![action], ..IdentityUpdate::default() };
        let target_topic = Bytes::from([&[2_u8][..], &[7; 32]].concat());
        let client = pb::ClientEnvelope {
            aad: Some(pb::AuthenticatedData { target_topic, depends_on: None }),
            payload: Some(Payload::IdentityUpdate(update)),
        };
        let bytes = stored_of(client.encode_to_vec().into(), 2, 1_700_000_000);
        let expected = facts::of_stored(&bytes, Validity::Valid, NODE).unwrap();
        assert_eq!(expected.addresses.len(), 1);
        let payer = expected.charge.map(|it| it.payer);
        let rows = vec![(bytes, payer, expected.receipt)];
        assert!(payer.is_some() && expected.receipt.is_some());
        assert_eq!(facts_of(rows, NODE), [Some(expected)]);
    }

    proptest! {
        #[test]
        fn what_has_expired_by_both_clocks_and_is_reported_goes_and_nothing_else(
            ends in proptest::collection::vec((1_u64..30, any::<bool>(), 0_u32..200), 0..4),
            own in 0_u64..20_000,
            expiry in 0_u64..20_000,
            place in 1_u64..60,
        ) {
            let (mut events, mut start, mut last) = (Vec::new(), 0, 0);
            let reported = ends.iter().map(|it| u64::from(it.2) * 60).max().unwrap_or(0);
            let mut unsettled = Vec::new();
            for (index, (len, is_settled, minute)) in (0..).zip(ends) {
                last = start + len;
                events.push(submitted(NODE, index, (start, last), minute));
                if is_settled {
                    events.push(settled(NODE, index));
                } else {
                    unsettled.extend([start, last]);
                }
                start = last;
            }
            let verdict = rules(events, own).verdict(at(expiry, NODE, place));
            let has_expired = expiry < own.min(reported);
            let goes = has_expired && place < last && !unsettled.contains(&place);
            prop_assert_eq!(verdict == PruneVerdict::Goes, goes);
        }
    }
}
