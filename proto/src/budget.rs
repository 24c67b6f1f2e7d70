//! Bounds on a message before it is decoded, so that few bytes cannot become much memory.
//!
//! A repeated message of two bytes on the wire may take hundreds of bytes once it is decoded. Callers
//! check the counts of this module against their limits before they decode. The limits are about bytes, not about the
//! meaning of a message, which is why they stand in this crate.

/// Iterator over the top-level fields of a message, up to the first that is malformed. A group, which no message of the
/// network has, is one field without content: the decoder skips it and reads on behind it.
struct WireFields<'a> {
    rest: &'a [u8],
}

struct WireField<'a> {
    number: u64,
    /// Content of a length-delimited or fixed field; empty for a varint and a group.
    bytes: &'a [u8],
}

impl<'a> WireFields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for (index, byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(index).ok()?)?;
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Some(value);
            }
        }
        None
    }

    fn split(&mut self, len: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(usize::try_from(len).ok()?)?;
        self.rest = rest;
        Some(bytes)
    }

    fn field(&mut self) -> Option<WireField<'a>> {
        let tag = self.varint()?;
        // Other numbers are no fields (Protocol Buffers, Field Numbers): the decoder stops there, too.
        if tag >> 3 == 0 || tag > u64::from(u32::MAX) {
            return None;
        }
        Some(WireField { number: tag >> 3, bytes: self.content(tag)? })
    }

    /// Returns the content of the field with this tag, and moves past it.
    fn content(&mut self, tag: u64) -> Option<&'a [u8]> {
        match tag & 7 {
            0 => self.varint().map(|_| &[][..]),
            1 => self.split(8),
            2 => {
                let len = self.varint()?;
                self.split(len)
            }
            3 => self.skip_group().map(|()| &[][..]),
            5 => self.split(4),
            _ => None,
        }
    }

    /// Moves past the rest of a group. Only counts the groups inside it: a sender can open one with each byte.
    fn skip_group(&mut self) -> Option<()> {
        let mut open = 1_usize;
        while open > 0 {
            let tag = self.varint()?;
            match tag & 7 {
                3 => open += 1,
                4 => open -= 1,
                _ => {
                    self.content(tag)?;
                }
            }
        }
        Some(())
    }
}

impl<'a> Iterator for WireFields<'a> {
    type Item = WireField<'a>;

    fn next(&mut self) -> Option<WireField<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let before = self.rest;
        let field = self.field();
        if field.is_none() {
            self.rest = before; // a malformed field is left unread
        }
        field
    }
}

/// Returns the summed length of the top-level fields `numbers`, in bytes.
#[must_use]
pub fn field_len_bytes(message: &[u8], numbers: std::ops::RangeInclusive<u64>) -> usize {
    WireFields { rest: message }
        .filter(|field| numbers.contains(&field.number))
        .map(|field| field.bytes.len())
        .sum()
}

/// Iterates over the contents of the top-level fields `number`, up to the first field that is malformed.
pub fn field_contents(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    let fields = WireFields { rest: message };
    fields.filter(move |field| field.number == number).map(|field| field.bytes)
}

/// Returns the number of fields `inner` within all top-level fields `outer`, without decoding them; `None`
/// if the message, or one of those fields, is malformed.
#[must_use]
pub fn nested_count(message: &[u8], outer: u64, inner: u64) -> Option<usize> {
    let mut count = 0;
    let mut fields = WireFields { rest: message };
    for field in fields.by_ref().filter(|field| field.number == outer) {
        let mut below = WireFields { rest: field.bytes };
        count += below.by_ref().filter(|field| field.number == inner).count();
        below.rest.is_empty().then_some(())?;
    }
    fields.rest.is_empty().then_some(count)
}

/// Returns true when a message has at most `max` fields, counted on its top `levels` levels: 1 counts the fields of the
/// message alone, 2 also those of the messages in its fields.
///
/// The content of a field counts as a message if it parses as one, or starts with more than `max`
/// fields; other bytes, such as ciphertext, count as one field. Reads each byte `levels` times at most.
#[must_use]
pub fn has_at_most(message: &[u8], max: usize, levels: usize) -> bool {
    let (count, _) = count_fields(message, max, levels);
    count <= max
}

/// Counts the fields of a message on its top `levels` levels until there are more than `max`. Returns the count, and
/// true if it covers the whole message.
fn count_fields(message: &[u8], max: usize, levels: usize) -> (usize, bool) {
    let mut fields = WireFields { rest: message };
    let mut count = 0;
    for field in fields.by_ref() {
        count += 1;
        if levels > 1 {
            let (below, is_whole) = count_fields(field.bytes, max, levels - 1);
            if is_whole || below > max {
                count += below;
            }
        }
        if count > max {
            break;
        }
    }
    (count, fields.rest.is_empty())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::pb::xmtp::xmtpv4::envelopes;
    use crate::pb::xmtp::xmtpv4::message_api as api;

    #[test]
    fn fields_are_counted_on_two_levels() {
        let empty = envelopes::PayerEnvelope::default();
        let request = api::PublishPayerEnvelopesRequest { payer_envelopes: vec![empty; 10] };
        let bytes = request.encode_to_vec();
        assert!(has_at_most(&bytes, 10, 2));
        assert!(!has_at_most(&bytes, 9, 2));
        let query = api::EnvelopesQuery { topics: vec![Bytes::new(); 9], ..Default::default() };
        let bytes = api::QueryEnvelopesRequest { query: Some(query), limit: 0 }.encode_to_vec();
        assert!(has_at_most(&bytes, 10, 2));
        assert!(!has_at_most(&bytes, 9, 2));
    }

    #[test]
    fn the_third_level_counts_if_it_is_asked_for() {
        use api::subscribe_response::{V1, Version, v1};

        let list = v1::Envelopes { envelopes: vec![Bytes::new(); 9], mutate_id: 0 };
        let frame = V1 { response: Some(v1::Response::Envelopes(list)) };
        let bytes = api::SubscribeResponse { version: Some(Version::V1(frame)) }.encode_to_vec();
        assert!(has_at_most(&bytes, 1, 1));
        assert!(!has_at_most(&bytes, 1, 2) && has_at_most(&bytes, 2, 2));
        assert!(!has_at_most(&bytes, 10, 3) && has_at_most(&bytes, 11, 3));
        // The count stops at `max`, so malformed bytes behind it take nothing back.
        let cut_off = [&[0x0a, 0].repeat(9)[..], &[0x0a]].concat();
        let nested = [&[0x0a, 21, 0x0a, 19][..], &cut_off].concat();
        assert!(has_at_most(&nested, 9, 3), "what is cut off is no message");
        assert!(!has_at_most(&nested, 8, 3));
    }

    #[test]
    fn ciphertext_does_not_count() {
        let bytes = envelopes::PayerEnvelope {
            unsigned_client_envelope: Bytes::from(vec![0xff; 1000]),
            ..Default::default()
        };
        assert!(has_at_most(&bytes.encode_to_vec(), 1, 2));
    }

    /// A long text or padding of zeros is not refused as a message of a million fields.
    #[test]
    fn zeros_do_not_count() {
        let topic = Bytes::from(vec![0; 1000]);
        let topics = api::GetNewestEnvelopeRequest { topics: vec![topic] }.encode_to_vec();
        let padding = [&[0xfa, 0x01, 100][..], &[0; 100]].concat(); // field 31, which no schema has
        for bytes in [topics, padding] {
            assert!(has_at_most(&bytes, 1, 2));
        }
        // The decoder stops at a number that is no field, so what is behind it becomes no memory.
        let behind = [&[0x0a, 0][..], &[0, 0], &[0x0a, 0].repeat(50)].concat();
        assert!(api::PublishPayerEnvelopesRequest::decode(&behind[..]).is_err());
        assert!(has_at_most(&behind, 1, 2) && !has_at_most(&behind, 0, 2));
    }

    #[test]
    fn lengths_of_one_field_are_added_up() {
        let once = envelopes::ClientEnvelope {
            aad: None,
            payload: Some(envelopes::client_envelope::Payload::IdentityUpdate(Default::default())),
        };
        let mut bytes = once.encode_to_vec();
        bytes.extend([0x2a, 3, 1, 2, 3, 0x2a, 2, 1, 2, 0x0a, 1, 1]);
        assert_eq!(field_len_bytes(&bytes, 5..=7), 5);
        assert_eq!(field_len_bytes(&bytes, 1..=1), 1);
    }

    #[test]
    fn fields_within_a_field_are_counted() {
        let envelopes = vec![envelopes::OriginatorEnvelope::default(); 3];
        let safety = api::SafetyFailure { envelopes };
        let report = api::UnsignedMisbehaviorReport {
            reporter_time_ns: 5,
            failure: Some(api::unsigned_misbehavior_report::Failure::Safety(safety)),
            ..Default::default()
        };
        let bytes = [report.encode_to_vec(), report.encode_to_vec()].concat();
        assert_eq!(nested_count(&bytes, 5, 1), Some(6), "fields that repeat are merged");
        assert_eq!(nested_count(&bytes, 4, 1), Some(0));
        let group = [&[0x7b, 0x7c][..], &bytes].concat();
        assert_eq!(nested_count(&group, 5, 1), Some(6), "nothing hides behind a group");
        for cut in [&[0x7b][..], &[0x08], &[0x2d, 1, 2, 3]] {
            assert_eq!(nested_count(&[&bytes[..], cut].concat(), 5, 1), None, "{cut:?} is cut off");
        }
    }

    /// Groups that the decoder skips: empty, with fields, with groups, and with bytes inside that look like an end.
    const GROUPS: [&[u8]; 4] = [
        &[0x7b, 0x7c],
        &[0x7b, 0x0a, 1, 0x7c, 0x08, 5, 0x7c],
        &[0x7b, 0x73, 0x0a, 0, 0x74, 0x7d, 0x7c, 0x7c, 0x7c, 0x7c, 0x7c],
        &[0xfb, 0x01, 0xfc, 0x81, 0],
    ];

    #[test]
    fn nothing_hides_behind_a_group() {
        let elements = [0x0a, 0].repeat(50);
        for group in GROUPS {
            let message = [group, &elements].concat();
            let read = api::PublishPayerEnvelopesRequest::decode(&message[..]).unwrap();
            assert_eq!(read.payer_envelopes.len(), 50, "the decoder reads on behind {group:?}");
            assert!(!has_at_most(&message, 50, 2) && has_at_most(&message, 51, 2), "{group:?}");
            let len = u8::try_from(message.len()).unwrap();
            let nested = [&[0x0a, len][..], &message].concat();
            assert!(!has_at_most(&nested, 51, 2) && has_at_most(&nested, 52, 2), "{group:?}");
            assert_eq!(field_len_bytes(&[group, &[0x2a, 3, 1, 2, 3]].concat(), 5..=5), 3);
        }
        // Each byte opens a group, and none is closed.
        assert!(has_at_most(&vec![0x7b; 1 << 20], 0, 2), "the decoder refuses it");
    }

    #[test]
    fn fields_within_a_group_do_not_count() {
        let group = [0x7b, 0x2a, 3, 1, 2, 3, 0x7c];
        assert_eq!(field_len_bytes(&group, 5..=7), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_harm(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            max in 0usize..50,
            levels in 1usize..5,
        ) {
            prop_assert!(field_len_bytes(&bytes, 0..=u64::MAX) <= bytes.len());
            prop_assert!(has_at_most(&bytes, levels * bytes.len(), levels));
            prop_assert!(has_at_most(&bytes, max, levels) || max < levels * bytes.len());
        }
    }
}
