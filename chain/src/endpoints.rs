//! One chain behind several RPC URLs, in order of preference.
//!
//! A request goes to the first endpoint that is not paused after a failure, then to the next one. An error response is
//! a failure, unless an honest endpoint may refuse such a request. An endpoint that serves another chain receives no
//! request.
//!
//! # Why not alloy's layers
//!
//! `FallbackLayer` ranks transports by latency and success rate and sends each request to several
//! of them at once. `RetryBackoffLayer` repeats rate-limited requests at one transport. Neither
//! fits:
//!
//! - Operators order their endpoints by price and trust, so preference has to win over latency.
//! - A transport sees requests, not chains. Every endpoint has to prove its chain id before its first request, after
//!   each failure and once a minute: a single wrong URL must never add to an originator's log or to a balance.
//! - A response can be well-formed and wrong (a missing log, an unknown transaction). Only the caller finds out and
//!   names the endpoint in `Endpoints::distrust_named`; a layer offers no such call.
//! - Some callers need the responses of *every* endpoint: see `Endpoints::find`.
//! - Operators see each endpoint's error and the counts by kind: see [`Endpoints::status`].
//!
//! The tests compare the choice of endpoints with a model.

mod every;

pub use every::AnswerTimes;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backoff::Pauses;
use crate::send::{Chain, ConnectError, RequestError, ViewError, parse_url};

/// The first and the longest pause of a failed endpoint; it doubles with each consecutive failure. Guesses: a restart
/// takes seconds, and providers limit rates by the second or by the minute.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The time in which a failed endpoint has to prove its chain id again while another one works. Guess: an endpoint that
/// hangs would otherwise delay a request by ten seconds after each of its pauses.
const BACK_MAX: Duration = Duration::from_secs(2);
/// The time for which an endpoint counts as hanging, so that answers to other requests do not end its pauses, after a
/// request took [`BACK_MAX`] or longer and failed. Guess: longer than the longest pause and the request after it.
const HUNG_FOR: Duration = Duration::from_secs(60);
/// The first and the longest pause of a distrusted endpoint; it doubles each time, regardless of answers in between.
/// Guesses: an endpoint that is pruned or far behind stays so for hours and continues to answer.
const DISTRUST_MIN: Duration = Duration::from_secs(5);
const DISTRUST_MAX: Duration = Duration::from_secs(300);
/// The age from which an earlier distrust no longer counts. Guess.
const DISTRUST_AGE_MAX: Duration = Duration::from_secs(1800);
/// The interval at which each endpoint in use proves its chain id again, and an open WebSocket states its chain. Guess.
pub(crate) const CHECK_EVERY: Duration = Duration::from_secs(60);
/// Parts of error messages, in lower case, with which providers limit the rate of requests. A guess at common
/// wordings, because there is no standard.
const TOO_MANY: [&str; 12] = [
    "rate limit",
    "rate-limit",
    "ratelimit",
    "too many requests",
    "request limit",
    "compute units",
    "throughput",
    "requests per second",
    "rps limit",
    "request rate",
    "quota",
    "capacity exceeded",
];

/// A chain behind its endpoints. Cheap to clone; all clones share their state.
#[derive(Clone)]
pub struct Endpoints(Arc<EndpointsState>);

struct EndpointsState {
    name: &'static str,
    id: u64,
    slots: Vec<EndpointSlot>,
    /// The index of the endpoint that answered last; `usize::MAX` before the first answer.
    active: AtomicUsize,
    errors: [AtomicU64; EndpointErrorKind::ALL.len()],
}

struct EndpointSlot {
    url: String,
    /// Scheme, host and port: the only part of the URL without secrets.
    display_url: String,
    state: Mutex<EndpointState>,
}

struct EndpointState {
    /// The connection and the time at which it last proved its chain id; `None` after a failure.
    chain: Option<(Chain, Instant)>,
    /// The last failure, until the next success.
    error: Option<String>,
    pauses: Pauses,
    /// The end of the pause after a failure.
    retry_at: Option<Instant>,
    /// The time of the last failure that took long: the endpoint may hang at some requests and answer others.
    hung_at: Option<Instant>,
    /// Pauses after distrust, and the time of the last one. Answers do not end them, because
    /// wrong answers are their reason.
    distrust: Pauses,
    distrusted_at: Option<Instant>,
    /// The end of the pause after distrust.
    distrusted_until: Option<Instant>,
}

/// The kind of an endpoint's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointErrorKind {
    /// No answer, or none in time.
    Unreachable,
    /// An error response.
    Refused,
    /// A response that is not a valid answer.
    Malformed,
    /// The endpoint serves another chain.
    WrongChain,
}

impl EndpointErrorKind {
    /// All kinds.
    pub const ALL: [Self; 4] =
        [Self::Unreachable, Self::Refused, Self::Malformed, Self::WrongChain];

    /// Returns the name that logs and metrics use.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Malformed => "malformed",
            Self::WrongChain => "wrong_chain",
        }
    }
}

/// An error of a request through [`Endpoints::ask`]: either the endpoint has failed, or the
/// chain has answered with an error.
pub trait EndpointError: From<RequestError> + fmt::Display {
    /// Returns the failure of the endpoint; `None` if the chain has answered and the request itself is at fault.
    fn request_error(&self) -> Option<&RequestError>;
}

impl EndpointError for RequestError {
    fn request_error(&self) -> Option<&RequestError> {
        Some(self)
    }
}

impl EndpointError for ViewError {
    fn request_error(&self) -> Option<&RequestError> {
        match self {
            Self::Rpc(error) => Some(error),
            _ => None,
        }
    }
}

/// A snapshot of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Scheme, host and port; the rest of the URL may be secret.
    pub display_url: String,
    /// True if it gave the last answer.
    pub active: bool,
    /// The failure that keeps it out of use; `None` while it is usable.
    pub error: Option<String>,
}

impl EndpointState {
    fn has_hung(&self, now: Instant) -> bool {
        self.hung_at.is_some_and(|at| now.duration_since(at) < HUNG_FOR)
    }
}

impl Endpoints {
    /// Creates the endpoints of chain `id` from at least one URL, the preferred one first. Sends no
    /// request yet. `name` appears in logs.
    ///
    /// # Errors
    /// Fails when the list is empty, or a URL is not an HTTP URL.
    pub fn new(name: &'static str, urls: &[String], id: u64) -> Result<Self, ConnectError> {
        let slot = |url: &String| {
            let (_, display_url) = parse_url(url)?;
            let state = EndpointState {
                chain: None,
                error: None,
                pauses: Pauses::new(PAUSE_MIN, PAUSE_MAX),
                retry_at: None,
                hung_at: None,
                distrust: Pauses::new(DISTRUST_MIN, DISTRUST_MAX),
                distrusted_at: None,
                distrusted_until: None,
            };
            Ok(EndpointSlot { url: url.clone(), display_url, state: Mutex::new(state) })
        };
        let slots: Vec<_> = urls.iter().map(slot).collect::<Result<_, ConnectError>>()?;
        if slots.is_empty() {
            let reason = format!("the {name} chain has none");
            return Err(ConnectError::Url { given: String::new(), reason });
        }
        let active = AtomicUsize::new(usize::MAX);
        Ok(Self(Arc::new(EndpointsState { name, id, slots, active, errors: Default::default() })))
    }

    /// Returns the name that the chain has in logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Returns the chain id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Sends a request to the first endpoint that is not paused, and then to each further endpoint until an endpoint
    /// answers. An error that the chain itself returns, such as a revert, is an answer.
    ///
    /// # Errors
    /// The error of the last endpoint.
    pub async fn ask<T, E, F, Fut>(&self, ask: F) -> Result<T, E>
    where
        E: EndpointError,
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.ask_in(self.order(Instant::now()), ask).await
    }

    /// Sends a request to these endpoints, in this order, until one answers: see [`ask`](Self::ask). The order comes
    /// from [`order_preferring`](Self::order_preferring).
    pub(crate) async fn ask_in<T, E, F, Fut>(&self, order: Vec<usize>, ask: F) -> Result<T, E>
    where
        E: EndpointError,
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut last: Option<E> = None;
        for index in order.iter().copied() {
            let chain = match self.chain_in(index, &order).await {
                Ok(chain) => chain,
                Err(error) => {
                    last = Some(error.into());
                    continue;
                }
            };
            let began = Instant::now();
            match ask(chain).await {
                Ok(answer) => {
                    self.succeeded(index);
                    return Ok(answer);
                }
                Err(error) if error.request_error().is_some_and(is_endpoints_fault) => {
                    if let Some(error) = error.request_error() {
                        self.failed_after(index, error, began.elapsed());
                    }
                    last = Some(error);
                }
                Err(error) => {
                    if error.request_error().is_some() {
                        self.count_error(EndpointErrorKind::Refused);
                    }
                    return Err(error);
                }
            }
        }
        Err(last.expect("there is at least one endpoint, and each leaves an error"))
    }

    /// Returns the index, in order of preference, of the endpoint that answered last;
    /// `usize::MAX` before the first answer.
    pub(crate) fn active(&self) -> usize {
        self.0.active.load(Ordering::Relaxed)
    }

    /// Pauses the endpoint at `index`, because its answers turned out to be unusable. Does nothing if there is no such
    /// endpoint, or no other one.
    pub(crate) fn distrust_at(&self, index: usize, reason: &str) {
        if index >= self.0.slots.len() || self.0.slots.len() == 1 {
            return;
        }
        self.failed(index, EndpointErrorKind::Malformed, reason.to_owned());
        let (mut state, now) = (self.0.slots[index].state.lock(), Instant::now());
        let is_old = |at: Instant| now.duration_since(at) > DISTRUST_AGE_MAX;
        if state.distrusted_at.replace(now).is_some_and(is_old) {
            state.distrust.reset();
        }
        state.distrusted_until = Some(now + state.distrust.next());
    }

    /// Returns true if the endpoint at `index` has this scheme, host and port, and is distrusted now.
    pub(crate) fn is_distrusted(&self, index: usize, named: &str) -> bool {
        let slot = self.0.slots.get(index).filter(|slot| slot.display_url == named);
        let until = slot.and_then(|slot| slot.state.lock().distrusted_until);
        until.is_some_and(|until| until > Instant::now())
    }

    /// Returns a snapshot of all endpoints, in order of preference.
    #[must_use]
    pub fn status(&self) -> Vec<EndpointStatus> {
        let active = self.0.active.load(Ordering::Relaxed);
        let status = |(index, slot): (usize, &EndpointSlot)| EndpointStatus {
            display_url: slot.display_url.clone(),
            active: index == active,
            error: slot.state.lock().error.clone(),
        };
        self.0.slots.iter().enumerate().map(status).collect()
    }

    /// Returns the number of failures of each kind since the start.
    #[must_use]
    pub fn error_counts(&self) -> Vec<(EndpointErrorKind, u64)> {
        let count = |kind: EndpointErrorKind| self.0.errors[kind as usize].load(Ordering::Relaxed);
        EndpointErrorKind::ALL.map(|kind| (kind, count(kind))).into()
    }

    /// Returns the endpoints to use, in order: those that are not paused, or all of them if all are paused.
    fn order(&self, now: Instant) -> Vec<usize> {
        let is_due = |slot: &EndpointSlot| {
            let state = slot.state.lock();
            [state.retry_at, state.distrusted_until].into_iter().flatten().all(|at| at <= now)
        };
        let due: Vec<_> = (0..self.0.slots.len()).filter(|i| is_due(&self.0.slots[*i])).collect();
        if due.is_empty() { (0..self.0.slots.len()).collect() } else { due }
    }

    /// Returns the endpoints to use, in order, with those first that `prefers` names by scheme, host and port.
    pub(crate) fn order_preferring(&self, prefers: impl Fn(&str) -> bool) -> Vec<usize> {
        let mut order = self.order(Instant::now());
        order.sort_by_key(|index| !prefers(&self.0.slots[*index].display_url));
        order
    }

    /// Returns the connection to an endpoint that has recently proved its chain id.
    async fn chain(&self, index: usize) -> Result<Chain, RequestError> {
        let slot = &self.0.slots[index];
        let known = slot.state.lock().chain.clone();
        let checked = match known {
            Some((chain, at)) if at.elapsed() < CHECK_EVERY => return Ok(chain),
            Some((chain, _)) => chain.check_id().await.map(|()| chain),
            None => Chain::connect(&slot.url, self.0.id).await,
        };
        match checked {
            Ok(chain) => {
                slot.state.lock().chain = Some((chain.clone(), Instant::now()));
                Ok(chain)
            }
            Err(ConnectError::Rpc(error)) => {
                self.failed(index, kind_of(&error), error.to_string());
                Err(error)
            }
            Err(error) => {
                let reason = error.to_string();
                self.failed(index, EndpointErrorKind::WrongChain, reason.clone());
                let endpoint = slot.display_url.clone();
                Err(RequestError::Malformed { endpoint, method: "eth_chainId", reason })
            }
        }
    }

    /// Returns the connection to an endpoint as [`chain`](Self::chain) does. Waits at most [`BACK_MAX`] if the endpoint
    /// has failed and another one of this order works.
    async fn chain_in(&self, index: usize, order: &[usize]) -> Result<Chain, RequestError> {
        if !self.is_spare(index, order) {
            return self.chain(index).await;
        }
        let connected = tokio::time::timeout(BACK_MAX, self.chain(index)).await;
        connected.unwrap_or_else(|_| {
            let error = self.silence(index, BACK_MAX);
            self.failed(index, kind_of(&error), error.to_string());
            Err(error)
        })
    }

    /// Returns true if an endpoint of this order has failed, and another one works.
    fn is_spare(&self, index: usize, order: &[usize]) -> bool {
        let has_failed = |place: &usize| self.0.slots[*place].state.lock().error.is_some();
        has_failed(&index) && !order.iter().all(has_failed)
    }

    fn succeeded(&self, index: usize) {
        let before = self.0.active.swap(index, Ordering::Relaxed);
        let slot = &self.0.slots[index];
        let mut state = slot.state.lock();
        if state.error.take().is_some() {
            tracing::info!(
                chain = self.0.name,
                endpoint = slot.display_url,
                "the endpoint answers again"
            );
        } else if before != index {
            tracing::info!(
                chain = self.0.name,
                endpoint = slot.display_url,
                "requests go to this endpoint now"
            );
        }
        if !state.has_hung(Instant::now()) {
            state.pauses.reset();
            state.retry_at = None;
        }
    }

    /// Pauses an endpoint after a failed request. If `took` is long, it counts as hanging, unless it is the only one.
    fn failed_after(&self, index: usize, error: &RequestError, took: Duration) {
        self.failed(index, kind_of(error), error.to_string());
        if took >= BACK_MAX && self.0.slots.len() > 1 {
            self.0.slots[index].state.lock().hung_at = Some(Instant::now());
        }
    }

    fn failed(&self, index: usize, kind: EndpointErrorKind, reason: String) {
        self.count_error(kind);
        let slot = &self.0.slots[index];
        let mut state = slot.state.lock();
        if state.error.as_ref() != Some(&reason) {
            let (chain, code) = (self.0.name, kind.label());
            tracing::warn!(chain, code, endpoint = slot.display_url, "an endpoint fails: {reason}");
        }
        state.chain = None; // it proves its chain id again before its next request
        state.error = Some(reason);
        state.retry_at = Some(Instant::now() + state.pauses.next());
    }

    fn count_error(&self, kind: EndpointErrorKind) {
        self.0.errors[kind as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls = self.0.slots.iter().map(|slot| &slot.display_url);
        write!(f, "{} chain {} at ", self.0.name, self.0.id)?;
        f.debug_list().entries(urls).finish()
    }
}

fn kind_of(error: &RequestError) -> EndpointErrorKind {
    match error {
        RequestError::Unreachable { .. } => EndpointErrorKind::Unreachable,
        RequestError::Refused { .. } => EndpointErrorKind::Refused,
        RequestError::Malformed { .. } => EndpointErrorKind::Malformed,
    }
}

/// The methods whose requests an honest endpoint may refuse: for a range of blocks that is too long for it, or for a
/// transaction that it does not accept. Every endpoint of a chain answers all others.
const REFUSABLE: [&str; 3] = ["eth_getLogs", "eth_sendRawTransaction", "eth_estimateGas"];

/// Returns true if another endpoint may answer. An error caused by the request itself would come from every endpoint.
pub(crate) fn is_endpoints_fault(error: &RequestError) -> bool {
    match error {
        RequestError::Unreachable { .. } | RequestError::Malformed { .. } => true,
        RequestError::Refused { method, .. } => !REFUSABLE.contains(method) || is_rate_limit(error),
    }
}

/// Returns true if an endpoint refuses because of too many requests.
#[must_use]
pub fn is_rate_limit(error: &RequestError) -> bool {
    let RequestError::Refused { code, message, .. } = error else { return false };
    *code == 429 || names_rate_limit(message)
}

/// Returns true if the message of a refusal says that there were too many requests.
pub(crate) fn names_rate_limit(message: &str) -> bool {
    let message = message.to_lowercase();
    TOO_MANY.iter().any(|text| message.contains(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHAIN_ID: u64 = 7;

    fn endpoints(count: usize) -> Endpoints {
        let urls: Vec<_> =
            (0..count).map(|index| format!("http://127.0.0.1:{}", index + 1)).collect();
        Endpoints::new("test", &urls, CHAIN_ID).expect("the URLs are well-formed")
    }

    fn refused(method: &'static str, code: i64, message: &str) -> RequestError {
        let (endpoint, message) = (String::new(), message.to_owned());
        RequestError::Refused { endpoint, method, code, message }
    }

    #[test]
    fn rate_limits_are_the_endpoints_fault_and_other_refusals_of_logs_and_transactions_are_not() {
        let logs = |code, message| is_endpoints_fault(&refused("eth_getLogs", code, message));
        assert!(logs(429, ""));
        assert!(logs(-32005, "daily Request Limit reached"));
        assert!(logs(-32000, "Your app has exceeded its compute units per second capacity"));
        assert!(logs(-32005, "You've exceeded the RPS limit available on the current plan"));
        assert!(logs(-32005, "project ID request rate exceeded"));
        assert!(logs(-32000, "Monthly quota exceeded"));
        assert!(!logs(-32602, "query exceeds max block range 10000"));
        assert!(!logs(-32005, "query returned more than 10000 results"));
        let used = refused("eth_sendRawTransaction", -32000, "nonce too low");
        assert!(!is_endpoints_fault(&used));
        let reverted = refused("eth_estimateGas", 3, "execution reverted");
        assert!(!is_endpoints_fault(&reverted));
    }

    #[test]
    fn an_endpoint_that_refuses_what_every_endpoint_answers_is_at_fault() {
        for method in ["eth_getBlockByNumber", "eth_blockNumber", "eth_call", "eth_getBalance"] {
            assert!(is_endpoints_fault(&refused(method, -32603, "no upstream")), "{method}");
        }
    }

    #[test]
    fn a_single_endpoint_is_never_distrusted() {
        let single = endpoints(1);
        single.succeeded(0);
        single.distrust_at(0, "it lies");
        assert_eq!(single.status()[0].error, None);
        let (two, now) = (endpoints(2), Instant::now());
        two.distrust_at(two.active(), "no endpoint has answered yet");
        two.succeeded(1);
        two.distrust_at(two.active(), "it lies");
        assert_eq!(two.order(now), [0]);
        assert_eq!(two.status()[1].error.as_deref(), Some("it lies"));
    }

    #[test]
    fn a_distrusted_endpoint_is_left_although_it_answers() {
        let two = endpoints(2);
        two.succeeded(0);
        two.distrust_at(0, "it is far behind");
        // A paused endpoint is used if no other one answers.
        two.succeeded(0);
        let now = Instant::now();
        assert_eq!(two.order(now), [1]);
        assert_eq!(two.order(now + DISTRUST_MIN), [0, 1]);
        two.distrust_at(0, "it is far behind still");
        two.succeeded(0);
        assert_eq!(two.order(Instant::now() + DISTRUST_MIN / 2), [1], "longer than the first time");
    }

    #[test]
    fn an_endpoint_that_is_preferred_comes_first_unless_it_is_paused() {
        let three = endpoints(3);
        assert_eq!(three.order_preferring(|url| url.ends_with(":3")), [2, 0, 1]);
        assert_eq!(three.order_preferring(|_| false), [0, 1, 2]);
        three.failed(2, EndpointErrorKind::Unreachable, "gone".into());
        assert_eq!(three.order_preferring(|url| url.ends_with(":3")), [0, 1]);
    }

    proptest! {
        /// The choice follows preference among the endpoints that are not paused, and falls back to
        /// all of them.
        #[test]
        fn requests_go_to_the_preferred_endpoint_that_works(
            count in 1_usize..6,
            events in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..40),
        ) {
            // The model is asked about a time within every pause, however slow the test runs.
            let now = Instant::now();
            let endpoints = endpoints(count);
            let mut failing = vec![false; count];
            let mut failures = 0;
            let mut active = None;
            for (index, succeeds) in events {
                let index = index.index(count);
                if succeeds {
                    endpoints.succeeded(index);
                    active = Some(index);
                } else {
                    endpoints.failed(index, EndpointErrorKind::Unreachable, "gone".into());
                    failures += 1;
                }
                failing[index] = !succeeds;
                let working: Vec<_> = (0..count).filter(|index| !failing[*index]).collect();
                let expected = if working.is_empty() { (0..count).collect() } else { working };
                prop_assert_eq!(endpoints.order(now), expected);
                for (index, status) in endpoints.status().into_iter().enumerate() {
                    prop_assert_eq!(status.error.is_some(), failing[index]);
                    prop_assert_eq!(status.active, active == Some(index));
                }
            }
            let counts = endpoints.error_counts();
            prop_assert_eq!(counts[0], (EndpointErrorKind::Unreachable, failures));
            prop_assert!(counts[1..].iter().all(|(_, count)| *count == 0));
        }
    }
}
