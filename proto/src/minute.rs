//! Minutes, by which envelopes are counted and priced.

/// Nanoseconds in a minute.
pub const MINUTE_NS: i64 = 60_000_000_000;
/// Number of minutes before an envelope's own one whose envelopes count for its congestion. Specified:
/// `docs/protocol/fees.md`.
pub const EARLIER_MINUTES: u32 = 4;
/// Number of minutes whose envelopes decide about congestion: an envelope's own minute and those before it.
pub const CONGESTION_MINUTES: usize = 1 + EARLIER_MINUTES as usize;

/// Returns the minute since the epoch that contains `ns`; times before 1970 count as minute 0.
#[must_use]
pub fn minute_of(ns: i64) -> u32 {
    // The last minute of an `i64` is 153,722,867, so the conversion fails for negative times only.
    u32::try_from(ns.div_euclid(MINUTE_NS)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_equal_the_golden_ones() {
        let text = include_str!("../../tests/vectors/contracts/fees.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        let cases = vectors["minutes_since_epoch"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let number =
                |key: &str| case[key].to_string().trim_matches('"').parse::<i64>().unwrap();
            assert_eq!(i64::from(minute_of(number("ns"))), number("minute"));
        }
    }

    #[test]
    fn minutes_begin_at_the_full_minute_and_never_before_1970() {
        assert_eq!(minute_of(0), 0);
        assert_eq!(minute_of(59_999_999_999), 0);
        assert_eq!(minute_of(60_000_000_000), 1);
        assert_eq!(minute_of(-1), 0);
        assert_eq!(minute_of(i64::MIN), 0);
        assert_eq!(minute_of(i64::MAX), 153_722_867);
    }
}
