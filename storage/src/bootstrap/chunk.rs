//! Encodes a range of a strand: a title, the originator, and envelopes with their places, ascending.
//!
//! A chunk is untrusted. Its length is bounded and its hash compared with the manifest before it is decoded, but a
//! hostile maker may have written both.

use bytes::Bytes;
use hawser_proto::{OriginatorId, SequenceId};

/// First bytes of a chunk.
const TITLE: &[u8; 8] = b"hawserc1";
/// Bytes before the first envelope.
const HEADER_LEN: usize = TITLE.len() + 4;
/// Bytes before each envelope: its place and its length.
const RECORD_LEN: usize = 8 + 4;
/// Largest chunk, bytes. A guess: envelopes have at most 25 MiB, and a chunk ends with the envelope that fills it.
pub const CHUNK_LEN_BYTES_MAX: u64 = 64 << 20;
/// Largest number of envelopes of a chunk: a reader keeps some 40 bytes for each, several chunks at a time, and a chunk
/// of the longest kind could hold five million empty ones. Calculated: a writer ends a chunk at 8 MiB, which are a
/// million of eight bytes, and no envelope is as short as that.
const ENVELOPES_MAX: usize = 1 << 20;

/// The reason for which bytes are not a valid chunk of a strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The bytes do not begin like a chunk.
    #[error("it is not the chunk of a snapshot")]
    NotAChunk,
    /// The chunk is of another strand.
    #[error("it is of strand {found}, not {wanted}")]
    OtherStrand {
        /// The strand in the chunk.
        found: OriginatorId,
        /// The strand asked for.
        wanted: OriginatorId,
    },
    /// The bytes end inside an envelope, or have none.
    #[error("it ends inside an envelope")]
    Cut,
    /// The chunk has more envelopes than any writer puts into one.
    #[error("it has more than {ENVELOPES_MAX} envelopes")]
    TooMany,
    /// Places do not ascend.
    #[error("place {0} does not come after the place before it")]
    Order(SequenceId),
    /// The first or the last place differs from the manifest.
    #[error("it holds places {from} to {through}, and its manifest states others")]
    Range {
        /// The first place.
        from: SequenceId,
        /// The last place.
        through: SequenceId,
    },
}

/// Returns the bytes of a chunk. The envelopes must ascend by place.
#[must_use]
pub fn encode_chunk(originator: OriginatorId, envelopes: &[(SequenceId, Bytes)]) -> Vec<u8> {
    let len: usize = envelopes.iter().map(|(_, bytes)| RECORD_LEN + bytes.len()).sum();
    let mut chunk = Vec::with_capacity(HEADER_LEN + len);
    chunk.extend_from_slice(TITLE);
    chunk.extend_from_slice(&originator.0.to_be_bytes());
    for (place, bytes) in envelopes {
        let len = u32::try_from(bytes.len()).expect("an envelope has 25 MiB at most");
        chunk.extend_from_slice(&place.0.to_be_bytes());
        chunk.extend_from_slice(&len.to_be_bytes());
        chunk.extend_from_slice(bytes);
    }
    chunk
}

/// Returns the envelopes of a chunk with the places that it states. Nothing is copied, and memory is in proportion
/// to the bytes, and bounded beside them. The envelopes themselves are not decoded.
///
/// # Errors
/// [`ChunkError`].
pub fn decode_chunk(
    chunk: &Bytes,
    wanted: OriginatorId,
) -> Result<Vec<(SequenceId, Bytes)>, ChunkError> {
    let rest = chunk.strip_prefix(TITLE).ok_or(ChunkError::NotAChunk)?;
    let (originator, _) = rest.split_first_chunk::<4>().ok_or(ChunkError::Cut)?;
    let found = OriginatorId(u32::from_be_bytes(*originator));
    if found != wanted {
        return Err(ChunkError::OtherStrand { found, wanted });
    }
    let (mut at, mut envelopes) = (HEADER_LEN, Vec::new());
    let mut last = SequenceId::NONE;
    while at < chunk.len() {
        let (place, rest) = chunk[at..].split_first_chunk::<8>().ok_or(ChunkError::Cut)?;
        let (len, rest) = rest.split_first_chunk::<4>().ok_or(ChunkError::Cut)?;
        let place = SequenceId(u64::from_be_bytes(*place));
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| ChunkError::Cut)?;
        if len > rest.len() {
            return Err(ChunkError::Cut);
        }
        if place <= last || place > SequenceId::MAX {
            return Err(ChunkError::Order(place));
        }
        if envelopes.len() == ENVELOPES_MAX {
            return Err(ChunkError::TooMany);
        }
        let from = at + RECORD_LEN;
        envelopes.push((place, chunk.slice(from..from + len)));
        (at, last) = (from + len, place);
    }
    if envelopes.is_empty() { Err(ChunkError::Cut) } else { Ok(envelopes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRAND: OriginatorId = OriginatorId(200);

    fn envelopes() -> Vec<(SequenceId, Bytes)> {
        let envelope = |(place, len)| (SequenceId(place), Bytes::from(vec![7; len]));
        [(1, 3), (2, 6), (5, 15)].into_iter().map(envelope).collect()
    }

    #[test]
    fn a_chunk_is_read_as_it_was_written() {
        let chunk = Bytes::from(encode_chunk(STRAND, &envelopes()));
        assert_eq!(decode_chunk(&chunk, STRAND), Ok(envelopes()));
        let wanted = OriginatorId(300);
        let other = decode_chunk(&chunk, wanted);
        assert_eq!(other, Err(ChunkError::OtherStrand { found: STRAND, wanted }));
    }

    #[test]
    fn a_cut_chunk_is_whole_only_where_an_envelope_ends() {
        let chunk = encode_chunk(STRAND, &envelopes());
        // The lengths at which an envelope ends. A chunk that is cut there has the envelopes before the cut,
        // unchanged.
        let ends: Vec<usize> = envelopes()
            .iter()
            .scan(HEADER_LEN, |end, (_, bytes)| {
                *end += RECORD_LEN + bytes.len();
                Some(*end)
            })
            .collect();
        assert_eq!(ends, [27, 45, 72], "8 and 4 bytes, then 8 and 4 before each of 3, 6 and 15");
        assert_eq!(ends.last(), Some(&chunk.len()));
        for len in 0..=chunk.len() {
            let read = decode_chunk(&Bytes::from(chunk[..len].to_vec()), STRAND);
            let wanted = match ends.iter().position(|end| *end == len) {
                Some(at) => Ok(envelopes()[..=at].to_vec()),
                None if len < TITLE.len() => Err(ChunkError::NotAChunk),
                None => Err(ChunkError::Cut),
            };
            assert_eq!(read, wanted, "{len}");
        }
    }

    /// Their places would take more memory than the chunk.
    #[test]
    fn a_chunk_of_more_envelopes_than_any_writer_makes_is_refused() {
        let count = u64::try_from(ENVELOPES_MAX).unwrap();
        let mut envelopes: Vec<_> =
            (1..=count).map(|place| (SequenceId(place), Bytes::new())).collect();
        let chunk = Bytes::from(encode_chunk(STRAND, &envelopes));
        assert_eq!(decode_chunk(&chunk, STRAND).unwrap().len(), ENVELOPES_MAX);
        envelopes.push((SequenceId(count + 1), Bytes::new()));
        let chunk = Bytes::from(encode_chunk(STRAND, &envelopes));
        assert!(chunk.len() as u64 <= CHUNK_LEN_BYTES_MAX);
        assert_eq!(decode_chunk(&chunk, STRAND), Err(ChunkError::TooMany));
    }

    #[test]
    fn places_that_do_not_ascend_and_lengths_that_lie_are_refused() {
        let mut twice = envelopes();
        twice[2].0 = SequenceId(2);
        let chunk = Bytes::from(encode_chunk(STRAND, &twice));
        assert_eq!(decode_chunk(&chunk, STRAND), Err(ChunkError::Order(SequenceId(2))));
        let mut chunk = encode_chunk(STRAND, &envelopes());
        chunk[HEADER_LEN + 8..HEADER_LEN + 12].fill(0xff);
        assert_eq!(decode_chunk(&Bytes::from(chunk), STRAND), Err(ChunkError::Cut));
    }
}
