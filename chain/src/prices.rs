//! The price of gas, as several endpoints state it.
//!
//! The attacker is one endpoint that states a wrong price: a high one drains the account, or is refused by the
//! ceilings, and a low one leaves transactions unmined. So every endpoint is asked, and the median counts: among three
//! endpoints, one that lies can move it only to a price that an honest endpoint states. Of two, one states the lower
//! and one the higher price, and nothing shows which is true, so callers use both: see `broadcast::price` and
//! [`agreed_fees`]. A price above the ceiling, or above what the account can pay, is not used if the other one is
//! below: see [`Medians::up_to`].

use std::time::Duration;

use alloy::eips::eip1559::Eip1559Estimation;

use crate::admin::WeiPerGas;

/// The time for which the others are waited for once more than half of the endpoints have answered. A guess: longer
/// than the times of answers differ, and short compared with the time until a transaction is mined.
pub(crate) const GRACE: Duration = Duration::from_millis(300);

/// The medians of what endpoints state. Of an odd number of statements they are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Medians<T> {
    pub(crate) lower: T,
    pub(crate) upper: T,
}

/// The medians of the prices that endpoints state.
pub(crate) type MedianPrices = Medians<WeiPerGas>;

impl<T: Copy + Ord> Medians<T> {
    /// Returns the medians; `None` if nothing is stated.
    pub(crate) fn of(stated: impl IntoIterator<Item = T>) -> Option<Self> {
        let mut sorted: Vec<T> = stated.into_iter().collect();
        sorted.sort_unstable();
        let at = |index: usize| sorted.get(index).copied();
        let lower = at(sorted.len().checked_sub(1)? / 2)?;
        Some(Self { lower, upper: at(sorted.len() / 2)? })
    }
}

impl MedianPrices {
    /// Returns the upper median, or the lower one if the upper one is above `price_max`. So one of two endpoints that
    /// states a price above a ceiling stops no transaction.
    pub(crate) fn up_to(self, price_max: WeiPerGas) -> WeiPerGas {
        if self.upper <= price_max { self.upper } else { self.lower }
    }
}

/// Returns the fees of a transaction by those that the endpoints state.
///
/// The highest price is that of [`Medians::up_to`]: the chain charges its own base fee, however high the bound
/// is. The priority fee, which is paid in addition, is the lower median.
pub(crate) fn agreed_fees(
    stated: &[Eip1559Estimation],
    price_max: WeiPerGas,
) -> Option<Eip1559Estimation> {
    let price = MedianPrices::of(stated.iter().map(|fees| WeiPerGas(fees.max_fee_per_gas)))?;
    let tip = stated.iter().map(|fees| WeiPerGas(fees.max_priority_fee_per_gas));
    let WeiPerGas(max_fee_per_gas) = price.up_to(price_max);
    let max_priority_fee_per_gas = MedianPrices::of(tip)?.lower.0.min(max_fee_per_gas);
    Some(Eip1559Estimation { max_fee_per_gas, max_priority_fee_per_gas })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fees(price: u128, tip: u128) -> Eip1559Estimation {
        Eip1559Estimation { max_fee_per_gas: price, max_priority_fee_per_gas: tip }
    }

    #[test]
    fn one_of_three_endpoints_moves_the_price_only_to_that_of_another_one() {
        assert_eq!(MedianPrices::of([]), None);
        let medians =
            |lower, upper| MedianPrices { lower: WeiPerGas(lower), upper: WeiPerGas(upper) };
        let of = |stated: &[u128]| MedianPrices::of(stated.iter().copied().map(WeiPerGas)).unwrap();
        for lie in [0, 9, 11, u128::MAX] {
            let median = of(&[12, lie, 10]);
            assert_eq!(median.lower, median.upper);
            assert!((10..=12).contains(&median.lower.0), "{lie}");
        }
        assert_eq!(of(&[7]), medians(7, 7));
        assert_eq!(of(&[9, 7]), medians(7, 9));
        assert_eq!(of(&[9, 1, 7, 8]), medians(7, 8));
    }

    #[test]
    fn one_of_two_endpoints_neither_raises_the_tip_nor_lowers_the_price() {
        let (honest, ceiling) = (fees(100, 3), WeiPerGas(1000));
        for (lie, agreed) in [
            (fees(0, 0), fees(100, 0)),
            (fees(900, 900), fees(900, 3)),
            (fees(1001, 900), honest), // above the ceiling
            (fees(u128::MAX, 0), fees(100, 0)),
        ] {
            for stated in [[honest, lie], [lie, honest]] {
                assert_eq!(agreed_fees(&stated, ceiling), Some(agreed), "{lie:?}");
            }
        }
        assert_eq!(
            agreed_fees(&[fees(1001, 2)], ceiling),
            Some(fees(1001, 2)),
            "its ceiling is told"
        );
        assert_eq!(agreed_fees(&[], ceiling), None);
    }
}
