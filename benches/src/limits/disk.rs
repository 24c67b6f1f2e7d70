//! Measures the rate at which the disk accepts a long file.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use crate::error::BenchError;
use crate::stats;

/// Bytes of one write. A guess: the usual block of programs that copy files.
const BLOCK_LEN: usize = 1024 * 1024;
/// Length of the longest file in bytes. A guess: more than most systems buffer before they write.
const LEN_MAX: u64 = 4 << 30;

/// Returns the rate of writing a new file of `len` bytes, 4 GiB at most, in `dir`, in bytes per second and with its
/// sync. The content is incompressible.
pub(crate) fn measure(dir: &Path, len: u64) -> Result<f64, BenchError> {
    let mut block = vec![0; BLOCK_LEN];
    blake3::Hasher::new().finalize_xof().fill(&mut block);
    let blocks = len.min(LEN_MAX).div_ceil(BLOCK_LEN as u64).max(1);
    let folder = tempfile::tempdir_in(dir)?;
    let start = Instant::now();
    let mut file = File::create(folder.path().join("long"))?;
    for _ in 0..blocks {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(stats::per_second(blocks * BLOCK_LEN as u64, start.elapsed()))
}
