//! Fuzz target: requests of gRPC-Web in text: base64 that comes in pieces, each padded or not.

use hawser_serve::WebText;

use super::Target;
use crate::corpus;

/// A byte that is a piece of its own becomes four characters, in a text that doubles as it grows; both are held beside
/// what the text becomes again.
pub(super) const TARGET: Target = Target { name: "web-text", run, seeds, memory_factor: 32 };

/// Specified: RFC 4648 §4.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// The longest piece in bytes: some groups of four characters.
const PIECE_LEN_BYTES_MAX: u8 = 16;
/// Choices from here on cut pieces of several lengths.
const UNEVEN: u8 = 128;

/// Cuts an input into pieces of one length, or of lengths that their own first bytes give.
fn pieces(choice: u8, mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let first = *input.first()?;
        let number = if choice < UNEVEN { choice } else { choice ^ first };
        let len = usize::from(number % PIECE_LEN_BYTES_MAX) + 1;
        let (piece, rest) = input.split_at(len.min(input.len()));
        input = rest;
        Some(piece)
    })
}

/// Returns the pieces in base64, each with its padding.
fn encoded<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut text = Vec::new();
    for group in pieces.flat_map(|piece| piece.chunks(3)) {
        let byte = |at: usize| group.get(at).copied().unwrap_or_default();
        let bits = u32::from_be_bytes([0, byte(0), byte(1), byte(2)]);
        for (at, shift) in [18_u32, 12, 6, 0].into_iter().enumerate() {
            let value = (bits >> shift) & 63;
            text.push(if at <= group.len() { ALPHABET[value as usize] } else { b'=' });
        }
    }
    text
}

/// Returns what a text becomes that comes in these pieces; `None` if it is refused.
fn decoded<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut decoder = WebText::default();
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(&decoder.decode(piece)?);
    }
    decoder.is_whole().then_some(bytes)
}

fn seeds() -> Vec<Vec<u8>> {
    let input = |choice: u8, text: &[u8]| [&[choice][..], text].concat();
    let by_hand = [
        "",
        "aGVsbG8=",
        "aA==ZQ==bA==bA==bw==",
        "aA==ZWxsbw==",
        "aGVsbG8",
        "aGVs====",
        "aA=A",
        "a===",
        "aB==",
        "aGVs\naGVs",
        "-_-_",
    ];
    let by_hand = by_hand.iter().zip(0..).map(|(text, choice)| input(choice, text.as_bytes()));
    let of_corpus = corpus::messages().into_iter().take(20).flat_map(|message| {
        let len = u32::try_from(message.len()).expect("vectors are short");
        let framed = [&[0][..], &len.to_be_bytes(), &message].concat();
        // One text; a head and a message that are padded each; and many padded pieces.
        let (head, message) = framed.split_at(5);
        [
            input(6, &encoded([&framed[..]].into_iter())),
            input(0, &encoded([head, message].into_iter())),
            input(UNEVEN, &encoded(pieces(UNEVEN, &framed))),
        ]
    });
    by_hand.chain(of_corpus).collect()
}

/// The first byte chooses where the others are cut. What a text becomes, and if it is refused, does not depend on the
/// cuts. Bytes that a client writes in padded pieces are read as they were.
fn run(input: &[u8]) {
    let [choice, input @ ..] = input else { return };
    let whole = decoded([input].into_iter());
    assert_eq!(decoded(pieces(*choice, input)), whole, "cut or whole");
    if let Some(bytes) = whole {
        assert!(bytes.len() <= input.len() / 4 * 3, "a group is three bytes at most");
    }
    let text = encoded(pieces(*choice, input));
    let read = decoded(pieces(*choice, &text));
    assert_eq!(read.as_deref(), Some(input), "as it was written");
}
