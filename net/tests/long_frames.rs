//! Frames as long as the largest envelope: a peer that sends many and ends none fills bounded memory.

use bytes::{BufMut, BytesMut};
use hawser_proto::frame::{ClockFrame, ControlFrame};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::common::envelopes::envelope;
use crate::common::network::{Network, UNREACHABLE, WAIT_MAX};
use crate::common::raw::{RawPeer, Strand};

const PEER: OriginatorId = OriginatorId(300);
/// Strands whose nodes are away: the peer claims to hold all of them.
const AWAY: [u32; 5] = [400, 500, 600, 700, 800];
const LONG: usize = 24 << 20;
/// Long frames that are gathered at a time from one peer.
const LONG_MAX: usize = 2;
/// The window of a stream, and a MiB that is read of each.
const OF_STREAM: usize = 5 << 20;

/// Opens a stream for the strand that the node asks for, and begins a batch with one long envelope.
async fn begin(peer: &RawPeer, originator: u32, after: SequenceId) -> Strand {
    let mut strand = peer.open(OriginatorId(originator), after).await;
    let mut head = BytesMut::new();
    head.put_u8(0x42);
    let len = u32::try_from(LONG).unwrap();
    head.put_u32(1 + 4 + 4 + len);
    head.put_u8(0);
    head.put_u32(1);
    head.put_u32(len);
    strand.0.write_all(&head).await.unwrap();
    strand
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_sends_long_frames_and_ends_none_fills_bounded_memory() {
    let mut network = Network::new();
    for id in AWAY.map(OriginatorId).into_iter().chain([PEER]) {
        network.register(id, UNREACHABLE);
    }
    let node = network.start(100);
    let mut peer = RawPeer::join(&node, PEER.0).await;
    let claimed = |id| EnvelopeId::new(OriginatorId(id), SequenceId(1));
    let entries = AWAY.map(claimed).into_iter().collect();
    peer.say(ControlFrame::Clock(ClockFrame { entries })).await;

    let (mut sending, mut asked, mut own) = (JoinSet::new(), Vec::new(), None);
    while asked.len() < AWAY.len() || own.is_none() {
        let ControlFrame::Want(want) = peer.hear().await else { continue };
        let originator = want.originator.0;
        own = own.or(Some(want.after).filter(|_| want.originator == PEER));
        if !AWAY.contains(&originator) || asked.contains(&originator) {
            continue;
        }
        asked.push(originator);
        let mut strand = begin(&peer, originator, want.after).await;
        // All but the last byte.
        sending.spawn(async move {
            let sent = strand.0.write_all(&vec![7; LONG - 1]).await;
            (strand, sent.is_ok())
        });
    }
    let (mut whole, mut stopped) = (Vec::new(), 0);
    while stopped < AWAY.len() - LONG_MAX {
        let ended =
            timeout(WAIT_MAX, sending.join_next()).await.expect("the node stops what waits");
        match ended.expect("not more than these are taken").unwrap() {
            (strand, true) => whole.push(strand),
            (_, false) => stopped += 1,
        }
    }
    assert!(whole.len() <= LONG_MAX, "{} frames are held", whole.len());
    let received = usize::try_from(node.endpoint.counters().bytes_received.get()).unwrap();
    let max = LONG_MAX * LONG + AWAY.len() * OF_STREAM;
    assert!(received <= max, "{received} bytes were taken");

    // Its other strands go on.
    let mut own = peer.open(PEER, own.expect("it was asked")).await;
    own.send_batch(&[envelope(PEER, 1)]).await;
    node.wait_for(PEER.0, 1).await;
}
