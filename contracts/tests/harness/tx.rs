//! Transactions before and after they are mined.

use alloy::primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy::rpc::types::{TransactionInput, TransactionReceipt, TransactionRequest};
use alloy::sol_types::{SolCall, SolError, SolEvent};

/// Gas limit of a transaction. A guess: more than any test needs, and below the limit of EIP-7825.
const GAS: u64 = 16_000_000;
/// Highest gas price of a transaction, in wei. A guess: above the base fee of any block.
const GAS_PRICE: u128 = 50_000_000_000;

/// A transaction to send.
#[derive(Debug, Clone)]
pub(crate) struct Tx {
    pub(crate) from: Address,
    /// The called account; `None` creates a contract.
    pub(crate) to: Option<Address>,
    pub(crate) data: Bytes,
    pub(crate) value: U256,
}

impl Tx {
    pub(crate) fn call(from: Address, to: Address, call: &impl SolCall) -> Self {
        Self::raw(from, to, call.abi_encode())
    }

    pub(crate) fn raw(from: Address, to: Address, data: impl Into<Bytes>) -> Self {
        Self { from, to: Some(to), data: data.into(), value: U256::ZERO }
    }

    pub(crate) fn create(from: Address, init_code: Bytes) -> Self {
        Self { from, to: None, data: init_code, value: U256::ZERO }
    }

    /// Sets the native tokens that go with the transaction, in wei.
    pub(crate) fn with_value(self, wei: impl TryInto<U256>) -> Self {
        let value = wei.try_into().ok().expect("an amount fits");
        Self { value, ..self }
    }

    pub(crate) fn request(&self) -> TransactionRequest {
        // The zero address has no balance. A call without a price runs as if gas were free.
        let price = (self.from != Address::ZERO).then_some(GAS_PRICE);
        TransactionRequest {
            from: Some(self.from),
            to: Some(self.to.map_or(TxKind::Create, TxKind::Call)),
            input: TransactionInput::new(self.data.clone()),
            value: Some(self.value),
            gas: Some(GAS),
            max_fee_per_gas: price,
            max_priority_fee_per_gas: price.map(|_| 0),
            ..TransactionRequest::default()
        }
    }
}

/// The revert data that a call is expected to return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpectedRevert(pub(crate) Bytes);

impl ExpectedRevert {
    /// Returns the data of an error without arguments, such as `NotAdmin()`.
    pub(crate) fn named(signature: &str) -> Self {
        Self(Bytes::copy_from_slice(&keccak256(signature)[..4]))
    }

    /// Returns the empty data of a revert without an error.
    pub(crate) fn silent() -> Self {
        Self(Bytes::new())
    }
}

impl<E: SolError> From<E> for ExpectedRevert {
    fn from(error: E) -> Self {
        Self(error.abi_encode().into())
    }
}

/// The receipt of a successful transaction.
#[derive(Debug)]
pub(crate) struct Receipt(pub(crate) TransactionReceipt);

impl Receipt {
    /// Returns the events of one kind that a contract logged, in order.
    pub(crate) fn events<E: SolEvent>(&self, contract: Address) -> Vec<E> {
        let logs = self.0.logs().iter().filter(|log| log.address() == contract);
        logs.filter_map(|log| E::decode_log(&log.inner).ok().map(|log| log.data)).collect()
    }

    /// Returns the only event of this kind that a contract logged. Panics for any other number.
    pub(crate) fn event<E: SolEvent>(&self, contract: Address) -> E {
        let mut events = self.events(contract);
        assert_eq!(events.len(), 1, "there is one {}", E::SIGNATURE);
        events.remove(0)
    }

    /// The first topics of all logs, in order.
    pub(crate) fn log_kinds(&self) -> Vec<B256> {
        self.0.logs().iter().filter_map(|log| log.topic0().copied()).collect()
    }

    pub(crate) fn gas_used(&self) -> u64 {
        self.0.gas_used
    }
}
