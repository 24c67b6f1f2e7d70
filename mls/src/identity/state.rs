//! The state of an inbox, and the effect of each action on it (XIP-46).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hawser_proto::pb::xmtp::identity::associations as pb;

use super::error::{IdentityError, IdentityViolation};
use super::kind::{MemberKind, SignatureKind};
use super::member::{Member, MemberIdentifier};
use super::signature::Signer;
use super::update::{Action, Update};

/// The state of an inbox: its members, its recovery identifier and the signatures used so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssociationState {
    inbox_id: String,
    members: BTreeMap<MemberIdentifier, Member>,
    recovery: MemberIdentifier,
    seen: BTreeSet<Bytes>,
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

    /// Returns about the bytes of memory that this state takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let member = |member: &Member| {
            let parent = member.added_by.as_ref();
            512 + member.identifier.len_bytes() + parent.map_or(0, MemberIdentifier::len_bytes)
        };
        let members: usize = self.members.values().map(member).sum();
        let seen: usize = self.seen.iter().map(|key| 128 + key.len()).sum();
        512 + self.recovery.len_bytes() + members + seen
    }

    /// Converts to the wire form.
    #[must_use]
    pub fn to_pb(&self) -> pb::AssociationState {
        let (kind, relying_party) = match &self.recovery {
            MemberIdentifier::Passkey(passkey) => {
                (pb::IdentifierKind::Passkey, passkey.relying_party.clone())
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

    /// Returns the only account that can have signed with a key, if there is exactly one.
    pub(super) fn only_account(&self) -> Option<&MemberIdentifier> {
        let accounts = self.members.values().filter(|member| member.chain_id.is_none());
        let mut accounts = accounts
            .map(|member| &member.identifier)
            .chain([&self.recovery].into_iter().filter(|it| !self.members.contains_key(*it)))
            .filter(|identifier| identifier.kind() == MemberKind::Ethereum);
        accounts.next().filter(|_| accounts.next().is_none())
    }

    fn found(account: &MemberIdentifier, nonce: u64, chain_id: Option<u64>) -> Self {
        let founder = Member {
            identifier: account.clone(),
            added_by: None,
            client_timestamp_ns: None,
            chain_id,
        };
        Self {
            inbox_id: account.inbox_id(nonce),
            members: [(account.clone(), founder)].into(),
            recovery: account.clone(),
            seen: BTreeSet::new(),
        }
    }

    fn check_replay(&self, signer: &Signer) -> Result<(), IdentityViolation> {
        if self.seen.contains(&signer.replay_key) { Err(IdentityViolation::Replay) } else { Ok(()) }
    }

    /// Refuses a member that signs from another chain than it was added with.
    fn check_chain(&self, signer: &Signer) -> Result<(), IdentityViolation> {
        match self.members.get(&signer.identifier) {
            Some(member) if member.chain_id != signer.chain_id => {
                Err(IdentityViolation::WrongChainId {
                    added: member.chain_id.unwrap_or(0),
                    signing: signer.chain_id.unwrap_or(0),
                })
            }
            _ => Ok(()),
        }
    }

    /// Refuses signers other than the recovery identifier itself, which alone revokes members and names
    /// its successor.
    fn check_recovery(&self, signer: &Signer) -> Result<(), IdentityViolation> {
        self.check_replay(signer)?;
        self.check_chain(signer)?;
        if signer.kind == SignatureKind::LegacyDelegated {
            let (role, signature) = (MemberKind::Ethereum, signer.kind);
            return Err(IdentityViolation::SignatureNotAllowed { role, signature });
        }
        if signer.identifier != self.recovery {
            return Err(IdentityViolation::MissingExistingMember(
                "the signer is not the recovery identifier",
            ));
        }
        Ok(())
    }

    fn add(
        &mut self,
        identifier: &MemberIdentifier,
        by: &Signer,
        new: &Signer,
        client_timestamp_ns: u64,
    ) -> Result<(), IdentityViolation> {
        self.check_replay(by)?;
        self.check_replay(new)?;
        if new.identifier != *identifier {
            return Err(IdentityViolation::NewMemberNotSigner);
        }
        if new.identifier == by.identifier {
            return Err(IdentityViolation::AddsItself);
        }
        self.check_legacy(by, new)?;
        check_kinds(identifier.kind(), new.kind)?;
        self.check_chain(by)?;
        let parent = self.parent(by)?.clone();
        check_kinds(parent.kind(), by.kind)?;
        let kinds = (by.identifier.kind(), identifier.kind());
        if kinds == (MemberKind::Installation, MemberKind::Installation) {
            return Err(IdentityViolation::NotAllowedToAdd(kinds.0, kinds.1));
        }
        let member = Member {
            identifier: new.identifier.clone(),
            added_by: Some(parent),
            client_timestamp_ns: Some(client_timestamp_ns),
            chain_id: new.chain_id,
        };
        // Removes first, to replace the key too: passkeys that compare equal can differ in their site.
        self.members.remove(identifier);
        self.members.insert(new.identifier.clone(), member);
        Ok(())
    }

    /// Refuses a legacy key outside of the inbox that its wallet has with nonce 0. An installation
    /// belongs to no wallet, so beside its signature there is nothing to compare.
    fn check_legacy(&self, by: &Signer, new: &Signer) -> Result<(), IdentityViolation> {
        let legacy = [by, new].iter().any(|it| it.kind == SignatureKind::LegacyDelegated);
        let wallet = by.identifier.kind() != MemberKind::Installation;
        if legacy && wallet && by.identifier.inbox_id(0) != self.inbox_id {
            return Err(IdentityViolation::LegacyKey);
        }
        Ok(())
    }

    /// Returns the identifier that adds a member: another member, or the recovery identifier.
    fn parent(&self, by: &Signer) -> Result<&MemberIdentifier, IdentityViolation> {
        if let Some(member) = self.members.get(&by.identifier) {
            return Ok(&member.identifier);
        }
        if by.identifier != self.recovery {
            return Err(IdentityViolation::MissingExistingMember(
                "the signer is neither a member nor the recovery identifier",
            ));
        }
        if by.kind == SignatureKind::LegacyDelegated {
            return Err(IdentityViolation::LegacyKey);
        }
        Ok(&self.recovery)
    }

    /// Removes a member and the installations that it added. An unknown identifier changes nothing.
    fn revoke(&mut self, revoked: &MemberIdentifier) {
        self.members.retain(|identifier, member| {
            let orphan = identifier.kind() == MemberKind::Installation
                && member.added_by.as_ref() == Some(revoked);
            identifier != revoked && !orphan
        });
    }
}

/// Refuses a signature of a kind that this kind of member does not make.
fn check_kinds(role: MemberKind, signature: SignatureKind) -> Result<(), IdentityViolation> {
    use SignatureKind as Signature;

    let fits = match role {
        MemberKind::Ethereum => {
            matches!(signature, Signature::Erc191 | Signature::Erc1271 | Signature::LegacyDelegated)
        }
        MemberKind::Installation => signature == Signature::InstallationKey,
        MemberKind::Passkey => signature == Signature::P256,
    };
    if fits { Ok(()) } else { Err(IdentityViolation::SignatureNotAllowed { role, signature }) }
}

/// The state while the actions of one update are applied.
pub(super) struct Draft {
    state: Option<AssociationState>,
    client_timestamp_ns: u64,
    used: Vec<Bytes>,
}

impl Draft {
    pub(super) fn new(state: Option<AssociationState>, client_timestamp_ns: u64) -> Self {
        Self { state, client_timestamp_ns, used: Vec::new() }
    }

    pub(super) fn state(&self) -> Option<&AssociationState> {
        self.state.as_ref()
    }

    /// Applies an action. After an error the draft must be dropped.
    pub(super) fn apply(&mut self, action: &Action<Signer>) -> Result<(), IdentityViolation> {
        match action {
            Action::Create { account, nonce, by } => self.create(account, *nonce, by)?,
            Action::Add { member, by, new } => {
                let time = self.client_timestamp_ns;
                self.created()?.add(member, by, new, time)?;
            }
            Action::Revoke { member, by } => {
                let state = self.created()?;
                state.check_recovery(by)?;
                state.revoke(member);
            }
            Action::ChangeRecovery { to, by } => {
                let state = self.created()?;
                state.check_recovery(by)?;
                state.recovery = to.clone();
            }
        }
        self.used.extend(action.signatures().map(|signer| signer.replay_key.clone()));
        Ok(())
    }

    fn created(&mut self) -> Result<&mut AssociationState, IdentityViolation> {
        self.state.as_mut().ok_or(IdentityViolation::NotCreated)
    }

    fn create(
        &mut self,
        account: &MemberIdentifier,
        nonce: u64,
        by: &Signer,
    ) -> Result<(), IdentityViolation> {
        if self.state.is_some() {
            return Err(IdentityViolation::MultipleCreate);
        }
        if by.identifier != *account {
            return Err(IdentityViolation::MissingExistingMember(
                "the signer is not the initial identifier",
            ));
        }
        check_kinds(account.kind(), by.kind)?;
        if by.kind == SignatureKind::LegacyDelegated && nonce != 0 {
            return Err(IdentityViolation::LegacyKey);
        }
        if !account.founds_inboxes() {
            return Err(IdentityViolation::InvalidAddress);
        }
        self.state = Some(AssociationState::found(account, nonce, by.chain_id));
        Ok(())
    }

    /// Returns the state after the whole update.
    pub(super) fn finish(self, inbox_id: &str) -> Result<AssociationState, IdentityViolation> {
        let mut state = self.state.ok_or(IdentityViolation::NotCreated)?;
        if state.inbox_id != inbox_id {
            return Err(IdentityViolation::WrongInboxId);
        }
        state.seen.extend(self.used);
        Ok(state)
    }
}

/// Applies a whole update to the state before it. An error leaves nothing of it.
pub(super) fn apply(
    before: Option<AssociationState>,
    update: &Update<'_, Signer>,
) -> Result<AssociationState, IdentityError> {
    let mut draft = Draft::new(before, update.client_timestamp_ns);
    for (place, action) in update.actions.iter().enumerate() {
        draft.apply(action).map_err(|violation| violation.in_action(place))?;
    }
    draft.finish(update.inbox_id).map_err(IdentityViolation::in_update)
}
