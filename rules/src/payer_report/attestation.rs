//! Attestations: nodes' signatures over a report id, and the selection of valid ones.

use std::collections::BTreeMap;

use hawser_proto::envelope::Payload;
use hawser_proto::pb::xmtp::identity::associations::RecoverableEcdsaSignature;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::SignatureError;
use hawser_proto::{Bytes, OriginatorId, PublicKey, SecretKey, Signature, Topic};

use super::report::{NodeIds, ReportId, envelope};

/// Error of decoding or verifying an attestation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// The report id does not have 32 bytes. Holds its length.
    #[error("the report id has {0} bytes instead of 32")]
    ReportId(usize),
    /// The signature is missing.
    #[error("the signature is missing")]
    NoSignature,
    /// The signature is malformed.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The recovery id is neither 0 nor 1, the only values that the contract accepts.
    #[error("recovery id {0} is neither 0 nor 1")]
    RecoveryId(u8),
    /// The attestation is for another report.
    #[error("the attestation is for another report")]
    OtherReport,
    /// The node is not in the canonical network. The contract refuses a whole submission with an unknown node.
    #[error("node {0} is not in the network")]
    NoMember(OriginatorId),
    /// The signature is by another key, or over another digest.
    #[error("the attestation is not signed with the key of node {0}")]
    OtherSigner(OriginatorId),
}

/// A node's statement that a report equals its own computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attestation {
    /// The id of the report.
    pub report: ReportId,
    /// The node that signed, as the attestation states.
    pub node: OriginatorId,
    /// The signature over the id, without any prefix.
    pub signature: Signature,
}

impl Attestation {
    /// Signs a report id as `node`, whose key is `key`. The caller has computed the same report itself.
    #[must_use]
    pub fn sign(report: ReportId, node: OriginatorId, key: &SecretKey) -> Self {
        Self { report, node, signature: key.sign(report.digest()) }
    }

    /// Decodes an attestation from a peer. Does not verify its signature.
    ///
    /// # Errors
    /// [`AttestationError`] if it is malformed.
    pub fn from_message(message: &pb::PayerReportAttestation) -> Result<Self, AttestationError> {
        let id = &message.report_id;
        let report = ReportId::from_slice(id).ok_or(AttestationError::ReportId(id.len()))?;
        let signed = message.signature.as_ref().ok_or(AttestationError::NoSignature)?;
        let bytes = &signed.signature.as_ref().ok_or(AttestationError::NoSignature)?.bytes;
        let signature = Signature::from_bytes(bytes)?;
        match signature.as_bytes()[64] {
            0 | 1 => Ok(Self { report, node: OriginatorId(signed.node_id), signature }),
            v => Err(AttestationError::RecoveryId(v)),
        }
    }

    /// Verifies that this key made the signature.
    ///
    /// # Errors
    /// [`AttestationError::OtherSigner`], [`AttestationError::Signature`].
    pub fn verify(&self, key: &PublicKey) -> Result<(), AttestationError> {
        match self.signature.recover(self.report.digest())? {
            signer if signer == *key => Ok(()),
            _ => Err(AttestationError::OtherSigner(self.node)),
        }
    }

    /// Returns the signature in the contract's encoding, with v of 27 or 28.
    #[must_use]
    pub fn for_contract(&self) -> [u8; 65] {
        let mut bytes = *self.signature.as_bytes();
        bytes[64] += 27;
        bytes
    }

    /// Returns the client envelope that carries the attestation. `about` is the originator of the report.
    #[must_use]
    pub fn client_envelope(&self, about: OriginatorId) -> Bytes {
        let bytes = Bytes::copy_from_slice(self.signature.as_bytes());
        let signature = Some(RecoverableEcdsaSignature { bytes });
        let signature = Some(pb::NodeSignature { node_id: self.node.0, signature });
        let report_id = Bytes::copy_from_slice(&self.report.0);
        let payload = pb::PayerReportAttestation { report_id, signature };
        envelope(Topic::payer_report_attestations(about), Payload::PayerReportAttestation(payload))
    }
}

/// The attestations of one report, divided into valid and invalid ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Majority {
    /// The valid attestations by ascending node id, as the contract requires.
    pub counted: Vec<Attestation>,
    /// The nodes with invalid attestations, each with the reason.
    pub refused: Vec<(OriginatorId, AttestationError)>,
    /// The number of valid attestations that is needed.
    pub needed: usize,
}

impl Majority {
    /// Returns true if there are enough valid attestations.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.counted.len() >= self.needed
    }
}

/// Verifies attestations of a report: the signature, and that the signer is in the canonical network
/// now. `member` returns the key of a canonical node. At most one valid attestation of each node
/// counts, even if it also sent invalid ones.
#[must_use]
pub fn majority(
    report: ReportId,
    nodes: &NodeIds,
    attestations: impl IntoIterator<Item = Attestation>,
    member: impl Fn(OriginatorId) -> Option<PublicKey>,
) -> Majority {
    let mut counted = BTreeMap::new();
    let mut refused = Vec::new();
    for attestation in attestations {
        let node = attestation.node;
        if counted.contains_key(&node) {
            continue;
        }
        let verified = match (attestation.report == report, member(node)) {
            (false, _) => Err(AttestationError::OtherReport),
            (true, None) => Err(AttestationError::NoMember(node)),
            (true, Some(key)) => attestation.verify(&key),
        };
        match verified {
            Ok(()) => _ = counted.insert(node, attestation),
            Err(error) => refused.push((node, error)),
        }
    }
    Majority { counted: counted.into_values().collect(), refused, needed: nodes.majority() }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{bytes, list, small, vectors, word};
    use super::*;

    fn key(of: u8) -> SecretKey {
        SecretKey::from_bytes(&[of; 32]).unwrap()
    }

    #[test]
    fn signatures_are_those_of_other_implementations() {
        for case in list(&vectors("signatures")["payer_report_attestation"]) {
            let key = SecretKey::from_bytes(&word(&case["node_private_key"])).unwrap();
            let report = ReportId(word(&case["report_id"]));
            let made = Attestation::sign(report, OriginatorId(100), &key);
            assert_eq!(made.signature.as_bytes()[..], bytes(&case["signature_as_attested"]));
            assert_eq!(made.for_contract()[..], bytes(&case["signature_as_submitted"]));
            assert_eq!(made.verify(&key.public_key()), Ok(()));
        }
    }

    #[test]
    fn attestations_travel_in_the_bytes_of_other_implementations() {
        for case in list(&vectors("report_envelopes")["cases"]) {
            let made = Attestation {
                report: ReportId(word(&case["report_id"])),
                node: OriginatorId(small(&case["attesting_node"])),
                signature: Signature::from_bytes(&bytes(&case["attestation_signature"])).unwrap(),
            };
            let about = OriginatorId(small(&case["originator_node_id"]));
            let envelope = made.client_envelope(about);
            assert_eq!(envelope, bytes(&case["client_envelope_attestation"]));
            let parsed = hawser_proto::envelope::ClientEnvelope::parse(envelope).unwrap();
            let Payload::PayerReportAttestation(message) = parsed.payload() else { panic!() };
            assert_eq!(Attestation::from_message(message), Ok(made));
        }
    }

    #[test]
    fn what_is_no_attestation_is_refused_with_its_reason() {
        let made = Attestation::sign(ReportId([1; 32]), OriginatorId(100), &key(1));
        let read = |report: usize, v: u8, len: usize| {
            let mut signature = made.signature.as_bytes().to_vec();
            signature[64] = v;
            signature.truncate(len);
            let signature = RecoverableEcdsaSignature { bytes: signature.into() };
            Attestation::from_message(&pb::PayerReportAttestation {
                report_id: vec![1; report].into(),
                signature: Some(pb::NodeSignature { node_id: 100, signature: Some(signature) }),
            })
            .map(|it| it.node)
        };
        assert_eq!(read(32, 0, 65), Ok(OriginatorId(100)));
        assert_eq!(read(31, 0, 65), Err(AttestationError::ReportId(31)));
        assert_eq!(read(32, 2, 65), Err(AttestationError::RecoveryId(2)));
        assert_eq!(read(32, 27, 65), Err(SignatureError::RecoveryId(27).into()));
        assert_eq!(read(32, 0, 64), Err(SignatureError::Length(64).into()));
        let none = pb::PayerReportAttestation { report_id: vec![1; 32].into(), signature: None };
        assert_eq!(Attestation::from_message(&none), Err(AttestationError::NoSignature));
    }

    /// Attestations of non-members, forged ones and repeated ones do not count, and do not affect others.
    #[test]
    fn only_valid_attestations_of_members_count_once_each() {
        let report = ReportId([1; 32]);
        let nodes = NodeIds::new([100, 200, 300].map(OriginatorId)).unwrap();
        let sign = |node: u32, by: u8| Attestation::sign(report, OriginatorId(node), &key(by));
        let member = |node: OriginatorId| match node.0 {
            100 | 200 | 300 => Some(key(u8::try_from(node.0 / 100).unwrap()).public_key()),
            _ => None,
        };
        let of_other = Attestation::sign(ReportId([2; 32]), OriginatorId(300), &key(3));
        let given = [sign(300, 3), sign(400, 4), sign(200, 9), sign(300, 3), of_other];
        let few = majority(report, &nodes, given, member);
        assert_eq!((few.counted.len(), few.needed, few.is_reached()), (1, 2, false));
        let node = OriginatorId;
        let strangers = [
            (node(400), AttestationError::NoMember(node(400))),
            (node(200), AttestationError::OtherSigner(node(200))),
        ];
        assert_eq!(few.refused, strangers);
        let enough = majority(report, &nodes, given.into_iter().chain([sign(200, 2)]), member);
        assert!(enough.is_reached(), "a forged one before it takes nothing away");
        let counted: Vec<u32> = enough.counted.iter().map(|it| it.node.0).collect();
        assert_eq!(counted, [200, 300], "in the order of the contract");
    }
}
