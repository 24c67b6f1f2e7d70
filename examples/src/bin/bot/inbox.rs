//! An identity on the network: an inbox that a wallet creates, with one installation.

use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::SigningKey;
use hawser_mls::identity::{MemberIdentifier, signed_text};
use hawser_proto::pb::xmtp::identity::MlsCredential;
use hawser_proto::pb::xmtp::identity::associations as pb;
use hawser_proto::pb::xmtp::mls::api::v1::{KeyPackageUpload, UploadKeyPackageRequest};
use hawser_proto::pb::xmtp::xmtpv4::envelopes::client_envelope::Payload;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::{AuthenticatedData, ClientEnvelope};
use hawser_proto::sign::keccak256;
use hawser_proto::{Bytes, InboxId, SecretKey, Topic, TopicKind};
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::*;
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use pb::identity_action::Kind;
use pb::signature::Signature as Signed;
use prost::Message as _;
use sha2::{Digest as _, Sha512};

use crate::BoxError;

/// The cipher suite of XMTP.
pub(crate) const CIPHERSUITE: Ciphersuite =
    Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;
/// Context string of an installation's signature of an identity update, as libxmtp defines it.
const CONTEXT: &[u8] = b"IDENTITY UPDATE SIGNATURE";
/// Number of the inbox. An address may create one inbox for each number.
const NONCE: u64 = 1;

/// A wallet, an installation, and its openmls store.
pub(crate) struct Inbox {
    wallet: SecretKey,
    installation: SigningKey,
    pub(crate) keys: SignatureKeyPair,
    pub(crate) mls: OpenMlsRustCrypto,
}

impl Inbox {
    /// Creates an identity with random keys. The network does not know it yet.
    pub(crate) fn new() -> Result<Self, BoxError> {
        let installation = SigningKey::from_bytes(&rand::random());
        let keys = SignatureKeyPair::from_raw(
            SignatureScheme::ED25519,
            installation.to_bytes().to_vec(),
            installation.verifying_key().to_bytes().to_vec(),
        );
        let mls = OpenMlsRustCrypto::default();
        keys.store(mls.storage())?;
        let wallet = SecretKey::from_bytes(&rand::random())?;
        Ok(Self { wallet, installation, keys, mls })
    }

    fn owner(&self) -> MemberIdentifier {
        MemberIdentifier::of_address(self.wallet.public_key().address())
    }

    /// Returns the inbox id, which follows from the wallet.
    pub(crate) fn id(&self) -> String {
        self.owner().inbox_id(NONCE)
    }

    pub(crate) fn installation_key(&self) -> Bytes {
        Bytes::copy_from_slice(self.installation.verifying_key().as_bytes())
    }

    pub(crate) fn key_package_topic(&self) -> Topic {
        topic(TopicKind::KeyPackages, &self.installation_key())
    }

    pub(crate) fn welcome_topic(&self) -> Topic {
        topic(TopicKind::Welcomes, &self.installation_key())
    }

    /// Returns the MLS credential, which names the inbox.
    pub(crate) fn credential(&self) -> CredentialWithKey {
        let credential = MlsCredential { inbox_id: self.id() }.encode_to_vec();
        CredentialWithKey {
            credential: BasicCredential::new(credential).into(),
            signature_key: self.keys.to_public_vec().into(),
        }
    }

    /// Returns the envelope of a key package, with which other clients add this installation to groups.
    pub(crate) fn key_package(&self) -> Result<ClientEnvelope, BoxError> {
        let extensions = [ExtensionType::LastResort];
        let capable = Capabilities::new(None, Some(&[CIPHERSUITE]), Some(&extensions), None, None);
        let package = KeyPackage::builder()
            .leaf_node_capabilities(capable)
            .mark_as_last_resort()
            .build(CIPHERSUITE, &self.mls, &self.keys, self.credential())?;
        let bytes = package.key_package().tls_serialize_detached()?;
        let upload = KeyPackageUpload { key_package_tls_serialized: bytes.into() };
        let request =
            UploadKeyPackageRequest { key_package: Some(upload), is_inbox_id_credential: false };
        Ok(envelope(&self.key_package_topic(), Payload::UploadKeyPackage(request), None))
    }

    /// Returns the inbox id, and the envelope of the update that creates the inbox and adds the installation.
    pub(crate) fn registration(&self) -> Result<(InboxId, ClientEnvelope), BoxError> {
        // The text to sign does not depend on the signatures, so it comes from an update with empty ones.
        let text = signed_text(&self.signed_update("")?)?;
        let update = self.signed_update(&text)?;
        let inbox = InboxId::from_slice(&hex::decode(self.id())?).ok_or("no inbox id")?;
        let topic = topic(TopicKind::IdentityUpdates, &inbox.0);
        Ok((inbox, envelope(&topic, Payload::IdentityUpdate(update), None)))
    }

    fn signed_update(&self, text: &str) -> Result<pb::IdentityUpdate, BoxError> {
        let by_wallet = self.signed_by_wallet(text);
        let create = pb::CreateInbox {
            initial_identifier: self.owner().to_string(),
            nonce: NONCE,
            initial_identifier_signature: Some(by_wallet.clone()),
            initial_identifier_kind: pb::IdentifierKind::Ethereum.into(),
            relying_party: None,
        };
        let installation = MemberIdentifier::Installation(self.installation_key());
        let add = pb::AddAssociation {
            new_member_identifier: Some(installation.to_pb()),
            existing_member_signature: Some(by_wallet),
            new_member_signature: Some(self.signed_by_installation(text)?),
            relying_party: None,
        };
        let actions = [Kind::CreateInbox(create), Kind::Add(add)];
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(pb::IdentityUpdate {
            actions: actions.map(|kind| pb::IdentityAction { kind: Some(kind) }).to_vec(),
            // Whole seconds, the resolution of the signed text.
            client_timestamp_ns: since_1970.as_secs() * 1_000_000_000,
            inbox_id: self.id(),
        })
    }

    /// Signs a text as wallets do (ERC-191).
    fn signed_by_wallet(&self, text: &str) -> pb::Signature {
        let head = format!("\x19Ethereum Signed Message:\n{}", text.len());
        let signature = self.wallet.sign(keccak256(&[head.as_bytes(), text.as_bytes()]));
        let bytes = Bytes::copy_from_slice(signature.as_bytes());
        pb::Signature { signature: Some(Signed::Erc191(pb::RecoverableEcdsaSignature { bytes })) }
    }

    fn signed_by_installation(&self, text: &str) -> Result<pb::Signature, BoxError> {
        let digest = Sha512::new_with_prefix(text);
        let signature = self.installation.sign_prehashed(digest, Some(CONTEXT))?;
        let signed = pb::RecoverableEd25519Signature {
            bytes: Bytes::copy_from_slice(&signature.to_bytes()),
            public_key: self.installation_key(),
        };
        Ok(pb::Signature { signature: Some(Signed::InstallationKey(signed)) })
    }
}

pub(crate) fn topic(kind: TopicKind, identifier: &[u8]) -> Topic {
    Topic::new(kind, identifier).expect("identifiers are short")
}

/// Returns the envelope of a payload. It depends on the commit `after`.
pub(crate) fn envelope(topic: &Topic, payload: Payload, after: Option<u64>) -> ClientEnvelope {
    use hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor;
    let depends_on =
        after.map(|commit| Cursor { node_id_to_sequence_id: [(0, commit)].into_iter().collect() });
    let aad = AuthenticatedData { target_topic: topic.as_bytes().clone(), depends_on };
    ClientEnvelope { aad: Some(aad), payload: Some(payload) }
}
