//! The rates, base fees, and the check whether rates explain charged fees.
//!
//! Amounts are picodollars and fit into a signed 64-bit number, because other implementations store them in signed
//! columns. Specified in `docs/protocol/fees.md`.

use hawser_proto::TopicKind;
use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::minute::MINUTE_NS;
pub use hawser_proto::price::{PicoDollarPrice, PicoDollarsPerByteDay, Rate};

use crate::congestion::{CONGESTION_UNITS_MAX, congestion_units, target_in_use};
use crate::retention::check_retention;
use crate::violation::RuleNumber;

/// The accepted difference between the clocks of honest nodes when deciding which rate was in force. Specified
/// (`docs/protocol/misbehavior.md`, Rates).
pub const CLOCK_TOLERANCE_NS: i64 = 5 * MINUTE_NS;
/// The age of a price list up to which nodes price by it, in nanoseconds. Specified (same page): other implementations
/// stop pricing at 60 minutes. So an honest node may apply a rate for this long after a newer one has started.
pub const RATES_AGE_NS_MAX: i64 = 60 * MINUTE_NS;

/// Error of computing a fee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FeeError {
    /// The time is before the first rate.
    #[error("the time precedes the first rate")]
    BeforeFirstRate,
    /// The size is 0, which is impossible for an envelope.
    #[error("message size must be above 0")]
    NoSize,
    /// The retention is 0 days.
    #[error("storage duration must be above 0 days")]
    NoDays,
    /// The product or the sum exceeds the signed 64-bit range.
    #[error("fee overflow")]
    Overflow,
}

/// Error of computing the fees of an envelope, with the fee that failed. Publishers read the texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// The base fee: message fee and storage fee.
    #[error("could not calculate base fee: {0}")]
    Base(FeeError),
    /// The congestion fee.
    #[error("could not calculate congestion fee: {0}")]
    Congestion(FeeError),
}

/// Error of [`RateTable::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RateTableError {
    /// The list is empty.
    #[error("the list of rates is empty")]
    Empty,
    /// Two rates start at the same time, or are out of order.
    #[error("rate {index} does not start after the one before it")]
    NotAscending {
        /// The index of the later rate in the list, from 0.
        index: usize,
    },
}

/// Returns true for topic kinds that are free and count as neither usage nor congestion.
#[must_use]
pub fn is_free(kind: TopicKind) -> bool {
    kind.is_reserved()
}

/// Returns true if the payer owes for an envelope whose payer signature is valid. `broken` is the rule in its mark.
///
/// The mark holds only the first rule that an envelope breaks, so its retention, which the payer's signature does
/// not cover, is checked here again.
#[must_use]
pub fn is_owed(envelope: &PayerEnvelope, broken: Option<RuleNumber>) -> bool {
    let is_booked =
        |rule: RuleNumber| rule.is_booked() && check_retention(envelope.retention_days()).is_ok();
    !is_free(envelope.client().topic().kind()) && broken.is_none_or(is_booked)
}

/// Returns true if a rate that starts at `start_unix_s` has started by `ns`, unix nanoseconds.
#[must_use]
pub fn has_started(start_unix_s: u64, ns: i64) -> bool {
    i128::from(start_unix_s) * 1_000_000_000 <= i128::from(ns)
}

/// The rates: at least one, with strictly increasing start times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateTable {
    rates: Vec<Rate>,
    /// The time of the last confirmation by the source, unix nanoseconds; `None` for a table that cannot become
    /// stale, such as one from a file.
    refreshed_ns: Option<i64>,
    /// The time up to which the table has every rate that an honest node may have applied, unix nanoseconds; `None` if
    /// it has all.
    complete_until_ns: Option<i64>,
}

/// Returns the time up to which a list has all rates, unix nanoseconds, if it is that of the chain at `block_unix_s`.
///
/// An honest node applies a rate when it has read it from a block. The time of its envelope is then up to five minutes
/// before that block, because its clock may be behind.
#[must_use]
pub fn complete_until_ns(block_unix_s: u64) -> i64 {
    let block_ns = i128::from(block_unix_s) * 1_000_000_000;
    i64::try_from(block_ns).unwrap_or(i64::MAX).saturating_sub(CLOCK_TOLERANCE_NS)
}

impl RateTable {
    /// Creates a table that its source confirmed at `refreshed_ns` (unix nanoseconds), and that is complete until then;
    /// with `None` it never becomes stale.
    ///
    /// # Errors
    /// [`RateTableError`] if the list is empty, or its start times do not strictly increase.
    pub fn new(rates: Vec<Rate>, refreshed_ns: Option<i64>) -> Result<Self, RateTableError> {
        if rates.is_empty() {
            return Err(RateTableError::Empty);
        }
        match rates.windows(2).position(|pair| pair[1].start_unix_s <= pair[0].start_unix_s) {
            Some(index) => Err(RateTableError::NotAscending { index: index + 1 }),
            None => Ok(Self { rates, refreshed_ns, complete_until_ns: refreshed_ns }),
        }
    }

    /// Returns the same table as read from the state of a block of this time (unix seconds). What it proves then
    /// depends on the chain's time: a clock that is ahead, or an endpoint that is behind, lets fewer fees be judged,
    /// and none wrongly.
    #[must_use]
    pub fn of_block(self, block_unix_s: u64) -> Self {
        let until_ns = complete_until_ns(block_unix_s);
        // An endpoint may state a time that has not come.
        let until_ns =
            self.refreshed_ns.map_or(until_ns, |refreshed_ns| refreshed_ns.min(until_ns));
        Self { complete_until_ns: Some(until_ns), ..self }
    }

    /// Returns the same rates, which include all of those of `reading`, with the times of that reading.
    ///
    /// If the reading lacks one that begins after its own first one, its source has taken that rate back, or never had
    /// it. Honest nodes then charge by the reading, so the table is complete at no time and proves nothing.
    #[must_use]
    pub fn as_of(&self, reading: &Self) -> Self {
        let Self { refreshed_ns, complete_until_ns, .. } = *reading;
        let table = Self { rates: self.rates.clone(), refreshed_ns, complete_until_ns };
        let first_unix_s = reading.rates.first().map_or(0, |rate| rate.start_unix_s);
        let from = self.rates.partition_point(|rate| rate.start_unix_s < first_unix_s);
        if self.rates[from..] == reading.rates { table } else { table.of_block(0) }
    }

    /// Returns the time at which the source last confirmed the table, unix nanoseconds.
    #[must_use]
    pub fn refreshed_ns(&self) -> Option<i64> {
        self.refreshed_ns
    }

    /// Returns the time up to which [`Self::is_complete_at`] is true, unix nanoseconds; `None` if it always is.
    #[must_use]
    pub fn complete_until_ns(&self) -> Option<i64> {
        self.complete_until_ns
    }

    /// Returns the same table as found in its file at `ns`. It is complete until then, or up to an earlier time that
    /// the file states.
    #[must_use]
    pub fn found_at(&self, ns: i64) -> Self {
        let until_ns = self.complete_until_ns.map_or(ns, |until_ns| until_ns.min(ns));
        Self {
            rates: self.rates.clone(),
            refreshed_ns: Some(ns),
            complete_until_ns: Some(until_ns),
        }
    }

    /// Returns the same table as confirmed by its source at `ns`, and complete until then.
    #[must_use]
    pub fn confirmed(&self, ns: i64) -> Self {
        Self { rates: self.rates.clone(), refreshed_ns: Some(ns), complete_until_ns: Some(ns) }
    }

    /// Returns true if the source confirmed the table at `ns` or later, by the reader's clock, or the table cannot
    /// become stale. Otherwise the newest rate may be missing. Proves nothing against a node: see
    /// [`Self::is_complete_at`].
    #[must_use]
    pub fn covers(&self, ns: i64) -> bool {
        self.refreshed_ns.is_none_or(|refreshed_ns| refreshed_ns >= ns)
    }

    /// Returns true if the table has every rate that an honest node may have applied to an envelope of time `ns`.
    /// Without that, a fee that no rate of the table explains proves nothing.
    #[must_use]
    pub fn is_complete_at(&self, ns: i64) -> bool {
        self.complete_until_ns.is_none_or(|until_ns| until_ns >= ns)
    }

    /// Returns all rates, oldest first.
    #[must_use]
    pub fn rates(&self) -> &[Rate] {
        &self.rates
    }

    /// Returns the rate in force at `ns`, unix nanoseconds: the newest one that has started.
    ///
    /// # Errors
    /// [`FeeError::BeforeFirstRate`] if no rate was in force yet.
    pub fn at(&self, ns: i64) -> Result<&Rate, FeeError> {
        let after = self.rates.partition_point(|rate| has_started(rate.start_unix_s, ns));
        after.checked_sub(1).map(|index| &self.rates[index]).ok_or(FeeError::BeforeFirstRate)
    }

    /// Iterates over every rate that was in force at some time in `from_ns..=to_ns`.
    pub fn during(&self, from_ns: i64, to_ns: i64) -> impl Iterator<Item = &Rate> {
        let end = self.at(to_ns).map(|rate| rate.start_unix_s).ok();
        let start = self.at(from_ns).map_or(0, |rate| rate.start_unix_s);
        self.rates
            .iter()
            .filter(move |rate| end.is_some_and(|end| (start..=end).contains(&rate.start_unix_s)))
    }

    /// Returns true if the sum of base fee and congestion fee is possible under a rate that an honest node may apply at
    /// `at_ns`, or if no such rate is known. A cheaper, weaker form of [`Self::explain`], which refuses
    /// everything that this one refuses.
    #[must_use]
    pub fn explains_sum(
        &self,
        at_ns: i64,
        size_bytes: u64,
        days: u32,
        sum: PicoDollarPrice,
    ) -> bool {
        self.explains_sum_if(at_ns, size_bytes, days, sum, |_, _| true)
    }

    /// Returns true if [`Self::explains_sum`] does, and the congestion fee in the sum is not above that of this load.
    /// `most` are the largest numbers of envelopes that may count, as for [`congestion_units`].
    #[must_use]
    pub fn explains_sum_of_load(
        &self,
        at_ns: i64,
        size_bytes: u64,
        days: u32,
        sum: PicoDollarPrice,
        most: [u64; 5],
    ) -> bool {
        let is_due = |rate: &Rate, fee| is_due_for(rate, fee, most);
        self.explains_sum_if(at_ns, size_bytes, days, sum, is_due)
    }

    fn explains_sum_if(
        &self,
        at_ns: i64,
        size_bytes: u64,
        days: u32,
        sum: PicoDollarPrice,
        allows: impl Fn(&Rate, PicoDollarPrice) -> bool,
    ) -> bool {
        let mut in_force = self.near(at_ns).peekable();
        let explains = |rate: &Rate| {
            let base = base_fee(rate, size_bytes, days).ok();
            let congestion = base.and_then(|base| sum.0.checked_sub(base.0)).map(PicoDollarPrice);
            congestion.is_some_and(|fee| may_charge_for_congestion(rate, fee) && allows(rate, fee))
        };
        in_force.peek().is_none() || in_force.any(explains)
    }

    /// Returns true if a congestion fee is above the one that any rate which had begun by `at_ns` gives for this load.
    /// `most` are the largest numbers of envelopes that may count, as for [`congestion_units`]. False if no such rate
    /// is known.
    #[must_use]
    pub fn is_overcharged(&self, at_ns: i64, fee: PicoDollarPrice, most: [u64; 5]) -> bool {
        let mut begun = self.begun(at_ns).peekable();
        begun.peek().is_some() && !begun.any(|rate| is_due_for(rate, fee, most))
    }

    /// Iterates over the rates that an honest node may apply at `at_ns`. Its clock differs by up to five minutes, and
    /// its list may be [`RATES_AGE_NS_MAX`] old, so it may not know the newest rates.
    pub(crate) fn near(&self, at_ns: i64) -> impl Iterator<Item = &Rate> {
        let from_ns = at_ns.saturating_sub(CLOCK_TOLERANCE_NS + RATES_AGE_NS_MAX);
        self.during(from_ns, at_ns.saturating_add(CLOCK_TOLERANCE_NS))
    }

    /// Iterates over the rates that had begun by `at_ns`, by any honest clock. A rate may come to the chain after it
    /// began, and the list does not have the time at which it came. Until then honest nodes apply an earlier one.
    pub(crate) fn begun(&self, at_ns: i64) -> impl Iterator<Item = &Rate> {
        self.during(i64::MIN, at_ns.saturating_add(CLOCK_TOLERANCE_NS))
    }

    /// Checks that a rate which an honest node may apply at the time of the charge gives the base fee, and that one
    /// allows the congestion fee. A charge older than the first rate passes, because nothing contradicts it.
    ///
    /// # Errors
    /// The first fee that no rate explains.
    pub fn explain(&self, charged: &Charged) -> Result<(), WrongFeeError> {
        explain_by(charged, || self.near(charged.at_ns))
    }

    /// Repeats the check of [`explain`](Self::explain) with all rates that had begun by the time of the charge. A
    /// charge that passes only this check follows a rate that a later one had replaced. It proves nothing, because the
    /// later rate may have reached the chain after its start.
    ///
    /// # Errors
    /// The first fee that no rate explains.
    pub(crate) fn explain_by_former(&self, charged: &Charged) -> Result<(), WrongFeeError> {
        explain_by(charged, || self.begun(charged.at_ns))
    }
}

/// Checks that one of the rates gives the base fee of a charge, and that one allows its congestion fee.
fn explain_by<'a, I: Iterator<Item = &'a Rate>>(
    charged: &Charged,
    rates: impl Fn() -> I,
) -> Result<(), WrongFeeError> {
    let Charged { size_bytes, days, base, congestion, .. } = *charged;
    if rates().next().is_none() {
        return Ok(());
    }
    if !rates().any(|rate| base_fee(rate, size_bytes, days) == Ok(base)) {
        return Err(WrongFeeError::Base);
    }
    match rates().any(|rate| may_charge_for_congestion(rate, congestion)) {
        true => Ok(()),
        false => Err(WrongFeeError::Congestion),
    }
}

/// The fee of an envelope that follows from no rate which may have been in force at its time. The envelope stays valid:
/// the fee is evidence, and is booked at this node's own amount (`docs/protocol/fees.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongFeeError {
    /// The base fee.
    Base,
    /// The congestion fee.
    Congestion,
}

/// The fees that a statement has for one envelope, and the values on which they depend. A liar may state any fees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charged {
    /// The envelope's time, unix nanoseconds.
    pub at_ns: i64,
    /// The length of the payer envelope in bytes.
    pub size_bytes: u64,
    /// The retention in days.
    pub days: u32,
    /// The stated base fee.
    pub base: PicoDollarPrice,
    /// The stated congestion fee.
    pub congestion: PicoDollarPrice,
}

/// The fees of one envelope. Their sum is in the signed 64-bit range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EnvelopeFees {
    base: PicoDollarPrice,
    congestion: PicoDollarPrice,
}

impl EnvelopeFees {
    /// Creates the fees.
    ///
    /// # Errors
    /// [`FeeError::Overflow`] if their sum exceeds the signed 64-bit range.
    pub fn new(base: PicoDollarPrice, congestion: PicoDollarPrice) -> Result<Self, FeeError> {
        in_range(base.0.checked_add(congestion.0).map(u128::from))?;
        Ok(Self { base, congestion })
    }

    /// Returns the base fee: message fee and storage fee together.
    #[must_use]
    pub fn base(self) -> PicoDollarPrice {
        self.base
    }

    /// Returns the congestion fee; 0 without congestion.
    #[must_use]
    pub fn congestion(self) -> PicoDollarPrice {
        self.congestion
    }

    /// Returns the amount that the payer owes: both fees together, at most `i64::MAX`.
    #[must_use]
    pub fn sum(self) -> PicoDollarPrice {
        self.base.plus(self.congestion)
    }
}

/// Returns true if a rate allows the congestion fee. Only the node itself knows its congestion, so any number of
/// units up to the largest one passes. A rate whose target switches congestion off allows no fee but 0.
fn may_charge_for_congestion(rate: &Rate, fee: PicoDollarPrice) -> bool {
    match (fee.0, target_in_use(rate.target_rate_per_minute), rate.congestion_fee.0) {
        (0, _, _) => true,
        (_, None, _) | (_, _, 0) => false,
        (fee, Some(_), step) => fee.is_multiple_of(step) && fee / step <= CONGESTION_UNITS_MAX,
    }
}

/// Returns true if a rate gives the congestion fee, or a higher one, for at most these envelopes per minute.
fn is_due_for(rate: &Rate, fee: PicoDollarPrice, most: [u64; 5]) -> bool {
    if fee.0 == 0 {
        return true;
    }
    let units = congestion_units(most, rate.target_rate_per_minute);
    // A rate that gives no amount is no evidence.
    !congestion_fee(rate, units).is_ok_and(|due| due < fee)
}

/// Returns the base fee: message fee + storage fee × size × days. `size_bytes` is the length of the payer envelope.
///
/// # Errors
/// [`FeeError`] for a size or a retention of 0, or if the result exceeds the signed 64-bit range.
pub fn base_fee(rate: &Rate, size_bytes: u64, days: u32) -> Result<PicoDollarPrice, FeeError> {
    if size_bytes == 0 {
        return Err(FeeError::NoSize);
    }
    if days == 0 {
        return Err(FeeError::NoDays);
    }
    let fee = u128::from(rate.storage_fee.0)
        .checked_mul(u128::from(size_bytes))
        .and_then(|fee| fee.checked_mul(u128::from(days)))
        .and_then(|fee| fee.checked_add(u128::from(rate.message_fee.0)));
    in_range(fee)
}

/// Returns the sum of base fee and congestion fee. `counts` are the originator's envelopes before this
/// one, as for [`congestion_units`].
///
/// # Errors
/// The errors of [`envelope_fees`].
pub fn total_fee(
    rate: &Rate,
    size_bytes: u64,
    days: u32,
    counts: [u64; 5],
) -> Result<PicoDollarPrice, PriceError> {
    let units = congestion_units(counts, rate.target_rate_per_minute);
    envelope_fees(rate, size_bytes, days, units).map(EnvelopeFees::sum)
}

/// Returns the base fee, and the fee for `units` units of congestion.
///
/// # Errors
/// [`PriceError`] if one of the fees cannot be computed, or their sum exceeds the signed 64-bit range.
pub fn envelope_fees(
    rate: &Rate,
    size_bytes: u64,
    days: u32,
    units: u64,
) -> Result<EnvelopeFees, PriceError> {
    let base = base_fee(rate, size_bytes, days).map_err(PriceError::Base)?;
    let congestion = congestion_fee(rate, units).map_err(PriceError::Congestion)?;
    EnvelopeFees::new(base, congestion).map_err(PriceError::Congestion)
}

/// Returns the fee for `units` units of congestion.
///
/// # Errors
/// [`FeeError::Overflow`] if the result exceeds the signed 64-bit range.
pub fn congestion_fee(rate: &Rate, units: u64) -> Result<PicoDollarPrice, FeeError> {
    in_range(u128::from(rate.congestion_fee.0).checked_mul(u128::from(units)))
}

fn in_range(fee: Option<u128>) -> Result<PicoDollarPrice, FeeError> {
    let fee = fee.and_then(|fee| i64::try_from(fee).ok()).map(i64::unsigned_abs);
    fee.map(PicoDollarPrice).ok_or(FeeError::Overflow)
}

/// Golden values for the tests of this crate.
#[cfg(test)]
pub(crate) mod testing {
    use serde_json::Value;

    /// Returns the test vectors made with the reference implementation's contracts.
    pub(crate) fn vectors() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/contracts/fees.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// Reads a number, or its digits as text. A number below 0 becomes the one of the same bits, as the chain's 64 bits
    /// do where they are read as signed ones.
    pub(crate) fn number(value: &Value) -> u64 {
        let digits = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let signed = || digits.parse::<i64>().map(i64::cast_unsigned);
        digits.parse::<u64>().or_else(|_| signed()).unwrap()
    }

    pub(crate) fn cases<'a>(vectors: &'a Value, name: &str) -> &'a Vec<Value> {
        let cases = vectors[name].as_array().unwrap();
        assert!(!cases.is_empty(), "{name}");
        cases
    }
}

#[cfg(test)]
mod tests;
