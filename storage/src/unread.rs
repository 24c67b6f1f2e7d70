//! Families that could not be read when the database was opened, and without which it works.

use std::time::Duration;

use crate::error::ReadError;
use crate::family::Family;

/// Number of attempts for a read that fails without damage. A guess: a bus that is being reset answers by then.
const TRIES_MAX: u32 = 3;
/// Pause between two attempts. A guess, for the same reason.
const PAUSE: Duration = Duration::from_millis(200);

/// A family that could not be read to its end when the database was opened. Memory has only a part of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadFamily {
    /// The name of the column family on disk.
    pub family: &'static str,
    /// The failure that ended the last attempt to read it.
    pub cause: ReadError,
}

/// The part of a family that was read, with the failure that ended the read, if there was one. An error if the part
/// must not be used.
pub(crate) type PartRead<T> = Result<(T, Result<(), ReadError>), ReadError>;

impl UnreadFamily {
    /// Reads a family. Damage is recorded, and the readable rows are returned, because every later start would meet
    /// the same damage. Another failure may pass, so the read is tried again. If it persists it is recorded as
    /// well, because an unreadable sector causes a failed read at every start.
    ///
    /// # Errors
    /// An error if no part of the family may be used after all attempts.
    pub(crate) fn read<T>(
        family: Family,
        unread: &mut Vec<Self>,
        mut read: impl FnMut() -> PartRead<T>,
    ) -> Result<T, ReadError> {
        let mut tries = 1;
        loop {
            match read() {
                Ok((value, Ok(()))) => return Ok(value),
                Ok((value, Err(cause))) if cause.is_damage() || tries == TRIES_MAX => {
                    unread.push(Self { family: family.name(), cause });
                    return Ok(value);
                }
                Err(cause) if cause.is_damage() || tries == TRIES_MAX => return Err(cause),
                Ok((_, Err(_))) | Err(_) => tries += 1,
            }
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::DatabaseError;

    /// Reads a family whose first reads fail with this error. Returns the result and the number of reads.
    fn read(failures: u32, error: &ReadError) -> (Result<u32, ReadError>, Vec<UnreadFamily>, u32) {
        let (mut unread, mut reads) = (Vec::new(), 0);
        let read = UnreadFamily::read(Family::MisbehaviorFact, &mut unread, || {
            reads += 1;
            Ok((reads, if reads > failures { Ok(()) } else { Err(error.clone()) }))
        });
        (read, unread, reads)
    }

    #[test]
    fn a_failure_is_tried_again_and_is_noted_if_it_stays() {
        let passing = ReadError::Database(DatabaseError::injected());
        assert_eq!(read(0, &passing), (Ok(1), vec![], 1));
        assert_eq!(read(TRIES_MAX - 1, &passing), (Ok(TRIES_MAX), vec![], TRIES_MAX));
        let noted = UnreadFamily { family: "misbehavior_fact", cause: passing.clone() };
        assert_eq!(read(TRIES_MAX, &passing), (Ok(TRIES_MAX), vec![noted], TRIES_MAX));
    }

    #[test]
    fn a_failure_after_which_nothing_may_be_used_is_returned() {
        let mut reads = 0;
        let passing = ReadError::Database(DatabaseError::injected());
        let mut unread = Vec::new();
        let read = UnreadFamily::read(Family::MisbehaviorFact, &mut unread, || -> PartRead<()> {
            reads += 1;
            Err(passing.clone())
        });
        assert_eq!((read, unread, reads), (Err(passing), vec![], TRIES_MAX));
    }

    #[test]
    fn damage_is_noted_at_once() {
        let cause = ReadError::corrupt(Family::MisbehaviorFact, &[1]);
        let noted = UnreadFamily { family: "misbehavior_fact", cause: cause.clone() };
        assert_eq!(read(TRIES_MAX, &cause), (Ok(1), vec![noted], 1));
    }
}
