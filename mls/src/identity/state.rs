//! The state of an inbox, and how a checked update changes it (XIP-46).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hawser_proto::pb::xmtp::identity::associations as pb;

use super::kind::MemberKind;
use super::member::{Member, MemberIdentifier};

/// The part of the members from which on installations are removed in one pass over all members: a half. A guess: a
/// pass moves each member that stays.
const SWEEP_PART: usize = 2;

/// The weight of a member besides its identifiers, in bytes. Calculated: its entries in two maps.
const MEMBER_WEIGHT: usize = 448;
/// The weight of an account that signs with a key, besides its identifiers, beyond that of another member: its entry in
/// a set.
const KEYED_WEIGHT: usize = 64;
/// Length of such an account's identifier in bytes: those of a signer.
const ACCOUNT_LEN_BYTES: usize = 42;
/// The weight of a used signature besides its bytes.
const SEEN_WEIGHT: usize = 96;

/// The state of an inbox: its members, its recovery identifier and the signatures used so far.
///
/// Checking and applying an update costs time that depends on its actions and on the members that it removes, not on
/// the size of the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssociationState {
    inbox_id: String,
    members: BTreeMap<MemberIdentifier, Member>,
    /// The installations among the members, by the member that added them. Holds no empty set.
    added: BTreeMap<MemberIdentifier, BTreeSet<MemberIdentifier>>,
    /// The accounts among the members that sign with a key. An inbox may have very many other ones, contract wallets.
    keyed: BTreeSet<MemberIdentifier>,
    recovery: MemberIdentifier,
    seen: BTreeSet<Bytes>,
    /// Sum of the weights of members and used signatures.
    weight: usize,
}

impl AssociationState {
    /// Returns the id of the inbox: 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn inbox_id(&self) -> &str {
        &self.inbox_id
    }

    /// Iterates over the members, ordered by identifier.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Returns the member with this identifier.
    #[must_use]
    pub fn member(&self, identifier: &MemberIdentifier) -> Option<&Member> {
        self.members.get(identifier)
    }

    /// Returns the recovery identifier, which alone may revoke members. It need not be a member.
    #[must_use]
    pub fn recovery(&self) -> &MemberIdentifier {
        &self.recovery
    }

    /// Returns an estimate of the memory that this state takes, in bytes. Constant time: the sum is maintained.
    #[must_use]
    pub fn weight(&self) -> usize {
        512 + self.recovery.len_bytes() + self.weight
    }

    /// Returns a length in bytes that the wire form reaches or exceeds. Constant time: it shows before the conversion
    /// that a state is too long for a message. There, each member has a copy of the relying party of the passkey that
    /// has added it, while the members of a state share one.
    #[must_use]
    pub fn wire_len_min(&self) -> usize {
        let of_members = self.members.len() * (MEMBER_WEIGHT + KEYED_WEIGHT + ACCOUNT_LEN_BYTES);
        self.weight.saturating_sub(of_members + self.seen.len() * SEEN_WEIGHT)
    }

    /// Converts to the wire form.
    #[must_use]
    pub fn to_pb(&self) -> pb::AssociationState {
        let (kind, relying_party) = match &self.recovery {
            MemberIdentifier::Passkey(passkey) => {
                (pb::IdentifierKind::Passkey, passkey.relying_party.as_deref().map(str::to_owned))
            }
            _ => (pb::IdentifierKind::Ethereum, None),
        };
        let members = self.members.iter().map(|(identifier, member)| pb::MemberMap {
            key: Some(identifier.to_pb()),
            value: Some(member.to_pb()),
        });
        pb::AssociationState {
            inbox_id: self.inbox_id.clone(),
            members: members.collect(),
            recovery_identifier: self.recovery.to_string(),
            seen_signatures: self.seen.iter().cloned().collect(),
            recovery_identifier_kind: kind.into(),
            relying_party,
        }
    }

    /// Returns the members added and removed since `before`, by identifier.
    #[must_use]
    pub fn difference(&self, before: Option<&Self>) -> pb::AssociationStateDiff {
        let empty = BTreeMap::new();
        let before = before.map_or(&empty, |before| &before.members);
        let only_in = |these: &BTreeMap<MemberIdentifier, Member>, those: &BTreeMap<_, _>| {
            let only = these.keys().filter(|identifier| !those.contains_key(*identifier));
            only.map(MemberIdentifier::to_pb).collect()
        };
        pb::AssociationStateDiff {
            new_members: only_in(&self.members, before),
            removed_members: only_in(before, &self.members),
        }
    }

    /// Returns the only account that can have signed with a key, if there is exactly one. Constant time: it is called
    /// for each action of a log.
    pub(super) fn only_account(&self) -> Option<&MemberIdentifier> {
        let recovery = [&self.recovery]
            .into_iter()
            .filter(|it| it.kind() == MemberKind::Ethereum && !self.members.contains_key(*it));
        let mut accounts = self.keyed.iter().chain(recovery);
        accounts.next().filter(|_| accounts.next().is_none())
    }

    pub(super) fn has_seen(&self, replay_key: &Bytes) -> bool {
        self.seen.contains(replay_key)
    }

    pub(super) fn found(account: &MemberIdentifier, nonce: u64, chain_id: Option<u64>) -> Self {
        let founder = Member {
            identifier: account.clone(),
            added_by: None,
            client_timestamp_ns: None,
            chain_id,
        };
        let mut state = Self {
            inbox_id: account.inbox_id(nonce),
            members: BTreeMap::new(),
            added: BTreeMap::new(),
            keyed: BTreeSet::new(),
            recovery: account.clone(),
            seen: BTreeSet::new(),
            weight: 0,
        };
        state.insert(founder);
        state
    }

    /// Applies what an update changes.
    pub(super) fn apply(&mut self, delta: StateDelta) {
        delta.swept.iter().for_each(|adder| self.sweep(adder));
        for (identifier, member) in delta.members {
            // Removed first, to replace the map's key too: passkeys that compare equal can differ in their relying
            // party.
            self.remove(&identifier);
            if let Some(member) = member {
                self.insert(member);
            }
        }
        if let Some(recovery) = delta.recovery {
            self.recovery = recovery;
        }
        for key in delta.used {
            let weight = seen_weight(&key);
            if self.seen.insert(key) {
                self.weight += weight;
            }
        }
    }

    /// Removes the installations that a member has added. If these are a large part of the members, one pass over all
    /// is faster than to find and remove each: an account may leave with a hundred thousand installations.
    fn sweep(&mut self, adder: &MemberIdentifier) {
        let Some(swept) = self.added.remove(adder) else { return };
        if swept.len() < self.members.len() / SWEEP_PART {
            swept.iter().for_each(|installation| self.remove(installation));
            return;
        }
        let mut removed = 0;
        let members = std::mem::take(&mut self.members).into_iter().filter(|(_, member)| {
            let is_swept = orphaned_by(member) == Some(adder);
            removed += if is_swept { member_weight(member) } else { 0 };
            !is_swept
        });
        self.members = members.collect();
        self.weight -= removed;
    }

    fn insert(&mut self, member: Member) {
        self.weight += member_weight(&member);
        if let Some(adder) = orphaned_by(&member) {
            self.added.entry(adder.clone()).or_default().insert(member.identifier.clone());
        }
        if signs_with_key(&member) {
            self.keyed.insert(member.identifier.clone());
        }
        self.members.insert(member.identifier.clone(), member);
    }

    fn remove(&mut self, identifier: &MemberIdentifier) {
        let Some(member) = self.members.remove(identifier) else { return };
        self.weight -= member_weight(&member);
        self.keyed.remove(identifier);
        let Some(adder) = orphaned_by(&member) else { return };
        if let Some(added) = self.added.get_mut(adder) {
            added.remove(identifier);
            if added.is_empty() {
                self.added.remove(adder);
            }
        }
    }
}

/// The changes that an update makes to the state before it.
#[derive(Debug, Default)]
pub(super) struct StateDelta {
    /// The state that the update founds, before its other changes.
    pub(super) founded: Option<AssociationState>,
    /// Members whose installations, as listed in the state before the update, are removed too.
    pub(super) swept: BTreeSet<MemberIdentifier>,
    /// Members added or replaced, and `None` for those removed. Comes after `swept`.
    pub(super) members: BTreeMap<MemberIdentifier, Option<Member>>,
    /// The new recovery identifier.
    pub(super) recovery: Option<MemberIdentifier>,
    /// The replay keys of all signatures.
    pub(super) used: Vec<Bytes>,
}

impl StateDelta {
    /// Returns an estimate of the memory that the changes take, in bytes.
    pub(super) fn weight(&self) -> usize {
        let changed = self.members.keys().map(|identifier| 512 + 3 * identifier.len_bytes());
        let swept = self.swept.iter().map(|identifier| 128 + identifier.len_bytes());
        let used = self.used.iter().map(seen_weight);
        let founded = self.founded.as_ref().map_or(0, AssociationState::weight);
        let recovery = self.recovery.as_ref().map_or(0, MemberIdentifier::len_bytes);
        changed.chain(swept).chain(used).sum::<usize>() + founded + recovery + 1024
    }
}

/// Returns the member whose revocation removes this one too.
pub(super) fn orphaned_by(member: &Member) -> Option<&MemberIdentifier> {
    member.added_by.as_ref().filter(|_| member.identifier.kind() == MemberKind::Installation)
}

/// Returns true if the member is an account that signs with a key.
fn signs_with_key(member: &Member) -> bool {
    member.identifier.kind() == MemberKind::Ethereum && member.chain_id.is_none()
}

/// Returns an estimate of the memory that a member takes, in bytes: its identifier twice, and its entries in two maps.
/// An account with a key has an entry in a set, too.
fn member_weight(member: &Member) -> usize {
    let (len_bytes, parent) = (member.identifier.len_bytes(), member.added_by.as_ref());
    let keyed = if signs_with_key(member) { KEYED_WEIGHT + len_bytes } else { 0 };
    MEMBER_WEIGHT + 2 * len_bytes + keyed + parent.map_or(0, MemberIdentifier::len_bytes)
}

/// Returns an estimate of the memory that a used signature takes, in bytes.
fn seen_weight(key: &Bytes) -> usize {
    SEEN_WEIGHT + key.len()
}
