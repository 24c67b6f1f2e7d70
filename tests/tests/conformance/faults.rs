//! The faults of a stand-in, and the cases that notice each of them.

use hawser_tests::harness::faulty::AnswerFault;

/// Cases about what a chain orders: they have a network of their own.
pub(crate) const OF_CHAINS: &[(AnswerFault, &[&str])] =
    &[(AnswerFault::WrongOrder, &["gateway-has-a-chain-order-commits"])];

/// Faults that break one property, each with the case about it and the words in which the case says so. These cases
/// also make calls that must succeed, or expect a status: a failure for those would say nothing about the property.
pub(crate) const OF_PROPERTIES: &[(AnswerFault, &str, &str)] = &[
    (
        AnswerFault::AppliesRefused,
        "mutate-is-atomic",
        "no frame of the wave; got Ok(Some(Complete(1)))",
    ),
    (
        AnswerFault::KeepsNoise,
        "noise-ends-its-connection",
        "noise: an answer, or the end of the connection; got neither within",
    ),
    (
        AnswerFault::TakesAnyHead,
        "large-heads-are-refused",
        "431 or the end of the connection; got HTTP/1.1 200",
    ),
    (
        AnswerFault::WaitsForHeads,
        "slow-heads-are-closed",
        "the end of the connection; got it is open after",
    ),
    (
        AnswerFault::StalledByResets,
        "resets-cost-others-nothing",
        "beside resets: the node answers afterwards: OK; got DEADLINE_EXCEEDED",
    ),
    (
        AnswerFault::FewConnections,
        "idle-connections-cost-others-nothing",
        "a new connection beside idle ones: an answer, or the end of the connection; got neither within",
    ),
];

/// Faults that are about expired places: at a node that has some, each makes the case about them fail.
pub(crate) const OF_EXPIRED: &[AnswerFault] = &[
    AnswerFault::SilentAboutOldest,
    AnswerFault::EarlyOldest,
    AnswerFault::LateOldest,
    AnswerFault::LostStrand,
];

/// Cases about services and metadata that other software does not have, or need not have.
pub(crate) const OF_EXTENSIONS: &[&str] = &[
    "oldest-names-what-has-expired",
    "checkpoint-covers-the-published",
    "inclusion-is-proved",
    "checkpoints-only-add",
    "proofs-of-nothing-are-refused",
    "tiles-lead-to-the-signed-root",
    "pages-of-nothing-are-404",
    "reports-without-substance-are-refused",
    "reports-ascend",
    "a-report-is-kept",
    "reflection-tells-the-schema",
];

/// Each fault with cases that notice it. Cases are named once, below the fault that means them most.
pub(crate) const FAULTS: &[(AnswerFault, &[&str])] = &[
    (AnswerFault::LostEnvelope, LOST),
    (AnswerFault::RepeatedEnvelope, REPEATED),
    (AnswerFault::WrongOrder, WRONG_ORDER),
    (AnswerFault::EarlyMessage, &["topics-stream-tells-its-states", "subscribe-wave-then-live"]),
    (AnswerFault::LateError, LATE_ERROR),
    (AnswerFault::WrongStatus, WRONG_STATUS),
    (AnswerFault::Altered, ALTERED),
    (AnswerFault::IgnoredCursor, IGNORED_CURSOR),
    // One by one: a case that got the stale answer to another one's publish would ask for what is covered.
    (AnswerFault::StaleAnswer, &["cursor-covers-the-published"]),
    (AnswerFault::StaleAnswer, &["checkpoint-covers-the-published"]),
    (AnswerFault::StaleAnswer, &["places-ascend"]),
    (
        AnswerFault::WrongProof,
        &["inclusion-is-proved", "checkpoints-only-add", "tiles-lead-to-the-signed-root"],
    ),
    (AnswerFault::WrongOldest, &["oldest-names-what-has-expired"]),
    (AnswerFault::SwallowedMutate, &["mutate-id-in-flight"]),
    (
        AnswerFault::NoSignsOfLife,
        &[
            "silent-stream-shows-life",
            "subscribe-answers-pings",
            "subscribe-empty-mutate",
            "subscribe-pings-a-silent-client",
        ],
    ),
    (AnswerFault::NoHeaders, &["cors-preflight-is-answered", "cors-marks-every-answer"]),
    (AnswerFault::BrokenUpgrade, &["h2c-upgrade-is-served"]),
    (
        AnswerFault::Slow,
        &[
            "health-answers-in-time",
            "publish-and-read-in-time",
            "second-shows-in-time",
            "stream-delivers-in-time",
        ],
    ),
];

const LOST: &[&str] = &[
    "published-is-read-at-once",
    "published-is-read-at-second",
    "welcome-is-stored",
    "services-have-one-meaning",
    "no-cursor-is-the-beginning",
    "topics-share-a-cursor",
    "a-page-has-a-thousand-at-most",
    "topics-stream-services-agree",
    "topics-stream-shows-peers",
    "envelopes-stream-has-history",
    "subscribe-seam",
    "subscribe-reset-replays",
    "subscribe-history-only",
    "subscribe-id-is-used-again",
    "subscribe-shows-peers",
    "a-large-message-arrives",
    "a-stream-of-10000-topics",
    "a-mutate-of-100000-topics",
    "a-stream-of-a-million-topics",
    "a-hundred-streams-at-once",
    "a-hundred-envelopes-at-once",
    "streams-may-be-cancelled",
    "a-slow-reader-misses-nothing",
    "a-crash-loses-nothing",
    "subscribe-changes-during-a-wave",
    "a-report-is-kept",
];

const REPEATED: &[&str] = &[
    "pages-are-cut-by-limit",
    "repeated-topics-count-once",
    "topics-stream-first-filter-counts",
    "topics-stream-seam",
    "connect-stream-reads",
    "grpc-web-stream-reads",
    "originators-stream-follows-a-strand",
    "all-stream-has-everything",
    "subscribe-cursor-counts",
    "subscribe-removed-is-silent",
    "subscribe-again-is-nothing",
    "subscribe-live-ascends",
    "subscribe-changes-during-publishes",
    // Of the report that the case above has left.
    "reports-ascend",
];

const WRONG_ORDER: &[&str] = &[
    "newest-is-the-last-and-aligned",
    "inbox-ids-echo-identifiers",
    "gateway-publishes-for-its-users",
    "places-of-a-request-are-contiguous",
    "times-ascend",
    "originator-query-ascends",
];

const LATE_ERROR: &[&str] = &[
    "query-for-nothing-is-empty",
    "sync-cursor-is-streamed",
    "gateway-lists-nodes",
    "grpc-web-reads",
    "grpc-web-text-reads",
    "gzip-request-is-read",
    "connect-json-reads",
    "the-edges-are-accepted",
    "long-retentions-are-accepted",
    "all-stream-resumes",
    "subscribe-half-close",
    "requests-may-be-abandoned",
    "a-hundred-envelopes-a-second",
    "reflection-tells-the-schema",
];

const WRONG_STATUS: &[&str] = &[
    "usage-of-an-unknown-payer",
    "health-is-told-by-name",
    "gateway-refuses-what-no-node-takes",
    "grpc-web-refusal-is-readable",
    "unknown-compression-is-refused",
    "other-methods-are-refused",
    "connect-errors-are-json",
    "connect-stream-ends-with-its-status",
    "connect-deadline-covers-the-request",
    "deadline-ends-a-stream",
    "publish-undecodable",
    "publish-wrong-target",
    "publish-bad-signature",
    "publish-topic-mismatch",
    "publish-depends-on-node",
    "publish-depends-on-unseen",
    "publish-depends-on-later",
    "publish-bad-retention",
    "publish-reserved-topic",
    "publish-identity-update",
    "publish-commit",
    "publish-bad-group-message",
    "publish-bad-key-package",
    "publish-two-payers",
    "publish-nothing",
    "publish-all-or-nothing",
    "publish-names-every-fault",
    "publish-long-topic",
    "refusals-have-details",
    "query-topics-and-originators",
    "query-too-many",
    "query-bad-topic-length",
    "query-long-cursor",
    "inbox-ids-too-many",
    "newest-too-many",
    "subscribe-envelopes-refusals",
    "subscribe-originators-refusals",
    "subscribe-topics-refusals",
    "bad-resume-point",
    "unknown-methods",
    "broken-messages",
    "subscribe-leaves-a-dead-client",
    "subscribe-no-version",
    "mutate-without-id",
    "mutate-too-many-adds",
    "mutate-too-many-cursors",
    "mutate-bad-remove",
    "mutate-bad-add",
    "mutate-bad-cursor",
    "mutate-history-of-a-live-topic",
    "mutate-history-in-flight",
    "a-request-of-25-mib-is-read",
    "a-larger-request-is-refused",
    "forged-signature-is-not-the-payers",
    "bad-node-token-is-refused",
    "claimed-lengths-are-not-believed",
    "bombs-are-refused",
    "deep-json-is-refused",
    "noise-in-requests-is-refused",
    "proofs-of-nothing-are-refused",
    "pages-of-nothing-are-404",
    "reports-without-substance-are-refused",
];

const ALTERED: &[&str] = &[
    "answer-has-the-client-bytes",
    "answer-is-signed-by-one-key",
    "retention-sets-expiry",
    "repeat-gets-the-same-answer",
    "version-is-semantic",
    "usage-of-a-payer-is-told",
    "subscribe-starts",
];

const IGNORED_CURSOR: &[&str] = &[
    "cursor-is-exclusive",
    "cursor-beyond-the-end-is-empty",
    "cursor-means-the-same-elsewhere",
    "topics-stream-has-a-cursor-each",
    "envelopes-stream-is-live-without-cursor",
    "a-stream-resumes-at-its-cursor",
];
