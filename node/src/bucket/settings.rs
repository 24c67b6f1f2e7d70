//! The settings of a bucket: its name and the means to reach it.

use std::fmt;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::requests::service_url;

/// The scheme of a bucket's name.
pub(super) const SCHEME: &str = "s3://";
/// The default region: that of S3 itself, which other services accept too.
const REGION: &str = "us-east-1";
/// The longest prefix in bytes. Chosen: S3 accepts names of 1024 bytes, and this program's names have some hundred.
const PREFIX_LEN_BYTES_MAX: usize = 800;

/// A bucket, a prefix of names in it, and the means to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketSettings {
    /// Name of the bucket.
    pub bucket: String,
    /// The prefix of all names, without slashes at its ends; may be empty.
    pub prefix: String,
    /// URL of the service; `None` for S3 itself.
    pub endpoint: Option<String>,
    /// Region of the bucket.
    pub region: String,
    /// The credentials; `None` sends unsigned requests, for a public bucket.
    pub keys: Option<BucketKeys>,
    /// True if an endpoint on another machine may be used without TLS.
    pub allow_http: bool,
}

/// The credentials of a user of the bucket. They are never displayed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketKeys {
    /// The value of `AWS_ACCESS_KEY_ID`.
    pub id: String,
    /// The value of `AWS_SECRET_ACCESS_KEY`.
    pub secret: String,
    /// The value of `AWS_SESSION_TOKEN`, if it is set.
    pub token: Option<String>,
}

impl fmt::Debug for BucketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BucketKeys(…)")
    }
}

/// Error of a bucket's settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// The name is not that of a bucket.
    #[error("{given:?} is not a bucket: write s3://BUCKET or s3://BUCKET/PREFIX, {reason}")]
    Name {
        /// The name as given, without a user and password, which no bucket has.
        given: String,
        /// The defect.
        reason: &'static str,
    },
    /// One of the two keys is missing.
    #[error(
        "{missing} is not set, although its counterpart is: set both, or neither for a public bucket"
    )]
    Keys {
        /// The missing variable.
        missing: &'static str,
    },
    /// The endpoint cannot be used.
    #[error("AWS_ENDPOINT_URL: {reason}")]
    Endpoint {
        /// The defect.
        reason: &'static str,
    },
    /// The HTTP client cannot be created. Holds the reason.
    #[error(
        "no HTTP client can be created: {0}. If certificates are missing, install those of the system (ca-certificates)"
    )]
    Client(String),
}

impl BucketSettings {
    /// Returns true if the text has the scheme of a bucket's name.
    #[must_use]
    pub fn is_name(given: &str) -> bool {
        given.starts_with(SCHEME)
    }

    /// Parses the name of a bucket and the usual environment variables: `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION` or `AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL_S3` or
    /// `AWS_ENDPOINT_URL`, and `AWS_ALLOW_HTTP`.
    ///
    /// # Errors
    /// [`BucketError`], without any credentials in it.
    pub fn new(
        given: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, BucketError> {
        let wrong = |reason| BucketError::Name { given: without_user(given), reason };
        let rest = given.strip_prefix(SCHEME).ok_or_else(|| wrong("with s3:// before it"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let set = |names: &[&str]| {
            names.iter().find_map(|name| variable(name).filter(|value| !value.is_empty()))
        };
        let keys = match (set(&["AWS_ACCESS_KEY_ID"]), set(&["AWS_SECRET_ACCESS_KEY"])) {
            (None, None) => None,
            (Some(id), Some(secret)) => {
                Some(BucketKeys { id, secret, token: set(&["AWS_SESSION_TOKEN"]) })
            }
            (None, Some(_)) => return Err(BucketError::Keys { missing: "AWS_ACCESS_KEY_ID" }),
            (Some(_), None) => return Err(BucketError::Keys { missing: "AWS_SECRET_ACCESS_KEY" }),
        };
        let settings = Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: set(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]),
            region: set(&["AWS_REGION", "AWS_DEFAULT_REGION"]).unwrap_or(REGION.to_owned()),
            keys,
            allow_http: set(&["AWS_ALLOW_HTTP"]).is_some_and(|it| it.eq_ignore_ascii_case("true")),
        };
        settings.check()?;
        Ok(settings)
    }

    /// Checks settings from an outside source. Returns the endpoint.
    ///
    /// # Errors
    /// [`BucketError`].
    pub(super) fn check(&self) -> Result<Option<Url>, BucketError> {
        let wrong = |reason| BucketError::Name { given: without_user(&self.name()), reason };
        let is_of_bucket =
            |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || b".-".contains(&it);
        if !(3..=63).contains(&self.bucket.len()) || !self.bucket.bytes().all(is_of_bucket) {
            return Err(wrong(
                "with a bucket of 3 to 63 lower case letters, digits, dots and hyphens",
            ));
        }
        let is_of_prefix = |it: u8| it.is_ascii_alphanumeric() || b"!-_.'()=/".contains(&it);
        if self.prefix.len() > PREFIX_LEN_BYTES_MAX || !self.prefix.bytes().all(is_of_prefix) {
            return Err(wrong("with a prefix of at most 800 letters, digits and !-_.'()="));
        }
        let is_part = |part: &str| !matches!(part, "" | "." | "..");
        if !self.prefix.is_empty() && !self.prefix.split('/').all(is_part) {
            return Err(wrong("with no empty part, `.` or `..` in its prefix"));
        }
        if !self.region.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it)) {
            return Err(wrong("and a region of letters, digits and hyphens in AWS_REGION"));
        }
        self.endpoint.as_deref().map(|it| self.check_endpoint(it)).transpose()
    }

    fn check_endpoint(&self, endpoint: &str) -> Result<Url, BucketError> {
        const SECRET: &str = "it holds a password: set the keys by their own variables";
        const PLAIN: &str =
            "plain http shows the data to the network: use https, or set AWS_ALLOW_HTTP=true";
        service_url(endpoint, self.allow_http, [SECRET, PLAIN])
            .map_err(|reason| BucketError::Endpoint { reason })
    }

    /// Returns the displayed name.
    #[must_use]
    pub fn name(&self) -> String {
        match self.prefix.as_str() {
            "" => format!("{SCHEME}{}", self.bucket),
            prefix => format!("{SCHEME}{}/{prefix}", self.bucket),
        }
    }
}

/// Returns a wrong name as errors show it. Some programs take the keys before an `@` in it, and errors get into logs.
fn without_user(given: &str) -> String {
    match given.strip_prefix(SCHEME).and_then(|rest| rest.rsplit_once('@')) {
        Some((_, rest)) => format!("{SCHEME}…@{rest}"),
        None => given.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &str, set: &[(&str, &str)]) -> Result<BucketSettings, BucketError> {
        let value = |name: &str| set.iter().find(|it| it.0 == name).map(|it| it.1.to_owned());
        BucketSettings::new(given, &value)
    }

    #[test]
    fn a_bucket_is_named_and_reached_by_the_usual_variables() {
        let set = [
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "hidden"),
            ("AWS_SESSION_TOKEN", "token"),
            ("AWS_DEFAULT_REGION", "eu-central-1"),
            ("AWS_ENDPOINT_URL", "https://s3.example.org"),
        ];
        let settings = read("s3://my-bucket/node/100/", &set).unwrap();
        assert_eq!((settings.bucket.as_str(), settings.prefix.as_str()), ("my-bucket", "node/100"));
        assert_eq!(settings.name(), "s3://my-bucket/node/100");
        assert_eq!(settings.region, "eu-central-1");
        assert_eq!(settings.endpoint.as_deref(), Some("https://s3.example.org"));
        let shown = format!("{settings:?}");
        assert!(!shown.contains("hidden") && !shown.contains("token\""), "{shown}");
        let keys = settings.keys.unwrap();
        assert_eq!((keys.id.as_str(), keys.secret.as_str()), ("id", "hidden"));
        let bare = read("s3://my-bucket", &[]).unwrap();
        assert_eq!((bare.prefix.as_str(), bare.keys, bare.endpoint), ("", None, None));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for given in [
            "s3://",
            "s3://ab",
            "s3://My-bucket",
            "s3://my_bucket/x",
            "s3://b@evil.example/x",
            "http://bucket",
            "s3://bucket/a//b",
            "s3://bucket/../x",
            "s3://bucket/./x",
            "s3://bucket/a?b",
            "s3://bucket/\u{1b}[2J",
        ] {
            assert!(matches!(read(given, &[]), Err(BucketError::Name { .. })), "{given}");
        }
        for given in ["s3://id:hunter2@bucket/x", "s3://id:hun/ter2@bucket", "s3://hunter2@b"] {
            let error = read(given, &[]).unwrap_err().to_string();
            assert!(error.contains("\"s3://…@b") && !error.contains("ter2"), "{error}");
        }
        let half = read("s3://bucket", &[("AWS_ACCESS_KEY_ID", "id")]);
        assert_eq!(half, Err(BucketError::Keys { missing: "AWS_SECRET_ACCESS_KEY" }));
    }

    #[test]
    fn plain_http_leaves_this_machine_only_when_that_is_said() {
        let to = |url: &str, allow: &str| {
            read("s3://bucket", &[("AWS_ENDPOINT_URL", url), ("AWS_ALLOW_HTTP", allow)]).is_ok()
        };
        for url in [
            "http://127.0.0.1:9000",
            "http://localhost:9000",
            "http://[::1]:9000",
            "https://a.example",
        ] {
            assert!(to(url, ""), "{url}");
        }
        for url in
            ["http://10.0.0.1:9000", "http://localhost.example.org", "http://127.0.0.1.example.org"]
        {
            assert!(!to(url, "") && to(url, "true"), "{url}");
        }
        for url in [
            "ftp://a.example",
            "https://user:hidden@a.example",
            "https://a.example?x=1",
            "nonsense",
        ] {
            assert!(!to(url, "true"), "{url}");
        }
    }
}
