//! Durability beyond SIGKILL, which cannot show it because the page cache outlives a process: an answer means that a
//! completed sync of the write-ahead log covers what it acknowledges.
//!
//! The nodes here run with a library loaded that writes down every completed sync; see
//! `hawser_tests::harness::power`.

use std::time::Duration;

use hawser_tests::harness::envelopes::{group_message, payer, sign};
use hawser_tests::harness::load::{Ledger, Plan};
use hawser_tests::harness::network::Network;
use hawser_tests::harness::power::{self, Loss, SyncLog};
use hawser_tests::harness::{projections, seed, strand, wait};
use rand::RngExt as _;

/// Power losses in a run.
const POWER_LOSSES: u32 = 10;

/// One node under watch, not started.
fn watched() -> (Network, SyncLog) {
    let mut network = Network::new(1);
    let log = SyncLog::new(network.nodes[0].folder().join("syncs"));
    network.nodes[0].sync_log = Some(log.clone());
    (network, log)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completed_sync_of_the_log_stands_before_every_answer() {
    let (mut network, log) = watched();
    network.start_all().await;
    let node = &network.nodes[0];
    let client = node.client();
    let mut rng = seed::rng(seed::seed(), 0);
    for number in 0..50 {
        let body_len = if number % 10 == 0 { 100_000 } else { rng.random_range(16..2_000) };
        let message = group_message([3; 16], body_len, &mut rng);
        let before = log.len();
        let answer = client.publish(vec![sign(&message, node.id, &payer(1))]).await.unwrap();
        // Only syncs that were complete by now are in the log of syncs.
        assert!(log.len() > before, "answered without a sync");
        let file = power::write_ahead_log(&node.data_dir());
        let safe = power::written(&file, log.synced_len(&file));
        assert!(
            power::contains(&safe, &answer[0]),
            "envelope {number} was answered before the log was synced up to it"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_takes_nothing_that_was_acknowledged() {
    let seed = seed::seed();
    let mut rng = seed::rng(seed, 1000);
    let (mut network, log) = watched();
    let node = &mut network.nodes[0];
    let mut ledger = Ledger::default();
    let mut total = Loss::default();
    for number in 0..POWER_LOSSES {
        node.start();
        node.ready().await;
        let strand = strand::read(&node.client(), node.id).await;
        strand::assert_sound(&strand);
        strand::assert_holds(&strand, &ledger);
        let plan = Plan::new(node.port, node.id, seed ^ u64::from(number));
        // Sometimes so much that tables are written out beside the write-ahead log.
        let (body_len, enough) =
            if number % 4 == 3 { (20_000..60_000, 1_000) } else { (16..700, 30 * (number + 1)) };
        let load = Plan { body_len, ..plan }.start(Vec::new());
        wait::until("enough is acknowledged", async || {
            (load.acknowledged() >= u64::from(enough)).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..100))).await;
        node.kill();
        ledger.extend(load.join().await);
        let loss = power::cut(&node.data_dir(), &log);
        total = Loss { bytes: total.bytes + loss.bytes, files: total.files + loss.files };
    }
    projections::assert_equal_a_rebuild(&node.data_dir());
    node.start();
    node.ready().await;
    let strand = strand::read(&node.client(), node.id).await;
    strand::assert_sound(&strand);
    strand::assert_holds(&strand, &ledger);
    println!("{} acknowledged envelopes survived {total:?}", ledger.acknowledged().count());
}

/// A follower says how far it is by what is on its disk, so what a power loss takes from it comes
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_loses_power_gets_the_same_again() {
    let seed = seed::seed();
    let mut network = Network::new(2);
    let log = SyncLog::new(network.nodes[1].folder().join("syncs"));
    network.nodes[1].sync_log = Some(log.clone());
    network.start_all().await;
    let plan =
        Plan { connections: 2, ..Plan::new(network.nodes[0].port, network.nodes[0].id, seed) };
    let load = plan.start(Vec::new());
    for _ in 0..POWER_LOSSES / 2 {
        let before = load.acknowledged();
        wait::until("more is published", async || {
            (load.acknowledged() > before + 100).then_some(())
        })
        .await;
        network.nodes[1].kill();
        power::cut(&network.nodes[1].data_dir(), &log);
        network.nodes[1].start();
        network.nodes[1].ready().await;
    }
    let ledger = load.stop().await;
    network.converged().await;
    let id = network.nodes[0].id;
    let origin = strand::read(&network.nodes[0].client(), id).await;
    strand::assert_holds(&origin, &ledger);
    let follower = strand::read(&network.nodes[1].client(), id).await;
    assert!(follower == origin, "the follower holds something else");
}

/// With syncs switched off, what was acknowledged is gone after a power loss: the tests above would
/// notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_syncs_power_loss_does_take_acknowledged_envelopes() {
    let (mut network, log) = watched();
    let node = &mut network.nodes[0];
    node.arguments = vec!["--durability".into(), "os".into()];
    node.start();
    node.ready().await;
    let load = Plan { envelopes_max: 200, ..Plan::new(node.port, node.id, seed::seed()) };
    let ledger = load.start(Vec::new()).join().await;
    assert!(ledger.acknowledged().count() >= 200);
    node.kill();
    assert!(!power::cut(&node.data_dir(), &log).eq(&Loss::default()));
    node.arguments.clear();
    node.start();
    node.ready().await;
    let strand = strand::read(&node.client(), node.id).await;
    assert!(!strand::lost(&strand, &ledger).is_empty(), "nothing was lost without a sync");
}
