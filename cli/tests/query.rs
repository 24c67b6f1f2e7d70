//! `hawser query` and `hawser tail` at a node that sends what it was not asked for.

use hawser_proto::{Bytes, SecretKey};

use crate::support::fake_node::FakeNode;
use crate::support::log_folder::{NODE, entry};
use crate::support::{run, stderr, stdout};

/// A node with three envelopes of its strand. It sends them for any strand and any topics. It knows one address, and
/// sends its inbox for any addresses.
fn node() -> FakeNode {
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let strand: Vec<Bytes> = (1..=3).map(|at| entry(&key, at).bytes).collect();
    FakeNode::start(&[(NODE, 3)], move |_, after| {
        strand[usize::try_from(after).unwrap().min(strand.len())..].to_vec()
    })
}

/// The topic of the node's envelopes, and one without any.
const TOPICS: [&str; 2] = ["0107", "0108"];

/// The exit code of a command, the number of lines of its output, and its errors.
fn outcome(command: &[&str]) -> (Option<i32>, usize, String) {
    let output = run(command);
    (output.status.code(), stdout(&output).lines().count(), stderr(&output))
}

/// The operator would take it for the strand of the other node.
#[test]
fn a_node_that_sends_another_strand_ends_a_query() {
    let node = node();
    let url = node.url();
    let ask =
        |id: u32| outcome(&["query", "--json", "originators", &id.to_string(), "--node", &url]);
    let own = ask(NODE);
    assert!((own.0, own.1) == (Some(0), 3), "{own:?}");
    let other = ask(NODE + 100);
    assert!((other.0, other.1) == (Some(1), 0), "{other:?}");
    assert!(other.2.contains("200:1, which was not requested"), "{other:?}");
}

/// Results would be printed beside questions to which they do not belong.
#[test]
fn a_node_that_answers_another_question_ends_a_query() {
    let node = node();
    let url = node.url();
    let ask =
        |what: &[&str]| outcome(&[&["query", "--json"][..], what, &["--node", &url]].concat());
    let [topic, other] = TOPICS;
    for (what, lines) in [
        (&["topics", topic, "--limit", "3"][..], 3),
        (&["newest", topic, topic, topic], 3),
        (&["inbox", "0xaa"], 1),
    ] {
        let answered = ask(what);
        assert!((answered.0, answered.1) == (Some(0), lines), "{what:?}: {answered:?}");
    }
    for (what, lines, text) in [
        (&["topics", other][..], 0, "200:1, which was not requested"),
        (&["newest", topic], 0, "3 results in place of 1"),
        (&["newest", topic, topic, topic, topic], 0, "3 results in place of 4"),
        (&["newest", topic, other, topic], 1, "200:2, which was not requested"),
        (&["inbox", "0xaa", "0xab"], 0, "1 result in place of 2"),
        (&["inbox", "0xab"], 0, "the inbox of 0xaa in place of that of 0xab"),
    ] {
        let answered = ask(what);
        assert!((answered.0, answered.1) == (Some(1), lines), "{what:?}: {answered:?}");
        assert!(answered.2.contains(text), "{what:?}: {answered:?}");
    }
}

#[test]
fn a_node_that_sends_another_strand_or_topic_ends_a_stream() {
    let node = node();
    let url = node.url();
    let follow = |what: &[&str; 2]| {
        let all = ["tail", "--from", "start", "--limit", "3", "--node", &url];
        outcome(&[&all[..], &what[..]].concat())
    };
    let [topic, other] = TOPICS;
    for own in [["--originator", "200"], ["--topic", topic]] {
        let shown = follow(&own);
        assert!((shown.0, shown.1) == (Some(0), 3), "{own:?}: {shown:?}");
    }
    for others in [["--originator", "300"], ["--topic", other]] {
        let shown = follow(&others);
        assert!((shown.0, shown.1) == (Some(1), 0), "{others:?}: {shown:?}");
        assert!(shown.2.contains("200:1, which was not requested"), "{others:?}: {shown:?}");
    }
}

/// Other software may write each envelope of a message into a list of its own, and this node does so.
#[test]
fn envelopes_in_several_lists_of_one_message_are_all_shown() {
    let node = node();
    let url = node.url();
    let follow = ["tail", "--from", "start", "--limit", "3", "--originator", "200", "--node", &url];
    let shown = outcome(&follow);
    assert!((shown.0, shown.1) == (Some(0), 3), "{shown:?}");
}

/// Each new originator takes a stream, and the node may have each stream hold a message of 26 MiB.
#[test]
fn a_node_that_names_new_originators_again_and_again_ends_a_stream_of_all() {
    let follow = |count: u32| {
        let heads: Vec<(u32, u64)> = (1..=count).map(|number| (100 * number, 3)).collect();
        let key = SecretKey::from_bytes(&[2; 32]).unwrap();
        let envelope = entry(&key, 1).bytes;
        // Only the last stream has an envelope.
        let node = FakeNode::start(&heads, move |strand, _| match strand {
            NODE if count == 2 => vec![envelope.clone()],
            _ => Vec::new(),
        });
        outcome(&["tail", "--from", "start", "--limit", "1", "--node", &node.url()])
    };
    let shown = follow(2);
    assert!((shown.0, shown.1) == (Some(0), 1), "{shown:?}");
    let shown = follow(9);
    assert!((shown.0, shown.1) == (Some(1), 0), "{shown:?}");
    assert!(shown.2.contains("no more than 8 streams are read together"), "{shown:?}");
}
