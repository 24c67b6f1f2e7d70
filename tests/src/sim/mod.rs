//! A network of nodes in one thread, on a clock that only moves from event to event.
//!
//! Real parts: [`Follower`](hawser_engine::replication::Follower),
//! [`EnvelopeVerifier`](hawser_engine::replication::EnvelopeVerifier) with its signatures, and the store on RocksDB's
//! in-memory environment. Simulated parts: the wire, the disk's latency, crashes, and a peer that
//! lies. Everything that is left to chance is drawn from one seed, so a seed is a run.

mod audited;
mod checkpoints;
mod departed_node;
mod hostile;
pub mod invariants;
mod liar;
mod liveness;
mod members;
mod node;
mod node_store;
mod permanent_faults;
mod reference;
mod relaying;
mod running;
mod scripted;
mod serving;
mod settled;
mod shown;
mod strands;
mod wire;
mod world;

pub use audited::AuditFindings;
pub use hostile::Behaviour;
pub use liveness::LivenessFindings;
pub use reference::ReferenceHabit;
pub use scripted::Role;
pub use world::{Faults, Sim};

use crate::harness::seed::VARIABLE;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 200;
/// Seeds of an ordinary run of the network with a hostile node.
const HOSTILE_SEEDS: u64 = 2_000;
/// Seeds of an ordinary run of the networks with a scripted liar: about 120 of each role.
const SCRIPTED_SEEDS: u64 = 2_000;
/// Environment variable with another number of seeds.
const COUNT_VARIABLE: &str = "HAWSER_SIM_SEEDS";

/// Returns the seeds to run: the one that the environment names, or a few hundred.
///
/// # Panics
/// Panics if a variable is not a number.
#[must_use]
pub fn seeds() -> std::ops::Range<u64> {
    seeds_or(SEEDS)
}

/// Returns the seeds to run of the network with a hostile node: the one that the environment names, or a few thousand.
///
/// # Panics
/// Panics if a variable is not a number.
#[must_use]
pub fn hostile_seeds() -> std::ops::Range<u64> {
    seeds_or(HOSTILE_SEEDS)
}

/// Returns the seeds to run of the networks with a scripted liar: the one that the environment names, or a few
/// thousand.
///
/// # Panics
/// Panics if a variable is not a number.
#[must_use]
pub fn scripted_seeds() -> std::ops::Range<u64> {
    seeds_or(SCRIPTED_SEEDS)
}

fn seeds_or(usual: u64) -> std::ops::Range<u64> {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect("the variable holds a number"))
    };
    match number(VARIABLE) {
        Some(seed) => seed..seed + 1,
        None => 0..number(COUNT_VARIABLE).unwrap_or(usual),
    }
}
