//! What was given on the command line, in the environment and in a file, before anybody has judged
//! it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use zeroize::Zeroizing;

use super::fault::Fault;
use super::file::SettingsFile;
use super::settings::{ALLOW_SECRET_FLAGS, CONFIG_FILE, Kind, Setting};
use super::{forms, ignored, nearest, settings};
use crate::files::key;

/// The values that settings were given: flag over variable over file over default.
pub struct Given {
    /// By flag name.
    flags: BTreeMap<String, Zeroizing<String>>,
    /// By variable name; only ours and the reference's.
    env: BTreeMap<String, Zeroizing<String>>,
    file: SettingsFile,
}

/// Where a value came from, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// A variable.
    Environment,
    /// The file with settings.
    File,
    /// Nobody said anything.
    Default,
}

impl Origin {
    /// One word.
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

/// A value and where it came from.
pub(super) struct Value {
    pub(super) text: Zeroizing<String>,
    pub(super) origin: Origin,
}

impl fmt::Debug for Given {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given")
            .field("flags", &self.flags.keys())
            .field("env", &self.env.keys())
            .finish()
    }
}

impl Given {
    /// Takes flags as they were given, those variables that are meant for a node, and what is in
    /// the file that one of them names.
    pub fn new(
        flags: impl IntoIterator<Item = (String, String)>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let secret = |(name, value)| (name, Zeroizing::new(value));
        let meant = |(name, value): &(String, String)| {
            (name.starts_with("XMTPD_") || name.starts_with("HAWSER_")) && !value.is_empty()
        };
        let flags: BTreeMap<_, _> = flags.into_iter().map(secret).collect();
        let env: BTreeMap<_, _> = env.into_iter().filter(meant).map(secret).collect();
        let path = flags.get(CONFIG_FILE.flag).or_else(|| env.get(CONFIG_FILE.env));
        let file = path.map(|path| SettingsFile::read(Path::new(path.as_str())));
        let file = file.unwrap_or_default();
        Self { flags, env, file }
    }

    /// What a setting was given; its default if nothing.
    ///
    /// # Errors
    /// When a secret is given in a way in which it must not be.
    pub(super) fn value(&self, setting: &Setting) -> Result<Option<Value>, Fault> {
        if let Kind::Secret { file_flag, file_env } = setting.kind {
            return self.secret(setting, file_flag, file_env);
        }
        let flag = self.flags.get(setting.flag).map(|text| (text, Origin::Flag));
        let env = || self.env.get(setting.env).map(|text| (text, Origin::Environment));
        let file = || self.file.values.get(setting.flag).map(|text| (text, Origin::File));
        let given = flag
            .or_else(env)
            .or_else(file)
            .map(|(text, origin)| Value { text: text.clone(), origin });
        let default = || {
            setting
                .default
                .map(|text| Value { text: Zeroizing::new(text.into()), origin: Origin::Default })
        };
        Ok(given.or_else(default))
    }

    fn secret(
        &self,
        setting: &Setting,
        file_flag: &str,
        file_env: &str,
    ) -> Result<Option<Value>, Fault> {
        let by_flag = Way {
            setting,
            text: self.flags.get(setting.flag),
            file: self.flags.get(file_flag),
            file_name: format!("--{file_flag}"),
            origin: Origin::Flag,
        };
        if by_flag.text.is_some() && !self.secret_flags_allowed() {
            return Err(on_command_line(setting.flag));
        }
        let by_env = Way {
            setting,
            text: self.env.get(setting.env),
            file: self.env.get(file_env),
            file_name: file_env.to_owned(),
            origin: Origin::Environment,
        };
        let by_file = Way {
            setting,
            text: self.file.values.get(setting.flag),
            file: self.file.values.get(file_flag),
            file_name: self.file.name_of(file_flag),
            origin: Origin::File,
        };
        for way in [by_flag, by_env, by_file] {
            if let Some(value) = way.take()? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    fn secret_flags_allowed(&self) -> bool {
        let allowed = |text: &Zeroizing<String>| forms::switch(text) == Some(true);
        let flag = self.flags.get(ALLOW_SECRET_FLAGS.flag);
        let env = || self.env.get(ALLOW_SECRET_FLAGS.env);
        let file = || self.file.values.get(ALLOW_SECRET_FLAGS.flag);
        flag.or_else(env).or_else(file).is_some_and(allowed)
    }

    /// What is wrong with where things stand, whatever they say: the file itself, and secrets of
    /// settings without effect on the command line.
    pub(super) fn misplaced(&self) -> Vec<Fault> {
        let mut faults = self.file.faults.clone();
        if !self.secret_flags_allowed() {
            let given = |flag: &&str| self.flags.contains_key(*flag);
            let secrets = ignored::SECRET_FLAGS.iter().copied().filter(given);
            faults.extend(secrets.map(on_command_line));
        }
        faults
    }

    /// What has no effect, or is not known: one sentence each.
    pub(super) fn notes(&self) -> Vec<String> {
        self.notes_beside(&[])
    }

    /// The same where some of those settings have an effect after all.
    pub(super) fn notes_beside(&self, used: &[&Setting]) -> Vec<String> {
        let unused = |name: &&ignored::Ignored| used.iter().all(|used| used.env != name.env);
        let without_effect = ignored::ALL.iter().filter(unused).filter_map(|setting| {
            let by_flag = setting.flag.filter(|flag| self.flags.contains_key(*flag));
            let by_env = self.env.contains_key(setting.env).then_some(setting.env);
            let by_file = setting.flag.filter(|flag| self.file.values.contains_key(*flag));
            let name = by_flag
                .map(|flag| format!("--{flag}"))
                .or_else(|| by_env.map(str::to_owned))
                .or_else(|| by_file.map(|flag| self.file.name_of(flag)))?;
            Some(format!("{name} has no effect: {}", setting.reason))
        });
        let known = known_variables();
        let unknown = self.env.keys().filter(|name| !known.contains(&name.as_str()));
        let unknown = unknown.map(|name| match nearest(name, &known) {
            Some(near) => format!("{name} is not known; the nearest known name is {near}"),
            None => format!("{name} is not known"),
        });
        without_effect.chain(unknown).collect()
    }
}

/// One of the two ways to give a secret: on the command line, or in the environment.
struct Way<'a> {
    setting: &'a Setting,
    text: Option<&'a Zeroizing<String>>,
    file: Option<&'a Zeroizing<String>>,
    file_name: String,
    origin: Origin,
}

impl Way<'_> {
    fn take(self) -> Result<Option<Value>, Fault> {
        let origin = self.origin;
        match (self.text, self.file) {
            (None, None) => Ok(None),
            (Some(text), None) => Ok(Some(Value { text: text.clone(), origin })),
            (None, Some(path)) => match key::read_secret(Path::new(path.as_str())) {
                Ok(text) => Ok(Some(Value { text, origin })),
                Err(error) => Err(Fault {
                    given: Some(format!("{:?}: {error}", path.as_str())),
                    expected: "a file with the secret, readable by its owner only".into(),
                    example: self.setting.example.into(),
                    name: self.file_name,
                }),
            },
            (Some(_), Some(_)) => Err(Fault {
                given: Some("given as itself and as a file".into()),
                expected: "one of the two".into(),
                example: self.setting.example.into(),
                name: self.file_name,
            }),
        }
    }
}

fn on_command_line(flag: &str) -> Fault {
    Fault {
        name: format!("--{flag}"),
        given: Some("a secret on the command line, where every user of the machine sees it".into()),
        expected: "the secret in a file or in the environment (or --allow-secret-flags)".into(),
        example: format!("--{flag}-file FILE"),
    }
}

fn known_variables() -> Vec<&'static str> {
    let files = settings::all().filter_map(|setting| Some(setting.file_names()?.1));
    let used = settings::all().map(|setting| setting.env);
    let of_gateways = super::gateway::OWN.iter().map(|setting| setting.env);
    let ignored = ignored::ALL.iter().map(|setting| setting.env);
    used.chain(files).chain(of_gateways).chain(ignored).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_told_its_name() {
        let known = known_variables();
        assert_eq!(nearest("XMTPD_API_PROT", &known), Some("XMTPD_API_PORT"));
        assert_eq!(nearest("HAWSER_DATADIR", &known), Some("HAWSER_DATA_DIR"));
        assert_eq!(
            nearest("XMTPD_SIGNER_PRIVATE_KEY_FIL", &known),
            Some("XMTPD_SIGNER_PRIVATE_KEY_FILE")
        );
    }

    #[test]
    fn no_name_stands_in_two_tables() {
        let mut names = known_variables();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        let mut flags: Vec<_> = settings::all().map(|setting| setting.flag).collect();
        flags.extend(ignored::ALL.iter().filter_map(|setting| setting.flag));
        let count = flags.len();
        flags.sort_unstable();
        flags.dedup();
        assert_eq!(flags.len(), count);
    }
}
