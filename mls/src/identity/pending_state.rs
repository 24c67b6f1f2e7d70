//! The effect of each action of an update on the state of its inbox (XIP-46).
//!
//! A [`PendingState`] reads the state and collects changes separately. An update that breaks a rule or waits for a
//! contract wallet thus leaves the state unchanged without a copy, at a cost that depends on its actions only.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{IdentityError, IdentityViolation};
use super::kind::{MemberKind, SignatureKind};
use super::member::{Member, MemberIdentifier};
use super::signature::Signer;
use super::state::{AssociationState, StateDelta, orphaned_by};
use super::update::{Action, Update};

/// The state while the actions of one update are applied.
pub(super) struct PendingState<'a> {
    before: Option<&'a AssociationState>,
    client_timestamp_ns: u64,
    delta: StateDelta,
    /// The installations among the members of `delta`, by the member that added them.
    added: BTreeMap<MemberIdentifier, BTreeSet<MemberIdentifier>>,
}

/// The changes that a [`PendingState`] has collected, without the state that it reads.
#[derive(Debug, Default)]
pub(super) struct PendingChanges {
    delta: StateDelta,
    added: BTreeMap<MemberIdentifier, BTreeSet<MemberIdentifier>>,
}

impl<'a> PendingState<'a> {
    pub(super) fn new(before: Option<&'a AssociationState>, client_timestamp_ns: u64) -> Self {
        Self::resume(before, client_timestamp_ns, PendingChanges::default())
    }

    /// Goes on after the changes of the first actions of an update. `before` is the state before the update.
    pub(super) fn resume(
        before: Option<&'a AssociationState>,
        client_timestamp_ns: u64,
        changes: PendingChanges,
    ) -> Self {
        let PendingChanges { delta, added } = changes;
        Self { before, client_timestamp_ns, delta, added }
    }

    /// Returns the changes so far, to [`resume`](Self::resume) with later.
    pub(super) fn suspend(self) -> PendingChanges {
        PendingChanges { delta: self.delta, added: self.added }
    }

    /// Returns the state before the update, or the one that it has founded.
    fn base(&self) -> Option<&AssociationState> {
        self.delta.founded.as_ref().or(self.before)
    }

    fn created(&self) -> Result<&AssociationState, IdentityViolation> {
        self.base().ok_or(IdentityViolation::NotCreated)
    }

    /// Returns the recovery identifier, once there is a state.
    pub(super) fn recovery(&self) -> Option<&MemberIdentifier> {
        self.delta.recovery.as_ref().or_else(|| self.base().map(AssociationState::recovery))
    }

    /// Returns the only account that can have signed with a key, if there is exactly one and this update has changed no
    /// account.
    pub(super) fn only_account(&self) -> Option<&MemberIdentifier> {
        let first = self.delta.members.keys().next(); // accounts come first
        let is_same = first.is_none_or(|first| first.kind() != MemberKind::Ethereum);
        self.base().filter(|_| is_same && self.delta.recovery.is_none())?.only_account()
    }

    fn member(&self, identifier: &MemberIdentifier) -> Option<&Member> {
        if let Some(changed) = self.delta.members.get(identifier) {
            return changed.as_ref();
        }
        let member = self.base()?.member(identifier)?;
        let is_swept = orphaned_by(member).is_some_and(|adder| self.delta.swept.contains(adder));
        (!is_swept).then_some(member)
    }

    /// Applies an action. After an error the state must be dropped.
    pub(super) fn apply(&mut self, action: &Action<Signer>) -> Result<(), IdentityViolation> {
        match action {
            Action::Create { account, nonce, by } => self.create(account, *nonce, by)?,
            Action::Add { member, by, new } => self.add(member, by, new)?,
            Action::Revoke { member, by } => {
                self.check_recovery(by)?;
                self.revoke(member);
            }
            Action::ChangeRecovery { to, by } => {
                self.check_recovery(by)?;
                self.delta.recovery = Some(to.clone());
            }
        }
        self.delta.used.extend(action.signatures().map(|signer| signer.replay_key.clone()));
        Ok(())
    }

    fn create(
        &mut self,
        account: &MemberIdentifier,
        nonce: u64,
        by: &Signer,
    ) -> Result<(), IdentityViolation> {
        if self.base().is_some() {
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
        self.delta.founded = Some(AssociationState::found(account, nonce, by.chain_id));
        Ok(())
    }

    /// Adds a member whom an existing one, `by`, admits; both have signed. The order of the checks decides which
    /// violation is named.
    fn add(
        &mut self,
        identifier: &MemberIdentifier,
        by: &Signer,
        new: &Signer,
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
            added_by: Some(parent.clone()),
            client_timestamp_ns: Some(self.client_timestamp_ns),
            chain_id: new.chain_id,
        };
        self.remove(identifier);
        if kinds.1 == MemberKind::Installation {
            self.added.entry(parent).or_default().insert(identifier.clone());
        }
        // A passkey that compares equal may have another relying party; the new one replaces it.
        self.delta.members.remove(identifier);
        self.delta.members.insert(new.identifier.clone(), Some(member));
        Ok(())
    }

    /// Removes a member and the installations that it added. An unknown identifier changes nothing.
    fn revoke(&mut self, revoked: &MemberIdentifier) {
        for installation in self.added.remove(revoked).unwrap_or_default() {
            self.delta.members.insert(installation, None);
        }
        self.delta.swept.insert(revoked.clone());
        self.remove(revoked);
    }

    fn remove(&mut self, identifier: &MemberIdentifier) {
        let changed = self.delta.members.insert(identifier.clone(), None).flatten();
        let adder = changed.and_then(|member| member.added_by);
        if let Some(added) = adder.and_then(|adder| self.added.get_mut(&adder)) {
            added.remove(identifier);
        }
    }

    fn check_replay(&self, signer: &Signer) -> Result<(), IdentityViolation> {
        if self.created()?.has_seen(&signer.replay_key) {
            return Err(IdentityViolation::Replay);
        }
        Ok(())
    }

    /// Refuses a member that signs from another chain than it was added with.
    fn check_chain(&self, signer: &Signer) -> Result<(), IdentityViolation> {
        match self.member(&signer.identifier) {
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
        if Some(&signer.identifier) != self.recovery() {
            return Err(IdentityViolation::MissingExistingMember(
                "the signer is not the recovery identifier",
            ));
        }
        Ok(())
    }

    /// Refuses a legacy key outside of the inbox that its wallet has with nonce 0. An installation
    /// belongs to no wallet, so its inbox cannot be compared.
    fn check_legacy(&self, by: &Signer, new: &Signer) -> Result<(), IdentityViolation> {
        let legacy = [by, new].iter().any(|it| it.kind == SignatureKind::LegacyDelegated);
        let wallet = by.identifier.kind() != MemberKind::Installation;
        if legacy && wallet && by.identifier.inbox_id(0) != self.created()?.inbox_id() {
            return Err(IdentityViolation::LegacyKey);
        }
        Ok(())
    }

    /// Returns the identifier that adds a member: another member, or the recovery identifier.
    fn parent(&self, by: &Signer) -> Result<&MemberIdentifier, IdentityViolation> {
        if let Some(member) = self.member(&by.identifier) {
            return Ok(&member.identifier);
        }
        match self.recovery() {
            Some(recovery) if by.identifier == *recovery => {
                if by.kind == SignatureKind::LegacyDelegated {
                    return Err(IdentityViolation::LegacyKey);
                }
                Ok(recovery)
            }
            _ => Err(IdentityViolation::MissingExistingMember(
                "the signer is neither a member nor the recovery identifier",
            )),
        }
    }

    /// Returns the changes of the whole update.
    pub(super) fn finish(self, inbox_id: &str) -> Result<StateDelta, IdentityViolation> {
        if self.created()?.inbox_id() != inbox_id {
            return Err(IdentityViolation::WrongInboxId);
        }
        Ok(self.delta)
    }
}

/// Refuses a signature whose kind does not belong to this kind of member.
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

/// Returns the changes that an update with verified signatures makes to the state before it.
pub(super) fn changes(
    before: Option<&AssociationState>,
    update: &Update<'_, Signer>,
) -> Result<StateDelta, IdentityError> {
    let mut pending = PendingState::new(before, update.client_timestamp_ns);
    for (place, action) in update.actions.iter().enumerate() {
        pending.apply(action).map_err(|violation| violation.in_action(place))?;
    }
    pending.finish(update.inbox_id).map_err(IdentityViolation::in_update)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::member::Passkey;
    use super::*;

    /// The number of identifiers.
    const IDENTIFIERS: u8 = 9;

    /// An action of the member `by` about the identifier `about`.
    #[derive(Debug, Clone, Copy)]
    struct GivenAction {
        kind: u8,
        about: u8,
        by: u8,
        /// A number that no other action has, so that signatures are no replays.
        place: u8,
    }

    /// Returns an identifier by its number: three accounts, four installations, and two passkeys.
    fn identifier(number: u8) -> MemberIdentifier {
        match number {
            0..=2 => MemberIdentifier::Ethereum(format!("0x{number:040x}")),
            3..=6 => MemberIdentifier::Installation(Bytes::copy_from_slice(&[number; 32])),
            _ => {
                let key = Bytes::copy_from_slice(&[number; 33]);
                MemberIdentifier::Passkey(Passkey { key, relying_party: None })
            }
        }
    }

    impl GivenAction {
        /// Returns a valid signature of an identifier. Account 2 is a contract wallet.
        fn signer(&self, number: u8, part: u8) -> Signer {
            let (kind, chain_id) = match number {
                0..=1 => (SignatureKind::Erc191, None),
                2 => (SignatureKind::Erc1271, Some(1)),
                3..=6 => (SignatureKind::InstallationKey, None),
                _ => (SignatureKind::P256, None),
            };
            let replay_key = Bytes::copy_from_slice(&[self.place, part]);
            Signer { identifier: identifier(number), kind, replay_key, chain_id }
        }

        fn action(&self) -> Action<Signer> {
            let (member, by) = (identifier(self.about), self.signer(self.by, 0));
            match self.kind {
                0..=4 => Action::Add { member, by, new: self.signer(self.about, 1) },
                5..=8 => Action::Revoke { member, by },
                _ => Action::ChangeRecovery { to: identifier(self.about % 3), by },
            }
        }
    }

    /// Returns the state after one update with these actions.
    fn after(
        before: &AssociationState,
        actions: &[GivenAction],
    ) -> Result<AssociationState, IdentityError> {
        let actions = actions.iter().map(GivenAction::action).collect();
        let update = Update { inbox_id: before.inbox_id(), client_timestamp_ns: 7, actions };
        let delta = changes(Some(before), &update)?;
        let mut state = before.clone();
        state.apply(delta);
        Ok(state)
    }

    proptest! {
        /// Clients apply the actions of an update one after the other, each to the whole state.
        #[test]
        fn an_update_has_the_effect_of_its_actions_one_after_the_other(
            given in prop::collection::vec((0..10_u8, 0..IDENTIFIERS, 0..2 * IDENTIFIERS), 1..40),
            first in 0..20_u8,
        ) {
            let mut state = AssociationState::found(&identifier(0), 0, None);
            let (mut before, mut done) = (state.clone(), Vec::new());
            for (place, (kind, about, by)) in (0_u8..).zip(given) {
                if place == first {
                    before = state.clone(); // those so far were earlier updates
                    done.clear();
                }
                let recovery = (0..IDENTIFIERS).find(|it| identifier(*it) == *state.recovery());
                let by = if by < IDENTIFIERS { by } else { recovery.unwrap_or_default() };
                let action = GivenAction { kind, about, by, place };
                done.push(action);
                let at_once = after(&before, &done);
                match after(&state, &[action]) {
                    Ok(next) => {
                        prop_assert_eq!(at_once, Ok(next.clone()));
                        state = next;
                    }
                    Err(_) => {
                        prop_assert!(at_once.is_err());
                        done.pop();
                    }
                }
            }
        }
    }
}
