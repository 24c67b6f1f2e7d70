//! Members of an inbox and their identifiers, and the id of an inbox.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use hawser_proto::Address;
use hawser_proto::pb::xmtp::identity::associations as pb;
use pb::member_identifier::Kind as PbKind;
use sha2::{Digest as _, Sha256};

use super::kind::MemberKind;

/// The identifier of a member, or of a signer that may become one.
///
/// Ethereum accounts are compared as text, and signers are written in lower case. An account that an update writes in
/// another way therefore matches no signer and can be neither added nor removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberIdentifier {
    /// An account: `0x` and 40 hexadecimal digits.
    Ethereum(String),
    /// An installation's Ed25519 key.
    Installation(Bytes),
    /// A passkey.
    Passkey(Passkey),
}

/// A passkey's P-256 key. Compared by the key alone.
#[derive(Debug, Clone)]
pub struct Passkey {
    /// The point, in the form that the signer gave.
    pub key: Bytes,
    /// The site that it was made for. Copies share the text: each member that the passkey has added names it, and an
    /// update may give it any length.
    pub relying_party: Option<Arc<str>>,
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

impl MemberIdentifier {
    /// Returns the kind of member.
    #[must_use]
    pub fn kind(&self) -> MemberKind {
        match self {
            Self::Ethereum(_) => MemberKind::Ethereum,
            Self::Installation(_) => MemberKind::Installation,
            Self::Passkey(_) => MemberKind::Passkey,
        }
    }

    /// Returns the length in bytes. Updates can hold accounts and relying parties of any length. A relying party counts
    /// as a whole, although copies share it.
    pub(super) fn len_bytes(&self) -> usize {
        match self {
            Self::Ethereum(text) => text.len(),
            Self::Installation(key) => key.len(),
            Self::Passkey(Passkey { key, relying_party }) => {
                key.len() + relying_party.as_deref().map_or(0, str::len)
            }
        }
    }

    /// Returns the identifier of an account as signers are written: in lower case.
    #[must_use]
    pub fn of_address(address: Address) -> Self {
        Self::Ethereum(format!("0x{}", hex::encode(address.0)))
    }

    /// Returns true if this identifier can found an inbox: it is not an account, or an account of `0x` and 40 digits.
    pub(super) fn founds_inboxes(&self) -> bool {
        let Self::Ethereum(text) = self else { return true };
        let digits = text.strip_prefix("0x").unwrap_or_default();
        digits.len() == 40 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    }

    /// Returns true if this is an account as signers are written: `0x` and 40 lower-case digits.
    pub(super) fn is_of_address(&self) -> bool {
        let Self::Ethereum(text) = self else { return false };
        self.founds_inboxes() && !text.bytes().any(|it| it.is_ascii_uppercase())
    }

    /// Returns the id of the inbox that this identifier creates with `nonce`: 64 lower-case hexadecimal
    /// digits (XIP-46).
    #[must_use]
    pub fn inbox_id(&self, nonce: u64) -> String {
        hex::encode(Sha256::digest(format!("{self}{nonce}")))
    }

    /// Converts from the wire form; `None` if it holds no identifier. Copies keys, because a change that waits for a
    /// contract wallet outlives the envelope that it comes from.
    #[must_use]
    pub(crate) fn from_pb(identifier: &pb::MemberIdentifier) -> Option<Self> {
        Some(match identifier.kind.as_ref()? {
            PbKind::EthereumAddress(text) => Self::Ethereum(text.clone()),
            PbKind::InstallationPublicKey(key) => Self::Installation(Bytes::copy_from_slice(key)),
            PbKind::Passkey(passkey) => Self::Passkey(Passkey {
                key: Bytes::copy_from_slice(&passkey.key),
                relying_party: passkey.relying_party.as_deref().map(Arc::from),
            }),
        })
    }

    /// Converts to the wire form.
    #[must_use]
    pub fn to_pb(&self) -> pb::MemberIdentifier {
        let kind = match self {
            Self::Ethereum(text) => PbKind::EthereumAddress(text.clone()),
            Self::Installation(key) => PbKind::InstallationPublicKey(key.clone()),
            Self::Passkey(passkey) => PbKind::Passkey(pb::Passkey {
                key: passkey.key.clone(),
                relying_party: passkey.relying_party.as_deref().map(str::to_owned),
            }),
        };
        pb::MemberIdentifier { kind: Some(kind) }
    }
}

/// Formats as in the signed text: accounts as they were written, keys as hexadecimal digits.
impl fmt::Display for MemberIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ethereum(text) => f.write_str(text),
            Self::Installation(key) => f.write_str(&hex::encode(key)),
            Self::Passkey(passkey) => f.write_str(&hex::encode(&passkey.key)),
        }
    }
}

/// A member of an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Identifier of the member.
    pub identifier: MemberIdentifier,
    /// The member that added it; `None` for the founder.
    pub added_by: Option<MemberIdentifier>,
    /// Time of the addition by the clock of the client that wrote the update, unix nanoseconds; `None`
    /// for the founder.
    pub client_timestamp_ns: Option<u64>,
    /// Chain of a contract wallet (EIP-155); `None` for other members.
    pub chain_id: Option<u64>,
}

impl Member {
    /// Converts to the wire form.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An update of 200 kB that revokes a key, and waits for a contract wallet, would stay in memory for that key.
    #[test]
    fn an_identifier_keeps_no_envelope_in_memory() {
        let key = Bytes::from(vec![7; 1000]).slice(..32);
        let passkey = pb::Passkey { key: key.clone(), relying_party: None };
        for kind in [PbKind::InstallationPublicKey(key.clone()), PbKind::Passkey(passkey)] {
            let read =
                MemberIdentifier::from_pb(&pb::MemberIdentifier { kind: Some(kind) }).unwrap();
            let (MemberIdentifier::Installation(held)
            | MemberIdentifier::Passkey(Passkey { key: held, .. })) = &read
            else {
                panic!("{read:?}")
            };
            assert_eq!(held, &key);
            assert_ne!(held.as_ptr(), key.as_ptr());
        }
    }
}
