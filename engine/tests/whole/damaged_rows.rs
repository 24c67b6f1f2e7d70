//! Rows that the disk has damaged: each costs itself, and nothing waits for it.

use hawser_engine::replication::StrandItem;
use hawser_engine::runtime::replication::StrandPart;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::merkle::TreeHash;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, StatementDifference};
use hawser_storage::{
    Change, EvidenceTime, Family, LogEntry, Misbehavior, SkipReason, Store, Validity,
};

use crate::common::{self, NODE};
use crate::follow::{Follower, OTHER, SOURCE, envelope, key, strand};

/// The disk has damaged a mark of its strand, so nothing tells which places are missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_strand_whose_marks_cannot_be_read_is_followed() {
    let store = with_strands();
    let key = [&SOURCE.0.to_be_bytes()[..], &2_u64.to_be_bytes()].concat();
    store.put_raw_row(Family::Mark, &key, &[0xff]);
    let follower = Follower::start(store);
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (3, None), "after some attempts");
    source.send(strand(SOURCE, &[4])).await;
    follower.wait_for(SOURCE, 4).await;
    follower.stop().await;
}

/// The disk has damaged a row behind three envelopes. A peer that gets nothing of a page asks for the page again and
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_gets_the_envelopes_before_a_damaged_row_of_the_log() {
    let (store, place) = (with_strands(), SequenceId(4));
    let (from, through, reason) = (place, place, SkipReason::Missing);
    store.commit(&[Change::Skip { originator: SOURCE, from, through, reason }]).unwrap();
    let follower = Follower::start(store.clone());
    let row = [&SOURCE.0.to_be_bytes()[..], &place.0.to_be_bytes(), &[0]].concat();
    store.put_raw_row(Family::Log, &row, b"damaged");
    let (part, reads) = (StrandPart::Items(Some(place)), follower.replication.page_reads());
    let mut reader =
        follower.replication.reader(SOURCE, SequenceId::NONE, part, 1 << 20, reads).unwrap();
    let page = reader.next().await.unwrap().unwrap().items;
    let before: Vec<_> = strand(SOURCE, &[1, 2, 3]).into_iter().map(StrandItem::Envelope).collect();
    assert_eq!(page, before);
    assert!(reader.next().await.is_err(), "the damage is named");
    follower.stop().await;
}

/// The key of the fact that a node has signed two statements of different content for a place.
fn two_statements(accused: OriginatorId, place: u64) -> Vec<u8> {
    let code = 1 | (2 << 4);
    [&accused.0.to_be_bytes()[..], &[0, code], &place.to_be_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_of_evidence_holds_up_neither_its_strand_nor_the_evidence() {
    let store = common::store();
    store.put_raw_row(Family::MisbehaviorFact, &two_statements(SOURCE, 2), b"damaged");
    let follower = Follower::start(store.clone());
    let (mut source, mut other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    assert_eq!(source.want(SOURCE).await, (0, None));
    source.send(strand(SOURCE, &[1, 4])).await;
    assert_eq!(other.want(SOURCE).await, (1, Some(3)));
    assert_eq!(source.want(SOURCE).await, (1, Some(3)));
    other.send(strand(SOURCE, &[2])).await;
    follower.wait_for(SOURCE, 2).await;
    source.send([envelope(SOURCE, 2, "other"), envelope(SOURCE, 3, "true")]).await;
    follower.wait_for(SOURCE, 3).await;
    let (after, up_to) = source.want(SOURCE).await;
    assert!(matches!((after, up_to), (1..=3, None)), "{after} {up_to:?}");
    source.send(strand(SOURCE, &(after + 1..=4).collect::<Vec<_>>())).await;
    follower.wait_for(SOURCE, 4).await;

    let all = store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    let found: Vec<_> = all.iter().map(|it| (it.evidence.misbehavior, it.evidence.at)).collect();
    let at = EnvelopeId::new(SOURCE, SequenceId(2));
    assert_eq!(found, [(Misbehavior::TwoStatements(StatementDifference::Content), at)]);
    assert_eq!(store.evidence_unreadable(), 1);
    follower.stop().await;
}

/// A store with three places of the strands of both nodes.
fn with_strands() -> Store {
    let store = common::store();
    for node in [OTHER, SOURCE] {
        let append = |place| {
            let (id, bytes) =
                (EnvelopeId::new(node, SequenceId(place)), envelope(node, place, "true"));
            Change::Append(LogEntry { id, bytes, validity: Validity::Valid, facts: None })
        };
        store.commit(&[1, 2, 3].map(append)).unwrap();
    }
    store
}

/// The checkpoint that a node has signed of the first places of its strand.
fn checkpoint(store: &Store, node: OriginatorId, size: u64) -> CosignedCheckpoint {
    let root = store.snapshot().root(node, size).unwrap();
    Checkpoint { node, originator: node, size, root, time_ns: size }.sign(&key(node)).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_checkpoint_costs_that_one_and_others_are_taken_and_shown() {
    let store = with_strands();
    let before = [checkpoint(&store, OTHER, 1), checkpoint(&store, OTHER, 2)];
    store.put_checkpoints(&before).unwrap();
    let row = [&OTHER.0.to_be_bytes()[..], &OTHER.0.to_be_bytes(), &2_u64.to_be_bytes()].concat();
    store.put_raw_row(Family::Checkpoint, &row, b"damaged");
    let follower = Follower::start(store.clone());
    let offered = |node| {
        let offers = follower.replication.checkpoint_offers();
        offers.get(&(node, node, 0)).map_or(0, |it| it.signed.checkpoint.size)
    };
    follower.until("the row below is shown", || offered(OTHER) == 1).await;
    let unreadable = &follower.engine().counters().checkpoint_exchange.unreadable;
    assert_eq!(unreadable.get(), 1, "it is counted");

    let (source, other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    source.link.note_checkpoint(checkpoint(&store, SOURCE, 3));
    follower.until("another node's is taken and shown", || offered(SOURCE) == 3).await;
    other.link.note_checkpoint(checkpoint(&store, OTHER, 3));
    follower.until("the same node's next one is", || offered(OTHER) == 3).await;
    let stored = store.snapshot().checkpoint(OTHER, OTHER, u64::MAX).unwrap().unwrap();
    assert_eq!(stored.signed.checkpoint.size, 3);
    assert_eq!(stored.cosignatures, [], "what cannot be read may have been larger");
    assert_eq!(unreadable.get(), 1, "it is counted once");
    follower.stop().await;
}

/// The node cannot read how far its own strand goes, with which a peer's checkpoint of it is compared. The peer shows
/// that of another node right behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_cannot_be_compared_costs_none_that_is_shown_with_it() {
    let store = with_strands();
    let follower = Follower::start(store.clone());
    let row = [&b"head"[..], &NODE.0.to_be_bytes()[..]].concat();
    store.put_raw_row(Family::Cursor, &row, b"damaged");
    let other = follower.connect(OTHER, &[]);
    let root = TreeHash([1; 32]);
    let own = Checkpoint { node: NODE, originator: NODE, size: 2, root, time_ns: 2 };
    let shown: [CosignedCheckpoint; 2] =
        [own.sign(&key(NODE)).into(), checkpoint(&store, SOURCE, 3)];
    // One round takes both.
    shown.into_iter().for_each(|it| other.link.note_checkpoint(it));
    let offers = || follower.replication.checkpoint_offers();
    follower.until("it is taken", || offers().contains_key(&(SOURCE, SOURCE, 0))).await;
    follower.stop().await;
}
