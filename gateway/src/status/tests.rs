//! Statuses of failed and refused requests, and the order of answers.

use std::time::Duration;

use hawser_proto::TransactionHash;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_rules::PicoDollarPrice;

use super::*;
use crate::nodes::AnswerError;

fn placed(sequence: u8) -> Outcome {
    let envelope =
        OriginatorEnvelope { unsigned_originator_envelope: vec![sequence].into(), proof: None };
    Ok(PlacedEnvelope {
        envelope,
        id: None,
        fee: PicoDollarPrice(0),
        congestion_fee: None,
        is_repeat: false,
    })
}

#[test]
fn an_answer_keeps_the_order_of_the_request() {
    let answer = answer((1..=9).map(placed).collect()).unwrap();
    let order = answer.originator_envelopes.iter().map(|it| it.unsigned_originator_envelope[0]);
    assert_eq!(order.collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
    assert!(super::answer(vec![]).unwrap().originator_envelopes.is_empty());
}

#[test]
fn a_part_that_failed_makes_no_success_and_all_parts_are_told() {
    let fault = NodeError::Refused(Status::invalid_argument("bad"));
    let (node, may_be_published) = (OriginatorId(100), false);
    let refused =
        EnvelopeError::Node(NodePublishError::Last { node, error: fault, may_be_published });
    let gone = EnvelopeError::Chain(ChainPublishError::NotShown {
        hash: TransactionHash([7; 32]),
        sequence_id: SequenceId(5),
    });
    let outcomes = vec![placed(1), placed(2), Err(refused), Err(gone), placed(3)];
    let status = answer(outcomes).unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "that of the first");
    assert_eq!(status.metadata().get(PUBLISHED).unwrap(), "0-1,4");
    assert_eq!(status.metadata().get(FAILED).unwrap(), "2-3");
    let text = status.message();
    assert!(text.starts_with("3 of 5 envelopes were published"), "{text}");
    assert!(text.contains("envelope 2: node 100: InvalidArgument: bad"), "{text}");
    assert!(text.contains(&format!("0x{}", "07".repeat(32))), "the transaction: {text}");
    let details = String::from_utf8_lossy(status.details()).into_owned();
    for detail in
        ["ENVELOPES_FAILED", "envelopes[2]", "NODE_REFUSED", "envelopes[3]", "NOT_SHOWN_YET"]
    {
        assert!(details.contains(detail), "{detail} in {details}");
    }
    assert!(!details.contains("envelopes[1]"), "{details}");
}

/// The text of a status names twenty envelopes, and its details eight.
#[test]
fn an_envelope_at_fault_is_named_before_those_that_are_refused_with_it() {
    let field = "payer_envelopes[25]".to_owned();
    let (description, reason) = ("too old".into(), "RETENTION".into());
    let wrong = vec![WrongField { field, description, reason }];
    let details = StatusDetails { wrong, ..StatusDetails::of("ENVELOPES_REFUSED") };
    let refused = NodeError::Refused(details.into_status(Code::InvalidArgument, "index 25"));
    let (node, may_be_published) = (OriginatorId(100), false);
    let failed =
        |error| Err(EnvelopeError::Node(NodePublishError::Last { node, error, may_be_published }));
    let each = refused.of_envelopes(30).into_iter();
    let status = answer(each.map(failed).collect()).unwrap_err();
    let text = status.message();
    assert!(text.contains("envelope 25: node 100: InvalidArgument: too old"), "{text}");
    let details = String::from_utf8_lossy(status.details()).into_owned();
    assert!(details.contains("envelopes[25]") && details.contains("too old"), "{details}");
    assert_eq!(details.matches("RETENTION").count(), 1, "the reason of the node: {details}");
    assert_eq!(details.matches("NODE_REFUSED").count(), 7, "of the others: {details}");
    assert_eq!(status.metadata().get(FAILED).unwrap(), "0-29");
}

fn of_node(error: NodeError) -> EnvelopeError {
    let (node, may_be_published) = (OriginatorId(100), false);
    EnvelopeError::Node(NodePublishError::Last { node, error, may_be_published })
}

/// A program would ask again for an envelope that is refused, or wait for a transaction that there is not.
#[test]
fn a_node_cannot_name_a_reason_of_the_gateway() {
    let reason_of = |reason: &'static str| {
        let field = "payer_envelopes[0]".to_owned();
        let wrong = vec![WrongField { field, description: "no".into(), reason: reason.into() }];
        let details = StatusDetails { wrong, ..StatusDetails::of("ENVELOPES_REFUSED") };
        let named = NodeError::Refused(details.into_status(Code::InvalidArgument, "no"));
        let whole = StatusDetails::of(reason).into_status(Code::InvalidArgument, "no");
        let errors = [named.of_envelopes(1).remove(0), NodeError::Refused(whole)];
        errors.map(|error| of_node(error).reason().into_owned())
    };
    for own in OWN_REASONS {
        assert_eq!(reason_of(own), ["NODE_REFUSED"; 2], "{own}");
    }
    assert_eq!(reason_of("RETENTION"), ["RETENTION"; 2]);
}

#[test]
fn all_reasons_of_the_gateway_are_known_as_its_own() {
    let (hash, sequence_id) = (TransactionHash([7; 32]), SequenceId(5));
    let text = || "why".to_owned();
    let chain = [
        ChainPublishError::Invalid(text()),
        ChainPublishError::Dropped { hash, sequence_id, reason: text() },
        ChainPublishError::NotSent(text()),
        ChainPublishError::NotSentHere(text()),
        ChainPublishError::NoChain,
        ChainPublishError::Pending { hash, reason: text() },
        ChainPublishError::Open(text()),
        ChainPublishError::Unknown { hash, reason: text() },
        ChainPublishError::NotShown { hash, sequence_id },
        ChainPublishError::Failed { hash, reason: text() },
    ];
    let node = [
        NodeError::Timeout(Duration::ZERO),
        NodeError::WentDown,
        NodeError::Failed(Status::internal("a disk")),
        NodeError::FailedWithOthers(Status::internal("an envelope")),
        NodeError::Refused(Status::invalid_argument("bad")),
        NodeError::Unable(Status::invalid_argument("no validation service")),
        NodeError::WrongAnswer(AnswerError::NoSignature),
        NodeError::NotCalled(Box::new(NodeError::WentDown)),
    ];
    let others =
        [NodePublishError::NoNode, NodePublishError::TooManyWait, NodePublishError::TooExpensive]
            .map(EnvelopeError::Node);
    let of_paths = chain.map(EnvelopeError::Chain).into_iter().chain(node.map(of_node));
    let all = of_paths.chain(others).chain([EnvelopeError::NoOutcome]);
    let mut names: Vec<_> = all.map(|error| error.name()).collect();
    names.sort_unstable();
    names.dedup();
    let mut own = OWN_REASONS.to_vec();
    own.sort_unstable();
    assert_eq!(names, own);
}

#[test]
fn what_refusing_nodes_have_of_strands_is_passed_on() {
    let refused = |places: [(u32, u64); 2], error_of: fn(Status) -> NodeError| {
        let seen = places.map(|(id, place)| (OriginatorId(id), SequenceId(place))).into();
        let details = StatusDetails { seen, ..StatusDetails::of("ENVELOPES_REFUSED") };
        let error = error_of(details.into_status(Code::InvalidArgument, "not yet"));
        let (node, may_be_published) = (OriginatorId(100), false);
        Err(EnvelopeError::Node(NodePublishError::Last { node, error, may_be_published }))
    };
    let last = refused([(0, 24), (1, 0)], NodeError::Refused);
    let outcomes = vec![placed(1), last, refused([(0, 21), (1, 3)], NodeError::Unable)];
    let status = answer(outcomes).unwrap_err();
    let seen = StatusDetails::seen_of(&status);
    let lowest = [(0, 21), (1, 0)].map(|(id, place)| (OriginatorId(id), SequenceId(place)));
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), lowest);
    let silent = answer(vec![Err(EnvelopeError::NoOutcome)]).unwrap_err();
    assert_eq!(StatusDetails::seen_of(&silent).len(), 0);
}

#[test]
fn a_request_is_to_be_repeated_when_all_its_failed_envelopes_may_be_published() {
    let full = |seconds: u64| {
        let mut status = Status::unavailable("the disk is full");
        status.metadata_mut().insert("retry-after", seconds.into());
        of_node(NodeError::Failed(status))
    };
    let told = |failed: Vec<EnvelopeError>| {
        let outcomes = failed.into_iter().map(Err).chain([placed(1)]);
        let status = answer(outcomes.collect()).unwrap_err();
        let details = String::from_utf8_lossy(status.details()).into_owned();
        let after = status.metadata().get("retry-after");
        let after = after.map(|it| it.to_str().unwrap().to_owned());
        assert_eq!(details.contains("google.rpc.RetryInfo"), after.is_some(), "{details}");
        after.unwrap_or_default()
    };
    assert_eq!(told(vec![full(10)]), "10");
    assert_eq!(told(vec![full(10), full(30), full(20)]), "30");
    for (error, after) in [
        (NodePublishError::NoNode, "5"),
        (NodePublishError::TooManyWait, "1"),
        (NodePublishError::TooExpensive, "60"),
    ] {
        assert_eq!(told(vec![EnvelopeError::Node(error)]), after);
    }
    let refused = || of_node(NodeError::Refused(Status::invalid_argument("bad")));
    assert_eq!(told(vec![full(10), refused()]), "", "it would be refused again");
    assert_eq!(told(vec![EnvelopeError::Chain(ChainPublishError::NoChain), full(10)]), "");
}

#[test]
fn a_status_fits_into_headers_whatever_nodes_say() {
    let refused = || {
        // Each of its characters has three bytes, which are escaped with nine.
        let seen = (0..100).map(|id| (OriginatorId(u32::MAX - id), SequenceId::MAX));
        let reason = "R".repeat(63);
        let details = StatusDetails { seen: seen.collect(), ..StatusDetails::of(reason) };
        let status = details.into_status(Code::InvalidArgument, &"€".repeat(5_000));
        let error = NodeError::Refused(status);
        let (node, may_be_published) = (OriginatorId(100), false);
        EnvelopeError::Node(NodePublishError::Last { node, error, may_be_published })
    };
    let status = answer((0..100).map(|_| Err(refused())).collect()).unwrap_err();
    assert!(status.message().starts_with("0 of 100 envelopes"), "{}", status.message());
    assert!(status.message().len() <= 3072, "{}", status.message().len());
    assert!(status.details().len() <= 4096, "{}", status.details().len());
    let one = answer(vec![Err(refused())]).unwrap_err();
    assert!(one.message().len() <= 300 && one.message().ends_with("€…"), "{}", one.message());
    assert_eq!(status.metadata().get(FAILED).unwrap(), "0-99", "all are listed");
}

#[test]
fn a_limit_says_when_to_come_again_and_a_kind_which_envelope() {
    let limit = PolicyError::AllNodesExpensive { index: 2 };
    let status = of_policy(&limit);
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.metadata().get("retry-after").unwrap(), "60");
    let details = String::from_utf8_lossy(status.details()).into_owned();
    assert!(details.contains("google.rpc.RetryInfo"), "{details}");
    assert!(details.contains("envelopes[2]") && details.contains("CONGESTION"), "{details}");

    for (silent, after_s) in [
        (PolicyError::Token(TokenError::NoKeys), "10"),
        (PolicyError::Webhook(WebhookError::NoAnswer), "5"),
        (PolicyError::Webhook(WebhookError::Busy), "1"),
    ] {
        let status = of_policy(&silent);
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.metadata().get("retry-after").unwrap(), after_s, "{silent}");
    }

    let kind = PolicyError::Kind { index: 4, kind: hawser_rules::PayloadClass::Welcome };
    let details = of_policy(&kind).details().to_vec();
    let details = String::from_utf8_lossy(&details).into_owned();
    assert!(details.contains("envelopes[4]") && details.contains("KIND_DENIED"), "{details}");
}

#[test]
fn places_are_told_as_ranges() {
    assert_eq!(ranges(&[]), None);
    assert_eq!(ranges(&[3]).unwrap(), "3");
    assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]).unwrap(), "0-2,5,7-8");
    let two_of_three: Vec<_> = (0..1000).filter(|index| index % 3 < 2).collect();
    assert!(
        ranges(&two_of_three).unwrap().ends_with(",996-997,999"),
        "all of a usual request are told"
    );
    // A caller could not read a status with longer headers.
    let many: Vec<_> = (0..10_000).step_by(2).collect();
    let (shown, all) = (ranges(&many).unwrap(), many.iter().map(usize::to_string));
    let all = all.collect::<Vec<_>>().join(",");
    assert!(shown.len() <= RANGES_LEN_MAX && shown.len() > RANGES_LEN_MAX - 8, "{}", shown.len());
    assert!(all.starts_with(&format!("{shown},")), "no half number");
}
