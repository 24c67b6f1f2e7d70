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

    /// Returns the quote with a price at which it costs no more than an earlier quote of the call, which the sender has
    /// agreed to. `None` if that is below the present base fee, at which it is not mined: a quote has the tip and twice
    /// the base fee.
    pub(super) fn within(self, agreed: &Self) -> Option<Self> {
        let most = agreed.fee_max() / U256::from(self.gas_limit.max(1));
        let price = self.max_fee_per_gas.min(WeiPerGas(most.saturating_to()));
        let base_fee = self.max_fee_per_gas.less(self.max_priority_fee_per_gas).0.div_ceil(2);
        let is_enough = price.0 >= base_fee.max(self.max_fee_per_gas.0.min(1));
        let tip = self.max_priority_fee_per_gas.min(price);
        is_enough.then_some(Self { max_fee_per_gas: price, max_priority_fee_per_gas: tip, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quote(gas_limit: u64, fee: u128, tip: u128) -> Quote {
        Quote {
            returned: Bytes::new(),
            gas_limit,
            max_fee_per_gas: WeiPerGas(fee),
            max_priority_fee_per_gas: WeiPerGas(tip),
        }
    }

    /// An endpoint may show a low price to the one who is asked, and a high one when the answer was yes.
    #[test]
    fn a_transaction_costs_no_more_than_what_was_agreed_to() {
        let agreed = quote(100, 1000, 10);
        for (present, sent) in [
            (quote(100, 1000, 10), Some(quote(100, 1000, 10))),
            (quote(90, 900, 20), Some(quote(90, 900, 20))),
            (quote(100, 1500, 1500), Some(quote(100, 1000, 1000))),
            (quote(100, u128::MAX, u128::MAX), Some(quote(100, 1000, 1000))),
            (quote(100, 2010, 10), Some(quote(100, 1000, 10))),
            (quote(100, 2011, 10), None),
            (quote(150, 1000, 10), Some(quote(150, 666, 10))),
            (quote(203, 1000, 10), None),
            (quote(u64::MAX, 1, 1), None),
            (quote(0, u128::MAX, 0), None),
            (quote(100, 0, 0), Some(quote(100, 0, 0))),
        ] {
            let within = present.clone().within(&agreed);
            let is_bounded = |it: &Quote| it.fee_max() <= agreed.fee_max();
            assert!(within.as_ref().is_none_or(is_bounded), "{present:?}");
            assert_eq!(within, sent, "{present:?}");
        }
    }
}
