//! The connection string of a Postgres database: the options for the Postgres library, and those about TLS.

use std::path::PathBuf;
use std::str::FromStr as _;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, SslNegotiation};

use super::error::ImportError;
use super::tls::{CertificateCheck, PostgresTls};

/// TLS options that name a client certificate or a list of revoked certificates. They are not supported.
const NOT_SERVED: [&str; 5] = ["sslcert", "sslkey", "sslpassword", "sslcrl", "sslcrldir"];

/// The address of a database, and the protection of the connection.
#[derive(Clone)]
pub(super) struct DatabaseAddress {
    pub(super) config: Config,
    pub(super) tls: PostgresTls,
}

/// The TLS options of a connection string.
#[derive(Debug, Default, PartialEq, Eq)]
struct TlsOptions {
    mode: Option<String>,
    /// The file of trusted authorities; `None` for those of the system.
    roots: Option<PathBuf>,
    /// True if the system's authorities are requested explicitly.
    is_system: bool,
}

impl DatabaseAddress {
    /// Parses a connection string: a URL or `key=value` pairs.
    ///
    /// # Errors
    /// [`ImportError::Address`], without any value of the string, which may contain a password.
    pub(super) fn parse(text: &str) -> Result<Self, ImportError> {
        let (rest, options) = split(text).map_err(ImportError::Address)?;
        let mut config = Config::from_str(&rest)
            .map_err(|error| ImportError::Address(format!("no connection string: {error}")))?;
        // The library then leaves it to `PostgresTls` to ask the server for TLS.
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        let (mode, checked) = protection(&options).map_err(ImportError::Address)?;
        let tls = PostgresTls::new(mode, checked, options.roots.as_deref());
        let tls = tls.map_err(ImportError::Address)?;
        require_hosts(&config).map_err(ImportError::Address)?;
        Ok(Self { config, tls })
    }
}

/// Requires that each server has a host for TCP. The Postgres library calls no connector such as [`PostgresTls`] for a
/// Unix socket or for an address alone, and would not connect.
fn require_hosts(config: &Config) -> Result<(), String> {
    let hosts = config.get_hosts();
    if hosts.iter().any(|host| !matches!(host, Host::Tcp(_))) {
        return Err("a Unix socket is not served: name a host, such as 127.0.0.1".into());
    }
    if hosts.is_empty() {
        return Err("it names no host, such as 127.0.0.1".into());
    }
    Ok(())
}

/// Returns when TLS is used, and which checks are made. Without a mode it is used if the
/// server supports it, as in libpq.
fn protection(options: &TlsOptions) -> Result<(SslMode, CertificateCheck), String> {
    // As in libpq: public authorities issue certificates for every owner of a name, so only the name identifies the
    // server.
    if options.is_system && options.mode.as_deref().is_some_and(|mode| mode != "verify-full") {
        return Err("sslrootcert=system needs sslmode=verify-full".into());
    }
    if options.is_system {
        return Ok((SslMode::Require, CertificateCheck::IssuerAndName));
    }
    Ok(match options.mode.as_deref().unwrap_or("prefer") {
        "disable" => (SslMode::Disable, CertificateCheck::Nothing),
        "allow" | "prefer" => (SslMode::Prefer, CertificateCheck::Nothing),
        // libpq also checks the issuer if an authority is configured.
        "require" | "verify-ca" if options.roots.is_some() => {
            (SslMode::Require, CertificateCheck::Issuer)
        }
        "require" => (SslMode::Require, CertificateCheck::Nothing),
        // libpq refuses `verify-ca` without a file of authorities. Those of the machine may be public.
        "verify-ca" | "verify-full" => (SslMode::Require, CertificateCheck::IssuerAndName),
        _ => {
            let modes = "disable, allow, prefer, require, verify-ca or verify-full";
            return Err(format!("sslmode is none of {modes}"));
        }
    })
}

/// Separates the TLS options from a connection string, because the Postgres library supports only some of them.
fn split(text: &str) -> Result<(String, TlsOptions), String> {
    let is_url = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
    let mut options = TlsOptions::default();
    let rest = if is_url {
        // A password may contain a question mark.
        let host = text.rfind('@').unwrap_or_default();
        // An @ in the query would be read as the end of a password, and options before it as part of that.
        if ["sslmode=", "sslrootcert="].iter().any(|option| text[..host].contains(option)) {
            return Err(
                "it is not clear where the options begin: write @ and ? as %40 and %3F".into()
            );
        }
        let Some(query) = text[host..].find('?').map(|at| host + at) else {
            return Ok((text.to_owned(), options));
        };
        let mut kept = Vec::new();
        for pair in text[query + 1..].split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !options.take(key, || decoded(value))? {
                kept.push(pair);
            }
        }
        let end = if kept.is_empty() { query } else { query + 1 };
        [&text[..end], &kept.join("&")].concat()
    } else {
        let mut rest = text;
        let mut kept = Vec::new();
        while let Some((pair, after)) = next_pair(rest) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !options.take(key.trim(), || Some(unquoted(value.trim())))? {
                kept.push(pair.trim());
            }
            rest = after;
        }
        kept.join(" ")
    };
    Ok((rest, options))
}

impl TlsOptions {
    /// Consumes an option if it is about TLS. Returns false otherwise.
    fn take(&mut self, key: &str, value: impl FnOnce() -> Option<String>) -> Result<bool, String> {
        let read = || value().ok_or_else(|| format!("{key} is malformed"));
        match key {
            "sslmode" => self.mode = Some(read()?),
            "sslrootcert" => {
                let roots = read()?;
                self.is_system = roots == "system";
                self.roots = Some(roots).filter(|_| !self.is_system).map(Into::into);
            }
            _ if NOT_SERVED.contains(&key) => {
                return Err(format!(
                    "{key} is not served: use a password, or a tunnel and sslmode=disable"
                ));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Splits the first `key=value` off. Spaces end a value unless they are quoted or escaped.
fn next_pair(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let begin = text.find('=')? + 1;
    let begin = begin + (text[begin..].len() - text[begin..].trim_start().len());
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, character) in text[begin..].char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '\'' => is_quoted = !is_quoted,
            _ if character.is_whitespace() && !is_quoted => {
                return Some(text.split_at(begin + at));
            }
            _ => {}
        }
    }
    Some((text, ""))
}

/// Removes quotes and escapes from a value.
fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('\'').and_then(|it| it.strip_suffix('\'')).unwrap_or(value);
    let mut characters = inner.chars();
    let mut plain = String::with_capacity(inner.len());
    while let Some(character) = characters.next() {
        plain.push(if character == '\\' { characters.next().unwrap_or('\\') } else { character });
    }
    plain
}

/// Decodes the percent escapes of a URL; `None` if they are malformed.
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> (String, Option<String>, Option<String>) {
        let (rest, TlsOptions { mode, roots, .. }) = split(text).unwrap();
        (rest, mode, roots.map(|path| path.display().to_string()))
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn options_about_tls_are_taken_out_and_others_stay() {
        for text in ["postgres://reader:a?b@db/xmtpd", "host=db dbname=xmtpd", ""] {
            assert_eq!(seen(text), (text.to_owned(), None, None));
        }
        let url = "postgres://me:se%3Dcret@db:5433/xmtpd?sslmode=verify-full&connect_timeout=5&\
                   sslrootcert=%2Fetc%2Fa%20b.pem";
        let rest = "postgres://me:se%3Dcret@db:5433/xmtpd?connect_timeout=5".to_owned();
        assert_eq!(seen(url), (rest, some("verify-full"), some("/etc/a b.pem")));
        let url = "postgresql://db/xmtpd?sslmode=require";
        assert_eq!(seen(url), ("postgresql://db/xmtpd".to_owned(), some("require"), None));
        let pairs = r"host = db  password='a sslmode=disable \' b' sslmode=verify-ca sslrootcert='/a b/\\c'";
        let rest = r"host = db password='a sslmode=disable \' b'".to_owned();
        assert_eq!(seen(pairs), (rest, some("verify-ca"), some(r"/a b/\c")));
        assert_eq!(seen("host=db sslrootcert=system").2, None, "the authorities of this machine");
        assert!(split("postgres://db/xmtpd?sslrootcert=%2").is_err());
    }

    #[test]
    fn a_mode_is_no_weaker_than_it_says() {
        let of = |mode: &str, roots: Option<&str>| {
            let (mode, roots) = (Some(mode.to_owned()), roots.map(PathBuf::from));
            protection(&TlsOptions { mode, roots, is_system: false })
        };
        assert_eq!(of("disable", None), Ok((SslMode::Disable, CertificateCheck::Nothing)));
        assert_eq!(of("prefer", None), protection(&TlsOptions::default()));
        assert_eq!(of("require", None), Ok((SslMode::Require, CertificateCheck::Nothing)));
        assert_eq!(of("require", Some("/ca")), Ok((SslMode::Require, CertificateCheck::Issuer)));
        assert_eq!(of("verify-ca", Some("/ca")), of("require", Some("/ca")));
        for mode in ["verify-ca", "verify-full"] {
            let named = Ok((SslMode::Require, CertificateCheck::IssuerAndName));
            assert_eq!(of(mode, None), named, "{mode}: a public authority has many customers");
        }
        assert!(of("VERIFY-FULL", None).is_err(), "libpq refuses it, too");

        let of_system = |mode: Option<&str>| {
            let mode = mode.map(str::to_owned);
            protection(&TlsOptions { mode, is_system: true, ..TlsOptions::default() })
        };
        for mode in [None, Some("verify-full")] {
            assert_eq!(of_system(mode), Ok((SslMode::Require, CertificateCheck::IssuerAndName)));
        }
        for mode in ["disable", "prefer", "require", "verify-ca"] {
            assert!(of_system(Some(mode)).is_err(), "{mode}");
        }
    }

    #[test]
    fn what_is_not_served_is_refused_in_words_that_name_no_value() {
        for (text, wanted) in [
            ("postgres://reader:secret@db/xmtpd?sslcert=/a/b", "sslcert is not served"),
            ("password=secret sslmode=some", "sslmode is none of"),
            (
                "host=db password=secret sslmode=verify-ca sslrootcert=/none.pem",
                "sslrootcert /none.pem",
            ),
            ("password=secret port=x", "no connection string"),
            ("postgres://u:secret@db/x?sslmode=require&application_name=a@b", "not clear"),
            ("postgres://u:secret@%2Frun%2Fpostgresql/x", "a Unix socket is not served"),
            ("host=db,/run/postgresql password=secret", "a Unix socket is not served"),
            ("hostaddr=127.0.0.1 password=secret", "names no host"),
            ("postgres:///x?password=secret", "names no host"),
        ] {
            let Err(refused) = DatabaseAddress::parse(text) else { panic!("{wanted}") };
            let refused = refused.to_string();
            assert!(refused.contains(wanted) && !refused.contains("secret"), "{refused}");
        }
        assert!(DatabaseAddress::parse("host=db dbname=xmtpd sslmode=disable").is_ok());
    }
}
