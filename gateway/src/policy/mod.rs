//! Identifies callers and limits what each may publish.
//!
//! - [`config`]: the file with policies;
//! - `caller`: the name of a caller; `address`, `jwt`, `api_key`: identify one; `jwks`: fetches keys from a URL;
//! - `rules`: the limits of a caller; `tenants`: callers with a payer key of their own;
//! - `webhook`: asks a service of the operator;
//! - `limits`: the usage of each caller; `kind_limits`: that of single kinds of envelopes.
//!
//! Usage is kept in memory, and in Redis if several gateways share it.

mod address;
mod api_key;
mod caller;
pub mod config;
mod jwks;
mod jwt;
mod kind_limits;
mod limits;
#[cfg(test)]
mod redirecting;
mod rules;
mod tenants;
mod token_checks;
mod webhook;

use std::net::SocketAddr;
use std::sync::Arc;

pub(crate) use api_key::ApiKeyError;
use api_key::ApiKeys;
pub use api_key::ApiKeysError;
pub(crate) use caller::CallerId;
use config::{CallerIdentityKind, Policy, PolicyFile, TenantSettings};
use hawser_serve::address::ClientAddress;
use http::HeaderMap;
pub(crate) use jwks::KeyFetchSettings;
pub use jwt::KeysError;
pub(crate) use jwt::TokenError;
use jwt::TokenKeys;
use kind_limits::{KindCounts, KindLimits};
pub(crate) use limits::CallerCost;
use limits::{CallerLimits, PolicyLimitError, shared};
use parking_lot::{Mutex, RwLock};
use token_checks::TokenChecks;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use webhook::Webhook;
pub(crate) use webhook::WebhookError;
pub use webhook::WebhookStartError;

use crate::now_ms;
use crate::routing::Routed;
use crate::sharing::{
    GatewayShare, LimitHolder, SharedCharge, SharedCount, SharedKnowledge, SharedLimits,
    SharedQuery, SharedTake,
};
use hawser_rules::{PayloadClass, PicoDollarPrice};

/// Largest credential that the webhook is asked about, bytes. A guess: as for tokens.
const CREDENTIAL_LEN_BYTES_MAX: usize = 16 * 1024;
/// Name of the caller to which a gateway that does not distinguish callers counts all requests.
const ALL_CALLERS: &str = "everybody";

/// The reason a policy refuses a valid request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    ApiKey(#[from] ApiKeyError),
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    #[error("this caller may not publish")]
    Denied,
    #[error("this caller belongs to no tenant of this gateway")]
    NoTenant,
    #[error("envelope {index}: this caller may not publish {}", kind.name())]
    Kind { index: usize, kind: PayloadClass },
    #[error("envelope {index} has {len} bytes, and this caller may publish at most {max}")]
    TooLong { index: usize, len: usize, max: usize },
    #[error(
        "envelope {index} would cost {} picodollars, and this caller may spend at most {} on one",
        .fee.0,
        .max.0
    )]
    TooExpensive { index: usize, fee: PicoDollarPrice, max: PicoDollarPrice },
    #[error("the request has {count} envelopes, and this caller may publish at most {max} at once")]
    TooMany { count: usize, max: usize },
    #[error("envelope {index}: the congestion fee of every node exceeds the limit of this caller")]
    AllNodesExpensive { index: usize },
    #[error("too many {}", .0.what)]
    LimitExceeded(PolicyLimitError),
    #[error("the callers of this network together have sent too many {}", .0.what)]
    NetworkExceeded(PolicyLimitError),
    #[error("all callers together have sent too many {}", .0.what)]
    TotalExceeded(PolicyLimitError),
}

impl PolicyError {
    pub(crate) const REASONS: [&'static str; 9] =
        ["token", "denied", "kind", "size", "price", "limit", "api_key", "webhook", "tenant"];

    /// Returns the index of the reason in [`REASONS`](Self::REASONS).
    pub(crate) fn reason(&self) -> usize {
        match self {
            Self::Token(_) => 0,
            Self::Denied => 1,
            Self::Kind { .. } => 2,
            Self::TooLong { .. } | Self::TooMany { .. } => 3,
            Self::TooExpensive { .. } | Self::AllNodesExpensive { .. } => 4,
            Self::LimitExceeded(_) | Self::NetworkExceeded(_) | Self::TotalExceeded(_) => 5,
            Self::ApiKey(_) => 6,
            Self::Webhook(_) => 7,
            Self::NoTenant => 8,
        }
    }
}

/// The record of a request's cost in the limits, needed to give parts of it back.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    /// Time at which the cost was taken from the limits of the caller, unix milliseconds.
    taken_ms: u64,
    /// Time at which it was taken from those of all callers together; `None` until then.
    total_taken_ms: Option<u64>,
    /// The count in the limits that all gateways share, once it was requested. Redis may not have answered yet.
    shared: Option<Arc<SharedCount>>,
}

/// A cost that was taken from limits and that no bill holds yet. Its drop gives the cost back, because a caller may
/// hang up, and the request be dropped, at any await.
///
/// The limits of all callers together come last: while anything can still refuse the request, it holds nothing that
/// other callers need.
pub(crate) struct TakenCost {
    policies: Arc<Policies>,
    caller: CallerId,
    cost: CallerCost,
    /// The cost of each envelope, in the order of the request.
    prices: Vec<CallerCost>,
    /// The number of envelopes of each kind.
    kinds: KindCounts,
    admission: Admission,
    /// True once a bill is responsible for the cost.
    is_billed: bool,
}

impl TakenCost {
    /// Transfers the cost to a bill, as the amount taken for each envelope. A refund returns exactly this amount,
    /// because the price of gas may have changed since.
    pub(crate) fn into_bill(mut self) -> (Admission, Vec<CallerCost>) {
        debug_assert!(self.admission.total_taken_ms.is_some(), "it is taken everywhere");
        self.is_billed = true;
        (self.admission.clone(), std::mem::take(&mut self.prices))
    }

    /// Takes the cost from the limits that all gateways share, and then from those of all callers together at this
    /// gateway. Returns the shared state, which the same call of Redis reads.
    ///
    /// # Errors
    /// [`PolicyError`] if the cost exceeds one of these limits. All that the request has taken is given back, except
    /// for tokens that have been refilled meanwhile.
    pub(crate) async fn take_everywhere(
        mut self,
        query: &SharedQuery,
    ) -> Result<(Self, SharedKnowledge), PolicyError> {
        let asked = match self.policies.share.clone() {
            Some(share) => self.take_shared(&share, query).await,
            None => Ok(SharedKnowledge::default()),
        };
        match asked.and_then(|known| self.take_of_total().map(|()| known)) {
            Ok(known) => Ok((self, known)),
            Err(refusal) => {
                self.give_tokens_back();
                if let Some(count) = &self.admission.shared {
                    count.give_tokens_back().await; // nothing happens if Redis has refused
                }
                Err(refusal) // the drop gives the budgets back
            }
        }
    }

    /// Takes the cost from the limits that all gateways share, and reads their shared state. Without an answer in time
    /// the request counts at this gateway only, until Redis answers late that it has taken the cost.
    async fn take_shared(
        &mut self,
        share: &GatewayShare,
        query: &SharedQuery,
    ) -> Result<SharedKnowledge, PolicyError> {
        let policies = self.policies.clone();
        let (policy, total) = (policies.file.policy_of(&self.caller.name), &policies.file.total);
        let limits = [shared(policy), shared(total)];
        let network = policies.network_of(&self.caller);
        let network = network.map(|(network, policy)| (network, shared(policy)));
        let kinds = kind_limits::shared(policy, total, &self.kinds);
        let (caller, cost) = (&*self.caller.name, self.cost.to_share());
        let count = share.count(SharedCharge { caller, limits, network, kinds: &kinds, cost });
        self.admission.shared = Some(count.clone());
        let (take, known) = share.admit(&count, query).await;
        let SharedTake::Exceeded(exceeded) = take else { return Ok(known) };
        let of_kind = exceeded.place.checked_sub(SharedLimits::COUNT).and_then(|at| kinds.get(at));
        let limit = match of_kind {
            Some(bucket) => kind_limits::exceeded(bucket, exceeded.wait_ms),
            None => PolicyLimitError::of_shared(exceeded),
        };
        Err(match exceeded.holder {
            LimitHolder::Caller => PolicyError::LimitExceeded(limit),
            LimitHolder::All => PolicyError::TotalExceeded(limit),
            LimitHolder::Network => PolicyError::NetworkExceeded(limit),
        })
    }

    /// Takes the cost from the limits of all callers together at this gateway. Other requests may have used them up
    /// since [`Policies::admit`] has checked them.
    fn take_of_total(&mut self) -> Result<(), PolicyError> {
        let Policies { file, limits, kinds, .. } = &*self.policies;
        let (total, now_ms) = (&file.total, now_ms());
        let (mut limits, mut kinds) = (limits.lock(), kinds.lock());
        let of_kinds = kinds.check_total(total, &self.kinds, now_ms);
        let taken = of_kinds.and_then(|()| limits.take_of_total(total, self.cost, now_ms));
        taken.map_err(PolicyError::TotalExceeded)?;
        kinds.take_of_total(total, &self.kinds, now_ms);
        self.admission.total_taken_ms = Some(now_ms);
        Ok(())
    }

    /// Returns the tokens of the caller at this gateway. Otherwise a refusal would make the caller wait for longer than
    /// the refusal states.
    fn give_tokens_back(&self) {
        let Policies { file, limits, kinds, networks, .. } = &*self.policies;
        let (caller, times) = (&*self.caller.name, [self.admission.taken_ms, now_ms()]);
        let policy = file.policy_of(caller);
        let (mut limits, mut kinds) = (limits.lock(), kinds.lock());
        limits.give_tokens_back(caller, policy, self.cost.envelopes, times);
        kinds.give_back(caller, policy, &self.kinds, times);
        if let Some((network, policy)) = self.policies.network_of(&self.caller) {
            networks.lock().give_tokens_back(network, policy, self.cost.envelopes, times);
        }
    }
}

impl Drop for TakenCost {
    fn drop(&mut self) {
        if !self.is_billed {
            self.policies.begin_to_give_back(&self.caller, self.cost, &self.admission);
        }
    }
}

/// The policies of a running gateway.
pub(crate) struct Policies {
    file: PolicyFile,
    limits: Mutex<CallerLimits>,
    /// Locked after `limits`.
    kinds: Mutex<KindLimits>,
    /// The usage of each network at this gateway. Locked after `kinds`.
    networks: Mutex<CallerLimits>,
    keys: RwLock<TokenKeys>,
    token_checks: Mutex<TokenChecks>,
    /// Notified when a token names an unknown key.
    keys_wanted: Notify,
    api_keys: ApiKeys,
    webhook: Option<Webhook>,
    /// The usage at all gateways together; `None` for a single gateway.
    share: Option<Arc<GatewayShare>>,
}

/// The reason policies cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PoliciesError {
    /// The keys of tokens cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The hashes of API keys cannot be used.
    #[error(transparent)]
    ApiKeys(#[from] ApiKeysError),
    /// The webhook cannot be used.
    #[error("[webhook]: {0}")]
    Webhook(#[from] WebhookStartError),
}

impl Policies {
    /// Applies a file with policies. Reads keys from a file; [`Policies::keep_keys`] fetches those at a URL.
    ///
    /// # Errors
    /// [`PoliciesError`] if a file with secrets cannot be used.
    pub(crate) fn new(
        file: PolicyFile,
        share: Option<Arc<GatewayShare>>,
    ) -> Result<Self, PoliciesError> {
        let keys = match &file.identity.jwt {
            Some(jwt) => match &jwt.keys_file {
                Some(path) => TokenKeys::read(path, jwt.algorithm)?,
                None => TokenKeys::default(),
            },
            None => TokenKeys::default(),
        };
        let (limits, kinds, networks) = <(Mutex<_>, Mutex<_>, Mutex<_>)>::default();
        let keys_wanted = Notify::new();
        let api_keys = ApiKeys::parse(&file.identity.api_keys)?;
        let webhook = file.webhook.clone().map(Webhook::new).transpose()?;
        let (keys, token_checks) = (RwLock::new(keys), Mutex::default());
        Ok(Self {
            file,
            limits,
            kinds,
            networks,
            keys,
            token_checks,
            keys_wanted,
            api_keys,
            webhook,
            share,
        })
    }

    /// Returns the network of a caller, with the limits that its callers have together; `None` if these limits do not
    /// concern this caller.
    fn network_of<'a>(&'a self, caller: &'a CallerId) -> Option<(&'a str, &'a Policy)> {
        Some((caller.network()?, self.file.network_limits_of(&caller.name)?))
    }

    /// Identifies the caller of a request, and the tenant that its token, its key or the operator's service names.
    ///
    /// # Errors
    /// [`PolicyError`] if the token, the key or the credential is not accepted, or if the service does not answer.
    pub(crate) async fn caller_of(
        &self,
        headers: &HeaderMap,
        peer: Option<SocketAddr>,
        now_s: u64,
    ) -> Result<(CallerId, Option<String>), PolicyError> {
        let PolicyFile { identity, tenants, .. } = &self.file;
        let address = || address::caller(headers, peer, &identity.trusted_proxies);
        let (name, tenant) = match identity.kind {
            CallerIdentityKind::Address => return Ok((CallerId::of_address(address()), None)),
            CallerIdentityKind::Jwt => self.by_token(headers, address(), now_s)?,
            CallerIdentityKind::ApiKey => {
                let caller = self.api_keys.caller(headers)?;
                let has_caller = |tenant: &TenantSettings| tenant.members.contains(&*caller);
                let tenant = tenants.iter().find(|(_, tenant)| has_caller(tenant));
                (caller.to_string(), tenant.map(|(name, _)| name.clone()))
            }
            CallerIdentityKind::Webhook => {
                self.by_webhook(headers, &CallerId::of_address(address())).await?
            }
            CallerIdentityKind::None => (ALL_CALLERS.to_owned(), None),
        };
        Ok((CallerId::of_name(&name), tenant))
    }

    /// Returns the caller and the tenant that the request's token names. A token with an unknown key has the keys
    /// fetched. An address has a bounded number of wrong tokens checked.
    fn by_token(
        &self,
        headers: &HeaderMap,
        address: ClientAddress,
        now_s: u64,
    ) -> Result<(String, Option<String>), TokenError> {
        let jwt = self.file.identity.jwt.as_ref().ok_or(TokenError::NoKeys)?;
        let (token, checked_ms) = (jwt::bearer(headers).unwrap_or_default(), now_ms());
        let digest = token_checks::digest(token);
        let wait_s = self.token_checks.lock().wait_s(digest, address, checked_ms);
        if wait_s > 0 && !token.is_empty() {
            return Err(TokenError::TooMany(wait_s));
        }
        let keys = self.keys.read();
        if jwt.jwks_url.is_some() && keys.lacks(headers) {
            self.keys_wanted.notify_one();
        }
        let caller = keys.caller(jwt, headers, now_s);
        drop(keys);
        match &caller {
            Ok(_) => self.token_checks.lock().note_accepted(digest, checked_ms),
            Err(error) => self.token_checks.lock().note_refused(digest, address, error, checked_ms),
        }
        let caller = caller?;
        Ok((caller.name, caller.tenant))
    }

    /// Returns the caller and the tenant that the operator's service names for the request's credential.
    async fn by_webhook(
        &self,
        headers: &HeaderMap,
        address: &CallerId,
    ) -> Result<(String, Option<String>), PolicyError> {
        let unknown = ApiKeyError::Unknown;
        let credential = api_key::credential(headers).ok_or(ApiKeyError::Missing)?;
        let credential = std::str::from_utf8(credential).map_err(|_| unknown)?;
        if credential.len() > CREDENTIAL_LEN_BYTES_MAX {
            return Err(unknown.into());
        }
        let webhook = self.webhook.as_ref().ok_or(WebhookError::NoAnswer)?;
        Ok(webhook.identify(credential, address).await?.ok_or(unknown)?)
    }

    /// Checks that the policy allows the caller requests of `count` envelopes. To be called before the envelopes are
    /// read, which takes longer.
    ///
    /// # Errors
    /// [`PolicyError::Denied`] if it allows none, [`PolicyError::TooMany`] if it allows fewer envelopes.
    pub(crate) fn require_allowed(
        &self,
        caller: &CallerId,
        count: usize,
    ) -> Result<(), PolicyError> {
        let policy = self.file.policy_of(&caller.name);
        if policy.deny {
            return Err(PolicyError::Denied);
        }
        match policy.envelopes_per_request_max {
            Some(max) if count > max => Err(PolicyError::TooMany { count, max }),
            _ => Ok(()),
        }
    }

    /// Checks that a caller may publish these envelopes, and takes their cost from its limits at this gateway. Also
    /// checks the limits of all callers together at this gateway, from which
    /// [`take_everywhere`](TakenCost::take_everywhere) takes. `price` returns the cost of one envelope; what congestion
    /// may cost counts for later requests and not for this one. `now_ms` is unix milliseconds.
    ///
    /// # Errors
    /// Returns the first reason to refuse. Nothing is then taken.
    pub(crate) fn admit(
        self: &Arc<Self>,
        caller: &CallerId,
        routed: &[Routed],
        price: impl Fn(&Routed) -> CallerCost,
        now_ms: u64,
    ) -> Result<TakenCost, PolicyError> {
        let policy = self.file.policy_of(&caller.name);
        let (mut cost, mut prices) = (CallerCost::default(), Vec::with_capacity(routed.len()));
        for (index, envelope) in routed.iter().enumerate() {
            let (kind, len) = (envelope.kind, envelope.bytes.len());
            if !policy.allows(kind) {
                return Err(PolicyError::Kind { index, kind });
            }
            if let Some(max) = policy.envelope_bytes_max.filter(|max| len > *max) {
                return Err(PolicyError::TooLong { index, len, max });
            }
            let price = price(envelope);
            let fee = price.picodollars;
            let max = policy.picodollars_per_envelope_max.map(PicoDollarPrice);
            if let Some(max) = max.filter(|max| fee > *max) {
                return Err(PolicyError::TooExpensive { index, fee, max });
            }
            cost.add(price);
            prices.push(price);
        }
        let kinds = kind_limits::count(routed.iter().map(|envelope| envelope.kind));
        self.take_of_caller(caller, &kinds, cost, now_ms)?;
        Ok(TakenCost {
            policies: self.clone(),
            caller: caller.clone(),
            cost,
            prices,
            kinds,
            admission: Admission { taken_ms: now_ms, total_taken_ms: None, shared: None },
            is_billed: false,
        })
    }

    /// Takes the cost of a request from all limits of its caller and of its network at this gateway, or from none,
    /// after checking those of all callers together too.
    fn take_of_caller(
        &self,
        id: &CallerId,
        counts: &KindCounts,
        cost: CallerCost,
        now_ms: u64,
    ) -> Result<(), PolicyError> {
        let caller = &*id.name;
        let (policy, total) = (self.file.policy_of(caller), &self.file.total);
        let (mut limits, mut kinds) = (self.limits.lock(), self.kinds.lock());
        let of_caller = kinds.check_caller(caller, policy, counts, now_ms);
        of_caller.map_err(PolicyError::LimitExceeded)?;
        kinds.check_total(total, counts, now_ms).map_err(PolicyError::TotalExceeded)?;
        limits.check_total(total, cost, now_ms).map_err(PolicyError::TotalExceeded)?;
        limits.check(caller, policy, cost, now_ms).map_err(PolicyError::LimitExceeded)?;
        if let Some((network, policy)) = self.network_of(id) {
            let taken = self.networks.lock().take(network, policy, cost, now_ms);
            taken.map_err(PolicyError::NetworkExceeded)?;
        }
        limits.take(caller, policy, cost, now_ms).map_err(PolicyError::LimitExceeded)?;
        kinds.take_of_caller(caller, policy, counts, now_ms);
        Ok(())
    }

    /// Asks the operator's service, if configured, whether a caller may publish these envelopes.
    ///
    /// # Errors
    /// [`PolicyError`] if the caller may not, or the service does not answer.
    pub(crate) async fn ask(
        &self,
        caller: &CallerId,
        routed: &[Routed],
    ) -> Result<(), PolicyError> {
        match &self.webhook {
            Some(webhook) => Ok(webhook.ask(caller, routed).await?),
            None => Ok(()),
        }
    }

    /// Asks the operator's service, if configured, for the tenant of a caller.
    ///
    /// # Errors
    /// [`PolicyError`] if the caller may not publish, or the service does not answer.
    pub(crate) async fn tenant_by_webhook(
        &self,
        caller: &CallerId,
    ) -> Result<Option<String>, PolicyError> {
        match &self.webhook {
            Some(webhook) => Ok(webhook.tenant(caller).await?),
            None => Ok(None),
        }
    }

    /// Returns true if the operator's service names callers or their tenants: requests may wait for it before they are
    /// read.
    pub(crate) fn wait_for_names(&self) -> bool {
        let names_tenants = self.file.webhook.as_ref().is_some_and(|it| it.names_tenant);
        names_tenants || self.file.identity.kind == CallerIdentityKind::Webhook
    }

    /// Returns the retention of a caller's envelopes, days; `None` for that of the gateway.
    pub(crate) fn retention_days(&self, caller: &CallerId) -> Option<u32> {
        self.file.policy_of(&caller.name).retention_days
    }

    /// Returns the largest price that a caller pays for an envelope.
    pub(crate) fn price_max(&self, caller: &CallerId) -> Option<PicoDollarPrice> {
        self.file.policy_of(&caller.name).picodollars_per_envelope_max.map(PicoDollarPrice)
    }

    /// Takes from the budget what nodes charged beyond the price taken before.
    pub(crate) async fn add_cost(
        &self,
        caller: &CallerId,
        picodollars: PicoDollarPrice,
        admission: &Admission,
    ) {
        self.limits.lock().add_cost(&caller.name, picodollars);
        if let Some((network, _)) = self.network_of(caller) {
            self.networks.lock().add_cost(network, picodollars);
        }
        if let Some(count) = &admission.shared {
            count.add([0, picodollars.0, 0]).await;
        }
    }

    /// Gives back a part of the cost taken, for envelopes that were not published. A task does this, so that it
    /// completes even if the caller hangs up meanwhile.
    pub(crate) async fn give_back(
        &self,
        caller: &CallerId,
        cost: CallerCost,
        admission: &Admission,
    ) {
        if let Some(telling) = self.begin_to_give_back(caller, cost, admission) {
            let _ = telling.await; // it ends early only with the process
        }
    }

    /// Gives back a part of the cost taken: to the limits of this gateway at once, and to the shared limits by a
    /// task, whose handle it returns.
    pub(crate) fn begin_to_give_back(
        &self,
        caller: &CallerId,
        cost: CallerCost,
        admission: &Admission,
    ) -> Option<JoinHandle<()>> {
        if cost == CallerCost::default() {
            return None;
        }
        self.give_back_here(caller, cost, admission);
        let count = admission.shared.clone().filter(|_| cost.to_share() != [0; 3])?;
        let telling = async move { count.give_back(cost.to_share()).await };
        // A drop at the end of the process may find no runtime. The shared limits then keep the cost.
        Some(Handle::try_current().ok()?.spawn(telling))
    }

    fn give_back_here(&self, caller: &CallerId, cost: CallerCost, admission: &Admission) {
        let mut limits = self.limits.lock();
        limits.give_back(&caller.name, cost, admission.taken_ms);
        if let Some((network, _)) = self.network_of(caller) {
            self.networks.lock().give_back(network, cost, admission.taken_ms);
        }
        if let Some(taken_ms) = admission.total_taken_ms {
            limits.give_back_to_total(cost, taken_ms);
        }
    }

    /// Returns true if tokens are required and no key to verify them is known yet.
    pub(crate) fn lacks_keys(&self) -> bool {
        let keys = self.keys.read();
        self.file.identity.kind == CallerIdentityKind::Jwt && keys.is_empty()
    }
}
