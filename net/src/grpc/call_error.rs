//! Errors of calls to a peer's API.

use std::time::Duration;

use hawser_proto::{one_line, with_causes};
use tokio::time::timeout;
use tonic::{Code, Status};

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
    let silent = || PeerCallError::Failed(format!("no answer within {} s", limit.as_secs()));
    timeout(limit, call).await.unwrap_or_else(|_| Err(silent()))
}
