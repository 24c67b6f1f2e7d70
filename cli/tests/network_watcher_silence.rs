//! `hawser network-watcher` beside nodes that do not show what they claim to hold.

use hawser_proto::Bytes;

use crate::network_watcher::{PLACES, alarms, node_with_others, seen_once};
use crate::support::fake_node::FakeNode;
use crate::support::log_folder::NODE;

/// A node could hide other envelopes by showing none.
#[test]
fn a_node_that_shows_nothing_of_what_it_claims_to_hold_is_no_good_verdict() {
    let silent = FakeNode::start(&[(NODE, PLACES)], |_, _| Vec::new());
    let (code, seen) = seen_once(&[node_with_others(&[]), silent, node_with_others(&[])]);
    assert_eq!((code, alarms(&seen)), (Some(9), Vec::new()), "{seen}");
    assert_eq!(seen["nodes"][1]["content_errors"], 1, "{seen}");
    let error = seen["nodes"][1]["last_content_error"].as_str().unwrap();
    assert!(error.contains(&format!("nothing of strand {NODE}")), "{error}");
}

#[test]
fn nodes_of_which_none_gives_a_usable_answer_are_no_good_verdict() {
    let noise = |_: u32, _: u64| vec![Bytes::from_static(b"noise")];
    let nodes = [noise, noise].map(|page| FakeNode::start(&[(NODE, PLACES)], page));
    let (code, seen) = seen_once(&nodes);
    assert_eq!((code, alarms(&seen)), (Some(9), Vec::new()), "{seen}");
}
