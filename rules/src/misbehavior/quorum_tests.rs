//! Tests of outages, which the reports of several nodes about one node show together.

use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::{Bytes, OriginatorId};
use prost::Message as _;

use super::quorum::{LivenessRecord, Outage};
use super::report::digest;
use super::tests::{MINUTE, SECOND, key, liveness, registry};
use super::{MisbehaviorKind, NoChain, Report, ReportCase, verify};
use crate::absences::Absences;
use crate::registry::Registry;

/// The hour of the reports, unix seconds.
const HOUR_S: i64 = 3_600_000;

/// The seed of a host's key, the minute of its report in the hour, and true if the host has made it.
type Reported = (u8, i64, bool);

/// Returns enough reports of one host.
fn often(seed: u8) -> [Reported; 3] {
    [(seed, 1, true), (seed, 6, true), (seed, 59, true)]
}

/// Returns the outages that these reports about node 100 show.
fn outages_in(registry: &Registry, reports: &[Reported]) -> Vec<Outage> {
    let mut record = LivenessRecord::default();
    for &(seed, minute, is_by_node) in reports {
        let mut message =
            pb::UnsignedMisbehaviorReport::decode(liveness(MisbehaviorKind::UnresponsiveNode, 1))
                .unwrap();
        message.reporter_time_ns = (HOUR_S * SECOND + minute * MINUTE).unsigned_abs();
        message.submitted_by_node = is_by_node;
        let report = Bytes::from(message.encode_to_vec());
        let signature = key(seed).sign(digest(&report));
        let judgement = verify(&ReportCase {
            report: &report,
            host_signature: Some(signature.as_bytes()),
            host: None,
            registry,
            rates: None,
            chain: &NoChain,
            held_at_ns: None,
        });
        record.add(&Report::decode(&report).unwrap(), &judgement);
    }
    record.outages(registry)
}

#[test]
fn an_outage_is_what_more_than_half_of_the_others_saw_often_enough() {
    let outages = |reports: &[Reported]| outages_in(&registry(), reports);
    let both = [often(2), often(3)].concat();
    let expected = Outage {
        node: OriginatorId(100),
        hour_unix_s: HOUR_S.unsigned_abs(),
        witnesses: vec![OriginatorId(200), OriginatorId(300)],
        others: 3,
    };
    assert_eq!(outages(&both), [expected]);
    assert_eq!(outages(&often(2)), [], "one of three is not most");
    let crowded = [often(2).to_vec(), vec![(3, 1, true), (3, 2, true), (3, 4, true)]].concat();
    assert_eq!(outages(&crowded), [], "three times within one slot is once");
    let claims = [often(2), often(3).map(|(seed, minute, _)| (seed, minute, false))].concat();
    assert_eq!(outages(&claims), [], "what clients submit does not count");
    let itself = [often(2), often(1)].concat();
    assert_eq!(outages(&itself), [], "nor what a node says of itself");
    let strangers = [often(2), often(9)].concat();
    assert_eq!(outages(&strangers), [], "nor what strangers sign");
}

/// The owner of a node may have registered bytes that are no key. The node is in the network all the same, so two of
/// four others are not most of them.
#[test]
fn a_node_without_a_usable_key_counts_among_the_others_while_it_is_in_the_network() {
    let keyless = OriginatorId(500);
    let begin_s = HOUR_S.unsigned_abs();
    let witnesses = |is_canonical, changes: &[(u64, bool)], reports: &[Reported]| {
        let absences = Absences::of_changes(changes.iter().copied());
        let registry = registry().with_unusable([(keyless, is_canonical)]);
        let registry = registry.with_absences([(keyless, absences)]);
        let outages = outages_in(&registry, reports);
        outages.into_iter().map(|it| (it.witnesses.len(), it.others)).collect::<Vec<_>>()
    };
    let two = [often(2), often(3)].concat();
    let three = [often(2), often(3), often(4)].concat();
    let none: [(usize, usize); 0] = [];
    assert_eq!(witnesses(true, &[], &two), none);
    assert_eq!(witnesses(true, &[], &three), [(3, 4)]);
    assert_eq!(witnesses(false, &[], &two), [(2, 3)], "it has never been in the network");
    let (before, after) = ([(begin_s - 60, false)], [(begin_s + 60, false)]);
    assert_eq!(witnesses(false, &before, &two), [(2, 3)], "it had left");
    assert_eq!(witnesses(false, &after, &two), none, "it left later");
    assert_eq!(witnesses(true, &[before[0], (begin_s + 60, true)], &two), [(2, 3)]);
}
