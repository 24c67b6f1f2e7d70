//! Checks of client envelopes and of signed statements. Nodes use them before they sign, gateways before they send, and
//! both to judge what a node has signed.
//!
//! `docs/protocol/rules.md` specifies the rules and their numbers.

use hawser_proto::batch::SignatureClaim;
use hawser_proto::envelope::{ClientEnvelope, PayerEnvelope, Payload, UnsignedOriginatorEnvelope};
use hawser_proto::loose::LoosePayerEnvelope;
use hawser_proto::mls;
use hawser_proto::pb::xmtp::mls::api::v1 as mls_api;
use hawser_proto::{
    Address, Bytes, Digest, OriginatorId, PublicKey, Signature, TOPIC_LEN_BYTES_MAX,
};

use crate::fees::{Charged, PicoDollarPrice, RateTable, WrongFeeError, is_free};
use crate::retention::{check_expiry, check_retention_in};
use crate::violation::Violation;

/// The class of a publishable payload. It decides whether a node or the app chain orders the envelope. Gateways'
/// policies refer to it by [`name`](Self::name).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PayloadClass {
    /// An application message of a group.
    Message,
    /// A commit or proposal of a group.
    Commit,
    /// A welcome: an invitation to a group.
    Welcome,
    /// A key package.
    KeyPackage,
    /// An identity update: a change to an inbox.
    IdentityUpdate,
}

impl PayloadClass {
    /// All classes, in the order used in error messages.
    pub const ALL: [Self; 5] =
        [Self::Message, Self::Commit, Self::Welcome, Self::KeyPackage, Self::IdentityUpdate];

    /// Returns the name that policy files use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Commit => "commit",
            Self::Welcome => "welcome",
            Self::KeyPackage => "key_package",
            Self::IdentityUpdate => "identity_update",
        }
    }
}

/// Checks that the topic's kind byte matches the payload and that the topic is short enough to be queried.
///
/// # Errors
/// [`Violation::TopicMismatch`], [`Violation::TopicTooLong`].
pub fn check_topic(client: &ClientEnvelope) -> Result<(), Violation> {
    if client.topic().kind() != client.payload_kind() {
        return Err(Violation::TopicMismatch);
    }
    match client.topic().as_bytes().len() {
        len if len > TOPIC_LEN_BYTES_MAX => Err(Violation::TopicTooLong(len)),
        _ => Ok(()),
    }
}

/// Checks that every dependency is on a chain's strand.
///
/// # Errors
/// [`Violation::DependsOnNode`] with the first dependency on a node.
pub fn check_dependencies_on_chains(client: &ClientEnvelope) -> Result<(), Violation> {
    match client.depends_on().iter().find(|id| id.originator.is_node()) {
        Some(id) => Err(Violation::DependsOnNode(*id)),
        None => Ok(()),
    }
}

/// Checks that this node has every dependency, so that no reader waits for an envelope that may never come. `seen`
/// returns the last sequence id that this node has of a strand, 0 if none.
///
/// # Errors
/// [`Violation::DependencyUnseen`], [`Violation::DependencyAhead`].
pub fn check_dependencies_known(
    client: &ClientEnvelope,
    seen: impl Fn(OriginatorId) -> u64,
) -> Result<(), Violation> {
    for &needed in client.depends_on() {
        match seen(needed.originator) {
            0 => return Err(Violation::DependencyUnseen(needed)),
            seen if seen < needed.sequence.0 => {
                return Err(Violation::DependencyAhead { needed, seen });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Classifies the payload of a client envelope and checks that it is well-formed to its last byte. `key_package`
/// validates the TLS bytes of a key package; its error is a sentence for the publisher.
///
/// # Errors
/// [`Violation::Reserved`], [`Violation::GroupMessage`], [`Violation::GroupMessageEmpty`],
/// [`Violation::KeyPackage`].
pub fn payload_class(
    client: &ClientEnvelope,
    key_package: impl FnOnce(&Bytes) -> Result<(), String>,
) -> Result<PayloadClass, Violation> {
    match client.payload() {
        Payload::GroupMessage(message) => group_message_class(client.topic().identifier(), message),
        Payload::WelcomeMessage(_) => Ok(PayloadClass::Welcome),
        Payload::UploadKeyPackage(upload) => match &upload.key_package {
            Some(upload) => key_package(&upload.key_package_tls_serialized)
                .map(|()| PayloadClass::KeyPackage)
                .map_err(Violation::KeyPackage),
            None => Err(Violation::KeyPackage("there is none in the upload".into())),
        },
        Payload::IdentityUpdate(_) => Ok(PayloadClass::IdentityUpdate),
        Payload::PayerReport(_) | Payload::PayerReportAttestation(_) => Err(Violation::Reserved),
    }
}

fn group_message_class(
    topic_id: &[u8],
    message: &mls_api::GroupMessageInput,
) -> Result<PayloadClass, Violation> {
    let Some(mls_api::group_message_input::Version::V1(v1)) = &message.version else {
        return Err(Violation::GroupMessageEmpty);
    };
    let frame = mls::parse_group_message(&v1.data).map_err(Violation::GroupMessage)?;
    frame.check_group_id(topic_id).map_err(Violation::GroupMessage)?;
    Ok(if frame.is_chain_bound() { PayloadClass::Commit } else { PayloadClass::Message })
}

/// Checks that a node orders the payload's class, and that the payload is well-formed to its last byte. `key_package`
/// validates the TLS bytes of a key package.
///
/// # Errors
/// The errors of [`payload_class`]; [`Violation::ChainBoundMessage`] and [`Violation::IdentityUpdate`]
/// for payloads that the app chain orders.
pub fn check_payload(
    client: &ClientEnvelope,
    key_package: impl FnOnce(&Bytes) -> Result<(), String>,
) -> Result<(), Violation> {
    match payload_class(client, key_package)? {
        PayloadClass::Message | PayloadClass::Welcome | PayloadClass::KeyPackage => Ok(()),
        PayloadClass::Commit => Err(Violation::ChainBoundMessage),
        PayloadClass::IdentityUpdate => Err(Violation::IdentityUpdate),
    }
}

/// Checks that a key package parses to its last byte. Checks neither its signatures nor its lifetime.
///
/// # Errors
/// A sentence for the publisher.
pub fn key_package_form(tls_bytes: &Bytes) -> Result<(), String> {
    mls::parse_key_package(tls_bytes).map(|_| ()).map_err(|error| error.to_string())
}

/// Checks that a key package parses to its last byte, and its signatures as
/// [`check_signatures`](mls::KeyPackageView::check_signatures) does. Does not check its lifetime, so the result does
/// not change with time. Accepts every key package that a node admits.
///
/// # Errors
/// A sentence for the publisher.
pub fn key_package_signatures(tls_bytes: &Bytes) -> Result<(), String> {
    let package = mls::parse_key_package(tls_bytes).map_err(|error| error.to_string())?;
    package.check_signatures().map_err(|error| error.to_string())
}

/// Returns the payer signature.
///
/// # Errors
/// [`Violation::PayerSignatureMissing`], or [`Violation::PayerSignature`] if it is malformed.
pub(crate) fn payer_signature(payer: &PayerEnvelope) -> Result<Signature, Violation> {
    let bytes = payer.signature_bytes().ok_or(Violation::PayerSignatureMissing)?;
    Ok(Signature::from_bytes(bytes)?)
}

/// Returns the payer signature with the digest that it signs, without recovering its signer.
///
/// # Errors
/// [`Violation::PayerSignatureMissing`], or [`Violation::PayerSignature`] if it is malformed.
pub fn payer_claim(payer: &PayerEnvelope) -> Result<SignatureClaim, Violation> {
    let signature = payer_signature(payer)?;
    Ok(SignatureClaim { digest: payer.digest(), signature, expected: None })
}

/// Returns the [claim](payer_claim) of each of these envelopes, in their order. The digests of many cost less each.
///
/// # Errors
/// Each result has those of [`payer_claim`].
pub fn payer_claims(payers: &[&PayerEnvelope]) -> Vec<Result<SignatureClaim, Violation>> {
    let signatures: Vec<_> = payers.iter().map(|payer| payer_signature(payer)).collect();
    // Chains' envelopes have none, and need no digest.
    let signed = payers.iter().zip(&signatures).filter(|(_, signature)| signature.is_ok());
    let signed: Vec<&PayerEnvelope> = signed.map(|(payer, _)| *payer).collect();
    let mut digests = PayerEnvelope::digests(&signed).into_iter();
    let claim = |signature: Result<Signature, Violation>| -> Result<SignatureClaim, Violation> {
        let signature = signature?;
        let digest = digests.next().expect("one for each signature");
        Ok(SignatureClaim { digest, signature, expected: None })
    };
    signatures.into_iter().map(claim).collect()
}

/// The length of the longest originator envelope that readers get, in bytes. Specified (`docs/protocol/rules.md`, rule
/// 16): clients and peers accept messages of 25 MiB, of which 2 KiB are reserved for the message around the envelope.
pub const ENVELOPE_LEN_BYTES_MAX: usize = 25 * 1024 * 1024 - 2 * 1024;

/// Checks that an originator envelope of `len_bytes` fits into every kind of response.
///
/// # Errors
/// [`Violation::TooLong`].
pub fn check_length(len_bytes: usize) -> Result<(), Violation> {
    match len_bytes {
        0..=ENVELOPE_LEN_BYTES_MAX => Ok(()),
        _ => Err(Violation::TooLong(len_bytes)),
    }
}

/// Checks a statement that another node has signed against every rule that depends only on its bytes and the registry.
/// `payer` is the account recovered from the payer signature, and `node_key` the signing node's key in the registry.
/// Fees are checked by [`check_charges`]. The expiry of envelopes migrated from the older network is not checked,
/// because it depends on the time at which they were first sent, which is not in the statement. Neither are the
/// signatures of their key packages, because nodes of that network accepted these.
///
/// Costs two checks of signatures for a key package.
///
/// # Errors
/// The first broken rule, which always has a rule number. The rule on the expiry is the last one, so an envelope with
/// [`Violation::LateExpiry`] breaks no other.
pub fn check_statement(
    statement: &UnsignedOriginatorEnvelope,
    payer: Result<Address, Violation>,
    node_key: &PublicKey,
) -> Result<(), Violation> {
    let envelope = statement.payer();
    if envelope.target() != statement.id().originator {
        return Err(Violation::Target);
    }
    let payer = payer?;
    let client = envelope.client();
    check_topic(client)?;
    check_dependencies_on_chains(client)?;
    check_retention_in(statement.id().originator, envelope.retention_days())?;
    if client.topic().kind().is_reserved() {
        // Reports and attestations are published by nodes, each under its own key.
        if payer != node_key.address() {
            return Err(Violation::Reserved);
        }
    } else if statement.id().originator.is_migrated() {
        check_payload(client, key_package_form)?;
    } else {
        check_payload(client, key_package_signatures)?;
    }
    if statement.id().originator.is_migrated() {
        return Ok(());
    }
    check_expiry(statement.originator_ns(), envelope.retention_days(), statement.expiry_unix_s())
}

/// The terms of a payer for an envelope that does not decode here, and may elsewhere. All of them stand outside of the
/// payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OddTerms {
    /// The account that the payer's signature recovers to.
    pub payer: Address,
    /// The digest that the payer's signature covers.
    pub digest: Digest,
    /// The length of the payer envelope in bytes.
    pub size_bytes: u64,
    /// The retention in days.
    pub retention_days: u32,
    /// True if the topic is free; `None` if this version does not know its kind.
    pub is_free: Option<bool>,
}

impl OddTerms {
    /// Returns true if the payer owes for the envelope, in the strand of a node. `stated` is the sum of the fees in its
    /// statement. For a kind that this version does not know, these fees alone tell whether it is free: a node states
    /// none for a free envelope.
    #[must_use]
    pub fn are_owed(&self, stated: PicoDollarPrice) -> bool {
        self.is_free.map_or(stated.0 > 0, |is_free| !is_free)
    }
}

/// Returns the terms of a payer envelope which does not decode here, if software that reads odd fields differently, or
/// has a newer schema, may have taken it from a payer ([`LoosePayerEnvelope`]). The node that put it in order then did
/// nothing wrong: the payer has signed these very bytes for it, with a retention that all nodes accept. So the payer
/// [may owe](OddTerms::are_owed) for it.
///
/// Costs one signature recovery.
#[must_use]
pub fn odd_terms(originator: OriginatorId, payer_envelope: &Bytes) -> Option<OddTerms> {
    let read = LoosePayerEnvelope::read(payer_envelope)?;
    let retention_days = read.retention_days();
    if read.target() != originator || check_retention_in(originator, retention_days).is_err() {
        return None;
    }
    let signature = Signature::from_bytes(read.signature_bytes()?).ok()?;
    let digest = read.digest();
    let payer = signature.recover(digest).ok()?.address();
    let (size_bytes, is_free) = (payer_envelope.len() as u64, read.kind().map(is_free));
    Some(OddTerms { payer, digest, size_bytes, retention_days, is_free })
}

/// Returns true if an envelope that does not decode here may have been read elsewhere, as [`odd_terms`] finds it.
#[must_use]
pub fn is_read_elsewhere(originator: OriginatorId, payer_envelope: &Bytes) -> bool {
    odd_terms(originator, payer_envelope).is_some()
}

/// Returns true if a statement expires so late that it breaks the rule on expiries ([`Violation::LateExpiry`]). That
/// proves nothing against its node: a node of other software computes the expiry when it signs, which may be long after
/// the envelope's time.
#[must_use]
pub fn expires_late(statement: &UnsignedOriginatorEnvelope) -> bool {
    let days = statement.payer().retention_days();
    let checked = check_expiry(statement.originator_ns(), days, statement.expiry_unix_s());
    matches!(checked, Err(Violation::LateExpiry(_)))
}

/// Checks that a rate in force at the statement's time gives its base fee and allows its congestion fee.
/// Envelopes of reserved topics are free.
///
/// # Errors
/// [`Violation::BaseFee`], [`Violation::CongestionFee`]. A caller whose rates may be older than the statement should
/// refresh them before it blames the signer, and blame it by [`check_charges_by_former`] alone.
pub fn check_charges(
    statement: &UnsignedOriginatorEnvelope,
    rates: &RateTable,
) -> Result<(), Violation> {
    check_charges_by(statement, |charged| rates.explain(charged))
}

/// Repeats [`check_charges`] with all rates that had begun by the statement's time. A statement that fails proves its
/// signer guilty. A statement that passes only this check follows a rate that a later one had replaced. It proves
/// nothing, because the later rate may have reached the chain long after its start.
///
/// # Errors
/// [`Violation::BaseFee`], [`Violation::CongestionFee`].
pub fn check_charges_by_former(
    statement: &UnsignedOriginatorEnvelope,
    rates: &RateTable,
) -> Result<(), Violation> {
    check_charges_by(statement, |charged| rates.explain_by_former(charged))
}

fn check_charges_by(
    statement: &UnsignedOriginatorEnvelope,
    explain: impl FnOnce(&Charged) -> Result<(), WrongFeeError>,
) -> Result<(), Violation> {
    let (base, congestion) = (statement.base_fee(), statement.congestion_fee());
    let envelope = statement.payer();
    if is_free(envelope.client().topic().kind()) {
        return check_no_charges(statement);
    }
    let charged = Charged {
        at_ns: statement.originator_ns(),
        size_bytes: envelope.as_bytes().len() as u64,
        days: envelope.retention_days(),
        base,
        congestion,
    };
    explain(&charged).map_err(|wrong| match wrong {
        WrongFeeError::Base => Violation::BaseFee(base.0),
        WrongFeeError::Congestion => Violation::CongestionFee(congestion.0),
    })
}

/// Checks that a statement has no fees, as that of an envelope of a reserved topic must. No rate decides about it.
///
/// # Errors
/// [`Violation::BaseFee`], [`Violation::CongestionFee`].
pub fn check_no_charges(statement: &UnsignedOriginatorEnvelope) -> Result<(), Violation> {
    match (statement.base_fee().0, statement.congestion_fee().0) {
        (0, 0) => Ok(()),
        (0, congestion) => Err(Violation::CongestionFee(congestion)),
        (base, _) => Err(Violation::BaseFee(base)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use hawser_proto::pb::xmtp::mls::api::v1::{
        KeyPackageUpload, UploadKeyPackageRequest, WelcomeMessageInput,
    };
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_proto::{EnvelopeId, SecretKey};
    use prost::Message as _;
    use serde_json::Value;

    use super::*;
    use crate::retention::RETENTION_MIGRATED;

    fn welcome(topic: &[u8], depends_on: &[(u32, u64)]) -> ClientEnvelope {
        let cursor = pb::Cursor { node_id_to_sequence_id: depends_on.iter().copied().collect() };
        let aad = pb::AuthenticatedData {
            target_topic: Bytes::copy_from_slice(topic),
            depends_on: Some(cursor),
        };
        let payload = Some(Payload::WelcomeMessage(WelcomeMessageInput::default()));
        let client = pb::ClientEnvelope { aad: Some(aad), payload };
        ClientEnvelope::parse(client.encode_to_vec().into()).unwrap()
    }

    /// Envelopes captured from real clients. The class has to match where the real gateway sent each of them, and a
    /// node accepts exactly those that nodes order.
    #[test]
    fn captured_envelopes_have_the_class_of_their_route() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/client/envelopes.jsonl");
        let text = std::fs::read_to_string(path).unwrap();
        let mut classes = std::collections::BTreeSet::new();
        for line in text.lines() {
            let vector: Value = serde_json::from_str(line).unwrap();
            let bytes = hex::decode(vector["hex"].as_str().unwrap()).unwrap();
            let client = ClientEnvelope::parse(bytes.into()).unwrap();
            assert_eq!(check_topic(&client), Ok(()));
            let class = payload_class(&client, key_package_form).unwrap();
            let (route, expected) = match class {
                PayloadClass::Commit => ("chain:group", Err(Violation::ChainBoundMessage)),
                PayloadClass::IdentityUpdate => ("chain:identity", Err(Violation::IdentityUpdate)),
                PayloadClass::Message | PayloadClass::Welcome | PayloadClass::KeyPackage => {
                    ("node", Ok(()))
                }
            };
            assert_eq!(vector["expect_route"].as_str(), Some(route), "{vector}");
            assert_eq!(check_payload(&client, key_package_form), expected, "{vector}");
            classes.insert(class);
        }
        assert_eq!(classes.len(), PayloadClass::ALL.len(), "the vectors have every class");
    }

    /// Returns the key packages of captured clients.
    pub(crate) fn key_packages() -> Vec<Bytes> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/client/envelopes.jsonl");
        let package = |line: &str| {
            let vector: Value = serde_json::from_str(line).unwrap();
            let bytes = hex::decode(vector["hex"].as_str().unwrap()).unwrap();
            let client = ClientEnvelope::parse(bytes.into()).unwrap();
            let Payload::UploadKeyPackage(upload) = client.payload() else { return None };
            Some(upload.key_package.clone().unwrap().key_package_tls_serialized)
        };
        std::fs::read_to_string(path).unwrap().lines().filter_map(package).collect()
    }

    /// Returns a key package with a change in the signature of its leaf, and with one in its own.
    pub(crate) fn wrongly_signed(package: &Bytes) -> [Bytes; 2] {
        let view = mls::parse_key_package(package).unwrap();
        [view.signed_leaf, view.signed].map(|part| {
            let at = package.windows(64).position(|it| it == part.signature).unwrap();
            let mut changed = package.to_vec();
            changed[at] ^= 1;
            changed.into()
        })
    }

    pub(crate) fn upload(package: Bytes) -> Payload {
        let upload = KeyPackageUpload { key_package_tls_serialized: package };
        Payload::UploadKeyPackage(UploadKeyPackageRequest {
            key_package: Some(upload),
            is_inbox_id_credential: true,
        })
    }

    #[test]
    fn a_key_package_with_a_wrong_signature_breaks_a_rule_except_in_the_older_network() {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let judged = |originator: OriginatorId, package: &Bytes| {
            let aad = pb::AuthenticatedData {
                target_topic: Bytes::from_static(&[3, 9]),
                ..Default::default()
            };
            let client =
                pb::ClientEnvelope { aad: Some(aad), payload: Some(upload(package.clone())) };
            let client = client.encode_to_vec().into();
            let statement = pb::UnsignedOriginatorEnvelope {
                originator_node_id: originator.0,
                originator_sequence_id: 1,
                originator_ns: 1_750_000_000_000_000_000,
                payer_envelope_bytes: PayerEnvelope::sign(client, originator, 60, &key)
                    .encode_to_vec()
                    .into(),
                expiry_unixtime: 1_750_000_000 + 60 * 86_400,
                ..Default::default()
            };
            let statement =
                UnsignedOriginatorEnvelope::parse(statement.encode_to_vec().into()).unwrap();
            check_statement(&statement, Ok(key.public_key().address()), &key.public_key())
        };
        let (node, migrated) = (OriginatorId::FIRST_NODE, OriginatorId::MIGRATED[2]);
        let packages = key_packages();
        assert!(packages.len() > 5);
        for package in packages {
            assert_eq!(judged(node, &package), Ok(()));
            for wrong in wrongly_signed(&package) {
                let violation = judged(node, &wrong).unwrap_err();
                assert_eq!(violation.rule().map(|rule| rule.0), Some(14), "{violation}");
                assert_eq!(judged(migrated, &wrong), Ok(()));
            }
        }
    }

    #[test]
    fn a_topic_belongs_to_its_payload_and_can_be_queried() {
        assert_eq!(check_topic(&welcome(&[1; TOPIC_LEN_BYTES_MAX], &[])), Ok(()));
        let long = welcome(&[1; TOPIC_LEN_BYTES_MAX + 1], &[]);
        assert_eq!(check_topic(&long), Err(Violation::TopicTooLong(TOPIC_LEN_BYTES_MAX + 1)));
        assert_eq!(check_topic(&welcome(&[0, 1], &[])), Err(Violation::TopicMismatch));
    }

    #[test]
    fn data_of_the_older_network_may_have_a_retention_without_an_end() {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let judged = |originator: OriginatorId| {
            let client = welcome(&[1; 33], &[]).as_bytes().clone();
            let payer = PayerEnvelope::sign(client, originator, RETENTION_MIGRATED, &key);
            let statement = pb::UnsignedOriginatorEnvelope {
                originator_node_id: originator.0,
                originator_sequence_id: 1,
                originator_ns: 1_750_000_000_000_000_000,
                payer_envelope_bytes: payer.encode_to_vec().into(),
                ..Default::default()
            };
            let statement =
                UnsignedOriginatorEnvelope::parse(statement.encode_to_vec().into()).unwrap();
            check_statement(&statement, Ok(key.public_key().address()), &key.public_key())
        };
        assert_eq!(judged(OriginatorId::MIGRATED[1]), Ok(()));
        let refused = Err(Violation::Retention(RETENTION_MIGRATED));
        assert_eq!(judged(OriginatorId::FIRST_NODE), refused);
    }

    /// Played by any payer who knows the topic of a group: clients refuse a page with such a message.
    #[test]
    fn a_message_of_a_group_that_no_client_has_breaks_a_rule() {
        let class_of_topic = |topic_id: &[u8], id_len: u8, content_type: u8| {
            let id = vec![0xaa; id_len.into()];
            let data = [&[0, 1, 0, 2, id_len][..], &id, &[0; 8], &[content_type, 0, 0, 0]].concat();
            let v1 = mls_api::group_message_input::V1 { data: data.into(), ..Default::default() };
            let version = Some(mls_api::group_message_input::Version::V1(v1));
            group_message_class(topic_id, &mls_api::GroupMessageInput { version })
        };
        let class = |id_len, content_type| class_of_topic(&[0xbb; 16], id_len, content_type);
        assert_eq!(class(16, 1), Ok(PayloadClass::Message));
        assert_eq!(class(16, 3), Ok(PayloadClass::Commit));
        for (len, content_type) in [(0, 1), (15, 1), (17, 1), (32, 1), (15, 3)] {
            let error = mls::MlsParseError::GroupIdLen(len.into());
            assert_eq!(class(len, content_type), Err(Violation::GroupMessage(error)));
        }
        assert_eq!(
            class_of_topic(&[0xbb; 32], 32, 1),
            Ok(PayloadClass::Message),
            "no client has the topic"
        );
    }

    #[test]
    fn an_envelope_fits_into_an_answer() {
        assert_eq!(check_length(ENVELOPE_LEN_BYTES_MAX), Ok(()));
        let longer = ENVELOPE_LEN_BYTES_MAX + 1;
        assert_eq!(check_length(longer), Err(Violation::TooLong(longer)));
    }

    #[test]
    fn dependencies_are_on_chains_and_held_here() {
        let on = |originator, sequence| welcome(&[1, 1], &[(originator, sequence)]);
        assert_eq!(check_dependencies_on_chains(&on(0, 7)), Ok(()));
        let node = check_dependencies_on_chains(&on(100, 7));
        assert!(matches!(node, Err(Violation::DependsOnNode(_))));
        let needed = EnvelopeId::new(OriginatorId(0), hawser_proto::SequenceId(7));
        assert_eq!(check_dependencies_known(&on(0, 7), |_| 7), Ok(()));
        let ahead = Violation::DependencyAhead { needed, seen: 6 };
        assert_eq!(check_dependencies_known(&on(0, 7), |_| 6), Err(ahead));
        let unseen = Violation::DependencyUnseen(needed);
        assert_eq!(check_dependencies_known(&on(0, 7), |_| 0), Err(unseen));
    }
}
