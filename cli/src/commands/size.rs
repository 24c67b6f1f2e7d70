//! `hawser size`: the disk that a node needs for a rate of envelopes.

use hawser_rules::retention::RETENTION_INFINITE;
use serde_json::json;

use crate::args::size::SizeArgs;
use crate::output;

/// Length up to which the database keeps an envelope twice, bytes: in the log and beside its topic. Specified
/// (`docs/decisions/0018-envelopes-beside-topics.md`).
const TWICE_LEN_BYTES_MAX: u64 = 2048;
/// Bytes of an envelope's other rows. Measured: 200 to 370 for envelopes of 720 bytes (`docs/performance.md` and the
/// same decision), rounded up.
const ROWS_LEN_BYTES: u64 = 400;
/// Bytes that an expired envelope leaves for ever. Calculated from the lengths of rows (`docs/protocol/pruning.md`):
/// some 140 for its record, its leaf with a part of the tree, and its mark; 136 for the usage of its payer in its
/// minute, which several envelopes share; 72 if it is of the own strand.
const LEFT_LEN_BYTES: u64 = 200;

/// Prints the bytes that a rate of envelopes takes on a node's disk.
pub(super) fn run(args: &SizeArgs, as_json: bool) {
    let copies = if args.bytes <= TWICE_LEN_BYTES_MAX { 2 } else { 1 };
    let each = args.bytes.saturating_mul(copies).saturating_add(ROWS_LEN_BYTES);
    let a_day = args.rate.saturating_mul(each);
    let days = Some(args.retention).filter(|days| *days != RETENTION_INFINITE);
    let all = days.map(|days| a_day.saturating_mul(days.into()));
    let left_a_year = days.map(|_| args.rate.saturating_mul(365 * LEFT_LEN_BYTES));
    if as_json {
        output::line(json!({
            "envelopes_per_day": args.rate,
            "bytes_per_envelope": each,
            "bytes_per_day": a_day,
            "retention_days": days,
            "bytes": all,
            "bytes_left_per_envelope": days.map(|_| LEFT_LEN_BYTES),
            "bytes_left_per_year": left_a_year,
        }));
        return;
    }
    let (rate, a_day) = (output::count(args.rate, "envelope"), output::size(a_day));
    output::line(format_args!("{rate} a day: {a_day} a day, {each} bytes for each"));
    match days.zip(all).zip(left_a_year) {
        Some(((days, all), left)) => {
            let (all, left) = (output::size(all), output::size(left));
            output::line(format_args!("kept for {days} days: {all}"));
            output::line(format_args!(
                "left of expired ones, for ever: {LEFT_LEN_BYTES} bytes each, {left} a year"
            ));
        }
        None => output::line("nothing expires: the disk fills for ever"),
    }
}
