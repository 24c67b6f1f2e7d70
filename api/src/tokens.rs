//! Node tokens: a node proves to another one, in a header of a call, that it is in the network.
//!
//! A token is a compact JWS (RFC 7515) signed with the node's key: ES256K over keccak-256 of `jwt|` and
//! the signing input. Specified in `docs/protocol/api.md`. Plain values; time and registry are arguments. Not read by a
//! JWT library, because those know no Keccak digests.

use std::collections::{BTreeMap, HashMap, VecDeque};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hawser_engine::ports::Registry;
use hawser_proto::sign::node_token_digest;
use hawser_proto::{Digest, NODE_TOKEN_HEADER, OriginatorId, PublicKey};
use http::HeaderName;
use serde::Deserialize;

/// The header that carries a token.
pub(crate) const TOKEN_HEADER: HeaderName = HeaderName::from_static(NODE_TOKEN_HEADER);
/// The longest token. A guess: those of the network have about 300 bytes.
const TOKEN_LEN_BYTES_MAX: usize = 4096;
/// The longest life of a token. Specified.
const LIFETIME_S_MAX: f64 = 2.0 * 3600.0;
/// Seconds by which the clock of a token's maker may be ahead. Specified.
const SKEW_S_MAX: f64 = 120.0;
/// Oldest release of a calling node; newer ones must have the same major version. Specified: a reference node of
/// this major version accepts the same.
const VERSION_MIN: [u64; 3] = [1, 1, 0];
/// Verified tokens of one node that are remembered. Specified in `docs/protocol/api.md`; a guess: a node has one at a
/// time, and others from before its restarts.
const TOKENS_OF_NODE_MAX: usize = 16;

/// The release that a node claims to run: major, minor, patch; `None` without a claim.
pub(crate) type ClaimedRelease = Option<[u64; 3]>;

/// The reason for which a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NodeTokenError {
    #[error("the token is not a JWS in compact form")]
    Form,
    #[error("the token's algorithm is not ES256K")]
    Algorithm,
    #[error("the token does not have the claims of a node token")]
    Claims,
    #[error("the token's node is not a canonical node of the registry")]
    UnknownNode,
    #[error("the token is not signed with the key of its node")]
    Signature,
    #[error("the token is meant for another node")]
    Audience,
    #[error("the token has expired, is not valid yet, or is valid for more than two hours")]
    Time,
    #[error("the version of the token's node is not compatible with this node")]
    Version,
}

/// A parsed token with the node that it claims to be from. Not verified.
#[derive(Debug)]
pub(crate) struct NodeToken<'a> {
    node: OriginatorId,
    signed: &'a str,
    signature: [u8; 65],
    claims: Claims,
}

/// A verified token. Valid while the registry has this key for the node, and the node is canonical.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VerifiedToken {
    /// The node that calls.
    pub(crate) node: OriginatorId,
    /// The release that it claims to run.
    pub(crate) version: ClaimedRelease,
    key: PublicKey,
    /// Unix seconds.
    expires_s: u64,
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
}

#[derive(Debug, Deserialize)]
struct Claims {
    version: Option<String>,
    sub: String,
    aud: Audience,
    exp: f64,
    iat: f64,
    nbf: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl<'a> NodeToken<'a> {
    /// Reads a token. Costs no more than its length.
    ///
    /// # Errors
    /// [`NodeTokenError::Form`], [`NodeTokenError::Algorithm`] or [`NodeTokenError::Claims`].
    pub(crate) fn read(text: &'a str) -> Result<Self, NodeTokenError> {
        if text.len() > TOKEN_LEN_BYTES_MAX {
            return Err(NodeTokenError::Form);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(NodeTokenError::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(NodeTokenError::Form)?;
        let decode =
            |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| NodeTokenError::Form);
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|_| NodeTokenError::Form)?;
        if header.alg != "ES256K" {
            return Err(NodeTokenError::Algorithm);
        }
        let claims: Claims =
            serde_json::from_slice(&decode(claims)?).map_err(|_| NodeTokenError::Claims)?;
        let signature = decode(signature)?.try_into().map_err(|_| NodeTokenError::Form)?;
        let node = node_id(&claims.sub).ok_or(NodeTokenError::Claims)?;
        Ok(Self { node, signed, signature, claims })
    }

    /// Checks everything except the signature, for the node `own` at `now_s`, unix seconds; this is cheap. Returns
    /// the key that must have signed the token.
    ///
    /// # Errors
    /// [`NodeTokenError`] for the first rule that the token breaks.
    pub(crate) fn claimed_key(
        &self,
        own: OriginatorId,
        registry: &Registry,
        now_s: u64,
    ) -> Result<PublicKey, NodeTokenError> {
        let record = registry.member(self.node).ok_or(NodeTokenError::UnknownNode)?;
        let (claims, now) = (&self.claims, now_s as f64);
        let lifetime = claims.exp - claims.iat;
        // Comparisons with NaN are false, so a claim that is NaN fails.
        let in_time = now < claims.exp
            && claims.iat <= now + SKEW_S_MAX
            && (0.0..=LIFETIME_S_MAX).contains(&lifetime)
            && claims.nbf.is_none_or(|from| from <= now);
        if !in_time {
            return Err(NodeTokenError::Time);
        }
        let is_own = |text: &String| node_id(text) == Some(own);
        let meant = match &claims.aud {
            Audience::One(one) => is_own(one),
            Audience::Several(several) => several.iter().any(is_own),
        };
        if !meant {
            return Err(NodeTokenError::Audience);
        }
        if claims.version.as_deref().is_some_and(|version| !is_compatible(version)) {
            return Err(NodeTokenError::Version);
        }
        Ok(record.public_key)
    }

    /// Checks the signature of a token by its [claimed key](Self::claimed_key).
    ///
    /// # Errors
    /// [`NodeTokenError::Signature`].
    pub(crate) fn verify(&self, key: PublicKey) -> Result<VerifiedToken, NodeTokenError> {
        let digest = node_token_digest(self.signed);
        // The recovery byte does not count: verification needs only r and s.
        if !key.verifies(digest, &self.signature[..64]) {
            return Err(NodeTokenError::Signature);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let expires_s = self.claims.exp as u64;
        let version = self.claims.version.as_deref().and_then(release_of);
        Ok(VerifiedToken { node: self.node, version, key, expires_s })
    }
}

impl VerifiedToken {
    /// Returns true if the token is still valid.
    pub(crate) fn holds(&self, registry: &Registry, now_s: u64) -> bool {
        let is_key = registry.member(self.node).is_some_and(|record| record.public_key == self.key);
        is_key && now_s < self.expires_s
    }
}

/// The verified tokens, by the digests of their texts. Only nodes of the registry have tokens here. A node can sign any
/// number of them, so each node has a bounded number here. A further token displaces the node's own oldest one.
#[derive(Debug, Default)]
pub(crate) struct VerifiedTokens {
    tokens: HashMap<Digest, VerifiedToken>,
    /// The tokens of each node, in the order in which they were verified.
    of_node: BTreeMap<OriginatorId, VecDeque<Digest>>,
}

impl VerifiedTokens {
    /// Returns the token whose text has this digest.
    pub(crate) fn get(&self, digest: &Digest) -> Option<VerifiedToken> {
        self.tokens.get(digest).copied()
    }

    /// Adds a token, or replaces what is known of it.
    pub(crate) fn put(&mut self, digest: Digest, token: VerifiedToken) {
        if self.tokens.insert(digest, token).is_some() {
            return;
        }
        let of_node = self.of_node.entry(token.node).or_default();
        of_node.push_back(digest);
        if of_node.len() > TOKENS_OF_NODE_MAX
            && let Some(oldest) = of_node.pop_front()
        {
            self.tokens.remove(&oldest);
        }
    }
}

/// Parses a node id of a claim: a signed 32-bit decimal.
fn node_id(text: &str) -> Option<OriginatorId> {
    let id: i32 = text.parse().ok()?;
    u32::try_from(id).ok().map(OriginatorId)
}

/// Returns true if this node accepts the version. A pre-release counts as its release.
fn is_compatible(version: &str) -> bool {
    release_of(version).is_some_and(|it| it[0] == VERSION_MIN[0] && it >= VERSION_MIN)
}

/// Parses the numbers of a version: major, minor, patch.
fn release_of(version: &str) -> Option<[u64; 3]> {
    let release = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Option<Vec<u64>> = release.split('.').map(|part| part.parse().ok()).collect();
    numbers?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use hawser_engine::ports::NodeRecord;
    use hawser_proto::sign::keccak256;
    use hawser_proto::{Address, SecretKey};

    use super::*;

    const OWN: OriginatorId = OriginatorId(200);
    const MADE_S: u64 = 1_700_000_000;
    /// Made by the network's reference node: node 100 for node 200, version 1.3.0.
    const REFERENCE: &str = "eyJhbGciOiJFUzI1NksiLCJ0eXAiOiJKV1QifQ.eyJ2ZXJzaW9uIjoiMS4zLjAiLCJzdWIiOiIxMDAiLCJhdWQiOlsiMjAwIl0sImV4cCI6MTcwMDAwMzYwMCwiaWF0IjoxNzAwMDAwMDAwfQ.46hhuV0KqEWGSRojJB9WuTnga_xb7w2l_0DWozmVH942X0ngCwVxaT5xOe27QfBi9OgwCbH6LVacTj9aIWyM9AA";
    /// The key of that node, which the reference's tests publish.
    const REFERENCE_KEY: &str =
        "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

    fn registry(key: &SecretKey) -> Registry {
        [record(key)].into_iter().collect()
    }

    fn record(key: &SecretKey) -> NodeRecord {
        NodeRecord {
            id: OriginatorId(100),
            public_key: key.public_key(),
            owner: Address([1; 20]),
            http_address: Some("http://a".into()),
            quic_address: None,
            canonical: true,
        }
    }

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[7; 32]).unwrap()
    }

    fn made(header: &str, claims: &str) -> String {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = key().sign(node_token_digest(&signed));
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.as_bytes()))
    }

    const HEADER: &str = r#"{"alg":"ES256K","typ":"JWT"}"#;

    fn of_claims(claims: &str) -> Result<VerifiedToken, NodeTokenError> {
        verify(&NodeToken::read(&made(HEADER, claims))?, OWN, &registry(&key()), MADE_S)
    }

    fn verify(
        token: &NodeToken<'_>,
        own: OriginatorId,
        registry: &Registry,
        now_s: u64,
    ) -> Result<VerifiedToken, NodeTokenError> {
        token.verify(token.claimed_key(own, registry, now_s)?)
    }

    #[test]
    fn a_token_of_the_reference_node_is_accepted_in_its_time() {
        let registry = registry(&SecretKey::from_hex(REFERENCE_KEY).unwrap());
        let token = NodeToken::read(REFERENCE).unwrap();
        let verified = verify(&token, OWN, &registry, MADE_S).unwrap();
        assert_eq!((verified.node, verified.expires_s), (OriginatorId(100), MADE_S + 3600));
        assert!(verify(&token, OWN, &registry, MADE_S - 120).is_ok());
        assert!(verify(&token, OWN, &registry, MADE_S + 3599).is_ok());
        for time_s in [MADE_S - 121, MADE_S + 3600] {
            assert_eq!(verify(&token, OWN, &registry, time_s), Err(NodeTokenError::Time));
        }
        let other = OriginatorId(300);
        assert_eq!(verify(&token, other, &registry, MADE_S), Err(NodeTokenError::Audience));
        assert_eq!(
            verify(&token, OWN, &Registry::default(), MADE_S),
            Err(NodeTokenError::UnknownNode)
        );
        let stranger = self::registry(&key());
        assert_eq!(verify(&token, OWN, &stranger, MADE_S), Err(NodeTokenError::Signature));
        assert!(verified.holds(&registry, MADE_S + 3599));
        assert!(!verified.holds(&registry, MADE_S + 3600), "it has expired");
        assert!(!verified.holds(&stranger, MADE_S), "the node has another key now");
    }

    /// With an accepted token, the calls of a node that has left would have none of the limits on callers.
    #[test]
    fn a_node_that_has_left_the_network_is_no_node_to_tokens() {
        let key = SecretKey::from_hex(REFERENCE_KEY).unwrap();
        let left = NodeRecord { canonical: false, ..record(&key) };
        let left: Registry = [left].into_iter().collect();
        let token = NodeToken::read(REFERENCE).unwrap();
        assert_eq!(verify(&token, OWN, &left, MADE_S), Err(NodeTokenError::UnknownNode));
        let verified = verify(&token, OWN, &registry(&key), MADE_S).unwrap();
        assert!(!verified.holds(&left, MADE_S), "not even one that was accepted before");
    }

    #[test]
    fn every_claim_is_checked() {
        let with =
            |claims: &str| of_claims(&format!(r#"{{"sub":"100","iat":1700000000{claims}}}"#));
        let own = r#","aud":"200","exp":1700003600"#;
        assert!(with(own).is_ok(), "an audience may be one text, and the version absent");
        assert!(with(&format!(r#"{own},"version":"1.1.0-rc.1""#)).is_ok());
        assert!(with(&format!(r#"{own},"nbf":1700000000"#)).is_ok());
        for (claims, error) in [
            (r#","aud":[],"exp":1700003600"#, NodeTokenError::Audience),
            (r#","aud":["100","0x200"],"exp":1700003600"#, NodeTokenError::Audience),
            (r#","aud":"200","exp":1700007201"#, NodeTokenError::Time),
            (r#","aud":"200","exp":1699999999"#, NodeTokenError::Time),
            (r#","aud":"200","exp":1e300"#, NodeTokenError::Time),
            (r#","aud":"200","exp":1700003600,"nbf":1700000001"#, NodeTokenError::Time),
            (r#","aud":"200","exp":1700003600,"version":"1.0.9""#, NodeTokenError::Version),
            (r#","aud":"200","exp":1700003600,"version":"2.0.0""#, NodeTokenError::Version),
            (r#","aud":"200","exp":1700003600,"version":"one""#, NodeTokenError::Version),
            (r#","aud":"200""#, NodeTokenError::Claims),
            (r#","exp":1700003600"#, NodeTokenError::Claims),
        ] {
            assert_eq!(with(claims), Err(error), "{claims}");
        }
        for claims in [
            r#"{"sub":"100","aud":"200","exp":1700003600}"#,
            r#"{"sub":"-1","aud":"200","exp":1700003600,"iat":1700000000}"#,
            r#"{"sub":100,"aud":"200","exp":1700003600,"iat":1700000000}"#,
            "[]",
        ] {
            assert_eq!(of_claims(claims), Err(NodeTokenError::Claims), "{claims}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let claims = r#"{"sub":"100","aud":"200","exp":1700003600,"iat":1700000000}"#;
        let none = made(r#"{"alg":"none"}"#, claims);
        assert_eq!(NodeToken::read(&none).unwrap_err(), NodeTokenError::Algorithm);
        let token = made(HEADER, claims);
        let cut = &token[..token.len() - 4];
        let long = format!("{token}{}", "A".repeat(5000));
        for text in ["", ".", "..", "a.b.c", cut, &format!("{token}="), &long] {
            assert_eq!(NodeToken::read(text).unwrap_err(), NodeTokenError::Form, "{text}");
        }
        let bent = token.replacen("eyJzdWIi", "eyJzdWIj", 1);
        assert!(NodeToken::read(&bent).is_err());
    }

    /// A hostile node signs tokens without end, each valid for longer than those of other nodes. Without a bound of its
    /// own it would displace these, and each call of the other nodes would cost one of the checks that their addresses
    /// have.
    #[test]
    fn a_node_that_signs_many_tokens_displaces_those_of_no_other_node() {
        let mut known = VerifiedTokens::default();
        let of = |node: u32, number: u64| {
            let (key, expires_s) = (key().public_key(), MADE_S + number);
            let token = VerifiedToken { node: OriginatorId(node), version: None, key, expires_s };
            (keccak256(&[&node.to_be_bytes(), &number.to_be_bytes()]), token)
        };
        let honest = of(200, 1);
        // Two calls may have it verified at one time.
        known.put(honest.0, honest.1);
        known.put(honest.0, honest.1);
        for number in 2..5_000 {
            let (digest, token) = of(100, number);
            known.put(digest, token);
            assert_eq!(known.get(&digest), Some(token), "the newest counts");
            assert!(known.tokens.len() <= TOKENS_OF_NODE_MAX + 1);
        }
        assert_eq!(known.get(&honest.0), Some(honest.1));
        assert_eq!(known.get(&of(100, 2).0), None);
    }
}
