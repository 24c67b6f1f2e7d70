//! Tests of chain strands in snapshots of honest makers and of liars, and of chain endpoints that contradict each
//! other. The comparison with a whole chain is tested in `cli/tests/joined.rs`.

use super::super::checkpoints::Evidence;
use super::super::report::StrandCounts;
use super::super::testing::{
    BLOCK, EndpointStatements, GROUPS, IDENTITIES, Maker, OWN, PLACES, append, asked, entry, key,
    majority, open, registry,
};
use super::super::verify;
use super::*;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::merkle::TreeHash;
use hawser_rules::{NodeRecord, Registry};
use hawser_storage::BootstrapManifest;

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
    while !store.extend_trees(16).unwrap() {}
    require_tree(store, signed, &mut fetched)?;
    Ok(fetched)
}

fn places(store: &Store, originator: OriginatorId, through: u64) -> Vec<(u64, Option<Bytes>)> {
    let get = |place| store.snapshot().get(EnvelopeId::new(originator, SequenceId(place)));
    (1..=through).map(|place| (place, get(place).unwrap())).collect()
}

/// Returns the event of a place of group messages, as a snapshot gives it.
fn event_of(place: u64) -> ChainEvent {
    let at = EnvelopeId::new(GROUPS, SequenceId(place));
    ChainEvent::of_bytes(at, &entry(GROUPS, place, 5).bytes).unwrap()
}

/// The envelopes of a strand with their sequence ids.
type Envelopes = Vec<(SequenceId, Bytes)>;

#[test]
fn a_strand_is_taken_as_far_as_most_nodes_have_signed_one_tree() {
    let maker = Maker::new();
    maker.sign(100, GROUPS, 5, &[300]);
    maker.sign(200, GROUPS, 6, &[]);
    // The same tree, signed by the two nodes themselves.
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
    let second = EnvelopeId::new(GROUPS, SequenceId(2));
    let (last, _) = store.snapshot().last_held_through(second).unwrap().unwrap();
    assert_eq!(last.sequence, SequenceId(1), "the second place is void");
    // A second call, as after an interruption.
    let again = taken(&maker, &store, &manifest, &signed, 0).unwrap();
    assert_eq!((again.head, again.reached), (SequenceId(5), StrandCounts::default()));

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
    // Two of three signatures are needed, and this node is not one of the three.
    refused(&[100, 200, 300, 400], (1, 2));
    // A node outside the network does not count, neither as a signer nor in the total.
    refused(&[300, 400], (0, 1));
    assert_eq!(majority(&manifest, GROUPS, &[200, 400]).unwrap().end(), SequenceId(6));
    // A strand without any checkpoint is not taken.
    assert!(majority(&manifest, IDENTITIES, &[200, 400]).is_err());
}

/// The contracts count such a node, too. Otherwise a smaller part of the network would be most of it.
#[test]
fn a_node_without_a_valid_key_counts_and_has_no_word() {
    let maker = Maker::new();
    maker.sign(100, GROUPS, 5, &[300]);
    let manifest = maker.copy();
    let counted = |keyless: &[(u32, bool)]| {
        let keyless = keyless.iter().map(|(id, is_canonical)| (OriginatorId(*id), *is_canonical));
        let known = registry(&[100, 200, 300]).with_unusable(keyless);
        match Evidence::of(&manifest, &known).unwrap().majority_tree(GROUPS, &known, OWN) {
            Ok(signed) => Ok(signed.end().0),
            Err(BootstrapFetchError::ChainUnsigned { most, wanted, .. }) => Err((most, wanted)),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(counted(&[]), Ok(5));
    assert_eq!(counted(&[(500, true)]), Err((2, 3)));
    assert_eq!(counted(&[(500, false)]), Ok(5), "it is not in the network");
}

/// The chain was reorganised, and the strand was cut and read again, after a node had signed its tree.
#[test]
fn an_honest_maker_leaves_out_what_was_signed_of_an_earlier_tree() {
    let maker = Maker::new();
    let (node, root) = (OriginatorId(100), TreeHash([1; 32]));
    let of = Checkpoint { node, originator: GROUPS, size: 5, root, time_ns: 5 };
    let mut before = CosignedCheckpoint::from(of.sign(&key(node.0)));
    assert!(before.add_cosignature(of.cosign(OriginatorId(300), 5, &key(300))));
    maker.store.put_checkpoint(&before).unwrap();
    // What it had signed below the cut is still true.
    maker.sign(100, GROUPS, 3, &[300]);
    maker.sign(200, GROUPS, PLACES, &[300]);
    let manifest = maker.copy();
    let signed = manifest.strands[0].checkpoints.iter().map(|it| it.signed.checkpoint);
    let signed: Vec<_> = signed.map(|of| (of.node.0, of.size)).collect();
    assert_eq!(signed, [(100, 3), (200, PLACES)]);
    let known = registry(&[100, 200, 300, 400]);
    let verified = verify(&maker.place, &manifest, Some(&known), &mut |_| {}).unwrap();
    assert_eq!(verified[0].covered.as_ref().unwrap().signed.checkpoint.size, PLACES);
}

/// Otherwise the operator of one node, who has several in the registry, would be a majority.
#[test]
fn a_key_that_is_registered_for_several_nodes_counts_once() {
    let maker = Maker::new();
    let root = maker.store.snapshot().root(GROUPS, PLACES).unwrap();
    let (node, twin) = (OriginatorId(100), OriginatorId(300));
    let of = Checkpoint { node, originator: GROUPS, size: PLACES, root, time_ns: 5 };
    let mut checkpoint = CosignedCheckpoint::from(of.sign(&key(node.0)));
    assert!(checkpoint.add_cosignature(of.cosign(twin, 5, &key(node.0))));
    maker.store.put_checkpoint(&checkpoint).unwrap();
    // The registry, in which these two have one key, or the second one has that of the new node.
    let with_key_of = |other: OriginatorId| -> Registry {
        let record = |it: &NodeRecord| match it.id == twin {
            true => NodeRecord { public_key: key(other.0).public_key(), ..it.clone() },
            false => it.clone(),
        };
        registry(&[100, 200, 300, 400]).nodes().map(record).collect()
    };
    let signed = |manifest: &BootstrapManifest, known: &Registry| {
        Evidence::of(manifest, known).unwrap().majority_tree(GROUPS, known, OWN)
    };
    let twins = with_key_of(node);
    let error = signed(&maker.copy(), &twins).unwrap_err();
    let is_alone = |error: &BootstrapFetchError| {
        matches!(error, BootstrapFetchError::ChainUnsigned { most: 1, wanted: 2, .. })
    };
    assert!(is_alone(&error), "{error}");
    assert!(checkpoint.add_cosignature(of.cosign(OriginatorId(200), 5, &key(200))));
    maker.store.put_checkpoint(&checkpoint).unwrap();
    let tree = signed(&maker.copy(), &twins).unwrap();
    assert_eq!(tree.nodes, [100, 200].map(OriginatorId), "the two keys of the other nodes");

    // The key of the new node is none of another one.
    let maker = Maker::new();
    let mut checkpoint = CosignedCheckpoint::from(of.sign(&key(node.0)));
    assert!(checkpoint.add_cosignature(of.cosign(twin, 5, &key(OWN.0))));
    maker.store.put_checkpoint(&checkpoint).unwrap();
    let error = signed(&maker.copy(), &with_key_of(OWN)).unwrap_err();
    assert!(is_alone(&error), "{error}");
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
        // A reader without a data folder finds the same.
        let known = registry(&all);
        let verified = verify(&maker.place, manifest, Some(&known), &mut |_| {}).unwrap_err();
        assert_eq!(verified.to_string(), error.to_string(), "{name}");
        error
    };
    let is_other_tree = |error: BootstrapFetchError| {
        matches!(error, BootstrapFetchError::OtherTree { originator: GROUPS, size: PLACES, .. })
    };
    // The third sequence id has the second envelope, because the second sequence id is void.
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
    // The honest snapshot still exists.
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
    // An earlier run used a registry in which one node was enough.
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

/// Compares the first place of a strand with a chain behind these endpoints. Returns the result with the position.
async fn compared(
    maker: &Maker,
    manifest: &BootstrapManifest,
    said: Vec<EndpointStatements>,
    dead: Option<&str>,
    trusts_one_endpoint: bool,
) -> (Result<(), BootstrapFetchError>, Option<ChainPosition>) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, "new", OWN.0);
    let signed = majority(manifest, GROUPS, &[100, 200]).unwrap();
    let mut strand = taken(maker, &store, manifest, &signed, 0).unwrap();
    let contract = asked(said, dead, trusts_one_endpoint).await.unwrap();
    let compared = compare(&store, &ChainGrounds { signed, contract }, &mut strand).await;
    (compared, store.snapshot().chain_position(GROUPS).unwrap())
}

#[tokio::test]
async fn no_endpoint_alone_says_where_the_node_reads_on() {
    let maker = Maker::new();
    maker.sign(100, GROUPS, 1, &[200]);
    let manifest = maker.copy();
    let truth = EndpointStatements::truth();
    let position = ChainPosition { block: BLOCK - 1, hash: [2; 32] };
    let far = 1 << 62;
    let lies = [
        ("far ahead", EndpointStatements { number: far, ..truth.clone() }),
        (
            "far ahead of a chain that is as long",
            EndpointStatements { number: far, newest: far, ..truth.clone() },
        ),
        ("another block", EndpointStatements { number: BLOCK + 1, ..truth.clone() }),
        ("another hash", EndpointStatements { hashes: [4; 2], ..truth.clone() }),
        ("a receipt of another block", EndpointStatements { hashes: [4, 1], ..truth.clone() }),
        ("another parent", EndpointStatements { parent: 4, ..truth.clone() }),
        ("another time", EndpointStatements { time_s: truth.time_s + 1, ..truth.clone() }),
        ("another payload", EndpointStatements { payload: vec![1], ..truth.clone() }),
        ("no transaction", EndpointStatements { has_transaction: false, ..truth.clone() }),
        ("a shorter chain", EndpointStatements { newest: BLOCK - 1, ..truth.clone() }),
    ];
    for (what, lie) in lies {
        for said in [vec![lie.clone(), truth.clone()], vec![truth.clone(), lie]] {
            let (result, position) = compared(&maker, &manifest, said, None, false).await;
            let error = result.unwrap_err();
            let is_disputed = matches!(error, BootstrapFetchError::ChainDisputed { .. });
            assert!(is_disputed, "{what}: {error}");
            assert_eq!(position, None, "{what}");
        }
    }
    // No second endpoint is needed to detect a block that the endpoint itself does not have yet.
    let alone = vec![EndpointStatements { number: far, ..truth.clone() }];
    let (result, _) = compared(&maker, &manifest, alone, None, true).await;
    assert!(matches!(result, Err(BootstrapFetchError::ChainDisputed { .. })));

    let both = vec![truth.clone(), truth.clone()];
    let (result, found) = compared(&maker, &manifest, both, None, false).await;
    result.unwrap();
    assert_eq!(found, Some(position));
    let none = EndpointStatements { has_transaction: false, ..truth };
    let (result, _) = compared(&maker, &manifest, vec![none.clone(), none], None, false).await;
    assert!(matches!(result, Err(BootstrapFetchError::NotOnChain { .. })));
}

/// Nodes that lie together could otherwise hide false events among void places.
#[tokio::test]
async fn the_chain_is_asked_for_as_many_envelopes_however_many_places_are_void() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, "new", OWN.0);
    append(&store, GROUPS, &[event_of(1)]).unwrap();
    let (from, through, reason) = (SequenceId(2), SequenceId(100), SkipReason::Void);
    store.commit(&[Change::Skip { originator: GROUPS, from, through, reason }]).unwrap();
    let (node, root) = (OriginatorId(100), TreeHash([1; 32]));
    let of = Checkpoint { node, originator: GROUPS, size: through.0, root, time_ns: 5 };
    let checkpoint = CosignedCheckpoint::from(of.sign(&key(node.0)));
    let signed = MajorityTree { checkpoint, nodes: vec![node] };
    let said = vec![EndpointStatements::truth(); 2];
    let contract = asked(said, None, false).await.unwrap();
    let mut strand = FetchedStrand::new(GROUPS, through, StrandCounts::default());
    compare(&store, &ChainGrounds { signed, contract }, &mut strand).await.unwrap();
    let wanted = u64::try_from(ASKED).unwrap() + 1;
    assert_eq!(strand.of_chain.unwrap().confirmed, wanted, "the only envelope, each time");
}

#[tokio::test]
async fn one_endpoint_is_believed_only_when_the_operator_trusts_it() {
    let maker = Maker::new();
    maker.sign(100, GROUPS, 1, &[200]);
    let (manifest, truth) = (maker.copy(), EndpointStatements::truth());
    let alone = asked(vec![truth.clone()], None, false).await;
    assert!(matches!(alone.err(), Some(BootstrapFetchError::OneEndpoint)));
    // A second configured endpoint that does not answer does not count.
    let dead = Some("http://127.0.0.1:1");
    let (result, found) = compared(&maker, &manifest, vec![truth.clone()], dead, false).await;
    let few =
        matches!(result, Err(BootstrapFetchError::FewEndpoints { answered: 1, wanted: 2, .. }));
    assert!(few && found.is_none(), "{result:?}");
    for dead in [None, dead] {
        let (result, found) = compared(&maker, &manifest, vec![truth.clone()], dead, true).await;
        result.unwrap();
        assert_eq!(found, Some(ChainPosition { block: BLOCK - 1, hash: [2; 32] }));
    }
}
