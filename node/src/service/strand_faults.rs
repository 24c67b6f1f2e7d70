//! Faults of the nodes whose strands a snapshot or another node's database holds: broken rules, times that go back and
//! wrong fees, which signed envelopes show by themselves. They become the same evidence as when a follower gets the
//! envelopes from peers.
//!
//! A time in the future is no such fault. Only a clock that is right at receipt shows it, these envelopes were
//! received long ago, and the clock of a new machine may be far behind, which would accuse every honest node.
//!
//! The maker of a snapshot or a database cannot make another node guilty: each envelope is signed by the originator of
//! its strand. One that leaves envelopes out hides a congestion fee, and makes none wrong: nothing is proven without
//! all envelopes of the five minutes.

use hawser_engine::fee_watch::{FeeCheck, FeeWatch, load_at};
use hawser_engine::misbehavior::{FeeVerdict, StrandTimes, is_evidence, judge_fees};
use hawser_engine::overcharge::overcharge;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId};
use hawser_rules::RateTable;
use hawser_storage::{
    Change, CommitError, Evidence, LogEntry, Misbehavior, ReadError, Snapshot, Store, Validity,
};

/// The length of the envelopes of one write of evidence, in bytes. A guess: a write of some milliseconds.
const PART_BYTES: usize = 4 * 1024 * 1024;
/// Congestion fees of one strand that are compared with the envelopes before them. A guess, and as many as wait at a
/// follower: each may take reads of a thousand envelopes, and a strand has half a million minutes in a year.
const OVERCHARGES_MAX: usize = 1024;

/// The log cannot be read or written while faults are recorded.
#[derive(Debug, thiserror::Error)]
pub(super) enum StrandFaultsError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Evidence or changes cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Looks for faults in the envelopes of one strand, in their order.
#[derive(Debug)]
pub(super) struct StrandFaults {
    times: StrandTimes,
    fees: FeeWatch,
    rates: RateTable,
    /// Congestion fees that may still be compared with the envelopes before them.
    overcharges_left: usize,
    /// The present time, unix nanoseconds. The evidence is dated with it, and nothing is judged by it.
    now_ns: u64,
}

impl StrandFaults {
    /// Continues after the last envelope of a strand in the log. `now_unix_s` is the present time.
    ///
    /// # Errors
    /// Fails when the log cannot be read.
    pub(super) fn after_log(
        store: &Store,
        originator: OriginatorId,
        rates: RateTable,
        now_unix_s: u64,
    ) -> Result<Self, StrandFaultsError> {
        let end = EnvelopeId::new(originator, store.snapshot().head(originator)?);
        Self::after(store, end, rates, now_unix_s)
    }

    /// Continues after a place of a strand in the log. `now_unix_s` is the present time.
    ///
    /// # Errors
    /// Fails when the log cannot be read.
    pub(super) fn after(
        store: &Store,
        end: EnvelopeId,
        rates: RateTable,
        now_unix_s: u64,
    ) -> Result<Self, StrandFaultsError> {
        let snapshot = store.snapshot();
        let last = snapshot.last_held_through(end)?;
        let last = last.and_then(|(id, bytes)| Some((OriginatorEnvelope::stated_ns(&bytes)?, id)));
        let end_ns = last.filter(|(_, id)| *id == end).map(|(ns, _)| ns);
        let (times, fees) =
            (StrandTimes::after(last), FeeWatch::new(load_at(&snapshot, end, end_ns)));
        let now_ns = now_unix_s.saturating_mul(1_000_000_000);
        Ok(Self { times, fees, rates, overcharges_left: OVERCHARGES_MAX, now_ns })
    }

    /// Records the faults that changes show, and then commits the changes. So a crash in between loses none.
    ///
    /// # Errors
    /// Fails when the log cannot be read or written.
    pub(super) fn commit(
        &mut self,
        store: &Store,
        changes: &[Change],
    ) -> Result<(), StrandFaultsError> {
        self.record(store, changes)?;
        Ok(store.commit(changes)?)
    }

    /// Records the faults that the next changes of the strand show.
    ///
    /// # Errors
    /// Fails when the log cannot be read, or evidence cannot be written.
    pub(super) fn record(
        &mut self,
        store: &Store,
        changes: &[Change],
    ) -> Result<(), StrandFaultsError> {
        let mut part = EvidencePart::default();
        let snapshot = store.snapshot();
        for change in changes {
            let Change::Append(entry) = change else {
                self.fees.lose();
                continue;
            };
            let LogEntry { id, bytes, validity, facts } = entry;
            let of_facts = facts.as_ref().map(|facts| facts.originator_ns);
            let ns = of_facts.or_else(|| OriginatorEnvelope::stated_ns(bytes));
            part.pieces.extend(self.wrong_fee(&snapshot, changes, entry, ns)?);
            let mut found = |misbehavior, envelopes| {
                part.pieces.push(Evidence { misbehavior, at: *id, from: None, envelopes });
            };
            if let Validity::Invalid(rule) = validity
                && is_evidence(*rule, bytes)
            {
                found(Misbehavior::Invalid(rule.0), vec![bytes.clone()]);
            }
            if let Some(ns) = ns
                && let Some(earlier) = self.times.step_back(*id, ns)
                && let Some(before) = envelope_at(&snapshot, changes, earlier)?
            {
                found(Misbehavior::TimeBack, vec![before, bytes.clone()]);
            }
            if part.len_bytes() >= PART_BYTES {
                part.record(store, self.now_ns)?;
            }
        }
        part.record(store, self.now_ns)
    }

    /// Returns evidence if no rate in force explains the fees of the next envelope, or if the envelopes before it do
    /// not give its congestion fee. `ns` is the time that it states.
    fn wrong_fee(
        &mut self,
        snapshot: &Snapshot<'_>,
        changes: &[Change],
        entry: &LogEntry,
        ns: Option<i64>,
    ) -> Result<Option<Evidence>, ReadError> {
        let LogEntry { id, bytes, .. } = entry;
        let is_wrong = match self.fees.check(entry, ns, &self.rates) {
            FeeCheck::Explained => return Ok(None),
            FeeCheck::Wrong => true,
            FeeCheck::Doubted { most } => match judge_fees(bytes, &self.rates) {
                FeeVerdict::Wrong => true,
                // The list ends before the envelope, whose time may be wrong itself.
                FeeVerdict::Unknown => false,
                FeeVerdict::Explained if self.overcharges_left == 0 => false,
                FeeVerdict::Explained => {
                    self.overcharges_left -= 1;
                    let held = |earlier| envelope_at(snapshot, changes, earlier);
                    return overcharge(held, *id, bytes, most, &self.rates);
                }
            },
        };
        let (misbehavior, envelopes) = (Misbehavior::Fee, vec![bytes.clone()]);
        Ok(is_wrong.then_some(Evidence { misbehavior, at: *id, from: None, envelopes }))
    }
}

/// Evidence that is recorded in one write.
#[derive(Default)]
struct EvidencePart {
    pieces: Vec<Evidence>,
}

impl EvidencePart {
    fn len_bytes(&self) -> usize {
        self.pieces.iter().flat_map(|piece| &piece.envelopes).map(Bytes::len).sum()
    }

    /// Records the evidence, and empties the part.
    fn record(&mut self, store: &Store, now_ns: u64) -> Result<(), StrandFaultsError> {
        if !self.pieces.is_empty() {
            store.record_evidence(now_ns, &self.pieces)?;
            self.pieces.clear();
        }
        Ok(())
    }
}

/// Returns the envelope of a place from changes of its strand, which are in the order of their places, or else from the
/// log.
fn envelope_at(
    snapshot: &Snapshot<'_>,
    changes: &[Change],
    at: EnvelopeId,
) -> Result<Option<Bytes>, ReadError> {
    let behind = changes.partition_point(|change| change.start().sequence <= at.sequence);
    match behind.checked_sub(1).map(|last| &changes[last]) {
        Some(Change::Append(entry)) if entry.id == at => Ok(Some(entry.bytes.clone())),
        Some(_) | None => snapshot.get(at),
    }
}

#[cfg(test)]
mod tests {
    use hawser_engine::replication::EnvelopeVerifier;
    use hawser_proto::SequenceId;
    use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_rules::congestion::congestion_units;
    use hawser_rules::fees::congestion_fee;
    use hawser_rules::{Absences, PicoDollarPrice, PicoDollarsPerByteDay, Rate};
    use hawser_storage::{InvalidRule, SkipReason};

    use super::*;
    use crate::service::testing::{evidence, key, open, places_of};

    const OWN: OriginatorId = OriginatorId(400);
    const NODE: OriginatorId = OriginatorId(300);
    const SECOND_NS: i64 = 1_000_000_000;

    /// The price of an envelope.
    const FEE: u64 = 7;
    const DAYS: u8 = 60;
    const DAY_S: u64 = 86_400;
    /// An application message in a group.
    const CLIENT: &str = "0a13121100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa12250a230a210001000210\
                          aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000000000000101000000";

    /// Returns an envelope that the node has signed, dated so many seconds after 1970, with a base fee and a
    /// congestion fee.
    fn signed(
        sequence: u64,
        second: u32,
        (fee, congestion): (u64, u64),
        payer_bytes: Bytes,
    ) -> Bytes {
        let expiry_s = u64::from(second) + u64::from(DAYS) * DAY_S;
        expiring(sequence, second, (fee, congestion), payer_bytes, expiry_s)
    }

    fn expiring(
        sequence: u64,
        second: u32,
        (fee, congestion): (u64, u64),
        payer_bytes: Bytes,
        expiry_unixtime: u64,
    ) -> Bytes {
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: NODE.0,
            originator_sequence_id: sequence,
            originator_ns: i64::from(second) * SECOND_NS,
            payer_envelope_bytes: payer_bytes,
            base_fee_picodollars: fee,
            congestion_fee_picodollars: congestion,
            expiry_unixtime,
        };
        UnsealedEnvelope::new(&statement).seal(&key(NODE.0))
    }

    fn unpaid(sequence: u64, second: u32) -> Bytes {
        signed(sequence, second, (FEE, 0), Bytes::from_static(b"no payer's envelope"))
    }

    fn paid(sequence: u64, second: u32, fee: u64) -> Bytes {
        congested(sequence, second, (fee, 0))
    }

    fn congested(sequence: u64, second: u32, fees: (u64, u64)) -> Bytes {
        of_client(sequence, second, fees, hex::decode(CLIENT).unwrap().into())
    }

    fn of_client(sequence: u64, second: u32, fees: (u64, u64), client: Bytes) -> Bytes {
        signed(sequence, second, fees, payer_bytes_of(client))
    }

    fn payer_bytes_of(client: Bytes) -> Bytes {
        let payer = PayerEnvelope::sign(client.clone(), NODE, DAYS.into(), &key(200));
        let signature = payer.payer_signature.unwrap().bytes;
        let head = [0x0a, u8::try_from(client.len()).unwrap()];
        let tail = [0x18, 0xac, 0x02, 0x20, DAYS]; // for node 300
        let parts: [&[u8]; 5] = [&head, &client, &[0x12, 67, 0x0a, 65], &signature, &tail];
        parts.concat().into()
    }

    /// Returns the verifier of the node's envelopes.
    fn verifier() -> EnvelopeVerifier {
        let (public_key, absences) = (key(NODE.0).public_key(), Absences::NONE);
        EnvelopeVerifier { originator: NODE, key: public_key, own: OWN, absences }
    }

    /// A rate whose congestion begins above so many envelopes of a minute. The full congestion fee is 700.
    fn rate(target_rate_per_minute: u64) -> Rate {
        let (start_unix_s, storage_fee) = (0, 0);
        Rate {
            start_unix_s,
            message_fee: PicoDollarPrice(FEE),
            storage_fee: PicoDollarsPerByteDay(storage_fee),
            congestion_fee: PicoDollarPrice(7),
            target_rate_per_minute,
        }
    }

    fn changes_of(envelopes: &[Bytes]) -> Vec<Change> {
        let entries = verifier().check(envelopes.to_vec()).into_iter();
        entries.map(|entry| Change::Append(entry.unwrap())).collect()
    }

    /// Takes envelopes over on a machine whose clock shows 1000 s after 1970. There is no congestion.
    fn take(store: &Store, envelopes: &[Bytes]) {
        take_at(store, rate(0), &changes_of(envelopes));
    }

    fn take_at(store: &Store, rate: Rate, changes: &[Change]) {
        let rates = RateTable::new(vec![rate], None).unwrap();
        let mut faults = StrandFaults::after_log(store, NODE, rates, 1000).unwrap();
        faults.commit(store, changes).unwrap();
    }

    /// Any payer can write such an envelope, and a node of other software takes it.
    #[test]
    fn an_envelope_that_other_software_decodes_is_marked_and_is_no_evidence() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, "new", OWN.0);
        // The payload's field once more, as a number.
        let client = [hex::decode(CLIENT).unwrap(), vec![0x10, 5]].concat();
        let changes = changes_of(&[of_client(1, 500, (FEE, 0), client.into()), unpaid(2, 501)]);
        for change in &changes {
            let Change::Append(entry) = change else { panic!("an envelope each") };
            assert_eq!(entry.validity, Validity::Invalid(InvalidRule(1)));
        }
        take_at(&store, rate(0), &changes);
        assert_eq!(places_of(&evidence(&store), Misbehavior::Invalid(1)), [2]);
    }

    #[test]
    fn broken_rules_wrong_times_and_wrong_fees_in_a_strand_that_is_taken_over_are_evidence() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, "new", OWN.0);
        let first = [unpaid(1, 500), unpaid(2, 400)];
        take(&store, &first);
        // A later call continues with the times of the strand.
        let second = [unpaid(3, 300), unpaid(4, 1900)];
        take(&store, &second);
        take(&store, &[paid(5, 1901, FEE), paid(6, 1902, FEE - 1)]);
        let all = evidence(&store);
        assert_eq!(places_of(&all, Misbehavior::Invalid(1)), [1, 2, 3, 4]);
        assert_eq!(places_of(&all, Misbehavior::TimeBack), [2, 3]);
        assert_eq!(places_of(&all, Misbehavior::Fee), [6]);
        assert_eq!(all.len(), 7);
        let back = all.iter().rfind(|it| it.evidence.misbehavior == Misbehavior::TimeBack).unwrap();
        assert_eq!(back.evidence.envelopes, [first[1].clone(), second[0].clone()]);
        assert_eq!(store.snapshot().head(NODE).unwrap(), SequenceId(6));
    }

    /// The node may have signed the envelope days after it dated it, which excuses no fee.
    #[test]
    fn a_late_expiry_is_no_evidence_and_excuses_no_wrong_fee() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, "new", OWN.0);
        let of_days = |sequence: u64, fees, days: u64| {
            let payer_bytes = payer_bytes_of(hex::decode(CLIENT).unwrap().into());
            expiring(sequence, 500, fees, payer_bytes, 500 + days * DAY_S)
        };
        let all = [
            of_days(1, (FEE, 0), 99),
            of_days(2, (FEE - 1, 0), 99),
            of_days(3, (FEE - 1, 0), 59),
            of_days(4, (FEE, 700), 99),
        ];
        let changes = changes_of(&all);
        for change in &changes {
            let Change::Append(entry) = change else { panic!("an envelope each") };
            assert_eq!(entry.validity, Validity::Invalid(InvalidRule(9)));
        }
        take_at(&store, rate(100), &changes);
        let found = evidence(&store);
        assert_eq!(places_of(&found, Misbehavior::Invalid(9)), [3]);
        assert_eq!(places_of(&found, Misbehavior::Fee), [2]);
        assert_eq!(places_of(&found, Misbehavior::Overcharge), [4]);
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_clock_that_is_far_behind_accuses_no_honest_node() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, "new", OWN.0);
        let years = 1_000_000_000;
        take(&store, &[paid(1, years, FEE), paid(2, years + 1, FEE)]);
        assert_eq!(evidence(&store), []);
        assert_eq!(store.snapshot().head(NODE).unwrap(), SequenceId(2));
    }

    #[test]
    fn congestion_that_a_strand_which_is_taken_over_does_not_have_is_proven_by_its_envelopes() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, "new", OWN.0);
        let first = [paid(1, 500, FEE), paid(2, 501, FEE), congested(3, 502, (FEE, 700))];
        take_at(&store, rate(100), &changes_of(&first));
        // A later call continues with the load of the strand.
        let later = [congested(4, 5000, (FEE, 700)), congested(5, 5001, (FEE, 700))];
        take_at(&store, rate(100), &changes_of(&later));
        let all = evidence(&store);
        assert_eq!(places_of(&all, Misbehavior::Overcharge), [3, 4], "one in a minute");
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].evidence.envelopes, first);
        assert_eq!(all[1].evidence.envelopes, [first[2].clone(), later[0].clone()]);
    }

    #[test]
    fn due_congestion_and_congestion_behind_a_gap_accuse_no_node() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, "due", OWN.0);
        let rate_of_two = rate(2);
        let due = |sequence: u64| {
            let units = congestion_units([sequence - 1, 0, 0, 0, 0], 2);
            congested(sequence, 500, (FEE, congestion_fee(&rate_of_two, units).unwrap().0))
        };
        for part in [1..=6, 7..=12] {
            take_at(&store, rate(2), &changes_of(&part.map(due).collect::<Vec<_>>()));
        }
        assert_eq!(evidence(&store), []);

        let store = open(&folder, "gap", OWN.0);
        let (from, through) = (SequenceId(1), SequenceId(3));
        let skip = Change::Skip { originator: NODE, from, through, reason: SkipReason::Missing };
        let behind = changes_of(&[congested(4, 500, (FEE, 700)), paid(5, 501, FEE)]);
        take_at(&store, rate(100), &[vec![skip], behind].concat());
        assert_eq!(evidence(&store), []);
    }

    #[test]
    fn a_strand_that_overcharges_all_the_time_costs_bounded_reads() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, "new", OWN.0);
        let rates = RateTable::new(vec![rate(100)], None).unwrap();
        let mut faults = StrandFaults::after_log(&store, NODE, rates, 1000).unwrap();
        faults.overcharges_left = 1;
        let all = [congested(1, 500, (FEE, 700)), congested(2, 5000, (FEE, 700))];
        faults.commit(&store, &changes_of(&all)).unwrap();
        assert_eq!(places_of(&evidence(&store), Misbehavior::Overcharge), [1]);
    }
}
