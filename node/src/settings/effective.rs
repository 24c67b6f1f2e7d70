//! The settings as they are in effect, with where each comes from, for people to look at.

use hawser_proto::SecretKey;

use super::given::{Given, Origin};
use super::settings::{self, Kind, Setting};

/// One setting as it is in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// What it is.
    pub setting: &'static Setting,
    /// What it is set to.
    pub shown: Shown,
    /// Who set it.
    pub origin: Origin,
}

/// A value as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// As it was given.
    Value(String),
    /// A secret key: the address that belongs to it.
    Fingerprint(String),
    /// A secret that is no key, so nothing of it may be shown.
    Hidden,
    /// Nobody said anything, and there is no default.
    Nothing,
}

/// All settings, in the order of the help text. What is wrong with them is told by
/// [`NodeConfig::read`](super::NodeConfig::read).
#[must_use]
pub fn effective(given: &Given) -> Vec<Effective> {
    let of = |setting: &'static Setting| {
        let value = given.value(setting).ok().flatten();
        let (shown, origin) = match value {
            None => (Shown::Nothing, Origin::Default),
            Some(value) => (shown(setting, &value.text), value.origin),
        };
        Effective { setting, shown, origin }
    };
    settings::all().map(of).collect()
}

fn shown(setting: &Setting, text: &str) -> Shown {
    match setting.kind {
        Kind::Value | Kind::Switch => Shown::Value(text.to_owned()),
        Kind::Urls => Shown::Value(text.split(',').map(host_of).collect::<Vec<_>>().join(",")),
        Kind::Secret { .. } => match SecretKey::from_hex(text) {
            Ok(key) => Shown::Fingerprint(key.public_key().address().to_string()),
            Err(_) => Shown::Hidden,
        },
    }
}

/// Scheme, host and port of a URL: users, paths and queries may hold keys of providers.
fn host_of(url: &str) -> String {
    let Some((scheme, rest)) = url.trim().split_once("://") else { return "…".into() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let more = if host.len() == rest.len() { "" } else { "/…" };
    format!("{scheme}://{host}{more}")
}
