//! Waiting for something that has to become true.

use std::time::{Duration, Instant};

/// No test waits longer than this for one thing; on a loaded machine everything takes long.
pub const WAIT_MAX: Duration = Duration::from_secs(120);
/// Interval between two checks of a condition.
pub const POLL_EVERY: Duration = Duration::from_millis(20);

/// Asks until there is an answer.
///
/// # Panics
/// After [`WAIT_MAX`], with `what` was waited for.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {WAIT_MAX:?} in vain until {what}");
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Waits until a value equals the wanted one. A failure shows the last value.
///
/// # Panics
/// After [`WAIT_MAX`], with the last value and the one wanted.
pub async fn until_equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    wanted: &T,
    mut ask: impl AsyncFnMut() -> Option<T>,
) {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let answer = ask().await;
        if answer.as_ref() == Some(wanted) {
            return;
        }
        if Instant::now() >= deadline {
            panic!("{what}: waited {WAIT_MAX:?}\n  for {wanted:?}\n  got {answer:?}");
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
