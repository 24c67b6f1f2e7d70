//! Fuzz target: the text of a cursor in metadata: `hawser-resume`.

use std::fmt::Write as _;

use hawser_proto::{Cursor, CursorTextError};

use super::Target;

/// A place takes four bytes of text (`1=1,`) and some tens of bytes in two trees.
pub(super) const TARGET: Target = Target { name: "resume-text", run, seeds, memory_factor: 128 };

/// As many entries as a node takes (`docs/protocol/api.md`, *Resume point*).
const ENTRIES_MAX: usize = 100;

fn seeds() -> Vec<Vec<u8>> {
    let many: Vec<String> = (0..101).map(|number| format!("{number}=1")).collect();
    let by_hand = [
        "",
        "100=5123,200=77",
        " 100 = 5123 ,, 200=77\n0=2",
        "4294967295=18446744073709551615",
        "4294967296=1,1=18446744073709551616",
        "1=2,1=3",
        "-1=2,+1=2,1=+2",
        "100=1\n100=1",
    ];
    by_hand.iter().map(|text| text.as_bytes().to_vec()).chain([many.join(",").into()]).collect()
}

fn text(cursor: &Cursor) -> String {
    let mut text = String::new();
    for id in cursor.iter() {
        let _ = write!(text, "{}={},", id.originator.0, id.sequence.0);
    }
    text
}

/// Each line is a value of the metadata. A text that is read has a bounded number of entries and one meaning: written
/// again it gives the same cursor, however the values are split.
fn run(input: &[u8]) {
    let Ok(input) = std::str::from_utf8(input) else { return };
    let read = Cursor::from_texts(input.split('\n'), ENTRIES_MAX);
    let joined = input.replace('\n', ",");
    let of_one = Cursor::from_texts([joined.as_str()], ENTRIES_MAX);
    assert_eq!(read.is_ok(), of_one.is_ok(), "values may be joined");
    match read {
        Ok(cursor) => {
            assert!(cursor.len() <= ENTRIES_MAX);
            assert_eq!(of_one.as_ref(), Ok(&cursor));
            let again = text(&cursor);
            assert_eq!(Cursor::from_texts([again.as_str()], ENTRIES_MAX), Ok(cursor));
        }
        Err(CursorTextError::Entry(entry)) => assert!(input.contains(entry) && !entry.is_empty()),
        Err(CursorTextError::Entries(entries)) => assert!(entries > ENTRIES_MAX),
    }
}
