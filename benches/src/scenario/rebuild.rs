//! The rebuild of a stopped node's projections from its log, compared with the signatures that it has to recover.

use std::process::Command;

use crate::child;
use crate::error::BenchError;
use crate::limits::Limits;
use crate::network::Network;
use crate::process;
use crate::stats::{self, verdict};

/// Promised share of all cores that a rebuild keeps busy. A guess for "on all cores": no other chunk is read beside the
/// first and the last one.
const CORES_SHARE_MIN: f64 = 0.9;

/// Rebuilds the folder of the first node, which has stopped, and prints a line for each figure.
pub(crate) fn run(
    network: &Network,
    envelopes: u64,
    limits: Option<&Limits>,
) -> Result<(), BenchError> {
    let mut command = Command::new(std::env::current_exe()?);
    let took =
        child::to_its_end(command.arg("rebuild-part").arg("--folder").arg(network.data_dir(0)))?;
    let rate = stats::per_second(envelopes, took.elapsed);
    let cpu_us = took.cpu.as_secs_f64() * 1e6 / stats::float(envelopes.max(1));
    let busy = took.cpu.as_secs_f64() / took.elapsed.as_secs_f64();
    let cores = stats::float(process::cores() as u64);
    println!("rebuilt: {envelopes} envelopes, {rate:.0}/s, {cpu_us:.1} us CPU each");
    let share = busy / cores;
    let kept = verdict(share >= CORES_SHARE_MIN);
    let promised = 100.0 * CORES_SHARE_MIN;
    println!("promised: {promised:.0} % of {cores:.0} cores busy: {kept}, {:.0} %", 100.0 * share);
    let Some(limits) = limits else { return Ok(()) };
    // The payer of each envelope is recovered; its originator's signature was checked when it was stored.
    let one_by_one = cores * 1e6 / limits.crypto.t_verify_us();
    println!(
        "one signature each, one by one on all cores: {one_by_one:.0}/s; the rebuild has {:.0} % of that",
        100.0 * rate / one_by_one
    );
    Ok(())
}
