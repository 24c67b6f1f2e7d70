//! Node tokens: this node proves its id in a header of every call.
//!
//! A token is a compact JWS (RFC 7515), ES256K over keccak-256 of `jwt|` and the signing input:
//! `docs/protocol/api.md`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hawser_engine::ports::Registry;
use hawser_proto::sign::node_token_digest;
use hawser_proto::{NETWORK_VERSION, OriginatorId, SecretKey};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::call_error::PeerCallError;
use crate::handshake::LocalIdentity;

/// Validity of a token. Specified in `docs/protocol/api.md`.
const LIFETIME_S: u64 = 3600;
/// A token with less remaining validity than this is renewed. Specified in `docs/protocol/api.md`.
const RENEW_BEFORE_S: u64 = 120;

/// Time for which a peer that has refused a token is not asked in the other way. A guess: a clock that was wrong is
/// right after minutes, and a peer that refuses on purpose has one call more in this time. Specified in
/// `docs/protocol/replication.md`, section *Over gRPC*.
const REFUSED_FOR: Duration = Duration::from_secs(300);

const HEADER: &str = r#"{"alg":"ES256K","typ":"JWT"}"#;

/// Makes the tokens for one peer, and keeps the last one while it serves.
#[derive(Debug)]
pub(super) struct PeerTokens {
    own: OriginatorId,
    key: SecretKey,
    peer: OriginatorId,
    registry: watch::Receiver<Arc<Registry>>,
    held: Mutex<Option<Token>>,
    refusal: Mutex<Option<TokenRefusal>>,
    warning: RefusalWarning,
}

/// The time of the warning that a peer refuses tokens, until it accepts one. Sessions with the peer share it: a peer
/// that refuses a token and ends the session is dialled again and again.
#[derive(Debug, Clone, Default)]
pub(super) struct RefusalWarning(Arc<Mutex<Option<Instant>>>);

impl RefusalWarning {
    /// Notes a refused token at `now`. Returns true if it is to be logged: it is the first one since one was accepted.
    fn note_refused(&self, now: Instant) -> bool {
        let mut warned = self.0.lock();
        let is_first = warned.is_none();
        if is_first {
            *warned = Some(now);
        }
        is_first
    }

    /// Notes an accepted token at `now`. It counts only some time after the warning, so that a peer which accepts and
    /// refuses tokens by turns causes few warnings.
    fn note_accepted(&self, now: Instant) {
        let mut warned = self.0.lock();
        if warned.is_some_and(|at| at + REFUSED_FOR <= now) {
            *warned = None;
        }
    }
}

/// The last refusal of a token, until one is accepted.
#[derive(Debug)]
struct TokenRefusal {
    /// The peer's words, if it serves calls without a token. They are made so from then on.
    left_out_for: Option<String>,
    /// The time from which the other way is tried again.
    until: Instant,
}

#[derive(Debug, Clone)]
struct Token {
    text: String,
    made_s: u64,
}

impl PeerTokens {
    /// Creates a source of tokens that this node signs for `peer`, which checks them, for one session. `warning` is
    /// that of all sessions with the peer.
    pub(super) fn new(
        identity: &LocalIdentity,
        peer: OriginatorId,
        warning: RefusalWarning,
    ) -> Self {
        let LocalIdentity { own, key, registry, .. } = identity;
        Self {
            own: *own,
            key: key.clone(),
            peer,
            registry: registry.clone(),
            held: Mutex::default(),
            refusal: Mutex::default(),
            warning,
        }
    }

    /// Returns the token for a call at `now`, and `unix_s` by the wall clock. `None` if there is none, or if the peer
    /// has refused one a short time ago and serves calls without.
    pub(super) fn token_at(&self, now: Instant, unix_s: u64) -> Option<String> {
        let refusal = self.refusal.lock();
        let is_left_out =
            refusal.as_ref().is_some_and(|it| it.left_out_for.is_some() && now < it.until);
        drop(refusal);
        if is_left_out { None } else { self.token(unix_s) }
    }

    /// Returns the token for a stream. If the peer has refused the token, the other calls, one a second, find out when
    /// it accepts the token again.
    pub(super) fn token_of_stream(&self, unix_s: u64) -> Option<String> {
        if self.refused().is_some() { None } else { self.token(unix_s) }
    }

    /// Returns true if a call whose token was refused at `now` is to be made without one. That is not so for some time
    /// after the peer has refused this, too.
    pub(super) fn may_be_left_out(&self, now: Instant) -> bool {
        let refusal = self.refusal.lock();
        refusal.as_ref().is_none_or(|it| it.left_out_for.is_some() || it.until <= now)
    }

    /// Notes that the peer has refused a token in these words, and the error of the same call without one. Returns
    /// false if the peer does not serve that either.
    pub(super) fn note_refused(
        &self,
        now: Instant,
        why: &str,
        without: Option<&PeerCallError>,
    ) -> bool {
        let is_refused =
            |error| matches!(error, &PeerCallError::Unauthenticated(_) | &PeerCallError::Failed(_));
        let is_served = !without.is_some_and(is_refused);
        let left_out_for = is_served.then(|| why.to_owned());
        let refusal = TokenRefusal { left_out_for, until: now + REFUSED_FOR };
        *self.refusal.lock() = Some(refusal);
        if is_served && self.warning.note_refused(now) {
            tracing::warn!(
                code = "node_token_refused",
                node_id = %self.peer,
                why,
                "a peer refuses this node's token and serves calls without one: it is called so"
            );
        }
        is_served
    }

    /// Notes that the peer has accepted a token at `now`. A peer that accepts some tokens, refuses others, and does not
    /// serve calls without a token gains no further calls.
    pub(super) fn note_accepted(&self, now: Instant) {
        self.warning.note_accepted(now);
        let mut refusal = self.refusal.lock();
        if refusal.as_ref().is_some_and(|it| it.left_out_for.is_some() || it.until <= now) {
            *refusal = None;
        }
    }

    /// Returns the words with which the peer has refused a token, while it is called without one.
    pub(super) fn refused(&self) -> Option<String> {
        self.refusal.lock().as_ref()?.left_out_for.clone()
    }

    /// Returns a token that holds for at least two minutes from `now_s` on, unix seconds; `None` while this node is
    /// not canonical. Peers then refuse calls with its token, and serve those without one.
    fn token(&self, now_s: u64) -> Option<String> {
        self.registry.borrow().member(self.own)?;
        let mut held = self.held.lock();
        // Also renewed when the clock was set back, because a token from the future is refused.
        let serves = |token: &&Token| {
            (token.made_s..=token.made_s + LIFETIME_S - RENEW_BEFORE_S).contains(&now_s)
        };
        if let Some(token) = held.as_ref().filter(serves) {
            return Some(token.text.clone());
        }
        let text = node_token(self.own, &self.key, self.peer, now_s, LIFETIME_S);
        *held = Some(Token { text: text.clone(), made_s: now_s });
        Some(text)
    }
}

/// Returns a token that `own` signs with `key` for `peer`. It is valid for `lifetime_s` seconds from `now_s` on, unix
/// seconds.
#[must_use]
pub fn node_token(
    own: OriginatorId,
    key: &SecretKey,
    peer: OriginatorId,
    now_s: u64,
    lifetime_s: u64,
) -> String {
    let claims = format!(
        r#"{{"version":"{NETWORK_VERSION}","sub":"{own}","aud":["{peer}"],"exp":{},"iat":{now_s}}}"#,
        now_s + lifetime_s,
    );
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(HEADER), part(&claims));
    let signature = key.sign(node_token_digest(&signed));
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.as_bytes()))
}

#[cfg(test)]
mod tests {
    use hawser_engine::ports::NodeRecord;
    use hawser_proto::Address;

    use super::*;

    /// Made by the network's reference node: node 100 for node 200, version 1.3.0, at [`MADE_S`].
    const REFERENCE: &str = "eyJhbGciOiJFUzI1NksiLCJ0eXAiOiJKV1QifQ.eyJ2ZXJzaW9uIjoiMS4zLjAiLCJzdWIiOiIxMDAiLCJhdWQiOlsiMjAwIl0sImV4cCI6MTcwMDAwMzYwMCwiaWF0IjoxNzAwMDAwMDAwfQ.46hhuV0KqEWGSRojJB9WuTnga_xb7w2l_0DWozmVH942X0ngCwVxaT5xOe27QfBi9OgwCbH6LVacTj9aIWyM9AA";
    /// The key of that node, which the reference's tests publish.
    const REFERENCE_KEY: &str =
        "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
    const MADE_S: u64 = 1_700_000_000;

    impl PeerTokens {
        /// Returns the tokens of node 100 for node 200.
        pub(in crate::grpc) fn of_test() -> Self {
            tokens(true)
        }
    }

    fn tokens(canonical: bool) -> PeerTokens {
        tokens_of_session(canonical, RefusalWarning::default())
    }

    fn tokens_of_session(canonical: bool, warning: RefusalWarning) -> PeerTokens {
        let (own, key) = (OriginatorId(100), SecretKey::from_hex(REFERENCE_KEY).unwrap());
        let record = NodeRecord {
            id: own,
            public_key: key.public_key(),
            owner: Address([1; 20]),
            http_address: None,
            quic_address: None,
            canonical,
        };
        let registry: Registry = [record].into_iter().collect();
        // A receiver keeps the last value of a sender that is gone.
        let registry = watch::Sender::new(Arc::new(registry)).subscribe();
        let identity = LocalIdentity { own, key, registry, takes_prefixes: false };
        PeerTokens::new(&identity, OriginatorId(200), warning)
    }

    #[test]
    fn a_token_is_that_of_the_reference_node_to_the_byte() {
        assert_eq!(tokens(true).token(MADE_S).as_deref(), Some(REFERENCE));
    }

    /// Nodes refuse each call with such a token, and a node catches up before it is canonical.
    #[test]
    fn a_node_that_is_not_canonical_sends_no_token() {
        assert_eq!(tokens(false).token(MADE_S), None);
    }

    #[test]
    fn a_token_serves_until_two_minutes_before_its_end() {
        let tokens = tokens(true);
        let first = tokens.token(MADE_S);
        assert_eq!(tokens.token(MADE_S + 3480), first);
        let second = tokens.token(MADE_S + 3481);
        assert_ne!(second, first);
        assert_eq!(tokens.token(MADE_S + 3482), second);
        assert_ne!(tokens.token(MADE_S + 3400), second, "the clock was set back");
    }

    #[test]
    fn a_token_that_was_refused_is_shown_again_later() {
        let (tokens, start) = (tokens(true), Instant::now());
        let shown =
            |seconds: u64| tokens.token_at(start + Duration::from_secs(seconds), MADE_S).is_some();
        assert!(shown(0) && tokens.may_be_left_out(start));
        assert!(tokens.note_refused(start, "expired", Some(&PeerCallError::Unimplemented)));
        assert!(!shown(299) && shown(300));
        assert_eq!(tokens.token_of_stream(MADE_S), None, "until another call was accepted");
        assert_eq!(tokens.refused().as_deref(), Some("expired"));
        let later = start + REFUSED_FOR;
        assert!(tokens.may_be_left_out(later) && tokens.note_refused(later, "expired", None));
        assert!(!shown(599) && shown(600));
        tokens.note_accepted(later);
        assert!(tokens.refused().is_none() && tokens.token_of_stream(MADE_S).is_some());
    }

    /// Played by a peer that ends each session after it has refused a token, or accepts every second one.
    #[test]
    fn a_peer_that_refuses_a_token_in_each_session_is_logged_once() {
        let (warning, start) = (RefusalWarning::default(), Instant::now());
        let refused_in_session = |now| {
            let tokens = tokens_of_session(true, warning.clone());
            assert!(tokens.note_refused(now, "expired", None));
            warning.0.lock().expect("it was logged")
        };
        let accepted_in_session = |now| tokens_of_session(true, warning.clone()).note_accepted(now);
        let soon = start + Duration::from_secs(1);
        assert_eq!((refused_in_session(start), refused_in_session(soon)), (start, start));
        accepted_in_session(soon);
        assert_eq!(refused_in_session(soon), start, "few warnings, however often it changes");
        let later = start + REFUSED_FOR;
        assert_eq!(refused_in_session(later), start, "nothing has changed");
        accepted_in_session(later);
        assert_eq!(refused_in_session(later), later);
    }

    #[test]
    fn a_peer_that_wants_tokens_is_seldom_called_without_one() {
        let (tokens, start) = (tokens(true), Instant::now());
        let wanted = PeerCallError::Unauthenticated("it is missing".to_owned());
        assert!(!tokens.note_refused(start, "expired", Some(&wanted)));
        let later = start + REFUSED_FOR;
        assert!(!tokens.may_be_left_out(start) && tokens.may_be_left_out(later));
        assert!(tokens.token_at(start, MADE_S).is_some() && tokens.refused().is_none());
        tokens.note_accepted(start);
        assert!(!tokens.may_be_left_out(start), "it accepts some and refuses others");
        let denied = PeerCallError::Failed("PermissionDenied: no".to_owned());
        assert!(!tokens.note_refused(later, "expired", Some(&denied)));
        assert!(!tokens.may_be_left_out(later) && tokens.refused().is_none());
        tokens.note_accepted(later + REFUSED_FOR);
        assert!(tokens.may_be_left_out(later));
    }
}
