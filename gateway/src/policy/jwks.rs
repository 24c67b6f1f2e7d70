//! Keys of tokens that are at a URL: fetched again and again, as whoever signs changes them. What
//! was fetched last stays known while it cannot be fetched.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Policies;
use super::jwt::Keys;

const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
const SET_LEN_BYTES_MAX: usize = 1024 * 1024;

/// When keys are fetched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Whatever happens.
    every: Duration,
    /// After a failure, and when a token names a key that is not known. Not sooner: anybody can
    /// name one.
    again_after: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { every: Duration::from_secs(300), again_after: Duration::from_secs(10) }
    }
}

impl Policies {
    /// Fetches keys again and again, if they are at a URL.
    pub(crate) async fn keep_keys(&self, pace: Pace, end: CancellationToken) {
        let Some(jwt) = &self.file.identity.jwt else { return };
        let Some(url) = &jwt.jwks_url else { return };
        let mut fails = false;
        loop {
            let parse =
                |text: String| Keys::parse(&text, jwt.algorithm).map_err(|error| error.to_string());
            let fetched = fetch(url).await.and_then(parse);
            match &fetched {
                Ok(_) if fails => tracing::info!("the keys of tokens are fetched again"),
                Err(error) if !fails => tracing::error!(
                    code = "jwks",
                    error,
                    "the keys of tokens are not fetched; those that are known stay"
                ),
                _ => {}
            }
            fails = fetched.is_err();
            if let Ok(keys) = fetched {
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
            }
            tokio::select! {
                () = end.cancelled() => return,
                () = sleep(if fails { pace.again_after } else { pace.every }) => {}
                () = async {
                    sleep(pace.again_after).await;
                    self.keys_wanted.notified().await;
                } => {}
            }
        }
    }
}

async fn fetch(url: &str) -> Result<String, String> {
    let client = hawser_chain::send::http_client().map_err(|error| error.to_string())?;
    let told = |error: reqwest::Error| error.without_url().to_string();
    let fetched = async {
        let response = client.get(url).send().await.map_err(told)?;
        let mut response = response.error_for_status().map_err(told)?;
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(told)? {
            body.extend_from_slice(&piece);
            if body.len() > SET_LEN_BYTES_MAX {
                return Err("it is too long".to_owned());
            }
        }
        String::from_utf8(body).map_err(|_| "it is no text".to_owned())
    };
    timeout(FETCH_TIMEOUT, fetched).await.unwrap_or_else(|_| Err("no answer".into()))
}

#[cfg(test)]
mod tests;
