//! Asks a service of the operator, the webhook, whether a caller may publish.
//!
//! Without an answer the request is refused, unless the settings allow it. An answer is reused for the same caller
//! and the same kinds of envelopes, for the time in the settings.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::CallerId;
use super::config::WebhookSettings;
use crate::fair::FairGate;
use crate::routing::Routed;

/// Largest number of answers that are kept. A guess: some megabytes.
const ANSWERS_MAX: usize = 20_000;
/// Largest number of open calls; further ones wait, at most for the time of an answer, and callers take turns. A guess:
/// more than a service needs to be busy.
const ASKED_AT_ONCE: usize = 64;
/// Largest answer in bytes. A guess: usual answers have less than 100.
const ANSWER_LEN_BYTES_MAX: usize = 16 * 1024;
/// Characters of a reason that are passed on to the caller. A guess: a status has to fit into a header.
const REASON_CHARS_MAX: usize = 200;

/// Why the webhook does not admit a request.
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

/// Why a webhook cannot be used.
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
#[derive(Debug, Serialize)]
struct Question<'a> {
    caller: &'a str,
    /// Names of callers are unique only within a tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    envelopes: BTreeMap<&'static str, KindSum>,
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
    /// Name of the caller's tenant.
    #[serde(default)]
    tenant: Option<String>,
}

/// An answer that is reused until a time.
#[derive(Debug, Clone)]
struct KeptAnswer {
    answer: WebhookAnswer,
    until: Instant,
}

/// A caller, and the kinds of its envelopes as a bit set.
type AnswerKey = (Box<str>, u8);

/// A webhook in use.
pub(crate) struct Webhook {
    settings: WebhookSettings,
    client: reqwest::Client,
    authorization: Option<http::HeaderValue>,
    answers: Cache<AnswerKey, KeptAnswer>,
    asking: FairGate,
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
                let read = std::fs::read_to_string(path);
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
        let client = hawser_chain::send::direct_http_client();
        let client = client.map_err(|error| WebhookStartError::Client(error.to_string()))?;
        let (answers, asking) = (Cache::new(ANSWERS_MAX), FairGate::new(ASKED_AT_ONCE));
        let is_failing = AtomicBool::new(false);
        Ok(Self { settings, client, authorization, answers, asking, is_failing })
    }

    /// Returns if the service allows the caller to publish these envelopes.
    ///
    /// # Errors
    /// [`WebhookError`] if the caller may not publish, if the service does not answer, or if too many calls are
    /// open.
    pub(crate) async fn ask(&self, caller: &str, routed: &[Routed]) -> Result<(), WebhookError> {
        self.answer(caller, routed).await.map(drop)
    }

    /// Asks the service for the tenant of a caller, if the settings say that it names tenants. Returns `None`
    /// without an answer, even if the settings admit callers then: the gateway must not choose which tenant pays.
    ///
    /// # Errors
    /// [`WebhookError`], as for [`ask`](Self::ask).
    pub(crate) async fn tenant(&self, caller: &str) -> Result<Option<String>, WebhookError> {
        if !self.settings.names_tenant {
            return Ok(None);
        }
        Ok(self.answer(caller, &[]).await?.and_then(|answer| answer.tenant))
    }

    /// Returns the service's answer, which allows the caller to publish; `None` if it did not answer and the
    /// settings admit callers then.
    async fn answer(
        &self,
        caller: &str,
        routed: &[Routed],
    ) -> Result<Option<WebhookAnswer>, WebhookError> {
        let kinds = routed.iter().fold(0, |kinds, envelope| kinds | 1 << envelope.kind as u8);
        let key: AnswerKey = (caller.into(), kinds);
        let answer = match self.kept(&key) {
            Some(answer) => answer,
            None => match self.ask_in_turn(key, routed).await? {
                Some(answer) => answer,
                None => return Ok(None),
            },
        };
        match answer {
            WebhookAnswer { allow: true, .. } => Ok(Some(answer)),
            WebhookAnswer { reason, .. } => {
                let reason =
                    reason.unwrap_or_else(|| "the policy service (webhook) refused".into());
                let printable = reason.chars().filter(|it| !it.is_control());
                Err(WebhookError::Refused(printable.take(REASON_CHARS_MAX).collect()))
            }
        }
    }

    /// Returns the answer to an equal question, if it may still be reused.
    fn kept(&self, key: &AnswerKey) -> Option<WebhookAnswer> {
        let kept = self.answers.get(key).filter(|kept| kept.until > Instant::now());
        kept.map(|kept| kept.answer)
    }

    /// Asks the service when it is the caller's turn, unless an equal question was answered meanwhile. Returns `None`
    /// if the service did not answer and the settings admit callers then.
    async fn ask_in_turn(
        &self,
        key: AnswerKey,
        routed: &[Routed],
    ) -> Result<Option<WebhookAnswer>, WebhookError> {
        let limit = Duration::from_millis(self.settings.timeout_ms);
        let caller = CallerId::of_name(&key.0);
        // Too many open calls are not a failure of the service. Otherwise a flood of calls would open a gateway with
        // `allow_without_answer`.
        let turn = timeout(limit, self.asking.enter(&caller)).await;
        let Ok(Ok(_turn)) = turn else { return Err(WebhookError::Busy) };
        if let Some(answer) = self.kept(&key) {
            return Ok(Some(answer));
        }
        let asked = timeout(limit, self.fetch(&key.0, routed)).await;
        let late = |_| Err("the policy service (webhook) did not answer in time".to_owned());
        let asked = asked.unwrap_or_else(late);
        self.note(asked.as_ref().err());
        match asked {
            Ok(answer) => {
                let until = Instant::now() + Duration::from_secs(self.settings.cache_s);
                self.answers.insert(key, KeptAnswer { answer: answer.clone(), until });
                Ok(Some(answer))
            }
            Err(_) if self.settings.allow_without_answer => Ok(None),
            Err(_) => Err(WebhookError::NoAnswer),
        }
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

    async fn fetch(&self, caller: &str, routed: &[Routed]) -> Result<WebhookAnswer, String> {
        let mut envelopes: BTreeMap<_, KindSum> = BTreeMap::new();
        for envelope in routed {
            let sum = envelopes.entry(envelope.kind.name()).or_default();
            sum.count += 1;
            sum.bytes += envelope.bytes.len();
        }
        let tenant = self.settings.tenant.as_deref();
        let question = serde_json::to_string(&Question { caller, tenant, envelopes });
        let question = question.map_err(|error| error.to_string())?;
        let error_text = |error: reqwest::Error| error.without_url().to_string();
        let mut request = self.client.post(&self.settings.url);
        request = request.header(http::header::CONTENT_TYPE, "application/json").body(question);
        if let Some(authorization) = &self.authorization {
            request = request.header(http::header::AUTHORIZATION, authorization);
        }
        let mut response = request.send().await.map_err(error_text)?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("HTTP status {}", response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(error_text)? {
            body.extend_from_slice(&piece);
            if body.len() > ANSWER_LEN_BYTES_MAX {
                return Err("its answer is too long".into());
            }
        }
        serde_json::from_slice(&body).map_err(|error| format!("its answer: {error}"))
    }
}

#[cfg(test)]
mod tests;
