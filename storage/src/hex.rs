//! Hexadecimal text of bytes.

use std::fmt::Write as _;

/// Returns bytes in hex, lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes any text");
    }
    text
}

/// Parses exactly `N` bytes of hex.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    unhex_all(text)?.try_into().ok()
}

/// Parses bytes of hex.
pub(crate) fn unhex_all(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let byte = |pair: &[u8]| {
        // `from_str_radix` would accept a sign as a digit.
        let pair = std::str::from_utf8(pair).ok().filter(|it| !it.starts_with('+'))?;
        u8::from_str_radix(pair, 16).ok()
    };
    text.as_bytes().chunks_exact(2).map(byte).collect()
}
