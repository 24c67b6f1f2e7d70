//! The limits of a caller.

use std::collections::{BTreeMap, BTreeSet};

use hawser_rules::PayloadClass;
use serde::{Deserialize, Deserializer};

/// Largest limit: a million dollars in picodollars. Chosen: gateways that share a Redis count no further
/// (`sharing::scripts`), so a larger limit would not be one.
pub(super) const LIMIT_MAX: u64 = 1_000_000_000_000_000_000;

/// The limits of a caller. A limit that the policy file does not set does not apply.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Refuses all requests.
    pub deny: bool,
    /// Kinds of envelopes that are refused, even if `kinds` has them.
    #[serde(deserialize_with = "kinds")]
    pub kinds_denied: BTreeSet<PayloadClass>,
    /// Kinds of envelopes that are allowed; all if empty.
    #[serde(deserialize_with = "kinds")]
    pub kinds: BTreeSet<PayloadClass>,
    /// Largest client envelope in bytes.
    pub envelope_bytes_max: Option<usize>,
    /// Retention of envelopes that nodes store, days; that of the gateway if it is not set.
    pub retention_days: Option<u32>,
    /// Largest number of envelopes in a request.
    pub envelopes_per_request_max: Option<usize>,
    /// Envelopes a minute, as a token bucket: also the largest burst.
    pub envelopes_per_minute: Option<u64>,
    /// Envelopes an hour, as a token bucket: also the largest burst.
    pub envelopes_per_hour: Option<u64>,
    /// Envelopes of single kinds a minute, as token buckets beside that of all kinds.
    #[serde(deserialize_with = "by_kind")]
    pub envelopes_per_minute_by_kind: BTreeMap<PayloadClass, u64>,
    /// Envelopes of single kinds an hour, as token buckets beside that of all kinds.
    #[serde(deserialize_with = "by_kind")]
    pub envelopes_per_hour_by_kind: BTreeMap<PayloadClass, u64>,
    /// Envelopes in a day of UTC.
    pub envelopes_per_day: Option<u64>,
    /// Fees of nodes, and gas at its current price, in an hour of UTC, picodollars.
    pub picodollars_per_hour: Option<u64>,
    /// Fees of nodes, and gas at its current price, in a day of UTC, picodollars.
    pub picodollars_per_day: Option<u64>,
    /// Gas of payloads for the chain in an hour of UTC.
    pub gas_per_hour: Option<u64>,
    /// Gas of payloads for the chain in a day of UTC.
    pub gas_per_day: Option<u64>,
    /// Largest price of an envelope, as a node's fee or in gas, picodollars.
    pub picodollars_per_envelope_max: Option<u64>,
}

fn kinds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<PayloadClass>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    // The name is not shown: a value may be a secret in the wrong place.
    let known = |name: &String| kind(name).ok_or_else(|| no_kind::<D::Error>("a text here"));
    names.iter().map(known).collect()
}

fn by_kind<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<PayloadClass, u64>, D::Error> {
    let limits = BTreeMap::<String, u64>::deserialize(deserializer)?;
    let known = |name: &String| kind(name).ok_or_else(|| no_kind::<D::Error>(&format!("{name:?}")));
    limits.iter().map(|(name, limit)| Ok((known(name)?, *limit))).collect()
}

fn kind(name: &str) -> Option<PayloadClass> {
    PayloadClass::ALL.into_iter().find(|kind| kind.name() == name)
}

/// Returns the error of a text that names no kind of envelope.
fn no_kind<E: serde::de::Error>(text: &str) -> E {
    let known = PayloadClass::ALL.map(PayloadClass::name).join(", ");
    E::custom(format!("{text} is not a kind of envelope: use one of {known}"))
}

impl Policy {
    /// Returns true if the policy has only limits of a minute, an hour and a day.
    pub(super) fn limits_rates_only(&self) -> bool {
        let rates = Self {
            envelopes_per_minute: self.envelopes_per_minute,
            envelopes_per_hour: self.envelopes_per_hour,
            envelopes_per_minute_by_kind: self.envelopes_per_minute_by_kind.clone(),
            envelopes_per_hour_by_kind: self.envelopes_per_hour_by_kind.clone(),
            envelopes_per_day: self.envelopes_per_day,
            picodollars_per_hour: self.picodollars_per_hour,
            picodollars_per_day: self.picodollars_per_day,
            gas_per_hour: self.gas_per_hour,
            gas_per_day: self.gas_per_day,
            ..Self::default()
        };
        *self == rates
    }

    /// Returns the key and the value of a limit above [`LIMIT_MAX`]; `None` if the policy has none.
    pub(super) fn beyond_counting(&self) -> Option<(&'static str, u64)> {
        let single = [
            ("envelopes_per_minute", self.envelopes_per_minute),
            ("envelopes_per_hour", self.envelopes_per_hour),
            ("envelopes_per_day", self.envelopes_per_day),
            ("picodollars_per_hour", self.picodollars_per_hour),
            ("picodollars_per_day", self.picodollars_per_day),
            ("gas_per_hour", self.gas_per_hour),
            ("gas_per_day", self.gas_per_day),
        ];
        let [minute, hour] = [&self.envelopes_per_minute_by_kind, &self.envelopes_per_hour_by_kind]
            .map(|by_kind| by_kind.values().copied().max());
        let by_kind =
            [("envelopes_per_minute_by_kind", minute), ("envelopes_per_hour_by_kind", hour)];
        let mut all = single.into_iter().chain(by_kind);
        all.find_map(|(key, limit)| Some((key, limit.filter(|limit| *limit > LIMIT_MAX)?)))
    }

    /// Returns true if the policy limits single kinds of envelopes.
    pub(super) fn limits_kinds(&self) -> bool {
        !self.envelopes_per_minute_by_kind.is_empty() || !self.envelopes_per_hour_by_kind.is_empty()
    }

    /// Returns true if an envelope of this kind may be published.
    #[must_use]
    pub fn allows(&self, kind: PayloadClass) -> bool {
        let is_denied = self.kinds_denied.contains(&kind);
        !is_denied && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }
}
