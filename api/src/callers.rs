//! Identifies the caller of each call by its address, or as a node by its token, and applies the caller's limits.
//!
//! All of this happens before a request's body is decoded, except the cost of a query, which depends on its topics.
//! Addresses appear in no log line and in no metric.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hawser_engine::Engine;
use hawser_engine::ports::Registry;
use hawser_proto::sign::keccak256;
use hawser_serve::CallCharge;
use hawser_serve::address::{ClientAddress, TrustedProxies};
use hawser_serve::address_slots::{AddressSlot, AddressSlots};
use hawser_serve::bucket::{Bucket, BucketSize};
use hawser_serve::caller_table::CallerTable;
use http::HeaderMap;
use http::request::Parts;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::Interceptor;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Request, Status};

use crate::error::{CallError, into_status};
use crate::metrics::{CallerTier, LimitMetrics, LimitOutcome, LimitedCall};
use crate::rate_limits::{CallCost, RateLimits};
use crate::redis_limits::{RedisAnswer, RedisLimits};
use crate::settings::{ApiSettings, RateLimitSettings};
use crate::tokens::{ClaimedRelease, NodeToken, NodeTokenError, TOKEN_HEADER, VerifiedTokens};

/// Token signatures that are verified for an address: one costs about 50 µs. A guess: a node needs one token an
/// hour, and verified tokens are cached.
const CHECKS: BucketSize = BucketSize::per_minute(60);
/// Token signatures that are verified for all addresses of a site together: an IPv6 /48, whose owner has 65,536
/// addresses. A guess: half a percent of a core, and as many as a hundred addresses may have, so that some strangers
/// who rent one each leave checks to a node in the same /48.
const CHECKS_OF_SITE: BucketSize = BucketSize::per_minute(6000);
/// Largest number of addresses, and of sites, whose checks are counted. A guess.
const CHECKERS_MAX: usize = 10_000;
/// Longest wait for the caller's limits in the middle of a call. A guess.
const PAYING_WAIT_MAX: Duration = Duration::from_secs(10);

/// The caller of a call, in the extensions of its request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) address: ClientAddress,
    /// The release that the caller claims to run, if it has proved to be a node.
    node: Option<ClaimedRelease>,
}

impl Caller {
    /// Returns true if the caller has proved to be a node.
    pub(crate) fn is_node(self) -> bool {
        self.node.is_some()
    }

    /// Returns the caller's tier in metrics.
    pub(crate) fn tier(self) -> CallerTier {
        if self.is_node() { CallerTier::Node } else { CallerTier::Other }
    }
}

/// Identifies callers and applies their limits. Cheap to clone; clones share state.
#[derive(Clone)]
pub(crate) struct Callers(Arc<CallersState>);

struct CallersState {
    engine: Engine,
    proxies: TrustedProxies,
    tokens: Mutex<KnownTokens>,
    limits: Option<Limits>,
    since: Instant,
    metrics: LimitMetrics,
}

/// The limits of a node that limits its callers.
enum Limits {
    /// Limits of this process alone.
    Own {
        rates: Mutex<RateLimits>,
        /// Streams of all envelopes.
        streams: AddressSlots,
    },
    /// Limits that all processes with the same Redis share.
    Shared(Arc<RedisLimits>),
}

struct KnownTokens {
    verified: VerifiedTokens,
    checks: CallerTable<ClientAddress, Bucket>,
    /// The checks of each site, by its first address.
    checks_of_sites: CallerTable<ClientAddress, Bucket>,
}

impl Limits {
    async fn start(
        settings: &RateLimitSettings,
        metrics: &LimitMetrics,
    ) -> Result<Self, redis::RedisError> {
        Ok(match &settings.redis {
            Some(redis) => {
                let shared = RedisLimits::connect(settings, redis, metrics.clone()).await?;
                Self::Shared(Arc::new(shared))
            }
            None => Self::Own {
                rates: Mutex::new(RateLimits::new(settings)),
                streams: AddressSlots::new(settings.subscribe_all_max),
            },
        })
    }
}

impl Callers {
    /// Creates the limits, without usage or with the usage in Redis.
    ///
    /// # Errors
    /// An error if Redis holds the limits and does not answer.
    pub(crate) async fn start(
        engine: Engine,
        settings: &ApiSettings,
    ) -> Result<Self, redis::RedisError> {
        let metrics = LimitMetrics::default();
        let limits = match &settings.rate_limits {
            Some(limits) => Some(Limits::start(limits, &metrics).await?),
            None => None,
        };
        Ok(Self(Arc::new(CallersState {
            engine,
            proxies: settings.trusted_proxies.clone(),
            tokens: Mutex::new(KnownTokens::new()),
            limits,
            since: Instant::now(),
            metrics,
        })))
    }

    pub(crate) fn metrics(&self) -> LimitMetrics {
        self.0.metrics.clone()
    }

    /// Returns the check of a service's calls. With `nodes_only` it refuses callers that have not
    /// proved to be a node.
    pub(crate) fn check(&self, nodes_only: bool) -> CallerCheck {
        CallerCheck { callers: self.clone(), nodes_only }
    }

    /// Identifies the caller of a request by its headers and the other end of its connection.
    ///
    /// # Errors
    /// [`CallError`] if a node token is not accepted, or if the address has had too many signatures checked.
    fn identify(
        &self,
        headers: &HeaderMap,
        remote: Option<SocketAddr>,
    ) -> Result<Caller, CallError> {
        let address = self.0.proxies.client(headers, remote);
        let node = match headers.get(TOKEN_HEADER) {
            Some(token) if !token.is_empty() => {
                let text = token.to_str().map_err(|_| NodeTokenError::Form)?;
                Some(self.0.node_of(text, address)?)
            }
            _ => None,
        };
        Ok(Caller { address, node })
    }

    /// Identifies the caller of a page, and takes the cost of one proof from its limits. A page that does not exist is
    /// charged, too: it costs an answer.
    ///
    /// # Errors
    /// The errors of [`identify`](Self::identify) and [`charge`](Self::charge).
    pub(crate) async fn charge_page(&self, head: &Parts) -> Result<Caller, CallError> {
        let connected = head.extensions.get::<TcpConnectInfo>();
        let caller = self.identify(&head.headers, connected.and_then(|it| it.remote_addr))?;
        self.charge(caller, LimitedCall::Proof, CallCost::of_topics(1)).await?;
        Ok(caller)
    }

    /// Returns true if calls wait for their callers' limits, which are in Redis.
    pub(crate) fn wait_for_limits(&self) -> bool {
        matches!(self.0.limits, Some(Limits::Shared(_)))
    }

    /// Takes the cost of a call from its caller's limits.
    ///
    /// # Errors
    /// [`CallError::RateLimited`] with the time after which the call fits.
    pub(crate) async fn charge(
        &self,
        caller: Caller,
        call: LimitedCall,
        cost: CallCost,
    ) -> Result<(), CallError> {
        let Some(limits) = &self.0.limits else { return Ok(()) };
        let is_node = caller.is_node();
        let decided = |outcome| self.0.metrics.decided(call, caller.tier(), outcome);
        if is_node && !call.charges_nodes() {
            decided(LimitOutcome::Bypassed);
            return Ok(());
        }
        // Opening a stream of many topics costs a node's reads too, so it is charged to nodes as well.
        let cost = if is_node { CallCost { opens: 0, ..cost } } else { cost };
        let wait_ms = match limits {
            Limits::Own { rates, .. } => {
                let mut rates = rates.lock();
                rates.take(caller.address, cost, self.0.now_ms()).err().unwrap_or(0)
            }
            Limits::Shared(shared) => {
                let now_ms = self.0.unix_ns() / 1_000_000;
                match shared.take(caller.address, cost, now_ms).await {
                    RedisAnswer::Answer(wait_ms) => wait_ms,
                    RedisAnswer::NoAnswer => {
                        decided(LimitOutcome::FailedOpen);
                        return Ok(());
                    }
                }
            }
        };
        if wait_ms > 0 {
            decided(LimitOutcome::Denied);
            return Err(CallError::RateLimited { retry_after_s: whole_s(wait_ms) });
        }
        decided(LimitOutcome::Allowed);
        Ok(())
    }

    /// Starts the turns of a call. The first `paid` are free: the call has paid for them at its start.
    pub(crate) fn turns<'a>(
        &'a self,
        caller: Caller,
        call: LimitedCall,
        paid: u64,
        stop: &'a CancellationToken,
    ) -> PaidTurns<'a> {
        PaidTurns { callers: self, caller, call, paid, stop }
    }

    /// Takes a slot for a stream of all envelopes; `None` if the caller needs none.
    ///
    /// # Errors
    /// [`CallError::TooManyStreams`] if the caller has as many streams open as it may have.
    pub(crate) async fn stream_slot(
        &self,
        caller: Caller,
    ) -> Result<Option<StreamSlot>, CallError> {
        let Some(limits) = &self.0.limits else { return Ok(None) };
        let decided = |outcome| self.0.metrics.stream_decided(outcome);
        if caller.node.is_some() {
            decided(LimitOutcome::Bypassed);
            return Ok(None);
        }
        let slot = match limits {
            Limits::Own { streams, .. } => streams.take(caller.address).map(StreamSlotKind::Own),
            Limits::Shared(shared) => match take_shared(shared, caller.address).await {
                RedisAnswer::Answer(slot) => slot.map(StreamSlotKind::Shared),
                RedisAnswer::NoAnswer => {
                    decided(LimitOutcome::FailedOpen);
                    return Ok(None);
                }
            },
        };
        let Some(slot) = slot else {
            decided(LimitOutcome::Denied);
            return Err(CallError::TooManyStreams);
        };
        decided(LimitOutcome::Allowed);
        Ok(Some(StreamSlot::new(slot, self.0.metrics.clone())))
    }
}

impl CallersState {
    /// Returns unix time, which the processes that share limits have in common.
    fn unix_ns(&self) -> u64 {
        u64::try_from(self.engine.ports().clock.now_ns()).unwrap_or_default()
    }

    /// Returns the time since the start, which never steps back.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the release that a node claims in its token, once the token is verified.
    fn node_of(&self, text: &str, address: ClientAddress) -> Result<ClaimedRelease, CallError> {
        let ports = self.engine.ports();
        let now_s = self.unix_ns() / 1_000_000_000;
        let registry: Arc<Registry> = ports.registry.borrow().clone();
        let digest = keccak256(&[text.as_bytes()]);
        let known = self.tokens.lock().verified.get(&digest);
        if let Some(token) = known.filter(|token| token.holds(&registry, now_s)) {
            self.metrics.node_called(token.version);
            return Ok(token.version);
        }
        let token = NodeToken::read(text)?;
        let own = self.engine.store().identity().node;
        let key = token.claimed_key(own, &registry, now_s)?;
        // Only verifying a signature counts. Expired tokens and tokens for other nodes therefore use up no checks
        // of an honest node at the same address, such as one behind the same proxy.
        self.tokens.lock().take_check(address, self.now_ms())?;
        let verified = token.verify(key)?;
        self.tokens.lock().verified.put(digest, verified);
        self.metrics.node_called(verified.version);
        Ok(verified.version)
    }
}

impl KnownTokens {
    fn new() -> Self {
        let [checks, checks_of_sites] = [CHECKERS_MAX; 2].map(CallerTable::new);
        Self { verified: VerifiedTokens::default(), checks, checks_of_sites }
    }

    /// Takes one signature check from the limits of the address and of its site, or from neither.
    fn take_check(&mut self, address: ClientAddress, now_ms: u64) -> Result<(), CallError> {
        let site = address.site();
        let mut of_address = self.checks.get(&address).copied().unwrap_or_default();
        let mut of_site = self.checks_of_sites.get(&site).copied().unwrap_or_default();
        let of_address_ms = of_address.wait_ms(CHECKS, 1, now_ms).unwrap_or(u64::MAX);
        let of_site_ms = of_site.wait_ms(CHECKS_OF_SITE, 1, now_ms).unwrap_or(u64::MAX);
        let wait_ms = of_address_ms.max(of_site_ms);
        if wait_ms > 0 {
            return Err(CallError::TooManyTokens(whole_s(wait_ms)));
        }
        of_address.take(CHECKS, 1, now_ms);
        of_site.take(CHECKS_OF_SITE, 1, now_ms);
        self.checks.put(address, of_address, of_address.full_at_ms(CHECKS), now_ms);
        self.checks_of_sites.put(site, of_site, of_site.full_at_ms(CHECKS_OF_SITE), now_ms);
        Ok(())
    }
}

/// The turns of one call, for which its caller pays. Borrows what all calls share: a clone of the token that ends them
/// takes a lock.
pub(crate) struct PaidTurns<'a> {
    callers: &'a Callers,
    caller: Caller,
    call: LimitedCall,
    /// Turns that are paid for.
    paid: u64,
    /// Cancelled when waiting calls must end.
    stop: &'a CancellationToken,
}

impl PaidTurns<'_> {
    /// Pays for one more turn, before its work begins. If the caller's limits are used up, waits until they have
    /// room again, so that a call of many turns is possible at all.
    ///
    /// # Errors
    /// [`CallError::RateLimited`] if the waits of the call sum to more than [`PAYING_WAIT_MAX`].
    pub(crate) async fn pay(&mut self) -> Result<(), CallError> {
        if let Some(paid) = self.paid.checked_sub(1) {
            self.paid = paid;
            return Ok(());
        }
        // Bounded, because other calls of the caller may repeatedly take the tokens that this one waits for.
        let until = Instant::now() + PAYING_WAIT_MAX;
        loop {
            let charged = self.callers.charge(self.caller, self.call, CallCost::of_topics(1)).await;
            let left = until.saturating_duration_since(Instant::now());
            match charged {
                Err(CallError::RateLimited { retry_after_s })
                    if Duration::from_secs(retry_after_s) <= left =>
                {
                    tokio::select! {
                        () = sleep(Duration::from_secs(retry_after_s)) => {}
                        () = self.stop.cancelled() => return Err(CallError::ShuttingDown),
                    }
                }
                charged => return charged,
            }
        }
    }
}

/// Identifies the caller of each call of a service, before its body is read.
#[derive(Clone)]
pub(crate) struct CallerCheck {
    callers: Callers,
    nodes_only: bool,
}

impl Interceptor for CallerCheck {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let caller = self.callers.identify(request.metadata().as_ref(), request.remote_addr());
        let caller = caller.map_err(into_status)?;
        if self.nodes_only && caller.node.is_none() {
            return Err(into_status(CallError::NodesOnly));
        }
        if let Some(release) = caller.node {
            let open = self.callers.0.metrics.node_call_opened(release);
            let charge = CallCharge::of(request.extensions());
            charge.caller_is_node();
            charge.keep(open);
        }
        request.extensions_mut().insert(caller);
        Ok(request)
    }
}

/// Returns the caller that [`CallerCheck`] has identified. Requests without one count as one caller.
pub(crate) fn caller_of<T>(request: &Request<T>) -> Caller {
    let caller = request.extensions().get::<Caller>().copied();
    debug_assert!(caller.is_some(), "every service is behind a check");
    caller.unwrap_or(Caller { address: ClientAddress::Invalid, node: None })
}

/// Rounds up to whole seconds, so that a caller that waits this long succeeds.
fn whole_s(wait_ms: u64) -> u64 {
    wait_ms.div_ceil(1000)
}

/// Takes a slot in Redis. A separate task does this and either passes the slot to the call or gives it back: the
/// call may end after Redis has counted the slot and before it has answered.
async fn take_shared(
    limits: &Arc<RedisLimits>,
    caller: ClientAddress,
) -> RedisAnswer<Option<DropGuard>> {
    let limits = limits.clone();
    let taken = tokio::spawn(async move {
        match limits.open_stream(caller).await {
            RedisAnswer::Answer(true) => RedisAnswer::Answer(Some(hold_shared(&limits, caller))),
            RedisAnswer::Answer(false) => RedisAnswer::Answer(None),
            RedisAnswer::NoAnswer => RedisAnswer::NoAnswer,
        }
    });
    taken.await.unwrap_or(RedisAnswer::NoAnswer) // the process ends
}

/// Keeps a slot in Redis alive, and gives it back when the result is dropped.
fn hold_shared(limits: &Arc<RedisLimits>, caller: ClientAddress) -> DropGuard {
    let ended = CancellationToken::new();
    let (limits, stop) = (limits.clone(), ended.clone());
    tokio::spawn(async move {
        while timeout(limits.refresh_every(), stop.cancelled()).await.is_err() {
            limits.refresh_stream(caller).await;
        }
        limits.close_stream(caller).await;
    });
    ended.drop_guard()
}

/// The slot of a stream.
enum StreamSlotKind {
    Own(#[expect(dead_code, reason = "held")] AddressSlot),
    Shared(#[expect(dead_code, reason = "held")] DropGuard),
}

/// The slot of a stream, counted while it is open.
pub(crate) struct StreamSlot {
    _slot: StreamSlotKind,
    metrics: LimitMetrics,
}

impl StreamSlot {
    fn new(slot: StreamSlotKind, metrics: LimitMetrics) -> Self {
        metrics.stream_opened();
        Self { _slot: slot, metrics }
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.metrics.stream_closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The owner of an IPv6 /48 could otherwise have millions of signatures checked in a minute.
    #[test]
    fn all_addresses_of_a_site_together_have_a_number_of_signatures_checked() {
        let mut known = KnownTokens::new();
        let mut checked = 0;
        for subnet in 0..1000 {
            let mut of_address = 0;
            while known.take_check(ClientAddress::V6(subnet), 0).is_ok() {
                of_address += 1;
            }
            assert!(of_address <= CHECKS.capacity);
            checked += of_address;
        }
        assert_eq!(checked, CHECKS_OF_SITE.capacity);
        let refused = known.take_check(ClientAddress::V6(0), 0);
        assert!(matches!(refused, Err(CallError::TooManyTokens(1))), "{refused:?}");
        assert!(known.take_check(ClientAddress::V6(1 << 16), 0).is_ok(), "another site");
    }
}
