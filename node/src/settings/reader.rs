//! Reads settings one by one and collects all errors, so that an operator sees them at once.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tracing::Level;

use super::effective::displayed;
use super::error::{SettingError, SettingsError};
use super::parse;
use super::sources::{SettingOrigin, SettingSources, SourcedValue};
use super::table::{Setting, SettingKind, node};
use super::wallets::WalletSettings;

/// Settings of the log lines.
#[derive(Debug, Clone, Copy)]
pub struct LogSettings {
    /// The lowest level of the lines that are written.
    pub level: Level,
    /// True if a line is a JSON object and not text.
    pub json: bool,
}

/// Time limits of stopping.
#[derive(Debug, Clone, Copy)]
pub struct StopSettings {
    /// The time for which requests are still served after the signal.
    pub drain: Duration,
    /// The time limit of everything that follows.
    pub grace: Duration,
}

/// The message for a part that must have been read because there was no error.
pub(super) const CHECKED: &str = "a setting that was not read has left an error";

/// A reader of settings. A method that returns `None` has added an error.
pub(super) struct SettingsReader<'a> {
    sources: &'a SettingSources,
    errors: Vec<SettingError>,
}

impl<'a> SettingsReader<'a> {
    /// Creates a reader with the errors that do not depend on single values.
    pub(super) fn new(sources: &'a SettingSources) -> Self {
        Self { sources, errors: sources.placement_errors() }
    }

    /// Creates a reader for a node or a gateway, which refuses variables that request an unknown protection.
    pub(super) fn of_server(sources: &'a SettingSources) -> Self {
        let mut reader = Self::new(sources);
        reader.errors.extend(sources.unknown_protections());
        reader
    }

    /// Adds an error if the environment asks for another role than that of this process.
    pub(super) fn in_role(mut self, is_replica: bool) -> Self {
        let role = if is_replica { "replica" } else { "primary" };
        self.errors.extend(self.sources.other_role(role));
        self
    }

    /// Drops the errors about a setting that the caller of this reader judges itself.
    pub(super) fn without_errors_about(mut self, setting: &Setting) -> Self {
        let own = format!("--{}", setting.flag);
        self.errors.retain(|error| error.name != own);
        self
    }

    /// Returns `value` if there was no error.
    pub(super) fn finish<T>(self, value: impl FnOnce() -> T) -> Result<T, SettingsError> {
        if self.errors.is_empty() {
            return Ok(value());
        }
        let unknown = self.sources.notes_of_unknown(&self.errors);
        let mut faults: Vec<SettingError> = Vec::new();
        for fault in self.errors {
            // The file may have what is missing.
            let may_be_given = fault.given.is_none() && self.sources.file_is_unread();
            // A setting may be read twice.
            if !may_be_given && !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        Err(SettingsError { faults, unknown })
    }

    /// Reads the address of the operator port; `Some(None)` if it is disabled.
    pub(super) fn metrics(&mut self) -> Option<Option<SocketAddr>> {
        let enable = self.switch(&node::METRICS_ENABLE);
        let address = self.ip(&node::METRICS_ADDRESS);
        let port = self.get(&node::METRICS_PORT, parse::port);
        let address = SocketAddr::new(address?, port?);
        Some(enable?.then_some(address))
    }

    /// Refuses a port of the metrics that is that of the API, if both listen at the same address.
    pub(super) fn require_two_ports(
        &mut self,
        api: Option<SocketAddr>,
        metrics: Option<Option<SocketAddr>>,
    ) {
        let Some((api, metrics)) = api.zip(metrics.flatten()) else { return };
        if api.port() == metrics.port() && share_an_address(api.ip(), metrics.ip()) {
            let (port, flag) = (metrics.port(), node::API_PORT.flag);
            let given = format!("{port}, which is the port of the API (--{flag})");
            self.error(&node::METRICS_PORT, Some(given));
        }
    }

    /// Reads the settings of contract wallets. There are no endpoints by default, because contract wallets are rare. An
    /// endpoint of a chain that the network does not know is an error, because it would never be used.
    pub(super) fn wallets(&mut self) -> Option<WalletSettings> {
        let more_chains = self.unless_default(&node::WALLET_CHAINS, parse::chain_ids)?;
        let rpcs = self.unless_default(&node::WALLET_RPC, parse::chain_urls)?;
        let wallets = WalletSettings { rpcs, more_chains };
        let listed = wallets.list();
        if let Some((id, _)) = wallets.rpcs.iter().find(|(id, _)| !listed.contains(*id)) {
            self.error(
                &node::WALLET_RPC,
                Some(format!(
                    "chain {id}, of which the network knows no wallets (a development network may, with --{})",
                    node::WALLET_CHAINS.flag
                )),
            );
            return None;
        }
        Some(wallets)
    }

    /// Reads a list that is empty by default.
    pub(super) fn unless_default<T>(
        &mut self,
        setting: &Setting,
        read: impl Fn(&str) -> Option<Vec<T>>,
    ) -> Option<Vec<T>> {
        if self.origin(setting) == SettingOrigin::Default {
            return Some(Vec::new());
        }
        self.get(setting, read)
    }

    pub(super) fn log(&mut self) -> Option<LogSettings> {
        let level = self.get(&node::LOG_LEVEL, parse::level);
        let json = self.get(&node::LOG_ENCODING, |text| match text {
            "console" => Some(false),
            "json" => Some(true),
            _ => None,
        });
        Some(LogSettings { level: level?, json: json? })
    }

    pub(super) fn stop(&mut self) -> Option<StopSettings> {
        let drain = self.get(&node::SHUTDOWN_DRAIN, parse::duration);
        let grace = self.get(&node::SHUTDOWN_GRACE, parse::duration);
        Some(StopSettings { drain: drain?, grace: grace? })
    }

    pub(super) fn origin(&self, setting: &Setting) -> SettingOrigin {
        match self.sources.value(setting) {
            Ok(Some(value)) => value.origin,
            _ => SettingOrigin::Default,
        }
    }

    pub(super) fn switch(&mut self, setting: &Setting) -> Option<bool> {
        self.get(setting, parse::switch)
    }

    pub(super) fn ip(&mut self, setting: &Setting) -> Option<IpAddr> {
        self.get(setting, parse::ip)
    }

    pub(super) fn path(&mut self, setting: &Setting) -> Option<PathBuf> {
        self.get(setting, |text| (!text.is_empty()).then(|| text.into()))
    }

    /// Reads the name of a file that protects; `None` if it is not given. An empty name is refused: the operator relies
    /// on the file, and has named it by a variable of a script that is not set.
    pub(super) fn protecting_file(&mut self, setting: &Setting) -> Option<PathBuf> {
        if self.origin(setting) == SettingOrigin::Default {
            return None;
        }
        let name = |text: &str| Some(text.trim().to_owned()).filter(|name| !name.is_empty());
        self.get(setting, name).map(PathBuf::from)
    }

    pub(super) fn duration_above_zero(&mut self, setting: &Setting) -> Option<Duration> {
        self.get(setting, |text| parse::duration(text).filter(|time| !time.is_zero()))
    }

    /// Reads a required setting. A missing one is an error, like a text that `parse` refuses.
    pub(super) fn get<T>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let before = self.errors.len();
        let Some(value) = self.text(setting) else {
            if self.errors.len() == before {
                self.error(setting, None);
            }
            return None;
        };
        let is_of_urls = matches!(setting.kind, SettingKind::Urls { .. });
        if is_of_urls && self.refuses_spaces(setting, &value.text) {
            return None;
        }
        let parsed = parse(&value.text);
        if parsed.is_none() {
            self.wrong(setting, &value.text);
        }
        parsed
    }

    /// Adds an error about a given value, which it shows unless it is a secret.
    pub(super) fn wrong(&mut self, setting: &Setting, value: &str) {
        let given = match displayed(setting.kind, value) {
            Some(text) => format!("{text:?}"),
            None => "(secret, not shown)".to_owned(),
        };
        let given = match self.sources.file_of(setting) {
            Some(file) => format!("{given} in {file}"),
            None => self.sources.placed(given, self.origin(setting)),
        };
        self.error(setting, Some(given));
    }

    /// Returns true, and adds an error, if there is white space or a control character inside of a URL. Parsers of URLs
    /// delete line breaks and tabs, and so would make one URL of a file with a URL on each line.
    pub(super) fn refuses_spaces(&mut self, setting: &Setting, urls: &str) -> bool {
        let is_space = |c: char| c.is_whitespace() || c.is_control();
        let refuses = urls.split(',').any(|url| url.trim().contains(is_space));
        if refuses {
            let given = "white space or a control character inside of a URL (separate URLs by commas, in a file too)";
            self.error(setting, Some(given.to_owned()));
        }
        refuses
    }

    /// Returns the effective text; `None` if there is none, or if it was given in a forbidden way.
    pub(super) fn text(&mut self, setting: &Setting) -> Option<SourcedValue> {
        self.sources.value(setting).unwrap_or_else(|error| {
            self.errors.push(error);
            None
        })
    }

    /// Returns the effective text without surrounding white space; `None` if nothing is left.
    pub(super) fn non_empty(&mut self, setting: &Setting) -> Option<String> {
        let value = self.text(setting)?;
        Some(value.text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    pub(super) fn error(&mut self, setting: &Setting, given: Option<String>) {
        let error = SettingError {
            name: format!("--{} ({})", setting.flag, setting.env),
            given,
            expected: setting.form.into(),
            example: setting.example.into(),
        };
        self.errors.push(error);
    }
}

/// Returns true if listeners on these addresses cannot have one port.
fn share_an_address(one: IpAddr, other: IpAddr) -> bool {
    // A listener on all IPv6 addresses takes IPv4 as well.
    let takes = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one == other || takes(one, other) || takes(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::read;

    #[test]
    fn two_listeners_do_not_get_one_port() {
        let same = ("api.port", "8008");
        let text = read(&[same], &[]).unwrap_err().to_string();
        assert!(text.contains("--metrics.metrics-port"), "{text}");
        assert!(text.contains("8008, which is the port of the API (--api.port)"), "{text}");
        for apart in [
            ("metrics.enable", "false"),
            ("api.enable", "false"),
            ("metrics.metrics-address", "::1"),
        ] {
            assert!(read(&[same, apart], &[]).is_ok(), "{apart:?}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_shares_each_of_its_kind() {
        let share = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|text| text.parse().unwrap());
            share_an_address(one, other)
        };
        assert!(share("127.0.0.1", "127.0.0.1") && share("0.0.0.0", "127.0.0.1"));
        assert!(share("127.0.0.1", "::") && share("::", "::1"));
        assert!(!share("127.0.0.1", "127.0.0.2") && !share("0.0.0.0", "::1"));
    }

    #[test]
    fn a_wrong_value_is_shown_with_the_file_that_has_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[api]\nport = \"a\"\n").unwrap();
        let path = file.path().to_str().unwrap();
        let text = read(&[("config", path)], &[]).unwrap_err().to_string();
        assert!(text.contains(&format!("\"a\" in {path}; expected a port")), "{text}");
        let text = read(&[("config", path), ("api.port", "b")], &[]).unwrap_err().to_string();
        assert!(text.contains("\"b\"; expected a port"), "the flag goes before: {text}");
    }

    /// Otherwise the error has only the name of a setting that the operator has not given.
    #[test]
    fn a_file_with_a_wrong_secret_is_named_and_its_content_is_not_shown() {
        let [wrong, settings] = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
        std::fs::write(wrong.path(), "5e5e5e").unwrap();
        let path = wrong.path().to_str().unwrap();
        let line = format!("signer.private-key-file = {path:?}\n");
        std::fs::write(settings.path(), line).unwrap();
        let config = settings.path().to_str().unwrap();
        for named in [("signer.private-key-file", path), ("config", config)] {
            // An empty variable counts as not given.
            let text = read(&[named], &[("XMTPD_SIGNER_PRIVATE_KEY", "")]).unwrap_err().to_string();
            let expected = format!("(secret, not shown) in {path}; expected 32 bytes");
            assert!(text.contains(&expected) && !text.contains("5e5e5e"), "{named:?}: {text}");
        }
    }
}
