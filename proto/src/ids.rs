//! Ids of originators, envelopes, groups, inboxes and transactions, kept apart by type.

use std::fmt;

/// Id of the originator that sequences an envelope: a registered node, or a chain contract.
///
/// Ids below [`OriginatorId::FIRST_NODE`] are not nodes: 0 sequences group commits and 1 identity
/// updates on the app chain; 10 to 14 belong to data migrated from the older network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct OriginatorId(pub u32);

impl OriginatorId {
    /// The app chain's group message broadcaster.
    pub const GROUP_MESSAGES: Self = Self(0);
    /// The app chain's identity update broadcaster.
    pub const IDENTITY_UPDATES: Self = Self(1);
    /// The strands that the app chain orders. Envelopes of other strands may depend on these.
    pub const CHAINS: [Self; 2] = [Self::GROUP_MESSAGES, Self::IDENTITY_UPDATES];
    /// Strands of messages, welcomes and key packages that were taken over from the older network. One
    /// key, which no registry names, has signed them.
    pub const MIGRATED: [Self; 3] = [Self(10), Self(11), Self(13)];
    /// The lowest id that the node registry assigns.
    pub const FIRST_NODE: Self = Self(100);
    /// The id under which a replica stores its log. No registry assigns it, and no signature names it.
    pub const REPLICA: Self = Self(u32::MAX);
    /// The lowest id of those that stand for replicas and for their sources. No registry may assign them: a server that
    /// a replica asks would otherwise pass for the node with its id.
    pub const FIRST_RESERVED: Self = Self(u32::MAX - 255);

    /// Returns true for ids of registered nodes. Every other strand comes from a chain, or
    /// [was taken over](Self::is_migrated).
    #[must_use]
    pub fn is_node(self) -> bool {
        self >= Self::FIRST_NODE
    }

    /// Returns true for an id that a registry may assign to a node.
    #[must_use]
    pub fn is_assignable(self) -> bool {
        self.is_node() && self < Self::FIRST_RESERVED
    }

    /// Returns true for a strand that the app chain orders, so that no node signs its envelopes.
    #[must_use]
    pub fn is_of_chain(self) -> bool {
        Self::CHAINS.contains(&self)
    }

    /// Returns true for a strand that was taken over from the older network.
    #[must_use]
    pub fn is_migrated(self) -> bool {
        Self::MIGRATED.contains(&self)
    }

    /// Returns true for an originator with a key, by which it signs its envelopes: a node, or the older network. A
    /// transaction of a chain proves the envelopes of every other id.
    #[must_use]
    pub fn is_signer(self) -> bool {
        self.is_node() || self.is_migrated()
    }
}

impl fmt::Display for OriginatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Place of an envelope in its originator's strand. The first envelope has 1; a reader that has seen none is at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct SequenceId(pub u64);

impl SequenceId {
    /// The position before the first envelope.
    pub const NONE: Self = Self(0);
    /// The highest id that peers can store, because they keep ids in signed 64-bit columns.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// Returns the id after this one. Saturates, so that a hostile id cannot wrap to the beginning.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the id before this one; of [`SequenceId::NONE`] itself.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identifies one envelope in the whole network. Ordered by originator, then by sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EnvelopeId {
    /// The originator that sequenced it.
    pub originator: OriginatorId,
    /// The place in that strand.
    pub sequence: SequenceId,
}

impl EnvelopeId {
    /// Combines the two numbers.
    #[must_use]
    pub fn new(originator: OriginatorId, sequence: SequenceId) -> Self {
        Self { originator, sequence }
    }
}

impl fmt::Display for EnvelopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.originator, self.sequence)
    }
}

/// Id of an inbox: the SHA-256 of its founder's identifier and a nonce. Displayed as 64 hexadecimal
/// digits in lower case, which is how identity updates spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboxId(pub [u8; 32]);

impl InboxId {
    /// Reads the identifier of an identity update's topic; `None` unless it has 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// Id of a group as the app chain's contract names it. Group ids on other paths may have any length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub [u8; 16]);

impl GroupId {
    /// Reads the identifier of a group's topic; `None` unless it has 16 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// Hash of a transaction on a chain. Displayed as `0x` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionHash(pub [u8; 32]);

impl fmt::Display for TransactionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.0))
    }
}

impl fmt::Display for InboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_and_the_older_network_sign_and_chains_do_not() {
        let signers: Vec<u32> = (0..102).filter(|id| OriginatorId(*id).is_signer()).collect();
        assert_eq!(signers, [10, 11, 13, 100, 101]);
        assert!(OriginatorId::CHAINS.iter().all(|id| !id.is_signer()));
    }
}
