//! The effective settings with the source of each, to be displayed to operators.

use hawser_proto::SecretKey;

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
    match setting.kind {
        SettingKind::Value | SettingKind::Switch => ShownValue::Value(text.to_owned()),
        SettingKind::Urls { .. } => ShownValue::Value(hosts_of(text)),
        SettingKind::Secret { .. } => match SecretKey::from_hex(text) {
            Ok(key) => ShownValue::Fingerprint(key.public_key().address().to_string()),
            Err(_) => ShownValue::Hidden,
        },
    }
}

/// Returns the schemes, hosts and ports of URLs.
pub(crate) fn hosts_of(urls: &str) -> String {
    urls.split(',').map(host_of).collect::<Vec<_>>().join(",")
}

/// Returns the scheme, host and port of a URL. Users, paths and queries may contain providers' keys.
fn host_of(url: &str) -> String {
    let Some((scheme, rest)) = url.trim().split_once("://") else { return "…".into() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let more = if host.len() == rest.len() { "" } else { "/…" };
    format!("{scheme}://{host}{more}")
}
