//! The unchecked values that were given as flags, in the environment and in a file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use zeroize::Zeroizing;

use super::error::SettingError;
use super::file::SettingsFile;
use super::nearest::nearest;
use super::parse;
use super::table::ignored::Ignored;
use super::table::node::{ALLOW_SECRET_FLAGS, CONFIG_FILE};
use super::table::{self, Setting, SettingKind, chains, ignored, limits};
use crate::files::key;

/// The prefixes, after `XMTPD_` or `HAWSER_`, of variables that request a protection. A node that does not know one of
/// them must not start without it, because its operator would rely on it.
const PROTECTIONS: [&str; 4] = ["API_REQUIRE_", "RATE_LIMIT_", "STANDBY_", "TLS_"];

/// The given values of all settings. Flags take precedence over variables, variables over the
/// file, and the file over defaults.
pub struct SettingSources {
    /// The given flags, by name.
    flags: BTreeMap<String, Zeroizing<String>>,
    /// The variables of this program and of the reference implementation, by name.
    env: BTreeMap<String, Zeroizing<String>>,
    /// The switches of the reference implementation whose variables are empty, which turns them on.
    empty_switches: Vec<String>,
    file: SettingsFile,
}

/// The source of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingOrigin {
    /// The command line.
    Flag,
    /// A variable.
    Environment,
    /// The file with settings.
    File,
    /// The default, because no source has the setting.
    Default,
}

impl SettingOrigin {
    /// Returns the word that `hawser config print` shows.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
        }
    }
}

/// A value and its source.
pub(super) struct SourcedValue {
    pub(super) text: Zeroizing<String>,
    pub(super) origin: SettingOrigin,
}

impl fmt::Debug for SettingSources {
    /// Formats the names only, because values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettingSources")
            .field("flags", &self.flags.keys())
            .field("env", &self.env.keys())
            .finish()
    }
}

impl SettingSources {
    /// Takes the given flags and the variables that are settings (`XMTPD_*`, `HAWSER_*`), and reads the settings file
    /// that one of them names.
    ///
    /// An empty variable counts as not given, with two exceptions. The reference implementation reads that of a switch
    /// as true, so an operator may rely on the protection that it turns on. An unknown protection may be such a switch.
    pub fn new(
        flags: impl IntoIterator<Item = (String, String)>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let secret = |(name, value)| (name, Zeroizing::new(value));
        let meant =
            |(name, _): &(String, _)| name.starts_with("XMTPD_") || name.starts_with("HAWSER_");
        let flags: BTreeMap<_, _> = flags.into_iter().map(secret).collect();
        let mut env: BTreeMap<_, _> = env.into_iter().filter(meant).map(secret).collect();
        let mut empty_switches = Vec::new();
        for (name, value) in env.iter_mut().filter(|(_, value)| value.is_empty()) {
            if table::is_reference_switch(name) {
                value.push_str("true");
                empty_switches.push(name.clone());
            }
        }
        let known = table::variables();
        let may_be_switch =
            |name: &str| name.starts_with("XMTPD_") && is_unknown_protection(name, &known);
        env.retain(|name, value| !value.is_empty() || may_be_switch(name));
        if let Some(networks) = env.remove(table::PROXIES_ENV) {
            // The name of the reference implementation wins.
            env.entry(limits::TRUSTED_PROXIES.env.to_owned()).or_insert(networks);
        }
        let path = flags.get(CONFIG_FILE.flag).or_else(|| env.get(CONFIG_FILE.env));
        let file = path.map(|path| SettingsFile::read(Path::new(path.as_str())));
        let file = file.unwrap_or_default();
        Self { flags, env, empty_switches, file }
    }

    /// Returns the value of a setting, or its default.
    ///
    /// # Errors
    /// [`SettingError`] if a secret was given in a way that exposes it, or in two ways.
    pub(super) fn value(&self, setting: &Setting) -> Result<Option<SourcedValue>, SettingError> {
        if let Some((file_flag, file_env)) = setting.file_names() {
            return self.value_or_file(setting, file_flag, file_env);
        }
        let flag = self.flags.get(setting.flag).map(|text| (text, SettingOrigin::Flag));
        let env = || self.env.get(setting.env).map(|text| (text, SettingOrigin::Environment));
        let file = || self.file.values.get(setting.flag).map(|text| (text, SettingOrigin::File));
        let given = flag
            .or_else(env)
            .or_else(file)
            .map(|(text, origin)| SourcedValue { text: text.clone(), origin });
        let default = || {
            setting.default.map(|text| SourcedValue {
                text: Zeroizing::new(text.into()),
                origin: SettingOrigin::Default,
            })
        };
        Ok(given.or_else(default))
    }

    /// Returns the value of a setting that may be given as itself or as the name of a file. A flag goes before the
    /// environment, and that before the settings file.
    fn value_or_file(
        &self,
        setting: &Setting,
        file_flag: &str,
        file_env: &str,
    ) -> Result<Option<SourcedValue>, SettingError> {
        let by_flag = ValueOrFile {
            setting,
            text: self.flags.get(setting.flag),
            file: self.flags.get(file_flag),
            file_name: format!("--{file_flag}"),
            origin: SettingOrigin::Flag,
        };
        let is_secret = matches!(setting.kind, SettingKind::Secret { .. });
        if is_secret && by_flag.text.is_some() && !self.secret_flags_allowed() {
            return Err(on_command_line(setting.flag, setting.example));
        }
        let by_env = ValueOrFile {
            setting,
            text: self.env.get(setting.env),
            file: self.env.get(file_env),
            file_name: file_env.to_owned(),
            origin: SettingOrigin::Environment,
        };
        let by_file = ValueOrFile {
            setting,
            text: self.file.values.get(setting.flag),
            file: self.file.values.get(file_flag),
            file_name: self.file.name_of(file_flag),
            origin: SettingOrigin::File,
        };
        for source in [by_flag, by_env, by_file] {
            if let Some(value) = source.value()? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Returns true if the settings permit secrets on the command line, where every user of the machine sees them.
    #[must_use]
    pub fn secret_flags_allowed(&self) -> bool {
        let allowed = |text: &Zeroizing<String>| parse::switch(text) == Some(true);
        let flag = self.flags.get(ALLOW_SECRET_FLAGS.flag);
        let env = || self.env.get(ALLOW_SECRET_FLAGS.env);
        let file = || self.file.values.get(ALLOW_SECRET_FLAGS.flag);
        flag.or_else(env).or_else(file).is_some_and(allowed)
    }

    /// Returns true if there is a file that cannot be read, so that its settings are not known.
    pub(super) fn file_is_unread(&self) -> bool {
        self.file.is_unread()
    }

    /// Returns the file whose content is the value of a setting; `None` if it was given as itself, or not at all.
    pub(super) fn file_of(&self, setting: &Setting) -> Option<&str> {
        let (file_flag, file_env) = setting.file_names()?;
        let sources = [
            (self.flags.get(setting.flag), self.flags.get(file_flag)),
            (self.env.get(setting.env), self.env.get(file_env)),
            (self.file.values.get(setting.flag), self.file.values.get(file_flag)),
        ];
        let mut sources = sources.into_iter();
        let (_, file) = sources.find(|(text, file)| text.is_some() || file.is_some())?;
        file.map(|file| file.as_str())
    }

    /// Returns a wrong value as an error shows it: with the file, if it is from there. The error has the names of flag
    /// and variable.
    pub(super) fn placed(&self, given: String, origin: SettingOrigin) -> String {
        match origin {
            SettingOrigin::File => self.file.name_of(&given),
            SettingOrigin::Flag | SettingOrigin::Environment | SettingOrigin::Default => given,
        }
    }

    /// Returns the errors that do not depend on values: those of the file itself, and secrets on the command
    /// line of settings without effect.
    pub(super) fn placement_errors(&self) -> Vec<SettingError> {
        let mut errors = self.file.errors.clone();
        if !self.secret_flags_allowed() {
            let is_secret = |flag: &&str| ignored::SECRET_FLAGS.contains(flag);
            let given = |setting: &Ignored| {
                let flag = setting.flag.filter(is_secret)?;
                self.flags.contains_key(flag).then(|| on_command_line(flag, setting.env))
            };
            errors.extend(ignored::ALL.iter().filter_map(given));
        }
        errors
    }

    /// Returns an error for each unknown variable that requests a protection, unless it is switched off.
    pub(super) fn unknown_protections(&self) -> Vec<SettingError> {
        let known = table::variables();
        let is_given = |(name, value): &(&String, &Zeroizing<String>)| {
            is_unknown_protection(name, &known) && parse::switch(value) != Some(false)
        };
        let error = |(name, _): (&String, _)| SettingError {
            name: name.clone(),
            given: Some("a protection that this version does not know".into()),
            expected: "one that it has, or false if the node may start without it".into(),
            example: nearest(name, &known).unwrap_or("XMTPD_RATE_LIMIT_ENABLE").into(),
        };
        self.env.iter().filter(is_given).map(error).collect()
    }

    /// Returns an error if a variable names another role than the one that this process would have. A second process
    /// with a node's key must not sign, so it must not start as a primary either.
    pub(super) fn other_role(&self, role: &str) -> Option<SettingError> {
        let given = self.env.get(table::ROLE_ENV)?;
        (given.as_str() != role).then(|| SettingError {
            name: table::ROLE_ENV.into(),
            given: Some(format!("{:?}, but this process would start as a {role}", given.as_str())),
            expected: format!(
                "{role}, or no role: a standby is a replica, which `hawser audit watch` starts, and whose folder `hawser \
                 promote` gives to the node"
            ),
            example: role.into(),
        })
    }

    /// Returns a note if a variable names a role, for a gateway, which has none.
    pub(super) fn note_of_role(&self) -> Option<String> {
        let given = self.env.get(table::ROLE_ENV)?;
        Some(format!(
            "{}={:?} has no effect: a gateway has no role, so this one serves its callers and pays for them",
            table::ROLE_ENV,
            given.as_str()
        ))
    }

    /// Returns a note for each value that has no effect on a node or is unknown.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = self.notes_about(ignored::ALL.iter());
        let of_gateways = table::gateway::OWN.into_iter();
        notes.extend(
            self.notes_of_others(of_gateways, |_| "only a gateway uses it (hawser gateway)"),
        );
        notes.extend(self.note_of_unused_limits());
        notes.extend(self.notes_of_empty_switches(table::of_node()));
        notes
    }

    /// Returns the notes for a gateway, on which other settings have no effect than on a node.
    pub(super) fn notes_of_gateway(&self) -> Vec<String> {
        let own = table::gateway::WITHOUT_EFFECT;
        let is_of_node_alone = |setting: &&Ignored| {
            table::of_gateway().all(|used| used.env != setting.env)
                && own.iter().all(|own| own.env != setting.env)
        };
        let mut notes =
            self.notes_about(own.iter().chain(ignored::ALL.iter().filter(is_of_node_alone)));
        let is_of_nodes = |setting: &&Setting| {
            table::of_gateway().all(|used| used.flag != setting.flag)
                && own.iter().all(|own| own.env != setting.env)
                // The settings of a gateway refuse this one when it is on.
                && setting.flag != limits::ENABLE.flag
        };
        let reason = |setting: &Setting| match setting.flag == limits::TRUSTED_PROXIES.flag {
            true => "the proxies of a gateway are in its policies (trusted_proxies)",
            false => "a gateway has no such setting",
        };
        notes.extend(self.notes_of_others(table::of_node().filter(is_of_nodes), reason));
        notes.extend(self.note_of_unread_events());
        notes.extend(self.notes_of_empty_switches(table::of_gateway()));
        notes
    }

    /// Returns a note for each of these switches that an empty variable turns on.
    fn notes_of_empty_switches(
        &self,
        settings: impl Iterator<Item = &'static Setting>,
    ) -> Vec<String> {
        let is_empty = |setting: &&Setting| self.empty_switches.iter().any(|it| it == setting.env);
        let note = |setting: &Setting| {
            let name = setting.env;
            format!(
                "{name} is empty, which counts as true, as at the reference node; false turns it off"
            )
        };
        settings.filter(is_empty).map(note).collect()
    }

    /// Returns a note for each given one of the settings of another kind of process.
    fn notes_of_others(
        &self,
        settings: impl Iterator<Item = &'static Setting>,
        reason: impl Fn(&Setting) -> &'static str,
    ) -> Vec<String> {
        let mut notes = Vec::new();
        for setting in settings {
            let by_env = setting.variables().find(|name| self.env.contains_key(*name));
            let by_file = setting.flags().find(|flag| self.file.values.contains_key(*flag));
            let name =
                by_env.map(str::to_owned).or_else(|| by_file.map(|it| self.file.name_of(it)));
            notes.extend(name.map(|name| format!("{name} has no effect: {}", reason(setting))));
        }
        notes
    }

    /// Returns a note if limits were given that are switched off as a whole.
    fn note_of_unused_limits(&self) -> Option<String> {
        let enable = self.value(&limits::ENABLE).ok().flatten();
        if enable.is_some_and(|enable| parse::switch(&enable.text) == Some(true)) {
            return None;
        }
        self.given(limits::OF_RATES).map(|given| {
            format!("{} is off, so these have no effect: {given}", limits::ENABLE.flag)
        })
    }

    /// Returns a note if settings were given by which a node reads the events of contracts, for a gateway, which reads
    /// none.
    fn note_of_unread_events(&self) -> Option<String> {
        self.given(chains::OF_EVENTS).map(|given| {
            format!("a gateway reads no events of contracts, so these have no effect: {given}")
        })
    }

    /// Returns a note if settings were given that have no effect on a replica.
    pub(super) fn note_of_replica(&self) -> Option<String> {
        self.given(table::unused_by_replicas()).map(|given| {
            format!(
                "a replica publishes nothing and follows its sources over gRPC, so these have no effect: {given}"
            )
        })
    }

    /// Returns the flags of those of these settings that were given in any way; `None` if none was.
    fn given(&self, settings: impl IntoIterator<Item = &'static Setting>) -> Option<String> {
        let is_given = |setting: &&Setting| {
            let value = self.value(setting).ok().flatten();
            value.is_some_and(|value| value.origin != SettingOrigin::Default)
        };
        let given = settings.into_iter().filter(is_given);
        let given: Vec<_> = given.map(|setting| setting.flag).collect();
        (!given.is_empty()).then(|| given.join(", "))
    }

    /// Returns a note for each given one of the settings `without_effect`, and for each unknown variable.
    fn notes_about<'a>(&self, without_effect: impl Iterator<Item = &'a Ignored>) -> Vec<String> {
        let without_effect = without_effect.filter_map(|setting| {
            let by_flag = setting.flag.filter(|flag| self.flags.contains_key(*flag));
            let by_env = self.env.contains_key(setting.env).then_some(setting.env);
            let by_file = setting.flag.filter(|flag| self.file.values.contains_key(*flag));
            let name = by_flag
                .map(|flag| format!("--{flag}"))
                .or_else(|| by_env.map(str::to_owned))
                .or_else(|| by_file.map(|flag| self.file.name_of(flag)))?;
            Some(format!("{name} has no effect: {}", setting.reason))
        });
        without_effect.chain(self.notes_of_unknown(&[])).collect()
    }

    /// Returns a note for each unknown variable that none of the `faults` names.
    pub(super) fn notes_of_unknown(&self, faults: &[SettingError]) -> Vec<String> {
        let known = table::variables();
        let is_fault = |name: &str| faults.iter().any(|fault| fault.name == name);
        let is_unknown = |name: &str| !known.contains(&name) && !is_fault(name);
        let unknown = self.env.keys().filter(|name| is_unknown(name.as_str()));
        let note = |name: &String| match nearest(name, &known) {
            Some(near) => format!("{name} is not known; the nearest known name is {near}"),
            None => format!("{name} is not known"),
        };
        unknown.map(note).collect()
    }
}

/// A setting in one source: the value itself, or the name of a file that contains it.
struct ValueOrFile<'a> {
    setting: &'a Setting,
    text: Option<&'a Zeroizing<String>>,
    file: Option<&'a Zeroizing<String>>,
    file_name: String,
    origin: SettingOrigin,
}

impl ValueOrFile<'_> {
    /// Returns the value that one source gives, if it gives one. Error texts never show what may be a secret.
    fn value(self) -> Result<Option<SourcedValue>, SettingError> {
        let origin = self.origin;
        match (self.text, self.file) {
            (None, None) => Ok(None),
            (Some(text), None) => Ok(Some(SourcedValue { text: text.clone(), origin })),
            (None, Some(path)) => {
                if let Some(secret) = key::misplaced_secret(path) {
                    return Err(SettingError {
                        given: Some(format!("{secret} in place of the name of a file")),
                        expected: "the name of a file with the value".into(),
                        example: "/etc/hawser/value".into(),
                        name: self.file_name,
                    });
                }
                let error = match key::read_secret(Path::new(path.as_str())) {
                    Ok(text) if text.is_empty() => "the file is empty".to_owned(),
                    Ok(text) => return Ok(Some(SourcedValue { text, origin })),
                    Err(error) => error.to_string(),
                };
                Err(SettingError {
                    given: Some(format!("{:?}: {error}", path.as_str())),
                    expected: "a file with the value, readable by its owner only".into(),
                    example: self.setting.example.into(),
                    name: self.file_name,
                })
            }
            (Some(_), Some(_)) => Err(SettingError {
                given: Some("given as itself and as a file".into()),
                expected: "one of the two".into(),
                example: self.setting.example.into(),
                name: self.file_name,
            }),
        }
    }
}

/// Returns true if the name requests a protection and is not one of the `known`.
fn is_unknown_protection(name: &str, known: &[&str]) -> bool {
    let rest = name.strip_prefix("XMTPD_").or_else(|| name.strip_prefix("HAWSER_"));
    let protects = |rest: &str| PROTECTIONS.iter().any(|start| rest.starts_with(start));
    rest.is_some_and(protects) && !known.contains(&name)
}

/// Returns the error about a secret in a flag. `example` is a way to give it that no other user of the machine sees.
fn on_command_line(flag: &str, example: &str) -> SettingError {
    SettingError {
        name: format!("--{flag}"),
        given: Some("a secret on the command line, where every user of the machine sees it".into()),
        expected: "the secret in a file or in the environment (or --allow-secret-flags)".into(),
        example: example.into(),
    }
}
