//! The memory that callers make this process hold: one budget for all of it.
//!
//! Requests while they arrive, requests while they wait and are worked on, answers while they are made,
//! answers that their callers have not read yet, streams and their registrations: each is charged before
//! it is allocated, to the call, its connection and its address together. A consumer may hold no more
//! than what would still be free beside it, so a greedy one leaves room for the others, whatever it
//! sends. When little is left, the connection that holds most of the address that holds most is closed.
//!
//! Invariant: what is charged and not given back never exceeds the limit by more than the answers that
//! are already made, which are charged in any case.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Counter, Exposition};
use crate::overloaded::Overloaded;

/// The limit of a listener that is given none. Half of the memory that a node is allowed above its
/// idle state; the other half is the database's and the allocator's.
pub const CALLERS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Charge of an open connection: buffers for reading and writing, tables of header compression.
/// Measured: 23 KiB for each of 3,000 idle connections.
const CONNECTION_BYTES: usize = 32 * 1024;
/// Part of the limit that is kept free for small consumers, as a divisor. Below it the largest
/// consumer is closed. A guess: room for a thousand usual publishes.
const KEPT_FREE_DIVISOR: usize = 8;
/// Least part of the limit that makes a connection worth closing, as a divisor. A guess.
const WORTH_CLOSING_DIVISOR: usize = 32;
/// Least time between two searches for the largest consumer, which visit all connections. A guess.
const SEARCH_EVERY: Duration = Duration::from_millis(50);

/// The budget of a listener. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub struct MemoryBudget(Arc<BudgetState>);

struct BudgetState {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
    callers: Mutex<Callers>,
    refused: Counter,
    closed: Counter,
    unread: Counter,
}

/// All consumers, for the search of the largest.
#[derive(Default)]
struct Callers {
    /// Each address with the number of its connections.
    addresses: HashMap<IpAddr, (Arc<AddressShare>, usize)>,
    connections: HashMap<u64, Weak<ConnectionShare>>,
    numbers: u64,
    searched_at: Option<Instant>,
}

/// The share of an address: an IPv4 address, or a /64 of IPv6, which one customer of a provider has.
struct AddressShare {
    block: IpAddr,
    used_bytes: AtomicUsize,
}

/// The share of a connection. Ends with the last call of it.
pub(crate) struct ConnectionShare {
    budget: Arc<BudgetState>,
    number: u64,
    address: Arc<AddressShare>,
    used_bytes: AtomicUsize,
    /// Bytes of answers that were handed to the connection and not written yet.
    unwritten_bytes: AtomicUsize,
    /// Moves whenever some of them are written.
    progress: AtomicUsize,
    close: CancellationToken,
}

impl MemoryBudget {
    /// Creates a budget of `limit_bytes`.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self(Arc::new(BudgetState {
            limit_bytes,
            used_bytes: AtomicUsize::new(0),
            callers: Mutex::default(),
            refused: Counter::default(),
            closed: Counter::default(),
            unread: Counter::default(),
        }))
    }

    /// Returns the bytes that are charged now.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        self.0.used_bytes.load(Relaxed)
    }

    /// Charges a new connection.
    ///
    /// # Errors
    /// [`Overloaded`]: the connection must be closed.
    pub(crate) fn connection(&self, peer: IpAddr) -> Result<Arc<ConnectionShare>, Overloaded> {
        let connection = self.0.register(peer);
        connection.take(CONNECTION_BYTES)?;
        Ok(connection)
    }

    /// Counts a connection that was closed because its peer did not read.
    pub(crate) fn count_unread(&self) {
        self.0.unread.inc();
    }
}

impl BudgetState {
    fn register(self: &Arc<Self>, peer: IpAddr) -> Arc<ConnectionShare> {
        let mut callers = self.callers.lock();
        let block = block_of(peer);
        let (address, connections) = callers.addresses.entry(block).or_insert_with(|| {
            (Arc::new(AddressShare { block, used_bytes: AtomicUsize::new(0) }), 0)
        });
        *connections += 1;
        let address = address.clone();
        callers.numbers += 1;
        let connection = Arc::new(ConnectionShare {
            budget: self.clone(),
            number: callers.numbers,
            address,
            used_bytes: AtomicUsize::new(0),
            unwritten_bytes: AtomicUsize::new(0),
            progress: AtomicUsize::new(0),
            close: CancellationToken::new(),
        });
        callers.connections.insert(connection.number, Arc::downgrade(&connection));
        connection
    }

    /// Closes the largest connection of the largest address, unless one is being closed already.
    fn close_largest(&self) {
        let mut callers = self.callers.lock();
        if callers.searched_at.is_some_and(|at| at.elapsed() < SEARCH_EVERY) {
            return;
        }
        callers.searched_at = Some(Instant::now());
        let open: Vec<_> = callers.connections.values().filter_map(Weak::upgrade).collect();
        drop(callers); // the last holder of a share locks the table again
        let closing = |it: &Arc<ConnectionShare>| it.close.is_cancelled() && it.used_bytes() > 0;
        let key = |it: &&Arc<ConnectionShare>| {
            (it.address.used_bytes.load(Relaxed), it.used_bytes(), it.number)
        };
        let largest = open.iter().max_by_key(key);
        let worth = self.limit_bytes / WORTH_CLOSING_DIVISOR;
        if let Some(largest) = largest.filter(|it| it.used_bytes() >= worth)
            && !open.iter().any(closing)
        {
            self.closed.inc();
            tracing::warn!(
                code = "memory_short",
                bytes = largest.used_bytes(),
                "the connection that holds most of the memory for callers is closed"
            );
            largest.close.cancel();
        }
    }
}

impl ConnectionShare {
    /// Takes `bytes`.
    ///
    /// # Errors
    /// [`Overloaded`]; nothing was taken then.
    pub(crate) fn take(&self, bytes: usize) -> Result<(), Overloaded> {
        // Add first, compare then: concurrent calls may both be refused, never both let through.
        let all = self.budget.used_bytes.fetch_add(bytes, Relaxed) + bytes;
        let address = self.address.used_bytes.fetch_add(bytes, Relaxed) + bytes;
        let connection = self.used_bytes.fetch_add(bytes, Relaxed) + bytes;
        let limit = self.budget.limit_bytes;
        let free = limit.saturating_sub(all);
        if free < limit / KEPT_FREE_DIVISOR {
            self.budget.close_largest();
        }
        if all <= limit && connection <= free && address <= 2 * free {
            return Ok(());
        }
        self.give_back(bytes);
        self.budget.refused.inc();
        Err(Overloaded)
    }

    /// Takes `bytes` that are allocated already.
    pub(crate) fn take_anyway(&self, bytes: usize) {
        let all = self.budget.used_bytes.fetch_add(bytes, Relaxed) + bytes;
        self.address.used_bytes.fetch_add(bytes, Relaxed);
        self.used_bytes.fetch_add(bytes, Relaxed);
        let limit = self.budget.limit_bytes;
        if limit.saturating_sub(all) < limit / KEPT_FREE_DIVISOR {
            self.budget.close_largest();
        }
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        for used in [&self.budget.used_bytes, &self.address.used_bytes, &self.used_bytes] {
            let before = used.fetch_sub(bytes, Relaxed);
            debug_assert!(before >= bytes, "bytes are given back once");
        }
    }

    fn used_bytes(&self) -> usize {
        self.used_bytes.load(Relaxed)
    }

    /// Names the address, for queues that are fair between addresses.
    pub(crate) fn caller(&self) -> usize {
        Arc::as_ptr(&self.address).addr()
    }

    /// Returns when the connection has to be closed because it holds too much.
    pub(crate) async fn closed(&self) {
        self.close.cancelled().await;
    }

    /// Charges a piece of an answer that the connection is about to write.
    pub(crate) fn unwritten(&self, bytes: usize) {
        self.take_anyway(bytes);
        if self.unwritten_bytes.fetch_add(bytes, Relaxed) == 0 {
            self.wrote();
        }
    }

    /// Gives back a piece that was written, or dropped.
    pub(crate) fn written(&self, bytes: usize) {
        self.unwritten_bytes.fetch_sub(bytes, Relaxed);
        self.give_back(bytes);
    }

    /// Notes that a part of a piece was written.
    pub(crate) fn wrote(&self) {
        self.progress.fetch_add(1, Relaxed);
    }

    /// Returns when answers have waited for `limit`, and nothing of them was written.
    pub(crate) async fn unread_for(&self, limit: Duration) {
        let mut seen = self.progress();
        loop {
            tokio::time::sleep(limit).await;
            if self.is_unread_since(&mut seen) {
                return;
            }
        }
    }

    fn progress(&self) -> usize {
        self.progress.load(Relaxed)
    }

    /// Returns true if answers wait, and nothing was written since `seen`, which becomes the present.
    fn is_unread_since(&self, seen: &mut usize) -> bool {
        let before = std::mem::replace(seen, self.progress());
        self.unwritten_bytes.load(Relaxed) > 0 && before == *seen
    }
}

impl Drop for ConnectionShare {
    fn drop(&mut self) {
        let held_bytes = self.used_bytes();
        self.give_back(held_bytes);
        let mut callers = self.budget.callers.lock();
        callers.connections.remove(&self.number);
        let block = self.address.block;
        if let Some((_, connections)) = callers.addresses.get_mut(&block) {
            *connections -= 1;
            if *connections == 0 {
                callers.addresses.remove(&block);
            }
        }
    }
}

fn block_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) >> 64 << 64).into(),
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("limit_bytes", &self.0.limit_bytes)
            .field("used_bytes", &self.used_bytes())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ConnectionShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionShare")
            .field("used_bytes", &self.used_bytes())
            .finish_non_exhaustive()
    }
}

impl Collector for MemoryBudget {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Exposition::new(encoder);
        let gauge = |bytes: usize| Some(i64::try_from(bytes).unwrap_or(i64::MAX));
        out.gauge(
            "xmtp_api_memory_bytes",
            "Memory charged to callers now: requests, answers, streams",
            gauge(self.used_bytes()),
        )?;
        out.gauge(
            "xmtp_api_memory_limit_bytes",
            "The most memory that is charged to callers",
            gauge(self.0.limit_bytes),
        )?;
        out.counter(
            "xmtp_api_memory_refused",
            "Connections, requests and answers refused because their caller held too much",
            self.0.refused.get(),
        )?;
        out.counters(
            "xmtp_api_connections_closed",
            "Connections closed for what their peers made this process hold",
            [
                ([("reason", "memory_short")], self.0.closed.get()),
                ([("reason", "unread")], self.0.unread.get()),
            ],
        )
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
