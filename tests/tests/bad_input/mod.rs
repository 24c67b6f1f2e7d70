//! Requests that a node refuses: with which status and text, that nothing is stored and no sequence
//! id is burned, that it is counted, and that everything else goes on.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod noise;
mod publish;
mod reading;
mod state;

use hawser_proto::{EnvelopeId, SequenceId};
use hawser_tests::harness::envelopes::{group_message, payer, sign};
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{strand, vectors};
use rand::rngs::StdRng;
use tonic::{Code, Status};

/// One running node that knows a chain: 24 envelopes of originator 0, 10 of originator 1.
async fn node_with_chain() -> Network {
    let mut network = Network::new(1);
    let chain = vectors::path().to_str().unwrap().to_owned();
    network.nodes[0].arguments = vec!["--chain-file".into(), chain];
    network.start_all().await;
    network
}

/// The last sequence id that the node has given out.
async fn head(node: &Node) -> u64 {
    node.client().cursor().await.unwrap().get(node.id).0
}

/// A good envelope is taken, in the next place.
async fn assert_goes_on(node: &Node, rng: &mut StdRng) {
    let next = head(node).await + 1;
    let message = group_message([0xaa; 16], 40, rng);
    let answer = node.client().publish(vec![sign(&message, node.id, &payer(1))]).await.unwrap();
    let expected = EnvelopeId::new(node.id, SequenceId(next));
    assert_eq!(strand::id_of(&answer[0]), expected, "a sequence id was burned");
}

#[track_caller]
fn assert_refused<T>(what: &str, answer: Result<T, Status>, code: Code, text: &str) -> Status {
    match answer {
        Ok(_) => panic!("{what}: accepted"),
        Err(status) => {
            assert_eq!(status.code(), code, "{what}: {status}");
            assert!(status.message().contains(text), "{what}: says {:?}", status.message());
            status
        }
    }
}
