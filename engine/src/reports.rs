//! Reports of misbehaviour: the ones that this node makes of its evidence, the ones that it accepts from callers,
//! and the bound on the cost of checking them.

mod between;
mod progress;

use std::collections::BTreeSet;

use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes::originator_envelope::Proof as WireProof;
use hawser_proto::sign::keccak256;
use hawser_proto::{Bytes, EnvelopeId, TransactionHash};
use hawser_rules::misbehavior::report::{is_liveness, own_safety_report};
use hawser_rules::misbehavior::{
    ChainRecord, EventAnswer, Judgement, MisbehaviorKind, MisbehaviorVerdict, PlaceAnswer,
    ReportError, StatementDifference,
};
use hawser_storage::{ReportFact, Snapshot, StoredEvidence};

pub(crate) use between::StrandPlacesBetween;
pub(crate) use progress::{EvidenceProgress, WaitingEvidence};

pub use hawser_rules::misbehavior::{Fact, Report};
pub use hawser_storage::{ReportClass, StoredReport};

/// Lead of a reporter's time over this node's clock up to which a report is taken. Specified
/// (`docs/protocol/misbehavior.md`).
const LEAD_NS_MAX: u64 = 5 * 60 * 1_000_000_000;
/// Age up to which a report is taken. Specified (same page): 30 days.
const AGE_NS_MAX: u64 = 30 * 24 * 60 * 60 * 1_000_000_000;

/// The reason a submitted report is refused before its evidence is examined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportSubmissionError {
    /// The report is malformed or too large.
    #[error("invalid misbehaviour report: {0}")]
    Form(#[from] ReportError),
    /// A submitter set `submitted_by_node`, which only a node may set, in its own reports.
    #[error("invalid misbehaviour report: only a node may set submitted_by_node")]
    ByNode,
    /// The report's time is more than five minutes ahead.
    #[error("invalid misbehaviour report: its time is more than 5 minutes in the future")]
    Future,
    /// The report's time is more than 30 days ago.
    #[error("invalid misbehaviour report: its time is more than 30 days ago")]
    Old,
}

/// Checks a report that a caller submits at `now_ns`, before its evidence is examined.
///
/// # Errors
/// [`ReportSubmissionError`] for the first fault found.
pub(crate) fn check_submission(report: &Report, now_ns: u64) -> Result<(), ReportSubmissionError> {
    let time_ns = report.reporter_time_ns();
    if report.is_by_node() {
        Err(ReportSubmissionError::ByNode)
    } else if time_ns > now_ns.saturating_add(LEAD_NS_MAX) {
        Err(ReportSubmissionError::Future)
    } else if time_ns.saturating_add(AGE_NS_MAX) < now_ns {
        Err(ReportSubmissionError::Old)
    } else {
        Ok(())
    }
}

/// Makes the report of evidence that this node has recorded.
///
/// # Errors
/// If the evidence is too large for a report.
pub fn report_of(stored: &StoredEvidence) -> Result<Report, ReportError> {
    let evidence = &stored.evidence;
    let kind = MisbehaviorKind::try_from(i32::from(evidence.misbehavior.kind()))
        .unwrap_or(MisbehaviorKind::Unspecified);
    let accused = evidence.at.originator;
    own_safety_report(stored.at.server_time_ns, accused, kind, &evidence.envelopes)
}

/// Returns the fact that a judged report is about, under which it is kept once; `None` for a refuted one.
///
/// A proven fault is identified by its place, and a proven step back in time by its size and the places between which
/// it lies: one step is shown by each pair of an envelope before it and one behind it. Without the size the accused
/// could show a small step of its own between any two places, and so keep out larger ones. Any other fault is also
/// identified by its evidence: otherwise a first report with worthless evidence would keep out better ones.
#[must_use]
pub fn fact_of(report: &Report, bytes: &[u8], judgement: &Judgement) -> Option<ReportFact> {
    let class = match judgement.verdict {
        MisbehaviorVerdict::Refuted => return None,
        MisbehaviorVerdict::Proven
            if judgement.difference == Some(StatementDifference::Content) =>
        {
            ReportClass::Equivocation
        }
        MisbehaviorVerdict::Proven => ReportClass::Proven,
        MisbehaviorVerdict::Claim | MisbehaviorVerdict::Inconclusive if !report.is_by_node() => {
            ReportClass::Foreign
        }
        MisbehaviorVerdict::Claim | MisbehaviorVerdict::Inconclusive
            if is_liveness(report.kind()) =>
        {
            ReportClass::OwnLiveness
        }
        MisbehaviorVerdict::Claim | MisbehaviorVerdict::Inconclusive => ReportClass::OwnClaim,
    };
    let mut digest = [0; 16];
    if !class.is_proven() {
        digest.copy_from_slice(&evidence_digest(report, bytes)[..16]);
    }
    let fact = ReportFact {
        accused: report.accused(),
        class,
        kind: u8::try_from(i32::from(report.kind())).unwrap_or(u8::MAX),
        detail: judgement.detail(),
        sequence: judgement.place,
        digest,
    };
    let step = judgement.step_behind().filter(|_| class.is_proven());
    Some(step.map_or(fact, |earlier| fact.behind(earlier)))
}

/// Returns a digest of the envelopes, independent of their order and repetitions; for a failed request, a digest of
/// the whole report, since each failure counts.
///
/// Signatures do not count, because one statement has many. The transaction of a chain's envelope does: only with it
/// can the envelope be compared with the chain, and any reporter can put another one beside the statement. Each
/// envelope has a digest of its own, so the bytes of one are never those of two others.
fn evidence_digest(report: &Report, bytes: &[u8]) -> [u8; 32] {
    let envelopes: BTreeSet<[u8; 32]> = report
        .envelopes()
        .iter()
        .map(|it| {
            let statement = keccak256(&[&it.unsigned_originator_envelope[..]]).0;
            keccak256(&[&statement[..], transaction_of(it.proof.as_ref())]).0
        })
        .collect();
    let parts: Vec<&[u8]> = envelopes.iter().map(|it| &it[..]).collect();
    if parts.is_empty() { keccak256(&[bytes]).0 } else { keccak256(&parts).0 }
}

/// Returns the transaction that the proof of an envelope names; nothing for a signature.
fn transaction_of(proof: Option<&WireProof>) -> &[u8] {
    match proof {
        Some(WireProof::BlockchainProof(proof)) => &proof.transaction_hash[..],
        Some(WireProof::OriginatorSignature(_)) | None => &[],
    }
}

/// The result of submitting a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportSubmission {
    /// The report is kept now.
    Stored,
    /// A report of the same fact is kept already, or there is no room for more proofs.
    Known,
    /// The evidence does not support it, for this reason.
    Refuted(Fact),
}

/// The chains as this node's log holds them. Every node reads the chains itself, so its log is no peer's word.
pub struct LoggedChain<'a>(pub &'a Snapshot<'a>);

impl LoggedChain<'_> {
    fn held(&self, id: EnvelopeId) -> Option<OriginatorEnvelope> {
        if id.originator.is_signer() {
            return None;
        }
        // An unreadable row counts as an absent one: it cannot be evidence.
        OriginatorEnvelope::parse(self.0.get(id).ok().flatten()?).ok()
    }
}

impl ChainRecord for LoggedChain<'_> {
    fn event(&self, id: EnvelopeId, transaction: TransactionHash) -> EventAnswer {
        let Some(held) = self.held(id) else { return EventAnswer::Unknown };
        match held.proof() {
            Proof::Transaction(hash) if hash == transaction.0 => {
                let client = held.unsigned().payer().client();
                let identifier = Bytes::copy_from_slice(client.topic().identifier());
                EventAnswer::Event { identifier, client: client.as_bytes().clone() }
            }
            // The place has its event in another transaction.
            Proof::Transaction(_) => EventAnswer::Absent,
            Proof::Signature(_) => EventAnswer::Unknown,
        }
    }

    fn place(&self, id: EnvelopeId) -> PlaceAnswer {
        // A chain envelope has the time of its block.
        let time_ns = |held: OriginatorEnvelope| held.unsigned().originator_ns();
        if let Some(block_ns) = self.held(id).map(time_ns) {
            return PlaceAnswer::At { block_ns };
        }
        // Contracts number their events, and times of blocks never descend: the block of a place beyond the head is not
        // older than that of the head.
        let head = self.0.head(id.originator).ok().filter(|head| id.sequence > *head);
        let newest = head.and_then(|head| self.held(EnvelopeId::new(id.originator, head)));
        newest
            .map(time_ns)
            .map_or(PlaceAnswer::Unknown, |final_ns| PlaceAnswer::NotYet { final_ns })
    }

    fn anchor_ns(&self, _: EnvelopeId) -> Option<i64> {
        None
    }
}

/// The time that checking reports of callers may take: a twentieth of one core. A plain value.
///
/// Work is charged afterwards: while the debt exceeds a burst, no check begins.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckBudget {
    owed_ns: u64,
    at_ns: u64,
}

/// Part of a core that checks may take. Specified (`docs/protocol/misbehavior.md`): 5 %.
const SHARE: u64 = 20;
/// Work that may be owed. Specified (same page). A guess: some six ordinary reports at once.
const BURST_NS: u64 = 25_000_000;
/// Work for one envelope: the signatures of its originator and of its payer, and decoding it. A guess, above
/// what recoveries take in `docs/performance.md`.
const ENVELOPE_NS: u64 = 100_000;
/// Work for a byte: it is decoded, hashed and stored. A guess.
const BYTE_NS: u64 = 10;
/// Work for a report beside that: mostly its write, for which publishers wait too. Specified
/// (`docs/protocol/misbehavior.md`). A guess: the sync of a usual disk, which a single report has to itself. With a
/// quarter of it, strangers could have forty claims judged and written in a second.
const REPORT_NS: u64 = 4_000_000;

impl CheckBudget {
    /// Returns the time in nanoseconds after which another check may begin at `now_ns`; 0 if it may now.
    pub(crate) fn wait_ns(&mut self, now_ns: u64) -> u64 {
        let passed_ns = now_ns.saturating_sub(self.at_ns);
        self.owed_ns = self.owed_ns.saturating_sub(passed_ns / SHARE);
        self.at_ns = self.at_ns.max(now_ns);
        self.owed_ns.saturating_sub(BURST_NS).saturating_mul(SHARE)
    }

    /// Takes the check of a report with this many envelopes and bytes.
    pub fn take(&mut self, envelopes: usize, len_bytes: usize) {
        let envelopes_ns = (envelopes as u64).saturating_mul(ENVELOPE_NS);
        let bytes_ns = (len_bytes as u64).saturating_mul(BYTE_NS);
        let work_ns = REPORT_NS.saturating_add(envelopes_ns).saturating_add(bytes_ns);
        self.owed_ns = self.owed_ns.saturating_add(work_ns);
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
    use hawser_proto::pb::xmtp::xmtpv4::{envelopes as wire, message_api as pb};
    use hawser_proto::{Cursor, OriginatorId, SecretKey, SequenceId, Topic, TopicKind};
    use hawser_rules::NodeRecord;
    use hawser_rules::misbehavior::{NoChain, ReportCase, verify};
    use prost::Message as _;

    use super::*;

    const HOUR_NS: u64 = 60 * 60 * 1_000_000_000;
    const NOW_NS: u64 = 500_000 * HOUR_NS;

    fn submitted(reporter_time_ns: u64, submitted_by_node: bool) -> Report {
        let request = pb::liveness_failure::Request::Query(pb::QueryEnvelopesRequest::default());
        let failure = pb::LivenessFailure { response_time_ns: 1, request: Some(request) };
        Report::of_message(pb::UnsignedMisbehaviorReport {
            reporter_time_ns,
            misbehaving_node_id: 100,
            r#type: 1,
            failure: Some(pb::unsigned_misbehavior_report::Failure::Liveness(failure)),
            submitted_by_node,
        })
        .unwrap()
    }

    #[test]
    fn a_submission_is_of_its_time_and_not_in_a_nodes_name() {
        let check = |time_ns, by_node| check_submission(&submitted(time_ns, by_node), NOW_NS);
        assert_eq!(check(NOW_NS, false), Ok(()));
        assert_eq!(check(NOW_NS, true), Err(ReportSubmissionError::ByNode));
        assert_eq!(check(NOW_NS + LEAD_NS_MAX, false), Ok(()));
        assert_eq!(check(NOW_NS + LEAD_NS_MAX + 1, false), Err(ReportSubmissionError::Future));
        assert_eq!(check(u64::MAX, false), Err(ReportSubmissionError::Future));
        assert_eq!(check(NOW_NS - AGE_NS_MAX, false), Ok(()));
        assert_eq!(check(NOW_NS - AGE_NS_MAX - 1, false), Err(ReportSubmissionError::Old));
    }

    fn key(node: u32) -> SecretKey {
        SecretKey::from_bytes(&[u8::try_from(node / 100).unwrap(); 32]).unwrap()
    }

    /// An envelope of a node at a place, which depends on another place.
    fn dependent((node, sequence): (u32, u64), needed: (u32, u64)) -> Bytes {
        let topic = Topic::new(TopicKind::GroupMessages, &[7; 16]).unwrap();
        let needed = EnvelopeId::new(OriginatorId(needed.0), SequenceId(needed.1));
        let aad = wire::AuthenticatedData {
            target_topic: topic.as_bytes().clone(),
            depends_on: Some(Cursor::from_iter([needed]).to_pb()),
        };
        let payload = wire::client_envelope::Payload::GroupMessage(Default::default());
        let client = wire::ClientEnvelope { aad: Some(aad), payload: Some(payload) };
        let client = client.encode_to_vec().into();
        let payer = PayerEnvelope::sign(client, OriginatorId(node), 30, &key(900));
        let statement = wire::UnsignedOriginatorEnvelope {
            originator_node_id: node,
            originator_sequence_id: sequence,
            originator_ns: 5,
            payer_envelope_bytes: payer.encode_to_vec().into(),
            ..Default::default()
        };
        UnsealedEnvelope::new(&statement).seal(&key(node))
    }

    /// The judgement on a report against node 100, and the fact by which it is kept.
    fn judged(kind: MisbehaviorKind, envelopes: &[&Bytes]) -> (Judgement, ReportFact) {
        let envelopes: Vec<Bytes> = envelopes.iter().map(|&it| it.clone()).collect();
        let report = own_safety_report(NOW_NS, OriginatorId(100), kind, &envelopes).unwrap();
        let record = |node: u32| NodeRecord {
            id: OriginatorId(node),
            public_key: key(node).public_key(),
            owner: key(node).public_key().address(),
            http_address: None,
            quic_address: None,
            canonical: true,
        };
        let bytes = report.to_bytes();
        let judgement = verify(&ReportCase {
            report: &bytes,
            host_signature: None,
            host: None,
            registry: &[100, 200].map(record).into_iter().collect(),
            rates: None,
            chain: &NoChain,
            held_at_ns: None,
        });
        let fact = fact_of(&report, &bytes, &judgement).unwrap();
        (judgement, fact)
    }

    /// The fact by which a report of dependencies is kept.
    fn causal_fact(envelopes: &[&Bytes]) -> (&'static str, ReportFact) {
        let (judgement, fact) = judged(MisbehaviorKind::CausalOrdering, envelopes);
        assert_eq!(fact.class, ReportClass::Proven);
        (judgement.facts[0].name, fact)
    }

    /// The accused could otherwise report its false envelope first, with a transaction that no chain knows, to keep the
    /// report of the envelope that it has served out.
    #[test]
    fn an_envelope_of_a_chain_with_another_transaction_is_another_fact() {
        let statement = wire::UnsignedOriginatorEnvelope {
            originator_node_id: OriginatorId::GROUP_MESSAGES.0,
            originator_sequence_id: 5,
            ..Default::default()
        };
        let statement = Bytes::from(statement.encode_to_vec());
        let envelope = |statement: &Bytes, transaction: [u8; 32]| {
            OriginatorEnvelope::encode(statement.clone(), Proof::Transaction(transaction))
        };
        let fact = |envelopes: &[&Bytes]| {
            let (judgement, fact) = judged(MisbehaviorKind::BlockchainInconsistency, envelopes);
            assert_eq!(judgement.verdict, MisbehaviorVerdict::Inconclusive);
            fact
        };
        let (one, another) = (envelope(&statement, [1; 32]), envelope(&statement, [2; 32]));
        assert_ne!(fact(&[&one]), fact(&[&another]));
        assert_eq!(fact(&[&one]), fact(&[&one]));

        // The bytes of a false envelope may be those of two others. The transaction of the first is a field that no
        // node knows.
        let mut field = [0; 32];
        field[..2].copy_from_slice(&[15 << 3 | 2, 30]);
        let both = Bytes::from([&statement[..], &field, &statement].concat());
        let whole = envelope(&both, [255; 32]);
        let parts = [envelope(&statement, field), envelope(&statement, [255; 32])];
        assert_ne!(fact(&[&whole]), fact(&[&parts[0], &parts[1]]));
    }

    /// One faulty envelope is one proof, independently of the other envelopes of public logs that are submitted
    /// with it. Proofs are never dropped for others, so a caller could otherwise fill the room for proofs against a
    /// node.
    #[test]
    fn a_fault_of_dependencies_is_one_fact_however_its_envelopes_stand() {
        let faulty = dependent((100, 3), (200, 9));
        let [first, second] = [4, 5].map(|place| dependent((200, place), (0, 0)));
        let (name, alone) = causal_fact(&[&faulty]);
        assert_eq!((name, alone.sequence), ("depends_on_node", SequenceId(3)));
        for more in [vec![&faulty, &first], vec![&first, &faulty], vec![&second, &faulty, &first]] {
            assert_eq!(causal_fact(&more).1, alone);
        }
        let other = dependent((100, 8), (200, 9));
        assert_ne!(causal_fact(&[&other]).1, alone, "another fault");
    }

    /// Each claim that is not refuted has to be written, and publishers wait for writes.
    #[test]
    fn a_flood_of_claims_has_some_dozen_kept_in_a_second() {
        const SECONDS: u64 = 60;
        let mut budget = CheckBudget::default();
        let (mut now_ns, mut kept) = (NOW_NS, 0);
        while now_ns < NOW_NS + SECONDS * 1_000_000_000 {
            match budget.wait_ns(now_ns) {
                0 => {
                    budget.take(2, 2000);
                    kept += 1;
                }
                wait_ns => now_ns += wait_ns,
            }
        }
        assert!((10 * SECONDS..13 * SECONDS).contains(&kept), "{kept}");
    }

    /// For every arrival of reports, checking them takes at most a twentieth of the time, and a burst.
    #[test]
    fn checks_take_a_twentieth_of_a_core() {
        const ENVELOPES: usize = 999;
        const LEN_BYTES: usize = 5_000_000;
        // 100 ms for the envelopes, 50 for the bytes, and four.
        const CHECK_NS: u64 = 153_900_000;
        let mut budget = CheckBudget::default();
        let (mut now_ns, mut worked_ns) = (NOW_NS, 0);
        while now_ns < NOW_NS + HOUR_NS {
            match budget.wait_ns(now_ns) {
                0 => {
                    budget.take(ENVELOPES, LEN_BYTES);
                    worked_ns += CHECK_NS;
                }
                wait_ns => {
                    let mut early = budget;
                    assert!(early.wait_ns(now_ns + wait_ns / 2) > 0, "half of it is too early");
                    now_ns += wait_ns;
                }
            }
        }
        let share = HOUR_NS / SHARE;
        assert!(worked_ns <= share + 2 * CHECK_NS, "{worked_ns}");
        assert!(worked_ns >= share - 2 * CHECK_NS, "all of it can be used: {worked_ns}");
    }
}
