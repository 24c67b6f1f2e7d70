//! A node that leaves the network: its sessions end, and its strand comes from the nodes that hold it.

use crate::common::envelopes::NOW_NS;
use crate::common::network::{Network, eventually};
use crate::common::raw::RawPeer;
use hawser_engine::runtime::PublishError;
use hawser_net::PeerError;
use hawser_proto::frame::{CloseCode, ControlFrame, Hello, VERSION};
use hawser_proto::{Cursor, OriginatorId};

const LEAVING: OriginatorId = OriginatorId(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_is_disconnected_and_its_strand_comes_from_others() {
    let mut network = Network::new();
    let (holder, leaving) = (network.start(100), network.start(LEAVING.0));
    for text in 0..5 {
        leaving.publish(text).await;
    }
    holder.wait_for(LEAVING.0, 5).await;

    network.remove(LEAVING.0, u64::try_from(NOW_NS / 1_000_000_000).unwrap() + 1);
    let is_connected = || holder.replication.peer_clocks().iter().any(|(id, _)| *id == LEAVING);
    eventually("the session ends", || !is_connected()).await;
    let refused = leaving.engine.ready_to_publish();
    let Err(PublishError::Unavailable { reason, .. }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("not canonical"), "{reason}");

    // A node that is new takes the strand from the one that holds it.
    let late = network.start(200);
    late.wait_for(LEAVING.0, 5).await;
    assert_eq!(late.held(LEAVING.0), leaving.held(LEAVING.0));
    assert_eq!(late.replication.strands()[&LEAVING].source(), Some(holder.id));

    // It does not come in again.
    let mut peer = RawPeer::connect(holder.endpoint.local_addr()).await;
    let (versions, clock) = (vec![VERSION], Cursor::new());
    peer.say(ControlFrame::Hello(Hello { versions, features: 0, node_id: LEAVING, clock })).await;
    assert_eq!(peer.closed().await, Some(CloseCode::UnknownNode));
    assert!(holder.endpoint.counters().refused(PeerError::UnknownNode) > 0);
}
