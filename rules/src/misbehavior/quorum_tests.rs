//! Tests of outages, which the reports of several nodes about one node show together.

use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::{Bytes, OriginatorId};
use prost::Message as _;

use super::quorum::{LivenessRecord, Outage};
use super::report::digest;
use super::tests::{MINUTE, SECOND, key, liveness, registry};
use super::{MisbehaviorKind, NoChain, Report, ReportCase, verify};

#[test]
fn an_outage_is_what_more_than_half_of_the_others_saw_often_enough() {
    let report_at = |minute: i64, is_by_node| {
        let mut message =
            pb::UnsignedMisbehaviorReport::decode(liveness(MisbehaviorKind::UnresponsiveNode, 1))
                .unwrap();
        message.reporter_time_ns = (3_600_000 * SECOND + minute * MINUTE).unsigned_abs();
        message.submitted_by_node = is_by_node;
        Bytes::from(message.encode_to_vec())
    };
    let outages = |reports: &[(u8, i64, bool)]| {
        let registry = registry();
        let mut record = LivenessRecord::default();
        for &(seed, minute, is_by_node) in reports {
            let report = report_at(minute, is_by_node);
            let signature = key(seed).sign(digest(&report));
            let judgement = verify(&ReportCase {
                report: &report,
                host_signature: Some(signature.as_bytes()),
                host: None,
                registry: &registry,
                rates: None,
                chain: &NoChain,
                held_at_ns: None,
            });
            record.add(&Report::decode(&report).unwrap(), &judgement);
        }
        record.outages(&registry)
    };
    let often = |seed| [(seed, 1, true), (seed, 6, true), (seed, 59, true)];
    let both = [often(2), often(3)].concat();
    let expected = Outage {
        node: OriginatorId(100),
        hour_unix_s: 3_600_000,
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
