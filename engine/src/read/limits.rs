//! How much one answer may hold.

/// The most envelopes that one query answers with.
pub const PAGE_ENVELOPES_MAX: usize = 1000;

/// The most bytes that the envelopes of one answer take on the wire, tags and lengths included.
/// Clients and peers accept messages of 25 MiB; the rest is for what is around the envelopes.
pub const PAGE_LEN_BYTES_MAX: usize = 25 * 1024 * 1024 - 1024;

/// What an envelope of `len_bytes` takes as an entry of a repeated field: one byte of tag, its
/// length and itself.
#[must_use]
pub fn wire_len_bytes(len_bytes: usize) -> usize {
    let bits = (usize::BITS - (len_bytes | 1).leading_zeros()) as usize;
    1 + bits.div_ceil(7) + len_bytes
}

/// Bounds of one page or batch. The first envelope is taken whatever its size, so that a reader
/// always gets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) envelopes: usize,
    pub(crate) len_bytes: usize,
}

impl Limits {
    /// Of one page or batch on a stream: large enough to read disks well, small enough that many
    /// streams fit into memory. Guessed.
    pub(crate) const STREAM: Self = Self { envelopes: 512, len_bytes: 2 * 1024 * 1024 };

    /// Of what a stream keeps in memory at each of two places: the hub's queue, and what is put
    /// aside for topics that are being read from disk. Guessed.
    pub(crate) const QUEUE: Self = Self { envelopes: 1024, len_bytes: 4 * 1024 * 1024 };

    /// Of a query for the whole logs of inboxes.
    pub(crate) const WHOLE_LOGS: Self =
        Self { envelopes: usize::MAX, len_bytes: PAGE_LEN_BYTES_MAX };

    /// Of a query; 0 and what is above the maximum mean the maximum.
    pub(crate) fn of_query(limit: usize) -> Self {
        let envelopes = match limit {
            0 => PAGE_ENVELOPES_MAX,
            limit => limit.min(PAGE_ENVELOPES_MAX),
        };
        Self { envelopes, len_bytes: PAGE_LEN_BYTES_MAX }
    }
}

/// What has been taken of some [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Taken {
    envelopes: usize,
    len_bytes: usize,
}

impl Taken {
    /// Counts an envelope in, unless it is too much.
    pub(crate) fn take(&mut self, limits: Limits, len_bytes: usize) -> bool {
        let sum_bytes = self.len_bytes.saturating_add(wire_len_bytes(len_bytes));
        let first = self.envelopes == 0;
        if !first && (self.envelopes >= limits.envelopes || sum_bytes > limits.len_bytes) {
            return false;
        }
        self.envelopes += 1;
        self.len_bytes = sum_bytes;
        true
    }

    /// Counts an envelope out again.
    pub(crate) fn give_back(&mut self, len_bytes: usize) {
        self.envelopes = self.envelopes.saturating_sub(1);
        self.len_bytes = self.len_bytes.saturating_sub(wire_len_bytes(len_bytes));
    }

    /// Bytes counted in, as they would be on the wire.
    #[cfg(test)]
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
    fn the_first_is_taken_whatever_its_size_and_then_the_bounds_hold() {
        let limits = Limits { envelopes: 2, len_bytes: 100 };
        let mut taken = Taken::default();
        assert!(taken.take(limits, 1000));
        assert!(!taken.take(limits, 1));

        let mut taken = Taken::default();
        assert!(taken.take(limits, 48) && taken.take(limits, 48), "twice 50 bytes on the wire");
        assert!(!taken.take(limits, 0), "two are enough");
        taken.give_back(48);
        assert!(!taken.take(limits, 49), "101 bytes are too many");
        assert!(taken.take(limits, 48));
    }

    #[test]
    fn queries_ask_for_at_most_a_page() {
        assert_eq!(Limits::of_query(0).envelopes, PAGE_ENVELOPES_MAX);
        assert_eq!(Limits::of_query(1).envelopes, 1);
        assert_eq!(Limits::of_query(usize::MAX).envelopes, PAGE_ENVELOPES_MAX);
    }
}
