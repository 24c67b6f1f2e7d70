//! Parses the expiry time of a certificate (RFC 5280 §4.1.2.5), which rustls checks but does not expose.

use hawser_proto::date::days_since_1970;

/// Tags of DER (X.690 §8.1.2).
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const INTEGER: u8 = 0x02;

/// Returns the time after which a certificate is not valid, in unix seconds; `None` if it is malformed.
pub(super) fn expires_unix_s(certificate: &[u8]) -> Option<i64> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (mut fields, _) = expect(certificate, SEQUENCE)?;
    if let Some((_, rest)) = expect(fields, VERSION) {
        fields = rest;
    }
    let (_serial, fields) = expect(fields, INTEGER)?;
    let (_algorithm, fields) = expect(fields, SEQUENCE)?;
    let (_issuer, fields) = expect(fields, SEQUENCE)?;
    let (validity, _) = expect(fields, SEQUENCE)?;
    let (_, _, rest) = element(validity)?;
    let (tag, not_after, _) = element(rest)?;
    time(tag, not_after)
}

/// Splits off the first element, which must have this tag. Returns its content and the remaining bytes.
fn expect(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(bytes)?;
    (found == tag).then_some((content, rest))
}

/// Splits off the first element. Returns its tag, its content and the remaining bytes.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, bytes) = bytes.split_first()?;
    let (&first, bytes) = bytes.split_first()?;
    let (len, bytes) = match first {
        short @ 0..0x80 => (usize::from(short), bytes),
        long => {
            // A length of four bytes exceeds any accepted file.
            let count = usize::from(long & 0x7f);
            let (digits, bytes) =
                bytes.split_at_checked(count).filter(|_| (1..=4).contains(&count))?;
            (digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit)), bytes)
        }
    };
    let (content, rest) = bytes.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// Reads `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &[u8]) -> Option<i64> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(&digits[..2]);
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| number(&rest[2 * at..2 * at + 2]);
    let (month, day) = (part(0), part(1));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    Some(days_since_1970(year, month, day) * 86_400 + part(2) * 3600 + part(3) * 60 + part(4))
}

fn number(digits: &[u8]) -> i64 {
    digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn times_are_read_in_both_forms() {
        assert_eq!(time(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(time(UTC_TIME, b"000229120000Z"), Some(951_825_600));
        assert_eq!(time(GENERALIZED_TIME, b"20500101000001Z"), Some(2_524_608_001));
        assert_eq!(time(GENERALIZED_TIME, b"99991231235959Z"), Some(253_402_300_799));
        let refused: [&[u8]; 4] = [b"", b"700101000000", b"7001010000Z", b"701301000000Z"];
        for text in refused {
            assert_eq!(time(UTC_TIME, text), None);
        }
    }

    #[test]
    fn the_end_of_a_certificate_is_found() {
        for (year, expected) in [(2031, 1_935_619_200), (2075, 3_324_153_600)] {
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_after = date_time_ymd(year, 5, 4);
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            assert_eq!(expires_unix_s(certificate.der()), Some(expected), "{year}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = expires_unix_s(&bytes);
        }
    }
}
