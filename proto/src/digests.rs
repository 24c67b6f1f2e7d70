//! Digests of many messages at once: those that a batch of signatures covers.
//!
//! A processor with AVX2 hashes four messages in one pass, each in a lane of its own. Another processor hashes them one
//! after the other. The digests are the same, which a test compares. The lanes are written here because the libraries
//! in use hash one message at a time.

use crate::ids::OriginatorId;
use crate::sign::{Digest, ORIGINATOR_LABEL, PAYER_LABEL_LEN_BYTES, keccak256, payer_label};

/// Returns the digests that originators sign, as [`originator_digest`](crate::sign::originator_digest) does for one
/// statement.
#[must_use]
pub fn originator_digests<'a>(statements: impl Iterator<Item = &'a [u8]>) -> Vec<Digest> {
    let message = |bytes| LabelledMessage::new(ORIGINATOR_LABEL, bytes);
    digests(&statements.map(message).collect::<Vec<_>>())
}

/// Returns the digests that payers sign, as [`payer_digest`](crate::sign::payer_digest) does for one target and one
/// client envelope.
#[must_use]
pub fn payer_digests<'a>(signed: impl Iterator<Item = (OriginatorId, &'a [u8])>) -> Vec<Digest> {
    let message = |(target, bytes)| LabelledMessage::new(&payer_label(target), bytes);
    digests(&signed.map(message).collect::<Vec<_>>())
}

/// A message: a label, and bytes behind it.
#[derive(Debug, Clone, Copy)]
struct LabelledMessage<'a> {
    label: [u8; PAYER_LABEL_LEN_BYTES],
    label_len_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> LabelledMessage<'a> {
    /// Makes a message. No label is longer than that of payers.
    fn new(label: &[u8], bytes: &'a [u8]) -> Self {
        let mut own = [0; PAYER_LABEL_LEN_BYTES];
        own[..label.len()].copy_from_slice(label);
        Self { label: own, label_len_bytes: label.len(), bytes }
    }

    fn label(&self) -> &[u8] {
        &self.label[..self.label_len_bytes]
    }

    fn digest(&self) -> Digest {
        keccak256(&[self.label(), self.bytes])
    }
}

/// Returns the digests of messages, in their order.
fn digests(messages: &[LabelledMessage<'_>]) -> Vec<Digest> {
    #[cfg(target_arch = "x86_64")]
    if let Some(digests) = avx2::digests_in_lanes(messages) {
        return digests;
    }
    messages.iter().map(LabelledMessage::digest).collect()
}

/// Keccak-256 on processors with AVX2. A register has one word of each of four states.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_andnot_si256, _mm256_extract_epi64, _mm256_or_si256, _mm256_set_epi64x,
        _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_slli_epi64, _mm256_srli_epi64,
        _mm256_xor_si256,
    };

    use super::LabelledMessage;
    use crate::sign::Digest;

    /// Messages that are hashed in one pass.
    const LANES: usize = 4;
    /// Bytes of a message that Keccak-256 takes at a time.
    const BLOCK_LEN_BYTES: usize = 136;
    /// The constants of the rounds (FIPS 202 §3.2.5).
    const ROUNDS: [u64; 24] = [
        0x0000_0000_0000_0001,
        0x0000_0000_0000_8082,
        0x8000_0000_0000_808a,
        0x8000_0000_8000_8000,
        0x0000_0000_0000_808b,
        0x0000_0000_8000_0001,
        0x8000_0000_8000_8081,
        0x8000_0000_0000_8009,
        0x0000_0000_0000_008a,
        0x0000_0000_0000_0088,
        0x0000_0000_8000_8009,
        0x0000_0000_8000_000a,
        0x0000_0000_8000_808b,
        0x8000_0000_0000_008b,
        0x8000_0000_0000_8089,
        0x8000_0000_0000_8003,
        0x8000_0000_0000_8002,
        0x8000_0000_0000_0080,
        0x0000_0000_0000_800a,
        0x8000_0000_8000_000a,
        0x8000_0000_8000_8081,
        0x8000_0000_0000_8080,
        0x0000_0000_8000_0001,
        0x8000_0000_8000_8008,
    ];

    /// Returns the digests of messages, in their order; `None` if the processor lacks AVX2, or for fewer messages than
    /// a pass takes.
    #[expect(unsafe_code, reason = "only at run time the program knows what the processor has")]
    pub(super) fn digests_in_lanes(messages: &[LabelledMessage<'_>]) -> Option<Vec<Digest>> {
        if messages.len() < LANES || !std::arch::is_x86_feature_detected!("avx2") {
            return None;
        }
        let mut digests = vec![Digest([0; 32]); messages.len()];
        // A pass takes as long as its longest message, so messages of about one length go together.
        let mut order: Vec<usize> = (0..messages.len()).collect();
        order.sort_unstable_by_key(|at| blocks(&messages[*at]));
        for places in order.chunks(LANES) {
            let Ok(lanes) = <[usize; LANES]>::try_from(places) else {
                places.iter().for_each(|at| digests[*at] = messages[*at].digest());
                continue;
            };
            // SAFETY: the processor has AVX2, and the function needs nothing else.
            let found = unsafe { digests_of(lanes.map(|at| &messages[at])) };
            for (at, digest) in lanes.into_iter().zip(found) {
                digests[at] = digest;
            }
        }
        Some(digests)
    }

    /// Returns the number of blocks of a message with its padding, which has at least one byte.
    fn blocks(message: &LabelledMessage<'_>) -> usize {
        (message.label_len_bytes + message.bytes.len()) / BLOCK_LEN_BYTES + 1
    }

    /// Writes a block of a message with its padding.
    fn write_block(message: &LabelledMessage<'_>, index: usize, block: &mut [u8; BLOCK_LEN_BYTES]) {
        // The label is shorter than a block.
        let label = if index == 0 { message.label() } else { &[] };
        let from = (index * BLOCK_LEN_BYTES).saturating_sub(message.label_len_bytes);
        let rest = &message.bytes[from..];
        let bytes = &rest[..rest.len().min(BLOCK_LEN_BYTES - label.len())];
        let filled = label.len() + bytes.len();
        block[..label.len()].copy_from_slice(label);
        block[label.len()..filled].copy_from_slice(bytes);
        if index + 1 == blocks(message) {
            block[filled..].fill(0);
            block[filled] = 1;
            block[BLOCK_LEN_BYTES - 1] |= 0x80;
        }
    }

    /// Returns the digests of four messages.
    #[target_feature(enable = "avx2")]
    fn digests_of(messages: [&LabelledMessage<'_>; LANES]) -> [Digest; LANES] {
        let counts = messages.map(blocks);
        let mut state = [_mm256_setzero_si256(); 25];
        let mut padded = [[0; BLOCK_LEN_BYTES]; LANES];
        let mut found = [Digest([0; 32]); LANES];
        for index in 0..counts.into_iter().fold(0, usize::max) {
            // The lane of a message that has ended goes on with the last block. Its digest is taken already.
            for lane in (0..LANES).filter(|lane| index < counts[*lane]) {
                write_block(messages[lane], index, &mut padded[lane]);
            }
            let words = padded.each_ref().map(|block| block.as_chunks::<8>().0);
            let [a, b, c, d] =
                words.map(|words| words.iter().map(|word| i64::from_le_bytes(*word)));
            for (word, (((a, b), c), d)) in state.iter_mut().zip(a.zip(b).zip(c).zip(d)) {
                *word = _mm256_xor_si256(*word, _mm256_set_epi64x(d, c, b, a));
            }
            permute(&mut state);
            for lane in (0..LANES).filter(|lane| index + 1 == counts[*lane]) {
                for (word, bytes) in state.iter().zip(found[lane].0.chunks_exact_mut(8)) {
                    bytes.copy_from_slice(&lanes_of(*word)[lane].to_le_bytes());
                }
            }
        }
        found
    }

    /// Returns the words of the four states in a register.
    #[target_feature(enable = "avx2")]
    fn lanes_of(word: __m256i) -> [i64; LANES] {
        [
            _mm256_extract_epi64::<0>(word),
            _mm256_extract_epi64::<1>(word),
            _mm256_extract_epi64::<2>(word),
            _mm256_extract_epi64::<3>(word),
        ]
    }

    /// Turns each word left by `LEFT` bits. `RIGHT` is the rest of its 64 bits.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn turned<const LEFT: i32, const RIGHT: i32>(word: __m256i) -> __m256i {
        _mm256_or_si256(_mm256_slli_epi64::<LEFT>(word), _mm256_srli_epi64::<RIGHT>(word))
    }

    /// Permutes four states: `Keccak-f[1600]` (FIPS 202 §3.3). Word 5·y + x of a state is its lane (x, y).
    #[target_feature(enable = "avx2")]
    fn permute(state: &mut [__m256i; 25]) {
        let mut s = *state;
        for constant in ROUNDS {
            // Theta.
            let mut sums = [s[0], s[1], s[2], s[3], s[4]];
            for y in 1..5 {
                for x in 0..5 {
                    sums[x] = _mm256_xor_si256(sums[x], s[5 * y + x]);
                }
            }
            for x in 0..5 {
                let right = turned::<1, 63>(sums[(x + 1) % 5]);
                let both = _mm256_xor_si256(sums[(x + 4) % 5], right);
                for y in 0..5 {
                    s[5 * y + x] = _mm256_xor_si256(s[5 * y + x], both);
                }
            }
            // Rho and pi.
            let moved = [
                s[0],
                turned::<44, 20>(s[6]),
                turned::<43, 21>(s[12]),
                turned::<21, 43>(s[18]),
                turned::<14, 50>(s[24]),
                turned::<28, 36>(s[3]),
                turned::<20, 44>(s[9]),
                turned::<3, 61>(s[10]),
                turned::<45, 19>(s[16]),
                turned::<61, 3>(s[22]),
                turned::<1, 63>(s[1]),
                turned::<6, 58>(s[7]),
                turned::<25, 39>(s[13]),
                turned::<8, 56>(s[19]),
                turned::<18, 46>(s[20]),
                turned::<27, 37>(s[4]),
                turned::<36, 28>(s[5]),
                turned::<10, 54>(s[11]),
                turned::<15, 49>(s[17]),
                turned::<56, 8>(s[23]),
                turned::<62, 2>(s[2]),
                turned::<55, 9>(s[8]),
                turned::<39, 25>(s[14]),
                turned::<41, 23>(s[15]),
                turned::<2, 62>(s[21]),
            ];
            // Chi.
            for y in 0..5 {
                for x in 0..5 {
                    let (second, third) = (moved[5 * y + (x + 1) % 5], moved[5 * y + (x + 2) % 5]);
                    let mask = _mm256_andnot_si256(second, third);
                    s[5 * y + x] = _mm256_xor_si256(moved[5 * y + x], mask);
                }
            }
            // Iota.
            s[0] = _mm256_xor_si256(s[0], _mm256_set1_epi64x(constant.cast_signed()));
        }
        *state = s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::{originator_digest, payer_digest};

    /// Lengths around those of one, two and three blocks, with both labels, mixed so that messages of several lengths
    /// go together, and the last ones alone.
    #[test]
    fn digests_of_many_messages_are_those_of_each_in_any_mixture_of_lengths() {
        let content: Vec<u8> = (0..=u8::MAX).cycle().take(3_000).collect();
        let ends =
            [0, 1, 117, 118, 119, 120, 124, 125, 126, 135, 136, 137, 254, 255, 256, 271, 272];
        for count in 0..14 {
            for turn in 0..40 {
                let length = |at: usize| match (at * 7 + turn) % 21 {
                    other @ 17.. => 273 + other * 97 + at,
                    end => ends[end],
                };
                let messages: Vec<&[u8]> =
                    (0..count).map(|at| &content[at..at + length(at)]).collect();
                let singly = messages.iter().map(|it| originator_digest(it));
                let many = originator_digests(messages.iter().copied());
                assert_eq!(many, singly.collect::<Vec<_>>());
                let target = |at: usize| OriginatorId(u32::try_from(at * 100 + turn).unwrap());
                let signed: Vec<_> =
                    messages.iter().enumerate().map(|(at, it)| (target(at), *it)).collect();
                let singly = signed.iter().map(|(target, it)| payer_digest(*target, it));
                assert_eq!(payer_digests(signed.iter().copied()), singly.collect::<Vec<_>>());
            }
        }
    }

    /// The test above would pass as well if messages were always hashed one after the other.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_processor_with_avx2_hashes_four_messages_in_one_pass() {
        let messages = [LabelledMessage::new(ORIGINATOR_LABEL, b"message"); 5];
        let found = avx2::digests_in_lanes(&messages);
        assert_eq!(found.is_some(), std::arch::is_x86_feature_detected!("avx2"));
        assert!(found.into_iter().flatten().all(|it| it == originator_digest(b"message")));
        assert!(avx2::digests_in_lanes(&messages[..3]).is_none());
    }
}
