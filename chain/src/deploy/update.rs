//! A named call of a configuration.

use alloy::primitives::Address;
use alloy::sol_types::SolCall;

use crate::send::Call;

/// A call that sets parameters, or makes a contract read them again.
pub(super) struct Update {
    /// The function.
    pub(super) name: &'static str,
    pub(super) call: Call,
}

impl Update {
    pub(super) fn new<C: SolCall>(to: Address, call: &C) -> Self {
        Self { name: C::SIGNATURE, call: Call::new(to, call) }
    }
}
