//! Requests to every endpoint, for facts on which a single endpoint is not trusted.

use std::time::{Duration, Instant};

use super::{Endpoints, kind_of};
use crate::send::{Chain, RequestError};

/// The time limit for a recently failed endpoint while others can answer. Guess.
const PAUSED_ANSWER_MAX: Duration = Duration::from_millis(500);

impl Endpoints {
    /// Asks every endpoint, including recently failed ones, until one returns a value. The others may
    /// lag behind or may have pruned it.
    pub(crate) async fn find<T, F, Fut>(&self, ask: F) -> Option<T>
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<Option<T>, RequestError>>,
    {
        for index in 0..self.0.slots.len() {
            let Ok(chain) = self.chain(index).await else { continue };
            match ask(chain).await {
                Ok(Some(found)) => return Some(found),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(chain = self.0.name, %error, "an endpoint could not be searched")
                }
            }
        }
        None
    }

    /// Sends a request to every endpoint at once, including recently failed ones, and returns their
    /// answers in order of preference.
    pub(crate) async fn each<T, F, Fut>(&self, ask: F) -> Vec<Result<T, RequestError>>
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, RequestError>>,
    {
        let ask = &ask;
        let asked = (0..self.0.slots.len()).map(|index| async move {
            match self.chain(index).await {
                Ok(chain) => ask(chain).await,
                Err(error) => Err(error),
            }
        });
        futures_util::future::join_all(asked).await
    }

    /// Asks like [`each`](Self::each), but waits at most `time_max` for each endpoint, and much less for a recently
    /// failed one, so that a silent endpoint does not delay the answers of others.
    pub(crate) async fn each_in_time<T, F, Fut>(
        &self,
        time_max: Duration,
        ask: F,
    ) -> Vec<Result<T, RequestError>>
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, RequestError>>,
    {
        let ask = &ask;
        let asked = (0..self.0.slots.len()).map(|index| async move {
            let slot = &self.0.slots[index];
            let is_paused = slot.state.lock().retry_at.is_some_and(|at| at > Instant::now());
            let time = if is_paused { time_max.min(PAUSED_ANSWER_MAX) } else { time_max };
            let answer = async { ask(self.chain(index).await?).await };
            tokio::time::timeout(time, answer).await.unwrap_or_else(|_| {
                let endpoint = slot.display_url.clone();
                let reason = format!("no answer within {} ms", time.as_millis());
                let error = RequestError::Unreachable { endpoint, reason };
                self.failed(index, kind_of(&error), error.to_string());
                Err(error)
            })
        });
        futures_util::future::join_all(asked).await
    }

    /// Returns the number of endpoints.
    pub(crate) fn count(&self) -> usize {
        self.0.slots.len()
    }
}
