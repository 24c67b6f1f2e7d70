//! `hawser query` at a node that sends what it was not asked for.

use hawser_proto::{Bytes, SecretKey};

use crate::support::fake_node::FakeNode;
use crate::support::log_folder::{NODE, entry};
use crate::support::{run, stderr, stdout};

/// The operator would take it for the strand of the other node.
#[test]
fn a_node_that_sends_another_strand_ends_a_query() {
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let strand: Vec<Bytes> = (1..=3).map(|at| entry(&key, at).bytes).collect();
    let node = FakeNode::start(&[(NODE, 3)], move |_, after| {
        strand[usize::try_from(after).unwrap().min(strand.len())..].to_vec()
    });
    let url = node.url();
    let ask = |id: u32| run(&["query", "--json", "originators", &id.to_string(), "--node", &url]);
    let own = ask(NODE);
    assert!(own.status.success() && stdout(&own).lines().count() == 3, "{own:?}");
    let other = ask(NODE + 100);
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    assert!(stderr(&other).contains("200:1, which was not requested"), "{other:?}");
    assert_eq!(stdout(&other), "");
}
