//! Where a chain's head is: asked again and again, or told over a WebSocket, which also says at once
//! that a contract has spoken. What comes over the WebSocket is a reason to look and nothing else:
//! events are read over HTTP alone.

use std::time::{Duration, Instant};

use alloy::primitives::Address;
use alloy::providers::{DynProvider, Provider as _, ProviderBuilder, WsConnect};
use alloy::rpc::types::{Filter, Log};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::event::Mark;
use super::fetch::{self, Block};
use super::walk::Header;
use crate::endpoints::Endpoints;
use crate::send::{innermost, install_cryptography};

/// How often the head is asked for.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// How often, as long as it is told without being asked.
const POLL_PUSHED_EVERY: Duration = Duration::from_secs(10);
/// How long a WebSocket may take to begin.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// A WebSocket that is silent for so long, while blocks are made, is of no use.
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// Another WebSocket than the preferred one is left after so long.
const SECOND_BEST_MAX: Duration = Duration::from_secs(300);
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What is known of a chain's head.
#[derive(Debug, Clone, Default)]
pub struct Pulse {
    /// The last block.
    pub head: Option<Mark>,
    /// Its time, unix seconds.
    pub head_time_s: u64,
    /// When the chain last said where it is.
    pub seen: Option<Instant>,
    /// The highest block in which one of the contracts that are read is said to have spoken.
    pub rung: u64,
    /// Why it does not answer, if it does not.
    pub fault: Option<String>,
    /// Whether news come over a WebSocket.
    pub pushed: bool,
}

impl Pulse {
    fn beat(&mut self, head: &Header) {
        self.head = Some(head.mark);
        self.head_time_s = head.time_s;
        self.seen = Some(Instant::now());
        self.fault = None;
    }

    /// Something may have been missed: whoever reads shall look at what is there.
    fn look_again(&mut self) {
        let next = self.head.map_or(0, |head| head.number + 1);
        self.rung = self.rung.max(next);
    }
}

/// Follows the head of a chain.
pub(super) struct Follower {
    pub(super) endpoints: Endpoints,
    pub(super) pulse: watch::Sender<Pulse>,
    /// WebSockets, in order of preference.
    pub(super) push_urls: Vec<String>,
    /// The contracts that are read.
    pub(super) contracts: Vec<Address>,
    /// Contracts that are not read, and whom to tell when they speak.
    pub(super) bells: Vec<(Address, watch::Sender<u64>)>,
}

impl Follower {
    /// Until it is stopped.
    pub(super) async fn run(self, mut stop: watch::Receiver<()>) {
        tokio::select! {
            () = self.poll() => {}
            () = self.listen_on() => {}
            _ = stop.changed() => {} // told, or whoever could tell is gone
        }
    }

    async fn poll(&self) {
        loop {
            let pulse = self.pulse.borrow().clone();
            let lately = pulse.seen.is_some_and(|at| at.elapsed() < POLL_PUSHED_EVERY);
            if !(pulse.pushed && lately && pulse.fault.is_none()) {
                self.look().await;
            }
            sleep(POLL_EVERY).await;
        }
    }

    async fn look(&self) {
        let head = self.endpoints.ask(|chain| async move { fetch::head(&chain).await }).await;
        self.pulse.send_modify(|pulse| match head {
            Ok(head) => pulse.beat(&head),
            Err(fault) => pulse.fault = Some(fault.to_string()),
        });
    }

    async fn listen_on(&self) {
        if self.push_urls.is_empty() {
            return std::future::pending().await;
        }
        let mut pause = PAUSE_MIN;
        let mut told = String::new();
        loop {
            for (index, url) in self.push_urls.iter().enumerate() {
                let began = Instant::now();
                let listening = self.listen(url);
                let reason = if index == 0 {
                    listening.await
                } else {
                    let ended = timeout(SECOND_BEST_MAX, listening).await;
                    ended.unwrap_or_else(|_| "it is not the preferred one".into())
                };
                self.pulse.send_modify(|pulse| pulse.pushed = false);
                if began.elapsed() > PAUSE_MAX {
                    pause = PAUSE_MIN;
                    told.clear();
                }
                if told != reason {
                    let chain = self.endpoints.name();
                    tracing::warn!(chain, index, "news over a WebSocket have ended: {reason}");
                    told = reason;
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Listens for as long as there is something to hear. Returns why there is not.
    async fn listen(&self, url: &str) -> String {
        let connected = timeout(CONNECT_MAX, self.connect(url)).await;
        match connected {
            Ok(Ok(news)) => self.hear(news).await,
            Ok(Err(reason)) => reason,
            Err(_) => "it does not answer in time".into(),
        }
    }

    async fn connect(&self, url: &str) -> Result<News, String> {
        install_cryptography();
        // Reconnecting is done here, where it is known whether it is wanted.
        let connect = WsConnect::new(url).with_max_retries(1);
        let provider = ProviderBuilder::new().disable_recommended_fillers().connect_ws(connect);
        let provider = provider.await.map_err(|error| innermost(&error))?.erased();
        let id = provider.get_chain_id().await.map_err(|error| innermost(&error))?;
        if id != self.endpoints.id() {
            return Err(format!("it is chain {id}, and not {}", self.endpoints.id()));
        }
        let heads = provider.subscribe::<_, Block>(("newHeads",)).await;
        let heads = heads.map_err(|error| innermost(&error))?;
        let bells = self.bells.iter().map(|(address, _)| *address);
        let addresses: Vec<_> = self.contracts.iter().copied().chain(bells).collect();
        let logs = provider.subscribe_logs(&Filter::new().address(addresses)).await;
        let logs = logs.map_err(|error| innermost(&error))?;
        let last_head = self.pulse.borrow().head;
        Ok(News { heads, logs, last_head, _provider: provider })
    }

    async fn hear(&self, mut news: News) -> String {
        tracing::info!(chain = self.endpoints.name(), "news come over a WebSocket");
        self.pulse.send_modify(|pulse| {
            pulse.pushed = true;
            pulse.look_again();
        });
        loop {
            tokio::select! {
                head = news.heads.recv() => match head {
                    Ok(head) => self.pulse.send_modify(|pulse| pulse.beat(&head.header(None))),
                    Err(RecvError::Lagged(_)) => self.pulse.send_modify(Pulse::look_again),
                    Err(RecvError::Closed) => return "it was closed".into(),
                },
                log = news.logs.recv() => match log {
                    Ok(log) => self.ring(&log),
                    Err(RecvError::Lagged(_)) => self.pulse.send_modify(Pulse::look_again),
                    Err(RecvError::Closed) => return "it was closed".into(),
                },
                () = sleep(SILENCE_MAX) => {
                    // Asking has found what nobody has told.
                    if news.last_head.is_some() && self.pulse.borrow().head != news.last_head {
                        return "it is silent although there are new blocks".into();
                    }
                }
            }
            news.last_head = self.pulse.borrow().head;
        }
    }

    fn ring(&self, log: &Log) {
        if let Some((_, bell)) = self.bells.iter().find(|(address, _)| *address == log.address()) {
            bell.send_modify(|rings| *rings += 1);
            return;
        }
        self.pulse.send_modify(|pulse| match log.block_number {
            Some(number) => pulse.rung = pulse.rung.max(number),
            None => pulse.look_again(),
        });
    }
}

/// What a WebSocket tells.
struct News {
    heads: alloy::pubsub::Subscription<Block>,
    logs: alloy::pubsub::Subscription<Log>,
    last_head: Option<Mark>,
    /// The connection ends with it.
    _provider: DynProvider,
}
