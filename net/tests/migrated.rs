//! Strands that were taken over from the older network, over QUIC.

use crate::common;

use std::collections::BTreeMap;

use crate::common::envelopes::{NOW_NS, key, rates, sign, statement};
use crate::common::network::{Network, empty_store};
use hawser_engine::replication::EnvelopeVerifier;
use hawser_engine::runtime::replication::MigratedStrands;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId, minute_of};
use hawser_rules::Absences;
use hawser_storage::{Change, InvalidRule, LogEntry, SkipReason, Store, Validity};

const SOURCE: OriginatorId = OriginatorId(100);
/// The id whose key signs in these tests.
const SIGNER: OriginatorId = OriginatorId(700);
const STRAND: OriginatorId = OriginatorId(10);
/// Numbers of rows elsewhere: most are not used.
const PLACES: [u64; 4] = [7, 8, 1_000, 40_000_000_000];

/// An envelope that expired long ago: it was first sent on the older network.
fn envelope(sequence: u64, signer: OriginatorId) -> Bytes {
    let mut statement = statement(STRAND, sequence);
    statement.originator_ns = NOW_NS;
    statement.expiry_unixtime = 1_600_000_000;
    sign(&statement, signer)
}

/// Fills the log of the node that took the strand over.
fn fill(store: &Store, signer: OriginatorId) {
    let verifier = EnvelopeVerifier {
        originator: STRAND,
        key: key(signer).public_key(),
        own: SOURCE,
        absences: Absences::NONE,
    };
    let (mut changes, mut next) = (Vec::new(), SequenceId(1));
    for place in PLACES.map(SequenceId) {
        if next < place {
            let (from, through) = (next, place.previous());
            let reason = SkipReason::Expired;
            changes.push(Change::Skip { originator: STRAND, from, through, reason });
        }
        let entry = verifier.check(vec![envelope(place.0, signer)]).remove(0).unwrap();
        assert_eq!(entry.validity, Validity::Valid);
        changes.push(Change::Append(entry));
        next = place.next();
    }
    store.commit(&changes).unwrap();
}

fn following(signer: OriginatorId) -> Network {
    let mut network = Network::new();
    let migrated = MigratedStrands { source: SOURCE, key: key(signer).public_key() };
    network.migrated = Some(migrated);
    network
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strand_of_the_older_network_is_followed_checked_and_booked_without_congestion() {
    let mut network = following(SIGNER);
    let store = empty_store(SOURCE);
    fill(&store, SIGNER);
    let source = network.start_on(store, "127.0.0.1:0");
    let store = empty_store(OriginatorId(200));
    store.record_rates(rates().rates()).unwrap();
    let follower = network.start_on(store, "127.0.0.1:0");
    follower.wait_for(STRAND.0, PLACES[3]).await;
    let wanted: BTreeMap<_, _> = PLACES.map(|place| (place, envelope(place, SIGNER))).into();
    assert_eq!(follower.held(STRAND.0), wanted);
    assert_eq!(source.held(STRAND.0), wanted);
    // Nothing is marked, and each costs the base fee.
    let counters = follower.engine.counters();
    assert_eq!(counters.invalid.get(), 0);
    let snapshot = follower.engine.store().snapshot();
    let payer = key(OriginatorId(9900)).public_key().address();
    let used = snapshot.usage(STRAND, minute_of(NOW_NS), payer).unwrap().unwrap();
    let fee = PLACES.map(|place| statement(STRAND, place).base_fee_picodollars);
    assert_eq!((used.messages, used.picodollars.0), (4, fee.iter().sum()));
}

/// The enemy is age. The node was old when it took the strand over; its followers judge it by the rules of today.
#[tokio::test(flavor = "multi_thread")]
async fn the_node_that_took_a_strand_over_shows_after_an_upgrade_what_it_has_hidden() {
    let mut network = following(SIGNER);
    let store = empty_store(SOURCE);
    let id = EnvelopeId::new(STRAND, SequenceId(1));
    let hidden = LogEntry::invalid(id, envelope(1, SIGNER), InvalidRule(9));
    store.commit(&[Change::Append(hidden)]).unwrap();
    let source = network.start_on(store.clone(), "127.0.0.1:0");
    let is_shown = || store.snapshot().mark(id).unwrap().is_none();
    common::network::eventually("readers get it", is_shown).await;
    drop(source);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strand_of_the_older_network_with_another_signer_is_not_taken() {
    let mut network = following(OriginatorId(800));
    let store = empty_store(SOURCE);
    fill(&store, SIGNER);
    let source = network.start_on(store, "127.0.0.1:0");
    let follower = network.start(200);
    let forged = || follower.replication.counters().forged.get() > 0;
    common::network::eventually("the forgery is counted", forged).await;
    assert_eq!(follower.held(STRAND.0), BTreeMap::new());
    drop(source);
}
