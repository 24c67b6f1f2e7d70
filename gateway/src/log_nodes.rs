//! Judges updates by the log of one node after the other, for a bounded time.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use crate::fair::GateFullError;
use crate::identity::{CheckedUpdates, JudgeError, PlacedUpdate};

/// Time for the judgement of one inbox by the logs of all nodes. A guess: a long log takes up to ten seconds at one
/// node, and other callers wait for the place meanwhile. Without a bound, the owner of an inbox with a long log would
/// have all places for as long as all nodes take, with one request for each place.
const ALL_LOGS_TIMEOUT: Duration = Duration::from_secs(20);
/// Number of nodes whose logs make an update invalid that suffices when this time is over. Chosen: one node may be
/// behind or lie.
const INVALID_AT_MIN: usize = 2;

/// The judgement by the log of one node; `None` if the node returned no log.
pub(crate) type LogJudgement = Result<Option<CheckedUpdates>, GateFullError>;

/// Judges by the logs of these nodes in turn, until all updates are valid after one of them. Returns that node with the
/// updates that are on the chain already. Asks no further node after [`ALL_LOGS_TIMEOUT`].
///
/// # Errors
/// [`JudgeError`] if no log makes all updates valid, or if the caller has too many waiting requests. The first invalid
/// update is that of the first log, if all nodes were asked, or at least [`INVALID_AT_MIN`] logs make one invalid.
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

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::time::sleep;

    use super::*;
    use crate::identity::UpdateError;

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
