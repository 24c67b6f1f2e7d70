//! Requests to every endpoint, for facts on which a single endpoint is not trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _};

use super::{Endpoints, kind_of};
use crate::send::{Chain, RequestError};

/// The time limit for a recently failed endpoint while others can answer. Guess.
const PAUSED_ANSWER_MAX: Duration = Duration::from_millis(500);

/// The time limits of a question to several endpoints at once.
#[derive(Debug, Clone, Copy)]
pub struct AnswerTimes {
    /// The limit for one endpoint.
    pub time_max: Duration,
    /// The limit for a recently failed endpoint.
    pub paused_max: Duration,
    /// The time left for the others once more than half have answered.
    pub grace: Duration,
}

impl Endpoints {
    /// Sends a request to every endpoint at once, including recently failed ones, and returns their
    /// answers in order of preference.
    pub(crate) async fn each<T, F, Fut>(&self, ask: F) -> Vec<Result<T, RequestError>>
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, RequestError>>,
    {
        let ask = &ask;
        let asked =
            (0..self.0.slots.len()).map(|index| async move { ask(self.chain(index).await?).await });
        futures_util::future::join_all(asked).await
    }

    /// Asks like [`each`](Self::each), but waits at most `time_max` for each endpoint. Neither an answer nor silence
    /// changes the pauses of an endpoint.
    pub(crate) async fn each_within<T, F, Fut>(
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
            let answer = async { ask(self.chain(index).await?).await };
            let answer = tokio::time::timeout(time_max, answer).await;
            answer.unwrap_or_else(|_| Err(self.silence(index, time_max)))
        });
        futures_util::future::join_all(asked).await
    }

    /// Returns the error of an endpoint that has not answered within this time.
    pub(super) fn silence(&self, index: usize, time: Duration) -> RequestError {
        let endpoint = self.0.slots[index].display_url.clone();
        let reason = format!("no answer within {} ms", time.as_millis());
        RequestError::Unreachable { endpoint, reason }
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
        self.each_at_most(time_max, PAUSED_ANSWER_MAX, ask).await
    }

    /// Asks like [`each_in_time`](Self::each_in_time). Once one endpoint has answered without an error, the others have
    /// `grace` left.
    pub(crate) async fn each_until_one<T, F, Fut>(
        &self,
        time_max: Duration,
        grace: Duration,
        ask: F,
    ) -> Vec<Result<T, RequestError>>
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, RequestError>>,
    {
        let (ask, all) = (&ask, 0..self.0.slots.len());
        let asked = all.clone().map(|index| async move {
            (index, self.at_in_time(index, time_max, PAUSED_ANSWER_MAX, ask).await)
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut answers = BTreeMap::new();
        while let Some((index, answer)) = asked.next().await {
            let is_one = answer.is_ok();
            answers.insert(index, answer);
            if is_one {
                break;
            }
        }
        let others = async {
            while let Some((index, answer)) = asked.next().await {
                answers.insert(index, answer);
            }
        };
        // Endpoints that have not answered by then count as silent.
        let _ = tokio::time::timeout(grace, others).await;
        let answer =
            |index| answers.remove(&index).unwrap_or_else(|| Err(self.silence(index, grace)));
        all.map(answer).collect()
    }

    /// Asks like [`each_in_time`](Self::each_in_time), but waits for a recently failed endpoint as long as for the
    /// others, because its answer may decide.
    pub(crate) async fn each_in_whole_time<T, F, Fut>(
        &self,
        time_max: Duration,
        ask: F,
    ) -> Vec<Result<T, RequestError>>
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, RequestError>>,
    {
        self.each_at_most(time_max, time_max, ask).await
    }

    /// Asks all endpoints at once: waits at most `time_max` for each, and `paused_max` for a recently failed one.
    async fn each_at_most<T, F, Fut>(
        &self,
        time_max: Duration,
        paused_max: Duration,
        ask: F,
    ) -> Vec<Result<T, RequestError>>
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, RequestError>>,
    {
        let all = 0..self.0.slots.len();
        let asked = all.map(|index| self.at_in_time(index, time_max, paused_max, &ask));
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
            .map(|(index, _)| self.at_in_time(index, time_max, PAUSED_ANSWER_MAX, ask))
            .collect::<FuturesUnordered<_>>()
    }

    /// Asks every endpoint that is not paused at once, for at most `time_max`. As soon as more than half of them have
    /// answered, the others have `grace` left. Returns one answer for each host and port.
    ///
    /// # Errors
    /// The error of the last endpoint, if none has answered.
    pub async fn each_until_majority<T, F, Fut>(
        &self,
        time_max: Duration,
        grace: Duration,
        ask: F,
    ) -> Result<Vec<T>, RequestError>
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, RequestError>>,
    {
        let times = AnswerTimes { time_max, paused_max: PAUSED_ANSWER_MAX, grace };
        self.soon(self.order(Instant::now()), times, ask).await
    }

    /// Asks like [`each_until_majority`](Self::each_until_majority), but also the paused endpoints, for at most
    /// `paused_max`. For answers of which more than half decide: a pause must not leave the decision to the other
    /// endpoints.
    ///
    /// # Errors
    /// The error of the last endpoint, if none has answered.
    pub async fn each_until_majority_with_paused<T, F, Fut>(
        &self,
        times: AnswerTimes,
        ask: F,
    ) -> Result<Vec<T>, RequestError>
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, RequestError>>,
    {
        self.soon((0..self.0.slots.len()).collect(), times, ask).await
    }

    /// Asks the endpoints at these indices: see [`each_until_majority`](Self::each_until_majority).
    async fn soon<T, F, Fut>(
        &self,
        order: Vec<usize>,
        AnswerTimes { time_max, paused_max, grace }: AnswerTimes,
        ask: F,
    ) -> Result<Vec<T>, RequestError>
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, RequestError>>,
    {
        let (ask, slots) = (&ask, &self.0.slots);
        let hosts: BTreeSet<_> = order.iter().map(|index| &slots[*index].display_url).collect();
        let asked = order.into_iter().map(|index| async move {
            let answer = self.at_in_time(index, time_max, paused_max, ask).await;
            (&slots[index].display_url, answer)
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let (mut answers, mut last) = (BTreeMap::new(), None);
        while answers.len() <= hosts.len() / 2
            && let Some((host, answer)) = asked.next().await
        {
            match answer {
                Ok(answer) => _ = answers.entry(host).or_insert(answer),
                Err(error) => last = Some(error),
            }
        }
        let others = async {
            while let Some((host, answer)) = asked.next().await {
                if let Ok(answer) = answer {
                    answers.entry(host).or_insert(answer);
                }
            }
        };
        // Endpoints that have not answered by then are left out.
        let _ = tokio::time::timeout(grace, others).await;
        match last {
            Some(error) if answers.is_empty() => Err(error),
            _ => Ok(answers.into_values().collect()),
        }
    }

    /// Returns true if there is an endpoint with another host or port than `asked`.
    pub(crate) fn has_other_than(&self, asked: &Chain) -> bool {
        self.0.slots.iter().any(|slot| slot.display_url != asked.endpoint())
    }

    /// Returns the indices of the endpoints with the host and port of `asked`, which is one of these endpoints.
    pub(crate) fn with_host_of(&self, asked: &Chain) -> Vec<usize> {
        let all = self.display_urls().enumerate();
        all.filter(|(_, url)| url == asked.endpoint()).map(|(index, _)| index).collect()
    }

    /// Pauses the endpoints with the host and port of `asked`. Does nothing if there is no other one.
    pub(crate) fn distrust_asked(&self, asked: &Chain, reason: &str) {
        self.distrust_named(asked.endpoint(), reason);
    }

    /// Pauses the endpoints with this scheme, host and port. Does nothing if there is no other one.
    pub(crate) fn distrust_named(&self, endpoint: &str, reason: &str) {
        let slots = self.0.slots.iter().enumerate();
        for (index, _) in slots.filter(|(_, slot)| slot.display_url == endpoint) {
            self.distrust_at(index, reason);
        }
    }

    /// Asks one endpoint for at most `time_max`, and for at most `paused_max` if it has recently failed.
    async fn at_in_time<T, F, Fut>(
        &self,
        index: usize,
        time_max: Duration,
        paused_max: Duration,
        ask: &F,
    ) -> Result<T, RequestError>
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, RequestError>>,
    {
        let slot = &self.0.slots[index];
        let is_paused = slot.state.lock().retry_at.is_some_and(|at| at > Instant::now());
        let time = if is_paused { time_max.min(paused_max) } else { time_max };
        let answer = async { ask(self.chain(index).await?).await };
        let answer = tokio::time::timeout(time, answer).await;
        if let Ok(Ok(_)) = &answer {
            self.recovered(index);
        }
        answer.unwrap_or_else(|_| {
            let error = self.silence(index, time);
            // The shorter time of a paused endpoint may not suffice for a new connection.
            if time == time_max {
                self.failed(index, kind_of(&error), error.to_string());
            }
            Err(error)
        })
    }

    /// Ends the pause of an endpoint that has answered, unless it is distrusted or has hung. It does not become the
    /// active one.
    fn recovered(&self, index: usize) {
        let (mut state, now) = (self.0.slots[index].state.lock(), Instant::now());
        let is_distrusted = state.distrusted_until.is_some_and(|until| until > now);
        if !is_distrusted && !state.has_hung(now) && state.retry_at.take().is_some() {
            state.error = None;
            state.pauses.reset();
        }
    }

    /// Returns scheme, host and port of each endpoint, in order of preference. Two may be equal.
    pub(crate) fn display_urls(&self) -> impl Iterator<Item = String> {
        self.0.slots.iter().map(|slot| slot.display_url.clone())
    }

    /// Returns the index of the first endpoint with this scheme, host and port; `usize::MAX` if there is none.
    pub(crate) fn index_of(&self, named: &str) -> usize {
        self.display_urls().position(|url| url == named).unwrap_or(usize::MAX)
    }

    /// Returns scheme, host and port of the endpoint that answered last; `None` before the first answer.
    pub(crate) fn active_url(&self) -> Option<String> {
        self.display_urls().nth(self.active())
    }

    /// Returns the number of different hosts and ports of the endpoints.
    pub(crate) fn hosts(&self) -> usize {
        self.display_urls().collect::<BTreeSet<_>>().len()
    }

    /// Returns the number of endpoints.
    pub(crate) fn count(&self) -> usize {
        self.0.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::{BACK_MAX, EndpointErrorKind, HUNG_FOR, PAUSE_MAX};
    use super::*;

    #[tokio::test]
    async fn a_recently_failed_endpoint_has_the_whole_time_only_where_its_answer_may_decide() {
        // No connection is accepted, so no answer ever comes.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let endpoints = Endpoints::new("settlement", &[url], 7).unwrap();
        for _ in 0..8 {
            endpoints.failed(0, EndpointErrorKind::Unreachable, "gone".into());
        }
        let (time_max, short) = (2 * PAUSED_ANSWER_MAX, PAUSED_ANSWER_MAX.as_millis());
        let ask = |chain: Chain| async move { chain.newest_block().await };
        let error = endpoints.each_in_time(time_max, ask).await.remove(0).unwrap_err().to_string();
        assert!(error.contains(&format!("within {short} ms")), "{error}");
        let answers = endpoints.each_in_whole_time(time_max, ask).await;
        let error = answers[0].as_ref().unwrap_err().to_string();
        assert!(error.contains(&format!("within {} ms", time_max.as_millis())), "{error}");
    }

    #[tokio::test]
    async fn a_pause_does_not_leave_a_decision_to_the_other_endpoints() {
        let silent = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (paused, other) = (silent(), silent());
        paused.set_nonblocking(true).unwrap();
        let urls = [&paused, &other].map(|it| format!("http://{}", it.local_addr().unwrap()));
        let endpoints = Endpoints::new("wallet", &urls, 7).unwrap();
        for _ in 0..8 {
            endpoints.failed(0, EndpointErrorKind::Unreachable, "gone".into());
        }
        let second = Duration::from_secs(1);
        let ask = |chain: Chain| async move { chain.newest_block().await };
        endpoints.each_until_majority(second, Duration::ZERO, ask).await.unwrap_err();
        assert!(paused.accept().is_err(), "it is not asked");
        let times = AnswerTimes { time_max: second, paused_max: second, grace: Duration::ZERO };
        endpoints.each_until_majority_with_paused(times, ask).await.unwrap_err();
        assert!(paused.accept().is_ok(), "its answer could have decided");
    }

    /// The endpoint hangs: without the limit, each end of its pause would cost a request ten seconds.
    #[tokio::test]
    async fn an_endpoint_that_has_failed_has_little_time_to_come_back_while_another_one_works() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = format!("http://{}", listener.local_addr().unwrap());
        let two = Endpoints::new("app", &[silent, "http://127.0.0.1:1".to_owned()], 1).unwrap();
        assert!(!two.is_spare(0, &[0, 1]));
        two.failed(0, EndpointErrorKind::Unreachable, "gone".into());
        assert!(two.is_spare(0, &[0, 1]) && !two.is_spare(0, &[0]));
        let ask = |chain: Chain| async move { chain.newest_block().await };
        two.ask_in(vec![0, 1], ask).await.unwrap_err();
        let error = two.status()[0].error.clone().unwrap();
        assert!(error.contains(&format!("within {} ms", BACK_MAX.as_millis())), "{error}");
        assert!(!two.is_spare(0, &[0, 1]), "the other one has failed now");
    }

    /// The endpoint answers requests for heads and hangs at those for logs. If answers ended its pause, it would be
    /// asked for logs at once, and cost each page ten seconds.
    #[test]
    fn answers_do_not_end_the_pauses_of_an_endpoint_that_hangs_at_some_requests() {
        let urls = [1, 2].map(|port| format!("http://127.0.0.1:{port}"));
        let two = Endpoints::new("app", &urls, 1).unwrap();
        let silence = two.silence(0, BACK_MAX);
        for _ in 0..8 {
            two.failed_after(0, &silence, BACK_MAX);
            two.succeeded(0); // the head was asked for
            two.recovered(0);
        }
        let soon = Instant::now() + PAUSE_MAX / 10;
        assert_eq!(two.order(soon), [1]);
        two.failed_after(1, &silence, Duration::ZERO);
        two.succeeded(1);
        assert_eq!(two.order(soon), [1], "it has failed at once");
        let later = Instant::now() + HUNG_FOR;
        assert!(!two.0.slots[0].state.lock().has_hung(later));
        assert_eq!(two.order(later), [0, 1]);
    }

    /// The endpoint takes connections and answers nothing.
    #[tokio::test]
    async fn a_silent_endpoint_ends_a_question_in_time_and_is_not_paused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let endpoints = Endpoints::new("app", &[url], 1).unwrap();
        let ask = |chain: Chain| async move { chain.newest_block().await };
        let answers = endpoints.each_within(Duration::from_millis(50), ask).await;
        let [Err(error)] = answers.as_slice() else { panic!("{answers:?}") };
        assert!(error.to_string().contains("no answer within 50 ms"), "{error}");
        assert_eq!(endpoints.status()[0].error, None);
    }
}
