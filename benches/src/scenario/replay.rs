//! A whole log that is checked again, beside its signatures checked one by one.

use crate::child;
use crate::error::BenchError;
use crate::network::Network;
use crate::{process, stats};

/// Promised multiple of checking one signature after the other on all cores.
const MULTIPLE_MIN: f64 = 1.5;

/// Replays the log of the first node, which has stopped, and prints a line for each figure. `one_by_one` is the number
/// of envelopes per second whose two signatures all cores check one by one.
pub(crate) fn run(
    network: &Network,
    envelopes: u64,
    one_by_one: Option<f64>,
) -> Result<(), BenchError> {
    let mut command = network.command();
    command.args(["audit", "replay", "--from"]).arg(network.data_dir(0));
    command.arg("--registry").arg(network.folder().join("registry.json"));
    let took = child::to_its_end(&mut command)?;
    let rate = stats::per_second(envelopes, took.elapsed);
    let cpu_us = took.cpu.as_secs_f64() * 1e6 / stats::float(envelopes.max(1));
    println!("replayed: {envelopes} envelopes, {rate:.0}/s, {cpu_us:.1} us CPU each");
    let Some(limit) = one_by_one else { return Ok(()) };
    println!("two signatures each, one by one on {} cores: {limit:.0}/s", process::cores());
    let multiple = rate / limit;
    let verdict = if multiple >= MULTIPLE_MIN { "reached" } else { "NOT reached" };
    println!("promised: {MULTIPLE_MIN} times that: {verdict}, {multiple:.2} times");
    Ok(())
}
