//! A node that is killed again and again, with requests in flight, loses nothing that it has
//! acknowledged, and nothing is there twice.

use std::time::Duration;

use hawser_tests::harness::load::{Ledger, Plan};
use hawser_tests::harness::network::Network;
use hawser_tests::harness::{projections, seed, strand, wait};
use rand::RngExt as _;

/// Kills of the node.
const KILLS: u32 = 24;
/// Kills of a follower.
const FOLLOWER_KILLS: u32 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_nodes_keep_every_acknowledged_envelope_once() {
    let seed = seed::seed();
    let mut rng = seed::rng(seed, 1000);
    let mut network = Network::start(1).await;
    let node = &mut network.nodes[0];
    let mut ledger = Ledger::default();
    let mut again = Vec::new();
    for kill in 0..KILLS {
        let load = Plan::new(node.port, node.id, seed ^ u64::from(kill)).start(again);
        // Requests are in flight from the first answer on; then at any moment.
        wait::until("something is acknowledged", async || (load.acknowledged() > 0).then_some(()))
            .await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..150))).await;
        assert!(!load.is_over(), "the kill has to meet requests in flight");
        node.kill();
        let mut tried = load.join().await;
        let unanswered = tried.take_unanswered();
        assert!(!unanswered.is_empty(), "the kill met no request in flight");
        // Half of what had no answer is sent again, as clients do; the rest is given up.
        again = unanswered.iter().step_by(2).cloned().collect();
        ledger.extend(tried);
        projections::assert_equal_a_rebuild(&node.data_dir());
        node.start();
        node.ready().await;
        let strand = strand::read(&node.client(), node.id).await;
        strand::assert_sound(&strand);
        strand::assert_holds(&strand, &ledger);
    }
    println!("{} envelopes acknowledged over {KILLS} kills", ledger.acknowledged().count());
}

/// The same for a node that takes over what another one publishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_follower_goes_on_where_its_disk_is() {
    let seed = seed::seed();
    let mut rng = seed::rng(seed, 1000);
    let mut network = Network::start(2).await;
    let plan = Plan {
        connections: 2,
        body_len: 16..200,
        ..Plan::new(network.nodes[0].port, network.nodes[0].id, seed)
    };
    let load = plan.start(Vec::new());
    for _ in 0..FOLLOWER_KILLS {
        let before = load.acknowledged();
        wait::until("more is published", async || {
            (load.acknowledged() > before + 100).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..100))).await;
        network.nodes[1].kill();
        projections::assert_equal_a_rebuild(&network.nodes[1].data_dir());
        network.nodes[1].start();
        network.nodes[1].ready().await;
    }
    let ledger = load.stop().await;
    network.converged().await;
    let id = network.nodes[0].id;
    let origin = strand::read(&network.nodes[0].client(), id).await;
    strand::assert_sound(&origin);
    strand::assert_holds(&origin, &ledger);
    let follower = strand::read(&network.nodes[1].client(), id).await;
    assert!(follower == origin, "the follower holds something else");
}
