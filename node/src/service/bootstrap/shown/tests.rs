//! Strands that are taken over before their signatures are checked, from honest makers and from liars.

use std::collections::BTreeMap;
use std::ops::Range;

use hawser_proto::Signature;
use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_rules::{Absences, PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable};
use hawser_storage::{BootstrapManifest, Mark, VerifiedBatch};

use super::super::checkpoints::Evidence;
use super::super::testing::{Maker, OWN, key, open, registry};
use super::super::{FetchJob, KnownLists};
use super::*;
use crate::service::testing::evidence;

const NODE: OriginatorId = OriginatorId(300);
/// The number of sequence ids of its strand.
const ALL: u64 = 9;
/// The sequence id whose payer signature belongs to no key, which only a check of that signature shows.
const BAD: u64 = 4;
/// The sequence id of an envelope without a payer, which has to be verified before readers may be shown it.
const UNPAID: u64 = 6;
const DAYS: u8 = 60;
/// An application message in a group.
const CLIENT: &str = "0a13121100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa12250a230a210001000210\
                      aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000000000000101000000";

/// Returns an envelope of the strand that states a time, with the signature of the node `by`.
fn envelope(place: u64, second: u32, by: u32) -> Bytes {
    let client = Bytes::from(hex::decode(CLIENT).unwrap());
    let payer = PayerEnvelope::sign(client.clone(), NODE, DAYS.into(), &key(200));
    let signature = payer.payer_signature.unwrap().bytes;
    let signature = if place == BAD { unrecoverable(&signature) } else { signature };
    let head = [0x0a, u8::try_from(client.len()).unwrap()];
    let tail = [0x18, 0xac, 0x02, 0x20, DAYS]; // for node 300
    let parts: [&[u8]; 5] = [&head, &client, &[0x12, 67, 0x0a, 65], &signature, &tail];
    let paid = Bytes::from(parts.concat());
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: NODE.0,
        originator_sequence_id: place,
        originator_ns: i64::from(second) * 1_000_000_000,
        payer_envelope_bytes: if place == UNPAID {
            Bytes::from_static(b"no payer's")
        } else {
            paid
        },
        base_fee_picodollars: 7,
        congestion_fee_picodollars: 0,
        expiry_unixtime: u64::from(second) + u64::from(DAYS) * 86_400,
    };
    UnsealedEnvelope::new(&statement).seal(&key(by))
}

/// Changes a signature so that it has its form and belongs to no key.
fn unrecoverable(signature: &Bytes) -> Bytes {
    let mut changed = (0..=255).map(|byte| {
        let mut bytes = signature.to_vec();
        bytes[1] = byte;
        Bytes::from(bytes)
    });
    let digest = originator_digest(&Bytes::from_static(b"any"));
    let belongs_to_none = |bytes: &Bytes| {
        Signature::from_bytes(bytes).is_ok_and(|signature| signature.recover(digest).is_err())
    };
    changed.find(belongs_to_none).expect("half of all points are not on the curve")
}

fn honest(place: u64) -> (SequenceId, Bytes) {
    (SequenceId(place), envelope(place, 1_700_000_000, NODE.0))
}

fn all_honest() -> Vec<(SequenceId, Bytes)> {
    (1..=ALL).map(honest).collect()
}

fn verifier() -> EnvelopeVerifier {
    let (public_key, absences) = (key(NODE.0).public_key(), Absences::NONE);
    EnvelopeVerifier { originator: NODE, key: public_key, own: OWN, absences }
}

/// Returns the entries of the honest strand, verified.
fn verified() -> Vec<LogEntry> {
    let all = all_honest().into_iter().map(|(_, bytes)| bytes).collect();
    verifier().check(all).into_iter().map(Result::unwrap).collect()
}

/// A maker that has the strand of the node.
fn maker() -> Maker {
    let maker = Maker::new();
    let changes: Vec<Change> = verified().into_iter().map(Change::Append).collect();
    maker.store.commit(&changes).unwrap();
    maker
}

/// The strand of the node in a snapshot of the maker, and the tree that enough nodes vouch for.
fn strand_of(maker: &Maker) -> (BootstrapStrand, Option<SignedCheckpoint>) {
    let manifest: BootstrapManifest = maker.copy();
    let known = registry(&[100, 200, 300, 400]);
    let signed = Evidence::of(&manifest, &known).unwrap().vouched_tree(NODE, &known, OWN);
    let mut strands = manifest.strands.into_iter();
    (strands.find(|it| it.originator == NODE).unwrap(), signed)
}

/// A maker, and its strand with a tree that two of three nodes have signed.
fn vouched() -> (Maker, BootstrapStrand, SignedCheckpoint) {
    let maker = maker();
    maker.sign(NODE.0, NODE, ALL, &[100]);
    let (stated, signed) = strand_of(&maker);
    (maker, stated, signed.unwrap())
}

type Taken = Result<TakenFirst, BootstrapFetchError>;

fn take(maker: &Maker, store: &Store, stated: &BootstrapStrand, signed: SignedCheckpoint) -> Taken {
    let verifier = verifier();
    let showing = Showing { place: &maker.place, store, verifier: &verifier, signed };
    showing.take_over(stated, &mut |_| {})
}

/// Takes over a whole strand. Returns its last sequence id, and counts.
fn take_whole(
    maker: &Maker,
    store: &Store,
    stated: &BootstrapStrand,
    signed: SignedCheckpoint,
) -> (SequenceId, StrandCounts) {
    match take(maker, store, stated, signed).unwrap() {
        TakenFirst::Whole(head, reached) => (head, reached),
        other => panic!("{other:?}"),
    }
}

/// Takes over a snapshot with these envelopes into a new store. Returns the result, and the head.
fn take_altered(envelopes: &[(SequenceId, Bytes)]) -> (Taken, SequenceId) {
    let (maker, mut stated, signed) = vouched();
    stated.chunks = vec![maker.put_chunk(NODE, envelopes)];
    let store = open(&maker.folder, "new", OWN.0);
    let taken = take(&maker, &store, &stated, signed);
    (taken, store.snapshot().head(NODE).unwrap())
}

/// Verifies the strand as a node does that starts from the folder.
fn verify(store: &Store) -> VerifiedBatch {
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, OWN);
    store.commit_verified(NODE, &verified(), &derive).unwrap()
}

/// Asserts that a store equals one in which the strand was verified first.
fn assert_equals_verified_first(maker: &Maker, store: &Store) {
    let mirror = open(&maker.folder, "mirror", OWN.0);
    let changes: Vec<Change> = verified().into_iter().map(Change::Append).collect();
    mirror.commit(&changes).unwrap();
    let (a, b) = (store.snapshot(), mirror.snapshot());
    assert_eq!(a.projection_digests().unwrap(), b.projection_digests().unwrap());
    assert_eq!(a.verified_head(NODE).unwrap(), SequenceId(ALL));
    assert_eq!(a.root(NODE, ALL).unwrap(), b.root(NODE, ALL).unwrap());
    for place in 1..=ALL {
        let at = EnvelopeId::new(NODE, SequenceId(place));
        assert_eq!(a.get(at).unwrap(), b.get(at).unwrap());
        assert_eq!(a.mark(at).unwrap(), b.mark(at).unwrap());
    }
}

#[test]
fn a_vouched_strand_is_taken_unverified_and_ends_as_one_that_was_verified_first() {
    let (maker, stated, signed) = vouched();
    let store = open(&maker.folder, "new", OWN.0);
    let (head, reached) = take_whole(&maker, &store, &stated, signed);
    assert_eq!((head, reached.envelopes, reached.missing), (SequenceId(ALL), ALL, 0));
    assert_eq!(reached.invalid, 1, "the rule that the unpaid one breaks shows at once");
    let mark = |place| store.snapshot().mark(EnvelopeId::new(NODE, SequenceId(place))).unwrap();
    assert!(matches!(mark(UNPAID), Some(Mark::Invalid(_))));
    assert_eq!(mark(BAD), None, "readers are shown it");
    assert_eq!(store.snapshot().verified_head(NODE).unwrap(), SequenceId::NONE);
    assert_eq!(unverified(&store, NODE).unwrap(), ALL);
    let shown_by = store.snapshot().shown_by(NODE).unwrap().unwrap();
    assert_eq!((shown_by.size, shown_by.signed), (ALL, signed));
    // Nodes may start from it, and nothing verified may follow before they have verified it.
    require_whole(&store, NODE).unwrap();
    let refused = require_verified(&store, NODE);
    assert!(matches!(refused, Err(BootstrapFetchError::ShownPart { .. })), "{refused:?}");
    // A second call, as after an interruption.
    let again = take_whole(&maker, &store, &stated, signed);
    assert_eq!(again, (SequenceId(ALL), StrandCounts::default()));
    let done = verify(&store);
    assert_eq!((done.through, done.withdrawn, done.invalid), (SequenceId(ALL), 1, 2));
    require_verified(&store, NODE).unwrap();
    assert_equals_verified_first(&maker, &store);
}

/// The folder is not released afterwards, also not by `--release`.
#[test]
fn chunks_that_make_another_tree_are_refused() {
    let (maker, mut stated, signed) = vouched();
    let mut envelopes = all_honest();
    // Another statement that the node has signed for a place.
    envelopes[2].1 = envelope(3, 1_700_000_001, NODE.0);
    stated.chunks = vec![maker.put_chunk(NODE, &envelopes)];
    let store = open(&maker.folder, "new", OWN.0);
    let is_refused = |it: &Result<(), BootstrapFetchError>| {
        matches!(it, Err(BootstrapFetchError::OtherTree { size: ALL, .. }))
    };
    let taken = take(&maker, &store, &stated, signed).map(|_| ());
    assert!(is_refused(&taken), "{taken:?}");
    // All of it is in the folder by now.
    let again = take(&maker, &store, &stated, signed).map(|_| ());
    assert!(is_refused(&again), "{again:?}");
    let released = require_whole(&store, NODE);
    assert!(is_refused(&released), "{released:?}");
}

#[test]
fn chunks_without_the_envelopes_of_their_places_are_refused() {
    let moved = |all: &mut Envelopes| {
        let (one, two) = (all[0].1.clone(), all[1].1.clone());
        (all[0].1, all[1].1) = (two, one);
    };
    let none = |all: &mut Envelopes| all[2].1 = Bytes::from_static(b"no envelope");
    let moved: &dyn Fn(&mut Envelopes) = &moved;
    for (change, named) in [(moved, 1), (&none, 3)] {
        let mut envelopes = all_honest();
        change(&mut envelopes);
        let (taken, head) = take_altered(&envelopes);
        let Err(BootstrapFetchError::Forged { place, .. }) = taken else { panic!("{taken:?}") };
        assert_eq!((place, head), (SequenceId(named), SequenceId::NONE));
    }
}

/// Rates that explain the fees of all envelopes.
fn rates() -> RateTable {
    let rate = Rate {
        start_unix_s: 0,
        message_fee: PicoDollarPrice(7),
        storage_fee: PicoDollarsPerByteDay(0),
        congestion_fee: PicoDollarPrice(0),
        target_rate_per_minute: 0,
    };
    RateTable::new(vec![rate], None).unwrap()
}

/// Checks the signatures of a strand that does not end with its tree. Returns the number of envelopes that break a
/// rule.
fn verify_taken(store: &Store) -> Result<u64, BootstrapFetchError> {
    let after = EnvelopeId::new(NODE, SequenceId::NONE);
    let mut faults = StrandFaults::after(store, after, rates(), 1000).unwrap();
    verify_shown(store, &verifier(), &mut faults)
}

/// The strand cannot get the signed tree, so the signatures are checked here.
#[test]
fn a_strand_with_a_gap_is_taken_up_to_it_and_verified_at_once() {
    for (places, left_out) in [(2, 3), (5, 9)] {
        let (maker, mut stated, signed) = vouched();
        // Of the second strand, the end is left out.
        let mut envelopes = all_honest();
        envelopes.retain(|(place, _)| place.0 != left_out && (left_out == 3 || place.0 <= places));
        stated.chunks = vec![maker.put_chunk(NODE, &envelopes)];
        let store = open(&maker.folder, "new", OWN.0);
        let taken = take(&maker, &store, &stated, signed).unwrap();
        let TakenFirst::Cut(reached) = taken else { panic!("{taken:?}") };
        assert_eq!((reached.envelopes, unverified(&store, NODE).unwrap()), (places, places));
        let invalid = verify_taken(&store).unwrap();
        assert_eq!(invalid, u64::from(places >= BAD), "its payer's signature");
        require_verified(&store, NODE).unwrap();
        assert_eq!(store.snapshot().head(NODE).unwrap(), SequenceId(places));
        assert_eq!(evidence(&store).len() as u64, invalid, "against the node");
    }
    let (taken, head) = take_altered(&all_honest()[1..]);
    assert!(matches!(taken, Ok(TakenFirst::Nothing)), "{taken:?}");
    assert_eq!(head, SequenceId::NONE);
}

/// Envelopes for which no tree vouches are not kept without a signature of their node.
#[test]
fn a_changed_outer_layer_before_a_gap_is_refused() {
    let mut envelopes = all_honest();
    envelopes[1].1 = envelope(2, 1_700_000_000, 200);
    envelopes.remove(5);
    let (maker, mut stated, signed) = vouched();
    stated.chunks = vec![maker.put_chunk(NODE, &envelopes)];
    let store = open(&maker.folder, "new", OWN.0);
    let taken = take(&maker, &store, &stated, signed).unwrap();
    assert!(matches!(taken, TakenFirst::Cut(_)), "{taken:?}");
    let refused = verify_taken(&store);
    let is_named = matches!(refused, Err(BootstrapFetchError::Forged { place: SequenceId(2), .. }));
    assert!(is_named, "{refused:?}");
}

/// No leaf covers the outer layer. The node that starts finds it, and asks its peers for the place.
#[test]
fn a_changed_outer_layer_is_left_to_the_node_that_verifies() {
    let (maker, mut stated, signed) = vouched();
    let mut envelopes = all_honest();
    envelopes[2].1 = envelope(3, 1_700_000_000, 200);
    stated.chunks = vec![maker.put_chunk(NODE, &envelopes)];
    let store = open(&maker.folder, "new", OWN.0);
    take_whole(&maker, &store, &stated, signed);
    assert_eq!(unverified(&store, NODE).unwrap(), ALL, "no part of it counts as verified");
    let held = store.snapshot().get(EnvelopeId::new(NODE, SequenceId(3))).unwrap().unwrap();
    assert!(verifier().check(vec![held])[0].is_err());
    // Beside an envelope that has to be verified first, it is found at once.
    let mut envelopes = all_honest();
    envelopes[5].1 = envelope(UNPAID, 1_700_000_000, 200);
    let (taken, head) = take_altered(&envelopes);
    let is_named =
        matches!(taken, Err(BootstrapFetchError::Forged { place: SequenceId(UNPAID), .. }));
    assert!(is_named, "{taken:?}");
    assert_eq!(head, SequenceId::NONE);
}

#[test]
fn the_word_of_too_few_nodes_or_without_the_strands_own_is_no_ground() {
    let cases: [(u32, &[u32], bool); 5] = [
        (NODE.0, &[100], true),
        (NODE.0, &[], false),
        // The new node itself does not count.
        (NODE.0, &[OWN.0], false),
        (100, &[200], false),
        (100, &[], false),
    ];
    for (by, cosigners, is_ground) in cases {
        let maker = maker();
        maker.sign(by, NODE, ALL, cosigners);
        let (_, signed) = strand_of(&maker);
        assert_eq!(signed.is_some(), is_ground, "{by} {cosigners:?}");
    }
}

#[test]
fn a_snapshot_has_the_tree_that_most_nodes_vouch_for_beside_the_newest_one() {
    let maker = maker();
    maker.sign(NODE.0, NODE, 8, &[100, 200]);
    maker.sign(NODE.0, NODE, ALL, &[OWN.0]);
    let (stated, signed) = strand_of(&maker);
    let sizes: Vec<u64> = stated.checkpoints.iter().map(|it| it.signed.checkpoint.size).collect();
    assert_eq!(sizes, [ALL, 8]);
    assert_eq!(signed.map(|it| it.checkpoint.size), Some(8));
}

/// Most nodes have signed a larger tree, and the strand's node has not.
#[test]
fn the_largest_tree_that_the_strands_node_has_signed_too_is_the_ground() {
    let maker = maker();
    maker.sign(NODE.0, NODE, 8, &[100]);
    maker.sign(100, NODE, ALL, &[200]);
    let (_, signed) = strand_of(&maker);
    assert_eq!(signed.map(|it| it.checkpoint.size), Some(8));
}

/// The node that starts would not follow the strand, and so not verify it.
#[test]
fn a_strand_whose_node_is_not_in_the_network_is_verified_first() {
    let maker = maker();
    maker.sign(NODE.0, NODE, ALL, &[100, 200]);
    let manifest = maker.copy();
    for (canonical, is_ground) in [(vec![100, 200, 300, 400], true), (vec![100, 200, 400], false)] {
        let known = registry(&canonical);
        let signed = Evidence::of(&manifest, &known).unwrap().vouched_tree(NODE, &known, OWN);
        assert_eq!(signed.is_some(), is_ground, "{canonical:?}");
    }
}

#[test]
fn a_tree_that_leaves_out_much_of_a_strand_is_no_ground() {
    for (size, is_taken) in [(7, false), (8, true)] {
        let maker = maker();
        maker.sign(NODE.0, NODE, size, &[100]);
        let (stated, signed) = strand_of(&maker);
        let store = open(&maker.folder, "new", OWN.0);
        let taken = take(&maker, &store, &stated, signed.unwrap()).unwrap();
        assert_eq!(matches!(taken, TakenFirst::Whole(..)), is_taken, "{size}");
        let head = store.snapshot().head(NODE).unwrap();
        assert_eq!(head, SequenceId(if is_taken { size } else { 0 }));
    }
}

#[test]
fn places_that_a_killed_run_has_written_are_not_released_and_are_continued() {
    let (maker, mut stated, signed) = vouched();
    let all = all_honest();
    stated.chunks = vec![maker.put_chunk(NODE, &all[..6]), maker.put_chunk(NODE, &all[6..])];
    let store = open(&maker.folder, "new", OWN.0);
    // The writes of a run that was killed within the first chunk, before the head of the second write.
    let CheckedPart { entries, hashed } = read_first(&verifier(), &all[..4]).unwrap();
    let changes: Vec<Change> = entries.into_iter().map(Change::Append).collect();
    let prefix = SignedPrefix { size: ALL, signed, proof: ConsistencyProof(Vec::new()) };
    let file = |of: Range<usize>| store.file(changes[of.clone()].to_vec(), hashed[of].to_vec());
    store.load(file(0..2).unwrap(), Some(&prefix)).unwrap();
    let rest = file(2..4).unwrap();
    store.fail_next_write();
    store.load(rest, Some(&prefix)).unwrap_err();
    drop(store);
    let store = open(&maker.folder, "new", OWN.0);
    let above = EnvelopeId::new(NODE, SequenceId(4));
    assert!(store.snapshot().get(above).unwrap().is_some(), "a row above the head");
    for refused in [require_whole(&store, NODE), require_verified(&store, NODE)] {
        let is_named = matches!(
            refused,
            Err(BootstrapFetchError::ShownPart {
                verified: SequenceId(0),
                head: SequenceId(2),
                ..
            })
        );
        assert!(is_named, "{refused:?}");
    }
    let (head, reached) = take_whole(&maker, &store, &stated, signed);
    assert_eq!((head, reached.envelopes), (SequenceId(ALL), ALL - 2));
    require_whole(&store, NODE).unwrap();
    verify(&store);
    assert_equals_verified_first(&maker, &store);
}

/// The first run writes the row with which readers of a topic get an envelope before its payer's signature is checked.
/// The second one checks it first, and writes no such row.
#[test]
fn what_a_killed_run_has_left_is_gone_before_one_with_the_other_setting_goes_on() {
    let maker = maker();
    maker.sign(NODE.0, NODE, ALL, &[100]);
    let manifest = maker.copy();
    let run = |store: Store, shows_first| {
        let registry = registry(&[100, 200, 300, 400]);
        let job = FetchJob {
            place: maker.place.clone(),
            manifest: manifest.clone(),
            evidence: Evidence::of(&manifest, &registry).unwrap(),
            grounds: BTreeMap::new(),
            appender: None,
            lists: KnownLists { registry, rates: rates() },
            own: OWN,
            shows_first,
            ends_early: false,
            store,
        };
        job.run(1000, Box::new(|_| {}))
    };
    let store = open(&maker.folder, "new", OWN.0);
    store.fail_next_write();
    run(store, true).unwrap_err();
    let store = open(&maker.folder, "new", OWN.0);
    let snapshot = store.snapshot();
    assert_eq!(snapshot.head(NODE).unwrap(), SequenceId::NONE);
    let bad = EnvelopeId::new(NODE, SequenceId(BAD));
    assert!(snapshot.get(bad).unwrap().is_some(), "a row above the head");
    drop(snapshot);
    let (strands, _) = run(store.clone(), false).unwrap();
    let heads: Vec<_> = strands.iter().map(|it| (it.originator, it.head, it.unverified)).collect();
    assert_eq!(heads, [(NODE, SequenceId(ALL), 0)]);
    assert_equals_verified_first(&maker, &store);
}
