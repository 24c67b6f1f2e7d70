//! An estimate of the memory that a decoded request takes, from its wire form alone.
//!
//! A repeated message of two bytes becomes hundreds of bytes when it is decoded. One pass over the tags
//! and lengths, which touches no content, counts the fields that cost memory.

use tonic::Status;

/// The cost of a request's field: the memory that decoding and processing it takes.
#[derive(Debug, Clone, Copy)]
pub struct FieldCost {
    number: u64,
    each_bytes: usize,
    per_byte: usize,
    bound: Option<FieldBound>,
    /// True if the field has a length and content. Others may be numbers.
    has_content: bool,
    /// True if the message in the field is decoded apart from the one around it.
    is_apart: bool,
    inner: &'static [FieldCost],
}

/// A bound on the number of occurrences of a field in a request. Decoding more would delay the other calls of a thread.
#[derive(Debug, Clone, Copy)]
struct FieldBound {
    most: usize,
    /// Returns the status that refuses a request with this number of occurrences.
    refused: fn(usize) -> Status,
}

/// Cost of a field that is not listed, bytes: the decoder skips most of them.
const UNLISTED_BYTES: usize = 16;
/// Type of a field with a length and content, in its tag (Protocol Buffers, Message Structure).
const LENGTH_DELIMITED: u64 = 2;

impl FieldCost {
    /// Describes a field of bytes, a text, a message or a map that takes `each_bytes` for each occurrence, plus the
    /// cost of the `inner` fields of its message.
    #[must_use]
    pub const fn each(number: u64, each_bytes: usize, inner: &'static [Self]) -> Self {
        Self::with_length(number, each_bytes, 0, inner)
    }

    /// Describes a field as [`each`](Self::each) does that also takes `per_byte` times its length.
    #[must_use]
    pub const fn with_length(
        number: u64,
        each_bytes: usize,
        per_byte: usize,
        inner: &'static [Self],
    ) -> Self {
        let (bound, has_content, is_apart) = (None, true, false);
        Self { number, each_bytes, per_byte, bound, has_content, is_apart, inner }
    }

    /// Describes a field that takes up to `per_byte` times its length: numbers, packed or not, or messages whose
    /// fields are not listed. Messages inside of such a message have no lists, because their lengths may go beyond this
    /// field.
    #[must_use]
    pub const fn by_length(number: u64, per_byte: usize) -> Self {
        Self {
            number,
            each_bytes: 2 * per_byte,
            per_byte,
            bound: None,
            has_content: false,
            is_apart: false,
            inner: &[],
        }
    }

    /// Describes the same field as one of bytes that hold a message. It is decoded apart from the message around it, so
    /// an error in it does not end the decoding of what follows.
    #[must_use]
    pub const fn decoded_apart(self) -> Self {
        Self { is_apart: true, ..self }
    }

    /// Refuses requests with more than `most` of these fields before they are decoded: with the status that `refused`
    /// returns for their number. The fields of a request that have such a bound are counted together.
    #[must_use]
    pub const fn at_most(self, most: usize, refused: fn(usize) -> Status) -> Self {
        Self { bound: Some(FieldBound { most, refused }), ..self }
    }
}

/// Returns the cost of the gRPC messages in `pieces`, which together hold whole messages. Stops at `enough`, or where a
/// message is malformed: the decoder stops there too.
///
/// # Errors
/// The refusal of more fields than a bound allows. Only fields before the end of the scan count.
pub(crate) fn cost_bytes<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    fields: &[FieldCost],
    enough: usize,
) -> Result<usize, Status> {
    let (at, end, last, groups) = (0, usize::MAX, usize::MAX, 0);
    let (cost, counted, refused) = (0, 0, None);
    let mut scan =
        Scan { pieces, piece: &[], at, end, last, groups, cost, counted, refused, enough };
    while scan.goes_on()
        && let Some(len) = scan.head()
        && scan.inside(len, true, |scan| scan.message(fields)).is_some()
    {}
    scan.refused.map_or(Ok(scan.cost), |refused| Err(refused(scan.counted)))
}

struct Scan<'a, P> {
    pieces: P,
    piece: &'a [u8],
    at: usize,
    /// End of the message that is being scanned.
    end: usize,
    /// End of the bytes that are decoded together with it. The scan never reads past it.
    last: usize,
    /// Groups of the message that are open. The decoder skips all that is in them.
    groups: usize,
    cost: usize,
    /// Fields of a bounded number.
    counted: usize,
    /// The refusal for their number, after more of them than a bound allows.
    refused: Option<fn(usize) -> Status>,
    enough: usize,
}

impl<'a, P: Iterator<Item = &'a [u8]>> Scan<'a, P> {
    fn goes_on(&self) -> bool {
        self.cost < self.enough
    }

    fn message(&mut self, fields: &[FieldCost]) {
        while self.at < self.end && self.goes_on() && self.field(fields).is_some() {}
    }

    /// Adds the cost of the next field, and of those inside it; `None` if the bytes are malformed, where the decoder
    /// stops too.
    fn field(&mut self, fields: &[FieldCost]) -> Option<()> {
        let tag = self.varint()?;
        // Other numbers are no fields (Protocol Buffers, Field Numbers). Zeros are not two bytes for each field.
        if tag >> 3 == 0 || tag > u64::from(u32::MAX) {
            return None;
        }
        let listed = fields.iter().find(|field| field.number == tag >> 3);
        let each_bytes = listed.map_or(UNLISTED_BYTES, |field| field.each_bytes);
        self.cost = self.cost.saturating_add(each_bytes);
        if let Some(bound) = listed.and_then(|field| field.bound) {
            self.counted += 1;
            if self.counted > bound.most {
                self.refused = Some(bound.refused);
            }
        }
        let is_read = listed.is_some_and(|field| field.has_content) && self.groups == 0;
        let wire_type = match tag & 7 {
            6 | 7 => return None,
            // The decoder reads an entry of a map by its length, whatever type its tag states. At any other field that
            // has content it stops.
            _ if is_read => LENGTH_DELIMITED,
            stated => stated,
        };
        match wire_type {
            0 => self.varint().map(|_| ()),
            1 => self.skip(8),
            LENGTH_DELIMITED => {
                let len = usize::try_from(self.varint()?).ok()?;
                let per_byte = listed.map_or(0, |field| field.per_byte);
                self.cost = self.cost.saturating_add(len.saturating_mul(per_byte));
                let inner = listed.map_or(&[][..], |field| field.inner);
                let is_apart = listed.is_some_and(|field| field.is_apart);
                self.inside(len, is_apart, |scan| {
                    if !inner.is_empty() {
                        scan.message(inner)
                    }
                })
            }
            // The decoder skips groups and their content, so this scan counts their content as ordinary fields and
            // misses none.
            3 => {
                self.groups += 1;
                Some(())
            }
            4 => {
                self.groups = self.groups.saturating_sub(1);
                Some(())
            }
            _ => self.skip(4),
        }
    }

    /// Scans the next `len` bytes and moves past them, even if they are malformed: the bytes may be
    /// decoded later, or never.
    ///
    /// Returns `None` if they go beyond the message around them. The decoder compares a length with all bytes that are
    /// left, and notices only after it has decoded the bytes that the message around them was shorter. So they are
    /// scanned, and nothing behind them is.
    fn inside(&mut self, len: usize, is_apart: bool, scan: impl FnOnce(&mut Self)) -> Option<()> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.last)?;
        let outer = (self.end, self.last, self.groups);
        (self.end, self.groups) = (end, 0);
        if is_apart {
            self.last = end;
        }
        scan(self);
        let skipped = end.checked_sub(self.at).and_then(|rest| self.skip(rest));
        (self.end, self.last, self.groups) = outer;
        skipped.filter(|()| end <= self.end)
    }

    fn head(&mut self) -> Option<usize> {
        let mut length = [0; 4];
        self.byte()?;
        for byte in &mut length {
            *byte = self.byte()?;
        }
        Some(u32::from_be_bytes(length) as usize)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        if self.at == self.last {
            return None;
        }
        loop {
            if let Some((first, rest)) = self.piece.split_first() {
                self.piece = rest;
                self.at += 1;
                return Some(*first);
            }
            self.piece = self.pieces.next()?;
        }
    }

    fn skip(&mut self, mut len: usize) -> Option<()> {
        if len > self.last - self.at {
            return None;
        }
        loop {
            let here = len.min(self.piece.len());
            self.piece = &self.piece[here..];
            self.at += here;
            len -= here;
            if len == 0 {
                return Some(());
            }
            self.piece = self.pieces.next()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ENTRY: FieldCost = FieldCost::each(1, 96, &[]);
    const CURSOR: FieldCost = FieldCost::each(2, 0, &[ENTRY]);
    const FIELDS: [FieldCost; 2] =
        [FieldCost::each(1, 1000, &[CURSOR]), FieldCost::by_length(3, 300)];

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend(message);
        framed
    }

    fn cost(bytes: &[u8], piece: usize) -> usize {
        cost_bytes(bytes.chunks(piece), &FIELDS, 1_000_000).unwrap()
    }

    #[test]
    fn elements_nested_entries_and_lengths_are_counted() {
        let two_empty = framed(&[0x0a, 0, 0x0a, 0]);
        assert_eq!(cost(&two_empty, 100), 2000);
        // An element with a cursor of two empty entries, and an unlisted varint.
        let nested = framed(&[0x0a, 8, 0x12, 4, 0x0a, 0, 0x0a, 0, 0x20, 1]);
        assert_eq!(cost(&nested, 100), 1000 + 2 * 96 + UNLISTED_BYTES);
        let packed = framed(&[0x1a, 3, 1, 2, 3]);
        assert_eq!(cost(&packed, 100), 5 * 300);
    }

    #[test]
    fn a_million_elements_are_not_all_visited() {
        let many = framed(&[0x0a, 0].repeat(1_000_000));
        assert_eq!(cost(&many, many.len()), 1_000_000);
    }

    #[test]
    fn more_elements_than_a_handler_takes_are_refused_with_their_number() {
        const FEW: FieldCost =
            FieldCost::each(2, 10, &[]).at_most(3, |count| Status::not_found(count.to_string()));
        const FIELDS: [FieldCost; 1] = [FieldCost::each(1, 0, &[FEW])];
        let cost = |count: u8| {
            let elements = [0x12, 0].repeat(count.into());
            let bytes = framed(&[&[0x0a, 2 * count][..], &elements].concat());
            cost_bytes([&bytes[..]].into_iter(), &FIELDS, 1_000_000)
        };
        assert_eq!(cost(3).unwrap(), 30);
        for count in [4, 50] {
            let refused = cost(count).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::NotFound);
            assert_eq!(refused.message(), count.to_string());
        }
    }

    #[test]
    fn a_length_that_lies_ends_the_scan() {
        for lie in [&[0x0a, 200, 1][..], &[0x0f], &[0xff; 12]] {
            assert!(cost(&framed(lie), 3) <= 1000, "{lie:?}");
        }
    }

    /// A long request of such bytes is refused for them, and not for memory that it would not take.
    #[test]
    fn a_number_that_is_no_fields_ends_the_scan() {
        let too_large = [0x88, 0x80, 0x80, 0x80, 0x80, 1, 0];
        for number in [&[0; 2][..], &[1; 9], &too_large] {
            let message = framed(&number.repeat(1000));
            assert_eq!(cost(&message, 7), 0, "{number:?}");
            let elements = framed(&[&[0x0a, 0][..], &number.repeat(1000)].concat());
            assert_eq!(cost(&elements, 7), 1000, "{number:?}");
        }
    }

    #[test]
    fn nothing_hides_elements_that_the_decoder_finds() {
        const APART: [FieldCost; 1] = [FieldCost::each(1, 1000, &[CURSOR]).decoded_apart()];
        let elements = [0x0a, 0].repeat(7);
        let hiding: [&[u8]; 4] = [
            &[0x7b, 0x7c],             // an empty group
            &[0x0a, 2, 0x12, 0x80],    // an element whose content ends within a varint
            &[0x0a, 3, 0x12, 9, 0x0a], // an element whose content claims to be longer
            &[0x8a, 0, 0],             // a tag in more bytes than it needs
        ];
        for before in hiding {
            let message = framed(&[before, &elements].concat());
            let cost = cost_bytes(message.chunks(2), &APART, 1_000_000).unwrap();
            assert!(cost >= 7000, "{before:?}");
        }
    }

    /// The decoder reads entries of a map by their lengths under each type that a tag can state. A scan that goes by
    /// the type would lose its place in the first of them, and find none of the others.
    #[test]
    fn entries_of_a_map_are_counted_whatever_their_tags_state() {
        for stated in 0..6 {
            let entry = [1 << 3 | stated, 5, 0x08, 0x81, 0x80, 0x80, 1];
            let cursor = entry.repeat(10);
            let inner = [&[0x12, 70][..], &cursor].concat();
            let message = framed(&[&[0x0a, 72][..], &inner].concat());
            assert_eq!(cost(&message, 100), 1000 + 10 * 96, "type {stated}");
        }
        for stated in 6..8 {
            let message = framed(&[0x0a, 4, 0x12, 2, 1 << 3 | stated, 0]);
            assert!(cost(&message, 100) <= 1000 + 96, "the decoder knows no such type");
        }
    }

    /// Byte 7 is no tag, so a scan that goes on behind the shorter message ends at once.
    #[test]
    fn a_length_that_goes_beyond_the_message_around_it_hides_nothing() {
        let cursor = [&[0x7a, 1, 7][..], &[0x0a, 0].repeat(50)].concat();
        let around = |len: u8| [&[0x0a, len, 0x12, 103][..], &cursor].concat();
        // The last one is right. The first one ends before the length of the cursor.
        for len in [1, 2, 4, 5, 50, 105] {
            let message = framed(&around(len));
            assert_eq!(cost(&message, 100), 1000 + UNLISTED_BYTES + 50 * 96, "{len}");
            assert_eq!(cost(&message, 1), cost(&message, 100), "{len}");
        }
        // Beyond the outermost message the decoder does not read.
        let next = [&framed(&[0x0a, 2, 0x12, 103])[..], &framed(&cursor)].concat();
        assert_eq!(cost(&next, 100), 1000 + cost(&framed(&cursor), 100));
    }

    /// In a group the decoder skips fields of any number by the type that their tags state.
    #[test]
    fn numbers_in_a_group_are_no_lengths_that_hide_what_follows() {
        let elements = [0x0a, 0].repeat(7);
        // A number of 14 in field 1, within one group and within two.
        let groups: [&[u8]; 2] = [&[0x7b, 0x08, 14, 0x7c], &[0x7b, 0x73, 0x74, 0x08, 14, 0x7c]];
        for group in groups {
            let message = framed(&[group, &elements].concat());
            assert!(cost(&message, 100) >= 7000, "{group:?}");
        }
        // A group of an inner message does not reach into the outer one.
        let inner = [&[0x0a, 1, 0x7b][..], &elements].concat();
        assert!(cost(&framed(&inner), 100) >= 8000);
    }

    proptest! {
        /// Random bytes alone hardly ever have a listed field.
        #[test]
        fn any_bytes_in_any_pieces_cost_the_same(
            message in proptest::collection::vec(
                prop_oneof![
                    8 => prop::sample::select(vec![0_u8, 1, 2, 4, 0x0a, 0x12, 0x1a, 0x7b, 0x7c, 0x80]),
                    1 => any::<u8>(),
                ],
                0..200,
            ),
            piece in 1usize..50,
        ) {
            let framed = framed(&message);
            prop_assert_eq!(cost(&framed, piece), cost(&framed, framed.len()));
        }
    }
}
