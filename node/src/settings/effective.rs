//! The effective settings with the source of each, to be displayed to operators.

use hawser_proto::SecretKey;
use hawser_proto::checkpoint::WitnessKey;

use super::sources::{SettingOrigin, SettingSources};
use super::table::{self, Setting, SettingKind};

/// One effective setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveSetting {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value.
    pub shown: ShownValue,
    /// The source of the value.
    pub origin: SettingOrigin,
}

/// A displayed value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShownValue {
    /// The value as it was given.
    Value(String),
    /// A secret key, displayed by its address.
    Fingerprint(String),
    /// A secret that is not a key, of which nothing may be displayed.
    Hidden,
    /// No value and no default.
    Nothing,
}

/// Returns all settings of a node in the order of the help text. Errors are reported by
/// [`NodeServiceSettings::read`](super::NodeServiceSettings::read).
#[must_use]
pub fn effective(sources: &SettingSources) -> Vec<EffectiveSetting> {
    let of = |setting: &'static Setting| {
        let value = sources.value(setting).ok().flatten();
        let (shown, origin) = match value {
            None => (ShownValue::Nothing, SettingOrigin::Default),
            Some(value) => (shown(setting, &value.text), value.origin),
        };
        EffectiveSetting { setting, shown, origin }
    };
    table::of_node().map(of).collect()
}

fn shown(setting: &Setting, text: &str) -> ShownValue {
    if let Some(text) = displayed(setting.kind, text) {
        return ShownValue::Value(text);
    }
    match SecretKey::from_hex(text) {
        Ok(key) => ShownValue::Fingerprint(key.public_key().address().to_string()),
        Err(_) => ShownValue::Hidden,
    }
}

/// Returns the part of a value that may be displayed; `None` if it is a secret, or a secret key under a wrong name.
pub(super) fn displayed(kind: SettingKind, text: &str) -> Option<String> {
    match kind {
        _ if SecretKey::from_hex(text).is_ok() => None,
        SettingKind::Value | SettingKind::Switch => Some(text.to_owned()),
        SettingKind::Urls { .. } => Some(hosts_of(text)),
        SettingKind::Place => Some(place_of(text)),
        SettingKind::Witnesses => Some(witnesses_of(text)),
        SettingKind::Secret { .. } => None,
    }
}

/// Returns the schemes, hosts and ports of URLs.
pub(crate) fn hosts_of(urls: &str) -> String {
    urls.split(',').map(host_of).collect::<Vec<_>>().join(",")
}

/// Returns a path, a name, or a URL that has no place for a key; of any other URL only scheme, host and port.
pub(crate) fn place_of(place: &str) -> String {
    const WITHOUT_KEYS: [&str; 3] = ["config", "file", "s3"];
    // Some tools take the keys of a bucket in front of its name, as a user and a password.
    let has_user = |rest: &str| rest.split('/').next().is_some_and(|host| host.contains('@'));
    match place.trim().split_once("://") {
        Some((scheme, rest)) if !WITHOUT_KEYS.contains(&scheme) || has_user(rest) => host_of(place),
        _ => place.to_owned(),
    }
}

/// Returns verifier keys of witnesses, with the schemes, hosts and ports of the URLs behind them.
fn witnesses_of(witnesses: &str) -> String {
    let word = |word: &str| match WitnessKey::of_verifier_key(word) {
        Ok(_) => word.to_owned(),
        Err(_) => host_of(word),
    };
    let witness = |entry: &str| entry.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    witnesses.split(',').map(witness).collect::<Vec<_>>().join(",")
}

/// Returns the scheme, host and port of a URL. Users, paths and queries may contain providers' keys.
fn host_of(url: &str) -> String {
    let Some((scheme, rest)) = url.trim().split_once("://") else { return "…".into() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let more = if host.len() == rest.len() { "" } else { "/…" };
    format!("{scheme}://{host}{more}")
}
