//! Asks a service of the operator, the webhook, whether a caller may publish, and whose a credential is.
//!
//! Without an answer the request is refused, unless the settings allow it. An answer is reused for the same caller
//! and the same kinds of envelopes, or for the same credential, for the time in the settings.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hawser_chain::send::{http_client, read_body};
use hawser_proto::one_line;
use hawser_serve::named_file::read_text;
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout};

use super::CallerId;
use super::config::WebhookSettings;
use super::jwt::CALLER_LEN_BYTES_MAX;
use super::tenants::NAME_LEN_MAX;
use crate::fair::{CallerGate, CallerPass, GateFullError};
use crate::routing::Routed;

/// Largest number of answers of one sort that are kept. A guess: some megabytes.
const ANSWERS_MAX: usize = 20_000;
/// Largest number of open calls of one sort; further ones wait, at most for the time of an answer. Networks of callers
/// take turns, and so do the callers of each. A guess: more than a service needs to be busy.
const ASKED_AT_ONCE: usize = 64;
/// Time for which a caller that was refused waits apart from new ones. A guess: a client with a wrong credential gets
/// another one meanwhile, and a caller costs new ones six turns in an hour.
const REFUSED_FOR: Duration = Duration::from_secs(600);
/// Largest answer in bytes. A guess: usual answers have less than 100.
const ANSWER_LEN_BYTES_MAX: usize = 16 * 1024;

/// The reason for which the webhook does not admit a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WebhookError {
    #[error("this caller may not publish: {0}")]
    Refused(String),
    #[error("the gateway's policy service (webhook) does not answer: try again later")]
    NoAnswer,
    #[error(
        "too many requests to the gateway's policy service (webhook) are open: try again later"
    )]
    Busy,
}

/// The reason for which a webhook cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhookStartError {
    /// The file with the token cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Token {
        /// The file.
        path: std::path::PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// No HTTP client can be created, or the token cannot be sent in a header.
    #[error("{0}")]
    Client(String),
}

/// The body of a call, as JSON.
#[derive(Default, Serialize)]
struct Question<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
    /// Names of callers are unique only within a tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    /// The secret of a caller whose name is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    envelopes: Option<BTreeMap<&'static str, KindSum>>,
}

/// Number and total length of the envelopes of one kind.
#[derive(Debug, Default, Serialize)]
struct KindSum {
    count: usize,
    bytes: usize,
}

/// The answer of the service.
#[derive(Debug, Clone, Deserialize)]
struct WebhookAnswer {
    allow: bool,
    #[serde(default)]
    reason: Option<String>,
    /// Name of the caller to whom a credential belongs.
    #[serde(default)]
    caller: Option<String>,
    /// Name of the caller's tenant.
    #[serde(default)]
    tenant: Option<String>,
}

impl WebhookAnswer {
    /// Cuts all texts, because answers are kept. A name that is too long stays too long.
    fn cut(self) -> Self {
        let first = |name: String, chars: usize| name.chars().take(chars).collect::<String>();
        Self {
            allow: self.allow,
            reason: self.reason.map(|text| one_line(&text)),
            caller: self.caller.map(|name| first(name, CALLER_LEN_BYTES_MAX + 1)),
            tenant: self.tenant.map(|name| first(name, NAME_LEN_MAX + 1)),
        }
    }

    /// Returns the name of the caller to whom a credential belongs; `None` if it is no caller's.
    fn named(&self) -> Option<&str> {
        let name = self.caller.as_deref().filter(|_| self.allow)?;
        (1..=CALLER_LEN_BYTES_MAX).contains(&name.len()).then_some(name)
    }

    /// Returns true if the answer admits the caller that the question names, or names the caller of its credential.
    fn admits(&self, question: &Question<'_>) -> bool {
        self.allow && (question.credential.is_none() || self.named().is_some())
    }
}

/// An answer that is reused until a time.
#[derive(Debug, Clone)]
struct KeptAnswer {
    answer: WebhookAnswer,
    until: Instant,
}

/// A caller, and the kinds of its envelopes as a bit set.
type AnswerKey = (Box<str>, u8);

/// The answers to questions of one sort, and the turns of the callers that wait for an answer.
struct Answers<K> {
    /// The answers that admit. They stay here after their end, until newer ones need the room: a question whose last
    /// answer admitted is a renewal.
    admitting: Cache<K, KeptAnswer>,
    /// All other answers. They are apart, so that a flood of strangers evicts no admitting answer.
    refusing: Cache<K, KeptAnswer>,
    /// Turns of renewals.
    renewing: CallerGate,
    /// Turns of all other questions. They are apart, so that a flood of strangers takes no turn from a known caller.
    asking: CallerGate,
    /// Turns of such questions of callers that were refused within [`REFUSED_FOR`]. They are apart, so that each
    /// refused caller takes at most one turn from a new caller, however many questions it has.
    asking_again: CallerGate,
    /// The times at which callers were refused, at most [`ANSWERS_MAX`].
    refused_at: Cache<CallerId, Instant>,
}

impl<K: Eq + Hash> Answers<K> {
    fn new() -> Self {
        let [admitting, refusing] = [ANSWERS_MAX; 2].map(Cache::new);
        let [renewing, asking, asking_again] = [ASKED_AT_ONCE; 3].map(CallerGate::new);
        let refused_at = Cache::new(ANSWERS_MAX);
        Self { admitting, refusing, renewing, asking, asking_again, refused_at }
    }

    /// Returns the answer to an equal question, if it may still be reused.
    fn kept(&self, key: &K) -> Option<WebhookAnswer> {
        let now = Instant::now();
        let mut last = [&self.admitting, &self.refusing].into_iter().filter_map(|it| it.get(key));
        last.find(|kept| kept.until > now).map(|kept| kept.answer)
    }

    /// Keeps an answer in place of the last one to an equal question.
    fn keep(&self, key: K, admits: bool, kept: KeptAnswer) {
        let (of_answer, other) = match admits {
            true => (&self.admitting, &self.refusing),
            false => (&self.refusing, &self.admitting),
        };
        other.remove(&key);
        of_answer.insert(key, kept);
    }

    /// Returns the gate at which this question of this caller waits for its turn.
    fn gate(&self, key: &K, caller: &CallerId) -> &CallerGate {
        let refused_at = self.refused_at.get(caller);
        if self.admitting.contains_key(key) {
            &self.renewing
        } else if refused_at.is_some_and(|at| at.elapsed() < REFUSED_FOR) {
            &self.asking_again
        } else {
            &self.asking
        }
    }

    /// Waits for the turn of this question. If the caller is refused meanwhile, the question waits at the other gate.
    async fn turn(&self, key: &K, caller: &CallerId) -> Result<CallerPass, GateFullError> {
        loop {
            let gate = self.gate(key, caller);
            let pass = gate.enter(caller).await?;
            if std::ptr::eq(gate, self.gate(key, caller)) {
                return Ok(pass);
            }
        }
    }
}

/// A webhook in use.
pub(crate) struct Webhook {
    settings: WebhookSettings,
    client: reqwest::Client,
    authorization: Option<http::HeaderValue>,
    of_callers: Answers<AnswerKey>,
    /// By the SHA-256 of each credential. Apart, so that a flood of unknown ones takes no turn of a known caller.
    of_credentials: Answers<[u8; 32]>,
    is_failing: AtomicBool,
}

impl Webhook {
    /// Creates a webhook, and reads the token from its file.
    ///
    /// # Errors
    /// [`WebhookStartError`] if the token cannot be read or sent, or no HTTP client can be created.
    pub(crate) fn new(settings: WebhookSettings) -> Result<Self, WebhookStartError> {
        let authorization = match &settings.token_file {
            None => None,
            Some(path) => {
                let read = read_text(path);
                let token =
                    read.map_err(|source| WebhookStartError::Token { path: path.clone(), source })?;
                let value = http::HeaderValue::from_str(&format!("Bearer {}", token.trim()));
                let mut value = value.map_err(|_| {
                    WebhookStartError::Client(format!("{}: no token of a header", path.display()))
                })?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        // Redirects are not followed: they would send callers' names to a host that the operator has not
        // configured, and let it decide.
        let client = http_client();
        let client = client.map_err(|error| WebhookStartError::Client(error.to_string()))?;
        let (of_callers, of_credentials) = (Answers::new(), Answers::new());
        let is_failing = AtomicBool::new(false);
        Ok(Self { settings, client, authorization, of_callers, of_credentials, is_failing })
    }

    /// Asks the service if the caller may publish these envelopes.
    ///
    /// # Errors
    /// [`WebhookError`] if the caller may not publish, if the service does not answer, or if too many calls are
    /// open.
    pub(crate) async fn ask(
        &self,
        caller: &CallerId,
        routed: &[Routed],
    ) -> Result<(), WebhookError> {
        self.answer(caller, routed).await.map(drop)
    }

    /// Asks the service for the tenant of a caller, if the settings say that it names tenants. Returns `None`
    /// without an answer, even if the settings admit callers then: the gateway must not choose which tenant pays.
    ///
    /// # Errors
    /// [`WebhookError`], as for [`ask`](Self::ask).
    pub(crate) async fn tenant(&self, caller: &CallerId) -> Result<Option<String>, WebhookError> {
        if !self.settings.names_tenant {
            return Ok(None);
        }
        Ok(self.answer(caller, &[]).await?.and_then(|answer| answer.tenant))
    }

    /// Asks the service whose this credential is. Clients take turns by their `address`. Returns the caller's name, and
    /// its tenant if the service names one; `None` if the credential is no caller's.
    ///
    /// # Errors
    /// [`WebhookError`] without an answer, even if the settings admit callers then: the gateway must not choose a name.
    pub(crate) async fn identify(
        &self,
        credential: &str,
        address: &CallerId,
    ) -> Result<Option<(String, Option<String>)>, WebhookError> {
        let key: [u8; 32] = Sha256::digest(credential).into();
        let answer = match self.of_credentials.kept(&key) {
            Some(answer) => answer,
            None => {
                let question = Question { credential: Some(credential), ..Question::default() };
                self.ask_in_turn(&self.of_credentials, key, address, &question).await?
            }
        };
        let name = answer.named().map(str::to_owned);
        Ok(name.map(|name| (name, answer.tenant)))
    }

    /// Returns the service's answer, which allows the caller to publish; `None` if it did not answer and the
    /// settings admit callers then.
    async fn answer(
        &self,
        caller: &CallerId,
        routed: &[Routed],
    ) -> Result<Option<WebhookAnswer>, WebhookError> {
        let kinds = routed.iter().fold(0, |kinds, envelope| kinds | 1 << envelope.kind as u8);
        let key: AnswerKey = (caller.name().into(), kinds);
        let answer = match self.of_callers.kept(&key) {
            Some(answer) => answer,
            None => {
                let tenant = self.settings.tenant.as_deref();
                let (caller_name, envelopes) = (Some(caller.name()), Some(sums(routed)));
                let question =
                    Question { caller: caller_name, tenant, envelopes, ..Question::default() };
                match self.ask_in_turn(&self.of_callers, key, caller, &question).await {
                    Err(WebhookError::NoAnswer) if self.settings.allow_without_answer => {
                        return Ok(None);
                    }
                    answer => answer?,
                }
            }
        };
        match answer {
            WebhookAnswer { allow: true, .. } => Ok(Some(answer)),
            WebhookAnswer { reason, .. } => {
                let none = || "the policy service (webhook) refused".to_owned();
                Err(WebhookError::Refused(reason.unwrap_or_else(none)))
            }
        }
    }

    /// Asks the service when it is the turn of `who`, unless an equal question was answered meanwhile.
    async fn ask_in_turn<K: Eq + Hash>(
        &self,
        answers: &Answers<K>,
        key: K,
        who: &CallerId,
        question: &Question<'_>,
    ) -> Result<WebhookAnswer, WebhookError> {
        let limit = Duration::from_millis(self.settings.timeout_ms);
        // Too many open calls are not a failure of the service. Otherwise a flood of calls would open a gateway with
        // `allow_without_answer`.
        let turn = timeout(limit, answers.turn(&key, who)).await;
        let Ok(Ok(_turn)) = turn else { return Err(WebhookError::Busy) };
        if let Some(answer) = answers.kept(&key) {
            return Ok(answer);
        }
        let asked = timeout(limit, self.fetch(question)).await;
        let late = |_| Err("the policy service (webhook) did not answer in time".to_owned());
        let asked = asked.unwrap_or_else(late);
        self.note(asked.as_ref().err());
        let answer = asked.map_err(|_| WebhookError::NoAnswer)?;
        let until = Instant::now() + Duration::from_secs(self.settings.cache_s);
        let kept = KeptAnswer { answer: answer.clone(), until };
        let admits = answer.admits(question);
        if !admits {
            answers.refused_at.insert(who.clone(), Instant::now());
        }
        answers.keep(key, admits, kept);
        Ok(answer)
    }

    /// Logs the first failure after a success, and the first success after a failure.
    fn note(&self, error: Option<&String>) {
        let was_failing = self.is_failing.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !was_failing => {
                tracing::error!(code = "webhook_failed", error, "the webhook does not answer");
            }
            None if was_failing => tracing::info!("the webhook answers again"),
            _ => {}
        }
    }

    /// Returns the call that asks a question. It may take as long as the settings say: the client's own limit would end
    /// it earlier.
    fn call(&self, question: &Question<'_>) -> Result<reqwest::Request, String> {
        let question = serde_json::to_string(question).map_err(|error| error.to_string())?;
        let limit = Duration::from_millis(self.settings.timeout_ms);
        let mut call = self.client.post(&self.settings.url).timeout(limit);
        call = call.header(http::header::CONTENT_TYPE, "application/json").body(question);
        if let Some(authorization) = &self.authorization {
            call = call.header(http::header::AUTHORIZATION, authorization);
        }
        call.build().map_err(error_text)
    }

    async fn fetch(&self, question: &Question<'_>) -> Result<WebhookAnswer, String> {
        let response = self.client.execute(self.call(question)?).await.map_err(error_text)?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("HTTP status {}", response.status().as_u16()));
        }
        let body = read_body(response, ANSWER_LEN_BYTES_MAX).await.map_err(|it| it.to_string())?;
        let answer = serde_json::from_slice(&body).map(WebhookAnswer::cut);
        answer.map_err(|error| format!("its answer: {}", one_line(&error.to_string())))
    }
}

/// Returns the text of an error without the URL, which may have a secret.
fn error_text(error: reqwest::Error) -> String {
    error.without_url().to_string()
}

/// Returns the number and the total length of the envelopes of each kind.
fn sums(routed: &[Routed]) -> BTreeMap<&'static str, KindSum> {
    let mut sums: BTreeMap<_, KindSum> = BTreeMap::new();
    for envelope in routed {
        let sum = sums.entry(envelope.kind.name()).or_default();
        sum.count += 1;
        sum.bytes += envelope.bytes.len();
    }
    sums
}

#[cfg(test)]
mod tests;
