//! Types for the prices of envelopes. The engine supplies the arithmetic: storage knows no rule about fees.

use hawser_proto::minute::CONGESTION_MINUTES;
use hawser_proto::price::{PicoDollarPrice, Rate};

/// The facts about an envelope from which its price follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PricedEnvelope {
    /// The originator's time, unix nanoseconds. Selects the rate.
    pub originator_ns: i64,
    /// Length of the payer envelope, bytes.
    pub size_bytes: u64,
    /// Retention in days.
    pub retention_days: u32,
    /// Numbers of earlier envelopes of the same strand that count for congestion: in the envelope's minute, then in
    /// each of the four minutes before.
    pub earlier: [u64; CONGESTION_MINUTES],
}

/// Returns the price of an envelope; 0 if it has none. `rates` are all recorded rates, by start
/// ascending.
///
/// A pure function: booked amounts are a function of the log and of the recorded rates, so every node
/// with the same log and the same rates books the same.
pub type PriceFn = fn(rates: &[Rate], envelope: &PricedEnvelope) -> PicoDollarPrice;
