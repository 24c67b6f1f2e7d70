//! The cost of the last hour's transactions, in a file: a process that ends and starts again, however often, spends no
//! more in an hour than the ceiling allows.
//!
//! The file has a place for each minute of an hour: the number of the minute, counted from 1970, as u64 BE, the cost in
//! wei as u128 BE, and the first 8 bytes of keccak256 of both. A minute replaces the one of an hour before. The file is
//! written without waiting for the disk: it survives the end of the process. After a power failure, the last minutes
//! may be missing. Minutes that a clock states before it is set back become the present one at the next start.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use alloy::primitives::keccak256;

use super::{MINUTES, MinuteCost};
use crate::admin::Wei;
use crate::private_file;

/// The length of the numbers of a place.
const BODY_LEN_BYTES: usize = 24;
/// The length of a place: its numbers, and the start of their digest.
const PLACE_LEN_BYTES: usize = BODY_LEN_BYTES + 8;

/// The open file.
#[derive(Debug)]
pub(crate) struct SpentFile(File);

impl SpentFile {
    /// Opens the file, or creates it, and returns the costs in it. Leaves out what is no whole place. `present` is the
    /// number of the present minute. Costs of later minutes, from a clock that was set back, become costs of the
    /// present one: otherwise each start would count them anew, until the clock has come to them again.
    ///
    /// # Errors
    /// Error of the operating system.
    pub(crate) fn open(path: &Path, present: u64) -> io::Result<(Self, Vec<MinuteCost>)> {
        let file = private_file::open(path)?;
        let mut bytes = Vec::new();
        (&file).take((MINUTES * PLACE_LEN_BYTES) as u64).read_to_end(&mut bytes)?;
        let all = bytes.chunks_exact(PLACE_LEN_BYTES).filter_map(read);
        let is_later = |it: &MinuteCost| it.minute > present && it.cost != Wei(0);
        let (later, mut spent): (Vec<MinuteCost>, Vec<MinuteCost>) = all.partition(is_later);
        let file = Self(file);
        file.move_back(present, &later, &mut spent)?;
        Ok((file, spent))
    }

    /// Moves the costs of later minutes to the present one, as far as they are of one hour. A process that ends
    /// meanwhile leaves some of them twice, and none is lost.
    fn move_back(
        &self,
        present: u64,
        later: &[MinuteCost],
        spent: &mut Vec<MinuteCost>,
    ) -> io::Result<()> {
        let Some(last) = later.iter().map(|it| it.minute).max() else { return Ok(()) };
        let mut moved = MinuteCost { minute: present, cost: Wei(0) };
        if let Some(own) = spent.iter().position(|it| it.minute == present) {
            moved = spent.swap_remove(own);
        }
        for it in later.iter().filter(|it| last - it.minute < MINUTES as u64) {
            moved.cost = moved.cost.plus(it.cost);
        }
        self.write(moved)?;
        spent.push(moved);
        for it in later.iter().filter(|it| it.index() != moved.index()) {
            self.write(MinuteCost { cost: Wei(0), ..*it })?;
        }
        Ok(())
    }

    /// Writes the cost of a minute in place of the last one of this minute.
    ///
    /// # Errors
    /// Error of the operating system. The file may then have neither cost of the minute.
    pub(crate) fn write(&self, spent: MinuteCost) -> io::Result<()> {
        self.0.write_all_at(&place_of(spent), (spent.index() * PLACE_LEN_BYTES) as u64)
    }

    /// Takes this file for the costs.
    #[cfg(test)]
    pub(super) fn of(file: File) -> Self {
        Self(file)
    }
}

fn place_of(MinuteCost { minute, cost: Wei(wei) }: MinuteCost) -> Vec<u8> {
    let body = [&minute.to_be_bytes()[..], &wei.to_be_bytes()].concat();
    let digest = keccak256(&body);
    [&body[..], &digest[..PLACE_LEN_BYTES - BODY_LEN_BYTES]].concat()
}

/// Returns the cost in a place; `None` if no process has written it, or not the whole of it.
fn read(place: &[u8]) -> Option<MinuteCost> {
    let (minute, rest) = place.split_first_chunk::<8>()?;
    let (wei, _) = rest.split_first_chunk::<16>()?;
    let cost = Wei(u128::from_be_bytes(*wei));
    let spent = MinuteCost { minute: u64::from_be_bytes(*minute), cost };
    (place_of(spent) == place).then_some(spent)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Spending, SpendingLimits};
    use super::*;

    /// Opens a file without a minute that is later than the present one.
    fn open(path: &Path) -> (SpentFile, Vec<MinuteCost>) {
        SpentFile::open(path, u64::MAX).unwrap()
    }

    fn spent(minute: u64, wei: u128) -> MinuteCost {
        MinuteCost { minute, cost: Wei(wei) }
    }

    #[test]
    fn the_file_has_the_last_cost_of_each_minute_of_an_hour() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/nonces.spent");
        let (file, before) = open(&path);
        assert_eq!(before, []);
        let written = [spent(600, 7), spent(601, u128::MAX), spent(600, 9), spent(719, 1)];
        written.into_iter().for_each(|it| file.write(it).unwrap());
        drop(file);
        let (file, before) = open(&path);
        assert_eq!(before, [spent(600, 9), spent(601, u128::MAX), spent(719, 1)]);
        file.write(spent(660, 0)).unwrap();
        let (_, before) = open(&path);
        assert_eq!(before, [spent(660, 0), spent(601, u128::MAX), spent(719, 1)]);
    }

    #[test]
    fn places_that_are_torn_or_foreign_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nonces.spent");
        let good = [place_of(spent(600, 7)), place_of(spent(601, 8))].concat();
        for length in 0..=good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            let (_, before) = open(&path);
            assert_eq!(before.len(), length / PLACE_LEN_BYTES);
        }
        let mut changed = good.clone();
        changed[20] ^= 1;
        std::fs::write(&path, changed).unwrap();
        assert_eq!(open(&path).1, [spent(601, 8)]);
        // A file of another program is read no further than the places go.
        std::fs::write(&path, good.repeat(1000)).unwrap();
        assert_eq!(open(&path).1.len(), MINUTES);
    }

    /// The clock was two days ahead while an earlier process ran, and a service manager starts the next ones again and
    /// again.
    #[test]
    fn costs_of_a_clock_that_was_set_back_count_for_one_hour_and_not_after_each_start() {
        const NOW: u64 = 30_000_000;
        const AHEAD: u64 = NOW + 2885;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nonces.spent");
        let (file, _) = open(&path);
        let of_the_last_hour = [spent(AHEAD - 1, 7), spent(AHEAD, 8)];
        let others = [spent(AHEAD - 70, 1000), spent(NOW - 2, 50), spent(NOW, 100)];
        of_the_last_hour.into_iter().chain(others).for_each(|it| file.write(it).unwrap());
        drop(file);
        for (present, sum) in [(NOW, 165), (NOW + 1, 165), (NOW + 59, 115), (NOW + 60, 0)] {
            let (_, before) = SpentFile::open(&path, present).unwrap();
            let hour = Spending::resume(SpendingLimits::default(), present, &before);
            assert_eq!(hour.spent(Duration::ZERO), Wei(sum), "{}", present - NOW);
        }
    }

    /// The cost of the present minute has the place of a later one.
    #[test]
    fn a_later_minute_in_the_place_of_the_present_one_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nonces.spent");
        let (file, _) = open(&path);
        file.write(spent(720, 9)).unwrap();
        drop(file);
        assert_eq!(SpentFile::open(&path, 600).unwrap().1, [spent(600, 9)]);
        assert_eq!(SpentFile::open(&path, 601).unwrap().1, [spent(600, 9)]);
    }
}
