//! Ethereum addresses of inbox members.

use hawser_proto::Address;

/// Parses the text by which an inbox names a member that is an Ethereum account: `0x` and 40 digits
/// in lower case. Inboxes compare members as text, so any other spelling names no account.
#[must_use]
pub fn member_address(text: &str) -> Option<Address> {
    let digits = text.strip_prefix("0x")?;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits.bytes().all(is_digit).then(|| digits.parse().ok())?
}
