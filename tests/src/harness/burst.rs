//! Bursts of publishes at several nodes of a network, and the check that all nodes hold the same afterwards.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::load::{Ledger, Plan};
use super::network::Network;
use super::strand;

/// Envelopes that a burst publishes at each of its nodes.
const BURST: u64 = 150;

/// Publishes a burst at several nodes concurrently.
///
/// # Panics
/// Panics if one of the nodes refuses an envelope.
pub async fn publish(network: &Network, nodes: &[usize], seed: u64) -> Ledger {
    let loads: Vec<_> = nodes
        .iter()
        .map(|&number| {
            let node = &network.nodes[number];
            let seed = seed.wrapping_mul(31).wrapping_add(number as u64);
            let plan = Plan {
                connections: 2,
                envelopes_max: BURST,
                ..Plan::at(node.at(node.port), node.id, seed)
            };
            plan.start(Vec::new())
        })
        .collect();
    let mut ledger = Ledger::default();
    for load in loads {
        let burst = load.join().await;
        assert!(burst.acknowledged().count() as u64 >= BURST, "a node did not take publishes");
        ledger.extend(burst);
    }
    ledger
}

/// Waits until all nodes have the same heads, and compares their envelopes byte by byte with each other and with the
/// acknowledged ones.
///
/// # Panics
/// Panics if the nodes do not converge in time, or their envelopes differ.
pub async fn assert_converges(network: &Network, ledger: &Ledger) {
    network.converged().await;
    let first = strand::read_all(&network.nodes[0].client()).await;
    for node in &network.nodes {
        let strands = strand::read_all(&node.client()).await;
        assert_eq!(keys(&strands), keys(&first), "node {} holds other ids", node.id);
        assert!(strands == first, "node {} holds other bytes", node.id);
    }
    for node in &network.nodes {
        strand::assert_sound(&first[&node.id.0]);
    }
    for answer in ledger.acknowledged() {
        let id = strand::id_of(answer);
        assert_eq!(first[&id.originator.0].get(&id.sequence.0), Some(answer), "{id}");
    }
}

fn keys(strands: &BTreeMap<u32, BTreeMap<u64, Bytes>>) -> BTreeMap<u32, Vec<u64>> {
    strands.iter().map(|(id, strand)| (*id, strand.keys().copied().collect())).collect()
}

/// Returns the head of node `of`'s strand as node `by` knows it.
///
/// # Panics
/// Panics if the node does not answer.
pub async fn seen(network: &Network, by: usize, of: usize) -> u64 {
    network.nodes[by].client().cursor().await.unwrap().get(network.nodes[of].id).0
}

/// Returns the number of the node from which node `by` follows the strand of node `of`.
///
/// # Panics
/// Panics if the node does not answer.
pub async fn source(network: &Network, by: usize, of: usize) -> Option<usize> {
    let metrics = network.nodes[by].metrics().await;
    let of = format!(r#"originator_id="{}""#, network.nodes[of].id);
    let is_source = |via: usize| {
        let via = format!(r#"via="{}""#, network.nodes[via].id);
        metrics.sum("xmtp_peer_source", &[&of, &via]) == 1.0
    };
    (0..network.nodes.len()).find(|via| is_source(*via))
}
