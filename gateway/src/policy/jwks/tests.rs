//! Tests of fetched key sets: the login service publishes keys, changes them, and sometimes does not answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::super::config::PolicyFile;
use super::super::jwt::keys::{EC_PRIVATE, NEXT_PRIVATE, NEXT_SET, SET};
use super::super::redirecting::redirecting;
use super::super::{PolicyError, TokenError};
use super::*;

const NOW_S: u64 = 1_750_000_000;
/// Short pauses, so that tests are quick.
const QUICK: KeyFetchSettings =
    KeyFetchSettings { every: Duration::from_millis(50), retry_after: Duration::from_millis(10) };

/// The answer of the login service: a status and a body, or nothing.
type Answer = Option<(u16, String)>;

/// A login service.
struct Login {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicU64>,
}

impl Login {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let login = Self { address, answer: Arc::new(Mutex::new(answer)), asked: Arc::default() };
        let (answer, asked) = (login.answer.clone(), login.asked.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let answer = answer.lock().clone();
                if let Some((status, body)) = answer {
                    let length = body.len();
                    let answer = format!(
                        "HTTP/1.1 {status} _\r\ncontent-length: {length}\r\n\
                         connection: close\r\n\r\n{body}"
                    );
                    let _ = stream.write_all(answer.as_bytes()).await; // it may be too long
                }
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        login
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock() = answer;
    }

    /// Waits for three more requests. By then the gateway has judged the answer to the first of them.
    async fn was_heard(&self) {
        let asked = self.asked.load(Ordering::Relaxed);
        until(|| self.asked.load(Ordering::Relaxed) >= asked + 3).await;
    }

    /// Returns policies that fetch their keys from this service, starting now.
    fn policies(&self, pace: KeyFetchSettings) -> Arc<Policies> {
        let address = self.address;
        let text = format!(
            "[identity]\nkind = \"jwt\"\n[identity.jwt]\nalgorithm = \"ES256\"\n\
             any_issuer = true\nany_audience = true\njwks_url = \"http://{address}/keys\""
        );
        let policies = Arc::new(Policies::new(PolicyFile::parse(&text).unwrap(), None).unwrap());
        let keeping = policies.clone();
        tokio::spawn(async move { keeping.keep_keys(pace, CancellationToken::new()).await });
        policies
    }
}

async fn until(so: impl Fn() -> bool) {
    let waiting = async {
        while !so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(60), waiting).await.expect("it never came");
}

fn set(keys: &str) -> Answer {
    Some((200, keys.to_owned()))
}

fn signed(private: &str, id: Option<&str>) -> HeaderMap {
    let header = Header { kid: id.map(str::to_owned), ..Header::new(Algorithm::ES256) };
    let claims = serde_json::json!({ "sub": "alice", "exp": NOW_S + 100 });
    let key = EncodingKey::from_ec_pem(private.as_bytes()).unwrap();
    let token = encode(&header, &claims, &key).unwrap();
    [(AUTHORIZATION, format!("Bearer {token}").parse().unwrap())].into_iter().collect()
}

fn first() -> HeaderMap {
    signed(EC_PRIVATE, Some("ec"))
}

fn next() -> HeaderMap {
    signed(NEXT_PRIVATE, Some("next"))
}

fn knows(policies: &Policies, token: &HeaderMap) -> bool {
    let caller = policies.caller_of(token, None, NOW_S).now_or_never();
    caller.expect("no service is asked").is_ok()
}

#[tokio::test]
async fn keys_that_are_changed_are_taken_over_and_old_ones_forgotten() {
    let login = Login::start(set(SET)).await;
    let policies = login.policies(QUICK);
    until(|| knows(&policies, &first())).await;
    assert!(!knows(&policies, &next()), "its key is not published");
    assert!(!knows(&policies, &signed(NEXT_PRIVATE, Some("ec"))), "it is not that key's");
    assert!(!knows(&policies, &signed(NEXT_PRIVATE, None)));
    login.answers(set(NEXT_SET));
    until(|| knows(&policies, &next())).await;
    assert!(!knows(&policies, &first()), "that key is for encryption by now");
}

#[tokio::test]
async fn a_token_with_an_unknown_key_has_the_keys_fetched() {
    let login = Login::start(set(SET)).await;
    let policies =
        login.policies(KeyFetchSettings { every: Duration::from_secs(100_000), ..QUICK });
    until(|| knows(&policies, &first())).await;
    let asked = login.asked.load(Ordering::Relaxed);
    login.answers(set(NEXT_SET));
    assert!(knows(&policies, &first()), "no token has asked for another one");
    until(|| knows(&policies, &next())).await;
    assert!(login.asked.load(Ordering::Relaxed) > asked);
}

#[tokio::test]
async fn an_address_that_sends_wrong_tokens_has_few_of_them_checked() {
    let login = Login::start(set(SET)).await;
    let policies =
        login.policies(KeyFetchSettings { every: Duration::from_secs(100_000), ..QUICK });
    let known = first();
    until(|| knows(&policies, &known)).await;
    let wrong = signed(NEXT_PRIVATE, Some("ec"));
    let is_checked = |peer: Option<SocketAddr>| {
        let refused = policies.caller_of(&wrong, peer, NOW_S).now_or_never();
        let refused = refused.expect("no service is asked").unwrap_err();
        !matches!(refused, PolicyError::Token(TokenError::TooMany(_)))
    };
    // 60 of the address and 200 that all addresses share. Further ones may be checked as time passes meanwhile.
    let checked = (0..3000).filter(|_| is_checked(None)).count();
    assert!((260..2500).contains(&checked), "{checked}");
    assert!(knows(&policies, &known), "it was accepted before");
    assert!(is_checked(Some(SocketAddr::from(([192, 0, 2, 1], 9)))), "another address");
}

#[tokio::test]
async fn while_keys_cannot_be_fetched_those_that_are_known_stay() {
    let login = Login::start(set(SET)).await;
    let policies = login.policies(QUICK);
    until(|| knows(&policies, &first())).await;
    for answer in [
        None,
        Some((500, SET.to_owned())),
        Some((404, NEXT_SET.to_owned())),
        set(""),
        set("<html>sorry</html>"),
        set(r#"{"keys":[]}"#),
        set(r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"ec","x":"AA","y":"AA"}]}"#),
        set(&SET.replace("P-256", "P-384")),
        set(&format!("{SET}{}", " ".repeat(SET_LEN_BYTES_MAX))),
        set(&SET[..SET.len() / 2]),
    ] {
        login.answers(answer.clone());
        login.was_heard().await;
        assert!(knows(&policies, &first()), "{answer:?}");
        assert!(!policies.lacks_keys());
    }
    login.answers(set(NEXT_SET));
    until(|| knows(&policies, &next())).await;
}

#[tokio::test]
async fn without_keys_from_the_start_no_caller_is_known_until_they_come() {
    let login = Login::start(None).await;
    // A token without a key id causes no fetch, so the keys come from the retries after the failure.
    let policies =
        login.policies(KeyFetchSettings { every: Duration::from_secs(100_000), ..QUICK });
    login.was_heard().await;
    let token = signed(EC_PRIVATE, None);
    let refused = policies.caller_of(&token, None, NOW_S).await.unwrap_err();
    assert_eq!(refused, PolicyError::Token(TokenError::NoKeys));
    assert!(policies.lacks_keys());
    login.answers(set(SET));
    until(|| knows(&policies, &token)).await;
    assert!(!policies.lacks_keys());
}

#[tokio::test]
async fn keys_are_taken_from_no_host_that_a_redirect_names() {
    let other = Login::start(Some((200, SET.to_owned()))).await;
    assert!(fetch(&format!("http://{}/keys", other.address)).await.is_ok());
    let asked = other.asked.load(Ordering::Relaxed);
    let url = redirecting(format!("http://{}/keys", other.address)).await;
    assert_eq!(fetch(&url).await, Err("HTTP status 307".to_owned()));
    assert_eq!(other.asked.load(Ordering::Relaxed), asked);
}

#[test]
fn the_error_of_a_key_set_is_short() {
    let set = format!(r#"{{"keys": "{}"}}"#, "x".repeat(100_000));
    let error = keys_of(&set, JwtAlgorithm::ES256).err().unwrap();
    assert!(error.contains("line 1, column ") && error.len() < 300, "{error}");
    assert!(!error.contains("xxx"), "a file may have a secret there: {error}");
}
