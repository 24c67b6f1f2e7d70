//! Tests of tokens that are accepted and of tokens that are refused.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::keys::{EC_PRIVATE, EC_PUBLIC, NEXT_PRIVATE, NEXT_SET, RSA_PRIVATE, RSA_PUBLIC, SET};
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

/// An issuer names an extension so that a server that does not know it refuses the token.
#[test]
fn a_token_with_an_unknown_extension_is_refused() {
    let keys = TokenKeys::parse(SECRET, JwtAlgorithm::HS256).unwrap();
    let caller_of = |crit: Option<Vec<String>>| {
        let header = Header { crit, ..Header::default() };
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = headers(&encode(&header, &claims(), &key).unwrap());
        keys.caller(&config(JwtAlgorithm::HS256), &token, NOW_S)
    };
    assert!(caller_of(None).is_ok());
    for names in [vec!["urn:example:bound".into()], Vec::new()] {
        assert!(
            matches!(caller_of(Some(names)), Err(TokenError::Invalid(text)) if text.contains("crit"))
        );
    }
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

/// Returns a public key of a set with this id, or without one.
fn key(set: &str, at: usize, id: Option<&str>) -> Value {
    let mut key = serde_json::from_str::<Value>(set).unwrap()["keys"][at].clone();
    key["kid"] = json!(id);
    key
}

fn parsed(keys: &[Value], kind: JwtAlgorithm) -> Result<TokenKeys, KeysError> {
    TokenKeys::parse(&json!({ "keys": keys }).to_string(), kind)
}

/// The check of a signature takes a tenth of a millisecond, and a host of keys may publish thousands.
#[test]
fn keys_of_one_id_are_tried_in_turn_and_no_token_has_very_many_tried() {
    let config = config(JwtAlgorithm::ES256);
    let accepts = |keys: &TokenKeys, private: &str, id: Option<&str>| {
        let header = Header { kid: id.map(str::to_owned), ..Header::new(Algorithm::ES256) };
        let private = EncodingKey::from_ec_pem(private.as_bytes()).unwrap();
        let token = encode(&header, &claims(), &private).unwrap();
        keys.caller(&config, &headers(&token), NOW_S).is_ok()
    };
    let [first, next] = [(SET, 0), (NEXT_SET, 2)].map(|(set, at)| key(set, at, Some("one")));
    let twice = parsed(&[first, next], JwtAlgorithm::ES256).unwrap();
    for private in [EC_PRIVATE, NEXT_PRIVATE] {
        assert!(accepts(&twice, private, Some("one")));
    }
    let behind = |others: usize| {
        let mut keys = vec![key(SET, 0, None); others];
        keys.push(key(NEXT_SET, 2, Some("next")));
        parsed(&keys, JwtAlgorithm::ES256).unwrap()
    };
    assert!(accepts(&behind(KEYS_PER_TOKEN_MAX - 1), NEXT_PRIVATE, None));
    let many = behind(KEYS_PER_TOKEN_MAX);
    assert!(!accepts(&many, NEXT_PRIVATE, None), "the others are not tried");
    assert!(accepts(&many, NEXT_PRIVATE, Some("next")));
}

/// A service that decrypts with the key may be made to sign a token with it.
#[test]
fn a_key_for_encryption_is_ignored_however_its_set_says_so() {
    for (name, value, is_taken) in [
        ("use", json!("enc"), false),
        ("alg", json!("RSA-OAEP"), false),
        ("alg", json!("RSA-OAEP-256"), false),
        ("alg", json!("RSA1_5"), false),
        ("alg", json!("RSA-OAEP-512"), false),
        ("key_ops", json!(["encrypt", "wrapKey"]), false),
        ("use", json!("sig"), true),
        ("alg", json!("RS256"), true),
        ("key_ops", json!(["verify"]), true),
    ] {
        let mut rsa = key(SET, 1, Some("rsa"));
        rsa.as_object_mut().unwrap().remove("use");
        rsa[name] = value;
        let keys = parsed(std::slice::from_ref(&rsa), JwtAlgorithm::RS256);
        assert_eq!(keys.is_ok(), is_taken, "{rsa}");
    }
    let mut point = key(SET, 0, Some("ec"));
    point.as_object_mut().unwrap().remove("use");
    point["alg"] = json!("ECDH-ES");
    assert!(parsed(&[point], JwtAlgorithm::ES256).is_err());
}

/// A client that has a token can try out secrets without asking the gateway.
#[test]
fn a_secret_of_less_than_32_bytes_is_refused() {
    let of_text = |len| TokenKeys::parse(&"x".repeat(len), JwtAlgorithm::HS256).is_ok();
    assert_eq!([0, 8, 31, 32].map(of_text), [false, false, false, true]);
    // The bytes of the same secrets in base64url.
    let of_set = |end: &str| {
        let secret = format!("{}{end}", "eHh4".repeat(10));
        parsed(&[json!({ "kty": "oct", "k": secret })], JwtAlgorithm::HS256).is_ok()
    };
    assert_eq!(["", "eA", "eHg"].map(of_set), [false, false, true]);
    assert!(parsed(&[json!({ "kty": "oct", "k": "" })], JwtAlgorithm::HS256).is_err());
}

/// A device may have no end, and a pipe no writer: `named_file` bounds both.
#[test]
fn a_device_in_the_place_of_the_keys_is_refused() {
    let error = TokenKeys::read(Path::new("/dev/null"), JwtAlgorithm::HS256).err().unwrap();
    assert!(matches!(error, KeysError::Read { .. }), "{error}");
}
