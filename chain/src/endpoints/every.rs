//! Requests to every endpoint, for facts on which a single endpoint is not trusted.

use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, Stream};

use super::{Endpoints, kind_of};
use crate::send::{Chain, RequestError};

/// The time limit for a recently failed endpoint while others can answer. Guess.
const PAUSED_ANSWER_MAX: Duration = Duration::from_millis(500);

impl Endpoints {
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
        let asked = (0..self.0.slots.len()).map(|index| self.at_in_time(index, time_max, &ask));
        futures_util::future::join_all(asked).await
    }

    /// Asks like [`each_in_time`](Self::each_in_time) every endpoint with another host or port than `asked`, and yields
    /// each answer as it arrives.
    pub(crate) fn others_in_time<'a, T, F, Fut>(
        &'a self,
        asked: &Chain,
        time_max: Duration,
        ask: &'a F,
    ) -> impl Stream<Item = Result<T, RequestError>> + 'a
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, RequestError>> + 'a,
        T: 'a,
    {
        let slots = self.0.slots.iter().enumerate();
        let others = slots.filter(|(_, slot)| slot.display_url != asked.endpoint());
        others
            .map(|(index, _)| self.at_in_time(index, time_max, ask))
            .collect::<FuturesUnordered<_>>()
    }

    async fn at_in_time<T, F, Fut>(
        &self,
        index: usize,
        time_max: Duration,
        ask: &F,
    ) -> Result<T, RequestError>
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, RequestError>>,
    {
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
    }

    /// Returns scheme, host and port of each endpoint, in order of preference. Two may be equal.
    pub(crate) fn display_urls(&self) -> impl Iterator<Item = String> {
        self.0.slots.iter().map(|slot| slot.display_url.clone())
    }

    /// Returns the number of endpoints.
    pub(crate) fn count(&self) -> usize {
        self.0.slots.len()
    }
}
