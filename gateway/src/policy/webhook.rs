//! Asks a service of the operator whether a caller may publish.
//!
//! Without an answer nothing is published, unless the settings allow it. An answer is valid for a caller and kinds of
//! envelopes, for the time in the settings.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::config::WebhookSettings;
use crate::routing::Routed;

/// Answers that are kept. A guess: some megabytes.
const ANSWERS_MAX: usize = 20_000;
/// Questions that are open at once; others wait, within their time. A guess: more than a service needs to be busy.
const ASKED_AT_ONCE: usize = 64;
/// Largest answer in bytes. A guess: a verdict takes less than 100.
const ANSWER_LEN_BYTES_MAX: usize = 16 * 1024;
/// Characters of a reason that are passed on to the caller. A guess: a status has to fit into a header.
const REASON_CHARS_MAX: usize = 200;

/// The reason a webhook admits no request.
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

/// The reason a webhook cannot be used.
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
    /// No HTTP client can be made, or the token is no text of a header.
    #[error("{0}")]
    Client(String),
}

/// The question, as it is sent.
#[derive(Debug, Serialize)]
struct Question<'a> {
    caller: &'a str,
    envelopes: BTreeMap<&'static str, KindSum>,
}

/// The envelopes of one kind.
#[derive(Debug, Default, Serialize)]
struct KindSum {
    count: usize,
    bytes: usize,
}

/// The answer of the service.
#[derive(Debug, Clone, Deserialize)]
struct Answer {
    allow: bool,
    #[serde(default)]
    reason: Option<String>,
    /// The tenant of the caller.
    #[serde(default)]
    tenant: Option<String>,
}

/// An answer that is kept.
#[derive(Debug, Clone)]
struct KeptAnswer {
    answer: Answer,
    until: Instant,
}

/// A caller, and the kinds that it publishes, a bit each.
type AnswerKey = (Box<str>, u8);

/// A webhook in use.
pub(crate) struct Webhook {
    settings: WebhookSettings,
    client: reqwest::Client,
    authorization: Option<http::HeaderValue>,
    answers: Cache<AnswerKey, KeptAnswer>,
    asking: Semaphore,
    is_failing: AtomicBool,
}

impl Webhook {
    /// Prepares a webhook. Reads the token from its file.
    ///
    /// # Errors
    /// [`WebhookStartError`].
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
        // A redirect would give the callers' names to a host that the operator has not named, and have it decide.
        let client = hawser_chain::send::direct_http_client();
        let client = client.map_err(|error| WebhookStartError::Client(error.to_string()))?;
        let (answers, asking) = (Cache::new(ANSWERS_MAX), Semaphore::new(ASKED_AT_ONCE));
        let is_failing = AtomicBool::new(false);
        Ok(Self { settings, client, authorization, answers, asking, is_failing })
    }

    /// Asks whether a caller may publish these envelopes.
    ///
    /// # Errors
    /// When it may not, or the service does not answer.
    pub(crate) async fn ask(&self, caller: &str, routed: &[Routed]) -> Result<(), WebhookError> {
        self.answer(caller, routed).await.map(drop)
    }

    /// Asks the service for the tenant of a caller, if the settings say that the service knows it. A caller without an
    /// answer has no tenant.
    ///
    /// # Errors
    /// When the caller may not publish, or the service does not answer.
    pub(crate) async fn tenant(&self, caller: &str) -> Result<Option<String>, WebhookError> {
        if !self.settings.names_tenant {
            return Ok(None);
        }
        Ok(self.answer(caller, &[]).await?.and_then(|answer| answer.tenant))
    }

    /// Returns the answer if it allows the caller to publish; `None` if there is none and the settings allow it.
    async fn answer(
        &self,
        caller: &str,
        routed: &[Routed],
    ) -> Result<Option<Answer>, WebhookError> {
        let kinds = routed.iter().fold(0, |kinds, envelope| kinds | 1 << envelope.kind as u8);
        let key: AnswerKey = (caller.into(), kinds);
        let kept = self.answers.get(&key).filter(|kept| kept.until > Instant::now());
        let answer = match kept {
            Some(kept) => kept.answer,
            None => {
                let limit = Duration::from_millis(self.settings.timeout_ms);
                // A flood of questions is no failure of the service: nothing passes for it.
                let permit = timeout(limit, self.asking.acquire()).await;
                let Ok(Ok(_permit)) = permit else { return Err(WebhookError::Busy) };
                let asked = timeout(limit, self.fetch(caller, routed)).await;
                let asked = asked.unwrap_or_else(|_| {
                    Err("the policy service (webhook) did not answer in \
                    time"
                        .into())
                });
                self.note(asked.as_ref().err());
                match asked {
                    Ok(answer) => {
                        let until = Instant::now() + Duration::from_secs(self.settings.cache_s);
                        self.answers.insert(key, KeptAnswer { answer: answer.clone(), until });
                        answer
                    }
                    Err(_) if self.settings.allow_without_answer => return Ok(None),
                    Err(_) => return Err(WebhookError::NoAnswer),
                }
            }
        };
        match answer {
            Answer { allow: true, .. } => Ok(Some(answer)),
            Answer { reason, .. } => {
                let reason =
                    reason.unwrap_or_else(|| "the policy service (webhook) refused".into());
                let printable = reason.chars().filter(|it| !it.is_control());
                Err(WebhookError::Refused(printable.take(REASON_CHARS_MAX).collect()))
            }
        }
    }

    /// Logs the first failure after an answer, and the first answer after a failure.
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

    async fn fetch(&self, caller: &str, routed: &[Routed]) -> Result<Answer, String> {
        let mut envelopes: BTreeMap<_, KindSum> = BTreeMap::new();
        for envelope in routed {
            let sum = envelopes.entry(envelope.kind.name()).or_default();
            sum.count += 1;
            sum.bytes += envelope.bytes.len();
        }
        let question = serde_json::to_string(&Question { caller, envelopes });
        let question = question.map_err(|error| error.to_string())?;
        let told = |error: reqwest::Error| error.without_url().to_string();
        let mut request = self.client.post(&self.settings.url);
        request = request.header(http::header::CONTENT_TYPE, "application/json").body(question);
        if let Some(authorization) = &self.authorization {
            request = request.header(http::header::AUTHORIZATION, authorization);
        }
        let mut response = request.send().await.map_err(told)?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("HTTP status {}", response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(told)? {
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
