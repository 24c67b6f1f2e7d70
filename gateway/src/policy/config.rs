//! The policy file: its TOML form, and the checks when it is read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use hawser_chain::index::display_url;
use hawser_dial::is_this_machine;
use hawser_rules::retention::check_retention;
use hawser_serve::address::{Cidr, ClientAddress, TrustedProxies};
use serde::{Deserialize, Deserializer};

use super::api_key::{ApiKeys, ApiKeysError};
use super::rules::LIMIT_MAX;
pub use super::rules::Policy;
use super::tenants;
pub use super::tenants::{TenantSettings, TenantsError};

/// Largest time in milliseconds for an answer of the webhook. A guess: clients give up before.
const WEBHOOK_TIMEOUT_MS_MAX: u64 = 60_000;
/// Largest time in seconds for which an answer of the webhook is reused: a day. A guess: a caller whom the service no
/// longer admits keeps access for as long.
const WEBHOOK_CACHE_S_MAX: u64 = 86_400;

/// The contents of a policy file. The default lets every caller publish everything.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyFile {
    /// The rule that identifies callers.
    pub identity: CallerIdentitySettings,
    /// Policy of all callers that `callers` does not name.
    pub default: Policy,
    /// Policies by name.
    pub policies: BTreeMap<String, Policy>,
    /// Name of the policy of each caller. Callers that are identified by address are named by an address or a network.
    pub callers: BTreeMap<String, String>,
    /// The networks among them that have several callers, those with the longest prefix first.
    #[serde(skip)]
    networks: Vec<(Cidr, String)>,
    /// Limits of the callers of one network together, an IPv4 /24 or an IPv6 /48, for a minute, an hour and a day; the
    /// file may have no other rules here. Callers that `callers` names are not counted.
    pub network: Policy,
    /// Limits of all callers together, for a minute, an hour and a day; the file may have no other rules here.
    pub total: Policy,
    /// A service of the operator that admits callers, in addition to the policies.
    pub webhook: Option<WebhookSettings>,
    /// Tenants by name. If there are any, callers without a tenant are refused.
    pub tenants: BTreeMap<String, TenantSettings>,
}

/// A service of the operator that decides whether a caller may publish.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// URL of the service; `http:` only with a loopback address.
    pub url: String,
    /// Time for an answer, milliseconds: 1 to 60,000. Default: 2 s.
    #[serde(default = "webhook_timeout_ms")]
    pub timeout_ms: u64,
    /// Time for which an answer is reused, seconds: 0 to 86,400. Default: 60.
    #[serde(default = "webhook_cache_s")]
    pub cache_s: u64,
    /// File with a token, which is sent as `authorization: Bearer …`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Admits callers while the service does not answer. Default: no.
    #[serde(default)]
    pub allow_without_answer: bool,
    /// Asks the service for the tenant of a caller whose token or API key does not name it. Default: no.
    #[serde(default)]
    pub names_tenant: bool,
    /// The tenant whose callers the service is asked about.
    #[serde(skip)]
    pub tenant: Option<String>,
}

impl WebhookSettings {
    /// Checks that each time is one that a clock can add.
    fn check_times(&self) -> Result<(), PolicyFileError> {
        for (field, value, from, to) in [
            ("timeout_ms", self.timeout_ms, 1, WEBHOOK_TIMEOUT_MS_MAX),
            ("cache_s", self.cache_s, 0, WEBHOOK_CACHE_S_MAX),
        ] {
            if !(from..=to).contains(&value) {
                let section = "webhook".to_owned();
                return Err(PolicyFileError::Range { section, field, value, from, to });
            }
        }
        Ok(())
    }
}

fn webhook_timeout_ms() -> u64 {
    2_000
}

fn webhook_cache_s() -> u64 {
    60
}

/// The rule that identifies callers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallerIdentitySettings {
    /// Property by which callers are distinguished.
    pub kind: CallerIdentityKind,
    /// Networks of proxies whose `X-Forwarded-For` and PROXY headers count, for callers of any kind. Those of any other
    /// sender are ignored, because any client can send them.
    pub trusted_proxies: TrustedProxies,
    /// Rules for tokens.
    pub jwt: Option<JwtSettings>,
    /// Hashes of the API keys of each caller: `sha256:` and 64 hex digits.
    #[serde(deserialize_with = "one_or_more")]
    pub api_keys: BTreeMap<String, Vec<String>>,
}

/// Reads a map of lists of texts; a single text is read as a list of one.
fn one_or_more<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    let all = BTreeMap::<String, OneOrMore>::deserialize(deserializer)?;
    let list = |(name, texts)| match texts {
        OneOrMore::One(text) => (name, vec![text]),
        OneOrMore::More(texts) => (name, texts),
    };
    Ok(all.into_iter().map(list).collect())
}

/// Property by which callers are distinguished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallerIdentityKind {
    /// The address of the client; also called `ip`.
    #[default]
    #[serde(alias = "ip")]
    Address,
    /// A claim of a signed token.
    Jwt,
    /// An API key of the caller.
    #[serde(rename = "api-key")]
    ApiKey,
    /// The webhook, which gets the credential in the request's headers.
    Webhook,
    /// None: all clients count as one caller.
    None,
}

/// Rules for tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtSettings {
    /// Algorithm of the signature: HS256, ES256 or RS256.
    pub algorithm: JwtAlgorithm,
    /// File with a key set, a public key as PEM, or the secret of HS256.
    pub keys_file: Option<PathBuf>,
    /// URL of a key set, which is fetched every 5 minutes; `http:` only with a loopback address.
    pub jwks_url: Option<String>,
    /// Required value of the claim `iss`. The file must have it, unless `any_issuer` is set.
    pub issuer: Option<String>,
    /// Value that the claim `aud` must contain. The file must have it, unless `any_audience` is set.
    pub audience: Option<String>,
    /// Accepts tokens with any `iss`: all tokens that the keys have signed.
    #[serde(default)]
    pub any_issuer: bool,
    /// Accepts tokens with any `aud`, also those that were issued for another service.
    #[serde(default)]
    pub any_audience: bool,
    /// Claim that has the caller's name. Default: `sub`.
    #[serde(default = "subject")]
    pub claim: String,
    /// Claim that has the name of the caller's tenant. With tenants it is required, unless the webhook names
    /// tenants.
    #[serde(default)]
    pub tenant_claim: Option<String>,
}

impl JwtSettings {
    /// Checks that only tokens issued for this gateway are accepted, and that their keys come over a safe
    /// connection.
    fn check(&self) -> Result<(), PolicyFileError> {
        for (value, is_off, name, off) in [
            (&self.issuer, self.any_issuer, "issuer", "any_issuer"),
            (&self.audience, self.any_audience, "audience", "any_audience"),
        ] {
            if value.is_none() && !is_off {
                return Err(PolicyFileError::AnyToken { name, off });
            }
        }
        match &self.jwks_url {
            Some(url) if !is_safe(url) => Err(PolicyFileError::PlainUrl(display_url(url))),
            _ => Ok(()),
        }
    }
}

/// Returns true if data from a URL cannot be changed in transit: `https:`, or `http:` to this machine.
fn is_safe(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => is_this_machine(uri.host().unwrap_or_default()),
        _ => false,
    }
}

/// Returns the text of a mistake without the value that is at fault: it may be a secret in the wrong place.
fn without_value(mistake: &str) -> String {
    // The beginnings of serde's messages that go on with the value.
    const KINDS: [&str; 3] = ["invalid type", "invalid value", "unknown variant"];
    let Some(kind) = KINDS.into_iter().find(|it| mistake.starts_with(it)) else {
        return mistake.to_owned();
    };
    match mistake.rsplit_once(", expected ") {
        Some((_, expected)) => format!("{kind}, expected {expected}"),
        None => kind.to_owned(),
    }
}

fn subject() -> String {
    "sub".into()
}

/// Algorithm of a token's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum JwtAlgorithm {
    /// HMAC with a shared secret.
    HS256,
    /// ECDSA on P-256.
    ES256,
    /// RSA, PKCS #1 v1.5.
    RS256,
}

/// The reason for which a policy file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// The text is not TOML, or not of this form. It states the number of the line and not its text, which may be a
    /// secret.
    #[error("line {line}: {what}")]
    Form {
        /// The line, counted from 1.
        line: usize,
        /// The mistake.
        what: String,
    },
    /// A caller has a policy that the file does not define. The name of that policy is not shown: it may be an API key
    /// in the wrong section.
    #[error("[callers]: {caller:?} has a policy that is not among [policies.…]")]
    UnknownPolicy {
        /// Name of the caller.
        caller: String,
    },
    /// Callers are identified by address, and a name is neither an address nor a network.
    #[error(
        "[callers] has {0:?}: with identity.kind = \"address\" callers are addresses or networks, such as 192.0.2.1, \
         2001:db8::/64 or 198.51.100.0/24"
    )]
    CallerAddress(String),
    /// One caller has two policies, under two spellings of its address.
    #[error("[callers] gives the caller {0} two policies")]
    TwoPolicies(String),
    /// The section for all callers together has a rule about single envelopes or requests.
    #[error(
        "[total] can only limit all callers together per minute, hour or day: put rules for envelopes and requests \
         into [default] or [policies.…]"
    )]
    Total,
    /// The section for the callers of a network has other rules than it may have, or callers are not known by address.
    #[error(
        "[network] can only limit the callers of a network together per minute, hour or day, for all kinds of \
         envelopes, and with identity.kind = \"address\""
    )]
    Network,
    /// A policy has a retention that nodes refuse.
    #[error("retention_days = {0}: it must be 2 to 365, or 4294967295 for no end")]
    Retention(u32),
    /// Callers are identified by tokens, and the rules for tokens are missing.
    #[error("identity.kind is \"jwt\", so the section [identity.jwt] is required")]
    NoJwt,
    /// The rules for tokens have no source of keys, or two.
    #[error("[identity.jwt] needs either keys_file or jwks_url")]
    Keys,
    /// The rules for tokens have no accepted issuer or audience.
    #[error(
        "[identity.jwt] needs {name}: without it, tokens made for other services are accepted too; {off} = true \
         allows that"
    )]
    AnyToken {
        /// The missing key.
        name: &'static str,
        /// The key that makes it optional.
        off: &'static str,
    },
    /// The key set would come over a connection on which it can be changed. Holds scheme, host and port of the URL,
    /// because the rest may have a password.
    #[error(
        "jwks_url = {0:?}: the URL must begin with https:, or with http: if it leads to this machine"
    )]
    PlainUrl(String),
    /// Callers are identified by API keys, and the file has none.
    #[error("identity.kind is \"api-key\", so the section [identity.api_keys] needs a caller")]
    NoApiKeys,
    /// A hash of an API key is wrong.
    #[error(transparent)]
    ApiKeys(#[from] ApiKeysError),
    /// A tenant is wrong.
    #[error(transparent)]
    Tenants(#[from] TenantsError),
    /// Callers are identified by the webhook, and the file has none.
    #[error("identity.kind is \"webhook\", so the section [webhook] is required")]
    NoWebhook,
    /// The webhook's requests and answers could be read or changed in transit. Holds scheme, host and port of the URL.
    #[error(
        "[webhook] url = {0:?}: the URL must begin with https:, or with http: if it leads to this machine"
    )]
    PlainWebhook(String),
    /// A number is out of its range.
    #[error("[{section}] {field} = {value}: it must be {from} to {to}")]
    Range {
        /// The section of the file.
        section: String,
        /// The key of the number.
        field: &'static str,
        /// The number.
        value: u64,
        /// The smallest number allowed.
        from: u64,
        /// The largest number allowed.
        to: u64,
    },
    /// HS256, whose key is a secret, has a URL as the source of keys.
    #[error("HS256 needs keys_file: a secret cannot be fetched from jwks_url")]
    SecretFromUrl,
}

impl PolicyFile {
    /// Returns the policies of a gateway without a policy file. Any address may publish, within limits that bound
    /// the operator's cost. The limits are guesses: one address may stand for an office of active users, one network
    /// for ten of them, and all callers together cost at most 200 dollars a day.
    #[must_use]
    pub fn of_public_gateway() -> Self {
        const DOLLAR: u64 = 1_000_000_000_000;
        let default = Policy {
            envelopes_per_request_max: Some(1000),
            envelopes_per_minute: Some(3000),
            envelopes_per_hour: Some(30_000),
            envelopes_per_day: Some(200_000),
            picodollars_per_hour: Some(DOLLAR / 4),
            picodollars_per_day: Some(2 * DOLLAR),
            gas_per_hour: Some(50_000_000),
            gas_per_day: Some(500_000_000),
            ..Policy::default()
        };
        let spending = |dollars_per_hour: u64| Policy {
            picodollars_per_hour: Some(dollars_per_hour * DOLLAR),
            picodollars_per_day: Some(10 * dollars_per_hour * DOLLAR),
            ..Policy::default()
        };
        let [network, total] = [2, 20].map(spending);
        // Repeats of what is published cost no money, and nodes work for them.
        let ten_times = |of_caller: Option<u64>| of_caller.map(|most| 10 * most);
        let network = Policy {
            envelopes_per_minute: ten_times(default.envelopes_per_minute),
            envelopes_per_hour: ten_times(default.envelopes_per_hour),
            envelopes_per_day: ten_times(default.envelopes_per_day),
            gas_per_hour: ten_times(default.gas_per_hour),
            gas_per_day: ten_times(default.gas_per_day),
            ..network
        };
        Self { default, network, total, ..Self::default() }
    }

    /// Parses and checks the text of a policy file.
    ///
    /// # Errors
    /// [`PolicyFileError`] for the first mistake.
    pub fn parse(text: &str) -> Result<Self, PolicyFileError> {
        let form = |error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            PolicyFileError::Form { line, what: without_value(error.message()) }
        };
        let mut file: Self = toml::from_str(text).map_err(form)?;
        for (caller, policy) in &file.callers {
            if !file.policies.contains_key(policy) {
                return Err(PolicyFileError::UnknownPolicy { caller: caller.clone() });
            }
        }
        if file.identity.kind == CallerIdentityKind::Address {
            file.name_addresses()?;
        }
        if !file.total.limits_rates_only() {
            return Err(PolicyFileError::Total);
        }
        file.check_network()?;
        file.check_numbers()?;
        file.check_api_keys()?;
        file.check_webhook()?;
        file.check_tenants()?;
        match &file.identity.jwt.clone() {
            None if file.identity.kind == CallerIdentityKind::Jwt => Err(PolicyFileError::NoJwt),
            Some(jwt) if jwt.keys_file.is_some() == jwt.jwks_url.is_some() => {
                Err(PolicyFileError::Keys)
            }
            Some(jwt) if jwt.algorithm == JwtAlgorithm::HS256 && jwt.jwks_url.is_some() => {
                Err(PolicyFileError::SecretFromUrl)
            }
            Some(jwt) => jwt.check().map(|()| file),
            None => Ok(file),
        }
    }

    /// Gives callers that the file names by address the names that the gateway gives them, and sets networks of several
    /// callers apart.
    fn name_addresses(&mut self) -> Result<(), PolicyFileError> {
        for (text, policy) in std::mem::take(&mut self.callers) {
            let name = match Cidr::parse(&text) {
                None if text == ClientAddress::Invalid.to_string() => text,
                None => return Err(PolicyFileError::CallerAddress(text)),
                Some(network) => match network.caller() {
                    Some(caller) => caller.to_string(),
                    None => {
                        let is_other =
                            |(it, other): &(Cidr, String)| it.is_same(&network) && *other != policy;
                        if self.networks.iter().any(is_other) {
                            return Err(PolicyFileError::TwoPolicies(text));
                        }
                        self.networks.push((network, policy));
                        continue;
                    }
                },
            };
            if let Some(other) = self.callers.insert(name.clone(), policy.clone())
                && other != policy
            {
                return Err(PolicyFileError::TwoPolicies(name));
            }
        }
        self.networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_bits()));
        Ok(())
    }

    /// Checks that the limits of networks are such that networks are counted by.
    fn check_network(&self) -> Result<(), PolicyFileError> {
        let network = &self.network;
        let is_counted = network.limits_rates_only() && !network.limits_kinds();
        let has_networks = self.identity.kind == CallerIdentityKind::Address;
        if *network == Policy::default() || (is_counted && has_networks) {
            Ok(())
        } else {
            Err(PolicyFileError::Network)
        }
    }

    /// Checks the numbers of all policies. Larger ones would have no effect, or a node would refuse every envelope.
    fn check_numbers(&self) -> Result<(), PolicyFileError> {
        for (section, policy) in self.sections() {
            if let Some(days) = policy.retention_days.filter(|it| check_retention(*it).is_err()) {
                return Err(PolicyFileError::Retention(days));
            }
            if let Some((field, value)) = policy.beyond_counting() {
                return Err(PolicyFileError::Range {
                    section,
                    field,
                    value,
                    from: 0,
                    to: LIMIT_MAX,
                });
            }
        }
        Ok(())
    }

    /// Returns all policies of the file, each with the name of its section.
    fn sections(&self) -> impl Iterator<Item = (String, &Policy)> {
        let own = [("default", &self.default), ("network", &self.network), ("total", &self.total)];
        let own = own.map(|(name, it)| (name.to_owned(), it));
        let named = self.policies.iter().map(|(name, it)| (format!("policies.{name}"), it));
        let of_tenants = self.tenants.iter().flat_map(|(name, it)| {
            let section = |part| format!("tenants.{name}.{part}");
            [(section("default"), &it.default), (section("total"), &it.total)]
        });
        own.into_iter().chain(named).chain(of_tenants)
    }

    fn check_api_keys(&self) -> Result<(), PolicyFileError> {
        let identity = &self.identity;
        ApiKeys::parse(&identity.api_keys)?;
        let is_missing =
            identity.kind == CallerIdentityKind::ApiKey && identity.api_keys.is_empty();
        if is_missing { Err(PolicyFileError::NoApiKeys) } else { Ok(()) }
    }

    fn check_tenants(&self) -> Result<(), TenantsError> {
        let identity = &self.identity;
        match identity.kind {
            _ if self.tenants.is_empty() => Ok(()),
            CallerIdentityKind::Jwt
                if identity.jwt.as_ref().is_none_or(|jwt| jwt.tenant_claim.is_none())
                    && !self.webhook.as_ref().is_some_and(|webhook| webhook.names_tenant) =>
            {
                Err(TenantsError::NoClaim)
            }
            CallerIdentityKind::Jwt | CallerIdentityKind::ApiKey | CallerIdentityKind::Webhook => {
                tenants::check(&self.tenants, &self.policies, &identity.api_keys)
            }
            CallerIdentityKind::Address | CallerIdentityKind::None => Err(TenantsError::Identity),
        }
    }

    /// Returns the policies of one tenant. They apply to its callers, which the gateway's own policies have
    /// identified before.
    #[must_use]
    pub fn of_tenant(&self, name: &str, tenant: &TenantSettings) -> Self {
        let webhook = self.webhook.clone();
        Self {
            default: tenant.default.clone(),
            policies: self.policies.clone(),
            callers: tenant.callers.clone(),
            total: tenant.total.clone(),
            webhook: webhook.map(|it| WebhookSettings { tenant: Some(name.to_owned()), ..it }),
            ..Self::default()
        }
    }

    fn check_webhook(&self) -> Result<(), PolicyFileError> {
        match &self.webhook {
            None if self.identity.kind == CallerIdentityKind::Webhook => {
                Err(PolicyFileError::NoWebhook)
            }
            Some(webhook) if !is_safe(&webhook.url) => {
                Err(PolicyFileError::PlainWebhook(display_url(&webhook.url)))
            }
            Some(webhook) => webhook.check_times(),
            None => Ok(()),
        }
    }

    /// Returns the names of all callers in the file: those with a policy or an API key of their own, and those that a
    /// tenant gives a policy.
    #[must_use]
    pub(crate) fn named_callers(&self) -> BTreeSet<String> {
        let of_tenants = self.tenants.values().flat_map(|tenant| tenant.callers.keys());
        let all = self.callers.keys().chain(self.identity.api_keys.keys()).chain(of_tenants);
        all.cloned().collect()
    }

    /// Returns the policy of a caller: its own, otherwise that of the smallest network with its address, otherwise the
    /// default.
    #[must_use]
    pub(crate) fn policy_of(&self, caller: &str) -> &Policy {
        let named = self.callers.get(caller).or_else(|| self.of_network(caller));
        named.and_then(|name| self.policies.get(name)).unwrap_or(&self.default)
    }

    /// Returns the limits that the callers of this caller's network have together; `None` if the file names the caller,
    /// or sets no such limits.
    #[must_use]
    pub(crate) fn network_limits_of(&self, caller: &str) -> Option<&Policy> {
        if self.network == Policy::default() {
            return None;
        }
        let is_named = self.callers.contains_key(caller) || self.of_network(caller).is_some();
        (!is_named).then_some(&self.network)
    }

    fn of_network(&self, caller: &str) -> Option<&String> {
        if self.networks.is_empty() {
            return None;
        }
        // IPv6 callers are networks of 64 bits, which lie in a larger network as a whole or not at all.
        let address = caller.split('/').next()?.parse::<IpAddr>().ok()?;
        let mut all = self.networks.iter();
        all.find(|(network, _)| network.contains(address)).map(|(_, policy)| policy)
    }
}

#[cfg(test)]
mod tests;
