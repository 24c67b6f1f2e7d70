//! Nodes prune, and a node that joins later can still follow them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::common::envelopes::{NOW_NS, sign, statement};
use crate::common::network::{Network, Node, empty_store, eventually};
use hawser_engine::facts;
use hawser_engine::runtime::PruneRun;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{
    ChainPosition, Change, LogEntry, Mark, PayerReportChange, PayerReportEvent, Store, Validity,
};

const ORIGIN: OriginatorId = OriginatorId(100);
/// Old envelopes of the origin. Those before the end of the last report have expired forty days ago.
const OLD: u64 = 20;
const AGE_S: u64 = 100 * 86_400;
/// The end of the last report. Its envelope and the later ones are three days old: they show the time by then.
const REPORTED: u64 = 15;
const REPORTED_AGE_S: u64 = 3 * 86_400;

/// The log of the origin: envelopes that have expired, and some that have not.
fn old_log() -> Store {
    let store = empty_store(ORIGIN);
    let append = |place| {
        let mut old = statement(ORIGIN, place);
        let age_s = if place < REPORTED { AGE_S } else { REPORTED_AGE_S };
        old.originator_ns -= i64::try_from(age_s).unwrap() * 1_000_000_000;
        old.expiry_unixtime -= age_s;
        let (bytes, validity) = (sign(&old, ORIGIN), Validity::Valid);
        let facts = facts::of_stored(&bytes, validity, ORIGIN);
        let id = EnvelopeId::new(ORIGIN, SequenceId(place));
        Change::Append(LogEntry { id, bytes, validity, facts })
    };
    store.commit(&(1..=OLD).map(append).collect::<Vec<_>>()).unwrap();
    store
}

/// Prunes by three reports on the chain, of which none is settled: their ends stay.
fn prune(node: &Node) -> u64 {
    let now_s = u64::try_from(NOW_NS / 1_000_000_000).unwrap();
    let report = |(index, end): (u64, u64)| {
        let change = PayerReportChange::Submitted {
            start: SequenceId(end - 5),
            end: SequenceId(end),
            end_minute: u32::try_from((now_s - REPORTED_AGE_S) / 60).unwrap(),
            root: [1; 32],
            nodes: vec![OriginatorId(100), OriginatorId(200)],
        };
        PayerReportEvent { block: index, log_index: 0, originator: ORIGIN, index, change }
    };
    let events: Vec<_> = (0..).zip([5, 10, REPORTED]).map(report).collect();
    let store = node.engine.store();
    store.record_payer_reports(0, &events, ChainPosition { block: 9, hash: [1; 32] }).unwrap();
    let run = PruneRun { own_unix_s: now_s, places_max: u64::MAX, dry_run: false };
    run.run(store, &mut |_| ControlFlow::Continue(())).unwrap().pruned()
}

fn places(node: &Node) -> Vec<u64> {
    node.held(ORIGIN.0).into_keys().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_after_pruning_follows_and_ends_with_the_same_clock() {
    let mut network = Network::new();
    let origin = network.start_on(old_log(), "127.0.0.1:0");
    let early = network.start(200);
    early.wait_for(ORIGIN.0, OLD).await;
    let before: BTreeMap<_, _> = origin.held(ORIGIN.0);
    let root = |node: &Node, size| node.engine.store().snapshot().root(ORIGIN, size).unwrap();
    let old_root = root(&origin, OLD);
    assert_eq!(prune(&origin), 12);
    let kept: Vec<u64> = [5, 10].into_iter().chain(REPORTED..=OLD).collect();
    assert_eq!(places(&origin), kept);
    assert_eq!(root(&origin, OLD), old_root, "the tree outlives envelopes");

    // One that held everything goes on, and one that prunes as well.
    // Texts that the old log does not have: what has expired is not published again.
    origin.publish(1_001).await;
    early.wait_for(ORIGIN.0, OLD + 1).await;
    assert_eq!(places(&early), (1..=OLD + 1).collect::<Vec<_>>());
    assert_eq!(prune(&early), 12);

    // The late node may take the strand from either of the two.
    let late = network.start(300);
    late.wait_for(ORIGIN.0, OLD + 1).await;
    origin.publish(1_002).await;
    for node in [&origin, &early, &late] {
        node.wait_for(ORIGIN.0, OLD + 2).await;
    }
    let clock = |node: &Node| node.engine.heads().get().get(ORIGIN);
    assert_eq!([clock(&late), clock(&early)], [clock(&origin); 2]);
    let held = late.held(ORIGIN.0);
    assert!(held.iter().all(|(place, bytes)| before.get(place).is_none_or(|it| it == bytes)));
    assert_eq!(places(&late), places(&origin));
    let snapshot = late.engine.store().snapshot();
    for place in [1, 4, 6, 9, 11, 14] {
        let mark = snapshot.mark(EnvelopeId::new(ORIGIN, SequenceId(place))).unwrap();
        assert!(matches!(mark, Some(Mark::Expired { .. })), "{place}: {mark:?}");
    }
    drop(snapshot);
    eventually("the trees of those who held all are whole", || {
        [&origin, &early].iter().all(|node| root(node, OLD) == old_root)
    })
    .await;
    assert_eq!(late.held(ORIGIN.0), origin.held(ORIGIN.0), "new envelopes too");
}
