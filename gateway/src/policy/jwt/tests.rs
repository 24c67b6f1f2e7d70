//! Tests of tokens that are accepted and of tokens that are refused.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::keys::{EC_PRIVATE, EC_PUBLIC, RSA_PRIVATE, RSA_PUBLIC, SET};
use super::*;

const SECRET: &str = "a secret of at least thirty-two bytes";
const NOW_S: u64 = 1_750_000_000;

fn config(algorithm: JwtAlgorithm) -> JwtSettings {
    JwtSettings {
        algorithm,
        keys_file: Some("unused".into()),
        jwks_url: None,
        issuer: Some("https://login.example".into()),
        audience: Some("gateway".into()),
        any_issuer: false,
        any_audience: false,
        claim: "sub".into(),
        tenant_claim: Some("org".into()),
    }
}

fn claims() -> Value {
    json!({
        "sub": "alice",
        "iss": "https://login.example",
        "aud": ["other", "gateway"],
        "exp": NOW_S + 100,
    })
}

fn headers(token: &str) -> HeaderMap {
    [(AUTHORIZATION, format!("Bearer {token}").parse().unwrap())].into_iter().collect()
}

fn signed(claims: &Value, secret: &str) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn caller_of(claims: &Value) -> Result<String, TokenError> {
    let keys = TokenKeys::parse(SECRET, JwtAlgorithm::HS256).unwrap();
    let caller =
        keys.caller(&config(JwtAlgorithm::HS256), &headers(&signed(claims, SECRET)), NOW_S);
    caller.map(|caller| caller.name)
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

#[test]
fn a_claim_says_whose_caller_it_is() {
    let keys = TokenKeys::parse(SECRET, JwtAlgorithm::HS256).unwrap();
    let tenant_of = |claims: &Value| {
        let token = headers(&signed(claims, SECRET));
        keys.caller(&config(JwtAlgorithm::HS256), &token, NOW_S).unwrap().tenant
    };
    assert_eq!(tenant_of(&with("org", json!("acme"))), Some("acme".into()));
    assert_eq!(tenant_of(&claims()), None);
    assert_eq!(tenant_of(&with("org", json!(["acme", "other"]))), None, "a list names no tenant");
}

#[test]
fn the_claim_says_who_it_is() {
    assert_eq!(caller_of(&claims()), Ok("alice".into()));
    assert_eq!(caller_of(&with("sub", json!(7))), Ok("7".into()));
    assert_eq!(caller_of(&with("sub", json!(""))), Err(TokenError::NoCaller("sub".into())));
    assert_eq!(
        caller_of(&with("sub", json!("a".repeat(300)))),
        Err(TokenError::NoCaller("sub".into()))
    );
}

#[test]
fn times_are_held_against_the_clock_that_is_given() {
    assert_eq!(caller_of(&with("exp", json!(NOW_S - 61))), Err(TokenError::Expired));
    assert!(caller_of(&with("exp", json!(NOW_S - 59))).is_ok());
    assert_eq!(caller_of(&with("nbf", json!(NOW_S + 61))), Err(TokenError::TooEarly));
    assert!(caller_of(&with("exp", Value::Null)).is_err(), "a token has to end");
    assert!(caller_of(&with("exp", json!("soon"))).is_err());
}

#[test]
fn issuer_audience_and_signature_have_to_be_right() {
    assert!(caller_of(&with("iss", json!("https://other.example"))).is_err());
    assert!(caller_of(&with("aud", json!("other"))).is_err());
    assert!(caller_of(&with("iss", Value::Null)).is_err());
    let keys = TokenKeys::parse(SECRET, JwtAlgorithm::HS256).unwrap();
    let forged = headers(&signed(&claims(), "another secret"));
    let fault = keys.caller(&config(JwtAlgorithm::HS256), &forged, NOW_S);
    assert!(matches!(fault, Err(TokenError::Invalid(_))));
    // The settings choose the algorithm, never the token.
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.";
    let fault = keys.caller(&config(JwtAlgorithm::HS256), &headers(none), NOW_S);
    assert!(matches!(fault, Err(TokenError::Invalid(_))));
}

#[test]
fn a_request_without_a_token_has_no_caller() {
    let keys = TokenKeys::parse(SECRET, JwtAlgorithm::HS256).unwrap();
    let config = config(JwtAlgorithm::HS256);
    assert_eq!(keys.caller(&config, &HeaderMap::new(), NOW_S), Err(TokenError::Missing));
    let basic = [(AUTHORIZATION, "Basic YTpi".parse().unwrap())].into_iter().collect();
    assert_eq!(keys.caller(&config, &basic, NOW_S), Err(TokenError::Missing));
    let unknown = TokenKeys::default().caller(&config, &headers("a.b.c"), NOW_S);
    assert_eq!(unknown, Err(TokenError::NoKeys));
}

#[test]
fn every_algorithm_is_checked_with_pems_and_with_key_sets() {
    let ec = || EncodingKey::from_ec_pem(EC_PRIVATE.as_bytes()).unwrap();
    let rsa = || EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).unwrap();
    for (kind, algorithm, id, key, pem) in [
        (JwtAlgorithm::ES256, Algorithm::ES256, "ec", ec(), EC_PUBLIC),
        (JwtAlgorithm::RS256, Algorithm::RS256, "rsa", rsa(), RSA_PUBLIC),
    ] {
        let token = |id: Option<&str>| {
            let header = Header { kid: id.map(str::to_owned), ..Header::new(algorithm) };
            headers(&encode(&header, &claims(), &key).unwrap())
        };
        let by_pem = TokenKeys::parse(pem, kind).unwrap();
        assert_eq!(by_pem.caller(&config(kind), &token(Some(id)), NOW_S).unwrap().name, "alice");
        let by_set = TokenKeys::parse(SET, kind).unwrap();
        assert_eq!(by_set.caller(&config(kind), &token(Some(id)), NOW_S).unwrap().name, "alice");
        assert_eq!(by_set.caller(&config(kind), &token(None), NOW_S).unwrap().name, "alice");
        assert!(by_set.caller(&config(kind), &token(Some("new")), NOW_S).is_err());
        assert!(by_set.lacks(&token(Some("new"))) && !by_set.lacks(&token(Some(id))));
        assert!(TokenKeys::parse(SET, JwtAlgorithm::HS256).is_err(), "no secret is in it");
        assert!(TokenKeys::parse(pem, JwtAlgorithm::HS256).is_err(), "it is no secret");
    }
    // An attacker could use the public key as an HMAC secret: such a token must not be accepted.
    let forged = headers(&signed(&claims(), EC_PUBLIC));
    let keys = TokenKeys::parse(EC_PUBLIC, JwtAlgorithm::ES256).unwrap();
    assert!(keys.caller(&config(JwtAlgorithm::ES256), &forged, NOW_S).is_err());
}

/// A device may have no end, and a pipe no writer: `named_file` bounds both.
#[test]
fn a_device_in_the_place_of_the_keys_is_refused() {
    let error = TokenKeys::read(Path::new("/dev/null"), JwtAlgorithm::HS256).err().unwrap();
    assert!(matches!(error, KeysError::Read { .. }), "{error}");
}
