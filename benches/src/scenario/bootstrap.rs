//! A new node that is filled from a snapshot of another one, beside the disk.

use crate::child;
use crate::error::BenchError;
use crate::network::Network;
use crate::scenario::backup::print_rate;
use crate::{process, stats};

/// Has the first node, which runs, make a snapshot without a bound on its rate, fills the folder of the second one from
/// it, with all signatures checked and then with none, and prints the figures of all three.
pub(crate) fn run(network: &Network, envelopes: u64) -> Result<(), BenchError> {
    let folder = tempfile::tempdir_in(network.folder())?;
    let snapshots = folder.path().join("snapshots");
    let mut command = network.command();
    command.args(["snapshot", "create", "--rate", "0", "--data-dir"]).arg(network.data_dir(0));
    let took = child::to_its_end(command.arg("--to").arg(&snapshots))?;
    let bytes = process::folder_bytes(&snapshots);
    print_rate("snapshot made", network, bytes, &took)?;

    let fill = |catch_up: &str, each: &str, done: &str| {
        let mut command = network.command();
        command.args(["snapshot", "fetch", "--from"]).arg(&snapshots);
        command.args(["--catch-up", catch_up]);
        network.configure(&mut command, 1, &folder.path().join(catch_up));
        let took = child::to_its_end(&mut command)?;
        let cpu_us = took.cpu.as_secs_f64() * 1e6 / stats::float(envelopes.max(1));
        let rate = stats::per_second(envelopes, took.elapsed);
        println!("each envelope {each}: {rate:.0}/s, {cpu_us:.1} us CPU each");
        print_rate(done, network, bytes, &took)
    };
    fill("verified", "checked", "node filled")?;
    fill("checkpoints", "compared with the tree", "node filled, signatures unchecked")
}
