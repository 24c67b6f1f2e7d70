//! What an inbox's log adds up to, and what each action does to it (XIP-46).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hawser_proto::pb::xmtp::identity::associations as pb;

use super::error::{IdentityError, Refusal};
use super::member::{Member, MemberIdentifier, MemberKind};
use super::signature::{SignatureKind, Signer};
use super::update::{Action, Update};

/// Who belongs to an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssociationState {
    inbox_id: String,
    members: BTreeMap<MemberIdentifier, Member>,
    recovery: MemberIdentifier,
    seen: BTreeSet<Bytes>,
}

impl AssociationState {
    /// The inbox: 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn inbox_id(&self) -> &str {
        &self.inbox_id
    }

    /// Everybody who belongs to it, ordered by identifier.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Whoever belongs to it under this identifier.
    #[must_use]
    pub fn member(&self, identifier: &MemberIdentifier) -> Option<&Member> {
        self.members.get(identifier)
    }

    /// Who may revoke, whether or not it is a member.
    #[must_use]
    pub fn recovery(&self) -> &MemberIdentifier {
        &self.recovery
    }

    /// About how many bytes this takes in memory.
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

    /// The form that travels.
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

    /// Who came and who went since `before`. Whoever was there before and is there now is neither.
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

    /// The one account that can have signed for a member with its key, if there is just one.
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

    fn refuse_replay(&self, signer: &Signer) -> Result<(), Refusal> {
        if self.seen.contains(&signer.replay_key) { Err(Refusal::Replay) } else { Ok(()) }
    }

    /// A member that is a contract wallet stays on its chain, and one that has a key has none.
    fn same_chain(&self, signer: &Signer) -> Result<(), Refusal> {
        match self.members.get(&signer.identifier) {
            Some(member) if member.chain_id != signer.chain_id => Err(Refusal::WrongChainId {
                added: member.chain_id.unwrap_or(0),
                signing: signer.chain_id.unwrap_or(0),
            }),
            _ => Ok(()),
        }
    }

    /// Only the recovery identifier itself revokes and names its successor.
    fn signed_by_recovery(&self, signer: &Signer) -> Result<(), Refusal> {
        self.refuse_replay(signer)?;
        self.same_chain(signer)?;
        if signer.kind == SignatureKind::LegacyDelegated {
            let (role, signature) = (MemberKind::Ethereum, signer.kind);
            return Err(Refusal::SignatureNotAllowed { role, signature });
        }
        if signer.identifier != self.recovery {
            return Err(Refusal::MissingExistingMember(
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
    ) -> Result<(), Refusal> {
        self.refuse_replay(by)?;
        self.refuse_replay(new)?;
        if new.identifier != *identifier {
            return Err(Refusal::NewMemberNotSigner);
        }
        if new.identifier == by.identifier {
            return Err(Refusal::AddsItself);
        }
        self.legacy_belongs_here(by, new)?;
        fits(identifier.kind(), new.kind)?;
        self.same_chain(by)?;
        let parent = self.parent(by)?.clone();
        fits(parent.kind(), by.kind)?;
        let kinds = (by.identifier.kind(), identifier.kind());
        if kinds == (MemberKind::Installation, MemberKind::Installation) {
            return Err(Refusal::NotAllowedToAdd(kinds.0, kinds.1));
        }
        let member = Member {
            identifier: new.identifier.clone(),
            added_by: Some(parent),
            client_timestamp_ns: Some(client_timestamp_ns),
            chain_id: new.chain_id,
        };
        // Replaces both key and value: an identifier carries more than what it is compared by.
        self.members.remove(identifier);
        self.members.insert(new.identifier.clone(), member);
        Ok(())
    }

    /// Legacy keys work only in the inbox that their wallet has with nonce 0. An installation is
    /// nobody's wallet, so next to its signature there is nothing to compare.
    fn legacy_belongs_here(&self, by: &Signer, new: &Signer) -> Result<(), Refusal> {
        let legacy = [by, new].iter().any(|it| it.kind == SignatureKind::LegacyDelegated);
        let wallet = by.identifier.kind() != MemberKind::Installation;
        if legacy && wallet && by.identifier.inbox_id(0) != self.inbox_id {
            return Err(Refusal::LegacyKey);
        }
        Ok(())
    }

    /// Who brings a member in: a member, or the recovery identifier in person.
    fn parent(&self, by: &Signer) -> Result<&MemberIdentifier, Refusal> {
        if let Some(member) = self.members.get(&by.identifier) {
            return Ok(&member.identifier);
        }
        if by.identifier != self.recovery {
            return Err(Refusal::MissingExistingMember(
                "the signer is neither a member nor the recovery identifier",
            ));
        }
        if by.kind == SignatureKind::LegacyDelegated {
            return Err(Refusal::LegacyKey);
        }
        Ok(&self.recovery)
    }

    /// Takes the installations along that this member had brought in. Revoking nobody is no fault.
    fn revoke(&mut self, revoked: &MemberIdentifier) {
        self.members.retain(|identifier, member| {
            let orphan = identifier.kind() == MemberKind::Installation
                && member.added_by.as_ref() == Some(revoked);
            identifier != revoked && !orphan
        });
    }
}

/// Who may sign how.
fn fits(role: MemberKind, signature: SignatureKind) -> Result<(), Refusal> {
    use SignatureKind as Signature;

    let fits = match role {
        MemberKind::Ethereum => {
            matches!(signature, Signature::Erc191 | Signature::Erc1271 | Signature::LegacyDelegated)
        }
        MemberKind::Installation => signature == Signature::InstallationKey,
        MemberKind::Passkey => signature == Signature::P256,
    };
    if fits { Ok(()) } else { Err(Refusal::SignatureNotAllowed { role, signature }) }
}

/// An update in the making: what its actions have led to so far.
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

    /// After a refusal the draft is of no use.
    pub(super) fn act(&mut self, action: &Action<Signer>) -> Result<(), Refusal> {
        match action {
            Action::Create { account, nonce, by } => self.create(account, *nonce, by)?,
            Action::Add { member, by, new } => {
                let time = self.client_timestamp_ns;
                self.created()?.add(member, by, new, time)?;
            }
            Action::Revoke { member, by } => {
                let state = self.created()?;
                state.signed_by_recovery(by)?;
                state.revoke(member);
            }
            Action::ChangeRecovery { to, by } => {
                let state = self.created()?;
                state.signed_by_recovery(by)?;
                state.recovery = to.clone();
            }
        }
        self.used.extend(action.signatures().map(|signer| signer.replay_key.clone()));
        Ok(())
    }

    fn created(&mut self) -> Result<&mut AssociationState, Refusal> {
        self.state.as_mut().ok_or(Refusal::NotCreated)
    }

    fn create(
        &mut self,
        account: &MemberIdentifier,
        nonce: u64,
        by: &Signer,
    ) -> Result<(), Refusal> {
        if self.state.is_some() {
            return Err(Refusal::MultipleCreate);
        }
        if by.identifier != *account {
            return Err(Refusal::MissingExistingMember("the signer is not the initial identifier"));
        }
        fits(account.kind(), by.kind)?;
        if by.kind == SignatureKind::LegacyDelegated && nonce != 0 {
            return Err(Refusal::LegacyKey);
        }
        self.state = Some(AssociationState::found(account, nonce, by.chain_id));
        Ok(())
    }

    /// The state after the whole update.
    pub(super) fn finish(self, inbox_id: &str) -> Result<AssociationState, Refusal> {
        let mut state = self.state.ok_or(Refusal::NotCreated)?;
        if state.inbox_id != inbox_id {
            return Err(Refusal::WrongInboxId);
        }
        state.seen.extend(self.used);
        Ok(state)
    }
}

/// The whole update or nothing of it.
pub(super) fn apply(
    before: Option<&AssociationState>,
    update: &Update<'_, Signer>,
) -> Result<AssociationState, IdentityError> {
    let mut draft = Draft::new(before.cloned(), update.client_timestamp_ns);
    for (place, action) in update.actions.iter().enumerate() {
        draft.act(action).map_err(|refusal| refusal.of_action(place))?;
    }
    draft.finish(update.inbox_id).map_err(Refusal::of_update)
}
