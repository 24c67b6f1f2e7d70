//! Reports about nodes that do not answer: a whole engine whose peers the test plays, on a clock that jumps from timer
//! to timer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hawser_engine::ports::NodeRecord;
use hawser_proto::pb::xmtp::xmtpv4::message_api::liveness_failure::Request;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::misbehavior::report::ReportedFailure;
use hawser_rules::misbehavior::{
    Host, MisbehaviorKind, MisbehaviorVerdict, NoChain, Report, ReportCase, verify,
};
use hawser_storage::{ReportClass, StoredReport};

use crate::common::{self, NODE, record};
use crate::follow::{Follower, OTHER, SOURCE, key, strand};

/// Lets so much time pass, by both clocks. That of the runtime is paused: it jumps while nothing is at work.
async fn pass(follower: &Follower, seconds: u32) {
    for _ in 0..seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        follower.node.clock.0.fetch_add(1_000_000_000, Ordering::Relaxed);
    }
}

fn kept(follower: &Follower) -> Vec<StoredReport> {
    follower.engine().reports().read(0, usize::MAX, usize::MAX).unwrap()
}

/// Returns the accused and the kind of each kept report, judged with the registry only.
fn accused(follower: &Follower) -> Vec<(OriginatorId, MisbehaviorKind)> {
    let registry = follower.engine().ports().registry.borrow().clone();
    let judged = kept(follower).into_iter().map(|stored| {
        let judgement = verify(&ReportCase {
            report: &stored.kept.report,
            host_signature: Some(&stored.kept.signature),
            host: None,
            registry: &registry,
            rates: None,
            chain: &NoChain,
            held_at_ns: None,
        });
        assert_eq!(judgement.verdict, MisbehaviorVerdict::Claim, "it is never proven");
        assert_eq!((judgement.host, judgement.is_seen_by_host), (Host::Node(NODE), true));
        assert_eq!(stored.kept.class, ReportClass::OwnLiveness);
        (judgement.accused.unwrap(), judgement.kind.unwrap())
    });
    judged.collect()
}

#[tokio::test]
async fn a_silent_node_is_reported_with_the_request_that_it_did_not_answer() {
    let follower = Follower::start(common::store());
    let (mut source, _other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    source.want(SOURCE).await;
    source.send(strand(SOURCE, &[1, 2])).await;
    follower.wait_for(SOURCE, 2).await;
    tokio::time::pause();
    pass(&follower, 120).await;
    assert_eq!(accused(&follower), []);
    drop(source);
    pass(&follower, 20).await;
    assert_eq!(accused(&follower), [(SOURCE, MisbehaviorKind::UnresponsiveNode)]);
    let report = Report::decode(&kept(&follower)[0].kept.report).unwrap();
    let ReportedFailure::Liveness(failure) = report.failure() else { panic!("{report:?}") };
    assert!(failure.response_time_ns >= 4_000_000_000, "it stops where the schema does");
    let Some(Request::Subscribe(request)) = &failure.request else { panic!("{failure:?}") };
    let query = request.query.as_ref().unwrap();
    assert_eq!(query.originator_node_ids, [SOURCE.0]);
    let after = query.last_seen.as_ref().unwrap().node_id_to_sequence_id[&SOURCE.0];
    assert_eq!(SequenceId(after), SequenceId(2));
    pass(&follower, 3600).await;
    let reports = accused(&follower);
    assert!((12..=14).contains(&reports.len()), "one for each slot: {}", reports.len());
    assert!(reports.iter().all(|it| *it == (SOURCE, MisbehaviorKind::UnresponsiveNode)));
    follower.stop().await;
}

#[tokio::test]
async fn a_peer_that_the_operator_keeps_apart_is_not_reported() {
    let follower = Follower::start(common::store());
    let (source, _other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    tokio::time::pause();
    pass(&follower, 120).await;
    let now = tokio::time::Instant::now().into_std();
    follower.replication.note_partition(SOURCE, Some(now + Duration::from_secs(3600)));
    drop(source);
    pass(&follower, 600).await;
    assert_eq!(accused(&follower), []);
    follower.replication.note_partition(SOURCE, None);
    pass(&follower, 50).await;
    assert_eq!(accused(&follower), [], "it may be on its way");
    pass(&follower, 50).await;
    assert_eq!(accused(&follower), [(SOURCE, MisbehaviorKind::UnresponsiveNode)]);
    follower.stop().await;
}

/// Checks that a peer which has gone is not reported while `note` is called each minute, and is reported afterwards.
async fn assert_excused_by(note: impl Fn(&Follower)) {
    let follower = Follower::start(common::store());
    let (source, _other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    tokio::time::pause();
    pass(&follower, 120).await;
    drop(source);
    for _ in 0..20 {
        note(&follower);
        pass(&follower, 60).await;
        assert_eq!(accused(&follower), []);
    }
    pass(&follower, 50).await;
    assert_eq!(accused(&follower), [(SOURCE, MisbehaviorKind::UnresponsiveNode)]);
    follower.stop().await;
}

/// Each attempt to reach it ends at a setting of this node, such as the one about peers without TLS.
#[tokio::test]
async fn a_peer_that_this_node_does_not_dial_is_not_reported() {
    assert_excused_by(|follower| follower.replication.note_not_dialled(SOURCE)).await;
}

/// It breaks a rule of the transport in each session, such as with frames that do not decode, and is kept out for a
/// while after each.
#[tokio::test]
async fn a_peer_that_the_transport_sends_away_is_not_reported() {
    assert_excused_by(|follower| follower.replication.note_sent_away(SOURCE)).await;
}

/// The record of the node has no URL that nodes call. The node may dial others.
#[tokio::test]
async fn a_node_without_an_address_is_not_reported() {
    let other = |id: OriginatorId, http_address: Option<String>| NodeRecord {
        id,
        public_key: key(id).public_key(),
        owner: key(id).public_key().address(),
        http_address,
        ..record()
    };
    let url = record().http_address;
    let registry = [record(), other(OTHER, url), other(SOURCE, None)].into_iter().collect();
    let follower = Follower::start_with(common::store(), Arc::new(registry));
    let _other = follower.connect(OTHER, &[]);
    tokio::time::pause();
    pass(&follower, 600).await;
    assert_eq!(accused(&follower), []);
    follower.stop().await;
}

#[tokio::test]
async fn a_node_that_reaches_no_one_reports_no_one() {
    let follower = Follower::start(common::store());
    let peers = [follower.connect(SOURCE, &[]), follower.connect(OTHER, &[])];
    tokio::time::pause();
    pass(&follower, 120).await;
    drop(peers);
    pass(&follower, 3600).await;
    assert_eq!(accused(&follower), []);
    let _other = follower.connect(OTHER, &[]);
    pass(&follower, 50).await;
    assert_eq!(accused(&follower), [], "the other one may be on its way");
    pass(&follower, 50).await;
    assert_eq!(accused(&follower), [(SOURCE, MisbehaviorKind::UnresponsiveNode)]);
    follower.stop().await;
}

/// Checks the report of a failed request. A peer over gRPC without methods for strands gets the same one.
#[tokio::test]
async fn a_node_that_answers_a_request_with_an_error_of_its_own_is_reported() {
    let follower = Follower::start(common::store());
    let (source, _other) = (follower.connect(SOURCE, &[]), follower.connect(OTHER, &[]));
    tokio::time::pause();
    pass(&follower, 90).await;
    assert_eq!(accused(&follower), []);
    source.link.sink().note_failed_request(Duration::from_millis(30));
    pass(&follower, 5).await;
    assert_eq!(accused(&follower), [(SOURCE, MisbehaviorKind::FailedRequest)]);
    let report = Report::decode(&kept(&follower)[0].kept.report).unwrap();
    let ReportedFailure::Liveness(failure) = report.failure() else { panic!("{report:?}") };
    assert_eq!(failure.response_time_ns, 30_000_000);
    follower.stop().await;
}

#[tokio::test]
async fn a_node_that_claims_envelopes_and_sends_none_is_reported() {
    let follower = Follower::start(common::store());
    let (mut source, _other) =
        (follower.connect(SOURCE, &[(SOURCE, 3)]), follower.connect(OTHER, &[]));
    source.want(SOURCE).await;
    tokio::time::pause();
    pass(&follower, 90).await;
    assert_eq!(accused(&follower), [(SOURCE, MisbehaviorKind::UnresponsiveNode)]);
    follower.stop().await;
}
