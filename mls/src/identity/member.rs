//! Who can belong to an inbox, and the inbox's name.

use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;
use hawser_proto::Address;
use hawser_proto::pb::xmtp::identity::associations as pb;
use pb::member_identifier::Kind as PbKind;
use sha2::{Digest as _, Sha256};

/// A member, or somebody who might be one.
///
/// Ethereum accounts are compared as text. Who signs is always written in lower case, so an account
/// that an update writes in any other way is nobody: it can be neither added nor removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberIdentifier {
    /// An account, as `0x` and 40 digits.
    Ethereum(String),
    /// An installation's Ed25519 key.
    Installation(Bytes),
    /// A passkey.
    Passkey(Passkey),
}

/// A passkey's P-256 key. Where it is used says nothing about who it is.
#[derive(Debug, Clone)]
pub struct Passkey {
    /// The point, in the form the signer gave.
    pub key: Bytes,
    /// The site it was made for.
    pub relying_party: Option<String>,
}

impl PartialEq for Passkey {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Passkey {}

impl PartialOrd for Passkey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Passkey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

/// The sorts of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// An Ethereum account.
    Ethereum,
    /// An installation of an app.
    Installation,
    /// A passkey.
    Passkey,
}

impl fmt::Display for MemberKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ethereum => "ethereum",
            Self::Installation => "installation",
            Self::Passkey => "passkey",
        })
    }
}

impl MemberIdentifier {
    /// Of which sort it is.
    #[must_use]
    pub fn kind(&self) -> MemberKind {
        match self {
            Self::Ethereum(_) => MemberKind::Ethereum,
            Self::Installation(_) => MemberKind::Installation,
            Self::Passkey(_) => MemberKind::Passkey,
        }
    }

    /// How many bytes hold it. Accounts and relying parties are as long as somebody wrote them.
    pub(super) fn len_bytes(&self) -> usize {
        match self {
            Self::Ethereum(text) => text.len(),
            Self::Installation(key) => key.len(),
            Self::Passkey(Passkey { key, relying_party }) => {
                key.len() + relying_party.as_ref().map_or(0, String::len)
            }
        }
    }

    /// An account in the one way in which signers are written.
    #[must_use]
    pub fn of_address(address: Address) -> Self {
        Self::Ethereum(format!("0x{}", hex::encode(address.0)))
    }

    /// The inbox that this identifier founds with `nonce`: 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn inbox_id(&self, nonce: u64) -> String {
        hex::encode(Sha256::digest(format!("{self}{nonce}")))
    }

    /// Reads the form that travels. `None` when it names nobody.
    #[must_use]
    pub fn from_pb(identifier: &pb::MemberIdentifier) -> Option<Self> {
        Some(match identifier.kind.as_ref()? {
            PbKind::EthereumAddress(text) => Self::Ethereum(text.clone()),
            PbKind::InstallationPublicKey(key) => Self::Installation(key.clone()),
            PbKind::Passkey(passkey) => Self::Passkey(Passkey {
                key: passkey.key.clone(),
                relying_party: passkey.relying_party.clone(),
            }),
        })
    }

    /// The form that travels.
    #[must_use]
    pub fn to_pb(&self) -> pb::MemberIdentifier {
        let kind = match self {
            Self::Ethereum(text) => PbKind::EthereumAddress(text.clone()),
            Self::Installation(key) => PbKind::InstallationPublicKey(key.clone()),
            Self::Passkey(passkey) => PbKind::Passkey(pb::Passkey {
                key: passkey.key.clone(),
                relying_party: passkey.relying_party.clone(),
            }),
        };
        pb::MemberIdentifier { kind: Some(kind) }
    }
}

/// The text that is signed: accounts as they were written, keys as hexadecimal digits.
impl fmt::Display for MemberIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ethereum(text) => f.write_str(text),
            Self::Installation(key) => f.write_str(&hex::encode(key)),
            Self::Passkey(passkey) => f.write_str(&hex::encode(&passkey.key)),
        }
    }
}

/// Somebody who belongs to an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub identifier: MemberIdentifier,
    /// Which member added it; `None` for the founder.
    pub added_by: Option<MemberIdentifier>,
    /// When, by the clock of the client that wrote the update, in Unix nanoseconds; `None` for the
    /// founder.
    pub client_timestamp_ns: Option<u64>,
    /// The chain of a contract wallet.
    pub chain_id: Option<u64>,
}

impl Member {
    /// The form that travels.
    #[must_use]
    pub fn to_pb(&self) -> pb::Member {
        pb::Member {
            identifier: Some(self.identifier.to_pb()),
            added_by_entity: self.added_by.as_ref().map(MemberIdentifier::to_pb),
            client_timestamp_ns: self.client_timestamp_ns,
            added_on_chain_id: self.chain_id,
        }
    }
}
