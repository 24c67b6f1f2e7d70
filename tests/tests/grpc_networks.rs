//! Networks of Hawser nodes that follow each other over gRPC, some of them until QUIC gets through.

use hawser_proto::OriginatorId;
use hawser_tests::harness::balancer::BalancerTls;
use hawser_tests::harness::load::{Ledger, Plan};
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::scripted_peer::{Attack, Habits, ScriptedPeer};
use hawser_tests::harness::{raw, seed, strand, wait};

use super::transport;

/// Publishes a little at every node.
async fn publish(network: &Network, nodes: &[usize], seed: u64) -> Ledger {
    let loads: Vec<_> = nodes
        .iter()
        .map(|&number| {
            let node = &network.nodes[number];
            let seed = seed.wrapping_mul(31).wrapping_add(number as u64);
            let plan =
                Plan { connections: 2, envelopes_max: 150, ..Plan::new(node.port, node.id, seed) };
            plan.start(Vec::new())
        })
        .collect();
    let mut ledger = Ledger::default();
    for load in loads {
        ledger.extend(load.join().await);
    }
    ledger
}

/// Waits until all nodes hold the same bytes, and asserts that these include what was acknowledged.
async fn assert_converges(network: &Network, ledger: &Ledger) {
    network.converged().await;
    let first = strand::read_all(&network.nodes[0].client()).await;
    for node in &network.nodes {
        assert!(strand::read_all(&node.client()).await == first, "{} holds other bytes", node.id);
    }
    let mut count = 0;
    for answer in ledger.acknowledged() {
        let id = strand::id_of(answer);
        assert_eq!(first[&id.originator.0].get(&id.sequence.0), Some(answer), "{id}");
        count += 1;
    }
    assert!(count > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_over_grpc_only_converge_also_when_one_is_killed_in_the_middle() {
    let seed = seed::seed();
    let mut network = Network::new(3);
    network.add_arguments(&["--peer-transport", "grpc", "--api.require-replication-node-auth"]);
    network.start_all().await;
    let mut ledger = publish(&network, &[0, 1, 2], seed).await;
    network.nodes[2].kill();
    ledger.extend(publish(&network, &[0, 1], seed + 1).await);
    network.start_all().await;
    ledger.extend(publish(&network, &[0, 1, 2], seed + 2).await);
    assert_converges(&network, &ledger).await;
    for node in &network.nodes {
        // A strand that comes through a third node may be complete before its own node is reached.
        wait::until_equal("both peers are connected", &2.0, async || {
            let metrics = node.metrics().await;
            Some(metrics.sum("xmtp_peer_transport", &[r#"transport="grpc""#]))
        })
        .await;
        assert_eq!(node.metrics().await.sum("xmtp_verify_failures_total", &[]), 0.0);
    }
}

/// A node loses its folder twice, and signs nothing behind the first gap: only a statement shows that gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_about_void_places_come_over_grpc_also_back_to_the_node_that_signed_them() {
    let mut network = Network::new(3);
    network.add_arguments(&["--peer-transport", "grpc"]);
    network.start_all().await;
    let plan = Plan::new(network.nodes[0].port, network.nodes[0].id, seed::seed());
    Plan { connections: 2, envelopes_max: 100, ..plan }.start(Vec::new()).join().await;
    network.converged().await;
    let of = network.nodes[0].id;
    // The end of what the node has signed or left out.
    let mut end = network.nodes[0].client().cursor().await.unwrap().get(of).0;
    for gaps in 1..=2 {
        let node = &mut network.nodes[0];
        assert!(node.terminate().success());
        std::fs::remove_dir_all(node.data_dir()).unwrap();
        std::fs::remove_dir_all(node.state_dir()).unwrap();
        node.is_new = true;
        node.start();
        node.ready().await;
        let mut ends = Vec::new();
        for node in &network.nodes[1..] {
            let what = format!("node {} shows that gap {gaps} is declared void", node.id);
            let shown = wait::until(&what, async || {
                let (_, page) = raw::get(node.metrics_port, "/status").await.ok()?;
                let status: serde_json::Value = serde_json::from_str(&page).ok()?;
                let strands = status["originators"].as_array()?;
                let strand = strands.iter().find(|it| it["originator_id"] == of.0)?;
                let declared = strand["declared_void"].as_array()?.iter();
                let last = declared.filter_map(|it| it["through"].as_u64()).max();
                last.filter(|through| *through > end)
            })
            .await;
            ends.push(shown);
        }
        assert!(strand::is_gap(ends[0] - end) && ends[0] == ends[1], "{ends:?} after {end}");
        end = ends[0];
    }
}

/// The peer was restored without its folder, and is idle: it claims a gap that it has declared void, and sends nothing.
/// It keeps its session for longer than silent peers do, and is left when it claims more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_peer_is_silent_only_when_it_claims_places_behind_its_void_ones() {
    let mut peer = ScriptedPeer::start(300, Habits::default());
    peer.declare_void(150_000_000);
    let mut network = Network::new(1);
    network.register(peer.record());
    network.start_all().await;
    let node = &network.nodes[0];
    wait::until("it is asked once more than a silent peer in one session", async || {
        let calls = peer.seen().calls;
        let asked = calls.iter().find(|(path, _)| path.ends_with("/SubscribeOriginators"));
        asked.is_some_and(|(_, count)| *count >= 4).then_some(())
    })
    .await;
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("xmtp_peer_sessions_total", &[]), 1.0, "{}", metrics.text());
    assert_eq!(metrics.sum("xmtp_verify_failures_total", &[]), 0.0, "{}", metrics.text());
    peer.change(|habits| habits.attack = Some(Attack::Silence));
    wait::until("the peer is left", async || {
        let metrics = node.metrics().await;
        let left = metrics.sum("xmtp_verify_failures_total", &[r#"kind="silent""#]);
        (left >= 1.0).then_some(())
    })
    .await;
}

/// The strand's own node is gone, and streams do not show what its holder has marked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marked_envelopes_come_over_grpc_also_from_a_node_that_does_not_originate_them() {
    let mut peer = ScriptedPeer::start(300, Habits::default());
    peer.originate(3, 60);
    peer.originate_marked();
    peer.originate(3, 60);
    peer.originate_marked();
    let mut network = Network::new(2);
    network.add_arguments(&["--peer-transport", "grpc"]);
    network.register(peer.record());
    let marked = async |node: &Node| {
        node.metrics().await.sum("xmtp_verify_failures_total", &[r#"kind="rule""#])
    };
    let until_head = async |node: &Node| {
        wait::until_equal("the head of the strand", &8, async || {
            Some(node.client().cursor().await.ok()?.get(OriginatorId(300)).0)
        })
        .await;
    };
    network.nodes[0].start();
    network.nodes[0].readable().await;
    until_head(&network.nodes[0]).await;
    assert_eq!(marked(&network.nodes[0]).await, 2.0);
    drop(peer);
    network.nodes[1].start();
    network.nodes[1].readable().await;
    until_head(&network.nodes[1]).await;
    let metrics = network.nodes[1].metrics().await;
    assert_eq!(metrics.sum("xmtp_replicated_total", &[r#"result="missing""#]), 0.0);
    assert_eq!(marked(&network.nodes[1]).await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_loses_quic_is_followed_over_grpc_until_it_has_it_again() {
    let seed = seed::seed();
    let mut network = Network::with_cables_for_quic(2).await;
    network.start_all().await;
    let is_over = async |network: &Network, wanted: &str| {
        let metrics = [network.nodes[0].metrics().await, network.nodes[1].metrics().await];
        let over = |at: usize, peer: u32| transport(&metrics[at], peer, wanted) == 1.0;
        (over(0, 200) && over(1, 100)).then_some(())
    };
    wait::until("QUIC connects", async || is_over(&network, "quic").await).await;
    let mut ledger = publish(&network, &[0, 1], seed).await;
    network.cut(0, 1);
    wait::until("gRPC has taken over", async || is_over(&network, "grpc").await).await;
    ledger.extend(publish(&network, &[0, 1], seed + 1).await);
    assert_converges(&network, &ledger).await;
    network.mend(0, 1);
    wait::until("QUIC has taken over", async || is_over(&network, "quic").await).await;
    ledger.extend(publish(&network, &[0, 1], seed + 2).await);
    assert_converges(&network, &ledger).await;
}

/// Both nodes are registered at a balancer without UDP. One of them says where it is reached over QUIC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_for_quic_is_learned_over_grpc() {
    let mut network = Network::behind_balancers(2, None).await;
    let address = format!("127.0.0.1:{}", network.nodes[1].port);
    network.nodes[1].arguments = vec!["--quic-address".to_owned(), address];
    network.start_all().await;
    wait::until("QUIC connects", async || {
        let metrics = network.nodes[0].metrics().await;
        (transport(&metrics, 200, "quic") == 1.0).then_some(())
    })
    .await;
    let ledger = publish(&network, &[0, 1], seed::seed()).await;
    assert_converges(&network, &ledger).await;
}

/// Both say so of a port where nothing answers. They are followed over gRPC, and over QUIC as soon as it gets through
/// at their registered URLs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_address_for_quic_keeps_no_peer_from_its_registered_one() {
    let (mut network, cables) = Network::behind_balancers_beside_cables(2).await;
    network.add_arguments(&["--quic-address", "127.0.0.1:1"]);
    network.start_all().await;
    let ledger = publish(&network, &[0, 1], seed::seed()).await;
    assert_converges(&network, &ledger).await;
    let is_over = async |wanted: &str| {
        let metrics = [network.nodes[0].metrics().await, network.nodes[1].metrics().await];
        let over = |at: usize, peer: u32| transport(&metrics[at], peer, wanted) == 1.0;
        (over(0, 200) && over(1, 100)).then_some(())
    };
    wait::until("gRPC connects", async || is_over("grpc").await).await;
    cables.iter().for_each(|cable| cable.mend());
    wait::until("QUIC connects", async || is_over("quic").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_behind_balancers_that_end_tls_follow_each_other() {
    let mut network = Network::behind_balancers(2, Some(&BalancerTls::new())).await;
    network.start_all().await;
    let ledger = publish(&network, &[0, 1], seed::seed()).await;
    assert_converges(&network, &ledger).await;
    for (node, peer) in [(0, 200), (1, 100)] {
        wait::until_equal("gRPC connects", &1.0, async || {
            Some(transport(&network.nodes[node].metrics().await, peer, "grpc"))
        })
        .await;
    }
}
