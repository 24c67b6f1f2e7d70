//! Replaces the first transaction that is not mined because its price has become too low.
//!
//! For accounts whose calls may be repeated and may come in any order, such as those of the payer report manager. A
//! broadcaster replaces its transactions by itself.

use super::call::Quote;
use crate::admin::WeiPerGas;
use crate::broadcast::{PRICE_FACTOR_MAX, replacement_price};

/// The fees per gas of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PaidFees {
    fee: WeiPerGas,
    tip: WeiPerGas,
}

/// The first nonce of an account whose transaction was not mined within the time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StuckNonce {
    /// The nonce.
    pub(crate) nonce: u64,
    /// The fees of its transaction, which a replacement has to exceed; `None` if they are not known.
    fees: Option<PaidFees>,
}

impl StuckNonce {
    /// Returns the first nonce that waits, after a transaction with the fees of this quote was not mined. `sent` is the
    /// nonce of that transaction, if it is known. If the two nonces differ, the first transaction comes from an earlier
    /// run of the node, and its fees are unknown: the fees of the later transaction may be many times as high.
    pub(crate) fn new(nonce: u64, sent: Option<u64>, quote: &Quote) -> Self {
        let is_sent = sent == Some(nonce);
        Self { nonce, fees: is_sent.then(|| fees_of(quote)) }
    }

    /// Raises the fees of a present quote until nodes let its transaction replace the one that waits. Returns `None` if
    /// that takes more than [`PRICE_FACTOR_MAX`] times the present fees, because the price is then not the reason for
    /// the wait.
    ///
    /// Assumes the present fees if those of the waiting transaction are unknown. If its fees are in fact higher, nodes
    /// refuse the replacement, and the next one offers more.
    pub(crate) fn outbid(self, quote: Quote) -> Option<Quote> {
        let outbid = self.fees.unwrap_or_else(|| fees_of(&quote));
        let fee = quote.max_fee_per_gas.max(replacement_price(outbid.fee));
        let tip = quote.max_priority_fee_per_gas;
        let tip = tip.max(replacement_price(outbid.tip));
        let is_sane = fee <= quote.max_fee_per_gas.times(PRICE_FACTOR_MAX);
        is_sane.then(|| Quote {
            max_fee_per_gas: fee,
            max_priority_fee_per_gas: tip.min(fee),
            ..quote
        })
    }
}

/// Doubles the fees of a quote, for a transaction that every endpoint refuses because of its fees. The tip becomes a
/// quarter of the price at least, because nodes refuse tips below a bound of their own, however low other tips are.
/// Returns `None` if the price would exceed [`PRICE_FACTOR_MAX`] times the `present` one.
pub(crate) fn with_doubled_fees(quote: &Quote, present: WeiPerGas) -> Option<Quote> {
    let fee = quote.max_fee_per_gas.times(2);
    let is_sane = fee > quote.max_fee_per_gas && fee <= present.times(PRICE_FACTOR_MAX);
    let tip = quote.max_priority_fee_per_gas.times(2).max(WeiPerGas(fee.0 / 4));
    is_sane.then(|| Quote {
        max_fee_per_gas: fee,
        max_priority_fee_per_gas: tip.min(fee),
        ..quote.clone()
    })
}

fn fees_of(quote: &Quote) -> PaidFees {
    PaidFees { fee: quote.max_fee_per_gas, tip: quote.max_priority_fee_per_gas }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Bytes;

    use super::*;

    fn quote(fee: u128, tip: u128) -> Quote {
        Quote {
            returned: Bytes::new(),
            gas_limit: 21_000,
            max_fee_per_gas: WeiPerGas(fee),
            max_priority_fee_per_gas: WeiPerGas(tip),
        }
    }

    #[test]
    fn a_replacement_raises_both_fees_by_what_nodes_demand_and_not_without_end() {
        let stuck = StuckNonce::new(3, Some(3), &quote(800, 80));
        assert_eq!(stuck.outbid(quote(700, 10)), Some(quote(901, 91)), "the price has fallen");
        assert_eq!(stuck.outbid(quote(5000, 10)), Some(quote(5000, 91)));
        assert_eq!(stuck.outbid(quote(5000, 500)), Some(quote(5000, 500)));
        assert_eq!(stuck.outbid(quote(112, 1)), None, "more than eight times the price");
        // An endpoint may have stated any fees.
        let most = StuckNonce::new(3, Some(3), &quote(u128::MAX, u128::MAX));
        assert_eq!(most.outbid(quote(7, 7)), None);
        assert_eq!(most.outbid(quote(u128::MAX, 1)), Some(quote(u128::MAX, u128::MAX)));
    }

    #[test]
    fn refused_fees_are_doubled_up_to_eight_times_the_present_price() {
        let present = WeiPerGas(100);
        let mut all = vec![quote(100, 1)];
        while let Some(next) = with_doubled_fees(&all[all.len() - 1], present) {
            all.push(next);
        }
        assert_eq!(all[1..], [quote(200, 50), quote(400, 100), quote(800, 200)]);
        assert_eq!(with_doubled_fees(&quote(100, 90), present), Some(quote(200, 180)));
        // An endpoint may have stated any fees.
        let most = WeiPerGas(u128::MAX);
        assert_eq!(with_doubled_fees(&quote(u128::MAX, 1), most), None);
        assert_eq!(with_doubled_fees(&quote(0, 0), most), None);
    }

    /// Otherwise, after a short rise of the price, nothing would be sent until the price is that high again.
    #[test]
    fn a_transaction_of_an_earlier_run_is_not_taken_for_as_dear_as_the_one_that_waits_behind_it() {
        for sent in [Some(4), None] {
            let stuck = StuckNonce::new(3, sent, &quote(8000, 800));
            assert_eq!(stuck.outbid(quote(80, 8)), Some(quote(91, 10)), "{sent:?}");
        }
        let own = StuckNonce::new(3, Some(3), &quote(8000, 800));
        assert_eq!(own.outbid(quote(80, 8)), None);
    }
}
