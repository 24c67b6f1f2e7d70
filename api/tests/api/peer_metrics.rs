//! Metrics of the connections to peers.

use std::sync::Arc;
use std::time::Duration;

use hawser_api::{PeerCounts, PeerState, PeerView, StrandState};
use hawser_proto::{Cursor, OriginatorId};

use crate::common::*;

/// A peer that takes the node's token, one that refuses it, and one without a connection.
struct ThreePeers;

impl PeerView for ThreePeers {
    fn peers(&self) -> Vec<PeerState> {
        let peer = |node, connected, last_error: Option<&str>| PeerState {
            node: OriginatorId(node),
            address: "https://peer.example".to_owned(),
            connected,
            transport: connected.then_some("grpc"),
            round_trip: connected.then(|| Duration::from_millis(20)),
            clock: Cursor::new(),
            last_error: last_error.map(ToOwned::to_owned),
            failed_attempts: 0,
            refused: 0,
        };
        let refused = "called without a node token, which it refuses: its time is over";
        vec![
            peer(200, true, None),
            peer(300, true, Some(refused)),
            peer(400, false, Some("timed out")),
        ]
    }

    fn strands(&self) -> Vec<StrandState> {
        Vec::new()
    }

    fn counts(&self) -> PeerCounts {
        PeerCounts::default()
    }
}

/// The strand is followed all the same, so nothing else tells an operator that a clock or a version is wrong.
#[tokio::test]
async fn a_peer_that_refuses_the_token_is_seen_in_the_metrics() {
    let node = node_with(|_| {}, Arc::new(ThreePeers)).await;
    let (_, page) = node.page("/metrics").await;
    let lines = page.lines().filter(|line| line.starts_with("xmtp_peer_token_refused{"));
    let lines: Vec<_> = lines.collect();
    let expected = [
        r#"xmtp_peer_token_refused{node_id="200"} 0"#,
        r#"xmtp_peer_token_refused{node_id="300"} 1"#,
    ];
    assert_eq!(lines, expected);
}
