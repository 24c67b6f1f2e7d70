//! Counts how often reading turns back without progress. A plain value.

/// The number of turns without progress after which the endpoint in use is distrusted. Guess: as many as useless
/// responses. Chains that are reorganised grow meanwhile.
const TURNS_MAX: u32 = 8;

/// The turns since reading last made progress. Without this count, an endpoint could keep a reader at one block for
/// ever, by taking back what it has just shown or with pages that do not follow its own blocks.
#[derive(Debug, Default)]
pub(super) struct ReadingTurns {
    /// The highest first unread block at which reading has turned back.
    furthest: u64,
    count: u32,
}

impl ReadingTurns {
    /// Notes that reading turns back, with the first unread block before that. Returns true once the turns without
    /// progress are too many, and begins anew then.
    pub(super) fn note_turn(&mut self, unread: u64) -> bool {
        if unread > self.furthest {
            (self.furthest, self.count) = (unread, 0);
        }
        self.count += 1;
        let is_too_many = self.count >= TURNS_MAX;
        if is_too_many {
            self.count = 0;
        }
        is_too_many
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_count_until_reading_comes_further_than_before() {
        let mut turns = ReadingTurns::default();
        let mut turn = |unread| turns.note_turn(unread);
        for unread in 1..100 {
            assert!(!turn(unread), "a chain that grows may be reorganised at each block");
        }
        for unread in [50, 99, 98, 99, 99, 70] {
            assert!(!turn(unread));
        }
        assert!(turn(99), "the eighth time at the furthest block or below it");
        assert!(!turn(99), "another endpoint has as many");
    }
}
