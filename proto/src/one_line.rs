//! Texts that a stranger has chosen, made fit for a log line and a terminal.

/// The bytes that are kept of a text. A guess: error messages of known software are shorter, and a status with one fits
/// into a header, where each byte may take three.
const LINE_LEN_BYTES_MAX: usize = 200;

/// Returns the beginning of a text from outside as one line of at most 200 bytes, with `…` behind it if the text is
/// longer. A space replaces each character that steers a terminal, so the text begins no line of a log.
#[must_use]
pub fn one_line(text: &str) -> String {
    one_line_of(text, LINE_LEN_BYTES_MAX)
}

/// Does what [`one_line`] does, with another bound, in bytes.
#[must_use]
pub fn one_line_of(text: &str, len_bytes_max: usize) -> String {
    let kept = &text[..text.floor_char_boundary(len_bytes_max)];
    let mut line: String =
        kept.chars().map(|it| if steers_terminal(it) { ' ' } else { it }).collect();
    if kept.len() < text.len() {
        line.push('…');
    }
    line
}

/// Returns true for control characters, and for those that turn the direction of a text (Unicode Standard Annex 9,
/// §2): behind one, a terminal shows the rest of a line in another order.
#[must_use]
pub fn steers_terminal(it: char) -> bool {
    let turns = matches!(it, '\u{61c}' | '\u{200e}' | '\u{200f}')
        || ('\u{202a}'..='\u{202e}').contains(&it)
        || ('\u{2066}'..='\u{2069}').contains(&it);
    it.is_control() || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_outside_is_short_and_begins_no_line() {
        let text = format!("\u{1b}[2J\r\nERROR forged\u{9b}\u{202e}{}", "ä".repeat(10_000));
        let line = one_line(&text);
        assert!(line.starts_with(" [2J  ERROR forged  ääää"), "{line}");
        assert!(line.ends_with("ä…") && line.len() <= LINE_LEN_BYTES_MAX + "…".len(), "{line}");
        assert!(!line.contains(steers_terminal), "{line:?}");
    }

    #[test]
    fn a_text_that_fits_is_whole() {
        let longest = "x".repeat(LINE_LEN_BYTES_MAX);
        assert_eq!(one_line(&longest), longest);
        assert_eq!(one_line(""), "");
    }
}
