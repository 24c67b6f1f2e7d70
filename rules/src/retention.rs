//! Retention in days, and the resulting expiry.

use hawser_proto::OriginatorId;

use crate::violation::Violation;

/// The retention in days that means forever. Specified: the reference implementation writes `u32::MAX`.
pub const RETENTION_INFINITE: u32 = u32::MAX;
/// The retention in days of data without an end that was taken over from the older network. Specified: the takeover
/// writes `i32::MAX`.
pub const RETENTION_MIGRATED: u32 = i32::MAX.unsigned_abs();
/// The expiry of an envelope with infinite retention, unix seconds. Specified: the reference implementation writes
/// `i64::MAX`, because it stores expiries in signed 64-bit columns.
pub const EXPIRY_NEVER: u64 = i64::MAX as u64;

/// The shortest retention in days. Specified (`docs/protocol/rules.md`, rule 8).
pub const RETENTION_DAYS_MIN: u32 = 2;
/// The longest finite retention in days. Specified (`docs/protocol/rules.md`, rule 8).
pub const RETENTION_DAYS_MAX: u32 = 365;

const DAY_S: u64 = 24 * 60 * 60;

/// Seconds by which an expiry may be earlier than the one computed from the envelope's time. Specified
/// (`docs/protocol/rules.md`, rule 9).
const EARLY_S_MAX: u64 = 10 * 60;
/// Seconds by which an expiry may be later than the one computed from the envelope's time. Chosen
/// (`docs/decisions/0079-an-expiry-may-be-a-day-late.md`): nodes of the reference implementation compute the expiry
/// when they sign, which is after an outage long after the envelope's time.
const LATE_S_MAX: u64 = DAY_S;

/// Checks that the retention is 2 to 365 days, or infinite.
///
/// # Errors
/// [`Violation::Retention`].
pub fn check_retention(days: u32) -> Result<(), Violation> {
    match days {
        RETENTION_DAYS_MIN..=RETENTION_DAYS_MAX | RETENTION_INFINITE => Ok(()),
        _ => Err(Violation::Retention(days)),
    }
}

/// Checks that an envelope in the strand of `originator` may state this retention: those of [`check_retention`], and in
/// the strands of the older network [`RETENTION_MIGRATED`].
///
/// # Errors
/// [`Violation::Retention`].
pub(crate) fn check_retention_in(originator: OriginatorId, days: u32) -> Result<(), Violation> {
    match days {
        RETENTION_MIGRATED if originator.is_migrated() => Ok(()),
        days => check_retention(days),
    }
}

/// Returns true for a retention without an end. An expiry that is stated beside it means nothing: software that
/// computes it in 64-bit nanoseconds states any time, also one in the past.
#[must_use]
pub fn is_endless(days: u32) -> bool {
    matches!(days, RETENTION_INFINITE | RETENTION_MIGRATED)
}

/// Returns the unix second after which an envelope signed at `now_s` with a retention of `days` may be pruned.
/// Saturates; infinite retention gives [`EXPIRY_NEVER`].
#[must_use]
pub fn expiry_unix_s(now_s: u64, days: u32) -> u64 {
    match days {
        RETENTION_INFINITE => EXPIRY_NEVER,
        days => now_s.saturating_add(u64::from(days) * DAY_S),
    }
}

/// Checks that an expiry equals the envelope's time plus its retention, or is at most ten minutes earlier or a day
/// later. With infinite retention any expiry passes, because implementations write different values.
///
/// # Errors
/// [`Violation::Expiry`] for an earlier expiry, [`Violation::LateExpiry`] for a later one.
pub fn check_expiry(originator_ns: i64, days: u32, expiry_s: u64) -> Result<(), Violation> {
    let expected = expiry_unix_s(unix_s(originator_ns), days);
    let has_end = days != RETENTION_INFINITE;
    if has_end && expected.saturating_sub(expiry_s) > EARLY_S_MAX {
        return Err(Violation::Expiry(expiry_s));
    }
    if has_end && expiry_s.saturating_sub(expected) > LATE_S_MAX {
        return Err(Violation::LateExpiry(expiry_s));
    }
    Ok(())
}

/// Returns true for an expiry that passes [`check_expiry`] and is more than ten minutes later than the envelope's time
/// plus its retention. Earlier versions of this program marked such an envelope with rule 9, and the mark stays until
/// its node has been upgraded.
#[must_use]
pub fn was_marked_as_late(originator_ns: i64, days: u32, expiry_s: u64) -> bool {
    let expected = expiry_unix_s(unix_s(originator_ns), days);
    let late_s = expiry_s.saturating_sub(expected);
    days != RETENTION_INFINITE && (EARLY_S_MAX + 1..=LATE_S_MAX).contains(&late_s)
}

/// Returns a unix time in whole seconds, rounded down; times before 1970 give 0.
#[must_use]
pub fn unix_s(ns: i64) -> u64 {
    u64::try_from(ns / 1_000_000_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_two_to_365_days_and_infinity_are_allowed() {
        for days in [2, 60, 365, u32::MAX] {
            assert_eq!(check_retention(days), Ok(()));
        }
        for days in [0, 1, 366, u32::MAX - 1] {
            assert_eq!(check_retention(days), Err(Violation::Retention(days)));
        }
    }

    #[test]
    fn only_strands_of_the_older_network_have_their_retention_without_an_end() {
        for migrated in OriginatorId::MIGRATED {
            for days in [2, 60, 365, u32::MAX, RETENTION_MIGRATED] {
                assert_eq!(check_retention_in(migrated, days), Ok(()));
            }
            for days in [0, 1, 366, RETENTION_MIGRATED - 1, RETENTION_MIGRATED + 1] {
                assert_eq!(check_retention_in(migrated, days), Err(Violation::Retention(days)));
            }
        }
        let refused = Err(Violation::Retention(RETENTION_MIGRATED));
        assert_eq!(check_retention_in(OriginatorId::FIRST_NODE, RETENTION_MIGRATED), refused);
        assert_eq!(check_retention_in(OriginatorId::FIRST_NODE, 60), Ok(()));
    }

    #[test]
    fn an_expiry_may_be_ten_minutes_early_or_a_day_late_and_no_more() {
        let (now_ns, exact) = (1_750_000_000_999_999_999, 1_750_000_000 + 60 * 86_400);
        for (expiry, was_marked) in [
            (exact - 600, false),
            (exact, false),
            (exact + 600, false),
            (exact + 601, true),
            (exact + 86_400, true),
        ] {
            assert_eq!(check_expiry(now_ns, 60, expiry), Ok(()));
            assert_eq!(was_marked_as_late(now_ns, 60, expiry), was_marked, "{expiry}");
        }
        for expiry in [0, exact - 601] {
            assert_eq!(check_expiry(now_ns, 60, expiry), Err(Violation::Expiry(expiry)));
            assert!(!was_marked_as_late(now_ns, 60, expiry));
        }
        for expiry in [exact + 86_401, u64::MAX] {
            assert_eq!(check_expiry(now_ns, 60, expiry), Err(Violation::LateExpiry(expiry)));
            assert!(!was_marked_as_late(now_ns, 60, expiry));
        }
        let never = check_expiry(now_ns, RETENTION_INFINITE, 5);
        assert!(never.is_ok() && !was_marked_as_late(now_ns, RETENTION_INFINITE, 5));
    }

    proptest! {
        #[test]
        fn an_expiry_never_overflows_and_is_never_before_its_time(
            now_s in any::<u64>(),
            days in any::<u32>(),
        ) {
            let expiry = expiry_unix_s(now_s, days);
            prop_assert!(days == RETENTION_INFINITE || expiry >= now_s);
        }

        #[test]
        fn a_longer_retention_never_expires_earlier(
            now_ns in 0..i64::MAX,
            one in RETENTION_DAYS_MIN..=RETENTION_DAYS_MAX,
            other in RETENTION_DAYS_MIN..=RETENTION_DAYS_MAX,
        ) {
            let at = |days| expiry_unix_s(unix_s(now_ns), days);
            prop_assert_eq!(one.cmp(&other), at(one).cmp(&at(other)));
            prop_assert!(at(one) < EXPIRY_NEVER, "infinite retention outlasts every other");
        }

        #[test]
        fn the_expiry_that_a_node_computes_passes_its_own_check(
            now_ns in any::<i64>(),
            days in any::<u32>(),
        ) {
            let expiry = expiry_unix_s(unix_s(now_ns), days);
            prop_assert_eq!(check_expiry(now_ns, days, expiry), Ok(()));
        }

        #[test]
        fn any_days_are_judged_by_the_bounds(days in any::<u32>()) {
            let within = (RETENTION_DAYS_MIN..=RETENTION_DAYS_MAX).contains(&days);
            prop_assert_eq!(check_retention(days).is_ok(), within || days == RETENTION_INFINITE);
        }
    }
}
