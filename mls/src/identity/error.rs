//! The rules that an identity update can break.
//!
//! Clients distinguish final errors from temporary ones by phrases in these texts. The part of each text before its
//! first colon is therefore part of the protocol and never changes.

use std::fmt;

use super::kind::{MemberKind, SignatureKind};

/// The first rule that an update breaks, and the action that breaks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityError {
    /// Index of the action in its update, from 0; `None` if the update as a whole breaks the rule.
    pub action: Option<usize>,
    /// The broken rule.
    pub violation: IdentityViolation,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.violation.fmt(f)?;
        match self.action {
            Some(action) => write!(f, " (action {action})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for IdentityError {}

/// A broken rule of identity updates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityViolation {
    /// A required field is missing or malformed.
    #[error("Deserialization error: {0}")]
    Malformed(&'static str),
    /// The address of a contract wallet is malformed.
    #[error("Invalid account address: Must be 42 hex characters, starting with '0x'.")]
    InvalidAddress,
    /// A signature is not its signer's, or not over this update.
    #[error("Signature validation failed: {0}")]
    Signature(&'static str),
    /// The signer adds itself.
    #[error("Error creating association: tried to add self")]
    AddsItself,
    /// An action other than the first one of the inbox creates it.
    #[error("Multiple create operations detected")]
    MultipleCreate,
    /// The first action of an inbox does not create it.
    #[error("XID not yet created")]
    NotCreated,
    /// A member of the first kind may not add one of the second.
    #[error("Member of kind {0} not allowed to add {1}")]
    NotAllowedToAdd(MemberKind, MemberKind),
    /// The signer is not the member whose signature the action needs.
    #[error("Missing existing member: {0}")]
    MissingExistingMember(&'static str),
    /// A legacy key signs for another inbox than that of its wallet with nonce 0.
    #[error("Legacy key is only allowed to be associated using a legacy signature with nonce 0")]
    LegacyKey,
    /// The new member has not signed its own addition.
    #[error("The new member identifier does not match the signer")]
    NewMemberNotSigner,
    /// The update names an inbox other than its own.
    #[error("Wrong inbox_id specified on association")]
    WrongInboxId,
    /// The signature is of another kind than the signer's.
    #[error("Signature not allowed for role: {role} with {signature}")]
    SignatureNotAllowed {
        /// Kind of the signer.
        role: MemberKind,
        /// Kind of the signature.
        signature: SignatureKind,
    },
    /// The signature was used in an earlier update of the inbox.
    #[error("Replay detected: the signature was used in an earlier update of this inbox")]
    Replay,
    /// The wallet signs from another chain than it was added with. Accounts with keys count as chain 0.
    #[error("Wrong chain id. Initially added with {added} but now signing from {signing}")]
    WrongChainId {
        /// Chain that it was added with (EIP-155).
        added: u64,
        /// Chain that it signs from.
        signing: u64,
    },
}

impl IdentityViolation {
    pub(super) fn in_update(self) -> IdentityError {
        IdentityError { action: None, violation: self }
    }

    pub(super) fn in_action(self, action: usize) -> IdentityError {
        IdentityError { action: Some(action), violation: self }
    }
}
