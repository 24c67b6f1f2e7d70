//! Tests of the webhook: a service that allows, refuses, is slow, and sometimes does not answer.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use hawser_proto::{Bytes, Topic};
use hawser_rules::PayloadClass;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::super::redirecting::redirecting;
use super::*;
use crate::routing::Route;

/// The answer of the service: a status and a body, or `None` for no answer.
type Reply = Option<(u16, String)>;

/// The operator's service.
struct Service {
    url: String,
    reply: Arc<Mutex<Reply>>,
    /// Head and body of each call.
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/decide", listener.local_addr().unwrap());
        let service = Self { url, reply: Arc::default(), asked: Arc::default() };
        service.replies(200, r#"{"allow": true}"#);
        let (reply, asked) = (service.reply.clone(), service.asked.clone());
        tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1).unwrap();
                let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                asked.lock().push((head, serde_json::from_slice(&body).unwrap()));
                let reply = reply.lock().clone();
                let Some((status, body)) = reply else {
                    silent.push(stream);
                    continue;
                };
                let reply = format!(
                    "HTTP/1.1 {status} _\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(reply.as_bytes()).await; // it may be too long
            }
        });
        service
    }

    fn replies(&self, status: u16, body: &str) {
        *self.reply.lock() = Some((status, body.to_owned()));
    }

    fn webhook(&self, adjust: impl FnOnce(&mut WebhookSettings)) -> Webhook {
        let mut settings = settings(&self.url);
        adjust(&mut settings);
        Webhook::new(settings).unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.lock().len()
    }
}

fn settings(url: &str) -> WebhookSettings {
    WebhookSettings {
        url: url.to_owned(),
        timeout_ms: 5_000,
        cache_s: 0,
        token_file: None,
        allow_without_answer: false,
        names_tenant: false,
        tenant: None,
    }
}

/// Returns the caller of this name.
fn named(name: &str) -> CallerId {
    CallerId::of_name(name)
}

/// Returns the caller at this address.
fn at(address: &str) -> CallerId {
    CallerId::of_address(address.parse::<IpAddr>().unwrap().into())
}

fn envelope(kind: PayloadClass, len: usize) -> Routed {
    Routed {
        bytes: Bytes::from(vec![0; len]),
        topic: Topic::parse(Bytes::from_static(&[1, 1])).unwrap(),
        depends_on: Vec::new(),
        kind,
        route: Route::Node,
        identity_update: None,
    }
}

#[tokio::test]
async fn the_service_says_whose_caller_it_is_and_silence_names_no_tenant() {
    let service = Service::start().await;
    let naming = |settings: &mut WebhookSettings| settings.names_tenant = true;
    service.replies(200, r#"{"allow": true, "tenant": "acme"}"#);
    assert_eq!(service.webhook(|_| {}).tenant(&named("alice")).await, Ok(None));
    assert_eq!(service.asked(), 0, "it is not asked for what it does not know");
    let webhook = service.webhook(naming);
    assert_eq!(webhook.tenant(&named("alice")).await, Ok(Some("acme".into())));
    service.replies(200, r#"{"allow": true}"#);
    assert_eq!(webhook.tenant(&named("bob")).await, Ok(None));
    service.replies(200, r#"{"allow": false, "reason": "not you", "tenant": "acme"}"#);
    let refused = webhook.tenant(&named("carol")).await;
    assert_eq!(refused, Err(WebhookError::Refused("not you".into())));
    service.replies(500, "");
    assert_eq!(webhook.tenant(&named("dave")).await, Err(WebhookError::NoAnswer));
    let lenient = service.webhook(|settings| {
        (settings.names_tenant, settings.allow_without_answer) = (true, true);
    });
    assert_eq!(lenient.tenant(&named("dave")).await, Ok(None), "no payer is guessed");
}

#[tokio::test]
async fn the_service_says_whose_a_credential_is_and_silence_names_no_caller() {
    let service = Service::start().await;
    let open = |settings: &mut WebhookSettings| {
        (settings.cache_s, settings.allow_without_answer) = (60, true);
    };
    let webhook = service.webhook(open);
    service.replies(200, r#"{"allow": true, "caller": "alice", "tenant": "acme"}"#);
    let alice = Ok(Some(("alice".to_owned(), Some("acme".to_owned()))));
    assert_eq!(webhook.identify("secret", &at("1.2.3.4")).await, alice);
    assert_eq!(service.asked.lock()[0].1, json!({ "credential": "secret" }));
    service.replies(500, "");
    assert_eq!(webhook.identify("secret", &at("1.2.3.4")).await, alice, "it is kept");
    let unknown = webhook.identify("other secret", &at("1.2.3.4")).await;
    assert_eq!(unknown, Err(WebhookError::NoAnswer), "no caller is guessed");
    let long = format!(r#"{{"allow": true, "caller": "{}"}}"#, "x".repeat(300));
    let refused = r#"{"allow": false, "caller": "alice"}"#;
    for (number, body) in [refused, r#"{"allow": true}"#, &long].into_iter().enumerate() {
        service.replies(200, body);
        let credential = format!("secret {number}");
        assert_eq!(webhook.identify(&credential, &at("1.2.3.4")).await, Ok(None), "{body:.40}");
    }
}

#[tokio::test]
async fn the_service_is_told_who_publishes_how_much_of_what() {
    let service = Service::start().await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "open sesame\n").unwrap();
    let webhook = service.webhook(|settings| settings.token_file = Some(token));
    let routed = [
        envelope(PayloadClass::Message, 10),
        envelope(PayloadClass::Welcome, 7),
        envelope(PayloadClass::Message, 20),
    ];
    assert_eq!(webhook.ask(&named("alice"), &routed).await, Ok(()));
    let asked = service.asked.lock();
    let (head, body) = &asked[0];
    assert!(head.starts_with("post /decide http/1.1"), "{head}");
    assert!(head.contains("authorization: bearer open sesame"), "{head}");
    let expected = json!({ "caller": "alice", "envelopes": {
        "message": { "count": 2, "bytes": 30 }, "welcome": { "count": 1, "bytes": 7 },
    } });
    assert_eq!(body, &expected);
}

/// Two tenants may each have a caller of this name.
#[tokio::test]
async fn the_service_is_told_the_tenant_of_a_caller() {
    let service = Service::start().await;
    for tenant in ["red", "blue"] {
        let webhook = service.webhook(|settings| settings.tenant = Some(tenant.to_owned()));
        let asked = webhook.ask(&named("alice"), &[envelope(PayloadClass::Message, 1)]).await;
        assert_eq!(asked, Ok(()));
    }
    let asked = service.asked.lock();
    let tenants: Vec<_> = asked.iter().map(|(_, body)| body["tenant"].as_str()).collect();
    assert_eq!(tenants, [Some("red"), Some("blue")]);
}

#[tokio::test]
async fn a_refusal_is_passed_on_with_its_reason() {
    let service = Service::start().await;
    let webhook = service.webhook(|_| {});
    let routed = [envelope(PayloadClass::Message, 1)];
    service.replies(200, r#"{"allow": false, "reason": "no\nplan"}"#);
    let refused = webhook.ask(&named("alice"), &routed).await.unwrap_err();
    assert_eq!(refused, WebhookError::Refused("no plan".into()));
    service.replies(200, r#"{"allow": false}"#);
    assert!(matches!(webhook.ask(&named("alice"), &routed).await, Err(WebhookError::Refused(_))));
}

#[tokio::test]
async fn without_an_answer_nothing_passes_unless_the_settings_say_so() {
    let service = Service::start().await;
    let webhook = service.webhook(|settings| settings.cache_s = 60);
    let open = service.webhook(|settings| settings.allow_without_answer = true);
    let routed = [envelope(PayloadClass::Message, 1)];
    let long = format!(r#"{{"allow": true, "reason": "{}"}}"#, "x".repeat(20_000));
    for (status, body) in
        [(500, r#"{"allow": true}"#), (204, ""), (200, "yes"), (200, "{}"), (200, &long)]
    {
        service.replies(status, body);
        let answer = webhook.ask(&named("alice"), &routed).await;
        assert_eq!(answer, Err(WebhookError::NoAnswer), "{status} {body:.20}");
        assert_eq!(open.ask(&named("alice"), &routed).await, Ok(()), "{status} {body:.20}");
    }
    *service.reply.lock() = None;
    let hasty = service.webhook(|settings| settings.timeout_ms = 50);
    assert_eq!(hasty.ask(&named("alice"), &routed).await, Err(WebhookError::NoAnswer));
    service.replies(200, r#"{"allow": true}"#);
    assert_eq!(webhook.ask(&named("alice"), &routed).await, Ok(()), "no failure is kept");
}

/// The HTTP client has a limit of its own, which is shorter than the longest one that the settings may have.
#[tokio::test]
async fn an_answer_may_take_as_long_as_the_settings_say() {
    let longest = WebhookSettings { timeout_ms: 60_000, ..settings("http://127.0.0.1:1") };
    let webhook = Webhook::new(longest).unwrap();
    let call = webhook.call(&Question::default()).unwrap();
    assert_eq!(call.timeout(), Some(&Duration::from_secs(60)));
}

/// Takes all places for open calls of one sort but so many.
async fn all_places_but(gate: &CallerGate, free: usize) -> Vec<CallerPass> {
    let mut taken = Vec::new();
    while taken.len() < ASKED_AT_ONCE - free {
        taken.push(gate.enter(&named("others")).await.unwrap());
    }
    taken
}

/// Thousands of addresses with made-up credentials may ask more than the service answers in time.
#[tokio::test]
async fn strangers_keep_no_known_caller_from_a_new_answer() {
    let service = Service::start().await;
    let webhook = service.webhook(|_| {}); // each answer ends at once
    for body in [r#"{"allow": false, "caller": "alice"}"#, r#"{"allow": true}"#] {
        service.replies(200, body);
        assert_eq!(webhook.identify("a guess", &at("9.9.9.9")).await, Ok(None));
        assert_eq!(webhook.of_credentials.admitting.len(), 0, "it is known to be no caller's");
    }
    service.replies(200, r#"{"allow": true, "caller": "alice"}"#);
    let alice = Ok(Some(("alice".to_owned(), None)));
    let routed = [envelope(PayloadClass::Message, 1)];
    assert_eq!(webhook.identify("secret", &at("1.2.3.4")).await, alice);
    assert_eq!(webhook.ask(&named("alice"), &routed).await, Ok(()));
    let _strangers = all_places_but(&webhook.of_credentials.asking, 0).await;
    let _others = all_places_but(&webhook.of_callers.asking, 0).await;
    let asked = service.asked();
    let other_address = at("8.8.8.8");
    let mut stranger = Box::pin(webhook.identify("a guess", &other_address));
    assert!((&mut stranger).now_or_never().is_none());
    assert_eq!(webhook.identify("secret", &at("1.2.3.4")).await, alice);
    assert_eq!(webhook.ask(&named("alice"), &routed).await, Ok(()));
    assert_eq!(service.asked(), asked + 2, "the stranger waits");
}

/// A caller whose credential the service has not admitted yet is a stranger, too.
#[tokio::test]
async fn addresses_that_were_refused_keep_no_new_caller_waiting() {
    let service = Service::start().await;
    // Questions without an answer end later than this test.
    let webhook = Arc::new(service.webhook(|settings| settings.timeout_ms = 600_000));
    let guess = |number: usize| {
        let webhook = webhook.clone();
        let address = format!("9.9.9.{number}");
        tokio::spawn(async move { webhook.identify("a guess", &at(&address)).await })
    };
    let guesses = || (0..2 * ASKED_AT_ONCE).map(guess).collect::<Vec<_>>();
    service.replies(200, r#"{"allow": false}"#);
    for refused in guesses() {
        assert_eq!(refused.await.unwrap(), Ok(None));
    }
    // As many of their next questions are open as may be, and have no answer yet.
    *service.reply.lock() = None;
    let open = guesses();
    while service.asked() < 3 * ASKED_AT_ONCE {
        tokio::task::yield_now().await;
    }
    service.replies(200, r#"{"allow": true, "caller": "alice"}"#);
    let alice = Ok(Some(("alice".to_owned(), None)));
    assert_eq!(webhook.identify("secret", &at("1.2.3.4")).await, alice);
    assert!(open.iter().all(|guess| !guess.is_finished()), "no question ended for it");
    open.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn many_guesses_of_an_address_take_one_turn_from_new_callers() {
    let service = Service::start().await;
    let webhook = Arc::new(service.webhook(|_| {}));
    service.replies(200, r#"{"allow": false}"#);
    let _others = all_places_but(&webhook.of_credentials.asking, 1).await;
    let _refused = all_places_but(&webhook.of_credentials.asking_again, 0).await;
    let guess = |number: usize| {
        let webhook = webhook.clone();
        tokio::spawn(
            async move { webhook.identify(&format!("guess {number}"), &at("9.9.9.9")).await },
        )
    };
    let mut flood: Vec<_> = (0..10).map(guess).collect();
    assert_eq!(flood.remove(0).await.unwrap(), Ok(None));
    assert_eq!(webhook.identify("a mistake", &at("1.2.3.4")).await, Ok(None));
    assert_eq!(service.asked(), 2, "the other guesses wait apart");
    flood.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn a_flood_of_strangers_removes_no_answer_that_admits() {
    let answers = Answers::new();
    let keep = |key: usize, allow| {
        let answer = WebhookAnswer { allow, reason: None, caller: None, tenant: None };
        answers.keep(key, allow, KeptAnswer { answer, until: Instant::now() });
    };
    keep(0, true);
    (1..4 * ANSWERS_MAX).for_each(|key| keep(key, false));
    assert!(answers.admitting.contains_key(&0_usize));
    keep(0, false);
    assert!(
        !answers.admitting.contains_key(&0_usize),
        "a caller that is refused is a stranger again"
    );
}

#[tokio::test]
async fn a_flood_of_equal_questions_is_asked_once() {
    let service = Service::start().await;
    let webhook = service.webhook(|settings| settings.cache_s = 60);
    let routed = [envelope(PayloadClass::Message, 1)];
    let _others = all_places_but(&webhook.of_callers.asking, 1).await;
    let alice = named("alice");
    let answers = join_all((0..100).map(|_| webhook.ask(&alice, &routed))).await;
    assert!(answers.iter().all(|answer| *answer == Ok(())), "{answers:?}");
    assert_eq!(service.asked(), 1);
}

#[tokio::test]
async fn a_caller_with_many_questions_delays_another_by_one() {
    let service = Service::start().await;
    let webhook = service.webhook(|_| {});
    let routed = [envelope(PayloadClass::Message, 1)];
    let mut others = all_places_but(&webhook.of_callers.asking, 0).await;
    let callers = std::iter::repeat_n("greedy", 10).chain(["other"]);
    let callers: Vec<_> = callers.map(named).collect();
    let asking = join_all(callers.iter().map(|caller| webhook.ask(caller, &routed)));
    // All questions wait by then: `join!` polls `asking` first.
    let (answers, ()) = tokio::join!(asking, async { drop(others.pop()) });
    assert!(answers.iter().all(|answer| *answer == Ok(())), "{answers:?}");
    let asked = service.asked.lock();
    let callers = asked.iter().map(|(_, body)| body["caller"].as_str());
    assert_eq!(callers.take(2).collect::<Vec<_>>(), [Some("greedy"), Some("other")]);
}

/// The owner of an IPv6 /48 has 65,536 addresses that were never refused.
#[tokio::test]
async fn a_network_with_many_addresses_delays_a_new_caller_of_another_by_one_question() {
    let service = Service::start().await;
    let webhook = service.webhook(|_| {});
    service.replies(200, r#"{"allow": false}"#);
    let mut others = all_places_but(&webhook.of_credentials.asking, 0).await;
    let flood = (1..=10).map(|subnet| format!("2001:db8:1:{subnet}::1"));
    let all: Vec<String> = flood.chain(["192.0.2.1".to_owned()]).collect();
    let callers: Vec<CallerId> = all.iter().map(|address| at(address)).collect();
    // Each address has a credential of its own, its own text.
    let asking = all.iter().zip(&callers).map(|(secret, caller)| webhook.identify(secret, caller));
    let asking = join_all(asking);
    // All questions wait by then: `join!` polls `asking` first.
    let (answers, ()) = tokio::join!(asking, async { drop(others.pop()) });
    assert!(answers.iter().all(|answer| *answer == Ok(None)), "{answers:?}");
    let asked = service.asked.lock();
    let secrets = asked.iter().map(|(_, body)| body["credential"].as_str());
    let first = [all[0].as_str(), "192.0.2.1"].map(Some);
    assert_eq!(secrets.take(2).collect::<Vec<_>>(), first);
}

/// Otherwise callers could bypass the service by causing too many calls to it.
#[tokio::test]
async fn too_many_questions_at_once_let_no_caller_pass() {
    let service = Service::start().await;
    let webhook = service.webhook(|settings| {
        settings.allow_without_answer = true;
        settings.timeout_ms = 50;
    });
    let routed = [envelope(PayloadClass::Message, 1)];
    let others = all_places_but(&webhook.of_callers.asking, 0).await;
    assert_eq!(webhook.ask(&named("alice"), &routed).await, Err(WebhookError::Busy));
    drop(others);
    assert_eq!(webhook.ask(&named("alice"), &routed).await, Ok(()));
}

#[tokio::test]
async fn an_answer_counts_for_its_caller_and_kinds() {
    let service = Service::start().await;
    let webhook = service.webhook(|settings| settings.cache_s = 3600);
    let message = [envelope(PayloadClass::Message, 1)];
    let both = [envelope(PayloadClass::Message, 1), envelope(PayloadClass::Welcome, 1)];
    for _ in 0..3 {
        assert_eq!(webhook.ask(&named("alice"), &message).await, Ok(()));
    }
    assert_eq!(service.asked(), 1);
    service.replies(200, r#"{"allow": false}"#);
    assert_eq!(webhook.ask(&named("alice"), &message).await, Ok(()), "it is kept");
    assert!(webhook.ask(&named("alice"), &both).await.is_err());
    assert!(webhook.ask(&named("bob"), &message).await.is_err());
    assert!(webhook.ask(&named("bob"), &message).await.is_err());
    assert_eq!(service.asked(), 3, "refusals are kept, too");
}

/// A service may repeat the credentials of strangers, whose answers are kept.
#[tokio::test]
async fn of_an_answer_only_its_beginning_is_kept() {
    let service = Service::start().await;
    let webhook =
        service.webhook(|settings| (settings.cache_s, settings.names_tenant) = (60, true));
    let long = "x".repeat(5_000);
    let answer =
        |allow: bool| json!({ "allow": allow, "reason": long, "caller": long, "tenant": long });
    service.replies(200, &answer(false).to_string());
    assert_eq!(webhook.identify("a guess", &at("9.9.9.9")).await, Ok(None));
    let key: [u8; 32] = Sha256::digest("a guess").into();
    let kept = webhook.of_credentials.kept(&key).unwrap();
    for text in [kept.reason, kept.caller, kept.tenant].into_iter().flatten() {
        assert!((1..300).contains(&text.len()), "{text}");
    }
    service.replies(200, &answer(true).to_string());
    assert_eq!(
        webhook.identify("another guess", &at("9.9.9.9")).await,
        Ok(None),
        "no caller's name"
    );
    let tenant = webhook.tenant(&named("alice")).await.unwrap().unwrap();
    assert!(tenant.len() > NAME_LEN_MAX, "no tenant has the name {tenant}");
}

#[tokio::test]
async fn the_error_of_an_answer_is_short() {
    let service = Service::start().await;
    service.replies(200, &json!({ "allow": "x".repeat(10_000) }).to_string());
    let webhook = service.webhook(|_| {});
    let error = webhook.fetch(&Question::default()).await.unwrap_err();
    assert!(error.contains("xxx") && error.len() < 300, "{error}");
}

#[tokio::test]
async fn no_question_goes_to_a_host_that_a_redirect_names() {
    let other = Service::start().await;
    let url = redirecting(other.url.clone()).await;
    let webhook = other.webhook(|settings| settings.url = url);
    let asked = webhook.ask(&named("alice"), &[]).await;
    assert_eq!(asked, Err(WebhookError::NoAnswer));
    assert_eq!(other.asked(), 0);
}

/// A device may have no end, and a pipe no writer: `named_file` bounds both.
#[test]
fn a_device_in_the_place_of_the_token_is_refused() {
    let token_file = Some("/dev/null".into());
    let with_token = WebhookSettings { token_file, ..settings("http://127.0.0.1:1") };
    let error = Webhook::new(with_token).err().unwrap();
    assert!(matches!(error, WebhookStartError::Token { .. }), "{error}");
}
