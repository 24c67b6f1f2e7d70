//! The text that every signature of an identity update covers (XIP-46). It is never sent: every
//! reader computes it from the update.

use std::fmt::Write as _;

use hawser_proto::date::date_text;

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
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{}T{hour:02}:{minute:02}:{second:02}Z", date_text(days))
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
