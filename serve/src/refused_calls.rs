//! A refusal that holds for further calls of a method on the same connection, for a moment.
//!
//! A caller that a limit has refused may go on calling, thousands of times a second. Each of these calls would be
//! received, decoded and judged for the same answer. So the listener gives this answer as soon as the head of a call is
//! here.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

/// Time for which a refusal holds. Limits tell their callers to wait for whole seconds, so no caller is refused for
/// longer than it was told.
const HOLDS_FOR: Duration = Duration::from_secs(1);

/// The newest refusal that holds for further calls of a connection.
#[derive(Debug, Default)]
pub(crate) struct RefusedCalls(Mutex<Option<RefusedMethod>>);

#[derive(Debug)]
struct RefusedMethod {
    path: &'static str,
    status: Status,
    until: Instant,
}

impl RefusedCalls {
    /// Records that calls of the method with this path are refused with the status.
    pub(crate) fn note(&self, path: &'static str, status: Status) {
        let until = Instant::now() + HOLDS_FOR;
        *self.0.lock() = Some(RefusedMethod { path, status, until });
    }

    /// Returns the status that refuses a call of the method with this path; `None` if none holds.
    pub(crate) fn status_of(&self, path: &str) -> Option<Status> {
        let mut refused = self.0.lock();
        if refused.as_ref()?.until <= Instant::now() {
            *refused = None;
        }
        let refused = refused.as_ref().filter(|refused| refused.path == path)?;
        Some(refused.status.clone())
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_holds_for_a_second_and_for_its_method() {
        let refused = RefusedCalls::default();
        let code_of = |path| refused.status_of(path).map(|status| status.code());
        assert_eq!(code_of("/a.B/C"), None);
        refused.note("/a.B/C", Status::resource_exhausted("later"));
        tokio::time::advance(Duration::from_millis(999)).await;
        assert_eq!(code_of("/a.B/C"), Some(Code::ResourceExhausted));
        assert_eq!(code_of("/a.B/D"), None, "another method");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(code_of("/a.B/C"), None, "the limit may have room again");
    }
}
