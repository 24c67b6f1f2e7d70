//! The folder of a replica that is given to a node: the node goes on from it in quarantine.

use std::path::Path;
use std::sync::Arc;

use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{
    CommitError, Facts, FolderStanding, HostSettings, OpenError, PromotionError, Store,
    StoreIdentity, StoreSettings, UnknownFolder, WriteFault,
};

use crate::support::*;

/// The settings of a replica.
fn of_replica(data: &Path) -> StoreSettings {
    let (node, public_key) = (OriginatorId::REPLICA, key(9).public_key());
    let identity = StoreIdentity { node, public_key, ..identity() };
    StoreSettings { identity, ..settings(data) }
}

/// The settings of the node, on the host whose state folder is in `place`.
fn of_node(place: &Path, data: &Path, new_strand: bool) -> StoreSettings {
    let host = HostSettings { state_dir: place.join("state"), new_strand };
    StoreSettings { host: Some(host), ..settings(data) }
}

/// A folder of a replica with the strands of two nodes.
fn replica(data: &Path) -> Store {
    let store = Store::open(&of_replica(data)).unwrap();
    extend(&store, OWN, 3);
    extend(&store, PEER, 2);
    store
}

#[test]
fn the_folder_of_a_replica_becomes_that_of_a_node_in_quarantine() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let store = replica(&data);
    let incarnation = store.incarnation();
    let text = |opened: Result<Store, OpenError>| opened.map(drop).unwrap_err().to_string();
    drop(store);
    let refused = text(Store::open(&of_node(place.path(), &data, false)));
    assert!(refused.contains("belongs to a replica, not to node"), "{refused}");
    assert!(refused.contains("hawser promote"), "{refused}");
    let store = Store::open(&of_replica(&data)).unwrap();
    assert_eq!(store.promote_to(OWN, &key(1).public_key()).unwrap(), SequenceId(3));
    let refused = store.commit(&[append(PEER, 3)]);
    assert!(matches!(refused, Err(CommitError::Poisoned { .. })), "{refused:?}");
    drop(store);

    let refused = Store::open(&of_replica(&data)).map(drop);
    assert!(matches!(refused, Err(OpenError::OtherNode { .. })), "{refused:?}");
    let refused = text(Store::open(&of_replica(&data)));
    assert!(refused.contains("a replica does not start from it"), "{refused}");
    let refused = Store::open(&of_node(place.path(), &data, true)).map(drop);
    assert!(matches!(refused, Err(OpenError::StrandExists { .. })), "{refused:?}");
    let store = Store::open(&of_node(place.path(), &data, false)).unwrap();
    assert_eq!(store.standing(), FolderStanding::Unknown(UnknownFolder::NoMarker));
    assert_ne!(store.incarnation(), incarnation, "no host knows the folder");
    assert_eq!(store.stale_projections(), ["receipt"], "a replica keeps none");
    assert!(store.may_lack_places().unwrap());
    let snapshot = store.snapshot();
    assert_eq!(snapshot.head(OWN).unwrap(), SequenceId(3));
    assert_eq!(snapshot.head(PEER).unwrap(), SequenceId(2));
    drop(snapshot);
    // The head of the own strand is stored in two places, and opening compares them.
    extend(&store, OWN, 1);
    drop(store);
    let store = Store::open(&of_node(place.path(), &data, false)).unwrap();
    assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(4));
    assert!(store.may_lack_places().unwrap(), "no run has signed from it");
    store.adopt().unwrap();
    assert!(!store.may_lack_places().unwrap());
}

#[test]
fn the_host_of_the_node_knows_that_it_has_signed_more_than_a_promoted_folder_holds() {
    let place = tempfile::tempdir().unwrap();
    let (lost, data) = (place.path().join("lost"), place.path().join("data"));
    let store = Store::open(&of_node(place.path(), &lost, true)).unwrap();
    store.adopt().unwrap();
    extend(&store, OWN, 5);
    drop(store);
    replica(&data).promote_to(OWN, &key(1).public_key()).unwrap();
    let store = Store::open(&of_node(place.path(), &data, false)).unwrap();
    assert_eq!(store.standing(), FolderStanding::Unknown(UnknownFolder::OtherFolder));
    assert_eq!(store.host_head(), SequenceId(5));
}

#[test]
fn other_folders_and_strands_are_refused_and_a_lost_write_changes_no_owner() {
    let place = tempfile::tempdir().unwrap();
    let public_key = key(1).public_key();
    let of_node = Store::open(&settings(&place.path().join("node"))).unwrap();
    extend(&of_node, PEER, 1);
    let refused = of_node.promote_to(PEER, &public_key);
    assert!(matches!(refused, Err(PromotionError::OfNode { owner: OWN })), "{refused:?}");

    let data = place.path().join("data");
    let store = replica(&data);
    for node in [OriginatorId::GROUP_MESSAGES, OriginatorId::REPLICA] {
        let refused = store.promote_to(node, &public_key);
        assert!(matches!(refused, Err(PromotionError::NoNode { .. })), "{refused:?}");
    }
    let refused = store.promote_to(OriginatorId(300), &public_key);
    assert!(matches!(refused, Err(PromotionError::NoStrand { .. })), "{refused:?}");
    extend(&store, PEER, 1);
    store.fail_next_write();
    let refused = store.promote_to(OWN, &public_key);
    assert!(matches!(refused, Err(PromotionError::Unsettled { node: OWN, .. })), "{refused:?}");
    let again = store.promote_to(OWN, &public_key);
    let is_not_begun = matches!(again, Err(PromotionError::Write(CommitError::Poisoned { .. })));
    assert!(is_not_begun, "{again:?}");
    drop(store);
    let store = Store::open(&of_replica(&data)).unwrap();
    assert!(store.stale_projections().is_empty());
    assert_eq!(store.snapshot().head(PEER).unwrap(), SequenceId(3));
}

#[test]
fn a_strand_whose_signatures_are_not_all_checked_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let store = replica(&place.path().join("data"));
    let shown = Facts { addresses: Vec::new(), receipt: None, ..facts(id(OWN, 4)) };
    store.commit_shown(&[append_with(OWN, 4, shown.unbooked())]).unwrap();
    let refused = store.promote_to(OWN, &key(1).public_key());
    let (head, verified) = (SequenceId(4), SequenceId(3));
    let unverified = PromotionError::Unverified { node: OWN, head, verified };
    assert_eq!(refused.unwrap_err().to_string(), unverified.to_string());
}

/// The disk takes the write, and fails at its sync.
#[test]
fn a_failed_write_that_the_disk_has_is_not_called_unchanged() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let store = replica(&data);
    store.set_write_faults(Some(Arc::new(|| Some(WriteFault::Kept))));
    let failed = store.promote_to(OWN, &key(1).public_key()).unwrap_err();
    assert!(matches!(failed, PromotionError::Unsettled { node: OWN, .. }), "{failed:?}");
    assert!(failed.to_string().contains("may be that of node 100"), "{failed}");
    store.set_write_faults(None);
    // Reading the log again shows what the disk has, which is no replica's any more.
    store.reopen().unwrap_err();
    drop(store);
    let refused = Store::open(&of_replica(&data)).map(drop);
    assert!(matches!(refused, Err(OpenError::OtherNode { .. })), "{refused:?}");
    let store = Store::open(&of_node(place.path(), &data, false)).unwrap();
    assert!(store.may_lack_places().unwrap());
    assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(3));
}
