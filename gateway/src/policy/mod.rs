//! Who may publish what, and how much of it.
//!
//! - [`config`]: the file that says so;
//! - `address`, `jwt`: who a caller is; `jwks`: keys that are at a URL;
//! - `limits`: what callers have used.
//!
//! Everything is in memory: a restart forgets what was used.

mod address;
pub mod config;
mod jwks;
mod jwt;
mod limits;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError, RwLock};

use config::{IdentityKind, PolicyFile};
use http::HeaderMap;
pub(crate) use jwks::Pace;
use jwt::Keys;
pub use jwt::KeysFault;
pub(crate) use jwt::TokenFault;
pub(crate) use limits::Cost;
use limits::{Exhausted, Limits};
use tokio::sync::Notify;

use crate::routing::Routed;
use hawser_rules::PayloadClass;

const EVERYBODY: &str = "everybody";

/// Why a request is not served although nothing is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PolicyRefusal {
    #[error(transparent)]
    Token(#[from] TokenFault),
    #[error("this caller may not publish")]
    Denied,
    #[error("envelope {index}: this caller may not publish {}", kind.name())]
    Kind { index: usize, kind: PayloadClass },
    #[error("envelope {index} has {len} bytes, and this caller may publish {max}")]
    TooLong { index: usize, len: usize, max: usize },
    #[error("envelope {index} would cost {fee} picodollars, and this caller pays {max}")]
    TooDear { index: usize, fee: u64, max: u64 },
    #[error("every node charges more for being busy than this caller pays")]
    AllDear,
    #[error("too many {}", .0.what)]
    Exhausted(Exhausted),
}

impl PolicyRefusal {
    pub(crate) const REASONS: [&'static str; 6] =
        ["token", "denied", "kind", "size", "price", "limit"];

    /// Its place among the reasons.
    pub(crate) fn reason(&self) -> usize {
        match self {
            Self::Token(_) => 0,
            Self::Denied => 1,
            Self::Kind { .. } => 2,
            Self::TooLong { .. } => 3,
            Self::TooDear { .. } | Self::AllDear => 4,
            Self::Exhausted(_) => 5,
        }
    }
}

/// Somebody who publishes, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller(String);

/// The policies at work.
pub(crate) struct Policies {
    file: PolicyFile,
    limits: Mutex<Limits>,
    keys: RwLock<Keys>,
    keys_wanted: Notify,
}

impl Policies {
    /// Takes a file. Keys in a file are read now; keys at a URL by [`Policies::keep_keys`].
    ///
    /// # Errors
    /// When the file with keys has none.
    pub(crate) fn new(file: PolicyFile) -> Result<Self, KeysFault> {
        let keys = match &file.identity.jwt {
            Some(jwt) => match &jwt.keys_file {
                Some(path) => Keys::read(path, jwt.algorithm)?,
                None => Keys::default(),
            },
            None => Keys::default(),
        };
        let (limits, keys_wanted) = (Mutex::default(), Notify::new());
        Ok(Self { file, limits, keys: RwLock::new(keys), keys_wanted })
    }

    /// Who calls.
    ///
    /// # Errors
    /// When that has to be known and is not.
    pub(crate) fn caller(
        &self,
        headers: &HeaderMap,
        peer: Option<SocketAddr>,
        now_s: u64,
    ) -> Result<Caller, PolicyRefusal> {
        let identity = &self.file.identity;
        let name = match (identity.kind, &identity.jwt) {
            (IdentityKind::Address, _) => address::caller(headers, peer, &identity.trusted_proxies),
            (IdentityKind::Jwt, Some(jwt)) => {
                let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
                if jwt.jwks_url.is_some() && keys.lacks(headers) {
                    self.keys_wanted.notify_one();
                }
                keys.caller(jwt, headers, now_s)?
            }
            (IdentityKind::Jwt, None) => return Err(TokenFault::NoKeys.into()),
            (IdentityKind::None, _) => EVERYBODY.to_owned(),
        };
        let caller = Caller(name);
        if self.file.policy_of(&caller.0).deny { Err(PolicyRefusal::Denied) } else { Ok(caller) }
    }

    /// Whether a caller may publish this. `fee` tells what an envelope costs at a node, before
    /// congestion. Takes it from what the caller may use.
    ///
    /// # Errors
    /// The first thing that is not allowed; then nothing was taken.
    pub(crate) fn admit(
        &self,
        caller: &Caller,
        routed: &[Routed],
        fee: impl Fn(&Routed) -> u64,
        now_ms: u64,
    ) -> Result<(), PolicyRefusal> {
        let policy = self.file.policy_of(&caller.0);
        let mut cost = Cost::default();
        for (index, envelope) in routed.iter().enumerate() {
            let (kind, len) = (envelope.kind, envelope.bytes.len());
            if !policy.allows(kind) {
                return Err(PolicyRefusal::Kind { index, kind });
            }
            if let Some(max) = policy.envelope_bytes_max.filter(|max| len > *max) {
                return Err(PolicyRefusal::TooLong { index, len, max });
            }
            let fee = fee(envelope);
            if let Some(max) = policy.picodollars_per_envelope_max.filter(|max| fee > *max) {
                return Err(PolicyRefusal::TooDear { index, fee, max });
            }
            cost.envelopes += 1;
            cost.picodollars = cost.picodollars.saturating_add(fee);
        }
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.take(&caller.0, policy, cost, now_ms).map_err(PolicyRefusal::Exhausted)
    }

    /// The most that a caller pays for an envelope.
    pub(crate) fn price_max(&self, caller: &Caller) -> Option<u64> {
        self.file.policy_of(&caller.0).picodollars_per_envelope_max
    }

    /// What was published has cost more than was taken for it.
    pub(crate) fn add_cost(&self, caller: &Caller, picodollars: u64) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.add_cost(&caller.0, picodollars);
    }

    /// So much of what was taken at `taken_ms` was not used.
    pub(crate) fn give_back(&self, caller: &Caller, cost: Cost, taken_ms: u64) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.give_back(&caller.0, cost, taken_ms);
    }

    /// Whether tokens are asked for and nobody has told yet who may sign them.
    pub(crate) fn lacks_keys(&self) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        self.file.identity.kind == IdentityKind::Jwt && keys.is_empty()
    }
}
