//! Messages between the two chains.

use std::fmt;

use alloy::primitives::{Address, Bytes, U256, address};

/// The system contract of the app chain (`ArbSys`).
pub const ARB_SYS: Address = address!("0x0000000000000000000000000000000000000064");

/// A message's way and its number there, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BridgeMessageId {
    /// From the settlement chain's inbox to the app chain.
    Ticket(u64),
    /// From the app chain to the settlement chain.
    Withdrawal(u64),
}

impl fmt::Display for BridgeMessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ticket(number) => write!(f, "ticket {number}"),
            Self::Withdrawal(number) => write!(f, "withdrawal {number}"),
        }
    }
}

/// A call that one chain asks the other for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeMessage {
    /// Who has left it, on the chain where it was left.
    pub sender: Address,
    /// Whom it calls, on the other chain.
    pub to: Address,
    /// What the call carries, in 18-decimals units of the fee token.
    pub value: U256,
    /// Function and arguments.
    pub data: Bytes,
}
