//! Prices of envelopes, each with its unit in the type.

/// A price in picodollars, of one envelope or of several together. The rate registry takes any 64-bit number, and a
/// node may state any, so a price may exceed every amount that can be charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct PicoDollarPrice(pub u64);

impl PicoDollarPrice {
    /// Adds `other`; the result is the largest representable price if the sum is larger.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Subtracts `other`; the result is zero if `other` is larger.
    #[must_use]
    pub const fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// A price in picodollars per byte of payer envelope and day of retention, with the range of a [`PicoDollarPrice`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct PicoDollarsPerByteDay(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    /// A node may state any fees.
    #[test]
    fn sums_and_differences_of_prices_stay_in_their_range() {
        let (most, none, five) =
            (PicoDollarPrice(u64::MAX), PicoDollarPrice(0), PicoDollarPrice(5));
        assert_eq!((most.plus(five), five.plus(five)), (most, PicoDollarPrice(10)));
        assert_eq!((five.less(most), most.less(most)), (none, none));
        assert_eq!(PicoDollarPrice(7).less(five), PicoDollarPrice(2));
    }
}
