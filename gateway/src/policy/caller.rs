//! The name of a caller.

use std::sync::Arc;

/// The name of a caller: an address, a claim of its token, the owner of its key, or the name that the webhook gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CallerId(pub(super) Arc<str>);

impl CallerId {
    /// Creates the id of a caller, or of a tenant that counts as one.
    pub(crate) fn of_name(name: &str) -> Self {
        Self(name.into())
    }

    /// Returns the name.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}
