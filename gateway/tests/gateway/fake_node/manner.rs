//! The manners of a fake node.

/// The behaviour of a node at calls to publish.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Manner {
    Honest,
    /// Signs with a key that is not the node's.
    Forges,
    /// Signs envelopes of topics that contain this byte with a key that is not the node's.
    ForgesFor(u8),
    /// Publishes another payer envelope.
    ChangesBytes,
    /// Adds a field to the payer envelope that other software passes over, and no client decodes.
    AddsOddField,
    Overcharges,
    /// Charges this congestion fee, picodollars.
    IsBusy(u64),
    /// States an expiry that is two days late.
    KeepsForLonger,
    /// States an expiry that is an hour early.
    ExpiresEarly,
    /// Changes the retention in the payer envelope, and charges the correct fee for it.
    SellsLonger,
    /// Signs a time that is this many seconds ahead.
    IsAhead(u64),
    OtherOriginator,
    AnswersFewer,
    /// Stores nothing, and answers with [`MORE_ENTRIES`](super::MORE_ENTRIES) empty envelopes.
    AnswersMore,
    /// Signs a MiB that is no part of the request.
    Pads,
    Hangs,
    /// Stores envelopes that it has already once more, with new sequence ids.
    StoresAgain,
    /// Stores the envelopes, and does not answer.
    StoresAndHangs,
    /// Stores the envelopes, and answers with this status.
    StoresAndFails(tonic::Code),
    /// Stores the envelopes, fails, and adds [`PADDING_LEN_BYTES`](super::PADDING_LEN_BYTES) to each answer to a query.
    AnswersAtLength,
    /// Stores the envelopes, fails, and adds [`EMPTY_ENTRIES`](super::EMPTY_ENTRIES) to each answer to a query.
    AnswersWithEmptyEntries,
    /// Publishes, and answers no query.
    AnswersNoQuery,
    /// Answers with envelopes that were stored this many seconds ago.
    HadStoredIt(u64),
    /// Fails, and answers queries.
    Fails,
    /// Fails calls with envelopes of topics that contain this byte, and answers queries.
    FailsFor(u8),
    /// Fails, also at queries for the newest envelopes.
    Broken,
    /// Says that it cannot publish now, and when to try again.
    CannotPublish,
    /// Refuses envelopes of topics that contain this byte.
    Refuses(u8),
    /// Lacks a price for envelopes of topics that contain this byte, and names so many of them at most as xmtpd does.
    LacksPrice(u8, usize),
    /// Refuses this many calls, and then publishes.
    RefusesCalls(usize),
}
