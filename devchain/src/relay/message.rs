//! Messages that the bridge carries between the two chains.

use std::fmt;

use alloy::primitives::{Address, Bytes, U256, address};

/// The system contract of the app chain (`ArbSys`).
pub const ARB_SYS: Address = address!("0x0000000000000000000000000000000000000064");

/// The direction of a message and its number in that direction, from 1.
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

/// A call that an account of one chain requests on the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeMessage {
    /// The account that left the message, on its own chain.
    pub sender: Address,
    /// The contract to call, on the other chain.
    pub to: Address,
    /// The value of the call, in units of the fee token with 18 decimals.
    pub value: U256,
    /// Function selector and arguments.
    pub data: Bytes,
}
