//! Reads an identity update: its actions and their signatures.

use std::sync::Arc;

use hawser_proto::pb::xmtp::identity::associations as pb;
use pb::IdentifierKind;
use pb::identity_action::Kind;

use super::error::{IdentityError, IdentityViolation};
use super::member::{MemberIdentifier, Passkey};
use super::signature::UnverifiedSignature;

/// Actions that are signed together. `S` is a signature before or after verification.
#[derive(Debug)]
pub(super) struct Update<'a, S> {
    pub(super) inbox_id: &'a str,
    pub(super) client_timestamp_ns: u64,
    pub(super) actions: Vec<Action<S>>,
}

/// One change of an inbox.
#[derive(Debug)]
pub(super) enum Action<S> {
    Create { account: MemberIdentifier, nonce: u64, by: S },
    Add { member: MemberIdentifier, by: S, new: S },
    Revoke { member: MemberIdentifier, by: S },
    ChangeRecovery { to: MemberIdentifier, by: S },
}

impl<S> Action<S> {
    /// Returns the signatures, that of the member that agrees to the action first.
    pub(super) fn signatures(&self) -> impl Iterator<Item = &S> {
        let (by, new) = match self {
            Self::Add { by, new, .. } => (by, Some(new)),
            Self::Create { by, .. } | Self::Revoke { by, .. } | Self::ChangeRecovery { by, .. } => {
                (by, None)
            }
        };
        std::iter::once(by).chain(new)
    }

    /// Returns the action with `check` applied to each signature.
    pub(super) fn try_map<T, E>(
        &self,
        mut check: impl FnMut(&S) -> Result<T, E>,
    ) -> Result<Action<T>, E> {
        Ok(match self {
            Self::Create { account, nonce, by } => {
                Action::Create { account: account.clone(), nonce: *nonce, by: check(by)? }
            }
            Self::Add { member, by, new } => {
                Action::Add { member: member.clone(), by: check(by)?, new: check(new)? }
            }
            Self::Revoke { member, by } => {
                Action::Revoke { member: member.clone(), by: check(by)? }
            }
            Self::ChangeRecovery { to, by } => {
                Action::ChangeRecovery { to: to.clone(), by: check(by)? }
            }
        })
    }
}

/// Reads the wire form.
pub(super) fn parse(
    update: &pb::IdentityUpdate,
) -> Result<Update<'_, UnverifiedSignature<'_>>, IdentityError> {
    let actions = update.actions.iter().enumerate();
    Ok(Update {
        inbox_id: &update.inbox_id,
        client_timestamp_ns: update.client_timestamp_ns,
        actions: actions
            .map(|(place, given)| action(given).map_err(|violation| violation.in_action(place)))
            .collect::<Result<_, _>>()?,
    })
}

/// Converts one action of an update; signatures in it are not verified.
pub(super) fn action(
    action: &pb::IdentityAction,
) -> Result<Action<UnverifiedSignature<'_>>, IdentityViolation> {
    let kind =
        action.kind.as_ref().ok_or(IdentityViolation::Malformed("action of no known kind"))?;
    Ok(match kind {
        Kind::CreateInbox(create) => Action::Create {
            account: account(
                &create.initial_identifier,
                create.initial_identifier_kind(),
                create.relying_party.as_deref(),
            )?,
            nonce: create.nonce,
            by: claim(create.initial_identifier_signature.as_ref())?,
        },
        Kind::Add(add) => Action::Add {
            member: member(add.new_member_identifier.as_ref())?,
            by: claim(add.existing_member_signature.as_ref())?,
            new: claim(add.new_member_signature.as_ref())?,
        },
        Kind::Revoke(revoke) => Action::Revoke {
            member: member(revoke.member_to_revoke.as_ref())?,
            by: claim(revoke.recovery_identifier_signature.as_ref())?,
        },
        Kind::ChangeRecoveryAddress(change) => Action::ChangeRecovery {
            to: account(
                &change.new_recovery_identifier,
                change.new_recovery_identifier_kind(),
                change.relying_party.as_deref(),
            )?,
            by: claim(change.existing_recovery_identifier_signature.as_ref())?,
        },
    })
}

fn claim(signature: Option<&pb::Signature>) -> Result<UnverifiedSignature<'_>, IdentityViolation> {
    let signature = signature.and_then(|signature| signature.signature.as_ref());
    UnverifiedSignature::read(signature.ok_or(IdentityViolation::Malformed("missing signature"))?)
}

fn member(
    identifier: Option<&pb::MemberIdentifier>,
) -> Result<MemberIdentifier, IdentityViolation> {
    identifier
        .and_then(MemberIdentifier::from_pb)
        .ok_or(IdentityViolation::Malformed("missing member identifier"))
}

/// Parses a founder or a recovery identifier, which are text. Old clients send no kind and mean Ethereum.
fn account(
    text: &str,
    kind: IdentifierKind,
    relying_party: Option<&str>,
) -> Result<MemberIdentifier, IdentityViolation> {
    Ok(match kind {
        IdentifierKind::Unspecified | IdentifierKind::Ethereum => {
            MemberIdentifier::Ethereum(text.to_owned())
        }
        IdentifierKind::Passkey => MemberIdentifier::Passkey(Passkey {
            key: hex::decode(text)
                .map_err(|_| IdentityViolation::Malformed("passkey that is not hexadecimal"))?
                .into(),
            relying_party: relying_party.map(Arc::from),
        }),
    })
}
