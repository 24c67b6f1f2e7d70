//! Arguments of `hawser size`.

use clap::Args;
use hawser_rules::check_retention;

/// `hawser size`.
#[derive(Debug, Args)]
pub(crate) struct SizeArgs {
    /// Envelopes of the whole network, such as 10/s, 600/min, 36000/h or 864000/day; a number alone is that of a day.
    #[arg(long, value_name = "N", value_parser = per_day)]
    pub(crate) rate: u64,
    /// Mean length of an originator envelope, bytes.
    #[arg(long, value_name = "BYTES")]
    pub(crate) bytes: u64,
    /// Retention of the envelopes in days, 2 to 365; 4294967295 means for ever.
    #[arg(long, visible_alias = "retention-days", value_name = "DAYS", default_value_t = 60, value_parser = retention)]
    pub(crate) retention: u32,
}

/// Parses a rate, and returns the envelopes of a day.
fn per_day(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_once('/').unwrap_or((text, "day"));
    let times_a_day = match unit {
        "s" => 86_400,
        "m" | "min" => 1_440,
        "h" => 24,
        "d" | "day" => 1,
        _ => return Err("expected a number for each s, min, h or day, such as 10/s".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "expected a number, such as 10/s")?;
    Ok(number.saturating_mul(times_a_day))
}

/// Parses a retention that nodes take, in days.
pub(super) fn retention(text: &str) -> Result<u32, String> {
    let days = text.parse().map_err(|_| "expected a number of days")?;
    check_retention(days).map_err(|_| "nodes take 2 to 365 days, and 4294967295 for ever")?;
    Ok(days)
}
