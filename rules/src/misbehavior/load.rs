//! The load of a strand by which its congestion fees are judged: its envelopes by minute, in their order.

use hawser_proto::minute::{CONGESTION_MINUTES, EARLIER_MINUTES, MINUTE_NS};
use hawser_proto::minute_of;

use super::order::TIME_TOLERANCE_NS;

/// The number of minutes whose envelopes are kept apart. A guess: the five that count, and some for times that step
/// back.
pub const LOAD_MINUTES: usize = 8;

/// The numbers of envelopes of one strand up to a place, by minute: the highest that any implementation may count for
/// congestion.
///
/// Implementations differ in whether an envelope counts itself and whether an invalid one counts. A fee above the one
/// that follows from these counts is wrong in each of them. Every value of the fields is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StrandLoad {
    /// Minutes, each with the number of its envelopes.
    pub counts: [(u32, u64); LOAD_MINUTES],
    /// The earliest time of the envelopes behind the last unknown place, unix nanoseconds: `i64::MIN` if all places are
    /// known, and `i64::MAX` if no place is.
    pub since_ns: i64,
}

impl Default for StrandLoad {
    /// Creates the load of a strand without known envelopes.
    fn default() -> Self {
        Self { since_ns: i64::MAX, ..Self::START }
    }
}

impl StrandLoad {
    /// The load before the first place of a strand.
    pub const START: Self = Self { counts: [(0, 0); LOAD_MINUTES], since_ns: i64::MIN };

    /// Continues behind an envelope of this time (unix nanoseconds). Up to its minute only the numbers of envelopes are
    /// known: `counts` returns the number of a minute.
    #[must_use]
    pub fn behind(ns: i64, counts: impl Fn(u32) -> u64) -> Self {
        let mut load = Self::default();
        let current = minute_of(ns);
        for minute in current.saturating_sub(EARLIER_MINUTES)..=current {
            *load.slot(minute) = (minute, counts(minute));
        }
        load
    }

    /// Adds the next envelope, of this time (unix nanoseconds). `counts` is false for an envelope that is free.
    pub fn add(&mut self, ns: i64, counts: bool) {
        self.since_ns = self.since_ns.min(ns);
        if counts {
            let minute = minute_of(ns);
            let slot = self.slot(minute);
            if slot.0 != minute {
                *slot = (minute, 0);
            }
            slot.1 = slot.1.saturating_add(1);
        }
    }

    /// Notes that the envelopes of the next places are not known.
    pub fn lose(&mut self) {
        self.since_ns = i64::MAX;
    }

    /// Returns true if all envelopes are known that may count for the next one, if it has this time (unix nanoseconds).
    #[must_use]
    pub fn is_whole(&self, ns: i64) -> bool {
        precedes_window(self.since_ns, ns)
    }

    /// Returns the largest numbers of envelopes that may count for the next one, if it has this time (unix
    /// nanoseconds): in its minute, itself included, and in each of the four minutes before.
    #[must_use]
    pub fn most(&self, ns: i64) -> [u64; CONGESTION_MINUTES] {
        let current = minute_of(ns);
        let mut most = [1_u64, 0, 0, 0, 0];
        for (minute, envelopes) in self.counts {
            // An earlier place with a later time may have counted.
            let age = usize::try_from(current.saturating_sub(minute)).unwrap_or(usize::MAX);
            if let Some(count) = most.get_mut(age) {
                *count = count.saturating_add(envelopes);
            }
        }
        most
    }

    fn slot(&mut self, minute: u32) -> &mut (u32, u64) {
        let at = usize::try_from(minute).unwrap_or(usize::MAX) % LOAD_MINUTES;
        &mut self.counts[at]
    }
}

/// Returns true if an envelope of time `earlier_ns` is older than the five minutes of a later one of time `ns` (both in
/// unix nanoseconds), by more than times may step back. Then neither the older envelope nor an envelope before it in
/// its strand can count.
#[must_use]
pub fn precedes_window(earlier_ns: i64, ns: i64) -> bool {
    let begins = minute_of(ns).saturating_sub(EARLIER_MINUTES);
    earlier_ns.saturating_add(TIME_TOLERANCE_NS) < i64::from(begins) * MINUTE_NS
}
