//! Measures the rate at which the disk accepts a long file.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Instant;

use rustix::fs::OFlags;

use crate::error::BenchError;
use crate::stats;

/// Bytes of one write. A guess: the usual block of programs that copy files.
const BLOCK_LEN: usize = 1024 * 1024;
/// Length of the longest file in bytes. A guess: more than most systems buffer before they write.
const LEN_MAX: u64 = 4 << 30;
/// Alignment of memory from which a file is written past the file cache, in bytes: the block of most disks.
const ALIGNMENT: usize = 4096;

/// Returns the rate of writing a new file of `len` bytes, 4 GiB at most, in `dir`, in bytes per second and with its
/// sync: the higher one of two, through the system's file cache and past it. Through the cache, the memory that the
/// system has to find may decide. The content is incompressible.
pub(crate) fn measure(dir: &Path, len: u64) -> Result<f64, BenchError> {
    let mut memory = vec![0; BLOCK_LEN + ALIGNMENT];
    let begin = memory.as_ptr().addr().wrapping_neg() % ALIGNMENT;
    let block = &mut memory[begin..][..BLOCK_LEN];
    blake3::Hasher::new().finalize_xof().fill(block);
    let blocks = len.min(LEN_MAX).div_ceil(BLOCK_LEN as u64).max(1);
    let mut best = 0.0;
    for flags in [OFlags::empty(), OFlags::DIRECT] {
        let folder = tempfile::tempdir_in(dir)?;
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        options.custom_flags(i32::try_from(flags.bits())?);
        let mut file = match options.open(folder.path().join("long")) {
            // The file system has no way past the cache.
            Err(error) if error.kind() == ErrorKind::InvalidInput => continue,
            opened => opened?,
        };
        let start = Instant::now();
        for _ in 0..blocks {
            file.write_all(block)?;
        }
        file.sync_all()?;
        best = f64::max(best, stats::per_second(blocks * BLOCK_LEN as u64, start.elapsed()));
    }
    Ok(best)
}
