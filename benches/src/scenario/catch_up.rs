//! Measures how fast a follower that starts with nothing takes the strands of another node.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::error::BenchError;
use crate::network::{self, Network, Node};
use crate::process::Memory;
use crate::rpc::Connection;
use crate::stats;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A follower that gets nothing for this long has failed.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Results of envelopes whose signatures were checked, before or after readers were shown them.
const VERIFIED: [&str; 2] = ["verified", "verified_behind"];

/// Observations while the follower caught up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CaughtUp {
    pub(crate) envelopes: u64,
    /// From the start of the follower's process until readers of it had everything.
    pub(crate) elapsed_s: f64,
    pub(crate) envelopes_per_second: f64,
    /// From the same start until everything was verified. Absent in results of older programs.
    #[serde(default)]
    pub(crate) verified_s: f64,
    /// User and system time of each envelope, in microseconds.
    pub(crate) leader_cpu_us: f64,
    pub(crate) follower_cpu_us: f64,
    /// At each tenth of the way.
    pub(crate) memory: Vec<MemoryAt>,
}

/// The most that was resident during one tenth of the way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemoryAt {
    /// Envelopes that the follower had when the tenth ended.
    pub(crate) held: u64,
    pub(crate) leader: Memory,
    pub(crate) follower: Memory,
}

/// Starts the `index`-th node of the network, which must be empty, and waits until it has all
/// that `leader` has.
pub(crate) async fn run(
    network: &Network,
    leader: &Node,
    index: usize,
) -> Result<CaughtUp, BenchError> {
    let (caught_up, follower) = keep(network, leader, index, &[]).await?;
    follower.stop();
    Ok(caught_up)
}

/// Does the same with `--catch-up checkpoints`, or with the default as an explicit flag.
pub(crate) async fn run_with(
    network: &Network,
    leader: &Node,
    index: usize,
    checkpoints: bool,
) -> Result<CaughtUp, BenchError> {
    let setting = if checkpoints { "checkpoints" } else { "verified" };
    let flags = ["--catch-up".to_owned(), setting.to_owned()];
    let (caught_up, follower) = keep(network, leader, index, &flags).await?;
    follower.stop();
    Ok(caught_up)
}

/// Does the same with further flags for the follower, and leaves it running.
pub(crate) async fn keep(
    network: &Network,
    leader: &Node,
    index: usize,
    flags: &[String],
) -> Result<(CaughtUp, Node), BenchError> {
    let mut connection = Connection::open(leader.api()).await?;
    let envelopes = network::head(&mut connection, leader.id()).await?;
    let leader_before = leader.cpu_time()?;
    let start = Instant::now();
    let follower = network.start_following(index, flags).await?;
    let mut memory = Vec::new();
    let mut most = None;
    let (mut held, mut moved) = (0, start);
    while held < envelopes {
        // Heads cover verified envelopes only, and readers may be shown more.
        let now = counted(&follower.metrics().await?, &["stored"]);
        if now > held {
            (held, moved) = (now, Instant::now());
        } else if moved.elapsed() > STALL_MAX {
            return Err(format!("the follower stands still at {held} of {envelopes}").into());
        }
        let seen = (leader.memory()?, follower.memory()?);
        let (leader, follower) = *most.get_or_insert(seen);
        most = Some((larger(leader, seen.0), larger(follower, seen.1)));
        if held * 10 >= envelopes * (memory.len() as u64 + 1) {
            let (leader, follower) = most.take().unwrap_or(seen);
            memory.push(MemoryAt { held, leader, follower });
        }
        if held < envelopes {
            sleep(LOOK_EVERY).await;
        }
    }
    let elapsed = moved - start;
    while counted(&follower.metrics().await?, &VERIFIED) < envelopes {
        if start.elapsed() > elapsed * 20 + STALL_MAX {
            return Err("the follower does not verify what it has".into());
        }
        sleep(LOOK_EVERY).await;
    }
    let verified_s = start.elapsed().as_secs_f64();
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / stats::float(envelopes.max(1));
    let caught_up = CaughtUp {
        envelopes,
        elapsed_s: elapsed.as_secs_f64(),
        envelopes_per_second: stats::per_second(envelopes, elapsed),
        verified_s,
        leader_cpu_us: each(leader.cpu_time()? - leader_before),
        follower_cpu_us: each(follower.cpu_time()?),
        memory,
    };
    Ok((caught_up, follower))
}

/// Returns the number of envelopes of peers that have come to one of these results at a node.
fn counted(metrics: &str, results: &[&str]) -> u64 {
    let of = |line: &str| {
        let (result, value) =
            line.strip_prefix(r#"xmtp_replicated_total{result=""#)?.split_once(r#""} "#)?;
        value.parse::<u64>().ok().filter(|_| results.contains(&result))
    };
    metrics.lines().filter_map(of).sum()
}

fn larger(a: Memory, b: Memory) -> Memory {
    if a.resident_kib >= b.resident_kib { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_by_their_whole_names() {
        let metrics = "# HELP x\nxmtp_replicated_total{result=\"stored\"} 7\n\
                       xmtp_replicated_total{result=\"verified\"} 2\n\
                       xmtp_replicated_total{result=\"verified_behind\"} 3\n";
        assert_eq!(counted(metrics, &["stored"]), 7);
        assert_eq!(counted(metrics, &VERIFIED), 5);
        assert_eq!(counted("", &VERIFIED), 0);
    }
}
