//! A log that is exported as Parquet, with payers and without, beside the disk.

use crate::child;
use crate::error::BenchError;
use crate::limits::disk;
use crate::network::Network;
use crate::{process, stats};

/// Promised envelopes per second, unless the disk takes fewer.
const PER_SECOND_MIN: f64 = 200_000.0;

/// Exports the log of the first node, which has stopped, and prints a line for each way.
pub(crate) fn run(network: &Network, envelopes: u64) -> Result<(), BenchError> {
    for (way, flags) in [("with payers", &[][..]), ("without payers", &["--without-payers"][..])] {
        let folder = tempfile::tempdir_in(network.folder())?;
        let mut command = network.command();
        command.args(["audit", "export", "--from"]).arg(network.data_dir(0));
        command.arg("--to").arg(folder.path().join("export")).args(flags);
        let took = child::to_its_end(&mut command)?;
        let bytes = process::folder_bytes(folder.path());
        let rate = stats::per_second(envelopes, took.elapsed);
        let cpu_us = took.cpu.as_secs_f64() * 1e6 / stats::float(envelopes.max(1));
        let disk = disk::measure(network.folder(), bytes)?;
        // As many envelopes as fit into what the disk takes.
        let limit = disk * stats::float(envelopes) / stats::float(bytes.max(1));
        let promised = PER_SECOND_MIN.min(limit);
        let verdict = if rate >= promised { "reached" } else { "NOT reached" };
        println!("{way}: {rate:.0}/s, {cpu_us:.1} us CPU each; the disk takes {limit:.0}/s");
        println!("promised: {promised:.0}/s: {verdict}");
    }
    Ok(())
}
