//! Fetches the keys of tokens from a URL at intervals, because the issuer rotates them. While fetching fails, the
//! last version stays in use.

use std::time::Duration;

use hawser_chain::send::{http_client, read_body};
use hawser_proto::one_line;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Policies;
use super::config::JwtAlgorithm;
use super::jwt::TokenKeys;

/// Time for one fetch. A guess.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest key set in bytes. A guess: one key takes less than 1 kB.
const SET_LEN_BYTES_MAX: usize = 1024 * 1024;

/// The times at which keys are fetched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyFetchSettings {
    /// Pause after a successful fetch. Default: 5 minutes.
    every: Duration,
    /// Pause after a failed fetch, and shortest pause before a fetch that a token with an unknown key id causes.
    /// Default: 10 s: any client can send such a token.
    retry_after: Duration,
}

impl Default for KeyFetchSettings {
    fn default() -> Self {
        Self { every: Duration::from_secs(300), retry_after: Duration::from_secs(10) }
    }
}

impl Policies {
    /// Fetches keys until `end`. Returns at once if the policies have no URL.
    pub(crate) async fn keep_keys(&self, times: KeyFetchSettings, end: CancellationToken) {
        let Some(jwt) = &self.file.identity.jwt else { return };
        let Some(url) = &jwt.jwks_url else { return };
        let mut is_failing = false;
        loop {
            let fetched = fetch(url).await.and_then(|text| keys_of(&text, jwt.algorithm));
            match &fetched {
                Ok(_) if is_failing => tracing::info!("the keys of tokens are fetched again"),
                Err(error) if !is_failing => tracing::error!(
                    code = "jwks",
                    error,
                    "the keys of tokens cannot be fetched: those that are known stay in use"
                ),
                _ => {}
            }
            is_failing = fetched.is_err();
            if let Ok(keys) = fetched {
                *self.keys.write() = keys;
            }
            tokio::select! {
                () = end.cancelled() => return,
                () = sleep(if is_failing { times.retry_after } else { times.every }) => {}
                () = async {
                    sleep(times.retry_after).await;
                    self.keys_wanted.notified().await;
                } => {}
            }
        }
    }
}

/// Parses keys. An error is short, because it may repeat the text.
fn keys_of(text: &str, algorithm: JwtAlgorithm) -> Result<TokenKeys, String> {
    TokenKeys::parse(text, algorithm).map_err(|error| one_line(&error.to_string()))
}

async fn fetch(url: &str) -> Result<String, String> {
    // Redirects are not followed: the keys would come from a host, or over a connection, that the operator has not
    // configured.
    let client = http_client().map_err(|error| error.to_string())?;
    let error_text = |error: reqwest::Error| error.without_url().to_string();
    let fetched = async {
        let response = client.get(url).send().await.map_err(error_text)?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("HTTP status {}", response.status().as_u16()));
        }
        let body = read_body(response, SET_LEN_BYTES_MAX).await.map_err(|it| it.to_string())?;
        String::from_utf8(body).map_err(|_| "the answer is not UTF-8 text".to_owned())
    };
    timeout(FETCH_TIMEOUT, fetched).await.unwrap_or_else(|_| Err("no answer".into()))
}

#[cfg(test)]
mod tests;
