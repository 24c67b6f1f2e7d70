//! Bounds of one answer, of one page on a stream and of a queue.

use hawser_proto::MESSAGE_LEN_BYTES_MAX;

/// The maximum number of envelopes that one query answers with. Specified: `docs/protocol/api.md`.
pub const PAGE_ENVELOPES_MAX: usize = 1000;

/// The maximum number of bytes that the envelopes of one answer take on the wire, tags and lengths included, unless it
/// is a single envelope. 1 KiB is left for the fields around the envelopes.
pub const PAGE_LEN_BYTES_MAX: usize = MESSAGE_LEN_BYTES_MAX - 1024;

/// The maximum number of bytes in each of the two queues of a stream, unless its reader sets another number. Guessed.
pub const QUEUE_LEN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes around an envelope that is alone in a message, besides its tag and length: at most 10 in
/// today's schema, and room to spare.
const WRAPPING_LEN_BYTES: usize = 16;

/// Returns the size of an envelope of `len_bytes` as an entry of a repeated field: one byte of tag,
/// its length and itself.
#[must_use]
pub fn wire_len_bytes(len_bytes: usize) -> usize {
    let bits = (usize::BITS - (len_bytes | 1).leading_zeros()) as usize;
    1 + bits.div_ceil(7) + len_bytes
}

/// Returns true if a message has room for an envelope of `len_bytes`. Readers never get larger ones, which every
/// read skips.
#[must_use]
pub fn is_deliverable(len_bytes: usize) -> bool {
    wire_len_bytes(len_bytes) <= MESSAGE_LEN_BYTES_MAX - WRAPPING_LEN_BYTES
}

/// Bounds of one page or batch. The first envelope always fits, so that a reader makes progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    pub(crate) envelopes: usize,
    pub(crate) len_bytes: usize,
}

impl BatchLimits {
    /// Bounds of one page or batch on a stream. Guessed: large enough to read disks well, small
    /// enough that many streams fit into memory.
    pub(crate) const STREAM: Self = Self { envelopes: 512, len_bytes: 2 * 1024 * 1024 };

    /// Bounds of one page of whole strands. It has more envelopes than a batch, because a page of any size costs two
    /// seeks and two changes of threads. A page of small envelopes becomes six batches. A guess: messages of some 700
    /// bytes fill a page, and memory is taken for this number of envelopes before any of them is read.
    pub(crate) const STRANDS: Self = Self { envelopes: 3072, ..Self::STREAM };

    /// Bounds of each of the two queues of a stream: the hub's, and the one for topics that are
    /// being read from disk. Worst-case memory of a stream is twice this and one page, or two pages for a stream of
    /// strands. The number of envelopes is a guess. [`queue`](Self::queue) has other bounds on bytes.
    pub(crate) const QUEUE: Self = Self { envelopes: 1024, len_bytes: QUEUE_LEN_BYTES_MAX };

    /// Bounds of the queue between commits and all streams. Guessed: seconds of work for a fast disk.
    pub(crate) const BACKLOG: Self = Self { envelopes: 65_536, len_bytes: 32 * 1024 * 1024 };

    /// Bytes of envelopes that are read together with the rows of one page; other envelopes are read from the log. The
    /// reader is charged for these bytes only between turns, so there are few of them. A guess: pages of a thousand
    /// messages have less.
    pub(crate) const BESIDE_LEN_BYTES: usize = 1024 * 1024;

    /// Bounds of a query for the whole logs of inboxes: bytes only. Several logs are not cut: the query fails instead.
    pub(crate) const WHOLE_LOGS: Self =
        Self { envelopes: usize::MAX, len_bytes: PAGE_LEN_BYTES_MAX };

    /// Returns the bounds of the queues of a stream that hold `len_bytes` each.
    pub(crate) fn queue(len_bytes: usize) -> Self {
        Self { len_bytes, ..Self::QUEUE }
    }

    /// Returns the bounds of half a page, at least one envelope.
    pub(crate) fn half(self) -> Self {
        Self { envelopes: self.envelopes.div_ceil(2), len_bytes: self.len_bytes / 2 }
    }

    /// Returns the bounds of a query. A limit of 0 and a limit above the maximum mean the maximum.
    pub(crate) fn of_query(limit: usize) -> Self {
        let envelopes = match limit {
            0 => PAGE_ENVELOPES_MAX,
            limit => limit.min(PAGE_ENVELOPES_MAX),
        };
        Self { envelopes, len_bytes: PAGE_LEN_BYTES_MAX }
    }
}

/// Number and bytes of the envelopes in a batch that is being filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BatchSize {
    envelopes: usize,
    len_bytes: usize,
}

impl BatchSize {
    /// Adds an envelope. Returns false and changes nothing if the batch would exceed its limits.
    pub(crate) fn try_add(&mut self, limits: BatchLimits, len_bytes: usize) -> bool {
        let sum_bytes = self.len_bytes.saturating_add(wire_len_bytes(len_bytes));
        let first = self.envelopes == 0;
        if !first && (self.envelopes >= limits.envelopes || sum_bytes > limits.len_bytes) {
            return false;
        }
        self.envelopes += 1;
        self.len_bytes = sum_bytes;
        true
    }

    /// Returns the number of envelopes for which `limits` leave room, without regard to their bytes.
    pub(crate) fn room(&self, limits: BatchLimits) -> usize {
        limits.envelopes.saturating_sub(self.envelopes)
    }

    /// Removes an envelope that was added.
    pub(crate) fn remove(&mut self, len_bytes: usize) {
        debug_assert!(self.envelopes > 0, "an envelope is removed after it was added");
        self.envelopes = self.envelopes.saturating_sub(1);
        self.len_bytes = self.len_bytes.saturating_sub(wire_len_bytes(len_bytes));
    }

    /// Returns the bytes of the batch on the wire.
    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_length_is_that_of_a_repeated_bytes_field() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
            let field = prost::encoding::bytes::encoded_len(1, &vec![0u8; len]);
            assert_eq!(wire_len_bytes(len), field, "{len}");
        }
    }

    #[test]
    fn an_envelope_is_deliverable_if_a_message_has_room_for_it_alone() {
        let most = MESSAGE_LEN_BYTES_MAX - WRAPPING_LEN_BYTES - 5;
        assert_eq!(wire_len_bytes(most) + WRAPPING_LEN_BYTES, MESSAGE_LEN_BYTES_MAX);
        assert!(is_deliverable(0) && is_deliverable(most));
        assert!(!is_deliverable(most + 1) && !is_deliverable(u32::MAX as usize));
    }

    #[test]
    fn the_first_is_taken_whatever_its_size_and_then_the_bounds_hold() {
        let limits = BatchLimits { envelopes: 2, len_bytes: 100 };
        let mut size = BatchSize::default();
        assert!(size.try_add(limits, 1000));
        assert!(!size.try_add(limits, 1));

        let mut size = BatchSize::default();
        assert!(size.try_add(limits, 48) && size.try_add(limits, 48), "twice 50 bytes on the wire");
        assert!(!size.try_add(limits, 0), "two are enough");
        size.remove(48);
        assert!(!size.try_add(limits, 49), "101 bytes are too many");
        assert!(size.try_add(limits, 48));
    }

    #[test]
    fn queries_ask_for_at_most_a_page() {
        assert_eq!(BatchLimits::of_query(0).envelopes, PAGE_ENVELOPES_MAX);
        assert_eq!(BatchLimits::of_query(1).envelopes, 1);
        assert_eq!(BatchLimits::of_query(usize::MAX).envelopes, PAGE_ENVELOPES_MAX);
    }
}
