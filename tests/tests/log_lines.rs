//! The lines of the log by which an operator follows an envelope through the nodes of a network, and tells their
//! sessions apart: `docs/operating.md`, *Log lines*.

use hawser_proto::Cursor;
use hawser_tests::harness::envelopes::{group_message, payer, sign};
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{seed, strand, wait};
use serde_json::Value;

/// Returns the log of a node so far.
fn lines(node: &mut Node) -> Vec<Value> {
    let output = node.process().output();
    output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Returns the index of the first line that has this message, and this value in a field.
fn position(lines: &[Value], message: &str, field: &str, value: &str) -> Option<usize> {
    lines.iter().position(|line| line["message"] == message && line[field] == value)
}

/// Starts two nodes that log everything as JSON.
async fn talkative_network() -> Network {
    let mut network = Network::new(2);
    network.add_arguments(&["--log.log-level", "DEBUG", "--log.log-encoding", "json"]);
    network.start_all().await;
    network
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_an_envelope_has_a_line_that_names_it() {
    let mut network = talkative_network().await;
    let node = &network.nodes[0];
    let message = group_message([3; 16], 40, &mut seed::rng(seed::seed(), 0));
    let answer = node.client().publish(vec![sign(&message, node.id, &payer(1))]).await.unwrap();
    let id = strand::id_of(&answer[0]);
    network.converged().await;
    let reader = network.nodes[1].client();
    let page = reader.query_originators(&[id.originator], &Cursor::new(), 10).await.unwrap();
    assert_eq!(page, answer);

    let id = id.to_string();
    let step = |lines: &[Value], message: &str| position(lines, message, "envelope", &id);
    for (number, node) in network.nodes.iter_mut().enumerate() {
        let what = format!("node {} has logged that it has handed {id} to a caller", node.id);
        let (lines, delivered) = wait::until(&what, async || {
            let lines = lines(node);
            let delivered = step(&lines, "delivered")?;
            Some((lines, delivered))
        })
        .await;
        let durable = step(&lines, "durable").expect("it is on the disk before that");
        assert!(durable < delivered, "node {number}: {durable}, {delivered}");
        let sequenced = step(&lines, "sequenced");
        assert_eq!(sequenced.is_some(), number == 0, "one node gives the envelope its place");
        if let Some(sequenced) = sequenced {
            let receipt = lines[sequenced]["receipt"].as_str().expect("the line has both");
            let admitted = position(&lines, "admitted", "receipt", receipt);
            assert!(admitted.is_some_and(|admitted| admitted < sequenced && sequenced < durable));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_of_a_session_names_the_peer_and_the_direction() {
    let mut network = talkative_network().await;
    let peer = network.nodes[1].id.to_string();
    let node = &mut network.nodes[0];
    let line = wait::until("a session has a line", async || {
        let is_of_session = |line: &Value| {
            line["message"].as_str().is_some_and(|message| message.starts_with("peer connected"))
        };
        lines(node).into_iter().find(is_of_session)
    })
    .await;
    assert_eq!(line["peer"], peer.as_str(), "{line}");
    let direction = line["direction"].as_str().expect("a span of the session has it");
    assert!(["incoming", "outgoing", "grpc"].contains(&direction), "{line}");
}
