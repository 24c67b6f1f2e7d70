//! Measures the time that the disk takes to make a small append durable.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::stats::{Latencies, Quantiles};

/// Length of a record in bytes: about that of one group commit of a few envelopes in the write-ahead log.
const RECORD_LEN: usize = 4096;

/// Appends records to a new file in `dir`, each followed by `fdatasync`, for `time`. The latency
/// is that of write and sync together.
pub(crate) fn measure(dir: &Path, time: Duration) -> Result<Quantiles, BenchError> {
    let folder = tempfile::tempdir_in(dir)?;
    let mut file = File::create(folder.path().join("log"))?;
    let record = [0x5a; RECORD_LEN];
    let mut latencies = Latencies::new();
    let start = Instant::now();
    while start.elapsed() < time {
        let before = Instant::now();
        file.write_all(&record)?;
        file.sync_data()?;
        latencies.record(before.elapsed());
    }
    Ok(latencies.quantiles())
}
