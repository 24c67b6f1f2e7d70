//! Canonical decimal numbers, for texts that must have one encoding only.

/// Parses a canonical decimal number: ASCII digits without a leading zero. `None` for other text, and for numbers above
/// 64 bits.
#[must_use]
pub fn decimal(text: &str) -> Option<u64> {
    let is_only_form = text == "0" || !text.starts_with('0');
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_only_form && is_number).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_form() {
        assert_eq!(decimal("0"), Some(0));
        assert_eq!(decimal("18446744073709551615"), Some(u64::MAX));
        for text in ["", "00", "01", "+1", "-0", " 1", "1 ", "0x1", "18446744073709551616", "١"] {
            assert_eq!(decimal(text), None, "{text}");
        }
    }
}
