//! Judging what other nodes have signed: facts for evidence, as functions of the envelopes.

use hawser_proto::envelope::{OpenedStatement, OriginatorEnvelope, UnsignedOriginatorEnvelope};
use hawser_proto::{Bytes, EnvelopeId, StatementDifference};
use hawser_rules::misbehavior::{self, TIME_LEAD_NS_MAX, TIME_TOLERANCE_NS};
use hawser_rules::{
    Contradiction, RateTable, RuleNumber, check_charges_by_former, expires_late, is_free,
    is_read_elsewhere, is_taken_elsewhere,
};
use hawser_storage::InvalidRule;
#[cfg(feature = "faults")]
use hawser_storage::faults::{self, SeededFault};

pub use hawser_storage::{Evidence, EvidenceTime, Misbehavior, StoredEvidence};

/// Returns the difference between the statements of two envelopes for one place. `None` if they state the same: equal
/// bytes that are signed twice are one statement.
#[must_use]
pub fn difference(held: &Bytes, other: &Bytes) -> Option<StatementDifference> {
    let statement = |envelope: &Bytes| OriginatorEnvelope::open(envelope.clone()).ok();
    let ((held, _), (other, _)) = (statement(held)?, statement(other)?);
    misbehavior::difference(&held, &other)
}

/// Returns the evidence for a contradiction: both checkpoints in binary form, and the proof of how the
/// larger tree begins, unless the checkpoints alone contradict each other.
#[must_use]
pub(crate) fn evidence_of(found: &Contradiction) -> Vec<Bytes> {
    let mut pieces: Vec<Bytes> =
        found.checkpoints().iter().map(|it| Bytes::copy_from_slice(&it.encode())).collect();
    if let Contradiction::OtherBeginning { root, proof, .. } = found {
        let hashes = std::iter::once(root).chain(&proof.0);
        pieces.push(hashes.flat_map(|hash| hash.0).collect());
    }
    pieces
}

/// Returns true if an envelope with this mark is evidence against the node that signed it. Four kinds are none:
///
/// - one from an absence: a node learns of its removal after the block, and acknowledges until then;
/// - one that does not decode here and [may elsewhere](is_read_elsewhere): the node may run other software or a newer
///   version;
/// - one that [expires late](expires_late): the node may have signed it long after it had dated it;
/// - one that breaks a rule here and [none elsewhere](is_taken_elsewhere).
#[must_use]
pub fn is_evidence(InvalidRule(rule): InvalidRule, envelope: &Bytes) -> bool {
    match RuleNumber(rule) {
        RuleNumber::ABSENT => false,
        RuleNumber::UNDECODABLE => !is_odd(envelope),
        RuleNumber::PAYER_SIGNATURE | RuleNumber::PAYLOAD => {
            let parsed = OriginatorEnvelope::parse(envelope.clone());
            !parsed.is_ok_and(|it| is_taken_elsewhere(it.unsigned()))
        }
        RuleNumber::EXPIRY => !is_late(envelope),
        _ => true,
    }
}

/// Returns true if the payer envelope inside may be decoded elsewhere.
fn is_odd(envelope: &Bytes) -> bool {
    let opened = OriginatorEnvelope::open(envelope.clone());
    let statement = opened.and_then(|(statement, _)| OpenedStatement::read(statement));
    statement.is_ok_and(|it| is_read_elsewhere(it.id().originator, it.payer_envelope_bytes()))
}

/// Returns true if the statement inside expires late.
pub(crate) fn is_late(envelope: &Bytes) -> bool {
    let opened = OriginatorEnvelope::open(envelope.clone());
    let statement = opened.and_then(|(statement, _)| UnsignedOriginatorEnvelope::parse(statement));
    statement.is_ok_and(|it| expires_late(&it))
}

/// Returns true if a time is further ahead of this node's clock than honest clocks can differ. Such a time decides
/// nothing here until the clock reaches it.
#[must_use]
pub fn is_ahead(originator_ns: i64, now_ns: i64) -> bool {
    #[cfg(feature = "faults")]
    if faults::is_on(SeededFault::ForgottenLead) {
        return originator_ns > now_ns;
    }
    originator_ns > now_ns.saturating_add(TIME_LEAD_NS_MAX)
}

/// The verdict on the fees that an envelope states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeeVerdict {
    /// A rate that had begun explains the fees. They prove nothing even if a newer rate had replaced it: the newer rate
    /// may have come to the chain long after its start.
    Explained,
    /// No known rate gives these fees, but the price list may lack the newest rate.
    Unknown,
    /// No rate gives these fees.
    Wrong,
}

/// Judges the fees that an envelope states, against a price list.
#[must_use]
pub fn judge_fees(envelope: &Bytes, rates: &RateTable) -> FeeVerdict {
    #[cfg(feature = "faults")]
    if faults::is_on(SeededFault::UnjudgedFees) {
        return FeeVerdict::Explained;
    }
    let Ok(envelope) = OriginatorEnvelope::parse(envelope.clone()) else {
        return FeeVerdict::Explained; // marked for that, and its fees are no fault of their own
    };
    let statement = envelope.unsigned();
    let is_final = is_free(statement.payer().client().topic().kind())
        || rates.is_complete_at(statement.originator_ns());
    match (check_charges_by_former(statement, rates), is_final) {
        (Ok(()), _) => FeeVerdict::Explained,
        (Err(_), true) => FeeVerdict::Wrong,
        (Err(_), false) => FeeVerdict::Unknown,
    }
}

/// A fault in the times of a strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeFault {
    /// The envelope is dated before this earlier one.
    Back {
        /// The earlier place, which has the later time.
        earlier: EnvelopeId,
    },
    /// The envelope is dated into the future.
    Ahead,
}

/// Times of one strand, in the order of its places.
#[derive(Debug, Clone, Copy, Default)]
pub struct StrandTimes {
    /// The latest time since the last fault, and its place.
    latest: Option<(i64, EnvelopeId)>,
}

impl StrandTimes {
    /// Continues after the envelope at the strand's head, if that place holds one.
    #[must_use]
    pub fn after(head: Option<(i64, EnvelopeId)>) -> Self {
        Self { latest: head }
    }

    /// Judges the time of the next envelope, also against the present time `now_ns`.
    pub fn next(&mut self, id: EnvelopeId, originator_ns: i64, now_ns: i64) -> Vec<TimeFault> {
        let ahead = is_ahead(originator_ns, now_ns).then_some(TimeFault::Ahead);
        let back = self.step_back(id, originator_ns).map(|earlier| TimeFault::Back { earlier });
        ahead.into_iter().chain(back).collect()
    }

    /// Judges the time of the next envelope against the earlier ones only. Returns the earlier place that has a later
    /// time, if that is a fault. One step back is one fault, however many envelopes follow at the lower times: they are
    /// compared with one another from then on.
    pub fn step_back(&mut self, id: EnvelopeId, originator_ns: i64) -> Option<EnvelopeId> {
        match self.latest {
            Some((latest, earlier)) if latest.saturating_sub(originator_ns) > TIME_TOLERANCE_NS => {
                self.latest = Some((originator_ns, id));
                Some(earlier)
            }
            latest => {
                self.latest = latest.max(Some((originator_ns, id)));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::envelope::{PayerEnvelope, Payload, Proof};
    use hawser_proto::pb::xmtp::mls::api::v1::GroupMessageInput;
    use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::{V1, Version};
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_proto::sign::originator_digest;
    use hawser_proto::{OriginatorId, SecretKey, SequenceId};
    use prost::Message as _;

    use super::*;

    const NODE: OriginatorId = OriginatorId(200);
    const SECOND: i64 = 1_000_000_000;

    fn signed(statement: &pb::UnsignedOriginatorEnvelope) -> Bytes {
        sign(statement.encode_to_vec().into(), 1)
    }

    fn sign(statement: Bytes, key: u8) -> Bytes {
        let key = SecretKey::from_bytes(&[key; 32]).unwrap();
        let signature = key.sign(originator_digest(&statement));
        OriginatorEnvelope::encode(statement, Proof::Signature(signature))
    }

    #[test]
    fn the_worst_difference_between_two_statements_decides() {
        let first = pb::UnsignedOriginatorEnvelope {
            originator_node_id: 200,
            originator_sequence_id: 7,
            originator_ns: 5,
            payer_envelope_bytes: Bytes::from_static(b"paid"),
            base_fee_picodollars: 1,
            congestion_fee_picodollars: 2,
            expiry_unixtime: 3,
        };
        let against = |change: fn(&mut pb::UnsignedOriginatorEnvelope)| {
            let mut other = first.clone();
            change(&mut other);
            difference(&signed(&first), &signed(&other))
        };
        assert_eq!(against(|_| {}), None);
        assert_eq!(difference(&signed(&first), &sign(first.encode_to_vec().into(), 2)), None);
        assert_eq!(against(|it| it.originator_ns = 6), Some(StatementDifference::Content));
        let paid: fn(&mut pb::UnsignedOriginatorEnvelope) =
            |it| it.payer_envelope_bytes = Bytes::from_static(b"else");
        assert_eq!(against(paid), Some(StatementDifference::Content));
        assert_eq!(against(|it| it.expiry_unixtime = 4), Some(StatementDifference::Metadata));
        assert_eq!(against(|it| it.base_fee_picodollars = 4), Some(StatementDifference::Metadata));
        assert_eq!(
            against(|it| it.congestion_fee_picodollars = 4),
            Some(StatementDifference::Metadata)
        );
        let mut longer = first.encode_to_vec();
        longer.extend([0x78, 1]); // an unknown field
        assert_eq!(
            difference(&signed(&first), &sign(longer.into(), 1)),
            Some(StatementDifference::Encoding)
        );
    }

    #[test]
    fn what_other_software_decodes_is_no_evidence_unless_no_payer_has_asked_the_node_for_it() {
        // A topic, a group message, and the field of the message once more, as a number.
        let client: Vec<u8> = vec![0x0a, 4, 0x12, 2, 0, 1, 0x12, 0, 0x10, 5];
        let payer = SecretKey::from_bytes(&[9; 32]).unwrap();
        let envelope = |target| {
            let paid = PayerEnvelope::sign(client.clone().into(), target, 60, &payer);
            signed(&pb::UnsignedOriginatorEnvelope {
                originator_node_id: NODE.0,
                originator_sequence_id: 7,
                payer_envelope_bytes: paid.encode_to_vec().into(),
                ..Default::default()
            })
        };
        assert!(OriginatorEnvelope::parse(envelope(NODE)).is_err());
        assert!(!is_evidence(InvalidRule(1), &envelope(NODE)));
        assert!(is_evidence(InvalidRule(1), &envelope(OriginatorId(300))));
        let noise = Bytes::from_static(b"noise");
        assert!(is_evidence(InvalidRule(1), &noise));
        assert!(is_evidence(InvalidRule(3), &noise) && !is_evidence(InvalidRule(17), &noise));
    }

    /// An honest node of a newer version signs what the next schema adds.
    #[test]
    fn a_payload_or_a_kind_of_a_newer_schema_is_no_evidence() {
        let payer = SecretKey::from_bytes(&[9; 32]).unwrap();
        let is_evidence_of = |kind: u8, payload: &[u8]| {
            let client = [&[0x0a, 4, 0x12, 2, kind, 1][..], payload].concat();
            let paid = PayerEnvelope::sign(client.into(), NODE, 60, &payer);
            let envelope = signed(&pb::UnsignedOriginatorEnvelope {
                originator_node_id: NODE.0,
                originator_sequence_id: 7,
                payer_envelope_bytes: paid.encode_to_vec().into(),
                ..Default::default()
            });
            assert!(OriginatorEnvelope::parse(envelope.clone()).is_err());
            is_evidence(InvalidRule(1), &envelope)
        };
        // Field 8, a group message, and both.
        for payload in [&[0x42, 1, b'?'][..], &[0x12, 0], &[0x12, 0, 0x42, 0]] {
            assert!(!is_evidence_of(6, payload), "{payload:?}");
        }
        assert!(!is_evidence_of(0, &[0x42, 0]));
        assert!(is_evidence_of(0, &[]) && is_evidence_of(6, &[]), "there is no payload");
        assert!(is_evidence_of(6, &[0x40, 1]), "a number is no payload");
    }

    /// An honest node of other software signs what it reads no further than its content type.
    #[test]
    fn a_message_that_other_software_takes_is_no_evidence_and_a_commit_is() {
        let payer = SecretKey::from_bytes(&[9; 32]).unwrap();
        let envelope = |content: u8, days: u64| {
            let data = [&[0, 1, 0, 2, 0][..], &[0; 8], &[content, 0, 0, 0, 0]].concat();
            let v1 = V1 { data: data.into(), ..Default::default() };
            let version = Some(Version::V1(v1));
            let payload = Some(Payload::GroupMessage(GroupMessageInput { version }));
            let target_topic = Bytes::from_static(&[0, 9]);
            let aad = pb::AuthenticatedData { target_topic, depends_on: None };
            let client = pb::ClientEnvelope { aad: Some(aad), payload }.encode_to_vec();
            let paid = PayerEnvelope::sign(client.into(), NODE, 60, &payer);
            signed(&pb::UnsignedOriginatorEnvelope {
                originator_node_id: NODE.0,
                originator_sequence_id: 7,
                payer_envelope_bytes: paid.encode_to_vec().into(),
                expiry_unixtime: days * 86_400,
                ..Default::default()
            })
        };
        assert!(!is_evidence(InvalidRule(6), &envelope(1, 60)));
        assert!(is_evidence(InvalidRule(6), &envelope(3, 60)));
        assert!(!is_evidence(InvalidRule(6), &envelope(1, 99)), "its expiry is late as well");
        assert!(is_evidence(InvalidRule(6), &envelope(1, 59)), "its expiry is wrong as well");
        assert!(is_evidence(InvalidRule(6), &Bytes::from_static(b"noise")));
    }

    #[test]
    fn an_early_expiry_is_evidence_and_a_late_one_is_not() {
        // A topic and a group message.
        let client: Vec<u8> = vec![0x0a, 4, 0x12, 2, 0, 1, 0x12, 0];
        let payer = SecretKey::from_bytes(&[9; 32]).unwrap();
        let paid = PayerEnvelope::sign(client.into(), NODE, 60, &payer).encode_to_vec();
        let envelope = |expiry_unixtime| {
            signed(&pb::UnsignedOriginatorEnvelope {
                originator_node_id: NODE.0,
                originator_sequence_id: 7,
                originator_ns: 1_000 * SECOND,
                payer_envelope_bytes: paid.clone().into(),
                expiry_unixtime,
                ..Default::default()
            })
        };
        let (exact, rule) = (1_000 + 60 * 86_400, InvalidRule(9));
        assert!(OriginatorEnvelope::parse(envelope(exact)).is_ok());
        assert!(is_evidence(rule, &envelope(exact - 601)) && is_evidence(rule, &envelope(0)));
        assert!(!is_evidence(rule, &envelope(exact + 86_401)));
        assert!(!is_evidence(rule, &envelope(u64::MAX)));
    }

    #[test]
    fn a_step_back_is_one_fault_and_a_small_one_is_no_fault() {
        let id = |n| EnvelopeId::new(NODE, SequenceId(n));
        let mut times = StrandTimes::after(Some((10 * SECOND, id(1))));
        let mut next = |n, ns| times.next(id(n), ns, 0);
        assert_eq!(next(2, 9 * SECOND), [], "a second is tolerated");
        assert_eq!(next(3, 9 * SECOND - 1), [TimeFault::Back { earlier: id(1) }]);
        assert_eq!(next(4, 9 * SECOND), []);
        assert_eq!(next(5, 8 * SECOND), []);
        assert_eq!(next(6, 8 * SECOND - 1), [TimeFault::Back { earlier: id(4) }], "slowly, too");
        assert_eq!(next(7, 20 * SECOND), []);
        let far = 400 * SECOND;
        assert_eq!(next(8, far), [TimeFault::Ahead]);
        assert_eq!(next(9, 21 * SECOND), [TimeFault::Back { earlier: id(8) }]);
        assert_eq!(next(10, 22 * SECOND), [], "the strand goes on at its own time");
        let both = [TimeFault::Ahead, TimeFault::Back { earlier: id(11) }];
        assert_eq!(next(11, i64::MAX), [TimeFault::Ahead]);
        assert_eq!(next(12, far), both);
        assert_eq!(next(13, i64::MIN), [TimeFault::Back { earlier: id(12) }]);
    }
}
