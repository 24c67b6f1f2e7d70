//! Identity updates as clients make them. Written after `docs/protocol/identity.md`, independently of the code that
//! validates them.

use bytes::Bytes;
use hawser_proto::envelope::Payload;
use hawser_proto::pb::xmtp::identity::associations as pb;
use hawser_proto::sign::keccak256;
use hawser_proto::{Digest, InboxId, SecretKey, Topic, TopicKind};
use pb::identity_action::Kind;
use pb::signature::Signature as Signed;
use sha2::{Digest as _, Sha256};

use super::envelopes::client;

/// Time of every update by its client's clock, unix nanoseconds.
const TIME_NS: u64 = 1_795_155_446_000_000_000;
/// The same time as in the signed text.
const TIME: &str = "2026-11-20T06:17:26Z";

/// An account that can be a member of inboxes.
#[derive(Debug, Clone)]
pub enum Account {
    /// An account with a key.
    Key(SecretKey),
    /// A contract wallet (ERC-1271), as of a block of its chain. The holder of the key signs for it.
    Contract {
        /// Its chain.
        chain_id: u64,
        /// Its address.
        address: [u8; 20],
        /// The block at which the wallet is asked.
        block_number: u64,
        /// The key that signs for it.
        key: SecretKey,
    },
}

/// Returns the key of an account. Equal numbers give the same key.
#[must_use]
pub fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes(&[number.max(1); 32]).unwrap()
}

impl Account {
    /// An account with a key.
    #[must_use]
    pub fn with_key(number: u8) -> Self {
        Self::Key(key(number))
    }

    /// Returns the address in lower case, as inboxes name it.
    #[must_use]
    pub fn address(&self) -> String {
        let bytes = match self {
            Self::Key(key) => key.public_key().address().0,
            Self::Contract { address, .. } => *address,
        };
        format!("0x{}", hex::encode(bytes))
    }

    /// Returns the id of the inbox that the account founds with this nonce.
    #[must_use]
    pub fn inbox_id(&self, nonce: u64) -> InboxId {
        InboxId(Sha256::digest(format!("{}{nonce}", self.address())).into())
    }

    fn sign(&self, text: &str) -> pb::Signature {
        let (Self::Key(key) | Self::Contract { key, .. }) = self;
        let bytes = sign(key, personal(text));
        let signature = match self {
            Self::Key(_) => Signed::Erc191(pb::RecoverableEcdsaSignature { bytes }),
            Self::Contract { chain_id, block_number, .. } => {
                Signed::Erc6492(pb::SmartContractWalletSignature {
                    account_id: format!("eip155:{chain_id}:{}", self.address()),
                    block_number: *block_number,
                    signature: bytes,
                })
            }
        };
        pb::Signature { signature: Some(signature) }
    }
}

/// Returns the digest of a text that wallets sign (ERC-191).
#[must_use]
pub fn personal(text: &str) -> Digest {
    let prefix = format!("\x19Ethereum Signed Message:\n{}", text.len());
    keccak256(&[prefix.as_bytes(), text.as_bytes()])
}

/// Signs as wallets do: the last byte is 27 or 28.
#[must_use]
pub fn sign(key: &SecretKey, digest: Digest) -> Bytes {
    let mut bytes = *key.sign(digest).as_bytes();
    bytes[64] += 27;
    Bytes::copy_from_slice(&bytes)
}

/// Returns the first update of an inbox.
#[must_use]
pub fn founding(founder: &Account, nonce: u64) -> pb::IdentityUpdate {
    let (inbox, address) = (founder.inbox_id(nonce), founder.address());
    let text = text(inbox, &format!("- Create inbox\n  (Owner: {address})"));
    let action = Kind::CreateInbox(pb::CreateInbox {
        initial_identifier: address,
        nonce,
        initial_identifier_signature: Some(founder.sign(&text)),
        initial_identifier_kind: pb::IdentifierKind::Ethereum.into(),
        relying_party: None,
    });
    update(inbox, action)
}

/// Returns an update by which a member of an inbox adds another account.
#[must_use]
pub fn adding(inbox: InboxId, member: &Account, new: &Account) -> pb::IdentityUpdate {
    let address = new.address();
    let text = text(inbox, &format!("- Link address to inbox\n  (Address: {address})"));
    let action = Kind::Add(pb::AddAssociation {
        new_member_identifier: Some(identifier(&address)),
        existing_member_signature: Some(member.sign(&text)),
        new_member_signature: Some(new.sign(&text)),
        relying_party: None,
    });
    update(inbox, action)
}

/// Returns the identifier of an account as states of inboxes name it.
#[must_use]
pub fn identifier(address: &str) -> pb::MemberIdentifier {
    let kind = pb::member_identifier::Kind::EthereumAddress(address.to_owned());
    pb::MemberIdentifier { kind: Some(kind) }
}

/// Returns the topic of an inbox.
#[must_use]
pub fn topic(inbox: InboxId) -> Topic {
    Topic::new(TopicKind::IdentityUpdates, &inbox.0).unwrap()
}

/// Returns the client envelope of an update.
///
/// # Panics
/// Panics if the update names no inbox.
#[must_use]
pub fn envelope(update: pb::IdentityUpdate) -> Bytes {
    let inbox = InboxId::from_slice(&hex::decode(&update.inbox_id).unwrap()).unwrap();
    client(topic(inbox).as_bytes(), None, Some(Payload::IdentityUpdate(update)))
}

fn text(inbox: InboxId, action: &str) -> String {
    format!(
        "XMTP : Authenticate to inbox\n\nInbox ID: {inbox}\nCurrent time: {TIME}\n\n{action}\n\n\
         For more info: https://xmtp.org/signatures"
    )
}

fn update(inbox: InboxId, action: Kind) -> pb::IdentityUpdate {
    pb::IdentityUpdate {
        actions: vec![pb::IdentityAction { kind: Some(action) }],
        client_timestamp_ns: TIME_NS,
        inbox_id: inbox.to_string(),
    }
}
