//! Measures how fast the disk takes a long file.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use crate::error::BenchError;
use crate::stats;

/// Bytes of one write. A guess: what programs that copy files use.
const BLOCK_LEN: usize = 1024 * 1024;
/// Bytes of the longest file. A guess: above what most systems keep back before they write.
const LEN_MAX: u64 = 4 << 30;

/// Bytes per second of a new file of `len` bytes in `dir`, 4 GiB at most, its sync included. The content does not shrink.
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
