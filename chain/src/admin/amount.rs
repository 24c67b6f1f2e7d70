//! Amounts of money with their units: microdollars, the unit of the contracts, and wei, in which gas is paid.

use std::fmt;
use std::str::FromStr;

use alloy::primitives::U256;
use alloy::primitives::aliases::U96;

/// Microdollars per dollar, and their decimal digits: the fee token has six decimals.
const PER_DOLLAR: u128 = 1_000_000;
const DECIMALS: usize = 6;
/// The largest number of the contracts' type `uint96`.
const MAX: u128 = (1 << 96) - 1;

/// An amount in microdollars, the unit of the fee token: at most 96 bits, as in the contracts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct MicroDollars(u128);

/// The balance of a payer in microdollars; below 0 if the payer is in debt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct SignedMicroDollars(pub i128);

/// An amount of a chain's native token, in its smallest unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Wei(pub u128);

/// The price of a unit of gas, in wei of its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct WeiPerGas(pub u128);

impl Wei {
    /// Converts an amount of a chain. A larger one becomes the largest representable one.
    pub(crate) fn of_chain(number: U256) -> Self {
        Self(number.saturating_to())
    }

    /// Adds `other`; the result is the largest representable amount if the sum is larger.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Subtracts `other`; the result is zero if `other` is larger.
    pub(crate) fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl WeiPerGas {
    /// Subtracts `other`; the result is zero if `other` is larger.
    pub(crate) fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Multiplies by `factor`; the result is the largest representable price if the product is larger.
    pub(crate) fn times(self, factor: u128) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// Returns the cost of `gas` units of gas; the largest representable amount if it is larger.
    pub(crate) fn cost_of(self, gas: u64) -> Wei {
        Wei(self.0.saturating_mul(u128::from(gas)))
    }
}

/// Error of parsing [`MicroDollars`]: the text is not an amount of dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an amount is dollars with at most 6 decimals, such as 25 or 0.000001")]
pub struct ParseAmountError;

impl MicroDollars {
    /// Creates an amount of `number` microdollars; `None` if it exceeds 96 bits, the bound of the contracts.
    #[must_use]
    pub fn new(number: u128) -> Option<Self> {
        (number <= MAX).then_some(Self(number))
    }

    /// Returns the number of microdollars.
    #[must_use]
    pub fn get(self) -> u128 {
        self.0
    }

    /// Formats the amount as a decimal number of dollars.
    #[must_use]
    pub fn dollars(self) -> String {
        let (whole, part) = (self.0 / PER_DOLLAR, self.0 % PER_DOLLAR);
        if part == 0 {
            return whole.to_string();
        }
        let part = format!("{part:0DECIMALS$}");
        format!("{whole}.{}", part.trim_end_matches('0'))
    }

    /// Subtracts `other`; the result is zero if `other` is larger.
    pub(super) fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Converts to the type of the contracts.
    pub(super) fn on_chain(self) -> U96 {
        U96::from(self.0)
    }

    /// Converts an amount of a token contract. An amount above 96 bits becomes the largest representable one.
    pub(crate) fn of_token(number: U256) -> Self {
        Self(u128::try_from(number).unwrap_or(MAX).min(MAX))
    }
}

impl SignedMicroDollars {
    /// Returns the balance without its sign. The registry stores balances in 104 bits; one above 96 bits becomes the
    /// largest representable amount.
    #[must_use]
    pub fn magnitude(self) -> MicroDollars {
        MicroDollars(self.0.unsigned_abs().min(MAX))
    }
}

impl From<MicroDollars> for SignedMicroDollars {
    fn from(amount: MicroDollars) -> Self {
        Self(i128::try_from(amount.0).expect("96 bits fit into 127"))
    }
}

impl From<U96> for MicroDollars {
    fn from(number: U96) -> Self {
        Self(number.to::<u128>())
    }
}

impl FromStr for MicroDollars {
    type Err = ParseAmountError;

    fn from_str(text: &str) -> Result<Self, ParseAmountError> {
        let (whole, part) = text.split_once('.').map_or((text, None), |(a, b)| (a, Some(b)));
        let digits = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse::<u128>().ok()).flatten().ok_or(ParseAmountError)
        };
        let part = match part {
            Some(part) if part.len() > DECIMALS => return Err(ParseAmountError),
            Some(part) => digits(&format!("{part:0<DECIMALS$}")).and(digits(part))? * scale(part),
            None => 0,
        };
        let whole = digits(whole)?.checked_mul(PER_DOLLAR).ok_or(ParseAmountError)?;
        whole.checked_add(part).and_then(Self::new).ok_or(ParseAmountError)
    }
}

/// Returns the value in microdollars of one unit of the last decimal place.
fn scale(decimals: &str) -> u128 {
    (decimals.len()..DECIMALS).fold(1, |scale, _| scale * 10)
}

/// Formats as `25.5 USD (25500000 µ$)`.
impl fmt::Display for MicroDollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} USD ({} µ$)", self.dollars(), self.0)
    }
}

/// Formats as `-1.5 USD (-1500000 µ$)`.
impl fmt::Display for SignedMicroDollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{} USD ({} µ$)", self.magnitude().dollars(), self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dollars_are_read_to_the_sixth_decimal() {
        let cases = [
            ("0", 0),
            ("25", 25_000_000),
            ("25.5", 25_500_000),
            ("0.000001", 1),
            ("1.000010", 1_000_010),
            ("0079.10", 79_100_000),
        ];
        for (text, number) in cases {
            assert_eq!(text.parse(), Ok(MicroDollars(number)), "{text}");
        }
        let most = MicroDollars(MAX).dollars();
        assert_eq!(most, "79228162514264337593543.950335");
        assert_eq!(most.parse(), Ok(MicroDollars(MAX)));
    }

    #[test]
    fn a_balance_is_shown_in_dollars_with_its_sign() {
        assert_eq!(SignedMicroDollars(25_500_000).to_string(), "25.5 USD (25500000 µ$)");
        assert_eq!(SignedMicroDollars(-1_500_000).to_string(), "-1.5 USD (-1500000 µ$)");
    }

    #[test]
    fn malformed_amounts_are_refused() {
        for text in [
            "",
            ".",
            "1.",
            ".5",
            "1.0000000",
            "-1",
            "+1",
            "1e6",
            "1,5",
            "1 ",
            "0x1",
            "1.2.3",
            "１",
            "79228162514264337593543.950336",
            "999999999999999999999999999999999999999999",
        ] {
            assert_eq!(text.parse::<MicroDollars>(), Err(ParseAmountError), "{text}");
        }
    }

    /// Tokens of a development network can be made in any number.
    #[test]
    fn a_balance_beyond_every_amount_is_the_largest_one_and_not_none() {
        let most = MicroDollars(MAX);
        for balance in [1 << 103, -(1 << 103), i128::MAX, i128::MIN, i128::try_from(MAX).unwrap()] {
            assert_eq!(SignedMicroDollars(balance).magnitude(), most, "{balance}");
        }
        assert_eq!(SignedMicroDollars(-25).magnitude(), MicroDollars(25));
        assert_eq!(SignedMicroDollars(0).magnitude(), MicroDollars(0));
    }

    #[test]
    fn amounts_are_shown_in_each_unit() {
        assert_eq!(MicroDollars(25_500_000).to_string(), "25.5 USD (25500000 µ$)");
        assert_eq!(MicroDollars(0).to_string(), "0 USD (0 µ$)");
    }

    proptest! {
        #[test]
        fn every_amount_is_read_as_it_is_written(number in 0..=MAX) {
            prop_assert_eq!(MicroDollars(number).dollars().parse(), Ok(MicroDollars(number)));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _ = text.parse::<MicroDollars>();
        }
    }
}
