//! The sending account of a planned operation.

use alloy::primitives::Address;
use alloy::signers::local::PrivateKeySigner;

use super::AdminError;

/// The sending account of a planned operation.
#[derive(Debug, Clone)]
pub enum Account {
    /// An account whose private key is available for signing.
    Key(PrivateKeySigner),
    /// An account of which only the address is known, such as a multisig.
    Address(Address),
    /// An unknown account: the plan has to work for any sender.
    Unknown,
}

impl Account {
    /// Returns the account's address; `None` for [`Self::Unknown`].
    #[must_use]
    pub fn address(&self) -> Option<Address> {
        match self {
            Self::Key(key) => Some(key.address()),
            Self::Address(address) => Some(*address),
            Self::Unknown => None,
        }
    }

    /// Returns the account's address for an operation that depends on it.
    ///
    /// # Errors
    /// [`AdminError::NoAccount`] for [`Self::Unknown`].
    pub fn required(&self) -> Result<Address, AdminError> {
        self.address().ok_or(AdminError::NoAccount)
    }
}
