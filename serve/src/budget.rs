//! One budget for all memory that this process holds for callers.
//!
//! Requests while they arrive, wait and are processed, answers while they are built and until their callers have read
//! them, streams and their registrations: each is charged before it is allocated, to the call, its connection, its
//! address and its site together. A consumer may hold at most as much memory as is still free, so a greedy consumer
//! always leaves room for others. When little is free, large callers are refused, and connections of the sites that
//! hold most are closed, see [`shedding`]. A site is an IPv4 address, or an IPv6 /48: the owner of one has thousands of
//! addresses, which would fill the memory with little for each. The addresses of such a site count together.
//!
//! Memory for a stream's topics and cursors may be *lent*: taken from free memory beyond the caller's share. The shares
//! of all other callers are computed as if lent memory were free, and connections with lent memory are closed first
//! when a caller needs it.
//!
//! A connection of a trusted proxy carries the calls of many clients. Each call on it is a consumer of its own, which
//! counts against the client that the proxy names, and ends alone when that client holds most.
//!
//! Invariant: the charged memory never exceeds the limit by more than the answers that are already made, which are
//! charged without a check.
//!
//! [`shedding`]: crate::shedding

mod addresses;
pub(crate) mod changes;
mod metrics;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::iter;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::Extensions;
use parking_lot::Mutex;

use crate::address::ClientAddress;
use crate::call_bytes::MemorySource;
use crate::close_signal::CloseSignal;
use crate::metrics::Counter;
use crate::overloaded::OverloadedError;
use crate::refused_calls::RefusedCalls;
use crate::shedding::{self, Consumer};
use crate::turns::{PaidTime, TaskRuntimes, Turns};
use crate::warning_throttle::WarningThrottle;
use crate::writing::Writing;
use addresses::{AddressShare, ConsumerAddresses, ShareBytes};

/// The default limit of a listener in bytes. Of the 512 MiB that a node may take above its idle state, the database has
/// 192 MiB and the allocator a tenth of the rest. 10,000 streams of a hundred topics fit, from one address too.
pub const CALLERS_BYTES_MAX: usize = 288 * 1024 * 1024;

/// Charge of an open connection: buffers for reading and writing, tables of header compression.
/// Measured: 23 KiB for each of 3,000 idle connections.
const CONNECTION_BYTES: usize = 32 * 1024;
/// Part of the limit, as a divisor, that is kept free for small consumers: if less is free, the largest consumers
/// are closed. A guess: room for a thousand usual publishes.
const KEPT_FREE_DIVISOR: usize = 8;
/// Further part of the limit, as a divisor, that has to be free before a large caller is served: one whose connections
/// may always be closed. Without it, equally large callers would close each other's connections in turn, their
/// clients would reconnect and do the same, and none would be served. A guess: room for the answers under way.
const REFUSED_EARLIER_DIVISOR: usize = 64;
/// Further part of the limit, as a divisor, that has to stay free after memory is lent. New requests use it up before
/// any connection has to be closed. A guess.
const LENT_LEAVES_DIVISOR: usize = 16;
/// Parts of the limit, as divisors. Connections of a site that holds the first part may always be closed, of a site
/// below the second never, and in between of one that holds twice what counts for the asking address. Guesses.
const WORTH_CLOSING_DIVISORS: [usize; 2] = [32, 1024];
/// Part of the limit, as a divisor: the addresses of a site that hold less on average count together. Then at most as
/// many addresses of a site count apart as the owner of an IPv4 /24 has.
const LITTLE_DIVISOR: usize = 256;
/// Least time between two searches for the largest consumers, which visit all of them. A guess.
const SEARCH_EVERY: Duration = Duration::from_millis(50);

/// The budget of a listener. Cheap to clone; clones share state.
#[derive(Clone)]
pub struct MemoryBudget(Arc<BudgetState>);

struct BudgetState {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
    /// The part of them that is lent.
    lent_bytes: AtomicUsize,
    callers: Mutex<Callers>,
    refused: Counter,
    closed: Counter,
    unread: Counter,
    warned: WarningThrottle,
    turns: Arc<Turns>,
}

/// All consumers, for the search of the largest.
#[derive(Default)]
struct Callers {
    addresses: ConsumerAddresses,
    consumers: HashMap<u64, Weak<ConnectionShare>>,
    numbers: u64,
    searched_at: Option<Instant>,
}

/// The share of a connection, or of one call on a proxy's connection. Ends with its last call.
pub(crate) struct ConnectionShare {
    budget: Arc<BudgetState>,
    number: u64,
    kind: ConsumerKind,
    address: Arc<AddressShare>,
    held: ShareBytes,
    /// The part of `held` that stays until the connection ends, without the bytes that every new connection takes.
    kept_bytes: AtomicUsize,
    pub(crate) writing: Arc<Writing>,
    pub(crate) close: CloseSignal,
    paid_time: Arc<PaidTime>,
    /// The refusal that holds for its further calls.
    pub(crate) refused: RefusedCalls,
    /// The lines of its requests that wait for memory, and of the changes of its streams that wait for the memory of
    /// their state too. Only the first of each line asks for it.
    pub(crate) waiting_requests: tokio::sync::Mutex<()>,
    pub(crate) waiting_changes: tokio::sync::Mutex<()>,
}

/// The owner of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConsumerKind {
    Client,
    /// A connection of a trusted proxy, without its calls. Its clients' memory never closes it.
    Proxy,
    /// One call on a connection of a trusted proxy.
    ProxiedCall,
}

impl MemoryBudget {
    /// Creates a budget of `limit_bytes`.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        Self(Arc::new(BudgetState {
            limit_bytes,
            used_bytes: AtomicUsize::new(0),
            lent_bytes: AtomicUsize::new(0),
            callers: Mutex::default(),
            refused: Counter::default(),
            closed: Counter::default(),
            unread: Counter::default(),
            warned: WarningThrottle::default(),
            turns: Arc::default(),
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
    /// [`OverloadedError`]: the connection must be closed.
    pub(crate) fn connection(
        &self,
        peer: IpAddr,
        account: Arc<PaidTime>,
    ) -> Result<Arc<ConnectionShare>, OverloadedError> {
        account.rest_with(peer.into());
        self.open(peer, ConsumerKind::Client, account)
    }

    /// Charges a new connection of a trusted proxy that has named no client.
    ///
    /// # Errors
    /// [`OverloadedError`]: the connection must be closed.
    pub(crate) fn proxy(
        &self,
        peer: IpAddr,
        account: Arc<PaidTime>,
    ) -> Result<Arc<ConnectionShare>, OverloadedError> {
        // Its calls are many callers', and rest with their addresses.
        account.never_rest();
        self.open(peer, ConsumerKind::Proxy, account)
    }

    /// Creates the account of a connection: the time that its publishes pay for. `runtimes`: those of its tasks, if
    /// publishers have one of their own.
    pub(crate) fn account(&self, runtimes: Option<TaskRuntimes>) -> Arc<PaidTime> {
        Arc::new(PaidTime::new(self.0.turns.clone(), runtimes))
    }

    fn open(
        &self,
        peer: IpAddr,
        kind: ConsumerKind,
        account: Arc<PaidTime>,
    ) -> Result<Arc<ConnectionShare>, OverloadedError> {
        let connection = self.0.register(peer.into(), kind, Arc::default(), account);
        connection.take(CONNECTION_BYTES)?;
        Ok(connection)
    }

    /// Counts a connection that was closed because its peer did not read its answers.
    pub(crate) fn count_unread(&self) {
        self.0.unread.inc();
    }
}

impl BudgetState {
    /// Creates the share of a consumer, and counts it at its address.
    fn register(
        self: &Arc<Self>,
        address: ClientAddress,
        kind: ConsumerKind,
        writing: Arc<Writing>,
        paid_time: Arc<PaidTime>,
    ) -> Arc<ConnectionShare> {
        let mut callers = self.callers.lock();
        let address = callers.addresses.add(address);
        callers.numbers += 1;
        let share = Arc::new(ConnectionShare {
            budget: self.clone(),
            number: callers.numbers,
            kind,
            address,
            held: ShareBytes::default(),
            kept_bytes: AtomicUsize::new(0),
            writing,
            close: CloseSignal::default(),
            paid_time,
            refused: RefusedCalls::default(),
            waiting_requests: tokio::sync::Mutex::const_new(()),
            waiting_changes: tokio::sync::Mutex::const_new(()),
        });
        callers.consumers.insert(share.number, Arc::downgrade(&share));
        share
    }

    /// Returns true if `free` bytes are enough to serve a caller of whom `counted_bytes` count. A large one is refused
    /// before connections have to be closed for it.
    fn is_kept_free(&self, counted_bytes: usize, free: usize) -> bool {
        counted_bytes < self.limit_bytes / WORTH_CLOSING_DIVISORS[0] || free >= self.kept_bytes()
    }

    /// Returns the bytes that large callers have to leave free.
    fn kept_bytes(&self) -> usize {
        self.limit_bytes / KEPT_FREE_DIVISOR + self.limit_bytes / REFUSED_EARLIER_DIVISOR
    }

    /// Closes the largest consumers if little memory is free, until enough will be. `asker_bytes` is the memory that
    /// counts for the caller whose charge caused the call.
    fn keep_free(&self, asker_bytes: usize) {
        let used_bytes = self.used_bytes.load(Relaxed);
        let used_bytes_max = self.limit_bytes - self.limit_bytes / KEPT_FREE_DIVISOR;
        if used_bytes <= used_bytes_max {
            return;
        }
        let mut callers = self.callers.lock();
        if callers.searched_at.is_some_and(|at| at.elapsed() < SEARCH_EVERY) {
            return;
        }
        callers.searched_at = Some(Instant::now());
        let all: Vec<_> = callers.consumers.values().filter_map(Weak::upgrade).collect();
        drop(callers); // the last holder of a share locks the table again
        let (closing, open): (Vec<_>, Vec<_>) = all.iter().partition(|it| it.close.is_cancelled());
        let closing_bytes: usize = closing.iter().map(|it| it.used_bytes()).sum();
        let needed_bytes = (used_bytes - used_bytes_max).saturating_sub(closing_bytes);
        let [always, never] = WORTH_CLOSING_DIVISORS.map(|divisor| self.limit_bytes / divisor);
        let worth_bytes = asker_bytes.saturating_mul(2).clamp(never, always);
        let consumers = open.iter().filter_map(|it| it.consumer());
        let chosen = shedding::choose(consumers, needed_bytes, worth_bytes);
        if chosen.is_empty() {
            return;
        }
        let numbers: HashSet<u64> = chosen.iter().map(|it| it.number).collect();
        open.iter().filter(|it| numbers.contains(&it.number)).for_each(|it| it.close_now());
        self.closed.inc_by(chosen.len() as u64);
        self.warn_of(&chosen);
    }

    fn warn_of(&self, closed: &[Consumer]) {
        if !self.warned.is_due() {
            return;
        }
        tracing::warn!(
            code = "memory_short",
            closed = closed.len(),
            bytes = closed.iter().map(|it| it.bytes).sum::<usize>(),
            "connections of the sites that hold most of the memory for callers are closed"
        );
    }
}

impl ConnectionShare {
    /// Returns the share that a request with these extensions is charged to.
    ///
    /// # Panics
    /// If the request is a call whose charge has taken the share already.
    pub(crate) fn of(extensions: &Extensions) -> &Arc<Self> {
        extensions.get().expect("every request has a connection")
    }

    /// Creates the share of one call on a proxy's connection, for the client that the proxy names.
    pub(crate) fn of_call(&self, client: ClientAddress) -> Arc<Self> {
        let account = Arc::new(PaidTime::new(self.budget.turns.clone(), None));
        account.rest_with(client);
        self.budget.register(client, ConsumerKind::ProxiedCall, self.writing.clone(), account)
    }

    /// Returns the account of turns that this consumer's publishes paid for. A proxy's connection has an empty one,
    /// since its calls belong to many callers.
    pub(crate) fn paid_time(&self) -> &Arc<PaidTime> {
        &self.paid_time
    }

    /// Takes `bytes`.
    ///
    /// # Errors
    /// [`OverloadedError`]; nothing was taken then.
    pub(crate) fn take(&self, bytes: usize) -> Result<(), OverloadedError> {
        if self.try_take(bytes, 0) { Ok(()) } else { Err(self.refuse()) }
    }

    /// Takes `bytes` if `beside` more would fit as well. Returns false, and takes nothing, if they do not: counts no
    /// refusal, because the caller may wait.
    pub(crate) fn try_take(&self, bytes: usize, beside: usize) -> bool {
        // Adding first and checking later would make a charge that does not fit fail the charges of other callers. A
        // concurrent charge of the same caller may exceed the caller's part, never the limit.
        let with_beside = bytes.saturating_add(beside);
        let may = |free: usize| Some(self.may_hold(with_beside, free.checked_sub(beside)?));
        let taken = self.add_if(bytes, |free| may(free).unwrap_or(false));
        let more = if taken { 0 } else { bytes };
        self.budget.keep_free(self.counted().used.load(Relaxed).saturating_add(more));
        taken
    }

    /// Counts a refusal, and returns it.
    pub(crate) fn refuse(&self) -> OverloadedError {
        self.budget.refused.inc();
        OverloadedError
    }

    /// Returns the limit of all callers together, in bytes.
    pub(crate) fn limit_bytes(&self) -> usize {
        self.budget.limit_bytes
    }

    /// Takes `bytes` for long-lived state, and returns their source. They are lent if the caller's share would leave
    /// too little for its requests and answers otherwise.
    ///
    /// # Errors
    /// [`OverloadedError`]; nothing was taken then.
    pub(crate) fn take_lasting(&self, bytes: usize) -> Result<MemorySource, OverloadedError> {
        match self.take_spare(bytes) {
            Some(source) => Ok(source),
            None => self.take(bytes).map(|()| MemorySource::Share),
        }
    }

    /// Takes `bytes` as [`ConnectionShare::take_lasting`] does, if requests and answers keep their room. Returns
    /// `None`, and takes nothing, if they do not: closes no connection and counts no refusal.
    pub(crate) fn take_spare(&self, bytes: usize) -> Option<MemorySource> {
        // Half of the remaining share is left for requests and answers, which come and go.
        let has_room = self.add_if(bytes, |free| self.may_hold(bytes, free / 2));
        if has_room {
            return Some(MemorySource::Share);
        }
        let left_bytes = self.budget.kept_bytes() + self.budget.limit_bytes / LENT_LEAVES_DIVISOR;
        let may_be_lent = |free| self.kind != ConsumerKind::Proxy && free >= left_bytes;
        if self.close.is_cancelled() || !self.add_if(bytes, may_be_lent) {
            return None;
        }
        for lent in self.each_lent() {
            lent.fetch_add(bytes, Relaxed);
        }
        Some(MemorySource::Lent)
    }

    /// Adds `bytes` if `may` accepts the number of bytes that are free for all callers afterwards.
    fn add_if(&self, bytes: usize, may: impl Fn(usize) -> bool) -> bool {
        let taken = self.budget.used_bytes.try_update(Relaxed, Relaxed, |all| {
            let all = all.checked_add(bytes)?;
            may(self.budget.limit_bytes.checked_sub(all)?).then_some(all)
        });
        if taken.is_ok() {
            self.count_used(bytes);
        }
        taken.is_ok()
    }

    /// Counts `bytes`, which the budget has counted, to this consumer, its address and its site.
    fn count_used(&self, bytes: usize) {
        for share in self.shares() {
            share.used.fetch_add(bytes, Relaxed);
        }
    }

    /// Returns the shares of this consumer, its address and its site.
    fn shares(&self) -> impl Iterator<Item = &ShareBytes> {
        iter::once(&self.held).chain(self.address.shares())
    }

    /// Returns the memory that counts as the caller's, see [`AddressShare::counted`].
    fn counted(&self) -> &ShareBytes {
        self.address.counted(self.budget.limit_bytes / LITTLE_DIVISOR)
    }

    /// Returns true if this consumer may take `bytes` more, with `free` bytes left for all callers. Lent memory counts
    /// as free and not as held, because it is taken back when other callers need it.
    fn may_hold(&self, bytes: usize, free: usize) -> bool {
        let free = free.saturating_add(self.budget.lent_bytes.load(Relaxed));
        match self.kind {
            ConsumerKind::Proxy => true,
            _ if self.close.is_cancelled() => false,
            _ => {
                let counted_bytes = self.counted().own_with(bytes);
                self.held.own_with(bytes) <= free
                    && counted_bytes / 2 <= free
                    && self.budget.is_kept_free(counted_bytes, free)
            }
        }
    }

    fn each_lent(&self) -> impl Iterator<Item = &AtomicUsize> {
        iter::once(&self.budget.lent_bytes).chain(self.shares().map(|it| &it.lent))
    }

    /// Gives back `bytes` that were lent.
    pub(crate) fn give_back_lent(&self, bytes: usize) {
        for lent in self.each_lent() {
            lent.fetch_sub(bytes, Relaxed);
        }
        self.give_back(bytes);
    }

    /// Takes `bytes` that are allocated already.
    pub(crate) fn take_anyway(&self, bytes: usize) {
        self.budget.used_bytes.fetch_add(bytes, Relaxed);
        self.count_used(bytes);
        self.budget.keep_free(self.counted().used.load(Relaxed));
    }

    /// Takes `bytes` that stay until the connection ends. A connection that holds nothing else counts as idle.
    ///
    /// # Errors
    /// [`OverloadedError`]; nothing was taken then.
    pub(crate) fn take_kept(&self, bytes: usize) -> Result<(), OverloadedError> {
        self.take(bytes)?;
        self.kept_bytes.fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Takes `bytes` that are allocated already and stay until the connection ends.
    pub(crate) fn keep(&self, bytes: usize) {
        self.kept_bytes.fetch_add(bytes, Relaxed);
        self.take_anyway(bytes);
    }

    /// Gives back `bytes` of those that stay: calls are charged for them now.
    pub(crate) fn keep_no_more(&self, bytes: usize) {
        self.kept_bytes.fetch_sub(bytes, Relaxed);
        self.give_back(bytes);
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        let each_used = self.shares().map(|it| &it.used);
        for used in iter::once(&self.budget.used_bytes).chain(each_used) {
            let before = used.fetch_sub(bytes, Relaxed);
            debug_assert!(before >= bytes, "bytes are given back once");
        }
    }

    /// Removes a call's memory from this share, because closing the connection would not free it. The address's site
    /// and the budget stay charged until [`ConnectionShare::give_back_address_only`].
    pub(crate) fn leave(&self, bytes: usize, lent_bytes: usize) {
        self.held.used.fetch_sub(bytes, Relaxed);
        self.held.lent.fetch_sub(lent_bytes, Relaxed);
    }

    /// Gives back memory that [`ConnectionShare::leave`] left charged to the address's site and the budget.
    pub(crate) fn give_back_address_only(&self, bytes: usize, lent_bytes: usize) {
        self.budget.used_bytes.fetch_sub(bytes, Relaxed);
        self.budget.lent_bytes.fetch_sub(lent_bytes, Relaxed);
        for share in self.address.shares() {
            share.used.fetch_sub(bytes, Relaxed);
            share.lent.fetch_sub(lent_bytes, Relaxed);
        }
    }

    fn used_bytes(&self) -> usize {
        self.held.used.load(Relaxed)
    }

    /// Returns the consumer that shedding may close; `None` for a proxy's connection.
    fn consumer(&self) -> Option<Consumer> {
        let (address, number, bytes) = (self.address.address, self.number, self.used_bytes());
        let (is_idle, is_lent) = (self.is_idle(), self.held.lent.load(Relaxed) > 0);
        let consumer = Consumer { address, number, bytes, is_idle, is_lent };
        (self.kind != ConsumerKind::Proxy).then_some(consumer)
    }

    /// Returns true for a connection without calls: it holds no more than the charge of the connection itself.
    fn is_idle(&self) -> bool {
        let kept_bytes = CONNECTION_BYTES + self.kept_bytes.load(Relaxed);
        self.kind == ConsumerKind::Client && self.used_bytes() <= kept_bytes
    }

    /// Returns true if the share is of a proxy's connection, whose calls have shares of their own.
    pub(crate) fn is_proxy(&self) -> bool {
        self.kind == ConsumerKind::Proxy
    }

    /// Returns a number that identifies the address, for queues that are fair between addresses.
    pub(crate) fn caller(&self) -> usize {
        Arc::as_ptr(&self.address).addr()
    }

    /// Returns a number that identifies the address's site, for queues that are fair between sites.
    pub(crate) fn site(&self) -> usize {
        self.address.site_number()
    }

    /// Returns a number that identifies the connection, or the call on a proxy's connection.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Ends the connection, or the call. It rests no more, so that its calls end with a status in the time that they
    /// have for it, and its memory is free soon.
    fn close_now(&self) {
        self.paid_time.never_rest();
        self.close.cancel();
    }

    /// Completes when the connection, or the call, must end because its address holds too much.
    pub(crate) async fn closed(&self) {
        self.close.cancelled().await;
    }

    /// Charges a piece of an answer that the connection is about to write.
    pub(crate) fn unwritten(&self, bytes: usize) {
        self.take_anyway(bytes);
        self.waits(bytes);
    }

    /// Records that `bytes`, which are charged already, wait to be written.
    pub(crate) fn waits(&self, bytes: usize) {
        self.writing.waits(bytes);
    }

    /// Gives back a piece that was written, or dropped.
    pub(crate) fn written(&self, bytes: usize) {
        self.writing.written(bytes);
        self.give_back(bytes);
    }

    /// Records that a part of a piece was written.
    pub(crate) fn wrote(&self) {
        self.writing.wrote();
    }

    /// Completes when answers have waited for `limit` without any byte being written.
    pub(crate) async fn unread_for(&self, limit: Duration) {
        let mut seen = self.writing.progress();
        loop {
            tokio::time::sleep(limit).await;
            if self.writing.note_unread(&mut seen) {
                return;
            }
        }
    }
}

impl Drop for ConnectionShare {
    fn drop(&mut self) {
        let lent_bytes = self.held.lent.load(Relaxed);
        self.give_back_lent(lent_bytes);
        let held_bytes = self.used_bytes();
        self.give_back(held_bytes);
        let mut callers = self.budget.callers.lock();
        callers.consumers.remove(&self.number);
        callers.addresses.remove(self.address.address);
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

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
