//! Hexadecimal text of a fixed number of bytes.

/// Parses exactly `N` bytes of hex.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    ::hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}
