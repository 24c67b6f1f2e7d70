//! Identifies callers by a JSON Web Token (RFC 7519) in the header `authorization: Bearer …`. Time is an argument.

use std::path::Path;

use hawser_serve::named_file::read_text;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, KeyOperations,
    PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

use super::config::{JwtAlgorithm, JwtSettings};

/// Largest accepted difference between the clocks of a token's issuer and of this machine, seconds. A guess, usual
/// for such services.
const LEEWAY_S: u64 = 60;
/// Largest token in bytes. A guess: servers limit whole headers to about this.
pub(super) const TOKEN_LEN_BYTES_MAX: usize = 16 * 1024;
/// Length of an uncompressed point (SEC 1 §2.3.3): one byte for the form, then both coordinates.
const P256_POINT_LEN_BYTES: usize = 65;
/// Least length of the secret of HS256 in bytes (RFC 7518 §3.2). A caller with a token can try out shorter ones.
const SECRET_LEN_BYTES_MIN: usize = 32;
/// Largest number of keys that one token is checked with. A guess: login services have a few, with ids. A host
/// that publishes the keys could otherwise have a token checked with thousands.
const KEYS_PER_TOKEN_MAX: usize = 16;
/// Largest name of a caller in bytes. A guess: identity providers have shorter subjects.
pub(super) const CALLER_LEN_BYTES_MAX: usize = 256;

/// The reason for which a token does not identify a caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("a token is needed: authorization: Bearer …")]
    Missing,
    #[error("the token is not valid: {0}")]
    Invalid(String),
    /// No signature was checked.
    #[error("the token is not valid: its key id is not among the known keys")]
    UnknownKey,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    TooEarly,
    #[error("the token has no claim {0:?}, which must name the caller")]
    NoCaller(String),
    /// The gateway has not fetched any key yet.
    #[error("the gateway has not yet fetched the keys that verify tokens: try again later")]
    NoKeys,
    /// No signature was checked. Holds the seconds after which one is.
    #[error(
        "the token was not checked, because this address has sent too many wrong ones: try again later"
    )]
    TooMany(u64),
}

/// A caller, as identified by its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenCaller {
    pub(crate) name: String,
    /// The tenant; `None` if the settings have no claim for it or the token does not have that claim.
    pub(crate) tenant: Option<String>,
}

/// The keys that verify tokens.
#[derive(Clone, Default)]
pub(crate) struct TokenKeys(Vec<TokenKey>);

/// A key, with its id if it has one. A set may have several keys of one id (RFC 7517 §4.5).
#[derive(Clone)]
struct TokenKey {
    id: Option<String>,
    key: DecodingKey,
}

/// The reason for which the keys of a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Path of the file.
        path: std::path::PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The source has no key for the algorithm.
    #[error("the file has no key for {algorithm}: {reason}")]
    NoKey {
        /// Name of the algorithm.
        algorithm: &'static str,
        /// The reason.
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

impl TokenKeys {
    /// Reads keys from a file: a key set (RFC 7517), a public key as PEM, or the secret of HS256.
    ///
    /// # Errors
    /// [`KeysError`] if the file cannot be read or has no key for the algorithm.
    pub(crate) fn read(path: &Path, kind: JwtAlgorithm) -> Result<Self, KeysError> {
        let read = read_text(path);
        let text = read.map_err(|source| KeysError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, kind)
    }

    /// Parses keys from the text of such a file.
    pub(crate) fn parse(text: &str, kind: JwtAlgorithm) -> Result<Self, KeysError> {
        let text = text.trim();
        let (_, name) = algorithm(kind);
        let no_key = |reason: String| KeysError::NoKey { algorithm: name, reason };
        if text.starts_with('{') {
            // The text of the error would repeat a value of the file, which may be a secret.
            let no_set = |error: serde_json::Error| {
                let (line, column) = (error.line(), error.column());
                no_key(format!("it is no key set (line {line}, column {column})"))
            };
            let set: JwkSet = serde_json::from_str(text).map_err(no_set)?;
            return Self::of_set(&set, kind).ok_or_else(|| no_key("the key set has none".into()));
        }
        let key = match kind {
            JwtAlgorithm::HS256 if text.len() < SECRET_LEN_BYTES_MIN => {
                let least = SECRET_LEN_BYTES_MIN;
                return Err(no_key(format!("a secret needs at least {least} bytes")));
            }
            JwtAlgorithm::HS256 if text.contains("-----BEGIN") => {
                return Err(no_key(
                    "it is a PEM file, and a public key cannot be used as a secret".into(),
                ));
            }
            JwtAlgorithm::HS256 => Ok(DecodingKey::from_secret(text.as_bytes())),
            JwtAlgorithm::ES256 => DecodingKey::from_ec_pem(text.as_bytes()),
            JwtAlgorithm::RS256 => DecodingKey::from_rsa_pem(text.as_bytes()),
        };
        let key = key.map_err(|error| no_key(error.to_string()))?;
        Ok(Self(vec![TokenKey { id: None, key }]))
    }

    fn of_set(set: &JwkSet, kind: JwtAlgorithm) -> Option<Self> {
        let key =
            |jwk: &Jwk| Some(TokenKey { id: jwk.common.key_id.clone(), key: key_of(jwk, kind)? });
        let keys = Self(set.keys.iter().filter_map(key).collect());
        (!keys.is_empty()).then_some(keys)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, id: &str) -> bool {
        self.0.iter().any(|key| key.id.as_deref() == Some(id))
    }

    /// Returns the keys that may have signed a token with this key id: those with the id or, if there are none, those
    /// without any. A token without an id may be any key's. At most [`KEYS_PER_TOKEN_MAX`].
    fn candidates(&self, id: Option<&str>) -> impl Iterator<Item = &DecodingKey> {
        let wanted = id.filter(|id| self.has(id));
        let fits = move |key: &&TokenKey| id.is_none() || key.id.as_deref() == wanted;
        self.0.iter().filter(fits).take(KEYS_PER_TOKEN_MAX).map(|key| &key.key)
    }

    /// Returns true if the request's token has a key id that is not known: the issuer may have added the key.
    pub(crate) fn lacks(&self, headers: &HeaderMap) -> bool {
        let header = bearer(headers).and_then(|token| decode_header(token).ok());
        header.and_then(|header| header.kid).is_some_and(|id| !self.has(&id))
    }

    /// Returns the caller of a request, after verifying the token's signature, times, issuer and audience.
    ///
    /// # Errors
    /// [`TokenError`] if the token is missing or not accepted, or if no keys are known.
    pub(crate) fn caller(
        &self,
        settings: &JwtSettings,
        headers: &HeaderMap,
        now_s: u64,
    ) -> Result<TokenCaller, TokenError> {
        if self.is_empty() {
            return Err(TokenError::NoKeys);
        }
        let token = bearer(headers).ok_or(TokenError::Missing)?;
        if token.len() > TOKEN_LEN_BYTES_MAX {
            return Err(TokenError::Invalid("it is too long".into()));
        }
        let claims = self.claims(settings, token)?;
        check_times(&claims, now_s)?;
        let no_caller = || TokenError::NoCaller(settings.claim.clone());
        let caller = match claims.get(&settings.claim) {
            Some(Value::String(name)) => name.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => return Err(no_caller()),
        };
        let fits = (1..=CALLER_LEN_BYTES_MAX).contains(&caller.len());
        let name = fits.then_some(caller).ok_or_else(no_caller)?;
        let tenant = settings.tenant_claim.as_ref().and_then(|claim| claims.get(claim));
        let tenant = tenant.and_then(Value::as_str).map(ToOwned::to_owned);
        Ok(TokenCaller { name, tenant })
    }

    fn claims(&self, settings: &JwtSettings, token: &str) -> Result<Value, TokenError> {
        let invalid = |error: jsonwebtoken::errors::Error| TokenError::Invalid(error.to_string());
        let header = decode_header(token).map_err(invalid)?;
        // RFC 7515 §4.1.11: a token must be refused unless each extension that it names is understood. None is, here.
        if header.crit.is_some() {
            let reason = "its header names extensions (crit), and the gateway knows none";
            return Err(TokenError::Invalid(reason.into()));
        }
        let mut validation = Validation::new(algorithm(settings.algorithm).0);
        // `check_times` checks the times against `now_s`.
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        match &settings.audience {
            Some(audience) => validation.set_audience(&[audience]),
            None => validation.validate_aud = false,
        }
        if let Some(issuer) = &settings.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        if settings.audience.is_some() {
            validation.required_spec_claims.insert("aud".into());
        }
        let mut last = TokenError::UnknownKey;
        // The token's own choice of a key is followed only among keys for the configured algorithm.
        for key in self.candidates(header.kid.as_deref()) {
            match decode::<Value>(token, key, &validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) => last = invalid(error),
            }
        }
        Err(last)
    }
}

/// Returns a key of a set if it verifies tokens of this algorithm; `None` for other kinds of keys, for encryption keys
/// (RFC 7517 §5), and for secrets that are too short.
fn key_of(jwk: &Jwk, kind: JwtAlgorithm) -> Option<DecodingKey> {
    if !is_for_signatures(&jwk.common) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    let bytes = key.try_get_as_bytes().unwrap_or_default();
    let fits = match (kind, &jwk.algorithm) {
        (JwtAlgorithm::HS256, AlgorithmParameters::OctetKey(_)) => {
            bytes.len() >= SECRET_LEN_BYTES_MIN
        }
        (JwtAlgorithm::RS256, AlgorithmParameters::RSA(_)) => true,
        (JwtAlgorithm::ES256, AlgorithmParameters::EllipticCurve(point)) => {
            point.curve == EllipticCurve::P256 && bytes.len() == P256_POINT_LEN_BYTES
        }
        _ => false,
    };
    fits.then_some(key)
}

/// Returns true unless a set has this key for another purpose than signatures (RFC 7517 §4.2 to §4.4). A service that
/// decrypts with a key can often be made to sign with it.
fn is_for_signatures(common: &CommonParameters) -> bool {
    use KeyAlgorithm::{RSA_OAEP, RSA_OAEP_256, RSA1_5, UNKNOWN_ALGORITHM};
    let CommonParameters { public_key_use, key_operations, key_algorithm, .. } = common;
    let signs = |it: &KeyOperations| matches!(it, KeyOperations::Sign | KeyOperations::Verify);
    // The library knows the names of all algorithms for signatures that are taken here, and not of all others.
    let encrypts =
        matches!(key_algorithm, Some(RSA1_5 | RSA_OAEP | RSA_OAEP_256 | UNKNOWN_ALGORITHM));
    let are_fit = key_operations.as_ref().is_none_or(|all| all.iter().any(signs));
    *public_key_use != Some(PublicKeyUse::Encryption) && !encrypts && are_fit
}

/// Checks `exp` and `nbf`. `exp` is required, because a token without it never expires.
fn check_times(claims: &Value, now_s: u64) -> Result<(), TokenError> {
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => {
            let seconds = value.as_u64().or_else(|| value.as_f64().map(whole_seconds));
            seconds
                .map(Some)
                .ok_or_else(|| TokenError::Invalid(format!("the claim {name} is not a time")))
        }
    };
    let expires = time("exp")?.ok_or_else(|| TokenError::Invalid("it has no claim exp".into()))?;
    if now_s > expires.saturating_add(LEEWAY_S) {
        return Err(TokenError::Expired);
    }
    match time("nbf")? {
        Some(from) if now_s.saturating_add(LEEWAY_S) < from => Err(TokenError::TooEarly),
        _ => Ok(()),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn whole_seconds(seconds: f64) -> u64 {
    seconds as u64
}

/// Returns the token in a request's headers; `None` if there is none.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
pub(super) mod keys;
#[cfg(test)]
mod tests;
