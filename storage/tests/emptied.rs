//! Databases in memory that simulations use again: nothing of an earlier use is left.

use std::collections::BTreeMap;

use crate::support::*;
use hawser_proto::merkle::TreeHash;
use hawser_proto::price::Rate;
use hawser_proto::{Cursor, EnvelopeId, SequenceId};
use hawser_storage::{
    Evidence, EvidenceTime, LogItem, Misbehavior, SkipReason, Store, StoreIdentity, StoredEvidence,
    Validity,
};

/// Everything that readers are shown of two strands.
#[derive(Debug, PartialEq)]
struct Contents {
    heads: Cursor,
    log: Vec<LogItem>,
    roots: Vec<TreeHash>,
    projections: BTreeMap<&'static str, [u8; 32]>,
    rates: Vec<Rate>,
    evidence: Vec<StoredEvidence>,
}

fn contents(store: &Store) -> Contents {
    let snapshot = store.snapshot();
    let log = [OWN, PEER].map(|strand| {
        let head = snapshot.head(strand).unwrap();
        snapshot.log(id(strand, 0), head).map(Result::unwrap).collect::<Vec<_>>()
    });
    let roots = [OWN, PEER].map(|strand| {
        let size = snapshot.tree_size(strand).unwrap();
        snapshot.root(strand, size).unwrap()
    });
    Contents {
        heads: snapshot.heads().unwrap(),
        log: log.concat(),
        roots: roots.to_vec(),
        projections: snapshot.projection_digests().unwrap(),
        rates: snapshot.rates().unwrap(),
        evidence: snapshot.evidence(EvidenceTime::default(), usize::MAX, usize::MAX).unwrap(),
    }
}

/// Rows of most families, of which some are written to tables.
fn fill(store: &Store) {
    store.record_rates(&[rate(0, 3)]).unwrap();
    extend(store, OWN, 40);
    extend(store, PEER, 20);
    store.commit(&[append_invalid(PEER, 21, 9)]).unwrap();
    store.flush().unwrap();
    extend(store, OWN, 10);
    store.commit(&[skip(PEER, 22, 25, SkipReason::Missing), append(PEER, 26)]).unwrap();
    let envelopes = vec![signed("one", 1), signed("another", 1)];
    let (misbehavior, from) = (Misbehavior::TimeBack, Some(OWN));
    let found = Evidence { misbehavior, at: id(PEER, 2), from, envelopes };
    store.record_evidence(7, &[found]).unwrap();
    // It deletes rows in ranges.
    let derive = |at: EnvelopeId, _: &bytes::Bytes, validity: Validity| {
        (validity == Validity::Valid).then(|| facts(at))
    };
    store.rebuild(&derive, &mut |_| {}).unwrap();
}

#[test]
fn a_database_that_was_emptied_is_as_a_new_one() {
    let new = in_memory();
    fill(&new);
    let filled = contents(&new);
    assert_eq!(filled.heads.get(PEER), SequenceId(26));
    let nothing = contents(&in_memory());
    let mut store = in_memory();
    for round in 0..3 {
        fill(&store);
        assert_eq!(contents(&store), filled, "round {round}");
        let incarnation = store.incarnation();
        store = store.emptied(identity()).expect("no other handle is in use");
        assert_eq!(contents(&store), nothing, "round {round}");
        assert_ne!(store.incarnation(), incarnation);
    }
    let network = "another".to_owned();
    let other = StoreIdentity { network, node: PEER, public_key: key(2).public_key() };
    let store = store.emptied(other.clone()).unwrap();
    assert_eq!(store.identity(), &other);
    extend(&store, PEER, 3);
}

#[test]
fn a_database_in_use_or_in_a_folder_or_after_a_failed_write_is_not_emptied() {
    let store = in_memory();
    let clone = store.clone();
    extend(&store, OWN, 3);
    assert!(store.emptied(identity()).is_none());
    assert_eq!(clone.snapshot().head(OWN).unwrap(), SequenceId(3));

    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 3);
    assert!(store.emptied(identity()).is_none());
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(3));

    let store = in_memory();
    store.fail_next_write();
    store.commit(&[append(OWN, 1)]).unwrap_err();
    assert!(store.emptied(identity()).is_none());
}
