//! Why an identity update does not hold.
//!
//! Other software tells final refusals from passing trouble by phrases in these texts, so the part
//! of each text before its first colon never changes.

use std::fmt;

use super::member::MemberKind;
use super::signature::SignatureKind;

/// A refused update: what was wrong and with which action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityError {
    /// The place of the action in its update, from 0; `None` when it is about the update.
    pub action: Option<usize>,
    /// What was wrong.
    pub refusal: Refusal,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.refusal.fmt(f)?;
        match self.action {
            Some(action) => write!(f, " (action {action})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for IdentityError {}

/// What can be wrong with an update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A field that has to be there is not, or does not read.
    #[error("Deserialization error: {0}")]
    Malformed(&'static str),
    /// A contract wallet whose address is none.
    #[error("Invalid account address: Must be 42 hex characters, starting with '0x'.")]
    InvalidAddress,
    /// A signature that its signer did not make over this update.
    #[error("Signature validation failed: {0}")]
    Signature(&'static str),
    /// Somebody adds itself.
    #[error("Error creating association: tried to add self")]
    AddsItself,
    /// Only the first action of an inbox's first update creates it.
    #[error("Multiple create operations detected")]
    MultipleCreate,
    /// The first action of an inbox has to create it.
    #[error("XID not yet created")]
    NotCreated,
    /// A kind of member that may not bring in that other kind.
    #[error("Member of kind {0} not allowed to add {1}")]
    NotAllowedToAdd(MemberKind, MemberKind),
    /// The signer is not who had to sign.
    #[error("Missing existing member: {0}")]
    MissingExistingMember(&'static str),
    /// Legacy keys speak for the inbox of their wallet and nonce 0 alone.
    #[error("Legacy key is only allowed to be associated using a legacy signature with nonce 0")]
    LegacyKey,
    /// The new member did not sign itself.
    #[error("The new member identifier does not match the signer")]
    NewMemberNotSigner,
    /// The update is for another inbox than the one it is in.
    #[error("Wrong inbox_id specified on association")]
    WrongInboxId,
    /// Whoever signs has to sign as its kind does.
    #[error("Signature not allowed for role: {role} with {signature}")]
    SignatureNotAllowed {
        /// Whose signature it should be.
        role: MemberKind,
        /// What it is.
        signature: SignatureKind,
    },
    /// The signature was used in an earlier update.
    #[error("Replay detected: the signature was used in an earlier update of this inbox")]
    Replay,
    /// A contract wallet belongs to one chain, and accounts with keys to none (0).
    #[error("Wrong chain id. Initially added with {added} but now signing from {signing}")]
    WrongChainId {
        /// The chain it was added with.
        added: u64,
        /// The chain it signs from now.
        signing: u64,
    },
}

impl Refusal {
    pub(super) fn of_update(self) -> IdentityError {
        IdentityError { action: None, refusal: self }
    }

    pub(super) fn of_action(self, action: usize) -> IdentityError {
        IdentityError { action: Some(action), refusal: self }
    }
}
