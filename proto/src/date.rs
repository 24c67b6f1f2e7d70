//! Days of the proleptic Gregorian calendar, in UTC.
//!
//! Not taken from a library: the texts that clients sign contain dates (XIP-46), which all nodes must compute alike,
//! and the computation has ten lines. A property test compares the two directions with each other.

/// Days from 1 March of the year 0 to 1970-01-01. Years are counted from March here, so that a leap day is the last day
/// of its year.
const DAYS_BEFORE_1970: i64 = 719_468;
/// Days of 400 years.
const ERA_DAYS: i64 = 146_097;

/// Returns the date of a day, which counts from 1970-01-01, as `YYYY-MM-DD`.
#[must_use]
pub fn date_text(day: i64) -> String {
    let day = day.saturating_add(DAYS_BEFORE_1970);
    let (era, day_of_era) = (day.div_euclid(ERA_DAYS), day.rem_euclid(ERA_DAYS));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = 400 * era + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Returns the number of days from 1970-01-01 to a date. Months and days count from 1. A day beyond the end of its
/// month counts as one of the next month.
///
/// # Panics
/// Panics if the number does not fit into 64 bits; callers have years of four digits.
#[must_use]
pub fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leap_days + (153 * month_from_march + 2) / 5 + day - 1 - DAYS_BEFORE_1970
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (day, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (19_782, "2024-02-29"),
            (20_818, "2026-12-31"),
            (20_819, "2027-01-01"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(date_text(day), text);
        }
    }

    proptest! {
        /// The years are 53 to 9909.
        #[test]
        fn a_date_leads_back_to_its_day(day in -700_000_i64..2_900_000) {
            let text = date_text(day);
            let parts: Vec<i64> = text.split('-').map(|part| part.parse().unwrap()).collect();
            let [year, month, of_month] = parts[..] else { panic!("{text}") };
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&of_month), "{}", text);
            prop_assert_eq!(days_since_1970(year, month, of_month), day);
        }

        #[test]
        fn no_day_panics(day in any::<i64>()) {
            let _ = date_text(day);
        }
    }
}
