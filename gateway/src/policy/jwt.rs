//! Callers by token: a JSON Web Token (RFC 7519) in `authorization: Bearer …`. The time is an
//! argument.

use std::collections::BTreeMap;
use std::path::Path;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

use super::config::{JwtAlgorithm, JwtConfig};

/// Clocks of whoever signs tokens may differ by this much.
const LEEWAY_S: u64 = 60;
const TOKEN_LEN_BYTES_MAX: usize = 16 * 1024;
/// Both coordinates, and a byte that says so.
const P256_POINT_LEN_BYTES: usize = 65;
const CALLER_LEN_BYTES_MAX: usize = 256;

/// Why a caller is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenFault {
    #[error("a token is needed: authorization: Bearer …")]
    Missing,
    #[error("the token is not valid: {0}")]
    Invalid(String),
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    TooEarly,
    #[error("the token has no claim {0:?} that says who it is")]
    NoCaller(String),
    /// Nobody has told yet who may sign.
    #[error("the keys that tokens are signed with are not known yet")]
    NoKeys,
}

/// The keys that tokens are signed with.
#[derive(Clone, Default)]
pub(crate) struct Keys {
    by_id: BTreeMap<String, DecodingKey>,
    without_id: Vec<DecodingKey>,
}

/// Why keys cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum KeysFault {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What is there is no key of the algorithm.
    #[error("no key for {algorithm} is in it: {reason}")]
    NoKey {
        /// Which algorithm.
        algorithm: &'static str,
        /// Why.
        reason: String,
    },
}

fn algorithm(algorithm: JwtAlgorithm) -> (Algorithm, &'static str) {
    match algorithm {
        JwtAlgorithm::HS256 => (Algorithm::HS256, "HS256"),
        JwtAlgorithm::ES256 => (Algorithm::ES256, "ES256"),
        JwtAlgorithm::RS256 => (Algorithm::RS256, "RS256"),
    }
}

impl Keys {
    /// Reads a file: a key set (RFC 7517), a public key as PEM, or for HS256 the secret.
    ///
    /// # Errors
    /// When it has no key for the algorithm.
    pub(crate) fn read(path: &Path, kind: JwtAlgorithm) -> Result<Self, KeysFault> {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| KeysFault::Read { path: path.to_owned(), source })?;
        Self::parse(&text, kind)
    }

    /// The same for a text.
    pub(crate) fn parse(text: &str, kind: JwtAlgorithm) -> Result<Self, KeysFault> {
        let text = text.trim();
        let (_, name) = algorithm(kind);
        let no_key = |reason: String| KeysFault::NoKey { algorithm: name, reason };
        if text.starts_with('{') {
            let set: JwkSet = serde_json::from_str(text).map_err(|e| no_key(e.to_string()))?;
            return Self::of_set(&set, kind).ok_or_else(|| no_key("the set has none".into()));
        }
        let key = match kind {
            JwtAlgorithm::HS256 if text.is_empty() => return Err(no_key("it is empty".into())),
            JwtAlgorithm::HS256 => Ok(DecodingKey::from_secret(text.as_bytes())),
            JwtAlgorithm::ES256 => DecodingKey::from_ec_pem(text.as_bytes()),
            JwtAlgorithm::RS256 => DecodingKey::from_rsa_pem(text.as_bytes()),
        };
        let key = key.map_err(|error| no_key(error.to_string()))?;
        Ok(Self { by_id: BTreeMap::new(), without_id: vec![key] })
    }

    fn of_set(set: &JwkSet, kind: JwtAlgorithm) -> Option<Self> {
        let mut keys = Self::default();
        for jwk in &set.keys {
            let Some(key) = key_of(jwk, kind) else { continue };
            match &jwk.common.key_id {
                Some(id) => {
                    keys.by_id.insert(id.clone(), key);
                }
                None => keys.without_id.push(key),
            }
        }
        (!keys.is_empty()).then_some(keys)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.without_id.is_empty()
    }

    /// Whether a token names a key that is not known: there may be a new one.
    pub(crate) fn lacks(&self, headers: &HeaderMap) -> bool {
        let header = bearer(headers).and_then(|token| decode_header(token).ok());
        header.and_then(|header| header.kid).is_some_and(|id| !self.by_id.contains_key(&id))
    }

    /// Who has sent a request.
    ///
    /// # Errors
    /// When nobody says, or it cannot be believed.
    pub(crate) fn caller(
        &self,
        config: &JwtConfig,
        headers: &HeaderMap,
        now_s: u64,
    ) -> Result<String, TokenFault> {
        if self.is_empty() {
            return Err(TokenFault::NoKeys);
        }
        let token = bearer(headers).ok_or(TokenFault::Missing)?;
        if token.len() > TOKEN_LEN_BYTES_MAX {
            return Err(TokenFault::Invalid("it is too long".into()));
        }
        let claims = self.claims(config, token)?;
        check_times(&claims, now_s)?;
        let no_caller = || TokenFault::NoCaller(config.claim.clone());
        let caller = match claims.get(&config.claim) {
            Some(Value::String(name)) => name.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => return Err(no_caller()),
        };
        let fits = (1..=CALLER_LEN_BYTES_MAX).contains(&caller.len());
        fits.then_some(caller).ok_or_else(no_caller)
    }

    fn claims(&self, config: &JwtConfig, token: &str) -> Result<Value, TokenFault> {
        let invalid = |error: jsonwebtoken::errors::Error| TokenFault::Invalid(error.to_string());
        let header = decode_header(token).map_err(invalid)?;
        let mut validation = Validation::new(algorithm(config.algorithm).0);
        // Times are checked below, against the clock that is given.
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        match &config.audience {
            Some(audience) => validation.set_audience(&[audience]),
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = &config.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        if config.audience.is_some() {
            validation.required_spec_claims.insert("aud".into());
        }
        let named = header.kid.as_ref().and_then(|id| self.by_id.get(id));
        let candidates: Vec<_> = match named {
            Some(key) => vec![key],
            None if header.kid.is_some() && self.without_id.is_empty() => {
                return Err(TokenFault::Invalid("nobody knows its key".into()));
            }
            None if header.kid.is_some() => self.without_id.iter().collect(),
            None => self.without_id.iter().chain(self.by_id.values()).collect(),
        };
        let mut last = TokenFault::Invalid("nobody knows its key".into());
        for key in candidates {
            match decode::<Value>(token, key, &validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) => last = invalid(error),
            }
        }
        Err(last)
    }
}

/// A key of a set, if tokens of this kind can be signed with it. Those of other kinds, and those for
/// encryption, are passed over (RFC 7517 §4.2, §5).
fn key_of(jwk: &Jwk, kind: JwtAlgorithm) -> Option<DecodingKey> {
    if jwk.common.public_key_use == Some(PublicKeyUse::Encryption) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let fits = match (kind, &jwk.algorithm) {
        (JwtAlgorithm::HS256, AlgorithmParameters::OctetKey(_))
        | (JwtAlgorithm::RS256, AlgorithmParameters::RSA(_)) => true,
        (JwtAlgorithm::ES256, AlgorithmParameters::EllipticCurve(point)) => {
            let bytes = key.try_get_as_bytes().unwrap_or_default();
            point.curve == EllipticCurve::P256 && bytes.len() == P256_POINT_LEN_BYTES
        }
        _ => false,
    };
    fits.then_some(key)
}

/// A token without an end never ends; whoever signs it should say one.
fn check_times(claims: &Value, now_s: u64) -> Result<(), TokenFault> {
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => {
            let seconds = value.as_u64().or_else(|| value.as_f64().map(whole_seconds));
            seconds.map(Some).ok_or_else(|| TokenFault::Invalid(format!("{name} is no time")))
        }
    };
    let expires = time("exp")?.ok_or_else(|| TokenFault::Invalid("it has no exp".into()))?;
    if now_s > expires.saturating_add(LEEWAY_S) {
        return Err(TokenFault::Expired);
    }
    match time("nbf")? {
        Some(from) if now_s.saturating_add(LEEWAY_S) < from => Err(TokenFault::TooEarly),
        _ => Ok(()),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn whole_seconds(seconds: f64) -> u64 {
    seconds as u64
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
pub(super) mod keys;
#[cfg(test)]
mod tests;
