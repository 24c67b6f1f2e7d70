//! Markup whose values are escaped, and numbers as people read them.

use std::fmt::{Display, Write as _};

use hawser_proto::price::PicoDollarPrice;
use hawser_proto::steers_terminal;

/// Characters of a value that are shown. A guess: sentences of this program are shorter.
const TEXT_CHARS_MAX: usize = 400;
/// Picodollars of a dollar.
const DOLLAR_PICODOLLARS: u64 = 1_000_000_000_000;

/// A page that is being written. Only literals of this program go in unescaped.
#[derive(Debug, Default)]
pub(super) struct Markup(String);

impl Markup {
    /// Adds markup.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds a value, for a text or a quoted attribute.
    pub(super) fn text(&mut self, value: impl Display) -> &mut Self {
        let text = value.to_string();
        let mut chars = text.chars();
        for char in chars.by_ref().take(TEXT_CHARS_MAX) {
            match char {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                _ if steers_terminal(char) => self.0.push('\u{fffd}'),
                _ => self.0.push(char),
            }
        }
        if chars.next().is_some() {
            self.0.push('…');
        }
        self
    }

    /// Adds an element that holds a value.
    pub(super) fn element(
        &mut self,
        open: &'static str,
        value: impl Display,
        close: &'static str,
    ) -> &mut Self {
        self.raw(open).text(value).raw(close)
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// Returns a number with its digits in groups of three.
pub(super) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Returns an amount in dollars, without trailing zeros.
pub(super) fn dollars(PicoDollarPrice(picodollars): PicoDollarPrice) -> String {
    let (whole, rest) = (picodollars / DOLLAR_PICODOLLARS, picodollars % DOLLAR_PICODOLLARS);
    let rest = format!("{rest:012}");
    let rest = rest.trim_end_matches('0');
    let mut text = format!("${}", number(whole));
    if !rest.is_empty() {
        let _ = write!(text, ".{rest}");
    }
    text
}

/// Returns a length in bytes.
pub(super) fn bytes(len_bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(len_bytes) * 10;
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths /= 1_024;
        unit += 1;
    }
    match unit {
        0 => format!("{len_bytes} B"),
        _ => format!("{}.{} {}", tenths / 10, tenths % 10, units[unit]),
    }
}

/// Returns a duration.
pub(super) fn duration(ns: i64) -> String {
    match ns {
        ..1_000_000 => format!("{} µs", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{} ms", ns / 1_000_000),
        1_000_000_000..120_000_000_000 => {
            format!("{}.{} s", ns / 1_000_000_000, ns / 100_000_000 % 10)
        }
        120_000_000_000..7_200_000_000_000 => format!("{} min", ns / 60_000_000_000),
        _ => format!("{} h", ns / 3_600_000_000_000),
    }
}
