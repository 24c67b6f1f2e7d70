//! Acknowledged means durable: a node that is killed or loses power, again and again and with requests in flight, loses
//! nothing that it has acknowledged, and nothing is there twice.
//!
//! A kill alone cannot show it, because the page cache outlives a process. So nodes also run with a library loaded that
//! writes down every completed sync, and the rest is taken from their folders; see `hawser_tests::harness::power`.

use hawser_tests::harness::envelopes::group_message;
use hawser_tests::harness::load::Plan;
use hawser_tests::harness::network::Network;
use hawser_tests::harness::outage::{
    Life, Outage, follower_gets_the_same_again, is_answer_synced, publisher_keeps_every_answer,
};
use hawser_tests::harness::power::{Loss, SyncLog};
use hawser_tests::harness::{seed, strand};
use rand::RngExt as _;

/// Kills of a publisher.
const KILLS: usize = 24;
/// Kills of a follower.
const FOLLOWER_KILLS: u32 = 6;
/// Power losses of a publisher.
const POWER_LOSSES: u64 = 10;
/// Power losses of a follower.
const FOLLOWER_POWER_LOSSES: u32 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_nodes_keep_every_acknowledged_envelope_once() {
    let mut network = Network::new(1);
    let life = Life { acknowledged_min: 1, body_len: 16..700 };
    let lives = std::iter::repeat_n(life, KILLS);
    publisher_keeps_every_answer(&mut network, &Outage::Kill, lives).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_takes_nothing_that_was_acknowledged() {
    let mut network = Network::new(1);
    let outage = Outage::power_loss(&mut network.nodes[0]);
    // Sometimes so much that tables are written out beside the write-ahead log.
    let lives = (0..POWER_LOSSES).map(|number| match number % 4 {
        3 => Life { acknowledged_min: 1_000, body_len: 20_000..60_000 },
        _ => Life { acknowledged_min: 30 * (number + 1), body_len: 16..700 },
    });
    publisher_keeps_every_answer(&mut network, &outage, lives).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_follower_goes_on_where_its_disk_is() {
    let mut network = Network::new(2);
    follower_gets_the_same_again(&mut network, &Outage::Kill, FOLLOWER_KILLS).await;
}

/// A follower says how far it is by what is on its disk, so what a power loss takes from it comes
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_loses_power_gets_the_same_again() {
    let mut network = Network::new(2);
    let outage = Outage::power_loss(&mut network.nodes[1]);
    follower_gets_the_same_again(&mut network, &outage, FOLLOWER_POWER_LOSSES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completed_sync_of_the_log_stands_before_every_answer() {
    let mut network = Network::new(1);
    let log = SyncLog::new(network.nodes[0].folder().join("syncs"));
    network.nodes[0].sync_log = Some(log.clone());
    network.start_all().await;
    let node = &network.nodes[0];
    let client = node.client();
    let mut rng = seed::rng(seed::seed(), 0);
    for number in 0..50 {
        let body_len = if number % 10 == 0 { 100_000 } else { rng.random_range(16..2_000) };
        let message = group_message([3; 16], body_len, &mut rng);
        assert!(
            is_answer_synced(node, &client, &log, &message).await,
            "envelope {number} was answered before the log was synced up to it"
        );
    }
}

/// With syncs switched off, what was acknowledged is gone after a power loss: the tests above would
/// notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_syncs_power_loss_does_take_acknowledged_envelopes() {
    let mut network = Network::new(1);
    let node = &mut network.nodes[0];
    let outage = Outage::power_loss(node);
    node.arguments = vec!["--durability".into(), "os".into()];
    node.start();
    node.ready().await;
    let load = Plan { envelopes_max: 200, ..Plan::new(node.port, node.id, seed::seed()) };
    let ledger = load.start(Vec::new()).join().await;
    assert!(ledger.acknowledged().count() >= 200);
    assert_ne!(outage.strike(node), Loss::default());
    node.arguments.clear();
    node.start();
    // It does not publish: its host knows that there was more.
    node.readable().await;
    let strand = strand::read(&node.client(), node.id).await;
    assert!(!strand::lost(&strand, &ledger).is_empty(), "nothing was lost without a sync");
}
