//! The block of the last reading of a value. A plain value.

use std::time::Instant;

use super::{OLDER_AFTER, WatchError};

/// The block of the last reading, and its time. An endpoint that is behind replaces no newer reading.
#[derive(Debug, Default)]
pub(super) struct NewestReading(Option<(u64, Instant)>);

impl NewestReading {
    /// Takes note of a reading at this block.
    ///
    /// # Errors
    /// [`WatchError::Behind`] if the last reading was at a higher block; the new one does not count then. Once the last
    /// one is older than [`OLDER_AFTER`], no reading is refused: an endpoint may have made up the block.
    pub(super) fn take(&mut self, block: u64, now: Instant) -> Result<(), WatchError> {
        if let Some((known, at)) = self.0
            && block < known
            && now.saturating_duration_since(at) < OLDER_AFTER
        {
            return Err(WatchError::Behind { found: block, known });
        }
        self.0 = Some((block, now));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_older_reading_counts_until_the_newer_one_is_old() {
        let (mut newest, start) = (NewestReading::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(newest.take(7, start), Ok(()));
        assert_eq!(newest.take(7, start), Ok(()));
        let behind = Err(WatchError::Behind { found: 6, known: 7 });
        assert_eq!(newest.take(6, start), behind);
        assert_eq!(newest.take(6, start + OLDER_AFTER - second), behind);
        assert_eq!(newest.take(6, start + OLDER_AFTER), Ok(()), "block 7 may be made up");
        assert_eq!(newest.take(7, start), Ok(()));
    }
}
