//! Inbox ids and the Ethereum addresses of inbox members.

use hawser_proto::Address;

/// Id of an inbox: the SHA-256 that its founder's identifier and nonce give.
pub type InboxId = [u8; 32];

/// Returns the inbox that an identity update's topic identifier names; `None` unless it has 32
/// bytes.
#[must_use]
pub fn inbox_of(identifier: &[u8]) -> Option<InboxId> {
    identifier.try_into().ok()
}

/// Parses the text by which an inbox names a member that is an Ethereum account: `0x` and 40 digits
/// in lower case. Inboxes compare members as text, so any other spelling names no account.
#[must_use]
pub fn member_address(text: &str) -> Option<Address> {
    let digits = text.strip_prefix("0x")?;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    digits.bytes().all(is_digit).then(|| digits.parse().ok())?
}
