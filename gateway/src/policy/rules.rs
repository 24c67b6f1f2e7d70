//! The limits of a caller.

use std::collections::BTreeSet;

use hawser_rules::PayloadClass;
use serde::{Deserialize, Deserializer};

/// The limits of a caller. A limit that is not given does not apply.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Refuses everything.
    pub deny: bool,
    /// Kinds of envelopes that are refused, also if `kinds` has them.
    #[serde(deserialize_with = "kinds")]
    pub kinds_denied: BTreeSet<PayloadClass>,
    /// Kinds of envelopes that are allowed; all if empty.
    #[serde(deserialize_with = "kinds")]
    pub kinds: BTreeSet<PayloadClass>,
    /// Largest envelope in bytes.
    pub envelope_bytes_max: Option<usize>,
    /// Envelopes in one request.
    pub envelopes_per_request_max: Option<usize>,
    /// Envelopes a minute, from a bucket that refills evenly.
    pub envelopes_per_minute: Option<u64>,
    /// Envelopes an hour, from a bucket that refills evenly.
    pub envelopes_per_hour: Option<u64>,
    /// Envelopes in one day of UTC.
    pub envelopes_per_day: Option<u64>,
    /// Fees of nodes, and gas at its present price, in one hour of UTC, picodollars.
    pub picodollars_per_hour: Option<u64>,
    /// The same in one day of UTC, picodollars.
    pub picodollars_per_day: Option<u64>,
    /// Gas of payloads for the chain in one hour of UTC.
    pub gas_per_hour: Option<u64>,
    /// Gas of payloads for the chain in one day of UTC.
    pub gas_per_day: Option<u64>,
    /// Largest price of one envelope, at a node or in gas, picodollars.
    pub picodollars_per_envelope_max: Option<u64>,
}

fn kinds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<PayloadClass>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let kind = |name: String| {
        PayloadClass::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let known = PayloadClass::ALL.map(PayloadClass::name).join(", ");
            serde::de::Error::custom(format!(
                "{name:?} is not a kind of envelope: use one of {known}"
            ))
        })
    };
    names.into_iter().map(kind).collect()
}

impl Policy {
    /// Returns whether nothing but limits of a minute, an hour and a day is given.
    pub(super) fn limits_rates_only(&self) -> bool {
        let rates = Self {
            envelopes_per_minute: self.envelopes_per_minute,
            envelopes_per_hour: self.envelopes_per_hour,
            envelopes_per_day: self.envelopes_per_day,
            picodollars_per_hour: self.picodollars_per_hour,
            picodollars_per_day: self.picodollars_per_day,
            gas_per_hour: self.gas_per_hour,
            gas_per_day: self.gas_per_day,
            ..Self::default()
        };
        *self == rates
    }

    /// Returns whether an envelope of this kind may be published.
    #[must_use]
    pub fn allows(&self, kind: PayloadClass) -> bool {
        let is_denied = self.kinds_denied.contains(&kind);
        !is_denied && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }
}
