//! The largest memory of a node that holds a stream of as many topics as one may have.

use std::path::Path;

use hawser_proto::SecretKey;
use tokio::task::spawn_blocking;

use crate::child;
use crate::error::BenchError;
use crate::network::{Network, write_secret};
use crate::stats::verdict;

/// The case of `hawser conformance` that opens the stream, publishes, and is refused one topic more.
const CASE: &str = "a-stream-of-a-million-topics";
/// Promised memory of the whole node.
const PEAK_MIB_MAX: u64 = 512;

/// Prints the time of the case and the node's memory. Fails if the case does.
pub(crate) async fn run(hawser: &Path, data_dir: &Path) -> Result<(), BenchError> {
    let network = Network::new(hawser, data_dir, 1)?;
    let node = network.start(0).await?;
    let payer = network.folder().join("payer.key");
    write_secret(&payer, &SecretKey::from_bytes(&blake3::derive_key("hawser-bench payer", &[]))?)?;
    let mut command = network.command();
    command
        .args(["conformance", "--load", "--destructive", "--only", CASE])
        .args(["--target", &node.api().to_string(), "--node-id", &node.id().0.to_string()])
        .arg("--payer-key-file")
        .arg(payer);
    let before = node.memory()?;
    let took = spawn_blocking(move || child::to_its_end(&mut command)).await??;
    let after = node.memory()?;
    println!(
        "{CASE}: {:.1} s; {} MiB resident at most, {} MiB before, {} MiB at the end",
        took.elapsed.as_secs_f64(),
        after.peak_kib >> 10,
        before.resident_kib >> 10,
        after.resident_kib >> 10
    );
    let kept = verdict(after.peak_kib >> 10 < PEAK_MIB_MAX);
    println!("promised: the node never has {PEAK_MIB_MAX} MiB: {kept}");
    node.stop();
    Ok(())
}
