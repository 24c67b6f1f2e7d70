//! Faults of the nodes whose strands a snapshot or another node's database holds: broken rules, times that go back and
//! wrong fees, which signed envelopes show by themselves. They become the same evidence as when a follower gets the
//! envelopes from peers.
//!
//! A time in the future is no such fault. Only a clock that is right at receipt shows it, these envelopes were
//! received long ago, and the clock of a new machine may be far behind, which would accuse every honest node.
//!
//! The maker of a snapshot or a database cannot make another node guilty: each envelope is signed by the originator of
//! its strand.

use hawser_engine::misbehavior::{FeeVerdict, StrandTimes, judge_fees, stated_ns};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId};
use hawser_rules::{RateTable, RuleNumber};
use hawser_storage::{
    Change, Charge, CommitError, Evidence, LogEntry, Misbehavior, ReadError, Store, Validity,
};

/// The length of the envelopes of one write of evidence, in bytes. A guess: a write of some milliseconds.
const PART_BYTES: usize = 4 * 1024 * 1024;

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
    rates: RateTable,
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
        let last = store.snapshot().last_held(originator)?;
        let last = last.and_then(|(id, bytes)| Some((stated_ns(&bytes)?, id)));
        let now_ns = now_unix_s.saturating_mul(1_000_000_000);
        Ok(Self { times: StrandTimes::after(last), rates, now_ns })
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
        let mut part = EvidencePart::default();
        for change in changes {
            let Change::Append(entry) = change else { continue };
            let LogEntry { id, bytes, validity, facts } = entry;
            let has_wrong_fee = self.has_wrong_fee(entry);
            let mut found = |misbehavior, envelopes| {
                part.pieces.push(Evidence { misbehavior, at: *id, from: None, envelopes });
            };
            if let Validity::Invalid(rule) = validity
                && rule.0 != RuleNumber::ABSENT.0
            {
                found(Misbehavior::Invalid(rule.0), vec![bytes.clone()]);
            }
            if has_wrong_fee {
                found(Misbehavior::Fee, vec![bytes.clone()]);
            }
            let stated = facts.as_ref().map(|facts| facts.originator_ns);
            let Some(ns) = stated.or_else(|| stated_ns(bytes)) else { continue };
            if let Some(earlier) = self.times.step_back(*id, ns)
                && let Some(before) = envelope_at(store, changes, earlier)?
            {
                found(Misbehavior::TimeBack, vec![before, bytes.clone()]);
            }
            if part.len_bytes() >= PART_BYTES {
                part.record(store, self.now_ns)?;
            }
        }
        part.record(store, self.now_ns)?;
        Ok(store.commit(changes)?)
    }

    /// Returns true if no rate in force explains the fees of a valid envelope. A congestion fee that a rate allows is
    /// not judged by the envelopes before it.
    fn has_wrong_fee(&self, entry: &LogEntry) -> bool {
        let Some(facts) = entry.facts.as_ref().filter(|_| entry.validity == Validity::Valid) else {
            return false;
        };
        let explains = |Charge { size_bytes, retention_days, stated_picodollars, .. }: Charge| {
            let (ns, sum) = (facts.originator_ns, stated_picodollars);
            self.rates.explains_sum(ns, size_bytes, retention_days, sum)
        };
        let is_doubtful = match facts.charge {
            Some(charge) => !explains(charge),
            // Free, so it must not state any fee.
            None => entry.id.originator.is_node(),
        };
        is_doubtful && judge_fees(&entry.bytes, &self.rates) == FeeVerdict::Wrong
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

/// Returns the envelope of a place from changes, or else from the log.
fn envelope_at(
    store: &Store,
    changes: &[Change],
    at: EnvelopeId,
) -> Result<Option<Bytes>, StrandFaultsError> {
    let appended = changes.iter().find_map(|change| match change {
        Change::Append(entry) if entry.id == at => Some(entry.bytes.clone()),
        _ => None,
    });
    match appended {
        Some(bytes) => Ok(Some(bytes)),
        None => Ok(store.snapshot().get(at)?),
    }
}

#[cfg(test)]
mod tests {
    use hawser_engine::replication::EnvelopeVerifier;
    use hawser_proto::SequenceId;
    use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_rules::{Absences, Rate};

    use super::*;
    use crate::service::testing::{evidence, key, open, places_of};

    const OWN: OriginatorId = OriginatorId(400);
    const NODE: OriginatorId = OriginatorId(300);
    const SECOND_NS: i64 = 1_000_000_000;

    /// The price of an envelope.
    const FEE: u64 = 7;
    const DAYS: u8 = 60;
    /// An application message in a group.
    const CLIENT: &str = "0a13121100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa12250a230a210001000210\
                          aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000000000000101000000";

    /// Returns an envelope that the node has signed, dated so many seconds after 1970.
    fn signed(sequence: u64, second: u32, fee: u64, payer_bytes: Bytes) -> Bytes {
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: NODE.0,
            originator_sequence_id: sequence,
            originator_ns: i64::from(second) * SECOND_NS,
            payer_envelope_bytes: payer_bytes,
            base_fee_picodollars: fee,
            congestion_fee_picodollars: 0,
            expiry_unixtime: u64::from(second) + u64::from(DAYS) * 86_400,
        };
        UnsealedEnvelope::new(&statement).seal(&key(NODE.0))
    }

    fn unpaid(sequence: u64, second: u32) -> Bytes {
        signed(sequence, second, FEE, Bytes::from_static(b"no payer's envelope"))
    }

    fn paid(sequence: u64, second: u32, fee: u64) -> Bytes {
        let client = Bytes::from(hex::decode(CLIENT).unwrap());
        let payer = PayerEnvelope::sign(client.clone(), NODE, DAYS.into(), &key(200));
        let signature = payer.payer_signature.unwrap().bytes;
        let head = [0x0a, u8::try_from(client.len()).unwrap()];
        let tail = [0x18, 0xac, 0x02, 0x20, DAYS]; // for node 300
        let parts: [&[u8]; 5] = [&head, &client, &[0x12, 67, 0x0a, 65], &signature, &tail];
        signed(sequence, second, fee, parts.concat().into())
    }

    /// Returns the verifier of the node's envelopes.
    fn verifier() -> EnvelopeVerifier {
        let (public_key, absences) = (key(NODE.0).public_key(), Absences::NONE);
        EnvelopeVerifier { originator: NODE, key: public_key, own: OWN, absences }
    }

    /// Takes envelopes over on a machine whose clock shows 1000 s after 1970.
    fn take(store: &Store, envelopes: &[Bytes]) {
        let rate = Rate {
            start_unix_s: 0,
            message_fee: FEE,
            storage_fee: 0,
            congestion_fee: 0,
            target_rate_per_minute: 0,
        };
        let rates = RateTable::new(vec![rate], None).unwrap();
        let mut faults = StrandFaults::after_log(store, NODE, rates, 1000).unwrap();
        let entries = verifier().check(envelopes.to_vec()).into_iter();
        let changes: Vec<_> = entries.map(|entry| Change::Append(entry.unwrap())).collect();
        faults.commit(store, &changes).unwrap();
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

    #[test]
    fn a_clock_that_is_far_behind_accuses_no_honest_node() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, "new", OWN.0);
        let years = 1_000_000_000;
        take(&store, &[paid(1, years, FEE), paid(2, years + 1, FEE)]);
        assert_eq!(evidence(&store), []);
        assert_eq!(store.snapshot().head(NODE).unwrap(), SequenceId(2));
    }
}
