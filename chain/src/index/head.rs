//! Follows the head of a chain: by polling, and by a WebSocket that announces new heads and logs of the contracts.
//!
//! A WebSocket message only triggers a request: events themselves and the times of blocks are read over HTTP alone, so
//! a WebSocket that lies or loses messages can only cause delay.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use alloy::primitives::Address;
use alloy::providers::{DynProvider, Provider as _};
use alloy::rpc::types::{Filter, Log};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{interval_at, sleep, timeout};

use super::event::BlockRef;
use super::fetch::{self, FetchedBlock};
use super::lag::{BEHIND_BLOCKS_MAX, EndpointLag, NewestBlock};
use super::walk::BlockHeader;
use super::websocket::{self, PushError};
use crate::backoff::Pauses;
use crate::endpoints::Endpoints;
use crate::send::RequestError;

/// Interval of polling. Guess.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// The interval at which all endpoints are asked for their heads, in case the one in use has stalled. Guess.
const POLL_ALL_EVERY: Duration = Duration::from_secs(5);
/// The polling interval while a WebSocket announces new blocks before polls find them. Polling continues because the
/// WebSocket may hang. Guess.
const POLL_PUSHED_EVERY: Duration = Duration::from_secs(10);
/// Time limit for connecting and subscribing. Guess.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The time without messages after which a WebSocket is closed, if polling has found new blocks
/// meanwhile. Guess: two slots of Ethereum.
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// The time after which a WebSocket other than the preferred one is closed, to try the preferred one again. Guess.
const SECOND_BEST_MAX: Duration = Duration::from_secs(300);
/// The time limit for one endpoint when all are asked for their heads: a silent one must not delay the head of the
/// endpoint in use. Guess.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// First and longest pause between rounds over all WebSockets. Guesses.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The reason for which a subscription ends without an error.
const CLOSED: &str = "the endpoint closed the connection";

/// The age of the previous observation above which a new head may be an old block, so that its appearance says nothing
/// about the time. Guess: far below the clock errors that matter.
const LOOK_AGE_MAX: Duration = Duration::from_secs(30);

/// The known state of a chain's head.
#[derive(Debug, Clone, Default)]
pub struct HeadStatus {
    /// The latest block.
    pub head: Option<BlockRef>,
    /// The timestamp of the latest block at the last poll, unix seconds; 0 before the first one.
    pub head_time_s: u64,
    /// The timestamp of the last block that appeared at the head between two polls, and the time of the latter one, or
    /// the time at which a WebSocket announced this block.
    pub appeared: Option<(u64, Instant)>,
    /// The number of the latest block at the last poll, and the time of that poll.
    polled: Option<(u64, Instant)>,
    /// The time at which an endpoint last reported the head.
    pub seen: Option<Instant>,
    /// The highest block for which a log of a contract that is read has been announced.
    pub notified_block: u64,
    /// The error of the last attempt; `None` after a success.
    pub error: Option<String>,
    /// True while a WebSocket announces heads and logs.
    pub pushed: bool,
    /// The WebSockets that served another chain when they were last connected: the index of the URL, and the chain id.
    pub foreign_pushes: BTreeMap<usize, u64>,
    /// The last head above the known one that a WebSocket announced, and the time of that message.
    announced: Option<(BlockRef, Instant)>,
    /// True while the WebSocket announces new blocks before a poll finds them. A silent one, or one that repeats old
    /// heads, must not delay blocks by a longer interval of polling.
    leads: bool,
}

impl HeadStatus {
    /// Updates the status with the head that the endpoint in use states.
    fn poll(&mut self, head: &BlockHeader, now: Instant) {
        let is_recent = |at: Instant| now.duration_since(at) <= LOOK_AGE_MAX;
        let is_new = |number: u64| number < head.block.number;
        if self.polled.is_some_and(|(number, at)| is_recent(at) && is_new(number)) {
            let announced = self.announced.filter(|(block, _)| *block == head.block);
            self.appeared = Some((head.time_s, announced.map_or(now, |(_, at)| at)));
        }
        self.leads &= self.head.is_some_and(|known| known.number >= head.block.number);
        self.polled = Some((head.block.number, now));
        self.head_time_s = head.time_s;
        self.update(head.block, now);
    }

    /// Returns true if the chain is to be polled at `now`, given the time of the last poll.
    fn needs_poll(&self, polled: Option<Instant>, now: Instant) -> bool {
        let is_due = polled.is_none_or(|at| now.duration_since(at) >= POLL_PUSHED_EVERY);
        is_due || !self.leads || self.error.is_some()
    }

    fn update(&mut self, head: BlockRef, now: Instant) {
        self.head = Some(head);
        self.seen = Some(now);
        self.error = None;
    }

    /// Updates the status with a head that a WebSocket announces, if it is above the known one. After any other head
    /// the chain is polled: it was reorganised, or the WebSocket is behind or repeats old heads. The announced time is
    /// ignored, because times of blocks decide about contract wallets and about this machine's clock.
    fn announce(&mut self, head: BlockRef, now: Instant) {
        match self.head {
            Some(known) if known.number >= head.number => self.leads = false,
            _ => {
                self.update(head, now);
                self.announced = Some((head, now));
                self.leads = true;
            }
        }
    }

    /// Returns true if the WebSocket announced no log in blocks from `block` on and can be relied on for that: one that
    /// does not announce new blocks before polls find them may be silent about logs, too.
    pub(super) fn announces_no_log_from(&self, block: u64) -> bool {
        self.leads && self.notified_block < block
    }

    /// Returns the head that a WebSocket announced a moment ago, if the endpoint in use, whose newest block is given,
    /// may still come to it. An older one may be invented: it would hold back all readers until the chain comes to it.
    fn announced_above(&self, newest: u64, now: Instant) -> Option<BlockRef> {
        let is_fresh =
            self.announced.is_some_and(|(_, at)| now.duration_since(at) < POLL_PUSHED_EVERY);
        self.head.filter(|head| self.leads && is_fresh && head.number > newest)
    }

    /// Notes that a WebSocket has ended, and why. A WebSocket of another chain stays noted until it serves this chain.
    fn end_push(&mut self, index: usize, error: &PushError) {
        (self.pushed, self.leads) = (false, false);
        if let PushError::WrongChain { found, .. } = error {
            self.foreign_pushes.insert(index, *found);
        }
    }

    /// Sets the notified block to the next one for all readers, because messages may have been lost.
    fn notify_next_block(&mut self) {
        let next = self.head.map_or(0, |head| head.number + 1);
        self.notified_block = self.notified_block.max(next);
    }
}

/// Returns the numbers of the blocks that an endpoint has to show if it states a head above that of the endpoint in
/// use, ascending. The first one is near, because an endpoint may make up a single block far ahead.
fn blocks_to_show(own: u64, stated: u64) -> Vec<u64> {
    let near = stated.min(own.saturating_add(BEHIND_BLOCKS_MAX + 1));
    let mut numbers = vec![near, stated];
    numbers.dedup();
    numbers.retain(|number| *number > own);
    numbers
}

/// Returns the highest of the wanted blocks that an endpoint shows; `None` if it lacks the first one.
fn highest_shown(wanted: &[u64], shown: &[BlockHeader]) -> Option<BlockRef> {
    let blocks = || shown.iter().map(|header| header.block);
    let first = wanted.first().filter(|first| blocks().any(|block| block.number == **first));
    first.and_then(|_| blocks().max_by_key(|block| block.number))
}

/// Follows the head of one chain.
pub(super) struct HeadWatcher {
    pub(super) endpoints: Endpoints,
    pub(super) status: watch::Sender<HeadStatus>,
    /// WebSocket URLs, the preferred one first.
    pub(super) push_urls: Vec<String>,
    /// The contracts that are read.
    pub(super) contracts: Vec<Address>,
    /// Contracts whose lists are read, each with a counter that is incremented with each announced log.
    pub(super) notify: Vec<(Address, watch::Sender<u64>)>,
    /// The interval at which an open WebSocket states its chain again.
    pub(super) check_every: Duration,
}

impl HeadWatcher {
    /// Runs until it is stopped.
    pub(super) async fn run(self, mut stop: watch::Receiver<()>) {
        tokio::select! {
            () = self.poll() => {}
            () = self.subscribe() => {}
            _ = stop.changed() => {} // also when the sender was dropped
        }
    }

    async fn poll(&self) {
        let (mut highest, mut lag) = (None, EndpointLag::default());
        let (mut asked, mut asked_all) = (None::<Instant>, None::<Instant>);
        let has_others = self.endpoints.status().len() > 1;
        loop {
            let needs_poll = self.status.borrow().needs_poll(asked, Instant::now());
            if needs_poll {
                let head =
                    self.endpoints.ask(|chain| async move { fetch::head(&chain).await }).await;
                let endpoint = self.endpoints.active();
                // All of them at first: readers at the head of one that is behind would count as at the chain's.
                if has_others
                    && let Ok(head) = &head
                    && asked_all.is_none_or(|at| at.elapsed() >= POLL_ALL_EVERY)
                {
                    highest = self.highest(head.block.number).await;
                    asked_all = Some(Instant::now());
                }
                self.publish(endpoint, head, highest, &mut lag);
                asked = Some(Instant::now());
            }
            sleep(POLL_EVERY).await;
        }
    }

    /// Publishes the head that the endpoint in use has stated. If it is far behind `highest`, or has stood still behind
    /// it for some time, publishes `highest` instead, and the readers find out which endpoint has it; its time is
    /// ignored, because a single endpoint may have invented the block.
    fn publish(
        &self,
        endpoint: usize,
        head: Result<BlockHeader, RequestError>,
        highest: Option<BlockRef>,
        lag: &mut EndpointLag,
    ) {
        self.status.send_modify(|status| match head {
            Ok(head) => {
                let (now, number) = (Instant::now(), head.block.number);
                let announced = status.announced_above(number, now);
                status.poll(&head, now);
                let is_ahead = |other: &BlockRef| {
                    let own = NewestBlock { endpoint, number };
                    let is_late = lag.reason(own, other.number, now).is_some();
                    is_late || other.number > number.saturating_add(BEHIND_BLOCKS_MAX)
                };
                status.head = highest.filter(is_ahead).or(announced).or(status.head);
            }
            Err(error) => status.error = Some(error.to_string()),
        });
    }

    /// Returns the highest block above `own` that an endpoint has. A head that an endpoint states and does not serve
    /// does not count.
    async fn highest(&self, own: u64) -> Option<BlockRef> {
        let blocks = self.endpoints.each_within(ANSWER_MAX, |chain| async move {
            let stated = fetch::head(&chain).await?.block.number;
            let wanted = blocks_to_show(own, stated);
            let shown = fetch::headers(&chain, &wanted, None).await?;
            Ok(highest_shown(&wanted, &shown))
        });
        let blocks = blocks.await.into_iter().filter_map(Result::ok).flatten();
        blocks.max_by_key(|block| block.number)
    }

    /// Uses the WebSockets in turn, forever.
    async fn subscribe(&self) {
        if self.push_urls.is_empty() {
            return std::future::pending().await;
        }
        let mut pauses = Pauses::new(PAUSE_MIN, PAUSE_MAX);
        let mut logged: Option<PushError> = None;
        loop {
            for (index, url) in self.push_urls.iter().enumerate() {
                let began = Instant::now();
                let listening = self.listen(index, url);
                let error = if index == 0 {
                    listening.await
                } else {
                    let ended = timeout(SECOND_BEST_MAX, listening).await;
                    ended.unwrap_or_else(|_| unusable("it is not the preferred one"))
                };
                self.status.send_modify(|status| status.end_push(index, &error));
                if began.elapsed() > PAUSE_MAX {
                    pauses.reset();
                    logged = None;
                }
                if logged.as_ref() != Some(&error) {
                    self.log_end(index, &error);
                    logged = Some(error);
                }
            }
            sleep(pauses.next()).await;
        }
    }

    fn log_end(&self, index: usize, error: &PushError) {
        let chain = self.endpoints.name();
        match error {
            PushError::WrongChain { .. } => {
                tracing::error!(
                    code = "chain_websocket_foreign",
                    chain,
                    index,
                    "a WebSocket is not used: {error}"
                );
            }
            PushError::Unusable(_) => {
                tracing::warn!(chain, index, "a WebSocket subscription has ended: {error}");
            }
        }
    }

    /// Listens to one WebSocket until it fails.
    async fn listen(&self, index: usize, url: &str) -> PushError {
        let connected = timeout(CONNECT_MAX, self.connect(url)).await;
        match connected {
            Ok(Ok(subscription)) => self.receive(index, subscription).await,
            Ok(Err(error)) => error,
            Err(_) => unusable("it does not answer in time"),
        }
    }

    async fn connect(&self, url: &str) -> Result<PushSubscription, PushError> {
        let provider = websocket::connect(url, self.endpoints.id()).await?;
        let heads = provider.subscribe::<_, FetchedBlock>(("newHeads",)).await;
        let heads = heads.map_err(|error| PushError::of(&error))?;
        let others = self.notify.iter().map(|(address, _)| *address);
        let addresses: Vec<_> = self.contracts.iter().copied().chain(others).collect();
        let logs = provider.subscribe_logs(&Filter::new().address(addresses)).await;
        let logs = logs.map_err(|error| PushError::of(&error))?;
        let last_head = self.status.borrow().head;
        Ok(PushSubscription { heads, logs, last_head, provider })
    }

    async fn receive(&self, index: usize, mut push: PushSubscription) -> PushError {
        tracing::info!(chain = self.endpoints.name(), "a WebSocket announces heads and logs");
        self.status.send_modify(|status| {
            status.pushed = true;
            status.foreign_pushes.remove(&index);
            status.notify_next_block();
        });
        let mut checks =
            interval_at(tokio::time::Instant::now() + self.check_every, self.check_every);
        loop {
            tokio::select! {
                head = push.heads.recv() => match head {
                    Ok(head) => self.status.send_modify(|status| {
                        status.announce(head.header(None).block, Instant::now());
                    }),
                    Err(RecvError::Lagged(_)) => {
                        self.status.send_modify(HeadStatus::notify_next_block);
                    }
                    Err(RecvError::Closed) => return unusable(CLOSED),
                },
                log = push.logs.recv() => match log {
                    Ok(log) => self.notify(&log),
                    Err(RecvError::Lagged(_)) => {
                        self.status.send_modify(HeadStatus::notify_next_block);
                    }
                    Err(RecvError::Closed) => return unusable(CLOSED),
                },
                _ = checks.tick() => match self.check(&push.provider).await {
                    Ok(()) => continue,
                    Err(error) => return error,
                },
                () = sleep(SILENCE_MAX) => {
                    // Polling has found a new head without a message.
                    if push.last_head.is_some() && self.status.borrow().head != push.last_head {
                        return unusable("it is silent although there are new blocks");
                    }
                }
            }
            push.last_head = self.status.borrow().head;
        }
    }

    /// Checks the chain of an open WebSocket: a provider may lead its connections elsewhere.
    async fn check(&self, provider: &DynProvider) -> Result<(), PushError> {
        let checked = websocket::check_chain(provider, self.endpoints.id());
        let late = |_| Err(unusable("it does not answer in time"));
        timeout(CONNECT_MAX, checked).await.unwrap_or_else(late)
    }

    fn notify(&self, log: &Log) {
        let address = log.address();
        if let Some((_, counter)) = self.notify.iter().find(|(other, _)| *other == address) {
            counter.send_modify(|count| *count += 1);
            if !self.contracts.contains(&address) {
                return;
            }
        }
        self.status.send_modify(|status| match log.block_number {
            Some(number) => status.notified_block = status.notified_block.max(number),
            None => status.notify_next_block(),
        });
    }
}

fn unusable(reason: &str) -> PushError {
    PushError::Unusable(reason.to_owned())
}

/// An open WebSocket with its two subscriptions.
struct PushSubscription {
    heads: alloy::pubsub::Subscription<FetchedBlock>,
    logs: alloy::pubsub::Subscription<Log>,
    /// The head after the last message, to detect a silent connection.
    last_head: Option<BlockRef>,
    /// Keeps the connection open.
    provider: DynProvider,
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    fn block(number: u64, time_s: u64) -> BlockHeader {
        let block = BlockRef { number, hash: B256::with_last_byte(number.to_le_bytes()[0]) };
        BlockHeader { block, parent: B256::ZERO, time_s, may_have_logs: false }
    }

    #[test]
    fn a_websocket_announces_higher_heads_only() {
        let (mut status, now) = (HeadStatus::default(), Instant::now());
        let number = |status: &HeadStatus| status.head.map(|head| head.number);
        status.announce(block(7, 100).block, now);
        assert_eq!(number(&status), Some(7));
        let later = now + Duration::from_secs(5);
        for old in [7, 6, 0] {
            status.announce(block(old, 100).block, later);
            assert_eq!((number(&status), status.seen), (Some(7), Some(now)));
            assert!(!status.leads, "the chain is polled");
        }
        status.announce(block(8, 101).block, later);
        assert_eq!((number(&status), status.seen), (Some(8), Some(later)));
        assert!(status.leads);
    }

    /// A WebSocket that takes subscriptions and then hangs would otherwise delay blocks by the longer interval after
    /// each connection.
    #[test]
    fn the_chain_is_polled_rarely_only_while_a_websocket_announces_blocks_before_polls_find_them() {
        let (mut status, now) = (HeadStatus::default(), Instant::now());
        let needs_poll = |status: &HeadStatus| status.needs_poll(Some(now), now);
        status.poll(&block(7, 100), now);
        assert!(needs_poll(&status), "it has announced nothing");
        status.announce(block(8, 110).block, now);
        assert!(!needs_poll(&status) && status.needs_poll(Some(now), now + POLL_PUSHED_EVERY));
        status.poll(&block(8, 110), now);
        assert!(!needs_poll(&status), "the poll has found nothing new");
        status.poll(&block(9, 120), now);
        assert!(needs_poll(&status), "it has not announced this block");
        status.announce(block(9, 120).block, now);
        assert!(needs_poll(&status), "it is late");
        status.announce(block(10, 130).block, now);
        assert!(!needs_poll(&status));
        status.end_push(0, &unusable(CLOSED));
        assert!(needs_poll(&status));
    }

    /// A WebSocket that is open and silent, or repeats an old head, would otherwise delay each new block by a second.
    #[test]
    fn blocks_wait_for_logs_only_while_a_websocket_announces_blocks_before_polls_find_them() {
        let (mut status, now) = (HeadStatus::default(), Instant::now());
        status.pushed = true;
        status.poll(&block(7, 100), now);
        assert!(!status.announces_no_log_from(7), "it has announced nothing");
        status.announce(block(8, 110).block, now);
        assert!(status.announces_no_log_from(8));
        status.notified_block = 8;
        assert!(!status.announces_no_log_from(8) && status.announces_no_log_from(9));
        status.announce(block(1, 10).block, now);
        assert!(!status.announces_no_log_from(9), "it repeats an old head");
    }

    #[test]
    fn an_announced_head_that_no_endpoint_has_counts_for_a_moment() {
        let (mut status, now) = (HeadStatus::default(), Instant::now());
        status.announce(block(1_000_000, 100).block, now);
        let number = |head: Option<BlockRef>| head.map(|head| head.number);
        assert_eq!(number(status.announced_above(7, now)), Some(1_000_000));
        assert_eq!(number(status.announced_above(1_000_000, now)), None, "the endpoint has it");
        assert_eq!(number(status.announced_above(7, now + POLL_PUSHED_EVERY)), None);
        status.announce(block(8, 100).block, now);
        assert_eq!(
            number(status.announced_above(7, now)),
            None,
            "the WebSocket contradicts itself"
        );
    }

    #[test]
    fn a_stated_head_counts_only_with_the_blocks_that_lead_to_it() {
        assert!(blocks_to_show(100, 100).is_empty() && blocks_to_show(100, 7).is_empty());
        assert_eq!(blocks_to_show(100, 103), [103]);
        assert_eq!(blocks_to_show(100, 117), [117]);
        assert_eq!(blocks_to_show(100, 1_000_000), [117, 1_000_000]);
        let highest = |wanted: &[u64], numbers: &[u64]| {
            let shown: Vec<_> = numbers.iter().map(|number| block(*number, 100)).collect();
            highest_shown(wanted, &shown).map(|block| block.number)
        };
        assert_eq!(highest(&[117, 300], &[117, 300]), Some(300));
        assert_eq!(highest(&[117, 300], &[117]), Some(117), "the other one comes a moment later");
        assert_eq!(highest(&[117, 1_000_000], &[1_000_000]), None, "a single invented block");
        assert_eq!(highest(&[117, 1_000_000], &[]), None);
        assert_eq!(highest(&[], &[]), None);
    }

    #[test]
    fn only_a_block_that_appears_between_two_looks_shows_a_time() {
        let mut status = HeadStatus::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        status.poll(&block(7, 100), at(0));
        assert_eq!(status.appeared, None, "it may be old");
        status.poll(&block(7, 100), at(30));
        assert_eq!(status.appeared, None, "it is the same one");
        status.poll(&block(8, 500), at(31));
        assert_eq!(status.appeared, Some((500, at(31))));
        status.poll(&block(9, 510), at(62));
        assert_eq!(status.appeared, Some((500, at(31))), "the chain was out of sight");
        status.poll(&block(10, 520), at(63));
        assert_eq!(status.appeared, Some((520, at(63))));
    }

    /// The time of the newest block decides when a contract wallet's answer is too late, and if this machine's clock is
    /// ahead, so that nothing may be published.
    #[test]
    fn a_websocket_states_no_time() {
        let (mut status, start) = (HeadStatus::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        status.poll(&block(7, 100), at(0));
        status.announce(block(8, 9_000_000).block, at(1));
        assert_eq!(status.head.map(|head| head.number), Some(8));
        assert_eq!((status.head_time_s, status.appeared), (100, None));
        status.poll(&block(8, 110), at(10));
        assert_eq!(status.head_time_s, 110);
        assert_eq!(
            status.appeared,
            Some((110, at(1))),
            "the block was there when it was announced"
        );
        let other = BlockRef { number: 9, hash: B256::ZERO };
        status.announce(other, at(11));
        status.poll(&block(9, 120), at(20));
        assert_eq!(status.appeared, Some((120, at(20))), "another block was announced");
    }
}
