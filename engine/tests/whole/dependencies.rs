//! Dependencies on places that a chain did not have yet: nodes prove them by themselves.

use std::collections::BTreeSet;

use hawser_engine::chain_strand::ChainEvent;
use hawser_engine::runtime::start_report_task;
use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, OriginatorId, SequenceId};
use hawser_rules::fees::base_fee;
use hawser_rules::misbehavior::{MisbehaviorKind, Report};
use hawser_storage::{EvidenceTime, Misbehavior, ReportClass};
use prost::Message as _;

use crate::common::{self, START_NS, client, frame, group_payload, group_topic, payer, rate};
use crate::follow::{Follower, SOURCE, key};

const GROUPS: OriginatorId = OriginatorId::GROUP_MESSAGES;
const FIVE_MINUTES_S: u64 = 5 * 60;

/// An envelope of the source at a place, dated at the start, that depends on a commit.
fn needing(sequence: u64, needed: u64) -> Bytes {
    needing_at(sequence, needed, 0)
}

/// Like [`needing`], dated `after_s` seconds after the start.
fn needing_at(sequence: u64, needed: u64, after_s: u64) -> Bytes {
    let depends_on = pb::Cursor { node_id_to_sequence_id: [(GROUPS.0, needed)].into() };
    let text = sequence.to_string();
    let client =
        client(&group_topic(1), Some(depends_on), group_payload(frame(1, 1, text.as_bytes())));
    let paid: Bytes = PayerEnvelope::sign(client, SOURCE, 60, &payer(0)).encode_to_vec().into();
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: SOURCE.0,
        originator_sequence_id: sequence,
        originator_ns: START_NS + i64::try_from(after_s).unwrap() * 1_000_000_000,
        base_fee_picodollars: base_fee(&rate(), paid.len() as u64, 60).unwrap().0,
        congestion_fee_picodollars: 0,
        expiry_unixtime: u64::try_from(START_NS / 1_000_000_000).unwrap() + after_s + 60 * 86_400,
        payer_envelope_bytes: paid,
    };
    UnsealedEnvelope::new(&statement).seal(&key(SOURCE))
}

/// The chain orders a commit so many seconds after the start.
fn order(follower: &Follower, sequence: u64, after_s: u64) {
    let event = commit(sequence, after_s);
    follower.engine().chain_appender().append(GROUPS, &[event], None).unwrap();
}

fn commit(sequence: u64, after_s: u64) -> ChainEvent {
    ChainEvent {
        sequence: SequenceId(sequence),
        block_time_s: u64::try_from(START_NS / 1_000_000_000).unwrap() + after_s,
        transaction_hash: [7; 32],
        client_bytes: client(&group_topic(1), None, group_payload(frame(1, 3, b"commit"))),
        topic_identifier: Some(Bytes::copy_from_slice(&[1; 16])),
        bootstrapped: false,
    }
}

/// The places of the source against which there is evidence.
fn faults(follower: &Follower) -> BTreeSet<u64> {
    let all =
        follower.engine().store().snapshot().evidence(EvidenceTime::default(), 99, usize::MAX);
    let place = |stored: hawser_storage::StoredEvidence| {
        assert_eq!(stored.evidence.misbehavior, Misbehavior::Dependency);
        assert_eq!(stored.evidence.at.originator, SOURCE);
        assert_eq!(stored.evidence.envelopes.len(), 1);
        stored.evidence.at.sequence.0
    };
    all.unwrap().into_iter().map(place).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_the_chain_did_not_have_yet_is_a_claim_and_one_that_it_had_is_none() {
    let follower = Follower::start(common::store());
    let reports = start_report_task(follower.engine());
    order(&follower, 1, 0);
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    // This node has read the chain up to 1. The first envelope may be of a node that was faster, the second may not.
    source.send([needing(1, 2), needing(2, 9), needing(3, 1)]).await;
    follower.wait_for(SOURCE, 3).await;
    order(&follower, 2, FIVE_MINUTES_S);
    assert!(faults(&follower).is_empty(), "nothing shows it yet");
    order(&follower, 3, FIVE_MINUTES_S + 1);
    follower.until("the chain shows it", || faults(&follower) == [2].into()).await;

    // The chain shows it at once now, for a place that it has by now and for one that it never had.
    source.send([needing(4, 3), needing(5, 4), needing(6, 2)]).await;
    follower.wait_for(SOURCE, 6).await;
    follower.until("both are evidence", || faults(&follower) == [2, 4, 5].into()).await;

    let claims = || {
        let read = follower.engine().store().snapshot().reports(0, 99, usize::MAX).unwrap();
        let is_claim = |stored: &hawser_storage::StoredReport| {
            let report = Report::decode(&stored.kept.report).unwrap();
            assert_eq!(
                (report.kind(), report.accused()),
                (MisbehaviorKind::CausalOrdering, SOURCE)
            );
            stored.kept.class == ReportClass::OwnClaim
        };
        read.iter().filter(|stored| is_claim(stored)).count()
    };
    follower.until("there are reports", || claims() == 3).await;
    reports.stop().await;
    follower.stop().await;
}

/// The attacker fills the list of suspicions with places that no later event decides about, so that others are
/// forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn dependencies_on_places_without_an_event_take_no_room_from_those_that_the_chain_decides() {
    const UNDECIDED: u64 = 300;
    let follower = Follower::start(common::store());
    // The chain's place 2 is void, and its newest place is far younger than the first envelopes.
    let void = ChainEvent { client_bytes: Bytes::from_static(b"\xff"), ..commit(2, 0) };
    let events = [commit(1, 0), void, commit(3, FIVE_MINUTES_S + 1)];
    follower.engine().chain_appender().append(GROUPS, &events, None).unwrap();
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    for first in (1..=UNDECIDED).step_by(50) {
        source.send((first..first + 50).map(|sequence| needing(sequence, 2))).await;
    }
    source.send([needing_at(UNDECIDED + 1, 9, 10)]).await;
    follower.wait_for(SOURCE, UNDECIDED + 1).await;
    assert!(faults(&follower).is_empty(), "nothing shows it yet");
    order(&follower, 4, FIVE_MINUTES_S + 11);
    let is_shown = || faults(&follower) == [UNDECIDED + 1].into();
    follower.until("the chain shows it", is_shown).await;
    follower.stop().await;
}

/// The chain is quiet until the node that saw the envelope has been restarted.
#[tokio::test(flavor = "multi_thread")]
async fn a_dependency_that_the_chain_decides_after_a_restart_is_evidence() {
    let store = common::store();
    let follower = Follower::start(store.clone());
    order(&follower, 1, 0);
    let mut source = follower.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    source.send([needing(1, 1), needing(2, 9)]).await;
    follower.wait_for(SOURCE, 2).await;
    assert!(faults(&follower).is_empty(), "nothing shows it yet");
    drop(source);
    follower.stop().await;

    let again = Follower::start(store.clone());
    order(&again, 2, FIVE_MINUTES_S + 1);
    again.until("the chain shows it", || faults(&again) == [2].into()).await;
    again.stop().await;
    assert_eq!(store.suspected().unwrap(), [], "nothing is left to decide");
}
