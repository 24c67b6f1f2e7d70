//! Nodes whose owners register an address that no peer can call, or another one than before.

use hawser_tests::harness::files::Record;
use hawser_tests::harness::network::Network;
use hawser_tests::harness::scripted_peer::{Habits, ScriptedPeer};
use hawser_tests::harness::{strand, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_strand_of_a_node_without_a_url_comes_from_another_peer_also_after_a_restart() {
    let relay = ScriptedPeer::start(300, Habits::default());
    let mut author = ScriptedPeer::start(400, Habits::default());
    let mut network = Network::new(1);
    network.register(relay.record());
    network.register(Record { http_address: "x".to_owned(), ..author.record() });
    for _ in 0..2 {
        author.originate(30, 60);
        relay.hold(&author);
        network.start_all().await;
        let (wanted, client) = (author.strand(), network.nodes[0].client());
        wait::until_equal("the strand of the node without a URL", &wanted, async || {
            Some(strand::read(&client, author.id).await)
        })
        .await;
        network.nodes[0].kill();
    }
    assert!(author.seen().calls.is_empty(), "it is not called");
}

/// The host at the old URL goes on answering, so the session with it would not end by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_registers_another_url_is_followed_there() {
    let old = ScriptedPeer::start(300, Habits::default());
    let mut new = ScriptedPeer::start(300, Habits::default());
    let mut network = Network::new(1);
    network.register(old.record());
    network.start_all().await;
    wait::until("the node is followed at the old URL", async || {
        let calls = old.seen().calls;
        calls.keys().any(|path| path.ends_with("/SubscribeOriginators")).then_some(())
    })
    .await;
    network.replace(new.record());
    new.originate(30, 60);
    let (wanted, client) = (new.strand(), network.nodes[0].client());
    wait::until_equal("the strand at the new URL", &wanted, async || {
        Some(strand::read(&client, new.id).await)
    })
    .await;
}
