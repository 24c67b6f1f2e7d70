//! Wants without end: they cost the node no more than the reads of a few pages.

use std::num::NonZeroU64;
use std::sync::mpsc;

use crate::common::envelopes::{envelope, forged, key};
use crate::common::network::{Network, UNREACHABLE, WAIT_MAX, empty_store, eventually};
use crate::common::raw::RawPeer;
use bytes::Bytes;
use hawser_proto::frame::{
    CloseCode, ControlFrame, DataFrame, EndFrame, FEATURE_GAPS_ALONE, FEATURE_WANT_NUMBERS,
    GAPS_ALONE, GapFrame, GapFrameReason, Hello, StreamHeader, VERSION, WantFrame,
};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{Change, InvalidRule, LogEntry, SkipReason, Store, Validity};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PEER: OriginatorId = OriginatorId(300);
/// Pages that are read at a time for one peer.
const READS_MAX: usize = 4;
const WANTS: usize = 64;

/// A runtime with one thread for reads, so that a test can hold them up.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap()
}

fn want(originator: OriginatorId) -> ControlFrame {
    let (after, up_to) = (SequenceId::NONE, Some(SequenceId(3)));
    ControlFrame::Want(WantFrame { originator, after, up_to, bytes_max: 1 << 20 })
}

/// The number of pages that were read for peers.
fn pages_read(engine: &hawser_engine::Engine) -> usize {
    let mut registry = Registry::default();
    registry.register("page", "", engine.counters().strand_page.seconds.histogram().clone());
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let count = text.lines().find_map(|line| line.strip_prefix("page_count "));
    count.expect("a histogram has a count").parse().unwrap()
}

#[test]
fn replaced_wants_do_not_fill_the_pool_of_reads() {
    runtime().block_on(async {
        let (_network, node) = Network::with_peer(PEER);
        let mut published: Vec<Bytes> = Vec::new();
        for text in 0..3 {
            published.push(node.publish(text).await);
        }
        let mut peer = RawPeer::join(&node, PEER.0).await;
        let (release, held) = mpsc::channel::<()>();
        let blocker = tokio::task::spawn_blocking(move || held.recv_timeout(WAIT_MAX));

        let expected = DataFrame::Header(StreamHeader {
            originator: node.id,
            after: SequenceId::NONE,
            want: None,
        });
        let mut last = None;
        for _ in 0..WANTS {
            peer.say(want(node.id)).await;
            // The header comes at once; what follows it has to be read.
            let mut strand = peer.accept().await;
            assert_eq!(strand.next().await, expected);
            last = Some(strand);
        }
        // Behind everything that the wants have put into the queue of the only thread.
        let engine = node.engine.clone();
        let queued = tokio::task::spawn_blocking(move || pages_read(&engine));
        release.send(()).unwrap();
        blocker.await.unwrap().unwrap();
        let queued = queued.await.unwrap();
        assert!(queued <= READS_MAX, "{queued} pages were read for {WANTS} wants");

        let DataFrame::Batch(batch) = last.unwrap().next().await else {
            panic!("the last want is answered")
        };
        assert_eq!(batch.envelopes().collect::<Vec<_>>(), published);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_names_the_number_of_its_want() {
    let (_network, node) = Network::with_peer(PEER);
    let mut peer = RawPeer::join_with(&node, PEER.0, FEATURE_WANT_NUMBERS).await;
    // The second one is refused, and counts.
    for (originator, number) in [(node.id, Some(1)), (OriginatorId(7777), None), (node.id, Some(3))]
    {
        peer.say(want(originator)).await;
        let Some(number) = number else { continue };
        let expected =
            StreamHeader { originator, after: SequenceId::NONE, want: NonZeroU64::new(number) };
        assert_eq!(peer.accept().await.next().await, DataFrame::Header(expected));
    }
}

/// The header of a stream for the next want for the peer's strand. Counts all wants.
async fn header_of_next_want(peer: &mut RawPeer, counted: &mut u64) -> StreamHeader {
    loop {
        if let ControlFrame::Want(want) = peer.hear().await {
            *counted += 1;
            if want.originator == PEER {
                let (originator, after) = (want.originator, want.after);
                return StreamHeader { originator, after, want: NonZeroU64::new(*counted) };
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_stream_is_not_taken_for_the_answer_to_a_newer_want() {
    let (_network, node) = Network::with_peer(PEER);
    let mut peer = RawPeer::join_with(&node, PEER.0, FEATURE_WANT_NUMBERS).await;
    let mut counted = 0;
    let earlier = header_of_next_want(&mut peer, &mut counted).await;
    // A stream without an answer: the node asks again from the same place.
    drop(peer.open_for(earlier).await);
    let newer = header_of_next_want(&mut peer, &mut counted).await;
    assert_eq!((newer.originator, newer.after), (earlier.originator, earlier.after));

    let mut late = peer.open_for(earlier).await;
    late.send_batch(&[forged(PEER, 1)]).await;
    let mut answer = peer.open_for(newer).await;
    answer.send_batch(&[envelope(PEER, 1)]).await;
    node.wait_for(PEER.0, 1).await;
    assert_eq!(peer.connection.close_reason(), None, "nothing of the other stream counts");

    // A second stream for the want in force is one too many.
    peer.open_for(newer).await;
    assert_eq!(peer.closed().await, Some(CloseCode::ProtocolViolation));
}

const STRANDS: u32 = 12;
const LONG: usize = 5 << 20;
/// Bytes of pages that are read for one peer and not yet written to it.
const AHEAD_MAX: u64 = 32 << 20;

fn strand(index: u32) -> OriginatorId {
    OriginatorId(1000 + index)
}

/// A log with an envelope in each of many strands that is nothing but long. Peers are sent invalid ones too.
fn store_with_long_envelopes() -> Store {
    let store = empty_store(OriginatorId(100));
    for index in 0..STRANDS {
        let id = EnvelopeId::new(strand(index), SequenceId(1));
        let (bytes, validity) = (Bytes::from(vec![7; LONG]), Validity::Invalid(InvalidRule(1)));
        let entry = LogEntry { id, bytes, validity, facts: None };
        store.commit(&[Change::Append(entry)]).unwrap();
    }
    store
}

async fn want_all(peer: &mut RawPeer) {
    for index in 0..STRANDS {
        let (after, up_to) = (SequenceId::NONE, Some(SequenceId(1)));
        let originator = strand(index);
        peer.say(ControlFrame::Want(WantFrame { originator, after, up_to, bytes_max: 1 << 20 }))
            .await;
    }
}

/// Reads what was wanted, all strands at a time as a node does. Returns the length of the envelopes.
async fn read_all(peer: &RawPeer) -> usize {
    let mut reading = JoinSet::new();
    for _ in 0..STRANDS {
        let mut strand = peer.accept().await;
        reading.spawn(async move {
            let mut read = 0;
            loop {
                match strand.next().await {
                    DataFrame::Batch(batch) => {
                        read += batch.envelopes().map(|it| it.len()).sum::<usize>();
                    }
                    DataFrame::End(_) => return read,
                    _ => {}
                }
            }
        });
    }
    reading.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_wants_every_strand_and_reads_nothing_fills_bounded_memory() {
    let other = OriginatorId(400);
    let mut network = Network::new();
    network.register(PEER, UNREACHABLE);
    network.register(other, UNREACHABLE);
    let node = network.start_on(store_with_long_envelopes(), "127.0.0.1:0");
    let sent = || node.endpoint.counters().bytes_sent.get();
    let mut hostile = RawPeer::join(&node, PEER.0).await;
    want_all(&mut hostile).await;
    // As many as there is room for; a stream takes the first MiB of each from the node.
    let fits = AHEAD_MAX / LONG as u64;
    eventually("the node reads for it", || sent() >= fits * LONG as u64).await;

    let all = LONG * usize::try_from(STRANDS).unwrap();
    let mut honest = RawPeer::join(&node, other.0).await;
    want_all(&mut honest).await;
    assert_eq!(read_all(&honest).await, all);
    let held = sent() - u64::try_from(all).unwrap();
    assert!(held <= AHEAD_MAX, "{held} bytes were taken for a peer that reads nothing");

    assert_eq!(read_all(&hostile).await, all, "it is served when it reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_batches_do_not_cost_a_read_each() {
    const PLACES: usize = 40;
    let (store, originator) = (empty_store(OriginatorId(100)), strand(0));
    for place in 1..=PLACES {
        let id = EnvelopeId::new(originator, SequenceId(place as u64));
        let (bytes, validity) = (Bytes::from(vec![7; 9]), Validity::Invalid(InvalidRule(1)));
        store.commit(&[Change::Append(LogEntry { id, bytes, validity, facts: None })]).unwrap();
    }
    let mut network = Network::new();
    network.register(PEER, UNREACHABLE);
    let node = network.start_on(store, "127.0.0.1:0");
    let mut peer = RawPeer::join(&node, PEER.0).await;
    let (after, up_to) = (SequenceId::NONE, Some(SequenceId(PLACES as u64)));
    peer.say(ControlFrame::Want(WantFrame { originator, after, up_to, bytes_max: 1 })).await;
    let frames = timeout(WAIT_MAX, peer.read_strand()).await.expect("the want has an end");
    let batches = frames.iter().filter_map(|frame| match frame {
        DataFrame::Batch(batch) => Some(batch.len()),
        _ => None,
    });
    assert_eq!(batches.collect::<Vec<_>>(), [1; PLACES]);
    assert_eq!(pages_read(&node.engine), 1);
}

/// A log with every other place of a strand up to 5.
fn store_with_gaps() -> Store {
    let store = empty_store(OriginatorId(100));
    let originator = strand(0);
    for place in 1..=5 {
        let sequence = SequenceId(place);
        let change = if place % 2 == 0 {
            let (from, through, reason) = (sequence, sequence, SkipReason::Missing);
            Change::Skip { originator, from, through, reason }
        } else {
            let (id, bytes) = (EnvelopeId::new(originator, sequence), Bytes::from(vec![7; 9]));
            let validity = Validity::Invalid(InvalidRule(1));
            Change::Append(LogEntry { id, bytes, validity, facts: None })
        };
        store.commit(&[change]).unwrap();
    }
    store
}

/// Asks for the gaps of a strand up to 9 as a peer with these features. Returns the frames.
async fn gaps_alone(features: u64) -> Vec<DataFrame> {
    let mut network = Network::new();
    network.register(PEER, UNREACHABLE);
    let node = network.start_on(store_with_gaps(), "127.0.0.1:0");
    let mut peer = RawPeer::join_with(&node, PEER.0, features).await;
    let (originator, after, up_to) = (strand(0), SequenceId::NONE, Some(SequenceId(9)));
    let want = WantFrame { originator, after, up_to, bytes_max: GAPS_ALONE };
    peer.say(ControlFrame::Want(want)).await;
    timeout(WAIT_MAX, peer.read_strand()).await.expect("the want has an end")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_want_for_gaps_alone_is_answered_without_envelopes_if_both_ends_know_it() {
    let (originator, after) = (strand(0), SequenceId::NONE);
    let gap = |from, to| {
        let (from, to) = (SequenceId(from), SequenceId(to));
        DataFrame::Gap(GapFrame { from, to, reason: GapFrameReason::Missing })
    };
    let expected = [
        DataFrame::Header(StreamHeader { originator, after, want: None }),
        gap(2, 2),
        gap(4, 4),
        gap(6, 9),
        DataFrame::End(EndFrame { through: SequenceId(9) }),
    ];
    assert_eq!(gaps_alone(FEATURE_GAPS_ALONE).await, expected);

    // An older version sends such a want for short batches.
    let envelopes = gaps_alone(0).await.into_iter().filter_map(|frame| match frame {
        DataFrame::Batch(batch) => Some(batch.len()),
        _ => None,
    });
    assert_eq!(envelopes.collect::<Vec<_>>(), [1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_asks_a_peer_that_names_gaps_for_those_behind_the_one_that_it_searches_for() {
    let (_network, node) = Network::with_peer(PEER);
    let mut peer = RawPeer::connect(node.endpoint.local_addr()).await;
    // It claims more of its strand than it sends.
    let clock = [EnvelopeId::new(PEER, SequenceId(9))].into_iter().collect();
    let (versions, features) = (vec![VERSION], FEATURE_GAPS_ALONE);
    peer.say(ControlFrame::Hello(Hello { versions, features, node_id: PEER, clock })).await;
    let ControlFrame::Hello(_) = peer.hear().await else { panic!("a hello comes first") };
    let ControlFrame::Proof(_) = peer.hear().await else { panic!("then the proof") };
    peer.prove_after_greeting(PEER, &key(PEER), node.id).await;

    let _strand = peer.answer(PEER.0, &[envelope(PEER, 1), envelope(PEER, 3)]).await;
    let want = peer.hear_want(PEER.0).await;
    assert_eq!((want.after, want.up_to), (SequenceId(1), Some(SequenceId(2))));
    assert_ne!(want.bytes_max, GAPS_ALONE, "it may hold the envelope");
    let mut answer = peer.open(PEER, want.after).await;
    answer.send(DataFrame::End(EndFrame { through: SequenceId(2) })).await;
    let want = peer.hear_want(PEER.0).await;
    assert_eq!((want.after, want.up_to), (SequenceId(3), Some(SequenceId(9))));
    assert_eq!(want.bytes_max, GAPS_ALONE);
}
