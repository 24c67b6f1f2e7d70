//! A follower that starts with nothing, beside other sources: two peers at once, and a peer without QUIC.

use crate::error::BenchError;
use crate::network::{Network, Node};
use crate::scenario::catch_up::{self, CaughtUp};

/// The nodes of the network: the leader, a second holder, and a follower for each other measurement.
pub(crate) const NODES: u32 = 5;

/// Prints a line for each choice of sources. The first one is measured again at the end: the machine may have become
/// slower meanwhile.
pub(crate) async fn run(network: &Network, leader: Node) -> Result<(), BenchError> {
    let over = |transport: &str| ["--peer-transport".to_owned(), transport.to_owned()];
    let quic = over("quic");
    println!("| sources | envelopes per second | CPU at the leader | CPU at the follower |");
    println!("|---|--:|--:|--:|");
    let (alone, holder) = catch_up::keep(network, &leader, 1, &quic).await?;
    print_figures("one peer over QUIC", &alone);
    print_figures("two peers over QUIC", &catch_up::keep(network, &leader, 2, &quic).await?.0);
    holder.stop();
    print_figures(
        "one peer over gRPC",
        &catch_up::keep(network, &leader, 3, &over("grpc")).await?.0,
    );
    print_figures(
        "one peer over QUIC, again",
        &catch_up::keep(network, &leader, 4, &quic).await?.0,
    );
    leader.stop();
    Ok(())
}

/// Prints the line of one choice of sources.
fn print_figures(sources: &str, caught_up: &CaughtUp) {
    let CaughtUp { envelopes_per_second, leader_cpu_us, follower_cpu_us, .. } = caught_up;
    println!(
        "| {sources} | {envelopes_per_second:.0} | {leader_cpu_us:.1} µs | {follower_cpu_us:.1} µs |"
    );
}
