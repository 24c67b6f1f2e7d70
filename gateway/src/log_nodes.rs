//! Judges updates by the logs of nodes: by one after the other for a bounded time, or by a few at once. It has the
//! types of the result, too.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::{Bytes, OriginatorId};
use tokio::time::{Instant, timeout_at};

use crate::fair::GateFullError;

/// Largest number of updates of one inbox in a request. A guess: clients send a few at most.
pub(crate) const UPDATES_PER_INBOX_MAX: usize = 64;

/// Time for a judgement of one inbox by the logs of all nodes. A guess: a long log takes up to ten seconds at one
/// node, and other callers wait for the place meanwhile. Without a bound, the owner of an inbox with a long log would
/// have all places for as long as all nodes take, with one request for each place.
const ALL_LOGS_TIMEOUT: Duration = Duration::from_secs(20);
/// Number of nodes whose logs make an update invalid that suffices when the time for a judgement is over. Chosen: one
/// node may be behind or lie.
pub(crate) const INVALID_AT_MIN: usize = 2;
/// Largest number of logs of one inbox that are held at once. A guess: nodes that do not answer delay the others
/// little, and the memory does not grow with the number of nodes.
const LOGS_AT_ONCE: usize = 4;

/// An update that the inbox's log already contains, with its originator envelope.
#[derive(Debug)]
pub(crate) struct PlacedUpdate {
    pub(crate) client: Bytes,
    pub(crate) envelope: OriginatorEnvelope,
}

/// The first update that is invalid, by its place in the request.
#[derive(Debug)]
pub(crate) struct UpdateError {
    pub(crate) index: usize,
    pub(crate) reason: String,
}

/// The reason for which the updates of an inbox are not sent to the chain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JudgeError {
    /// One of them is invalid.
    #[error("envelope {}: invalid identity update: {}", .0.index, .0.reason)]
    Invalid(UpdateError),
    /// The request has more updates of the inbox than are judged.
    #[error(
        "the request has {count} updates of one inbox: at most {UPDATES_PER_INBOX_MAX} are accepted at once"
    )]
    TooMany { count: usize },
    /// The caller has too many requests waiting at a gate.
    #[error("{0}")]
    Busy(#[from] GateFullError),
    /// No node returned a valid log of the inbox, so the updates were not judged.
    #[error("no node returns the log of the inbox: try again")]
    NoLog,
}

/// The result of judging updates: those that the log already contains, or the first invalid one.
pub(crate) type CheckedUpdates = Result<Vec<PlacedUpdate>, UpdateError>;

/// The judgement by the log of one node; `None` if the node returned no log.
pub(crate) type LogJudgement = Result<Option<CheckedUpdates>, GateFullError>;
/// A node with the judgement by its log; `None` if there was none.
pub(crate) type JudgedLog = (OriginatorId, Option<CheckedUpdates>);

/// Judges by the logs of these nodes in turn, until all updates are valid after one of them. Returns that node with the
/// updates that are on the chain already. Asks no further node after [`ALL_LOGS_TIMEOUT`].
///
/// # Errors
/// [`JudgeError`] if no log makes all updates valid, or if the caller has too many waiting requests. An update counts
/// as invalid if a log makes it so, and either all nodes were asked or [`INVALID_AT_MIN`] logs have an invalid one.
pub(crate) async fn first_valid<'a, N: Clone>(
    nodes: Vec<N>,
    judge_at: impl Fn(N) -> BoxFuture<'a, LogJudgement>,
) -> Result<(N, Vec<PlacedUpdate>), JudgeError> {
    let until = Instant::now() + ALL_LOGS_TIMEOUT;
    let (mut first_invalid, mut invalid_at) = (None, 0);
    for node in nodes {
        match timeout_at(until, judge_at(node.clone())).await {
            Ok(judged) => match judged? {
                Some(Ok(placed)) => return Ok((node, placed)),
                Some(Err(invalid)) => {
                    first_invalid = first_invalid.or(Some(invalid));
                    invalid_at += 1;
                }
                None => {}
            },
            Err(_) if invalid_at < INVALID_AT_MIN => return Err(JudgeError::NoLog),
            Err(_) => break,
        }
    }
    Err(first_invalid.map_or(JudgeError::NoLog, JudgeError::Invalid))
}

/// Judges by the logs of all these nodes, [`LOGS_AT_ONCE`] at once. Returns the judgements as they come; `None` for
/// each node without one after [`ALL_LOGS_TIMEOUT`].
pub(crate) async fn by_all<'a, N>(
    nodes: Vec<N>,
    judge_at: impl Fn(N) -> (OriginatorId, BoxFuture<'a, Option<CheckedUpdates>>),
) -> Vec<JudgedLog> {
    let until = Instant::now() + ALL_LOGS_TIMEOUT;
    let judging = stream::iter(nodes).map(move |node| {
        let (id, judging) = judge_at(node);
        async move { (id, timeout_at(until, judging).await.ok().flatten()) }
    });
    judging.buffer_unordered(LOGS_AT_ONCE).collect().await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::time::sleep;

    use super::*;

    const NODES: usize = 10;

    /// Judges at ten nodes, of which each takes as long. Returns the node after whose log all is valid, and the number
    /// of nodes that were asked.
    async fn judged(takes_s: u64, valid_at: usize) -> (Result<usize, JudgeError>, usize) {
        let asked = Mutex::new(0);
        let judging = first_valid((0..NODES).collect(), |node: usize| {
            *asked.lock() += 1;
            let invalid = UpdateError { index: node, reason: String::new() };
            let checked = if node == valid_at { Ok(Vec::new()) } else { Err(invalid) };
            Box::pin(async move {
                sleep(Duration::from_secs(takes_s)).await;
                Ok(Some(checked))
            })
        });
        let judged = judging.await.map(|(node, _)| node);
        (judged, asked.into_inner())
    }

    /// The owner of an inbox with a very long log could otherwise keep other callers from their places for minutes.
    #[tokio::test(start_paused = true)]
    async fn logs_of_many_nodes_are_judged_for_a_bounded_time() {
        let began = Instant::now();
        let (refused, asked) = judged(9, NODES).await;
        assert!(matches!(&refused, Err(JudgeError::Invalid(first)) if first.index == 0));
        assert_eq!(asked, 3, "two logs and the begin of a third one");
        assert!(began.elapsed() < 2 * ALL_LOGS_TIMEOUT, "{:?}", began.elapsed());
        let (refused, asked) = judged(15, NODES).await;
        assert!(matches!(refused, Err(JudgeError::NoLog)), "one node may lie");
        assert_eq!(asked, 2);
    }

    /// A gateway of a network with many nodes would otherwise hold a log of megabytes from each, for each update that
    /// is not shown yet.
    #[tokio::test(start_paused = true)]
    async fn few_logs_of_an_inbox_are_held_at_once() {
        let held = Arc::new(Mutex::new((0, 0)));
        let numbers = (0..).take(5 * LOGS_AT_ONCE);
        let judged = by_all(numbers.collect(), |node: u32| {
            let held = held.clone();
            let judging = async move {
                {
                    let mut held = held.lock();
                    held.0 += 1;
                    held.1 = held.0.max(held.1);
                }
                sleep(Duration::from_secs(1)).await;
                held.lock().0 -= 1;
                None::<CheckedUpdates>
            };
            (OriginatorId(node), Box::pin(judging))
        });
        assert_eq!(judged.await.len(), 5 * LOGS_AT_ONCE);
        assert_eq!(*held.lock(), (0, LOGS_AT_ONCE));
    }

    /// An update that is not shown has one of the places, too, for as long as it is judged.
    #[tokio::test(start_paused = true)]
    async fn all_logs_of_an_update_that_is_not_shown_are_judged_for_a_bounded_time() {
        let began = Instant::now();
        let judged = by_all((0..100).collect(), |node: u32| {
            let judging = async move {
                sleep(Duration::from_secs(9)).await;
                Some(CheckedUpdates::Ok(Vec::new()))
            };
            (OriginatorId(node), Box::pin(judging))
        });
        let judged = judged.await;
        assert!(began.elapsed() < 2 * ALL_LOGS_TIMEOUT, "{:?}", began.elapsed());
        let of_all: BTreeSet<_> = judged.iter().map(|(node, _)| *node).collect();
        assert_eq!(of_all.len(), 100, "each node is named: one that has not answered may show it");
        let answered = judged.iter().filter(|(_, checked)| checked.is_some()).count();
        assert_eq!(answered, 2 * LOGS_AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_log_suffices_and_all_are_judged_while_there_is_time() {
        let (valid, asked) = judged(9, 1).await;
        assert_eq!((valid.ok(), asked), (Some(1), 2));
        let (valid, asked) = judged(0, NODES - 1).await;
        assert_eq!((valid.ok(), asked), (Some(NODES - 1), NODES));
        let (refused, asked) = judged(0, NODES).await;
        assert!(matches!(&refused, Err(JudgeError::Invalid(first)) if first.index == 0));
        assert_eq!(asked, NODES);
    }
}
