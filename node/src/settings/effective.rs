//! The settings in effect and the source of each, for operators to look at.

use hawser_proto::SecretKey;

use super::sources::{SettingOrigin, SettingSources};
use super::table::{self, Setting, SettingKind};

/// One setting in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveSetting {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value.
    pub shown: ShownValue,
    /// The source of the value.
    pub origin: SettingOrigin,
}

/// A value as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShownValue {
    /// The value as it was given.
    Value(String),
    /// A secret key: the address that belongs to it.
    Fingerprint(String),
    /// A secret that is no key, so that nothing of it may be shown.
    Hidden,
    /// Not given, and without a default.
    Nothing,
}

/// Returns all settings of a node, in the order of the help text. Errors are left to
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
        SettingKind::Urls => {
            ShownValue::Value(text.split(',').map(host_of).collect::<Vec<_>>().join(","))
        }
        SettingKind::Secret { .. } => match SecretKey::from_hex(text) {
            Ok(key) => ShownValue::Fingerprint(key.public_key().address().to_string()),
            Err(_) => ShownValue::Hidden,
        },
    }
}

/// Returns scheme, host and port of a URL. Users, paths and queries may hold keys of providers.
fn host_of(url: &str) -> String {
    let Some((scheme, rest)) = url.trim().split_once("://") else { return "…".into() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let more = if host.len() == rest.len() { "" } else { "/…" };
    format!("{scheme}://{host}{more}")
}
