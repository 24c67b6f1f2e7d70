//! Families that could not be read when the database was opened, and that it does without.

use std::time::Duration;

use crate::error::ReadError;
use crate::family::Family;

/// Tries of a read that fails without damage. A guess: a bus that is reset answers by then.
const TRIES_MAX: u32 = 3;
/// Pause between two tries. A guess, by the same measure.
const PAUSE: Duration = Duration::from_millis(200);

/// A family that could not be read to its end when the database was opened. What is kept in memory of it is a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadFamily {
    /// The column family.
    pub family: &'static str,
    /// The failure.
    pub cause: ReadError,
}

impl UnreadFamily {
    /// Reads a family. Damage is noted, and what was read all the same is returned: it would be there at every later start.
    /// A failure that may pass is no damage: it is tried again.
    ///
    /// # Errors
    /// A failure that may pass, and has not.
    pub(crate) fn read<T>(
        family: Family,
        unread: &mut Vec<Self>,
        mut read: impl FnMut() -> (T, Result<(), ReadError>),
    ) -> Result<T, ReadError> {
        let mut tries = 1;
        loop {
            let (value, result) = read();
            match result {
                Ok(()) => return Ok(value),
                Err(cause) if cause.is_damage() => {
                    unread.push(Self { family: family.name(), cause });
                    return Ok(value);
                }
                Err(cause) if tries == TRIES_MAX => return Err(cause),
                Err(_) => tries += 1,
            }
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::DatabaseError;

    /// Reads a family whose first reads fail in this way, and returns what came of it with the number of reads.
    fn read(failures: u32, error: &ReadError) -> (Result<u32, ReadError>, Vec<UnreadFamily>, u32) {
        let (mut unread, mut reads) = (Vec::new(), 0);
        let read = UnreadFamily::read(Family::MisbehaviorFact, &mut unread, || {
            reads += 1;
            (reads, if reads > failures { Ok(()) } else { Err(error.clone()) })
        });
        (read, unread, reads)
    }

    #[test]
    fn a_failure_that_passes_is_tried_again_and_is_no_damage() {
        let passing = ReadError::Database(DatabaseError::injected());
        assert_eq!(read(0, &passing), (Ok(1), vec![], 1));
        assert_eq!(read(TRIES_MAX - 1, &passing), (Ok(TRIES_MAX), vec![], TRIES_MAX));
        assert_eq!(read(TRIES_MAX, &passing), (Err(passing), vec![], TRIES_MAX));
    }

    #[test]
    fn damage_is_noted_at_once() {
        let cause = ReadError::corrupt(Family::MisbehaviorFact, &[1]);
        let noted = UnreadFamily { family: "misbehavior_fact", cause: cause.clone() };
        assert_eq!(read(TRIES_MAX, &cause), (Ok(1), vec![noted], 1));
    }
}
