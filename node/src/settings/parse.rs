//! Parsers of setting values. Each returns `None` for an invalid text; the setting describes the expected form.
//!
//! Durations are parsed here and not with `humantime`: flags and environments for the reference implementation use Go's
//! notation (`1.5h`, `.5s`, `2m0.25s`, `µs`), which `humantime` refuses, while it accepts forms that Go refuses
//! (`5min`, `1d`, `1 s`). A property test checks the parser.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hawser_chain::admin::Wei;
use tracing::Level;

/// Parses a boolean like Go's `strconv.ParseBool`, in any case.
pub(super) fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Some(true),
        "false" | "f" | "0" => Some(false),
        _ => None,
    }
}

/// Parses a port above 0.
pub(super) fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

/// Parses an address to listen at: an IP address, one of IPv6 in brackets, or `localhost`, which means 127.0.0.1. The
/// reference implementation takes the last two as well, and no address of IPv6 without brackets.
pub(super) fn ip(text: &str) -> Option<IpAddr> {
    if text == "localhost" {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        None => text.parse().ok(),
    }
}

/// Parses a size in bytes: an integer and a unit, `KiB`, `MiB` or `GiB`.
pub(super) fn size(text: &str) -> Option<usize> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let parsed = |(unit, bytes): (&str, usize)| {
        let number = text.strip_suffix(unit)?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        number.parse().ok().filter(|_| digits).and_then(|number: usize| number.checked_mul(bytes))
    };
    units.into_iter().find_map(parsed)
}

/// Parses an amount of a token with 18 decimals, such as `20` or `0.5`, into its smallest unit.
pub(super) fn token_wei(text: &str) -> Option<Wei> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number =
        |digits: &str| !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 18 {
        return None;
    }
    let part: u128 = format!("{part:0<18}").parse().ok()?;
    whole.parse::<u128>().ok()?.checked_mul(10u128.pow(18))?.checked_add(part).map(Wei)
}

/// Parses a log level. The reference implementation's levels above ERROR are treated as ERROR.
pub(super) fn level(text: &str) -> Option<Level> {
    Some(match text.to_ascii_uppercase().as_str() {
        "TRACE" => Level::TRACE,
        "DEBUG" => Level::DEBUG,
        "INFO" => Level::INFO,
        "WARN" => Level::WARN,
        "ERROR" | "DPANIC" | "PANIC" | "FATAL" => Level::ERROR,
        _ => return None,
    })
}

/// Parses the name of a network: up to 64 letters, digits, dots, dashes and underscores.
#[must_use]
pub fn network(text: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    ((1..=64).contains(&text.len()) && text.chars().all(allowed)).then(|| text.to_owned())
}

/// Parses pairs of chain id and URL: `8453=https://…,1=https://…`.
pub(super) fn chain_urls(text: &str) -> Option<Vec<(u64, String)>> {
    let pair = |pair: &str| {
        let (id, url) = pair.trim().split_once('=')?;
        let web = url.starts_with("https://") || url.starts_with("http://");
        let id = id.parse().ok().filter(|_| id.bytes().all(|byte| byte.is_ascii_digit()))?;
        web.then(|| (id, url.to_owned()))
    };
    text.split(',').map(pair).collect()
}

/// Parses HTTP URLs: `https://a.example,http://b.example:5050`.
pub(super) fn web_urls(text: &str) -> Option<Vec<String>> {
    let url = |url: &str| {
        let url = url.trim();
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
        (!host.is_empty()).then(|| url.to_owned())
    };
    text.split(',').map(url).collect()
}

/// Parses chain ids: `31337,84532`.
pub(super) fn chain_ids(text: &str) -> Option<Vec<u64>> {
    let id = |id: &str| {
        let id = id.trim();
        id.parse().ok().filter(|_| id.bytes().all(|byte| byte.is_ascii_digit()))
    };
    text.split(',').map(id).collect()
}

/// Parses a duration in Go's notation: a sequence of numbers with units. `0` needs no unit. Signs are refused, and
/// fractions of a nanosecond are dropped.
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total_ns = 0u128;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_len);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        total_ns = total_ns.checked_add(scaled(number, unit_ns(unit)?)?)?;
        rest = after;
    }
    (!text.is_empty())
        .then_some(total_ns)
        .and_then(|ns| u64::try_from(ns).ok())
        .map(Duration::from_nanos)
}

fn unit_ns(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        _ => return None,
    })
}

/// Returns a decimal number of units in nanoseconds; smaller parts are dropped. Limits the number of digits, so that
/// the arithmetic cannot overflow silently.
fn scaled(number: &str, unit_ns: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || number.len() > 30 {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let fraction = fraction.get(..fraction.len().min(15))?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = digits(fraction)?.checked_mul(unit_ns)? / scale;
    digits(whole)?.checked_mul(unit_ns)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_of_a_token_are_read_to_the_last_digit() {
        assert_eq!(token_wei("20"), Some(Wei(20_000_000_000_000_000_000)));
        assert_eq!(token_wei("0.5"), Some(Wei(500_000_000_000_000_000)));
        assert_eq!(token_wei("1.000000000000000001"), Some(Wei(1_000_000_000_000_000_001)));
        for wrong in
            ["", ".5", "1.", "-1", "1e3", "0.0000000000000000001", "1.2.3", "9".repeat(30).as_str()]
        {
            assert_eq!(token_wei(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_are_read_in_the_forms_of_the_reference_as_well() {
        for (text, read) in [
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "0.0.0.0"),
            ("localhost", "127.0.0.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[::]", "::"),
        ] {
            assert_eq!(ip(text), Some(read.parse::<IpAddr>().unwrap()), "{text}");
        }
        for wrong in ["", "[", "[]", "[::1", "::1]", "[127.0.0.1]", "localhost.", "node.example"] {
            assert_eq!(ip(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_read_as_go_reads_them() {
        let cases = [
            ("0", 0),
            ("0s", 0),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            (".5s", 500),
            ("2m0.25s", 120_250),
            ("1000µs", 1),
        ];
        for (text, millis) in cases {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("7ns"), Some(Duration::from_nanos(7)));
    }

    #[test]
    fn other_texts_are_refused_as_durations() {
        for text in
            ["", "5", "s", ".s", "-1s", "1d", "1s5", "1..2s", "1 s", "999999999999999999h", "é"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    proptest! {
        /// Any sequence of numbers with units is the sum of its parts.
        #[test]
        fn durations_are_the_sum_of_their_parts(
            parts in proptest::collection::vec((0u64..100_000, 0u64..1_000, 0usize..6), 1..6),
        ) {
            const UNITS: [(&str, u128); 6] = [
                ("ns", 1),
                ("us", 1_000),
                ("ms", 1_000_000),
                ("s", 1_000_000_000),
                ("m", 60_000_000_000),
                ("h", 3_600_000_000_000),
            ];
            let (mut text, mut total_ns) = (String::new(), 0u128);
            for (whole, thousandths, unit) in parts {
                let (name, unit_ns) = UNITS[unit];
                text += &format!("{whole}.{thousandths:03}{name}");
                total_ns += u128::from(whole) * unit_ns + u128::from(thousandths) * unit_ns / 1_000;
            }
            prop_assert_eq!(duration(&text).map(|time| time.as_nanos()), Some(total_ns));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC*", near in "[0-9.]{0,40}(h|m|s|ms)?") {
            let _ = (duration(&text), duration(&near), port(&text), level(&text), network(&text));
            let _ = (chain_urls(&text), chain_urls(&near), ip(&text), ip(&near));
        }
    }

    #[test]
    fn chains_and_their_urls_are_read_in_their_order() {
        let pair = |id, url: &str| (id, url.to_owned());
        assert_eq!(
            chain_urls("8453=https://a/?k=v, 1=http://b,8453=https://c"),
            Some(vec![pair(8453, "https://a/?k=v"), pair(1, "http://b"), pair(8453, "https://c")])
        );
        for wrong in ["", "1", "1=", "1=ws://a", "x=https://a", "+1=https://a", "1=https://a,"] {
            assert_eq!(chain_urls(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn chain_ids_are_decimal_numbers() {
        assert_eq!(chain_ids("31337, 84532"), Some(vec![31_337, 84_532]));
        for wrong in ["", "1,", "0x1", "+1", "-1", "18446744073709551616"] {
            assert_eq!(chain_ids(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn words_are_read_in_any_case() {
        assert_eq!(switch("TRUE"), Some(true));
        assert_eq!(switch("0"), Some(false));
        assert_eq!(switch("yes"), None);
        assert_eq!(level("debug"), Some(Level::DEBUG));
        assert_eq!(level("Fatal"), Some(Level::ERROR));
        assert_eq!(level("loud"), None);
        assert_eq!(port("0"), None);
        assert_eq!(port("65536"), None);
        assert_eq!(network("a b"), None);
        assert_eq!(network("a/b"), None, "names of files contain it");
        assert_eq!(network(""), None);
    }
}
