//! The memory that the HTTP/2 library keeps of a connection for fields that later heads may name by their places: the
//! dynamic table (RFC 7541 §2.3.2).
//!
//! The table has 4 KiB by its own count. The library copies most fields into it. But the value of `:path`,
//! `:authority` or `:scheme` stays a part of the buffer into which the connection was read, or into which its Huffman
//! code was decoded, and keeps all of that. So a hundred values of a byte, each with a buffer of its own, keep one to
//! two MiB until the connection ends.
//!
//! A connection is charged for these buffers, by the bytes that have come between such fields: usual clients enter some
//! of them, soon after one another. So the lengths of fields and the places of their names are read here; values and
//! Huffman codes are not. What is malformed ends the connection in the library, except a stream that depends on
//! itself.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use crate::frame_head::{CONTINUATION, FrameHead, HEAD_LEN_BYTES, HEADERS, PADDED, PRIORITY};

/// The most fields in the table. Calculated: 4,096 bytes, of which a field takes its length and 32 (RFC 7541 §4.1).
const FIELDS_MAX: usize = 128;
/// Length of the buffers into which the library reads a connection, in bytes. A longer frame has one of its own length.
const BUFFER_LEN_BYTES: usize = 8 * 1024;
/// Kept bytes for each byte that has come since the last field that keeps its buffer. Calculated: twice, because two
/// fields in a row may stand at the end of a buffer and at the beginning of the next; and again twice, because the
/// library makes a buffer for Huffman code twice as long as the code.
const KEPT_PER_BYTE: usize = 4;
/// Kept bytes that the charge of every connection covers: it has a buffer of this length while it is idle, too.
const FREE_BYTES: usize = BUFFER_LEN_BYTES;
/// The most buffers that a field is charged for: its own, and one for the reason above.
const BUFFERS_PER_FIELD: usize = 2;
/// Places of the names `:authority`, `:method`, `:path` and `:scheme` in the static table, and the first place of the
/// dynamic one (RFC 7541 §2.3.3, Appendix A).
const PSEUDO_PLACES: RangeInclusive<usize> = 1..=7;
const DYNAMIC_PLACES_FROM: usize = 62;
/// The Huffman code of a colon has seven bits (RFC 7541, Appendix B). This is the byte that it begins, without the
/// eighth bit.
const HUFFMAN_COLON: u8 = 0xb8;
/// The bit before the length of a string that says that its value is Huffman code (RFC 7541 §5.2).
const HUFFMAN: u8 = 0x80;
/// Bytes of a priority in front of a header block (RFC 9113 §6.2).
const PRIORITY_LEN_BYTES: usize = 5;

/// The fields that one connection has entered into the table. A plain value.
#[derive(Debug, Default)]
pub(crate) struct KeptFields {
    frame: BlockFrame,
    place: Place,
    /// The newest fields, the last one first. Each whose name is a pseudo-header has the bytes that it is charged.
    newest: VecDeque<Option<usize>>,
    /// Bytes that have come since the last field that keeps its buffer.
    since: usize,
    /// Bytes of the longest frame since then. Its buffer may be the one that the next such field keeps.
    longest: usize,
    /// The most bytes that were kept at one time.
    most: usize,
    /// The part of them that was taken as owed.
    taken: usize,
}

/// The frame that is being read, of which a part may belong to a header block.
#[derive(Debug, Default)]
struct BlockFrame {
    /// Bytes of the payloads of all frames of the block until now.
    len: usize,
    /// True before the byte that tells the length of the padding.
    is_padded: bool,
    /// Bytes of the priority that are left in front of the block's part.
    front: usize,
    /// Those that have come, as a number.
    priority: u64,
    /// The stream of the frame.
    stream: u32,
    /// Bytes of the block that are left, with the padding as long as its length is not known.
    block: usize,
}

/// The position in a header block (RFC 7541 §6).
#[derive(Debug, Clone, Copy, Default)]
enum Place {
    /// Before a field.
    #[default]
    Field,
    /// In the number with which a field begins.
    Number(FieldForm, Number),
    /// Before a string.
    String(Part),
    /// In the length of a string.
    Length(Part, Number),
    /// Before the first byte of a name, which has this many.
    Name { is_entered: bool, is_huffman: bool, len: usize },
    /// Before this many bytes of a string.
    Text(TextEnd, usize),
}

/// The form of a field.
#[derive(Debug, Clone, Copy)]
enum FieldForm {
    /// It has a number alone: the place of a field, or the size of the table.
    Short,
    /// Its value follows, and before that its name if the number is 0. It is entered into the table, or not.
    Literal { is_entered: bool },
}

/// A string of a field.
#[derive(Debug, Clone, Copy)]
enum Part {
    Name { is_entered: bool, is_huffman: bool },
    Value,
}

/// A part of a block that follows a string.
#[derive(Debug, Clone, Copy)]
enum TextEnd {
    /// The value of the name.
    Value,
    /// The next field.
    Field,
}

/// A number that may have several bytes (RFC 7541 §5.1).
#[derive(Debug, Clone, Copy)]
struct Number {
    value: usize,
    shift: u32,
    is_whole: bool,
}

impl Number {
    /// Begins with a byte of which the bits of `mask` belong to the number.
    fn begin(byte: u8, mask: u8) -> Self {
        let bits = byte & mask;
        Self { value: bits.into(), shift: 0, is_whole: bits < mask }
    }

    /// Adds a byte. The library ends a connection whose number has more than five.
    fn and(self, byte: u8) -> Self {
        let value = self.value.saturating_add(usize::from(byte & 0x7f) << self.shift);
        Self { value, shift: (self.shift + 7).min(28), is_whole: byte < 0x80 }
    }
}

impl BlockFrame {
    /// Reads bytes of the priority. Skips the block of a stream that depends on itself: the library resets that stream
    /// alone, and enters none of the fields, so counting them would shift the places of all others.
    fn read_priority(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.priority = (self.priority << 8) | u64::from(*byte);
            self.front -= 1;
        }
        // The last byte is a weight, and the first bit a flag.
        let stream = (self.priority >> 8) & u64::from(u32::MAX >> 1);
        if !bytes.is_empty() && self.front == 0 && stream == u64::from(self.stream) {
            self.block = 0;
        }
    }
}

impl KeptFields {
    /// Begins a frame.
    pub(crate) fn begin(&mut self, head: FrameHead) {
        self.since += HEAD_LEN_BYTES;
        let (len, flags) = (head.len as usize, head.flags);
        self.frame = match head.kind {
            HEADERS => {
                self.place = Place::Field;
                let is_padded = flags & PADDED != 0;
                let front = if flags & PRIORITY == 0 { 0 } else { PRIORITY_LEN_BYTES };
                let block = len.saturating_sub(front + usize::from(is_padded));
                BlockFrame { len, is_padded, front, priority: 0, stream: head.stream, block }
            }
            // The library joins it with what is left of the frames before it.
            CONTINUATION => {
                let joined = self.frame.len.saturating_add(len);
                BlockFrame { len: joined, block: len, ..BlockFrame::default() }
            }
            _ => BlockFrame::default(),
        };
        self.longest = self.longest.max(self.frame.len).max(len);
    }

    /// Reads bytes of the frame's payload.
    pub(crate) fn read(&mut self, mut payload: &[u8]) {
        self.since += payload.len();
        let frame = &mut self.frame;
        if frame.is_padded
            && let Some((padding, rest)) = payload.split_first()
        {
            frame.block = frame.block.saturating_sub((*padding).into());
            frame.is_padded = false;
            payload = rest;
        }
        let front = frame.front.min(payload.len());
        frame.read_priority(&payload[..front]);
        let block = frame.block.min(payload.len() - front);
        frame.block -= block;
        self.read_block(&payload[front..front + block]);
    }

    /// Returns the bytes that the connection owes until it ends, without those that were returned before.
    pub(crate) fn take_owed_bytes(&mut self) -> usize {
        let owed = self.most.saturating_sub(FREE_BYTES);
        owed - std::mem::replace(&mut self.taken, owed)
    }

    /// Reads bytes of a header block.
    fn read_block(&mut self, mut block: &[u8]) {
        while let Some((byte, rest)) = block.split_first() {
            let Place::Text(end, left) = self.place else {
                self.place = self.behind(*byte);
                block = rest;
                continue;
            };
            let len = left.min(block.len());
            self.place = text(end, left - len);
            block = &block[len..];
        }
    }

    /// Returns the position behind this byte, which is none of a text.
    fn behind(&mut self, byte: u8) -> Place {
        match self.place {
            Place::Field => {
                let (form, mask) = match byte {
                    0x80.. => (FieldForm::Short, 0x7f),
                    0x40.. => (FieldForm::Literal { is_entered: true }, 0x3f),
                    0x20.. => (FieldForm::Short, 0x1f),
                    _ => (FieldForm::Literal { is_entered: false }, 0x0f),
                };
                self.behind_number(form, Number::begin(byte, mask))
            }
            Place::Number(form, number) => self.behind_number(form, number.and(byte)),
            Place::String(part) => {
                let part = match part {
                    Part::Name { is_entered, .. } => {
                        Part::Name { is_entered, is_huffman: byte & HUFFMAN != 0 }
                    }
                    Part::Value => Part::Value,
                };
                behind_length(part, Number::begin(byte, !HUFFMAN))
            }
            Place::Length(part, number) => behind_length(part, number.and(byte)),
            Place::Name { is_entered, is_huffman, len } => {
                let colon = if is_huffman { byte & !1 == HUFFMAN_COLON } else { byte == b':' };
                if is_entered {
                    self.enter(colon);
                }
                text(TextEnd::Value, len - 1)
            }
            place @ Place::Text(..) => place, // the caller skips texts
        }
    }

    /// Returns the position behind a byte of the number with which a field begins.
    fn behind_number(&mut self, form: FieldForm, number: Number) -> Place {
        if !number.is_whole {
            return Place::Number(form, number);
        }
        let is_entered = match form {
            FieldForm::Short => return Place::Field,
            FieldForm::Literal { is_entered } => is_entered,
        };
        if number.value == 0 {
            return Place::String(Part::Name { is_entered, is_huffman: false });
        }
        if is_entered {
            self.enter(self.is_pseudo(number.value));
        }
        Place::String(Part::Value)
    }

    /// Returns true if the name at a place of the tables is that of a pseudo-header.
    fn is_pseudo(&self, place: usize) -> bool {
        let entered = place.checked_sub(DYNAMIC_PLACES_FROM).and_then(|at| self.newest.get(at));
        PSEUDO_PLACES.contains(&place) || entered.is_some_and(Option::is_some)
    }

    /// Enters a field. The library may have fewer: it forgets the oldest ones when the table is full, and enters none
    /// that is longer than the table. It then has forgotten all before that one, so no place of a name differs.
    fn enter(&mut self, is_pseudo: bool) {
        let kept = is_pseudo.then(|| {
            let longest = std::mem::replace(&mut self.longest, self.frame.len);
            let most = BUFFERS_PER_FIELD * longest.max(BUFFER_LEN_BYTES);
            std::mem::take(&mut self.since).saturating_mul(KEPT_PER_BYTE).min(most)
        });
        self.newest.push_front(kept);
        self.newest.truncate(FIELDS_MAX);
        self.most = self.most.max(self.newest.iter().flatten().sum());
    }
}

/// Returns the position behind a byte of the length of a string.
fn behind_length(part: Part, number: Number) -> Place {
    if !number.is_whole {
        return Place::Length(part, number);
    }
    match part {
        Part::Value => text(TextEnd::Field, number.value),
        Part::Name { .. } if number.value == 0 => Place::String(Part::Value), // malformed
        Part::Name { is_entered, is_huffman } => {
            Place::Name { is_entered, is_huffman, len: number.value }
        }
    }
}

/// Returns the position before this many bytes of a string.
fn text(end: TextEnd, left: usize) -> Place {
    match (end, left) {
        (TextEnd::Value, 0) => Place::String(Part::Value),
        (TextEnd::Field, 0) => Place::Field,
        _ => Place::Text(end, left),
    }
}

#[cfg(test)]
#[path = "kept_fields_tests.rs"]
mod tests;
