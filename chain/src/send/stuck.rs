//! Transactions that are not mined because their price has become too low: a later one takes the place of the first.
//!
//! For accounts whose calls may be repeated and may come in any order, such as those of the payer report manager. A
//! broadcaster replaces its transactions by itself.

use super::call::Quote;
use crate::broadcast::{PRICE_FACTOR_MAX, replacement_price};

/// The first nonce of an account whose transaction was not mined within the time limit, with the fees that a
/// replacement has to exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StuckNonce {
    /// The nonce.
    pub(crate) nonce: u64,
    max_fee_per_gas: u128,
    max_priority_fee_per_gas: u128,
}

impl StuckNonce {
    /// Returns the nonce at which, or behind which, a transaction with the fees of this quote waits. The transaction of
    /// the nonce may be of an earlier run, with higher fees: nodes then refuse the replacement, and the next one is
    /// dearer.
    pub(crate) fn new(nonce: u64, quote: &Quote) -> Self {
        let &Quote { max_fee_per_gas, max_priority_fee_per_gas, .. } = quote;
        Self { nonce, max_fee_per_gas, max_priority_fee_per_gas }
    }

    /// Returns a present quote at fees for which nodes let its transaction replace the one that waits; `None` if they
    /// would be more than [`PRICE_FACTOR_MAX`] times the present ones: then the price is not what keeps it waiting.
    pub(crate) fn outbid(self, quote: Quote) -> Option<Quote> {
        let fee = quote.max_fee_per_gas.max(replacement_price(self.max_fee_per_gas));
        let tip = quote.max_priority_fee_per_gas;
        let tip = tip.max(replacement_price(self.max_priority_fee_per_gas));
        let is_sane = fee <= quote.max_fee_per_gas.saturating_mul(PRICE_FACTOR_MAX);
        is_sane.then(|| Quote {
            max_fee_per_gas: fee,
            max_priority_fee_per_gas: tip.min(fee),
            ..quote
        })
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Bytes;

    use super::*;

    fn quote(max_fee_per_gas: u128, max_priority_fee_per_gas: u128) -> Quote {
        let (returned, gas_limit) = (Bytes::new(), 21_000);
        Quote { returned, gas_limit, max_fee_per_gas, max_priority_fee_per_gas }
    }

    #[test]
    fn a_replacement_raises_both_fees_by_what_nodes_demand_and_not_without_end() {
        let stuck = StuckNonce::new(3, &quote(800, 80));
        assert_eq!(stuck.outbid(quote(700, 10)), Some(quote(901, 91)), "the price has fallen");
        assert_eq!(stuck.outbid(quote(5000, 10)), Some(quote(5000, 91)));
        assert_eq!(stuck.outbid(quote(5000, 500)), Some(quote(5000, 500)));
        assert_eq!(stuck.outbid(quote(112, 1)), None, "more than eight times the price");
        // An endpoint may have stated any fees.
        let most = StuckNonce::new(3, &quote(u128::MAX, u128::MAX));
        assert_eq!(most.outbid(quote(7, 7)), None);
        assert_eq!(most.outbid(quote(u128::MAX, 1)), Some(quote(u128::MAX, u128::MAX)));
    }
}
