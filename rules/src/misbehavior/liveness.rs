//! Liveness faults: requests without a correct answer in time. A single report proves nothing;
//! see [`quorum`](super::quorum).

use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;

use super::judgement::{Fact, FaultJudgement, MisbehaviorVerdict};
use super::report::{MisbehaviorKind, Report};

/// The time above which a correct answer is slow, in nanoseconds. Specified (`docs/protocol/misbehavior.md`).
const SLOW_NS: u32 = 2_000_000_000;

/// Judges a liveness report: either its content contradicts itself, or it is the reporter's claim.
pub(super) fn judge(report: &Report, failure: &pb::LivenessFailure) -> FaultJudgement {
    let ns = failure.response_time_ns;
    let fact = |name, text: &str| {
        Fact::new(name, text)
            .with("response_time_ns", ns)
            .with("reporter_time_ns", report.reporter_time_ns())
    };
    if report.kind() == MisbehaviorKind::SlowNode && ns < SLOW_NS {
        let text = "an answer within two seconds is not slow";
        return FaultJudgement::refuted(fact("not_slow", text));
    }
    FaultJudgement::new(
        MisbehaviorVerdict::Claim,
        fact("reporters_word", "what a request got is not signed"),
    )
}
