//! The text that every signature of an identity update covers (XIP-46). It is never sent: every
//! reader computes it from the update.

use std::fmt::Write as _;

use super::kind::MemberKind;
use super::member::MemberIdentifier;
use super::update::{Action, Update};

/// Returns the text that wallets show and installations sign.
pub(super) fn signed_text<S>(update: &Update<'_, S>) -> String {
    let mut text = format!(
        "XMTP : Authenticate to inbox\n\nInbox ID: {}\nCurrent time: {}\n",
        update.inbox_id,
        time(update.client_timestamp_ns)
    );
    for action in &update.actions {
        let (phrase, label, identifier) = entry(action);
        write!(text, "\n- {phrase}\n  ({label}: {identifier})").expect("strings take everything");
    }
    if update.actions.is_empty() {
        text.push('\n'); // the line on which the first action would start
    }
    text.push_str("\n\nFor more info: https://xmtp.org/signatures");
    text
}

fn entry<S>(action: &Action<S>) -> (&'static str, &'static str, &MemberIdentifier) {
    match action {
        Action::Create { account, .. } => ("Create inbox", "Owner", account),
        Action::Add { member, .. } => {
            let phrase = match member.kind() {
                MemberKind::Ethereum => "Link address to inbox",
                MemberKind::Installation => "Grant messaging access to app",
                MemberKind::Passkey => "Link passkey to inbox",
            };
            (phrase, label(member), member)
        }
        Action::Revoke { member, .. } => {
            let phrase = match member.kind() {
                MemberKind::Ethereum => "Unlink address from inbox",
                MemberKind::Installation => "Revoke messaging access from app",
                MemberKind::Passkey => "Unlink passkey from inbox",
            };
            (phrase, label(member), member)
        }
        Action::ChangeRecovery { to, .. } => ("Change inbox recovery address", "Address", to),
    }
}

fn label(member: &MemberIdentifier) -> &'static str {
    match member.kind() {
        MemberKind::Ethereum => "Address",
        MemberKind::Installation => "ID",
        MemberKind::Passkey => "Passkey",
    }
}

/// Formats a time as RFC 3339 in UTC with whole seconds. A time above the range of signed nanoseconds
/// counts as before 1970, as in the clients that sign.
fn time(unix_ns: u64) -> String {
    let seconds = unix_ns.cast_signed().div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Returns the proleptic Gregorian date of a day since 1970. Written here and not taken from a library, because it has
/// ten lines and clients sign its result. A year here begins in March, so that the leap day is its last day.
fn date(days: i64) -> (i64, i64, i64) {
    let since_march_0000 = days + 719_468;
    let era = since_march_0000.div_euclid(146_097);
    let day_of_era = since_march_0000.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (400 * era + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_whole_seconds() {
        for (unix_ns, text) in [
            (12, "1970-01-01T00:00:00Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00Z"),
            (1_795_155_446_001_255_165, "2026-11-20T06:17:26Z"),
            (1_709_251_199_999_999_999, "2024-02-29T23:59:59Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00Z"),
            (u64::MAX, "1969-12-31T23:59:59Z"),
            (1 << 63, "1677-09-21T00:12:43Z"),
        ] {
            assert_eq!(time(unix_ns), text);
        }
    }
}
