//! Tests of the charge for fields that later heads may name.

use super::*;
use crate::frame_head::{DATA, END_HEADERS};

/// A field `:authority: a`, which is entered by the place of its name.
const AUTHORITY: &[u8] = b"\x41\x01a";
/// A field that is entered by its name, with the value `b`.
const ORDINARY: &[u8] = b"\x40\x01n\x01b";

fn send(fields: &mut KeptFields, kind: u8, flags: u8, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap();
    fields.begin(FrameHead { len, kind, flags, stream: 1 });
    fields.read(payload);
}

/// Returns the bytes that are kept for these frames, whose payloads come whole, or a byte at a time.
fn kept_for(frames: &[(u8, u8, &[u8])]) -> usize {
    let (mut whole, mut pieces) = (KeptFields::default(), KeptFields::default());
    for &(kind, flags, payload) in frames {
        send(&mut whole, kind, flags, payload);
        let len = u32::try_from(payload.len()).unwrap();
        pieces.begin(FrameHead { len, kind, flags, stream: 1 });
        payload.iter().for_each(|byte| pieces.read(&[*byte]));
    }
    assert_eq!(whole.most == 0, pieces.most == 0, "{frames:?}");
    assert_eq!(whole.newest.len(), pieces.newest.len(), "{frames:?}");
    whole.most
}

/// A head of `len` bytes: a field, and behind it one that is not entered.
fn filled(field: &[u8], len: usize) -> Vec<u8> {
    let rest = len - field.len() - 6; // three bytes for the name, and three for the length of the value
    let high = u8::try_from((rest - 127) >> 7).unwrap();
    let low = u8::try_from((rest - 127) & 0x7f).unwrap() | 0x80;
    let mut block = [field, &[0, 1, b'f', 0x7f, low, high]].concat();
    block.resize(len, b'x');
    block
}

/// Played by a stranger whose values of a byte each keep a buffer of 8 KiB, or of a frame of 14 KiB, or one that was
/// made longer for data of 16,000 bytes.
#[test]
fn values_that_keep_their_buffers_are_charged_until_the_connection_ends() {
    for (head_len, data_len, buffer_bytes) in
        [(200, 8_100, 8_192), (14_000, 0, 14_000), (200, 16_000, 16_000)]
    {
        let mut fields = KeptFields::default();
        let (head, data) = (filled(AUTHORITY, head_len), vec![0; data_len]);
        let mut owed = 0;
        for _ in 0..95 {
            send(&mut fields, HEADERS, END_HEADERS, &head);
            send(&mut fields, DATA, 0, &data);
            owed += fields.take_owed_bytes();
        }
        // What comes behind the last field is charged with the next one.
        assert!(owed >= 94 * buffer_bytes, "{owed}");
        for _ in 0..1_000 {
            send(&mut fields, HEADERS, END_HEADERS, &head);
            send(&mut fields, DATA, 0, &data);
            owed += fields.take_owed_bytes();
        }
        let most = BUFFERS_PER_FIELD * head_len.max(data_len).max(BUFFER_LEN_BYTES);
        assert_eq!(owed, FIELDS_MAX * most - FREE_BYTES, "the table is full");
    }
}

/// They enter the same few fields, and then name them, or enter ordinary ones.
#[test]
fn usual_clients_owe_nothing() {
    let mut fields = KeptFields::default();
    let first = [AUTHORITY, b"\x44\x02/p", ORDINARY].concat();
    send(&mut fields, HEADERS, END_HEADERS, &first);
    for _ in 0..1_000 {
        send(&mut fields, DATA, 0, &[0; 1_000]);
        send(&mut fields, HEADERS, END_HEADERS, &[&[0xbf, 0xbe][..], ORDINARY].concat());
    }
    assert_eq!(fields.most, KEPT_PER_BYTE * (HEAD_LEN_BYTES + first.len()));
    assert_eq!(fields.take_owed_bytes(), 0);
}

#[test]
fn names_of_pseudo_headers_are_found_however_they_are_written() {
    let huffman = b"\x40\x84\xb8\x3b\x53\x39\x01/"; // begins as the code of `:path`
    let blocks: [&[u8]; 5] =
        [AUTHORITY, b"\x44\x01/", b"\x47\x01x", b"\x40\x05:path\x01/", huffman];
    for block in blocks {
        let kept = kept_for(&[(HEADERS, END_HEADERS, block)]);
        assert_eq!(kept, KEPT_PER_BYTE * (HEAD_LEN_BYTES + block.len()), "{block:?}");
    }
    // By the place of a field that was entered, also behind another one.
    let mut fields = KeptFields::default();
    send(&mut fields, HEADERS, END_HEADERS, &[AUTHORITY, ORDINARY].concat());
    send(&mut fields, HEADERS, END_HEADERS, b"\x7e\x01o"); // the name at place 62
    send(&mut fields, HEADERS, END_HEADERS, b"\x7f\x01\x01b"); // the name at place 64
    assert_eq!(
        fields.newest.iter().map(Option::is_some).collect::<Vec<_>>(),
        [true, false, false, true]
    );
}

#[test]
fn fields_that_keep_nothing_are_not_charged() {
    let long = filled(b"\x40\x01n\x01b", 10_000);
    let blocks: [(&str, &[u8]); 7] = [
        ("another name", ORDINARY),
        ("`:authority`, not entered", b"\x01\x01a"),
        ("`:authority`, never entered", b"\x11\x01a"),
        ("`:path` by its name, not entered", b"\x00\x05:path\x01/"),
        ("places, and a size of the table", b"\x82\x86\x3f\xe1\x1f"),
        ("a value that looks like a field", b"\x40\x02xx\x03\x41\x01a"),
        ("a long value", &long[..]),
    ];
    for (name, block) in blocks {
        assert_eq!(kept_for(&[(HEADERS, END_HEADERS, block)]), 0, "{name}");
    }
    assert_eq!(kept_for(&[(DATA, 0, AUTHORITY)]), 0, "no head");
}

/// Padding, priorities and the ends of frames do not hide a field, nor does padding look like one.
#[test]
fn the_parts_of_a_block_are_read_as_one() {
    let padded = [&[3, 0, 0, 0, 0, 9][..], AUTHORITY, &[0x41, 1, b'a']].concat();
    let block = [ORDINARY, b"\x40\x05:path\x01/", AUTHORITY].concat();
    let entered = |frames: &[(u8, u8, &[u8])]| {
        let mut fields = KeptFields::default();
        for (kind, flags, payload) in frames {
            send(&mut fields, *kind, *flags, payload);
        }
        fields.newest.iter().map(Option::is_some).collect::<Vec<_>>()
    };
    assert_eq!(entered(&[(HEADERS, PADDED | PRIORITY | END_HEADERS, &padded[..])]), [true]);
    assert!(kept_for(&[(HEADERS, PADDED | PRIORITY | END_HEADERS, &padded[..])]) > 0);
    for cut in 0..=block.len() {
        let (front, back) = block.split_at(cut);
        let padded = [&[2][..], front, &[0x41, 0x41]].concat();
        let frames: [(u8, u8, &[u8]); 2] =
            [(HEADERS, PADDED, &padded[..]), (CONTINUATION, END_HEADERS, back)];
        assert_eq!(entered(&frames), [true, true, false], "{cut}");
        assert!(kept_for(&frames) > 0, "{cut}");
    }
}

/// Played by a stranger who enters a name, and then fields that the library does not read, so that the name's place
/// would be taken for that of another one.
#[test]
fn fields_of_a_stream_that_depends_on_itself_move_no_place() {
    let depending_on = |stream: u8| [&[0x80, 0, 0, stream, 9][..], ORDINARY].concat();
    let padded = [&[1][..], &depending_on(1)[..], &b"x"[..]].concat();
    let whole = depending_on(1);
    let blocks: [(u8, &[u8]); 2] = [(PRIORITY, &whole[..]), (PADDED | PRIORITY, &padded[..])];
    for (flags, block) in blocks {
        let mut fields = KeptFields::default();
        send(&mut fields, HEADERS, END_HEADERS, AUTHORITY);
        send(&mut fields, HEADERS, flags | END_HEADERS, block);
        let len = u32::try_from(block.len()).unwrap();
        fields.begin(FrameHead { len, kind: HEADERS, flags: flags | END_HEADERS, stream: 1 });
        block.iter().for_each(|byte| fields.read(&[*byte]));
        send(&mut fields, HEADERS, END_HEADERS, b"\x7e\x01o"); // the name at place 62
        assert_eq!(
            fields.newest.iter().map(Option::is_some).collect::<Vec<_>>(),
            [true, true],
            "{flags}"
        );
    }
    // The library enters the fields of a stream that depends on another one.
    let mut fields = KeptFields::default();
    send(&mut fields, HEADERS, PRIORITY | END_HEADERS, &depending_on(3));
    assert_eq!(fields.newest.len(), 1);
}

/// The library ends such a connection.
#[test]
fn malformed_blocks_are_read_to_their_end() {
    let endless = [0xff; 300];
    let blocks: [&[u8]; 6] =
        [&endless, &endless[..1], b"\x40", b"\x40\x00", b"\x40\x00\x00", b"\x40\x85:"];
    for block in blocks {
        for flags in [0, PADDED, PRIORITY, PADDED | PRIORITY] {
            let mut fields = KeptFields::default();
            send(&mut fields, HEADERS, flags, block);
            send(&mut fields, CONTINUATION, END_HEADERS, block);
        }
    }
}
