//! In whose name something is done.

use alloy::primitives::Address;
use alloy::signers::local::PrivateKeySigner;

use super::AdminError;

/// In whose name something is done.
#[derive(Debug, Clone)]
pub enum Account {
    /// The key is there: it can sign.
    Key(PrivateKeySigner),
    /// Only the address is known, as of a multisig.
    Address(Address),
    /// Whoever sends it in the end.
    Unknown,
}

impl Account {
    /// The account's address, if it is known.
    #[must_use]
    pub fn address(&self) -> Option<Address> {
        match self {
            Self::Key(key) => Some(key.address()),
            Self::Address(address) => Some(*address),
            Self::Unknown => None,
        }
    }

    /// The account's address, for what cannot be said without it.
    ///
    /// # Errors
    /// [`AdminError::NoAccount`].
    pub fn required(&self) -> Result<Address, AdminError> {
        self.address().ok_or(AdminError::NoAccount)
    }
}
