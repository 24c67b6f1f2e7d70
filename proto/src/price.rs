//! Prices of envelopes and amounts of payers, each with its unit in the type.

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

/// One entry of the rate registry, whose prices are in force from its start until the next entry's
/// (`docs/protocol/fees.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Rate {
    /// The first second in which the rate is in force, unix seconds.
    pub start_unix_s: u64,
    /// The flat fee per envelope.
    pub message_fee: PicoDollarPrice,
    /// The fee per byte of payer envelope and day of retention.
    pub storage_fee: PicoDollarsPerByteDay,
    /// The fee per congestion unit.
    pub congestion_fee: PicoDollarPrice,
    /// The envelopes per minute of one originator up to which there is no congestion. Read as a signed 32-bit number;
    /// 0 and negative ones disable congestion.
    pub target_rate_per_minute: u64,
}

/// An amount in picodollars that is added to the balance of a payer; below 0 for a debit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PicoDollarChange(pub i128);

impl PicoDollarChange {
    /// Returns the change that balances this one; `None` for the lowest number, which has no opposite.
    #[must_use]
    pub fn opposite(self) -> Option<Self> {
        self.0.checked_neg().map(Self)
    }
}

/// The amount in microdollars that the contracts deduct for a sum of fees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SettledAmount(pub u64);

impl SettledAmount {
    /// Adds `other`; the result is the largest representable amount if the sum is larger.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::fmt::Display for SettledAmount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} µ$", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An endpoint can make up the amounts of settlements.
    #[test]
    fn sums_of_settled_amounts_stay_in_their_range() {
        let most = SettledAmount(u64::MAX);
        assert_eq!(most.plus(SettledAmount(1)), most);
        assert_eq!(SettledAmount(2).plus(SettledAmount(3)), SettledAmount(5));
    }

    #[test]
    fn the_lowest_change_of_a_balance_has_no_opposite() {
        assert_eq!(PicoDollarChange(i128::MIN).opposite(), None);
        assert_eq!(PicoDollarChange(-3).opposite(), Some(PicoDollarChange(3)));
    }

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
