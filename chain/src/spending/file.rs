//! The cost of the last hour's transactions, in a file: a process that ends and starts again, however often, spends no
//! more in an hour than the ceiling allows.
//!
//! The file has a place for each minute of an hour: the number of the minute, counted from 1970, as u64 BE, the cost in
//! wei as u128 BE, and the first 8 bytes of keccak256 of both. A minute replaces the one of an hour before. The file is
//! written without waiting for the disk: it survives the end of the process. After a power failure, the last minutes
//! may be missing.

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
    /// Opens the file, or creates it, and returns the costs in it. Leaves out what is no whole place.
    ///
    /// # Errors
    /// Error of the operating system.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Vec<MinuteCost>)> {
        let file = private_file::open(path)?;
        let mut bytes = Vec::new();
        (&file).take((MINUTES * PLACE_LEN_BYTES) as u64).read_to_end(&mut bytes)?;
        let spent = bytes.chunks_exact(PLACE_LEN_BYTES).filter_map(read).collect();
        Ok((Self(file), spent))
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
    use super::*;

    fn spent(minute: u64, wei: u128) -> MinuteCost {
        MinuteCost { minute, cost: Wei(wei) }
    }

    #[test]
    fn the_file_has_the_last_cost_of_each_minute_of_an_hour() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/nonces.spent");
        let (file, before) = SpentFile::open(&path).unwrap();
        assert_eq!(before, []);
        let written = [spent(600, 7), spent(601, u128::MAX), spent(600, 9), spent(719, 1)];
        written.into_iter().for_each(|it| file.write(it).unwrap());
        drop(file);
        let (file, before) = SpentFile::open(&path).unwrap();
        assert_eq!(before, [spent(600, 9), spent(601, u128::MAX), spent(719, 1)]);
        file.write(spent(660, 0)).unwrap();
        let (_, before) = SpentFile::open(&path).unwrap();
        assert_eq!(before, [spent(660, 0), spent(601, u128::MAX), spent(719, 1)]);
    }

    #[test]
    fn places_that_are_torn_or_foreign_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nonces.spent");
        let good = [place_of(spent(600, 7)), place_of(spent(601, 8))].concat();
        for length in 0..=good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            let (_, before) = SpentFile::open(&path).unwrap();
            assert_eq!(before.len(), length / PLACE_LEN_BYTES);
        }
        let mut changed = good.clone();
        changed[20] ^= 1;
        std::fs::write(&path, changed).unwrap();
        assert_eq!(SpentFile::open(&path).unwrap().1, [spent(601, 8)]);
        // A file of another program is read no further than the places go.
        std::fs::write(&path, good.repeat(1000)).unwrap();
        assert_eq!(SpentFile::open(&path).unwrap().1.len(), MINUTES);
    }
}
