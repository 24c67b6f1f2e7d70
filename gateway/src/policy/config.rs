//! The file with policies: who calls, and what each caller may do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use hawser_rules::PayloadClass;

/// A file of policies. Without one everybody may do everything.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyFile {
    /// Who a caller is.
    pub identity: IdentityConfig,
    /// For callers of whom nothing else is said.
    pub default: Policy,
    /// Policies by name.
    pub policies: BTreeMap<String, Policy>,
    /// Which policy belongs to which caller.
    pub callers: BTreeMap<String, String>,
}

/// Who a caller is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityConfig {
    /// How callers are told apart.
    pub kind: IdentityKind,
    /// Networks whose `X-Forwarded-For` is believed. Without any, whoever says one is believed, as
    /// the network's usual gateways do.
    pub trusted_proxies: Vec<Cidr>,
    /// For tokens.
    pub jwt: Option<JwtConfig>,
}

/// How callers are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityKind {
    /// By the address that they call from.
    #[default]
    Address,
    /// By a token that somebody has signed.
    Jwt,
    /// Not at all: everybody is the same caller.
    None,
}

/// Which tokens are believed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// One of HS256, ES256, RS256.
    pub algorithm: JwtAlgorithm,
    /// A key set, a public key as PEM, or for HS256 the secret itself.
    pub keys_file: Option<PathBuf>,
    /// Where a key set is fetched, again and again.
    pub jwks_url: Option<String>,
    /// What `iss` has to be.
    pub issuer: Option<String>,
    /// What has to be among `aud`.
    pub audience: Option<String>,
    /// Which claim says who it is.
    #[serde(default = "subject")]
    pub claim: String,
}

fn subject() -> String {
    "sub".into()
}

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum JwtAlgorithm {
    /// A shared secret.
    HS256,
    /// P-256.
    ES256,
    /// RSA.
    RS256,
}

/// What a caller may do. What is not said is not limited.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Nothing at all.
    pub deny: bool,
    /// Which kinds of envelopes; all if none are named.
    #[serde(deserialize_with = "kinds")]
    pub kinds: BTreeSet<PayloadClass>,
    /// Bytes of one envelope.
    pub envelope_bytes_max: Option<usize>,
    /// Envelopes in any minute; the bucket fills up evenly.
    pub envelopes_per_minute: Option<u64>,
    /// Envelopes in any hour.
    pub envelopes_per_hour: Option<u64>,
    /// Envelopes in a day of UTC.
    pub envelopes_per_day: Option<u64>,
    /// Fees of nodes in a day of UTC.
    pub picodollars_per_day: Option<u64>,
    /// The most that one envelope may cost at a node.
    pub picodollars_per_envelope_max: Option<u64>,
}

fn kinds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<PayloadClass>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let kind = |name: String| {
        PayloadClass::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let known = PayloadClass::ALL.map(PayloadClass::name).join(", ");
            serde::de::Error::custom(format!("{name:?} is no kind of envelopes: {known}"))
        })
    };
    names.into_iter().map(kind).collect()
}

impl Policy {
    /// Whether an envelope of this kind may be published.
    #[must_use]
    pub fn allows(&self, kind: PayloadClass) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }
}

/// A network: an address and how many of its bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("{text:?} is no network such as 10.0.0.0/8"))
        })
    }
}

impl Cidr {
    /// An address alone is a network of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address.parse().ok()?, Some(bits.parse::<u8>().ok()?)),
            None => (text.parse().ok()?, None),
        };
        let most = if matches!(address, IpAddr::V4(_)) { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { address, bits })
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let prefix = |address: u128, width: u8| {
            address.checked_shr(u32::from(width.saturating_sub(self.bits))).unwrap_or(0)
        };
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                prefix(u32::from(own).into(), 32) == prefix(u32::from(other).into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                prefix(own.into(), 128) == prefix(other.into(), 128)
            }
            _ => false,
        }
    }
}

/// Why a file of policies cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFault {
    /// It is no TOML of this form.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A caller is given a policy that is not there.
    #[error("caller {caller:?} has the policy {policy:?}, which is not among [policies.…]")]
    UnknownPolicy {
        /// The caller.
        caller: String,
        /// The policy.
        policy: String,
    },
    /// Tokens need a section of their own.
    #[error("identity.kind is \"jwt\", so [identity.jwt] has to say which tokens are believed")]
    NoJwt,
    /// Keys come from one place.
    #[error("[identity.jwt] needs either keys_file or jwks_url")]
    Keys,
    /// A secret is not published.
    #[error("HS256 needs keys_file: a secret does not come from a URL")]
    SecretFromUrl,
}

impl PolicyFile {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PolicyFault> {
        let file: Self = toml::from_str(text)?;
        for (caller, policy) in &file.callers {
            if !file.policies.contains_key(policy) {
                let (caller, policy) = (caller.clone(), policy.clone());
                return Err(PolicyFault::UnknownPolicy { caller, policy });
            }
        }
        match &file.identity.jwt {
            None if file.identity.kind == IdentityKind::Jwt => Err(PolicyFault::NoJwt),
            Some(jwt) if jwt.keys_file.is_some() == jwt.jwks_url.is_some() => {
                Err(PolicyFault::Keys)
            }
            Some(jwt) if jwt.algorithm == JwtAlgorithm::HS256 && jwt.jwks_url.is_some() => {
                Err(PolicyFault::SecretFromUrl)
            }
            _ => Ok(file),
        }
    }

    /// What a caller may do.
    #[must_use]
    pub fn policy_of(&self, caller: &str) -> &Policy {
        let named = self.callers.get(caller).and_then(|name| self.policies.get(name));
        named.unwrap_or(&self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_is_read() {
        let file = PolicyFile::parse(
            r#"
            [identity]
            kind = "jwt"
            trusted_proxies = ["10.0.0.0/8", "::1"]
            [identity.jwt]
            algorithm = "ES256"
            jwks_url = "https://login.example/keys"
            issuer = "https://login.example"
            [default]
            envelopes_per_minute = 50
            kinds = ["message", "welcome"]
            [policies.plenty]
            envelopes_per_day = 100000
            [callers]
            alice = "plenty"
            "#,
        )
        .unwrap();
        assert_eq!(file.identity.kind, IdentityKind::Jwt);
        assert_eq!(file.identity.jwt.as_ref().unwrap().claim, "sub");
        assert_eq!(file.policy_of("alice").envelopes_per_day, Some(100_000));
        assert!(file.policy_of("alice").allows(PayloadClass::Commit));
        assert!(!file.policy_of("bob").allows(PayloadClass::Commit));
    }

    #[test]
    fn faults_are_told() {
        let fault = |text: &str| PolicyFile::parse(text).unwrap_err().to_string();
        assert!(fault("[callers]\na = \"b\"").contains("\"b\""));
        assert!(fault("[identity]\nkind = \"jwt\"").contains("[identity.jwt]"));
        let jwt = "[identity.jwt]\nalgorithm = \"HS256\"\n";
        assert!(fault(jwt).contains("keys_file"));
        assert!(fault(&format!("{jwt}jwks_url = \"https://a\"")).contains("secret"));
        assert!(fault("[default]\nenvelopes_per_minutes = 1").contains("envelopes_per_minutes"));
        assert!(fault("[default]\nkinds = [\"massage\"]").contains("massage"));
        assert!(fault("[identity]\ntrusted_proxies = [\"10.0.0.0/33\"]").contains("network"));
    }

    #[test]
    fn networks_hold_their_addresses() {
        let holds = |cidr: &str, address: &str| {
            Cidr::parse(cidr).unwrap().contains(address.parse().unwrap())
        };
        assert!(holds("10.0.0.0/8", "10.255.3.4"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("0.0.0.0/0", "1.2.3.4"));
        assert!(holds("2001:db8::/32", "2001:db8:1::1"));
        assert!(!holds("2001:db8::/32", "2001:db9::1"));
        assert!(holds("127.0.0.1", "127.0.0.1"));
        assert!(!holds("0.0.0.0/0", "::1"));
        assert_eq!(Cidr::parse("10.0.0.0/"), None);
    }
}
