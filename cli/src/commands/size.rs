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

/// Prints the bytes that a rate of envelopes takes on a node's disk.
pub(super) fn run(args: &SizeArgs, as_json: bool) {
    let copies = if args.bytes <= TWICE_LEN_BYTES_MAX { 2 } else { 1 };
    let each = args.bytes.saturating_mul(copies).saturating_add(ROWS_LEN_BYTES);
    let a_day = args.rate.saturating_mul(each);
    let days = Some(args.retention).filter(|days| *days != RETENTION_INFINITE);
    let all = days.map(|days| a_day.saturating_mul(days.into()));
    if as_json {
        output::line(json!({
            "envelopes_per_day": args.rate,
            "bytes_per_envelope": each,
            "bytes_per_day": a_day,
            "retention_days": days,
            "bytes": all,
        }));
        return;
    }
    let (rate, a_day) = (output::count(args.rate, "envelope"), output::size(a_day));
    output::line(format_args!("{rate} a day: {a_day} a day, {each} bytes for each"));
    match days.zip(all) {
        Some((days, all)) => {
            let all = output::size(all);
            output::line(format_args!("kept for {days} days: {all}"));
        }
        None => output::line("nothing expires: the disk fills for ever"),
    }
}
