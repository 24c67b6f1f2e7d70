//! A web server as a source of snapshots: it only has to serve the files of a folder under a URL.
//!
//! The adversaries are the operator of the server and the network in between. They may respond endlessly or
//! with other bytes, state wrong lengths, redirect, fail, or respond very slowly. So nothing is read beyond the
//! reader's bound, redirects are not followed, and requests and retries have time limits. Readers verify the
//! data by hashes and signatures.

use std::fmt;
use std::io::{self, Cursor, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hawser_chain::send::{AnswerBodyError, read_body};
use hawser_proto::with_causes;
use hawser_storage::{FoundObject, HeldObjects, ListedObject, NewObject, Objects};
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH};
use http::{Method, StatusCode};
use reqwest::{Client, Response, Url};

use crate::requests::{Requests, StopCheck, is_loopback, service_url};
use crate::settings::place_of;

/// The time limit of connecting. A guess.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The longest time without a received byte. A guess.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The time limit of one request with its response. Computed for 64 MiB, the longest chunk, at 1 Mbit/s.
const REQUEST_MAX: Duration = Duration::from_secs(600);
/// The number of attempts after the first one. A guess: busy servers ask clients to retry later.
const RETRIES_MAX: u32 = 4;
/// The first pause before another attempt; it doubles each time. A guess.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// The time after which no further attempt is made. A guess.
const RETRY_MAX: Duration = Duration::from_secs(180);
/// The name of an object that lists the objects of a folder, one per line, because a web
/// server has no listing of its own.
const NAMES: &str = "names";
/// The largest length of that object in bytes. Computed: twice the most that a writer of snapshots writes.
const NAMES_LEN_BYTES_MAX: u64 = 1 << 20;

/// Error of a web server's URL or client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebError {
    /// The URL is not acceptable.
    #[error("{given:?}: {reason}")]
    Url {
        /// Scheme, host and port of the address.
        given: String,
        /// The defect.
        reason: &'static str,
    },
    /// The HTTP client cannot be created. Holds the reason.
    #[error(
        "no HTTP client can be created: {0}. If certificates are missing, install those of the system (ca-certificates)"
    )]
    Client(String),
}

/// A URL whose path is a folder. Every call blocks, so it must not be used on an async task.
pub struct WebObjects {
    /// The URL without a slash at its end.
    base: String,
    client: Client,
    requests: Requests,
}

impl fmt::Debug for WebObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebObjects").field(&self.base).finish()
    }
}

/// The failure of one attempt.
enum AttemptError {
    /// A temporary failure: another attempt may succeed.
    Passing(io::Error),
    /// A permanent failure: every further attempt would fail.
    Lasting(io::Error),
}

impl AttemptError {
    fn passing(error: reqwest::Error) -> Self {
        // The caller states the URL.
        Self::Passing(io::Error::other(with_causes(&error.without_url())))
    }

    fn lasting(text: impl Into<String>) -> Self {
        Self::Lasting(io::Error::other(text.into()))
    }
}

impl WebObjects {
    /// Returns true if the text has the scheme of an HTTP URL.
    #[must_use]
    pub fn is_url(given: &str) -> bool {
        given.starts_with("https://") || given.starts_with("http://")
    }

    /// Prepares requests without sending any. Plain HTTP to other machines requires `allow_http`.
    ///
    /// # Errors
    /// [`WebError`].
    pub fn new(given: &str, allow_http: bool, stop: StopCheck) -> Result<Self, WebError> {
        let url = check(given, allow_http)?;
        let failed = |error: &dyn fmt::Display| WebError::Client(error.to_string());
        // An error means that the process has already installed another one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .connect_timeout(CONNECT_MAX)
            .read_timeout(SILENCE_MAX)
            .timeout(REQUEST_MAX)
            // A redirect would lead to a host that the operator has not named.
            .redirect(reqwest::redirect::Policy::none())
            .https_only(url.scheme() == "https");
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| failed(&with_causes(&error)))?;
        let requests = Requests::new(stop).map_err(|error| failed(&error))?;
        Ok(Self { base: url.as_str().trim_end_matches('/').to_owned(), client, requests })
    }

    fn url_of(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }

    /// Sends a request. Returns the response if the server has the object.
    async fn ask(&self, method: Method, name: &str) -> Result<Response, AttemptError> {
        let request = self.client.request(method, self.url_of(name));
        // The hash is that of the file, not of its compressed form.
        let sent = request.header(ACCEPT_ENCODING, "identity").send().await;
        let answer = sent.map_err(AttemptError::passing)?;
        let status = answer.status();
        let text = format!("the server answers {status}");
        match status {
            StatusCode::OK => Ok(answer),
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                Err(AttemptError::Lasting(io::Error::new(ErrorKind::NotFound, text)))
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(AttemptError::Passing(io::Error::other(text)))
            }
            _ if status.is_server_error() => Err(AttemptError::Passing(io::Error::other(text))),
            _ if status.is_redirection() => {
                Err(AttemptError::lasting(format!("{text}: redirects are not followed")))
            }
            _ => Err(AttemptError::lasting(text)),
        }
    }

    async fn len_of(&self, name: &str) -> Result<u64, AttemptError> {
        let answer = self.ask(Method::HEAD, name).await?;
        let stated = answer.headers().get(CONTENT_LENGTH);
        let len = stated.and_then(|value| value.to_str().ok()?.parse().ok());
        len.ok_or_else(|| AttemptError::lasting("the server states no length (Content-Length)"))
    }

    /// Reads a whole object of at most `len_bytes_max` bytes.
    async fn read(&self, name: &str, len_bytes_max: u64) -> Result<Vec<u8>, AttemptError> {
        let answer = self.ask(Method::GET, name).await?;
        let room = usize::try_from(len_bytes_max).unwrap_or(usize::MAX);
        read_body(answer, room).await.map_err(|error| match error {
            AnswerBodyError::TooLong => {
                AttemptError::lasting(format!("it has more than {len_bytes_max} bytes"))
            }
            AnswerBodyError::Broken(error) => AttemptError::passing(error),
        })
    }

    /// Repeats attempts until one succeeds or fails permanently, within the bounds of number and time.
    fn attempt<'a, T, F>(&'a self, ask: impl Fn() -> F + 'a) -> io::Result<T>
    where
        F: Future<Output = Result<T, AttemptError>> + 'a,
    {
        let attempts = async {
            let (begun, mut pause) = (Instant::now(), PAUSE_MIN);
            for _ in 0..RETRIES_MAX {
                match ask().await {
                    Err(AttemptError::Passing(_)) if begun.elapsed() < RETRY_MAX => {}
                    done => return done,
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            ask().await
        };
        match self.requests.wait(Duration::ZERO, attempts)? {
            Ok(done) => Ok(done),
            Err(AttemptError::Passing(error) | AttemptError::Lasting(error)) => Err(error),
        }
    }
}

impl Objects for WebObjects {
    fn location(&self, name: &str) -> PathBuf {
        PathBuf::from(if name.is_empty() { self.base.clone() } else { self.url_of(name) })
    }

    fn folder(&self) -> Option<&Path> {
        None
    }

    /// Returns true: a server has no folders, but may have objects whose names begin with this one.
    fn has_folder(&self, _: &str) -> io::Result<bool> {
        Ok(true)
    }

    fn make_folder(&self, _: &str) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_folder(&self, _: &str) -> io::Result<()> {
        Err(read_only())
    }

    fn find(&self, name: &str) -> io::Result<FoundObject> {
        match self.attempt(|| self.len_of(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(FoundObject::Absent),
            found => found.map(FoundObject::Plain),
        }
    }

    /// Reads the whole object, so that an interrupted response is requested again completely.
    fn open(&self, name: &str, len_bytes_max: u64) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(Cursor::new(self.attempt(|| self.read(name, len_bytes_max))?)))
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn NewObject + '_>> {
        Err(read_only())
    }

    /// Reads the object `names` of the folder. It contains no lengths, which are returned as 0.
    fn list(&self, folder: &str) -> io::Result<Vec<ListedObject>> {
        let names = format!("{folder}/{NAMES}");
        let bytes = match self.attempt(|| self.read(&names, NAMES_LEN_BYTES_MAX)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let text = "the server has no list of the snapshots (snapshots/names): name one with --snapshot";
                return Err(io::Error::new(ErrorKind::NotFound, text));
            }
            read => read?,
        };
        let text =
            String::from_utf8(bytes).map_err(|_| io::Error::other("the list is not UTF-8 text"))?;
        let is_inside = |name: &str| {
            let rest = name.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
            rest.is_some_and(|rest| {
                rest.bytes().all(|it| it.is_ascii_alphanumeric() || b"-.".contains(&it))
            })
        };
        let object = |name: &str| -> io::Result<ListedObject> {
            let name = is_inside(name).then(|| name.to_owned());
            let name =
                name.ok_or_else(|| io::Error::other("the list has an object of another folder"))?;
            Ok(ListedObject { name, len_bytes: 0, is_plain: true })
        };
        text.lines().map(object).collect()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(read_only())
    }

    fn lock(&self) -> io::Result<Box<dyn HeldObjects + '_>> {
        Err(read_only())
    }
}

fn read_only() -> io::Error {
    io::Error::new(ErrorKind::Unsupported, "a web server is only read from")
}

/// Returns the text of an error in which only the host of a source's address is shown. `given` is the address from the
/// settings; errors have it in its normal form, with a host in lower case and without a usual port.
pub(crate) fn with_host_only(text: &str, given: &str) -> String {
    let given = given.trim_end_matches('/');
    let shown = place_of(given);
    let normal = Url::parse(given).map(String::from).unwrap_or_default();
    let addresses = [normal.trim_end_matches('/'), given].into_iter().filter(|it| !it.is_empty());
    addresses.fold(text.to_owned(), |text, address| text.replace(address, &shown))
}

/// Parses and checks a URL.
fn check(given: &str, allow_http: bool) -> Result<Url, WebError> {
    const SECRET: &str = "it may hold no user and no password";
    const PLAIN: &str = "plain http shows the network what is read: use https, or say --allow-http";
    service_url(given, allow_http, [SECRET, PLAIN]).map_err(|reason| {
        // A URL with a secret is not shown.
        let given = if reason == SECRET { "the URL".to_owned() } else { place_of(given) };
        WebError::Url { given, reason }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_leaves_this_machine_only_when_that_is_said() {
        let is_taken = |given: &str, allow_http| check(given, allow_http).is_ok();
        for given in
            ["https://a.example/x/", "http://127.0.0.1:80/x", "http://[::1]", "http://localhost"]
        {
            assert!(is_taken(given, false), "{given}");
        }
        for given in ["http://a.example", "http://10.0.0.1/x", "http://localhost.example.org"] {
            assert!(!is_taken(given, false) && is_taken(given, true), "{given}");
        }
        for given in [
            "ftp://a.example",
            "https://a.example?x",
            "https://a.example/#x",
            "https://",
            "nonsense",
        ] {
            assert!(!is_taken(given, true), "{given}");
        }
    }

    #[test]
    fn an_error_about_an_object_shows_the_host_of_the_address_in_every_spelling() {
        for given in [
            "https://a.example/hidden",
            "https://A.Example:443/hidden/",
            "https://a.example/x/../hidden",
            "https://a.example",
        ] {
            let web = WebObjects::new(given, false, std::sync::Arc::new(|| false)).unwrap();
            let error =
                format!("{}: the server answers 403", web.location("snapshots/1").display());
            let shown = with_host_only(&error, given);
            let is_whole = shown.ends_with("/snapshots/1: the server answers 403");
            assert!(is_whole && !shown.contains("hidden"), "{shown}");
        }
        for place in ["/srv/snapshots", "s3://bucket/node"] {
            let error = format!("{place}/snapshots/1: denied");
            assert_eq!(with_host_only(&error, place), error);
        }
    }

    #[test]
    fn an_address_with_a_password_is_refused_and_not_shown() {
        let error = |given: &str| check(given, true).unwrap_err().to_string();
        let refused = error("https://user:hidden@a.example");
        assert!(!refused.contains("hidden") && refused.contains("password"), "{refused}");
        for given in ["https://user:hidden@a.example:port", "https://user:hidden@"] {
            assert!(!error(given).contains("hidden"), "{}", error(given));
        }
    }
}
