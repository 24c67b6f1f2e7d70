//! The call of a contract, and its quoted cost.

use alloy::primitives::{Address, Bytes, TxKind, U256};
use alloy::rpc::types::{TransactionInput, TransactionRequest};
use alloy::sol_types::SolCall;

use crate::admin::WeiPerGas;

/// The content of a transaction: the call or the creation of a contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The contract to call; `None` creates one.
    pub to: Option<Address>,
    /// The encoded function and arguments, or the creation code.
    pub data: Bytes,
    /// The native tokens to transfer, in wei.
    pub value: U256,
}

impl Call {
    /// Creates a call of a contract's function.
    #[must_use]
    pub fn new(to: Address, call: &impl SolCall) -> Self {
        Self { to: Some(to), data: call.abi_encode().into(), value: U256::ZERO }
    }

    /// Creates a call that creates a contract.
    #[must_use]
    pub fn create(init_code: Bytes) -> Self {
        Self { to: None, data: init_code, value: U256::ZERO }
    }

    /// Returns the call with an amount of native tokens to transfer, in wei.
    #[must_use]
    pub fn with_value(self, value: U256) -> Self {
        Self { value, ..self }
    }

    /// Returns the call as a request from an account, without gas limit, price and nonce.
    #[must_use]
    pub fn request(&self, from: Address) -> TransactionRequest {
        TransactionRequest {
            from: Some(from),
            to: Some(self.to.map_or(TxKind::Create, TxKind::Call)),
            input: TransactionInput::new(self.data.clone()),
            value: Some(self.value),
            ..TransactionRequest::default()
        }
    }
}

/// The result and the cost that a call would have if it were sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// The function's return value, ABI-encoded.
    pub returned: Bytes,
    /// The gas limit: the estimate plus up to a quarter.
    pub gas_limit: u64,
    /// The highest price of gas.
    pub max_fee_per_gas: WeiPerGas,
    /// The highest part of that price that goes to the block's producer.
    pub max_priority_fee_per_gas: WeiPerGas,
}

impl Quote {
    /// Returns the highest possible cost of gas, in wei.
    #[must_use]
    pub fn fee_max(&self) -> U256 {
        U256::from(self.gas_limit) * U256::from(self.max_fee_per_gas.0)
    }
}
