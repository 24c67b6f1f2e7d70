//! Errors of calls to a peer's API.

use std::time::Duration;

use hawser_proto::{one_line, with_causes};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::arrived_bytes::ArrivedBytes;
use crate::control::SessionError;
use crate::counters::PeerError;

/// The reason a call ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerCallError {
    /// The peer broke a rule of the protocol.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The peer does not have this method.
    #[error("the peer does not have the method")]
    Unimplemented,
    /// An HTTP server without this path has answered: one of another kind than gRPC that lacks the method, or a proxy
    /// in front of the peer.
    #[error("the answer has the HTTP status 404")]
    NotFound,
    /// The peer refuses, or the connection fails.
    #[error("{0}")]
    Failed(String),
    /// The peer refuses this node's token, or wants one. Only within a call: its callers get [`Self::Failed`].
    #[error("{0}")]
    Unauthenticated(String),
    /// The peer has answered with an error for which its caller is not to blame.
    #[error("{0}")]
    Answered(String),
    /// The peer has answered that the call is too much for it, or takes too long.
    #[error("{0}")]
    Busy(String),
    /// Other long messages of the peer took the memory for this one, and were not complete in time.
    #[error("the peer sends too many long messages at a time")]
    TooManyLong,
}

impl PeerCallError {
    /// Returns the error for callers, to whom a refused token is a failure like others.
    pub(super) fn into_failure(self) -> Self {
        match self {
            Self::Unauthenticated(text) => Self::Failed(text),
            error => error,
        }
    }
}

impl From<Status> for PeerCallError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => Self::Unimplemented,
            code => {
                let text = format!("{code:?}: {}", one_line(status.message()));
                // A status that the transport makes for a lost connection has the connection's error as its source.
                let is_answer = std::error::Error::source(&status).is_none();
                match code {
                    Code::ResourceExhausted | Code::DeadlineExceeded if is_answer => {
                        Self::Busy(text)
                    }
                    Code::Unauthenticated => Self::Unauthenticated(text),
                    code if is_answer && is_own_failure(code) => Self::Answered(text),
                    _ => Self::Failed(text),
                }
            }
        }
    }
}

impl From<tonic::transport::Error> for PeerCallError {
    fn from(error: tonic::transport::Error) -> Self {
        Self::Failed(describe(&error))
    }
}

/// Returns true for codes that say that the server failed. Specified (`docs/protocol/misbehavior.md`); a method that is
/// not implemented is handled before.
fn is_own_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Internal | Code::Unknown | Code::DataLoss | Code::Aborted
    )
}

impl From<PeerCallError> for SessionError {
    fn from(error: PeerCallError) -> Self {
        match error {
            PeerCallError::Peer(error) => Self::Peer(error),
            PeerCallError::Unimplemented => Self::Peer(PeerError::NoMethod),
            error => Self::Lost(error.to_string()),
        }
    }
}

/// Returns an error with its causes, because the outermost error of the transport names no reason.
fn describe(error: &dyn std::error::Error) -> String {
    one_line(&with_causes(error))
}

/// Ends a call that takes longer than `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, PeerCallError>>,
) -> Result<T, PeerCallError> {
    timeout(limit, call).await.unwrap_or_else(|_| Err(silent(limit)))
}

/// Ends a call after the first `limit` in which it has no answer and too few bytes were counted in `arrived`.
pub(super) async fn within_arrivals<T>(
    limit: Duration,
    arrived: &ArrivedBytes,
    call: impl Future<Output = Result<T, PeerCallError>>,
) -> Result<T, PeerCallError> {
    tokio::pin!(call);
    loop {
        match timeout(limit, &mut call).await {
            Ok(answer) => return answer,
            Err(_) if arrived.take_enough() => {}
            Err(_) => return Err(silent(limit)),
        }
    }
}

fn silent(limit: Duration) -> PeerCallError {
    PeerCallError::Failed(format!("no answer within {} s", limit.as_secs()))
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Has so many kilobytes arrive in each second, for so many seconds.
    fn arriving(kilobytes: usize, seconds: u32) -> ArrivedBytes {
        let arrived = ArrivedBytes::default();
        let counted = arrived.clone();
        tokio::spawn(async move {
            for _ in 0..seconds {
                sleep(Duration::from_secs(1)).await;
                counted.add(kilobytes * 1024);
            }
        });
        arrived
    }

    async fn answered(after: Duration, arrived: &ArrivedBytes) -> bool {
        let call = async {
            sleep(after).await;
            Ok(())
        };
        within_arrivals(LIMIT, arrived, call).await.is_ok()
    }

    /// An envelope of 25 MiB takes 400 s over a link of 64 KiB/s.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_comes_behind_others_is_waited_for_while_they_arrive() {
        assert!(answered(Duration::from_secs(400), &arriving(64, 400)).await);
        assert!(answered(Duration::from_secs(9), &ArrivedBytes::default()).await);
        assert!(!answered(Duration::from_secs(11), &ArrivedBytes::default()).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_has_died_meanwhile_is_noticed() {
        let (began, arrived) = (Instant::now(), arriving(64, 15));
        assert!(!answered(Duration::from_secs(400), &arrived).await);
        assert_eq!(began.elapsed().as_secs(), 30, "within twice the limit");
    }
}
