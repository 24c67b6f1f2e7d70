//! The chain's endpoints in their order of preference: one is used until it does not answer.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::error::StartError;
use crate::send::{Chain, ConnectError, RpcFault};

/// After so long the preferred endpoint is tried again.
const PREFER_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Endpoints of one chain.
#[derive(Debug)]
pub(super) struct Endpoints {
    chain_id: u64,
    urls: Vec<String>,
    /// Those that were reached, and were the right chain.
    chains: Vec<Mutex<Option<Chain>>>,
    current: AtomicUsize,
    since: Mutex<Instant>,
}

impl Endpoints {
    /// Connects to the first that answers.
    ///
    /// # Errors
    /// When none is the chain that is meant: why the preferred one is not.
    pub(super) async fn connect(urls: &[String], chain_id: u64) -> Result<Self, StartError> {
        let endpoints = Self {
            chain_id,
            urls: urls.to_vec(),
            chains: urls.iter().map(|_| Mutex::default()).collect(),
            current: AtomicUsize::new(0),
            since: Mutex::new(Instant::now()),
        };
        let mut refused = None;
        for index in 0..urls.len() {
            match endpoints.reached(index).await {
                Ok(_) => {
                    endpoints.current.store(index, Ordering::Relaxed);
                    return Ok(endpoints);
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let none = || StartError::Setting("the app chain has no URL".to_owned());
        Err(refused.map_or_else(none, StartError::Connect))
    }

    /// The chain's id.
    pub(super) fn chain_id(&self) -> u64 {
        self.chain_id
    }

    async fn reached(&self, index: usize) -> Result<Chain, ConnectError> {
        let known = self.chains[index].lock().map_or(None, |chain| chain.clone());
        if let Some(chain) = known {
            return Ok(chain);
        }
        let chain = Chain::connect(&self.urls[index], self.chain_id).await?;
        if let Ok(mut known) = self.chains[index].lock() {
            *known = Some(chain.clone());
        }
        Ok(chain)
    }

    /// The endpoint to be used now, and its index. When it cannot be reached the next one will be
    /// used.
    pub(super) async fn current(&self) -> (usize, Result<Chain, RpcFault>) {
        self.prefer_again();
        let index = self.current.load(Ordering::Relaxed);
        let reached = self.reached(index).await.map_err(|error| {
            self.leave(index);
            let endpoint = format!("endpoint {} of the app chain", index + 1);
            match error {
                ConnectError::Rpc(fault) => fault,
                other => RpcFault::Unreachable { endpoint, reason: other.to_string() },
            }
        });
        (index, reached)
    }

    /// Does something at the first endpoint that answers. What was answered with an error is not
    /// asked elsewhere.
    ///
    /// # Errors
    /// What the last one said.
    pub(super) async fn ask<T, E: From<RpcFault>, F: Future<Output = Result<T, E>>>(
        &self,
        what: impl Fn(Chain) -> F,
        is_silence: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let mut left = self.urls.len();
        loop {
            left = left.saturating_sub(1);
            let (index, chain) = match self.current().await {
                (index, Ok(chain)) => (index, chain),
                (_, Err(_)) if left > 0 => continue,
                (_, Err(fault)) => return Err(fault.into()),
            };
            match what(chain).await {
                Err(error) if is_silence(&error) => {
                    self.leave(index);
                    if left == 0 {
                        return Err(error);
                    }
                }
                answered => return answered,
            }
        }
    }

    /// From now on the next one is used.
    pub(super) fn leave(&self, index: usize) {
        let next = (index + 1) % self.urls.len();
        let left = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
        if left.is_ok() && next != index {
            tracing::warn!(endpoint = index + 1, next = next + 1, "app chain: next endpoint");
            if let Ok(mut since) = self.since.lock() {
                *since = Instant::now();
            }
        }
    }

    fn prefer_again(&self) {
        let is_time = self.since.lock().is_ok_and(|since| since.elapsed() >= PREFER_AGAIN_AFTER);
        if is_time && let Ok(mut since) = self.since.lock() {
            *since = Instant::now();
            self.current.store(0, Ordering::Relaxed);
        }
    }
}

/// Whether nobody has answered: another endpoint may.
pub(super) fn is_silence(fault: &RpcFault) -> bool {
    matches!(fault, RpcFault::Unreachable { .. } | RpcFault::Malformed { .. })
}
