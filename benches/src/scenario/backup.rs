//! Measures the backup of an idle node, beside the rate of the disk.

use std::thread;
use std::time::Duration;

use crate::child::{self, CommandTime};
use crate::error::BenchError;
use crate::limits::disk;
use crate::network::Network;
use crate::{process, stats};

/// Promised share of the disk's write rate.
const SHARE_MIN: f64 = 0.7;
/// Time without publishes before the backup. Chosen: a node counts as idle after half of it.
const REST: Duration = Duration::from_secs(2);

/// Has the first node, which runs, back itself up without a bound on its rate, and prints the figures.
pub(crate) fn run(network: &Network) -> Result<(), BenchError> {
    thread::sleep(REST);
    let folder = tempfile::tempdir_in(network.folder())?;
    let backups = folder.path().join("backups");
    let mut command = network.command();
    command.args(["backup", "create", "--rate", "0", "--data-dir"]).arg(network.data_dir(0));
    let took = child::to_its_end(command.arg("--to").arg(&backups))?;
    print_rate("backed up", network, process::folder_bytes(&backups), &took)
}

/// Prints the rate at which `bytes` were copied, and the rate at which the disk writes as many.
pub(crate) fn print_rate(
    done: &str,
    network: &Network,
    bytes: u64,
    took: &CommandTime,
) -> Result<(), BenchError> {
    let rate = stats::per_second(bytes, took.elapsed);
    let limit = disk::measure(network.folder(), bytes)?;
    let (mib, share) = (f64::from(1 << 20), rate / limit);
    println!("{done}: {:.0} MiB, {:.0} MiB/s", stats::float(bytes) / mib, rate / mib);
    println!("the disk takes a new file of that length: {:.0} MiB/s", limit / mib);
    let verdict = if share >= SHARE_MIN { "reached" } else { "NOT reached" };
    println!("promised: {:.0} % of that: {verdict}, {:.0} %", 100.0 * SHARE_MIN, 100.0 * share);
    Ok(())
}
