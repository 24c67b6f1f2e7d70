//! `hawser network-watcher` beside a node that was promoted or restored, and has left places out.

use hawser_proto::void::VoidStatement;
use hawser_proto::{Bytes, OriginatorId, SecretKey, SequenceId};

use crate::network_watcher::{alarms, seen_once};
use crate::support::fake_node::FakeNode;

/// The last place that node 100 has left out. It has published nothing since.
const GAP_END: u64 = 226_000_002;

#[test]
fn a_gap_that_a_node_has_declared_void_is_no_divergence() {
    let nodes = [GAP_END, 2].map(|head| FakeNode::start(&[(100, head)], |_, _| Vec::new()));
    let key = |seed| SecretKey::from_bytes(&[seed; 32]).unwrap();
    nodes[0].sign_as(100, key(1));
    for (seed, from, raised, exit_code) in
        [(1, 3, vec![], 0), (2, 3, vec!["divergence"], 8), (1, 10_000, vec!["divergence"], 8)]
    {
        let (node, from, through) = (OriginatorId(100), SequenceId(from), SequenceId(GAP_END));
        let of = VoidStatement { node, from, through, time_ns: 5, incarnation: [4; 16] };
        nodes[0].show_voids(vec![Bytes::copy_from_slice(&of.sign(&key(seed)).encode())]);
        let (code, seen) = seen_once(&nodes);
        let names: Vec<&str> = alarms(&seen).into_iter().map(|(name, _)| name).collect();
        assert_eq!((code, names), (Some(exit_code), raised), "{seen}");
    }
}
