//! Strands of chains in copies of honest makers and of liars. The comparison with a chain needs one: `cli/tests/joined.rs`.

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use hawser_engine::chain_strand::{ChainEntry, ChainEnvelope};
use hawser_engine::price::price;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::{Address, SecretKey};
use hawser_rules::{NodeRecord, Registry};
use hawser_storage::{
    BootstrapChunk, BootstrapManifest, Durability, FileHash, FolderObjects, LogEntry,
    StoreIdentity, StoreSettings, encode_chunk,
};
use tempfile::TempDir;

use super::super::checkpoints::Evidence;
use super::super::verify;
use super::*;

const GROUPS: OriginatorId = OriginatorId::GROUP_MESSAGES;
const IDENTITIES: OriginatorId = OriginatorId::IDENTITY_UPDATES;
const OWN: OriginatorId = OriginatorId(400);
/// Places of a strand of the maker; the second one is void.
const PLACES: u64 = 6;

fn key(node: u32) -> SecretKey {
    SecretKey::from_bytes(&[u8::try_from(node / 100).unwrap(); 32]).unwrap()
}

/// Nodes 100 to 400 with these of them in the network.
fn registry(canonical: &[u32]) -> Registry {
    let record = |node: u32| NodeRecord {
        id: OriginatorId(node),
        public_key: key(node).public_key(),
        owner: Address([0; 20]),
        http_address: String::new(),
        quic_address: None,
        canonical: canonical.contains(&node),
    };
    [100, 200, 300, 400].into_iter().map(record).collect()
}

/// A place of a strand as an event of a recorded payload; `transaction` makes it another one.
fn entry(originator: OriginatorId, place: u64, transaction: u8) -> ChainEnvelope {
    let text = include_str!("../../../../../tests/vectors/client/envelopes.jsonl");
    let route = if originator == GROUPS { "chain:group" } else { "chain:identity" };
    let mut lines = text.lines().filter(|line| line.contains(route));
    let line: serde_json::Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    let event = ChainEvent {
        sequence: SequenceId(place),
        block_time_s: 1_750_000_000 + place,
        transaction_hash: [transaction; 32],
        client_bytes: hex::decode(line["hex"].as_str().unwrap()).unwrap().into(),
        topic_identifier: None,
        bootstrapped: false,
    };
    match ChainEntry::from_event(originator, &event) {
        ChainEntry::Envelope(envelope) => *envelope,
        ChainEntry::Void(at) => panic!("{at} is void"),
    }
}

fn open(folder: &TempDir, name: &str, node: u32) -> Store {
    let identity = StoreIdentity {
        network: "testnet".to_owned(),
        node: OriginatorId(node),
        public_key: key(node).public_key(),
    };
    Store::open(&StoreSettings {
        path: folder.path().join(name),
        identity,
        durability: Durability::Os,
        price,
        host: None,
        open_files_max: 64,
        cache_bytes: 8 << 20,
    })
    .unwrap()
}

/// A maker with both strands, and the place of its copies.
struct Maker {
    folder: TempDir,
    store: Store,
    place: Bootstraps,
}

impl Maker {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder, "maker", 100);
        for originator in [GROUPS, IDENTITIES] {
            for place in 1..=PLACES {
                let from = SequenceId(place);
                let change = if place == 2 {
                    Change::Skip { originator, from, through: from, reason: SkipReason::Void }
                } else {
                    let ChainEnvelope { id, bytes, facts, .. } = entry(originator, place, 5);
                    Change::Append(LogEntry::valid(id, bytes, facts))
                };
                store.commit(&[change]).unwrap();
            }
        }
        let objects = FolderObjects::new(&folder.path().join("snapshots"));
        Self { place: Bootstraps::new(Arc::new(objects)), store, folder }
    }

    /// Stores what a node signs about a strand, and who cosigns it.
    fn sign(&self, node: u32, originator: OriginatorId, size: u64, cosigners: &[u32]) {
        let root = self.store.snapshot().root(originator, size).unwrap();
        let of = Checkpoint { node: OriginatorId(node), originator, size, root, time_ns: size };
        let mut checkpoint = CosignedCheckpoint::from(of.sign(&key(node)));
        for cosigner in cosigners {
            let cosignature = of.cosign(OriginatorId(*cosigner), size, &key(*cosigner));
            assert!(checkpoint.add_cosignature(cosignature));
        }
        self.store.put_checkpoint(&checkpoint).unwrap();
    }

    fn copy(&self) -> BootstrapManifest {
        let objects = Arc::new(FolderObjects::new(&self.folder.path().join("snapshots")));
        let go_on = &mut |_: u64| ControlFlow::Continue(());
        self.store.copy_for_new_nodes(objects, 1, go_on).unwrap().manifest
    }

    /// A copy in which the strand of group messages has other envelopes.
    fn altered(&self, envelopes: &[(SequenceId, Bytes)]) -> BootstrapManifest {
        let mut manifest = self.copy();
        let bytes = encode_chunk(GROUPS, envelopes);
        let hash = FileHash(*blake3::hash(&bytes).as_bytes());
        let path = self.folder.path().join("snapshots/chunks").join(&hash.to_string()[..2]);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(hash.to_string()), &bytes).unwrap();
        manifest.strands[0].chunks = vec![BootstrapChunk {
            from: envelopes[0].0,
            through: envelopes[envelopes.len() - 1].0,
            len_bytes: bytes.len() as u64,
            hash,
        }];
        manifest
    }

    fn envelopes(&self) -> Vec<(SequenceId, Bytes)> {
        let manifest = self.copy();
        self.place.chunk(GROUPS, &manifest.strands[0].chunks[0]).unwrap()
    }
}

fn majority(
    manifest: &BootstrapManifest,
    originator: OriginatorId,
    canonical: &[u32],
) -> Result<MajorityTree, BootstrapFetchError> {
    let registry = registry(canonical);
    Evidence::of(manifest, &registry)?.majority_tree(originator, &registry, OWN)
}

/// Appends events without a judge of identities: each is valid.
fn append(
    store: &Store,
    originator: OriginatorId,
    events: &[ChainEvent],
) -> Result<(), ChainAppendError> {
    let mut head = store.snapshot().head(originator)?;
    for event in events {
        let (from, through) = (head.next(), event.sequence.previous());
        assert_eq!(event.bootstrapped, from <= through);
        if event.bootstrapped {
            let reason = SkipReason::Void;
            store.commit(&[Change::Skip { originator, from, through, reason }])?;
        }
        let ChainEntry::Envelope(made) = ChainEntry::from_event(originator, event) else {
            panic!("an event of a copy is an envelope");
        };
        let ChainEnvelope { id, bytes, facts, .. } = *made;
        store.commit(&[Change::Append(LogEntry::valid(id, bytes, facts))])?;
        head = event.sequence;
    }
    Ok(())
}

/// Takes a strand over into a store, and compares its tree.
fn taken(
    maker: &Maker,
    store: &Store,
    manifest: &BootstrapManifest,
    signed: &MajorityTree,
    strand: usize,
) -> Result<FetchedStrand, BootstrapFetchError> {
    let stated = &manifest.strands[strand];
    let append = &|originator, events: &[_]| append(store, originator, events);
    let mut fetched = take_over(&maker.place, store, stated, signed, append, &mut |_| {})?;
    while !store.bring_up_trees(16).unwrap() {}
    require_tree(store, signed, &mut fetched)?;
    Ok(fetched)
}

fn places(store: &Store, originator: OriginatorId, through: u64) -> Vec<(u64, Option<Bytes>)> {
    let get = |place| store.snapshot().get(EnvelopeId::new(originator, SequenceId(place)));
    (1..=through).map(|place| (place, get(place).unwrap())).collect()
}

/// The envelopes of a strand, by their places.
type Envelopes = Vec<(SequenceId, Bytes)>;

#[test]
fn a_strand_is_taken_as_far_as_most_nodes_have_signed_one_tree() {
    let maker = Maker::new();
    maker.sign(100, GROUPS, 5, &[300]);
    maker.sign(200, GROUPS, 6, &[]);
    // The same tree, signed by two nodes of their own.
    maker.sign(100, IDENTITIES, 6, &[]);
    maker.sign(300, IDENTITIES, 6, &[]);
    let manifest = maker.copy();
    assert!(manifest.strands[0].is_of_chain() && manifest.strands[1].is_of_chain());
    let all = [100, 200, 300, 400];
    let store = open(&maker.folder, "new", OWN.0);

    let signed = majority(&manifest, GROUPS, &all).unwrap();
    assert_eq!(
        (signed.end(), &signed.nodes[..]),
        (SequenceId(5), &[100, 300].map(OriginatorId)[..])
    );
    let fetched = taken(&maker, &store, &manifest, &signed, 0).unwrap();
    assert_eq!((fetched.head, fetched.reached.envelopes), (SequenceId(5), 4));
    assert_eq!(fetched.covered.unwrap().signed.checkpoint.size, 5);
    assert_eq!(
        store.snapshot().head(GROUPS).unwrap(),
        SequenceId(5),
        "nothing behind what was signed"
    );
    assert_eq!(places(&store, GROUPS, 5), places(&maker.store, GROUPS, 5));
    let (last, _) = last_envelope(&store, EnvelopeId::new(GROUPS, SequenceId(2))).unwrap().unwrap();
    assert_eq!(last.sequence, SequenceId(1), "the second place is void");
    // Again, as after an interruption.
    let again = taken(&maker, &store, &manifest, &signed, 0).unwrap();
    assert_eq!((again.head, again.reached), (SequenceId(5), Reached::default()));

    let signed = majority(&manifest, IDENTITIES, &all).unwrap();
    assert_eq!(signed.nodes, [100, 300].map(OriginatorId));
    taken(&maker, &store, &manifest, &signed, 1).unwrap();
    assert_eq!(places(&store, IDENTITIES, PLACES), places(&maker.store, IDENTITIES, PLACES));

    let verified = verify(&maker.place, &manifest, Some(&registry(&all)), &mut |_| {}).unwrap();
    let size = |at: usize| verified[at].covered.as_ref().unwrap().signed.checkpoint.size;
    assert_eq!((size(0), size(1)), (6, 6));
    assert!(!verified[0].is_signed && !verified[0].is_tree_short);
}

#[test]
fn the_word_of_too_few_nodes_is_no_ground() {
    let maker = Maker::new();
    maker.sign(100, GROUPS, 5, &[400]);
    maker.sign(200, GROUPS, 6, &[]);
    let manifest = maker.copy();
    let refused = |canonical: &[u32], few: (usize, usize)| {
        let error = majority(&manifest, GROUPS, canonical).unwrap_err();
        let BootstrapFetchError::ChainUnsigned { most, wanted, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((most, wanted), few);
    };
    // Two of three are wanted, and this node is none of them.
    refused(&[100, 200, 300, 400], (1, 2));
    // A node that is not in the network does not count, on either side.
    refused(&[300, 400], (0, 1));
    assert_eq!(majority(&manifest, GROUPS, &[200, 400]).unwrap().end(), SequenceId(6));
    // Of a strand without any checkpoint nothing is taken.
    assert!(majority(&manifest, IDENTITIES, &[200, 400]).is_err());
}

#[test]
fn what_a_maker_has_altered_makes_another_tree_or_is_no_event() {
    let maker = Maker::new();
    maker.sign(100, GROUPS, PLACES, &[200]);
    let other = entry(GROUPS, 3, 6).bytes;
    let with = |alter: &dyn Fn(&mut Envelopes)| {
        let mut envelopes = maker.envelopes();
        alter(&mut envelopes);
        maker.altered(&envelopes)
    };
    let all = [100, 200, 300, 400];
    let refused = |name: &str, manifest: &BootstrapManifest| {
        let store = open(&maker.folder, name, OWN.0);
        let signed = majority(manifest, GROUPS, &all).unwrap();
        let error = taken(&maker, &store, manifest, &signed, 0).unwrap_err();
        // A reader without a folder finds the same.
        let known = registry(&all);
        let verified = verify(&maker.place, manifest, Some(&known), &mut |_| {}).unwrap_err();
        assert_eq!(verified.to_string(), error.to_string(), "{name}");
        error
    };
    let is_other_tree = |error: BootstrapFetchError| {
        matches!(error, BootstrapFetchError::OtherTree { originator: GROUPS, size: PLACES, .. })
    };
    // The third place is the second envelope: the second place is void.
    assert!(is_other_tree(refused("exchanged", &with(&|it| it[1].1 = other.clone()))));
    assert!(is_other_tree(refused("left out", &with(&|it| drop(it.remove(1))))));
    assert!(is_other_tree(refused("cut off", &with(&|it| it.truncate(3)))));
    let invented = entry(GROUPS, 2, 5).bytes;
    let with_more = with(&|it| it.insert(1, (SequenceId(2), invented.clone())));
    assert!(is_other_tree(refused("made up", &with_more)));
    let flipped = with(&|it| {
        let mut bytes = it[1].1.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        it[1].1 = bytes.into();
    });
    let error = refused("flipped", &flipped);
    let is_no_event = matches!(error, BootstrapFetchError::NoEvent { place: SequenceId(3), .. })
        || is_other_tree(error);
    assert!(is_no_event);
    let moved = with(&|it| it[1].1 = it[2].1.clone());
    let error = refused("moved", &moved);
    assert!(matches!(error, BootstrapFetchError::NoEvent { place: SequenceId(3), .. }), "{error}");
    // The honest copy is still there.
    let (manifest, store) = (maker.copy(), open(&maker.folder, "honest", OWN.0));
    let signed = majority(&manifest, GROUPS, &all).unwrap();
    taken(&maker, &store, &manifest, &signed, 0).unwrap();
}

#[test]
fn more_than_enough_nodes_vouch_for_now_is_never_kept() {
    let maker = Maker::new();
    maker.sign(100, GROUPS, 5, &[200]);
    maker.sign(300, GROUPS, 6, &[]);
    let manifest = maker.copy();
    let store = open(&maker.folder, "new", OWN.0);
    // An earlier run with a registry in which one node was enough.
    let signed = majority(&manifest, GROUPS, &[300, 400]).unwrap();
    assert_eq!(taken(&maker, &store, &manifest, &signed, 0).unwrap().head, SequenceId(6));
    let signed = majority(&manifest, GROUPS, &[100, 200, 300, 400]).unwrap();
    let error = taken(&maker, &store, &manifest, &signed, 0).unwrap_err();
    let head = SequenceId(6);
    assert!(
        matches!(error, BootstrapFetchError::ChainAhead { head: it, signed: 5, .. } if it == head),
        "{error}"
    );
}
