//! One chain behind several URLs, in order of preference: whoever asks gets the answer of the first
//! endpoint that gives one, and an endpoint that says it is another chain is never asked anything.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::send::{Chain, ConnectError, RpcFault, ViewError, parse_url};

/// A failed endpoint is left alone for so long, twice as long each time it fails again.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// So often every endpoint that is used is asked again which chain it is.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// What providers call too many requests.
const TOO_MANY: [&str; 3] = ["rate limit", "too many requests", "request limit"];

/// A chain behind its endpoints. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Endpoints(Arc<Inner>);

struct Inner {
    name: &'static str,
    id: u64,
    slots: Vec<Slot>,
    /// The one that answered last.
    active: AtomicUsize,
    faults: [AtomicU64; FaultKind::ALL.len()],
}

struct Slot {
    url: String,
    shown: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// As long as it is the right chain, as far as is known.
    chain: Option<(Chain, Instant)>,
    fault: Option<String>,
    failures: u32,
    again_at: Option<Instant>,
}

/// What can be wrong with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// Nobody answers, or not in time.
    Unreachable,
    /// An error instead of an answer.
    Refused,
    /// Something that is no answer.
    Malformed,
    /// Another chain.
    WrongChain,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Unreachable, Self::Refused, Self::Malformed, Self::WrongChain];

    /// For logs and metrics.
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

/// An error that may be the endpoint's own, so that another one should be asked.
pub trait Fault: From<RpcFault> + fmt::Display {
    /// What the endpoint said or did not say; `None` if the fault lies in what was asked.
    fn rpc(&self) -> Option<&RpcFault>;
}

impl Fault for RpcFault {
    fn rpc(&self) -> Option<&RpcFault> {
        Some(self)
    }
}

impl Fault for ViewError {
    fn rpc(&self) -> Option<&RpcFault> {
        match self {
            Self::Rpc(fault) => Some(fault),
            _ => None,
        }
    }
}

/// One endpoint as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Scheme, host and port: the rest of a URL may be secret.
    pub shown: String,
    /// Whether it gave the last answer.
    pub active: bool,
    /// Why it is not asked, if it is not.
    pub fault: Option<String>,
}

impl Endpoints {
    /// Takes the URLs of a chain, at least one, the preferred one first. Reaches nobody yet.
    /// `name` is for logs.
    ///
    /// # Errors
    /// When one is no URL of a chain.
    pub fn new(name: &'static str, urls: &[String], id: u64) -> Result<Self, ConnectError> {
        let slot = |url: &String| {
            let (_, shown) = parse_url(url)?;
            Ok(Slot { url: url.clone(), shown, state: Mutex::default() })
        };
        let slots: Vec<_> = urls.iter().map(slot).collect::<Result<_, ConnectError>>()?;
        if slots.is_empty() {
            let reason = format!("the {name} chain has none");
            return Err(ConnectError::Url { given: String::new(), reason });
        }
        let active = AtomicUsize::new(usize::MAX);
        Ok(Self(Arc::new(Inner { name, id, slots, active, faults: Default::default() })))
    }

    /// What the chain is called in logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// The chain's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Asks the first endpoint that is not known to fail, then the next ones, until one answers.
    /// What the chain itself refuses is an answer.
    ///
    /// # Errors
    /// What the last endpoint said.
    pub async fn ask<T, E, F, Fut>(&self, ask: F) -> Result<T, E>
    where
        E: Fault,
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut last: Option<E> = None;
        for index in self.order() {
            let chain = match self.chain(index).await {
                Ok(chain) => chain,
                Err(fault) => {
                    last = Some(fault.into());
                    continue;
                }
            };
            match ask(chain).await {
                Ok(answer) => {
                    self.succeeded(index);
                    return Ok(answer);
                }
                Err(error) if error.rpc().is_some_and(is_endpoints_own) => {
                    if let Some(fault) = error.rpc() {
                        self.failed(index, kind_of(fault), fault.to_string());
                    }
                    last = Some(error);
                }
                Err(error) => {
                    if error.rpc().is_some() {
                        self.count(FaultKind::Refused);
                    }
                    return Err(error);
                }
            }
        }
        Err(last.expect("there is at least one endpoint, and each leaves an error"))
    }

    /// Asks every endpoint, whatever is known of it, until one has something; the others may not
    /// have it yet, or hide it.
    pub(crate) async fn find<T, F, Fut>(&self, ask: F) -> Option<T>
    where
        F: Fn(Chain) -> Fut,
        Fut: Future<Output = Result<Option<T>, RpcFault>>,
    {
        for index in 0..self.0.slots.len() {
            let Ok(chain) = self.chain(index).await else { continue };
            match ask(chain).await {
                Ok(Some(found)) => return Some(found),
                Ok(None) => {}
                Err(fault) => tracing::debug!(chain = self.0.name, %fault, "not found"),
            }
        }
        None
    }

    /// The endpoint that gave the last answer has shown that its answers cannot be used: others
    /// are asked for a while.
    pub fn distrust(&self, reason: &str) {
        let index = self.0.active.load(Ordering::Relaxed);
        if index < self.0.slots.len() && self.0.slots.len() > 1 {
            self.failed(index, FaultKind::Malformed, reason.to_owned());
        }
    }

    /// All endpoints as they are now.
    #[must_use]
    pub fn status(&self) -> Vec<EndpointStatus> {
        let active = self.0.active.load(Ordering::Relaxed);
        let status = |(index, slot): (usize, &Slot)| EndpointStatus {
            shown: slot.shown.clone(),
            active: index == active,
            fault: slot.lock().fault.clone(),
        };
        self.0.slots.iter().enumerate().map(status).collect()
    }

    /// What has gone wrong since the start.
    #[must_use]
    pub fn faults(&self) -> Vec<(FaultKind, u64)> {
        let count = |kind: FaultKind| self.0.faults[kind as usize].load(Ordering::Relaxed);
        FaultKind::ALL.map(|kind| (kind, count(kind))).into()
    }

    /// Whom to ask, one after another. If all have failed lately, all get another chance.
    fn order(&self) -> Vec<usize> {
        let now = Instant::now();
        let is_due = |slot: &Slot| slot.lock().again_at.is_none_or(|at| at <= now);
        let due: Vec<_> = (0..self.0.slots.len()).filter(|i| is_due(&self.0.slots[*i])).collect();
        if due.is_empty() { (0..self.0.slots.len()).collect() } else { due }
    }

    /// An endpoint that has said lately that it is this chain.
    async fn chain(&self, index: usize) -> Result<Chain, RpcFault> {
        let slot = &self.0.slots[index];
        let known = slot.lock().chain.clone();
        let checked = match known {
            Some((chain, at)) if at.elapsed() < CHECK_EVERY => return Ok(chain),
            Some((chain, _)) => chain.check_id().await.map(|()| chain),
            None => Chain::connect(&slot.url, self.0.id).await,
        };
        match checked {
            Ok(chain) => {
                slot.lock().chain = Some((chain.clone(), Instant::now()));
                Ok(chain)
            }
            Err(ConnectError::Rpc(fault)) => {
                self.failed(index, kind_of(&fault), fault.to_string());
                Err(fault)
            }
            Err(error) => {
                let reason = error.to_string();
                self.failed(index, FaultKind::WrongChain, reason.clone());
                let endpoint = slot.shown.clone();
                Err(RpcFault::Malformed { endpoint, method: "eth_chainId", reason })
            }
        }
    }

    fn succeeded(&self, index: usize) {
        let before = self.0.active.swap(index, Ordering::Relaxed);
        let slot = &self.0.slots[index];
        let mut state = slot.lock();
        if state.fault.take().is_some() {
            tracing::info!(chain = self.0.name, endpoint = slot.shown, "answers again");
        } else if before != index {
            tracing::info!(chain = self.0.name, endpoint = slot.shown, "asking this endpoint");
        }
        (state.failures, state.again_at) = (0, None);
    }

    fn failed(&self, index: usize, kind: FaultKind, reason: String) {
        self.count(kind);
        let slot = &self.0.slots[index];
        let mut state = slot.lock();
        if state.fault.as_ref() != Some(&reason) {
            let (chain, code) = (self.0.name, kind.label());
            tracing::warn!(chain, code, endpoint = slot.shown, "an endpoint fails: {reason}");
        }
        let pause = PAUSE_MIN.saturating_mul(1 << state.failures.min(10)).min(PAUSE_MAX);
        state.chain = None; // whoever comes back is asked again which chain it is
        state.fault = Some(reason);
        state.failures = state.failures.saturating_add(1);
        state.again_at = Some(Instant::now() + pause);
    }

    fn count(&self, kind: FaultKind) {
        self.0.faults[kind as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.slots.iter().map(|slot| &slot.shown);
        write!(f, "{} chain {} at ", self.0.name, self.0.id)?;
        f.debug_list().entries(shown).finish()
    }
}

fn kind_of(fault: &RpcFault) -> FaultKind {
    match fault {
        RpcFault::Unreachable { .. } => FaultKind::Unreachable,
        RpcFault::Refused { .. } => FaultKind::Refused,
        RpcFault::Malformed { .. } => FaultKind::Malformed,
    }
}

/// Whether another endpoint may do better. An error that is about what was asked comes from each.
fn is_endpoints_own(fault: &RpcFault) -> bool {
    match fault {
        RpcFault::Unreachable { .. } | RpcFault::Malformed { .. } => true,
        RpcFault::Refused { code, message, .. } => {
            let message = message.to_lowercase();
            *code == 429 || TOO_MANY.iter().any(|text| message.contains(text))
        }
    }
}
