//! The account for which an operation is planned.

use alloy::primitives::Address;
use alloy::signers::local::PrivateKeySigner;

use super::AdminError;

/// The account for which an operation is planned.
#[derive(Debug, Clone)]
pub enum Account {
    /// An account whose key is at hand.
    Key(PrivateKeySigner),
    /// An account whose address alone is known, such as a multisig.
    Address(Address),
    /// An account that is not known yet: the plan works for any sender.
    Unknown,
}

impl Account {
    /// Returns the account's address, if it is known.
    #[must_use]
    pub fn address(&self) -> Option<Address> {
        match self {
            Self::Key(key) => Some(key.address()),
            Self::Address(address) => Some(*address),
            Self::Unknown => None,
        }
    }

    /// Returns the account's address, for operations that depend on it.
    ///
    /// # Errors
    /// [`AdminError::NoAccount`] if it is not known.
    pub fn required(&self) -> Result<Address, AdminError> {
        self.address().ok_or(AdminError::NoAccount)
    }
}
