//! Three nodes, one of them cut off and brought back: the others go on, and afterwards all hold
//! the same.

use std::time::Duration;

use hawser_tests::harness::burst::{assert_converges, publish, seen, source};
use hawser_tests::harness::network::Network;
use hawser_tests::harness::{seed, strand, wait};

/// Cuts so briefly that no timer fires: the data under way is sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_cut_off_for_a_moment_catches_up_and_is_caught_up_with() {
    cut_off_and_bring_back(false).await;
}

/// The partition is so long that all connections are given up and dialled again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_cut_off_for_long_catches_up_and_is_caught_up_with() {
    cut_off_and_bring_back(true).await;
}

async fn cut_off_and_bring_back(noticed: bool) {
    let seed = seed::seed();
    let mut network = Network::with_cables(3).await;
    network.start_all().await;
    let mut ledger = publish(&network, &[0, 1, 2], seed).await;
    network.converged().await;

    network.cut(0, 2);
    network.cut(1, 2);
    let passed = [network.passed(0, 2), network.passed(1, 2)];
    let before = [seen(&network, 2, 0).await, seen(&network, 0, 2).await];
    // The cut one does not know, and goes on like the others.
    ledger.extend(publish(&network, &[0, 1, 2], seed + 1).await);
    let [head, other] = [seen(&network, 0, 0).await, seen(&network, 1, 1).await];
    wait::until("the two others have each other's envelopes", async || {
        (seen(&network, 0, 1).await == other && seen(&network, 1, 0).await == head).then_some(())
    })
    .await;
    assert_eq!([seen(&network, 2, 0).await, seen(&network, 0, 2).await], before, "no cut at all");
    assert_eq!([network.passed(0, 2), network.passed(1, 2)], passed);
    if noticed {
        for (node, connected) in [(0, 1.0), (1, 1.0), (2, 0.0)] {
            wait::until_equal(
                "the connections to the node that is cut off",
                &connected,
                async || Some(network.nodes[node].metrics().await.sum("xmtp_peer_up", &[])),
            )
            .await;
        }
        ledger.extend(publish(&network, &[0, 1, 2], seed + 3).await);
    }

    network.mend(0, 2);
    network.mend(1, 2);
    ledger.extend(publish(&network, &[0, 1, 2], seed + 2).await);
    assert_converges(&network, &ledger).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_cannot_reach_each_other_hold_each_others_strands_through_a_third() {
    let seed = seed::seed();
    let mut network = Network::with_cables(3).await;
    network.cut(0, 1);
    // Each of the two reaches one of two others, which is no majority.
    network.start_by_word().await;
    let mut ledger = publish(&network, &[0, 1, 2], seed).await;
    assert_converges(&network, &ledger).await;
    assert_eq!(network.passed(0, 1), 0, "no cut at all");
    assert_eq!(source(&network, 0, 1).await, Some(2));
    network.mend(0, 1);
    ledger.extend(publish(&network, &[0, 1], seed + 1).await);
    assert_converges(&network, &ledger).await;
    wait::until_equal("the own node is the source again", &Some(1), async || {
        Some(source(&network, 0, 1).await)
    })
    .await;
}

/// The link dies in the middle of a burst, and neither end has noticed when the next one begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_dies_is_passed_by_through_a_third_node() {
    let seed = seed::seed();
    let mut network = Network::with_cables(3).await;
    network.start_all().await;
    let mut ledger = publish(&network, &[0, 1, 2], seed).await;
    network.cut(0, 1);
    ledger.extend(publish(&network, &[0, 1, 2], seed + 1).await);
    assert_converges(&network, &ledger).await;
    let passed = network.passed(0, 1);
    ledger.extend(publish(&network, &[0, 1, 2], seed + 2).await);
    assert_converges(&network, &ledger).await;
    assert_eq!(network.passed(0, 1), passed, "no cut at all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_strand_of_a_node_that_is_gone_reaches_one_that_joins_later_over_quic() {
    join_after_a_loss("quic").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_strand_of_a_node_that_is_gone_reaches_one_that_joins_later_over_grpc() {
    join_after_a_loss("grpc").await;
}

async fn join_after_a_loss(transport: &str) {
    let seed = seed::seed();
    let mut network = Network::new(3);
    network.add_arguments(&["--peer-transport", transport]);
    for number in [0, 1] {
        network.nodes[number].start();
    }
    for number in [0, 1] {
        network.nodes[number].ready_by_word().await;
    }
    let ledger = publish(&network, &[0, 1], seed).await;
    let head = seen(&network, 1, 1).await;
    wait::until_equal("the other one has it", &head, async || Some(seen(&network, 0, 1).await))
        .await;
    network.nodes[1].kill();
    let gone = network.nodes[1].id;

    network.nodes[2].start();
    network.nodes[2].readable().await;
    wait::until_equal("the late one has it", &head, async || Some(seen(&network, 2, 1).await))
        .await;
    let late = strand::read(&network.nodes[2].client(), gone).await;
    assert!(late == strand::read(&network.nodes[0].client(), gone).await);
    strand::assert_sound(&late);
    for answer in ledger.acknowledged().filter(|answer| strand::id_of(answer).originator == gone) {
        assert_eq!(late.get(&strand::id_of(answer).sequence.0), Some(answer));
    }
    assert_eq!(source(&network, 2, 1).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_killed_while_others_go_on_catches_up() {
    let seed = seed::seed();
    let mut network = Network::start(3).await;
    let mut ledger = publish(&network, &[0, 1, 2], seed).await;
    // Not waited for: it is killed in the middle of what it gets.
    network.nodes[2].kill();
    ledger.extend(publish(&network, &[0, 1], seed + 1).await);
    network.start_all().await;
    ledger.extend(publish(&network, &[0, 1, 2], seed + 2).await);
    assert_converges(&network, &ledger).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stood_still_for_a_while_catches_up() {
    let seed = seed::seed();
    let mut network = Network::start(3).await;
    let mut ledger = publish(&network, &[0, 1, 2], seed).await;
    network.nodes[1].process().freeze();
    ledger.extend(publish(&network, &[0, 2], seed + 1).await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    network.nodes[1].process().thaw();
    ledger.extend(publish(&network, &[0, 1, 2], seed + 2).await);
    assert_converges(&network, &ledger).await;
}
