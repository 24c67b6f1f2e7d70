//! Verifies a node's answer to a publish call. Plain values; time is an argument.
//!
//! A node signs its answers, so a wrong answer with a valid signature is evidence against it.

use hawser_proto::envelope::{LayerError, PayerEnvelope, UnsignedOriginatorEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::{SignatureError, originator_digest};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, PublicKey, Signature};
use hawser_rules::fees::{base_fee, is_free};
use hawser_rules::retention::check_expiry;
use hawser_rules::{PicoDollarPrice, RateTable, Violation, check_charges};

use pb::originator_envelope::Proof;

/// Largest accepted difference between a node's clock and this machine's, nanoseconds. A guess: wide enough for
/// every synchronised clock, so that only false times are reported. An envelope that is older than this was stored
/// before the request: a node answers a repeat with the stored envelope.
const CLOCK_TOLERANCE_NS: u64 = 30 * 60 * 1_000_000_000;
/// The maximum number of bytes of a statement beside the payer envelope that was sent. A guess: an honest node adds
/// some 60, and the payer envelope of an earlier request differs by a few.
const LEN_MORE_BYTES: usize = 512;
/// The maximum number of bytes of an envelope in a response beside the client's. Calculated: a node adds
/// [`LEN_MORE_BYTES`]; the payer's layer, and the originator's signature or the transaction hash, take some 200. The
/// rest is a margin. A response is refused before the publish if it could exceed a message with these, so no node can
/// make it longer.
pub(crate) const ANSWER_OVERHEAD_BYTES: usize = 1024;

/// The values that a correct answer has to have.
#[derive(Debug, Clone)]
pub(super) struct ExpectedAnswer<'a> {
    /// The node that was called.
    pub(super) node: OriginatorId,
    /// The node's key in the registry.
    pub(super) key: &'a PublicKey,
    /// The payer's key.
    pub(super) payer: &'a PublicKey,
    /// The client envelope that was sent.
    pub(super) client: &'a Bytes,
    /// The payer envelope that was sent.
    pub(super) payer_envelope: &'a Bytes,
    /// When it was signed, before it was sent: unix time in nanoseconds by this gateway's clock.
    pub(super) signed_ns: i64,
}

/// The reason for which a node's answer is wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum AnswerError {
    /// The number of envelopes differs from the request.
    #[error("the answer has {got} envelopes, and {asked} were sent")]
    Count {
        /// Envelopes in the request.
        asked: usize,
        /// Envelopes in the answer.
        got: usize,
    },
    /// The answer is longer than one to the request can be.
    #[error("it is longer than {len_bytes_max} bytes")]
    TooLong {
        /// The maximum number of bytes that it can have.
        len_bytes_max: usize,
    },
    /// The answer has more fields than one to the request can have.
    #[error("it has more than {fields_max} fields")]
    TooManyFields {
        /// The maximum number of fields that it can have.
        fields_max: usize,
    },
    /// The envelope does not parse.
    #[error("the envelope does not parse: {0}")]
    Layer(#[from] LayerError),
    /// The envelope has no originator signature.
    #[error("the envelope has no originator signature")]
    NoSignature,
    /// The signature is malformed.
    #[error("the originator signature is malformed: {0}")]
    Signature(#[from] SignatureError),
    /// The envelope was signed with a key that is not the node's.
    #[error("it was signed by {}, and not by the node's key in the registry", .0.address())]
    Signer(Box<PublicKey>),
    /// The envelope belongs to the strand of another originator.
    #[error("the envelope belongs to the strand of another originator, {0}")]
    Originator(OriginatorId),
    /// The sequence id is 0; valid ones start at 1.
    #[error("the envelope has sequence id 0")]
    NoSequenceId,
    /// The payer envelope in the envelope is not the one that was sent.
    #[error("the payer envelope in it is not the one that was sent")]
    OtherPayerEnvelope,
    /// The originator time lies in the future.
    #[error("the envelope's time is {} s ahead of this clock", ahead_ns / 1_000_000_000)]
    Time {
        /// Difference to this machine's clock, nanoseconds.
        ahead_ns: u64,
    },
    /// The expiry or the price breaks a rule.
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// The verified values of a correct answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct VerifiedAnswer {
    pub(super) id: EnvelopeId,
    /// Sum of all fees. For an unconfirmed price it is the base fee by the known price list.
    pub(super) fee: PicoDollarPrice,
    /// The congestion fee alone; 0 for an unconfirmed price.
    pub(super) congestion_fee: PicoDollarPrice,
    /// The fee that does not follow from the price list, if the list may lack the rate of the envelope's time. The
    /// answer is accepted nevertheless: the node has published the envelope, and trying another node would cost a
    /// second fee.
    pub(super) unconfirmed: Option<Violation>,
    /// The envelope's time is long before now, as in an envelope that was stored before this request. The node
    /// alone vouches for this time.
    pub(super) was_stored: bool,
}

/// Returns the most bytes that an envelope of an answer can have for a payer envelope that was sent.
pub(super) fn len_bytes_max(payer_envelope: &Bytes) -> usize {
    payer_envelope.len().saturating_add(LEN_MORE_BYTES)
}

/// Verifies one envelope of an answer. `now_ns` is unix time.
///
/// # Errors
/// [`AnswerError`] for the first value that is wrong.
pub(super) fn verify(
    expected: &ExpectedAnswer<'_>,
    answer: &pb::OriginatorEnvelope,
    rates: &RateTable,
    now_ns: i64,
) -> Result<VerifiedAnswer, AnswerError> {
    let unsigned = &answer.unsigned_originator_envelope;
    let len_bytes_max = len_bytes_max(expected.payer_envelope);
    if unsigned.len() > len_bytes_max {
        return Err(AnswerError::TooLong { len_bytes_max });
    }
    let statement = UnsignedOriginatorEnvelope::parse(unsigned.clone())?;
    let Some(Proof::OriginatorSignature(signature)) = &answer.proof else {
        return Err(AnswerError::NoSignature);
    };
    let digest = originator_digest(statement.as_bytes());
    let signer = Signature::from_bytes(&signature.bytes)?.recover(digest)?;
    if signer != *expected.key {
        return Err(AnswerError::Signer(Box::new(signer)));
    }
    if statement.id().originator != expected.node {
        return Err(AnswerError::Originator(statement.id().originator));
    }
    if statement.id().sequence.0 == 0 {
        return Err(AnswerError::NoSequenceId);
    }
    let off_ns = statement.originator_ns().abs_diff(now_ns);
    let was_stored = statement.originator_ns() < now_ns && off_ns > CLOCK_TOLERANCE_NS;
    if !was_stored && off_ns > CLOCK_TOLERANCE_NS {
        return Err(AnswerError::Time { ahead_ns: off_ns });
    }
    let payer = statement.payer();
    let is_sent = payer.as_bytes() == expected.payer_envelope;
    // An envelope that was stored before this request may have another retention, or another signature of the payer. It
    // is published, so another node would cost the payer a second fee. A node that alters this request is at fault.
    let is_earlier = statement.originator_ns() < expected.signed_ns;
    if !(is_sent || is_earlier && is_same_order(expected, payer)) {
        return Err(AnswerError::OtherPayerEnvelope);
    }
    check_expiry(
        statement.originator_ns(),
        statement.payer().retention_days(),
        statement.expiry_unix_s(),
    )?;
    let unconfirmed = match check_charges(&statement, rates) {
        Err(violation) if rates.covers(statement.originator_ns()) => return Err(violation.into()),
        charges => charges.err(),
    };
    let congestion_fee = match &unconfirmed {
        None => statement.congestion_fee(),
        Some(_) => PicoDollarPrice(0),
    };
    let base_fee = match &unconfirmed {
        None => statement.base_fee(),
        Some(_) => known_base_fee(&statement, rates),
    };
    Ok(VerifiedAnswer {
        id: statement.id(),
        fee: base_fee.plus(congestion_fee),
        congestion_fee,
        unconfirmed,
        was_stored,
    })
}

/// Returns the base fee of an envelope by the newest known rate for its time; 0 if it is free or older than the list.
fn known_base_fee(statement: &UnsignedOriginatorEnvelope, rates: &RateTable) -> PicoDollarPrice {
    let payer = statement.payer();
    if is_free(payer.client().topic().kind()) {
        return PicoDollarPrice(0);
    }
    let rate = rates.at(statement.originator_ns());
    let size_bytes = payer.as_bytes().len() as u64;
    rate.and_then(|rate| base_fee(rate, size_bytes, payer.retention_days())).unwrap_or_default()
}

/// Returns true if a stored payer envelope has the target, the client envelope and the payer of the one that was
/// sent. The retention does not count (`docs/protocol/rules.md`): the gateway's settings may have changed since.
fn is_same_order(expected: &ExpectedAnswer<'_>, stored: &PayerEnvelope) -> bool {
    let signature = stored.signature_bytes().and_then(|bytes| Signature::from_bytes(bytes).ok());
    stored.target() == expected.node
        && stored.client().as_bytes() == expected.client
        && signature.and_then(|signature| signature.recover(stored.digest()).ok()).as_ref()
            == Some(expected.payer)
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::envelope::{self, OriginatorEnvelope, UnsealedEnvelope};
    use hawser_proto::pb::xmtp::identity::associations::RecoverableEcdsaSignature;
    use hawser_proto::pb::xmtp::xmtpv4::payer_api::PublishClientEnvelopesResponse;
    use hawser_rules::{PicoDollarsPerByteDay, Rate};
    use prost::Message as _;

    use super::*;

    const NODE: OriginatorId = OriginatorId(100);
    const DAY_S: u64 = 24 * 60 * 60;
    const NOW_NS: i64 = 1_750_000_000_000_000_000;

    fn key(byte: u8) -> SecretKey {
        SecretKey::from_bytes(&[byte; 32]).unwrap()
    }

    fn rates() -> RateTable {
        let rate = Rate {
            start_unix_s: 0,
            message_fee: PicoDollarPrice(100),
            storage_fee: PicoDollarsPerByteDay(200),
            congestion_fee: PicoDollarPrice(300),
            target_rate_per_minute: 6000,
        };
        RateTable::new(vec![rate], None).unwrap()
    }

    /// Returns a client envelope of a real client, for nodes.
    fn client(number: usize) -> Bytes {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/client/envelopes.jsonl");
        let text = std::fs::read_to_string(path).unwrap();
        let lines =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let line = lines.filter(|line| line["expect_route"] == "node").nth(number).unwrap();
        hex::decode(line["hex"].as_str().unwrap()).unwrap().into()
    }

    fn sent() -> Bytes {
        PayerEnvelope::sign(client(0), NODE, 60, &key(9)).encode_to_vec().into()
    }

    fn honest(sent: &Bytes) -> pb::UnsignedOriginatorEnvelope {
        pb::UnsignedOriginatorEnvelope {
            originator_node_id: NODE.0,
            originator_sequence_id: 7,
            originator_ns: NOW_NS,
            payer_envelope_bytes: sent.clone(),
            base_fee_picodollars: 100 + 200 * sent.len() as u64 * 60,
            congestion_fee_picodollars: 600,
            expiry_unixtime: 1_750_000_000 + 60 * DAY_S,
        }
    }

    fn judged(
        change: impl FnOnce(&mut pb::UnsignedOriginatorEnvelope),
        by: u8,
    ) -> Result<VerifiedAnswer, AnswerError> {
        let sent = sent();
        let mut statement = honest(&sent);
        change(&mut statement);
        let sealed = UnsealedEnvelope::new(&statement).seal(&key(by));
        let answer = pb::OriginatorEnvelope::decode(sealed).unwrap();
        check(&sent, &answer)
    }

    fn check(sent: &Bytes, answer: &pb::OriginatorEnvelope) -> Result<VerifiedAnswer, AnswerError> {
        check_by(sent, answer, &rates())
    }

    fn check_by(
        sent: &Bytes,
        answer: &pb::OriginatorEnvelope,
        rates: &RateTable,
    ) -> Result<VerifiedAnswer, AnswerError> {
        let (public_key, payer) = (key(1).public_key(), key(9).public_key());
        let parsed = PayerEnvelope::parse(sent.clone()).unwrap();
        let expected = ExpectedAnswer {
            node: NODE,
            key: &public_key,
            payer: &payer,
            client: parsed.client().as_bytes(),
            payer_envelope: sent,
            signed_ns: NOW_NS,
        };
        verify(&expected, answer, rates, NOW_NS)
    }

    /// Changes a statement to that of an envelope that was stored `age_s` seconds ago.
    fn stored_before(it: &mut pb::UnsignedOriginatorEnvelope, age_s: u64) {
        it.originator_ns -= i64::try_from(age_s).unwrap() * 1_000_000_000;
        it.expiry_unixtime -= age_s;
    }

    fn change_payer(
        it: &mut pb::UnsignedOriginatorEnvelope,
        change: impl FnOnce(&mut pb::PayerEnvelope),
    ) {
        let mut payer = pb::PayerEnvelope::decode(it.payer_envelope_bytes.clone()).unwrap();
        change(&mut payer);
        it.payer_envelope_bytes = payer.encode_to_vec().into();
    }

    #[test]
    fn a_stored_envelope_is_right_however_old() {
        assert!(!judged(|_| {}, 1).unwrap().was_stored);
        for age_s in [31 * 60, DAY_S, 59 * DAY_S] {
            let verified = judged(|it| stored_before(it, age_s), 1).unwrap();
            assert!(verified.was_stored, "{age_s}");
        }
        // Stored with another retention, which has other fees and another expiry.
        let other_retention = |it: &mut pb::UnsignedOriginatorEnvelope| {
            change_payer(it, |payer| payer.message_retention_days = 90);
            it.base_fee_picodollars = 100 + 200 * it.payer_envelope_bytes.len() as u64 * 90;
            it.expiry_unixtime += 30 * DAY_S;
        };
        let old = |it: &mut pb::UnsignedOriginatorEnvelope| {
            other_retention(it);
            stored_before(it, DAY_S);
        };
        assert!(judged(old, 1).unwrap().was_stored);
        // For another request of the payer, a moment ago: the node owes the same answer to both.
        let a_second_old = |it: &mut pb::UnsignedOriginatorEnvelope| {
            other_retention(it);
            stored_before(it, 1);
        };
        assert!(!judged(a_second_old, 1).unwrap().was_stored);
        assert_eq!(judged(other_retention, 1).unwrap_err(), AnswerError::OtherPayerEnvelope);
    }

    #[test]
    fn a_stored_envelope_of_another_payer_target_or_client_is_no_answer() {
        let stored = |client: Bytes, target, payer| {
            let stored = PayerEnvelope::sign(client, target, 60, &key(payer)).encode_to_vec();
            let change = |it: &mut pb::UnsignedOriginatorEnvelope| {
                stored_before(it, DAY_S);
                it.base_fee_picodollars = 100 + 200 * stored.len() as u64 * 60;
                it.payer_envelope_bytes = stored.into();
            };
            judged(change, 1).map(|answer| answer.was_stored)
        };
        assert_eq!(stored(client(0), NODE, 9), Ok(true));
        // Each is signed as its payer signs it, so nothing else is wrong.
        for (client, target, payer) in
            [(client(0), NODE, 8), (client(0), OriginatorId(200), 9), (client(1), NODE, 9)]
        {
            let refused = stored(client, target, payer);
            assert_eq!(refused, Err(AnswerError::OtherPayerEnvelope), "{target} {payer}");
        }
    }

    #[test]
    fn an_honest_answer_passes() {
        let verified = judged(|_| {}, 1).unwrap();
        assert_eq!(verified.fee.0, 700 + 12_000 * sent().len() as u64);
    }

    #[test]
    fn a_signed_envelope_with_padding_is_no_answer() {
        let sent = sent();
        let judged = |padding: &[u8]| {
            let bytes = Bytes::from([&honest(&sent).encode_to_vec()[..], padding].concat());
            let signature = key(1).sign(originator_digest(&bytes));
            let sealed = OriginatorEnvelope::encode(bytes, envelope::Proof::Signature(signature));
            check(&sent, &pb::OriginatorEnvelope::decode(sealed).unwrap())
        };
        assert!(judged(&[0x7a, 1, 0]).is_ok(), "a field of a later version");
        let padding = [&[0x7a, 0x80, 0x40][..], &[0; 0x2000]].concat();
        let len_bytes_max = sent.len() + LEN_MORE_BYTES;
        assert_eq!(judged(&padding).unwrap_err(), AnswerError::TooLong { len_bytes_max });
    }

    /// The gateway counts [`ANSWER_OVERHEAD_BYTES`] before it publishes. A response that cannot be sent afterwards
    /// would be an error for what was published.
    #[test]
    fn no_padding_that_passes_makes_a_response_longer_than_was_counted() {
        for len_bytes in [1, 300, 13 << 20] {
            let client = Bytes::from(vec![7; len_bytes]);
            let payer = PayerEnvelope::sign(client, OriginatorId(u32::MAX), u32::MAX, &key(9));
            let unsigned = vec![7; len_bytes_max(&payer.encode_to_vec().into())].into();
            let signature = RecoverableEcdsaSignature { bytes: vec![7; 65].into() };
            let envelope = pb::OriginatorEnvelope {
                unsigned_originator_envelope: unsigned,
                proof: Some(Proof::OriginatorSignature(signature)),
            };
            let originator_envelopes = vec![envelope];
            let response = PublishClientEnvelopesResponse { originator_envelopes };
            assert!(response.encoded_len() <= len_bytes + ANSWER_OVERHEAD_BYTES, "{len_bytes}");
        }
    }

    #[test]
    fn each_lie_is_told_from_the_others() {
        let signer = judged(|_| {}, 2).unwrap_err();
        assert!(matches!(signer, AnswerError::Signer(_)));
        let other = judged(|it| it.originator_node_id = 200, 1).unwrap_err();
        assert_eq!(other, AnswerError::Originator(OriginatorId(200)));
        let place = judged(|it| it.originator_sequence_id = 0, 1).unwrap_err();
        assert_eq!(place, AnswerError::NoSequenceId);
        let bytes = |it: &mut pb::UnsignedOriginatorEnvelope| {
            let mut payer = pb::PayerEnvelope::decode(it.payer_envelope_bytes.clone()).unwrap();
            payer.message_retention_days = 365;
            it.payer_envelope_bytes = payer.encode_to_vec().into();
        };
        assert_eq!(judged(bytes, 1).unwrap_err(), AnswerError::OtherPayerEnvelope);
        let late = judged(|it| it.originator_ns += 31 * 60 * 1_000_000_000, 1).unwrap_err();
        assert!(matches!(late, AnswerError::Time { .. }));
        let longer = judged(|it| it.expiry_unixtime += DAY_S + 1, 1).unwrap_err();
        assert!(matches!(longer, AnswerError::Violation(Violation::LateExpiry(_))));
        assert!(judged(|it| it.expiry_unixtime += DAY_S, 1).is_ok(), "signed later than dated");
        let never = judged(|it| it.expiry_unixtime = 0, 1).unwrap_err();
        assert_eq!(never, Violation::Expiry(0).into());
        let expensive = judged(|it| it.base_fee_picodollars += 1, 1).unwrap_err();
        assert!(matches!(expensive, AnswerError::Violation(Violation::BaseFee(_))));
        for fee in [1, 299, 301, 30_300] {
            let congested = judged(|it| it.congestion_fee_picodollars = fee, 1).unwrap_err();
            assert_eq!(congested, Violation::CongestionFee(fee).into());
        }
        assert!(judged(|it| it.congestion_fee_picodollars = 30_000, 1).is_ok());
    }

    #[test]
    fn a_price_of_a_time_that_the_list_does_not_cover_is_unconfirmed() {
        let sent = sent();
        let answer = |change: fn(&mut pb::UnsignedOriginatorEnvelope)| {
            let mut statement = honest(&sent);
            change(&mut statement);
            let sealed = UnsealedEnvelope::new(&statement).seal(&key(1));
            pb::OriginatorEnvelope::decode(sealed).unwrap()
        };
        let as_of = |ns| rates().confirmed(ns);
        let expensive = answer(|it| it.base_fee_picodollars = u64::MAX);
        let honest_fee = 700 + 12_000 * sent.len() as u64;
        let old = check_by(&sent, &expensive, &as_of(NOW_NS - 1)).unwrap();
        assert_eq!(old.unconfirmed, Some(Violation::BaseFee(u64::MAX)));
        assert_eq!(old.fee.0, honest_fee - 600, "no more than the list says is billed");
        let new = check_by(&sent, &expensive, &as_of(NOW_NS)).unwrap_err();
        assert_eq!(new, Violation::BaseFee(u64::MAX).into());
        let right = check_by(&sent, &answer(|_| {}), &as_of(NOW_NS - 1)).unwrap();
        assert_eq!((right.unconfirmed, right.fee.0), (None, honest_fee));
    }

    #[test]
    fn a_statement_without_a_node_behind_it_is_no_answer() {
        let sent = sent();
        let mut answer = pb::OriginatorEnvelope {
            unsigned_originator_envelope: honest(&sent).encode_to_vec().into(),
            proof: None,
        };
        let error = check(&sent, &answer).unwrap_err();
        assert_eq!(error, AnswerError::NoSignature);
        let proof = pb::BlockchainProof { transaction_hash: Bytes::from_static(&[1; 32]) };
        answer.proof = Some(Proof::BlockchainProof(proof));
        let error = check(&sent, &answer).unwrap_err();
        assert_eq!(error, AnswerError::NoSignature);
        let empty = pb::OriginatorEnvelope::default();
        assert!(check(&sent, &empty).is_err());
        // The same statement is an envelope once a node has signed it.
        let sealed = UnsealedEnvelope::new(&honest(&sent)).seal(&key(1));
        assert!(OriginatorEnvelope::parse(sealed).is_ok());
    }
}
