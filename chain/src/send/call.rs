//! A call that can be made, and what it would cost.

use alloy::primitives::{Address, Bytes, TxKind, U256};
use alloy::rpc::types::{TransactionInput, TransactionRequest};
use alloy::sol_types::SolCall;

/// What a transaction does: call a contract or create one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The contract, or nothing to create one.
    pub to: Option<Address>,
    /// Function and arguments, or the code that creates a contract.
    pub data: Bytes,
    /// Native tokens that go with it, in wei.
    pub value: U256,
}

impl Call {
    /// A call of a contract's function.
    #[must_use]
    pub fn new(to: Address, call: &impl SolCall) -> Self {
        Self { to: Some(to), data: call.abi_encode().into(), value: U256::ZERO }
    }

    /// The creation of a contract.
    #[must_use]
    pub fn create(init_code: Bytes) -> Self {
        Self { to: None, data: init_code, value: U256::ZERO }
    }

    /// The same call with native tokens, in wei.
    #[must_use]
    pub fn with_value(self, value: U256) -> Self {
        Self { value, ..self }
    }

    /// Returns the call as a request from an account, without gas, price and nonce.
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

/// What a call would return and cost if it were sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// What the function returns; encoded as its interface says.
    pub returned: Bytes,
    /// Gas it is given: what it was estimated to need, and some more.
    pub gas_limit: u64,
    /// The most that is paid for a unit of gas, in wei.
    pub max_fee_per_gas: u128,
    /// Of that, the most that goes to whoever makes the block, in wei.
    pub max_priority_fee_per_gas: u128,
}

impl Quote {
    /// The most that gas can cost, in wei.
    #[must_use]
    pub fn fee_max(&self) -> U256 {
        U256::from(self.gas_limit) * U256::from(self.max_fee_per_gas)
    }
}
