//! Sizes of requests, of their pieces, and of groups of requests.

/// A group of requests stops growing at this size, when it is sequenced and when it is written. The last request of a
/// group may exceed it. Guessed: one write of some MiB, which a disk takes in about the time of its sync; the bytes are
/// above what so many messages take, and bound a write however large its envelopes are.
pub(super) const GROUP_MAX: PublishSize = PublishSize { envelopes: 4096, len_bytes: 8 << 20 };

/// A request of this size or more is large: workers of a lower priority check it, and its envelopes get their places
/// piece by piece. Smaller ones have at most as many envelopes as a gateway sends in one call; the bytes are a guess.
pub(super) const LARGE_FROM: PublishSize = PublishSize { envelopes: 257, len_bytes: 1 << 20 };

/// Envelopes of a request that one core checks as one batch, in one turn of the caller. Guessed: enough signatures to
/// cost less together than alone, and few enough that a request of medium size uses several cores. A turn takes some
/// milliseconds at most: key packages have kilobytes, and cost tenths of a millisecond each.
pub(super) const CHUNK_MAX: PublishSize = PublishSize { envelopes: 32, len_bytes: 32 << 10 };

/// A piece of a large request ends at this size. Guessed: half a millisecond of signing on two cores, so that a
/// small request behind it does not wait for longer. Its last envelope may exceed the bytes.
pub(super) const PIECE_MAX: PublishSize = PublishSize { envelopes: 32, len_bytes: 256 << 10 };

/// A number of envelopes, and their bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PublishSize {
    pub(super) envelopes: usize,
    pub(super) len_bytes: usize,
}

impl PublishSize {
    /// Returns the size of envelopes of these lengths.
    pub(super) fn of(lengths: impl Iterator<Item = usize>) -> Self {
        let mut size = Self::default();
        size.add(lengths);
        size
    }

    /// Counts envelopes of these lengths.
    pub(super) fn add(&mut self, lengths: impl Iterator<Item = usize>) {
        for len_bytes in lengths {
            self.envelopes += 1;
            self.len_bytes += len_bytes;
        }
    }

    /// Returns true if the envelopes or their bytes are as many as those of `bound`, or more.
    pub(super) fn reaches(self, bound: Self) -> bool {
        self.envelopes >= bound.envelopes || self.len_bytes >= bound.len_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_reached_by_envelopes_or_by_their_bytes() {
        let reached_after = |len_bytes: usize, bound| {
            let mut size = PublishSize::default();
            (1..).find(|_| {
                size.add(std::iter::once(len_bytes));
                size.reaches(bound)
            })
        };
        assert_eq!(reached_after(700, GROUP_MAX), Some(4096));
        assert_eq!(reached_after(1 << 20, GROUP_MAX), Some(8));
        assert_eq!(reached_after(25 << 20, GROUP_MAX), Some(1));
        assert_eq!(reached_after(0, GROUP_MAX), Some(4096));
        assert_eq!(reached_after(700, PIECE_MAX), Some(32));
        assert_eq!(reached_after(100 << 10, PIECE_MAX), Some(3));
        let of_a_gateway = PublishSize::of(std::iter::repeat_n(700, 256));
        assert!(!of_a_gateway.reaches(LARGE_FROM));
    }
}
