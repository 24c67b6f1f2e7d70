//! Pricing of envelopes. The arithmetic comes from outside: storage knows no rule about fees.

use crate::keys::rate::RateRow;

/// Minutes whose messages decide about congestion: the envelope's own minute and four before it.
pub const CONGESTION_MINUTES: usize = 5;

/// An envelope whose price is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PricedEnvelope {
    /// The originator's time, unix nanoseconds. Selects the rate.
    pub originator_ns: i64,
    /// Length of the payer envelope.
    pub size_bytes: u64,
    /// Retention in days.
    pub retention_days: u32,
    /// Envelopes of the same strand that stand before this one and count for congestion: those of
    /// its own minute first, then those of each of the four minutes before.
    pub earlier: [u64; CONGESTION_MINUTES],
}

/// Returns the price of an envelope in picodollars; 0 for an envelope that has none. The rates are
/// all recorded ones, by start ascending.
///
/// A pure function: booked amounts are a function of the log and of the recorded rates, so every node
/// with the same log and the same rates books the same.
pub type PriceFn = fn(rates: &[RateRow], envelope: &PricedEnvelope) -> u64;
