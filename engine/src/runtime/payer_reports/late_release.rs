//! Evidence about late releases: envelopes that fall between the payer reports about their originator.

use std::collections::HashSet;

use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PublicKey};
use hawser_rules::Registry;
use hawser_rules::misbehavior::{
    MisbehaviorVerdict, TreeEvidence, TreeFault, late_release_pieces, verify_trees,
};
use hawser_rules::payer_report::DomainSeparator;
use hawser_storage::{Evidence, Misbehavior, ReadError, Snapshot};

use super::late_searches::{LateReport, LateSearch, RestOfLook, SearchesAbout};
use super::{PayerReporterState, ReportStepError};
use crate::payer_reports::{ChainReport, LateMinutes, attestations_behind, late_places};

/// The newest reports about an originator of which all minutes are looked at. A guess: what falls between two reports
/// comes with the envelopes of the next one. Of older ones the last two minutes are.
const REPORTS_WHOLE: usize = 2;

/// The most work of one look at an originator, however many of its reports have late envelopes. The next look goes on
/// with the rest. An honest originator has no late envelope.
#[derive(Debug, Clone, Copy)]
struct LookBounds {
    /// The rows of usage that are read. The next look goes on behind the last one, within a report or at the next one.
    rows: usize,
    /// The attestations of the originator that are read.
    attestations: usize,
    /// The late envelopes after which no further report is judged.
    late: usize,
}

/// The bounds of a node. Guesses: 50 ms each, and a second for the rows, which an honest originator with thousands of
/// payers has as well.
const BOUNDS: LookBounds = LookBounds { rows: 1_000_000, attestations: 4096, late: 64 };

/// The work that one look took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LookCost {
    /// The rows of usage that were read.
    rows: usize,
    /// The attestations that were read.
    attestations: usize,
    /// The late envelopes that were judged.
    late: usize,
}

impl PayerReporterState {
    /// Looks for envelopes behind the end of the reports on the chain that are dated into their minutes, and records
    /// one of each report as evidence if the originator had attested that report. No report counts such envelopes.
    /// Evidence that cannot be recorded now is found again at a later look. A damaged row ends the look, and keeps no
    /// report from being settled.
    ///
    /// # Errors
    /// When rows are being rebuilt, or the reports on the chain are not known yet.
    pub(super) fn note_late_releases(&self, about: OriginatorId) -> Result<(), ReportStepError> {
        let chain = self.chain()?;
        let registry = self.registry();
        let Some(key) = registry.node(about).map(|record| record.public_key) else {
            return Ok(());
        };
        let snapshot = self.engine.store().snapshot();
        let look = LateLook {
            snapshot: &snapshot,
            registry: &registry,
            domain: self.domain,
            about,
            key,
            bounds: BOUNDS,
        };
        let mut searches = self.late_searches.lock();
        let record = |found| self.record_late_release(found);
        let cost = match look.take(chain.about(about).rev(), searches.about(about), record) {
            Ok(cost) => cost,
            Err(error @ ReadError::Rebuilding { .. }) => return Err(error.into()),
            Err(error) => {
                tracing::error!(code = "evidence_failed", %about, %error, "no look for late releases");
                return Ok(());
            }
        };
        if let Err(error) = searches.save(self.engine.store()) {
            tracing::debug!(%about, %error, "the searches are in memory only");
        }
        let LookCost { rows, attestations, late } = cost;
        tracing::debug!(%about, rows, attestations, late, "looked for late envelopes");
        Ok(())
    }

    /// Records evidence. Returns false if that failed.
    fn record_late_release(&self, found: Evidence) -> bool {
        let now_ns = u64::try_from(self.engine.ports().clock.now_ns()).unwrap_or(0);
        match self.engine.store().record_evidence(now_ns, &[found]) {
            Ok(fresh) => {
                fresh.iter().for_each(|Evidence { misbehavior, at, .. }| {
                    let fault = misbehavior.label();
                    tracing::warn!(envelope = %at, fault, "evidence against an originator");
                });
                true
            }
            Err(error) => {
                tracing::error!(
                    code = "evidence_failed", %error,
                    "evidence about a late release cannot be recorded"
                );
                false
            }
        }
    }
}

/// One look at the late envelopes of an originator.
struct LateLook<'a, 's> {
    snapshot: &'a Snapshot<'s>,
    registry: &'a Registry,
    domain: DomainSeparator,
    about: OriginatorId,
    /// The key of the originator.
    key: PublicKey,
    bounds: LookBounds,
}

impl LateLook<'_, '_> {
    /// Searches for late envelopes of the reports, and for the originator's attestations of those that have some, and
    /// has evidence recorded. `record` returns false if evidence could not be recorded.
    fn take<'r>(
        &self,
        newest_first: impl Iterator<Item = &'r ChainReport>,
        searches: &mut SearchesAbout,
        record: impl FnMut(Evidence) -> bool,
    ) -> Result<LookCost, ReadError> {
        let rows = self.late_reports(newest_first, searches)?;
        let attestations = self.search(searches)?;
        let late = self.judge(searches, record)?;
        Ok(LookCost { rows, attestations, late })
    }

    /// Notes the reports that have late envelopes, newest first, unless others are still to be judged. Returns the rows
    /// that were read to find them. Goes on behind the row at which the last look has ended. Forgets the searches for
    /// reports that are no longer kept.
    fn late_reports<'r>(
        &self,
        newest_first: impl Iterator<Item = &'r ChainReport>,
        searches: &mut SearchesAbout,
    ) -> Result<usize, ReadError> {
        let mut kept = HashSet::new();
        let mut left = Vec::new();
        for (newer, on_chain) in newest_first.enumerate() {
            let Some(report) = on_chain.report() else { continue };
            let id = report.id(self.domain);
            kept.insert(id);
            // Without the minute this node does not hold the envelope at the end, which is a part of the evidence.
            let Some(last_minute) = on_chain.held_minute else { continue };
            let is_done = searches.rest.as_ref().is_some_and(|rest| on_chain.index > rest.index);
            if is_done || searches.get(id) == Some(LateSearch::Recorded) {
                continue;
            }
            let minutes = match newer < REPORTS_WHOLE {
                true => LateMinutes::All,
                false => LateMinutes::LastTwo,
            };
            left.push((on_chain.index, id, report, last_minute, minutes));
        }
        searches.retain(&kept);
        if !searches.late.is_empty() {
            return Ok(0);
        }
        let (mut begun, mut rows) = (searches.rest.take(), 0);
        for (index, id, report, last_minute, minutes) in left {
            let begun = begun.take_if(|begun| begun.id == id);
            let scan = begun.map(|begun| begun.scan).unwrap_or_default();
            if rows == self.bounds.rows {
                searches.rest = Some(RestOfLook { index, id, scan });
                break;
            }
            let rows_max = self.bounds.rows - rows;
            let found = late_places(self.snapshot, &report, last_minute, minutes, scan, rows_max)?;
            rows += found.rows;
            if let Some(scan) = found.rest {
                searches.rest = Some(RestOfLook { index, id, scan });
                break;
            }
            if !found.places.is_empty() {
                searches.late.push_back(LateReport { id, report, late: found.places });
            }
        }
        Ok(rows)
    }

    /// Goes on with the search for the envelopes in which the originator has attested the reports. Returns the number
    /// of attestations that were read: one pass over the strand serves all reports. A pass that has found none begins
    /// anew, because the originator may show its attestation after the places behind it. An attestation before the end
    /// of a report would be no proof: its time is before the end of the last minute, or the times of the strand step
    /// back, which is evidence by itself.
    fn search(&self, searches: &mut SearchesAbout) -> Result<usize, ReadError> {
        let wanted = searches.unattested();
        let Some(after) = wanted.values().min().copied() else { return Ok(0) };
        let after = EnvelopeId::new(self.about, after);
        let most = self.bounds.attestations;
        let found = attestations_behind(self.snapshot, after, &wanted, &self.key, most)?;
        for (id, searched) in wanted {
            match found.places.get(&id) {
                Some(at) => searches.set(id, LateSearch::Found(*at)),
                // The pass has come to the end of the strand. Places that were missing may be shown behind it.
                None if found.read < most => searches.forget(id),
                None => searches.set(id, LateSearch::Through(searched.max(found.searched))),
            }
        }
        Ok(found.read)
    }

    /// Judges late envelopes of the reports whose attestation is found. The next look goes on with the reports that are
    /// left. Returns the number of late envelopes that were judged.
    fn judge(
        &self,
        searches: &mut SearchesAbout,
        mut record: impl FnMut(Evidence) -> bool,
    ) -> Result<usize, ReadError> {
        searches.drop_unattested();
        let mut tried = 0;
        while tried < self.bounds.late
            && let Some(it) = searches.late.pop_front()
        {
            let Some(LateSearch::Found(at)) = searches.get(it.id) else { continue };
            tried += it.late.len();
            let Some(attestation) = self.snapshot.get(EnvelopeId::new(self.about, at))? else {
                // It was pruned. There may be another one behind it.
                searches.set(it.id, LateSearch::Through(at));
                continue;
            };
            // One after the other: each may have megabytes.
            if let Some(found) = self.proof(&it, &attestation)?
                && record(found)
            {
                searches.set(it.id, LateSearch::Recorded);
            }
        }
        Ok(tried)
    }

    /// Returns the evidence about a late envelope of a report, if there is one that is a proof.
    fn proof(&self, it: &LateReport, attestation: &Bytes) -> Result<Option<Evidence>, ReadError> {
        let end = EnvelopeId::new(self.about, it.report.end().sequence);
        let Some(end) = self.snapshot.get(end)? else { return Ok(None) };
        for &at in &it.late {
            let Some(late) = self.snapshot.get(at)? else { continue };
            let envelopes = [attestation.clone(), end.clone(), late];
            let pieces = late_release_pieces(self.domain, &it.report, envelopes);
            let evidence = TreeEvidence { fault: TreeFault::LateRelease, pieces };
            if verify_trees(&evidence, self.registry).verdict == MisbehaviorVerdict::Proven {
                let (misbehavior, envelopes) = (Misbehavior::LateRelease, evidence.pieces);
                return Ok(Some(Evidence { misbehavior, at, from: None, envelopes }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Payload, Proof};
    use hawser_proto::pb::xmtp::mls::api::v1::WelcomeMessageInput;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_proto::sign::originator_digest;
    use hawser_proto::{Address, SecretKey, SequenceId};
    use hawser_rules::payer_report::{Attestation, ReportId};
    use hawser_rules::{NodeRecord, Rate};
    use hawser_storage::{
        Change, LogEntry, PayerReportChange, PayerReportEvent, SkipReason, Store, Validity,
    };
    use prost::Message as _;

    use super::*;
    use crate::facts;
    use crate::payer_reports::ChainReports;
    use crate::price::rate_row;
    use crate::read::testing;
    use crate::runtime::payer_reports::late_searches::LateSearches;

    const NODE: OriginatorId = OriginatorId(200);
    const MINUTE_NS: i64 = 60_000_000_000;
    /// The minute with which the first report ends. The others end ten minutes after one another.
    const FIRST_MINUTE: u32 = 29_166_667;
    const REPORTS: u64 = 6;
    /// The attestations of other reports that the originator has written before its own.
    const OTHERS: u64 = 20;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32]).unwrap()
    }

    fn domain() -> DomainSeparator {
        DomainSeparator::of_contract(31337, [5; 20])
    }

    fn minute(report: u64) -> u32 {
        FIRST_MINUTE + 10 * u32::try_from(report).unwrap()
    }

    /// Report number `index` is about the place behind that number alone.
    fn chain() -> ChainReports {
        chain_of(REPORTS)
    }

    fn chain_of(reports: u64) -> ChainReports {
        let mut chain = ChainReports::default();
        for index in 0..reports {
            let change = PayerReportChange::Submitted {
                start: SequenceId(index),
                end: SequenceId(index + 1),
                end_minute: minute(index),
                root: [1; 32],
                nodes: vec![NODE],
            };
            let event =
                PayerReportEvent { block: index, log_index: 0, originator: NODE, index, change };
            chain.note(event, Some(minute(index)), u32::MAX);
        }
        chain
    }

    fn append(sequence: u64, minute: u32, client: Bytes, payer: &SecretKey) -> Change {
        let id = EnvelopeId::new(NODE, SequenceId(sequence));
        let originator_ns = i64::from(minute) * MINUTE_NS;
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: NODE.0,
            originator_sequence_id: sequence,
            originator_ns,
            payer_envelope_bytes: PayerEnvelope::sign(client, NODE, 60, payer)
                .encode_to_vec()
                .into(),
            base_fee_picodollars: 1,
            congestion_fee_picodollars: 0,
            expiry_unixtime: u64::from(minute) * 60 + 60 * 86_400,
        };
        let statement = Bytes::from(statement.encode_to_vec());
        let proof = Proof::Signature(key(2).sign(originator_digest(&statement)));
        let bytes = OriginatorEnvelope::encode(statement, proof);
        let facts = facts::of_stored(&bytes, Validity::Valid, OriginatorId(100));
        Change::Append(LogEntry { id, bytes, validity: Validity::Valid, facts })
    }

    fn paid(sequence: u64, minute: u32) -> Change {
        paid_by(9, sequence, minute)
    }

    fn paid_by(payer: u8, sequence: u64, minute: u32) -> Change {
        let topic = Bytes::from_static(&[1, 9]);
        let aad = pb::AuthenticatedData { target_topic: topic, depends_on: None };
        let payload = Some(Payload::WelcomeMessage(WelcomeMessageInput::default()));
        let client = pb::ClientEnvelope { aad: Some(aad), payload };
        append(sequence, minute, client.encode_to_vec().into(), &key(payer))
    }

    /// Returns the strand of an originator that hides one envelope of each report, and its attestations among others.
    fn strand() -> Store {
        let store = priced();
        store.commit(&places()).unwrap();
        store
    }

    /// Returns a store without envelopes that has prices.
    fn priced() -> Store {
        let store = testing::store();
        let rate = Rate {
            start_unix_s: 0,
            message_fee: 1,
            storage_fee: 0,
            congestion_fee: 0,
            target_rate_per_minute: 0,
        };
        store.record_rates(&[rate_row(&rate)]).unwrap();
        store
    }

    /// Returns the places of that strand.
    fn places() -> Vec<Change> {
        let attested = |sequence: u64, report: ReportId| {
            let client = Attestation::sign(report, NODE, &key(2)).client_envelope(NODE);
            append(sequence, minute(REPORTS), client, &key(2))
        };
        let mut places: Vec<_> = (0..REPORTS).map(|index| paid(index + 1, minute(index))).collect();
        let others = (1..=OTHERS).map(|other| attested(REPORTS + other, ReportId([9; 32])));
        places.extend(others);
        for on_chain in chain().about(NODE) {
            let id = on_chain.report().unwrap().id(domain());
            places.push(attested(REPORTS + OTHERS + 1 + on_chain.index, id));
        }
        let late = |index| paid(2 * REPORTS + OTHERS + 1 + index, minute(index));
        places.extend((0..REPORTS).map(late));
        places
    }

    fn registry() -> Registry {
        let record = NodeRecord {
            id: NODE,
            public_key: key(2).public_key(),
            owner: Address([1; 20]),
            http_address: Some("http://127.0.0.1:5050".into()),
            quic_address: None,
            canonical: true,
        };
        [record].into_iter().collect()
    }

    /// Takes one look. `record` gets the place of each late envelope that is proven.
    fn take(
        store: &Store,
        chain: &ChainReports,
        bounds: LookBounds,
        searches: &mut SearchesAbout,
        mut record: impl FnMut(EnvelopeId) -> bool,
    ) -> LookCost {
        let (snapshot, registry) = (store.snapshot(), registry());
        let look = LateLook {
            snapshot: &snapshot,
            registry: &registry,
            domain: domain(),
            about: NODE,
            key: key(2).public_key(),
            bounds,
        };
        look.take(chain.about(NODE).rev(), searches, |found| record(found.at)).unwrap()
    }

    /// A late envelope in each report, and many attestations, cost each look a bounded number of reads, and all looks
    /// together one pass over the attestations.
    #[test]
    fn one_bounded_pass_over_the_attestations_serves_all_reports() {
        let (store, chain) = (strand(), chain());
        let mut searches = SearchesAbout::default();
        let bounds = LookBounds { rows: usize::MAX, attestations: 8, late: 2 };
        let mut found = BTreeSet::new();
        let mut costs = Vec::new();
        for _ in 0..6 {
            let cost = take(&store, &chain, bounds, &mut searches, |at| found.insert(at));
            costs.push((cost.attestations, cost.late, found.len()));
        }
        let expected = [(8, 0, 0), (8, 0, 0), (8, 2, 2), (2, 2, 4), (0, 2, 6), (0, 0, 6)];
        assert_eq!(costs, expected);
        let read: usize = costs.iter().map(|(attestations, ..)| attestations).sum();
        assert_eq!(read as u64, OTHERS + REPORTS, "each attestation once");
    }

    /// The originator shows the place of an attestation when the places behind it were searched.
    #[test]
    fn an_attestation_that_is_shown_after_those_behind_it_is_found() {
        let (store, chain, mut places) = (priced(), chain(), places());
        let hidden = SequenceId(REPORTS + OTHERS + 1);
        let missing = Change::Skip {
            originator: NODE,
            from: hidden,
            through: hidden,
            reason: SkipReason::Missing,
        };
        let of_first = usize::try_from(hidden.0 - 1).unwrap();
        let shown = std::mem::replace(&mut places[of_first], missing);
        store.commit(&places).unwrap();
        let mut searches = SearchesAbout::default();
        let bounds = LookBounds { rows: usize::MAX, attestations: 100, late: 100 };
        let mut look = || {
            let mut found = 0;
            take(&store, &chain, bounds, &mut searches, |_| {
                found += 1;
                true
            });
            found
        };
        assert_eq!([look(), look()], [REPORTS - 1, 0], "it is hidden");
        store.commit(&[shown]).unwrap();
        assert_eq!(look(), 1);
    }

    /// A node that is started again before each look comes to the attestations as fast as one that runs.
    #[test]
    fn a_search_goes_on_after_a_restart() {
        let (store, chain) = (strand(), chain());
        let bounds = LookBounds { rows: usize::MAX, attestations: 8, late: 2 };
        let mut found = BTreeSet::new();
        let mut costs = Vec::new();
        for _ in 0..6 {
            let mut searches = LateSearches::stored_in(&store);
            let about = searches.about(NODE);
            let cost = take(&store, &chain, bounds, about, |at| found.insert(at));
            searches.save(&store).unwrap();
            costs.push((cost.attestations, cost.late, found.len()));
        }
        let expected = [(8, 0, 0), (8, 0, 0), (8, 2, 2), (2, 2, 4), (0, 2, 6), (0, 0, 6)];
        assert_eq!(costs, expected);
        let bounds = LookBounds { rows: 1, attestations: 100, late: 100 };
        store.record_late_searches(&[], &[]).unwrap();
        let mut places = Vec::new();
        for _ in 0..REPORTS {
            let mut searches = LateSearches::stored_in(&store);
            take(&store, &chain, bounds, searches.about(NODE), |at| {
                places.push(at.sequence.0);
                true
            });
            searches.save(&store).unwrap();
        }
        let first = 2 * REPORTS + OTHERS + 1;
        assert_eq!(places, (first..first + REPORTS).rev().collect::<Vec<_>>(), "older ones too");
    }

    /// Many payers in the minutes of each report cost each look a bounded number of rows.
    #[test]
    fn a_look_ends_after_its_rows_and_the_next_one_goes_on_with_older_reports() {
        let (store, chain) = (strand(), chain());
        let mut searches = SearchesAbout::default();
        let bounds = LookBounds { rows: 1, attestations: 100, late: 100 };
        let mut found = Vec::new();
        for look in 1..=usize::try_from(REPORTS).unwrap() {
            let cost = take(&store, &chain, bounds, &mut searches, |at| {
                found.push(at.sequence.0);
                true
            });
            assert_eq!((cost.rows, found.len()), (1, look), "one payer and minute of one report");
        }
        let first = 2 * REPORTS + OTHERS + 1;
        assert_eq!(found, (first..first + REPORTS).rev().collect::<Vec<_>>());
        let cost = take(&store, &chain, bounds, &mut searches, |_| true);
        assert_eq!(cost.rows, 0, "evidence about all of them is recorded");
    }

    /// Many payers in the minutes of one report cost each look a bounded number of rows, too, and neither a report that
    /// comes meanwhile nor a restart makes a look begin anew.
    #[test]
    fn a_look_goes_on_within_the_minutes_of_a_report_until_all_are_read() {
        const PAYERS: u64 = 4;
        let store = strand();
        let others = (0..REPORTS).flat_map(|report| (1..PAYERS).map(move |it| (report, it)));
        let others: Vec<_> = (3 * REPORTS + OTHERS + 1..)
            .zip(others)
            .map(|(at, (report, it))| paid_by(20 + u8::try_from(it).unwrap(), at, minute(report)))
            .collect();
        store.commit(&others).unwrap();
        let bounds = LookBounds { rows: 3, attestations: 100, late: 100 };
        for is_restarted in [false, true] {
            store.record_late_searches(&[], &[]).unwrap();
            let mut searches = LateSearches::stored_in(&store);
            let mut look = |reports| {
                if is_restarted {
                    searches = LateSearches::stored_in(&store);
                }
                let (chain, mut found) = (chain_of(reports), 0);
                let cost = take(&store, &chain, bounds, searches.about(NODE), |_| {
                    found += 1;
                    true
                });
                searches.save(&store).unwrap();
                (cost.rows, found)
            };
            let mut looks = vec![look(REPORTS - 1)];
            looks.extend((0..8).map(|_| look(REPORTS)));
            let first_round = [(3, 0), (3, 1), (3, 1), (3, 1), (3, 0), (3, 1), (2, 1)];
            let expected = [&first_round[..], &[(3, 0), (1, 1)]].concat();
            assert_eq!(looks, expected, "restarted: {is_restarted}");
        }
    }

    /// Reports whose late envelopes prove nothing, or whose evidence cannot be recorded, hide no other ones.
    #[test]
    fn reports_are_judged_in_turns_and_again_while_no_evidence_is_recorded() {
        let (store, chain) = (strand(), chain());
        let mut searches = SearchesAbout::default();
        let bounds = LookBounds { rows: usize::MAX, attestations: 100, late: 2 };
        let mut found = Vec::new();
        for _ in 0..REPORTS {
            let not_recorded = |at: EnvelopeId| {
                found.push(at.sequence.0);
                false
            };
            take(&store, &chain, bounds, &mut searches, not_recorded);
        }
        let first = 2 * REPORTS + OTHERS + 1;
        let newest_first: Vec<_> = (first..first + REPORTS).rev().collect();
        assert_eq!(found, [&newest_first[..], &newest_first[..]].concat());
        found.clear();
        let bounds = LookBounds { rows: 3, ..bounds };
        let mut searches = SearchesAbout::default();
        let mut counts = Vec::new();
        for _ in 0..4 {
            let not_recorded = |at: EnvelopeId| {
                found.push(at.sequence.0);
                false
            };
            counts.push(take(&store, &chain, bounds, &mut searches, not_recorded).late);
        }
        assert_eq!((&found, counts), (&newest_first, vec![2, 1, 2, 1]), "three reports at a time");
        take(&store, &ChainReports::default(), bounds, &mut searches, |_| true);
        let forgotten = chain.about(NODE).all(|on_chain| {
            let id = on_chain.report().unwrap().id(domain());
            searches.get(id).is_none()
        });
        assert!(forgotten, "the chain has taken the reports back");
    }
}
