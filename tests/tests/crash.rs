//! A node that is killed again and again, with requests in flight, loses nothing that it has
//! acknowledged, and nothing is there twice.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;
use std::time::Duration;

use hawser_engine::facts;
use hawser_storage::Store;
use hawser_tests::harness::load::{Ledger, Plan};
use hawser_tests::harness::network::Network;
use hawser_tests::harness::{files, seed, strand, wait};
use rand::RngExt as _;

/// How often the node is killed.
const KILLS: u32 = 24;

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
        assert_projections_equal_a_rebuild(&node.data_dir());
        node.start();
        node.ready().await;
        let strand = strand::read(&node.client(), node.id).await;
        strand::assert_sound(&strand);
        strand::assert_holds(&strand, &ledger);
    }
    println!("{} envelopes acknowledged over {KILLS} kills", ledger.acknowledged().count());
}

/// Works on a copy, so that it is the node that recovers what the kill has left.
fn assert_projections_equal_a_rebuild(data_dir: &Path) {
    let copy = tempfile::tempdir().unwrap();
    files::copy_folder(data_dir, copy.path());
    let (store, identity) = Store::open_existing(copy.path()).unwrap();
    let stored = store.snapshot().projection_digests().unwrap();
    let derive = |_, bytes: &_, invalid| facts::of_stored(bytes, invalid, identity.node);
    let report = store.rebuild(&derive, &mut |_| {}).unwrap();
    assert!(report.projected > 0, "there was nothing to compare");
    assert_eq!(store.snapshot().projection_digests().unwrap(), stored);
}
