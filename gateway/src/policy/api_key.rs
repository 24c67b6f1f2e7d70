//! Identifies callers by API keys in the header `x-api-key: …` or `authorization: Bearer …`.
//!
//! The policy file has only hashes of keys, so a reader of the file cannot publish with them. Keys are long and
//! random, so a fast hash without salt suffices.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};

/// The header that has a key; `authorization` is the alternative.
const API_KEY: &str = "x-api-key";
/// Prefix of each hash in the policy file.
const PREFIX: &str = "sha256:";
/// Largest key in bytes. A guess: keys of usual services have less than 200.
const KEY_LEN_BYTES_MAX: usize = 1024;

/// The reason for which a request's API key does not identify a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiKeyError {
    #[error("an API key is needed: x-api-key: …, or authorization: Bearer …")]
    Missing,
    #[error("the API key is not known")]
    Unknown,
}

/// A mistake in the hashes of a policy file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeysError {
    /// A text is not a hash of the required form.
    #[error(
        "[identity.api_keys] {caller:?}: must be {PREFIX} and 64 hex digits, the hash of the key as `printf %s KEY \
         | sha256sum` prints it"
    )]
    NoHash {
        /// The caller.
        caller: String,
    },
    /// Two callers have the same key.
    #[error("[identity.api_keys]: {one:?} and {other:?} have the same key")]
    Shared {
        /// One of them.
        one: String,
        /// The other one.
        other: String,
    },
}

/// The callers, by the SHA-256 of their keys.
#[derive(Debug, Default)]
pub(crate) struct ApiKeys(HashMap<[u8; 32], Arc<str>>);

impl ApiKeys {
    /// Parses the hashes of each caller. A caller may have several keys, so that an operator can replace a key
    /// without an interruption.
    ///
    /// # Errors
    /// [`ApiKeysError`] for the first mistake.
    pub(crate) fn parse(callers: &BTreeMap<String, Vec<String>>) -> Result<Self, ApiKeysError> {
        let mut keys: HashMap<[u8; 32], Arc<str>> = HashMap::new();
        for (caller, hashes) in callers {
            for text in hashes {
                let hash =
                    hash_of(text).ok_or_else(|| ApiKeysError::NoHash { caller: caller.clone() })?;
                let other = keys.insert(hash, caller.as_str().into());
                if let Some(other) = other.filter(|other| **other != **caller) {
                    let (one, other) = (other.to_string(), caller.clone());
                    return Err(ApiKeysError::Shared { one, other });
                }
            }
        }
        Ok(Self(keys))
    }

    /// Returns the caller to whom the key in a request's headers belongs.
    ///
    /// # Errors
    /// [`ApiKeyError`] if the request has no key or an unknown one.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Arc<str>, ApiKeyError> {
        let key = credential(headers).ok_or(ApiKeyError::Missing)?;
        if key.len() > KEY_LEN_BYTES_MAX {
            return Err(ApiKeyError::Unknown);
        }
        let hash: [u8; 32] = Sha256::digest(key).into();
        self.0.get(&hash).cloned().ok_or(ApiKeyError::Unknown)
    }
}

/// Returns the secret in a request's headers; `None` if there is none.
pub(super) fn credential(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = || {
        let value = headers.get(AUTHORIZATION)?.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    };
    let key = headers.get(API_KEY).map(http::HeaderValue::as_bytes).or_else(bearer);
    key.map(<[u8]>::trim_ascii).filter(|key| !key.is_empty())
}

fn hash_of(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text.strip_prefix(PREFIX)?, &mut hash).ok()?;
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(key: &str) -> String {
        format!("{PREFIX}{}", hex::encode(Sha256::digest(key)))
    }

    fn keys(callers: &[(&str, &[&str])]) -> Result<ApiKeys, ApiKeysError> {
        let hashes = |keys: &[&str]| keys.iter().map(|key| hashed(key)).collect();
        let callers = callers.iter().map(|(caller, keys)| ((*caller).to_owned(), hashes(keys)));
        ApiKeys::parse(&callers.collect())
    }

    #[test]
    fn a_key_identifies_its_caller_in_either_header() {
        let keys = keys(&[("alice", &["old", "new"]), ("bob", &["his"])]).unwrap();
        let caller = |name: &'static str, value: &str| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static(name),
                http::HeaderValue::from_str(value).unwrap(),
            )]);
            keys.caller(&headers).map(|caller| caller.to_string())
        };
        assert_eq!(caller("x-api-key", "old"), Ok("alice".into()));
        assert_eq!(caller("x-api-key", "new"), Ok("alice".into()));
        assert_eq!(caller("authorization", "Bearer his"), Ok("bob".into()));
        assert_eq!(caller("authorization", "bearer his "), Ok("bob".into()));
        for (name, value) in
            [("authorization", "Basic his"), ("authorization", "Bearer "), ("x-other", "his")]
        {
            assert_eq!(caller(name, value), Err(ApiKeyError::Missing), "{name}: {value}");
        }
        let long = "x".repeat(2000);
        for value in ["hers", "alice", &hashed("his"), &long] {
            assert_eq!(caller("x-api-key", value), Err(ApiKeyError::Unknown), "{value}");
        }
    }

    #[test]
    fn mistakes_in_the_file_are_told_with_the_caller() {
        let shared = keys(&[("alice", &["one"]), ("bob", &["one"])]).unwrap_err();
        assert!(matches!(shared, ApiKeysError::Shared { .. }), "{shared}");
        assert!(keys(&[("alice", &["one", "one"])]).is_ok());
        for text in ["", "secret", "sha256:00", &hashed("a")[7..]] {
            let callers = [("alice".to_owned(), vec![text.to_owned()])].into();
            let error = ApiKeys::parse(&callers).unwrap_err();
            assert!(error.to_string().contains("alice"), "{text}: {error}");
        }
    }
}
