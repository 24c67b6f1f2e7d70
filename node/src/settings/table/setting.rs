//! The description of one setting.

/// The form in which a setting is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingKind {
    /// `--flag VALUE`.
    Value,
    /// `--flag URL,URL`, or the name of a file with the URLs. Only hosts are displayed, because users, paths and
    /// queries may contain keys.
    Urls {
        /// Flag and variable that name the file; `None` if there is no such form.
        file: Option<(&'static str, &'static str)>,
    },
    /// `--flag PLACE`: a path, a name or one URL. Only the host of a URL for the web is displayed.
    Place,
    /// `--flag "KEY URL,KEY"`: keys of witnesses, and the URLs of some of them. Only the hosts of these are displayed.
    Witnesses,
    /// `--flag`, `--flag=false`; in the environment `true` or `false`.
    Switch,
    /// A value, or the name of a file with the value. Never displayed.
    Secret {
        /// Flag that names the file.
        file_flag: &'static str,
        /// Variable that names the file.
        file_env: &'static str,
    },
}

/// One setting: its names, its form, its default and its meaning.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// The long flag, without the two dashes.
    pub flag: &'static str,
    /// The short flag, if there is one.
    pub short: Option<char>,
    /// The environment variable.
    pub env: &'static str,
    /// The form in which it is given.
    pub kind: SettingKind,
    /// Value in effect when none is given.
    pub default: Option<&'static str>,
    /// Form of a valid value, to stand after "expected".
    pub form: &'static str,
    /// An example of a valid value.
    pub example: &'static str,
    /// The meaning, for the help text.
    pub help: &'static str,
}

pub(super) const fn value(
    flag: &'static str,
    env: &'static str,
    default: Option<&'static str>,
    form: &'static str,
    example: &'static str,
    help: &'static str,
) -> Setting {
    Setting { flag, short: None, env, kind: SettingKind::Value, default, form, example, help }
}

/// A path, a name or one URL.
pub(super) const fn place(
    flag: &'static str,
    env: &'static str,
    form: &'static str,
    example: &'static str,
    help: &'static str,
) -> Setting {
    Setting { kind: SettingKind::Place, ..value(flag, env, None, form, example, help) }
}

/// URLs by the names of their flag and their variable, and by those of a file.
pub(super) const fn urls(
    (flag, env): (&'static str, &'static str),
    file: (&'static str, &'static str),
    form: &'static str,
    example: &'static str,
    help: &'static str,
) -> Setting {
    let kind = SettingKind::Urls { file: Some(file) };
    Setting { kind, ..value(flag, env, None, form, example, help) }
}

/// URLs by the names of their flag and their variable, which cannot be given in a file of their own.
pub(super) const fn urls_without_file(
    flag: &'static str,
    env: &'static str,
    form: &'static str,
    example: &'static str,
    help: &'static str,
) -> Setting {
    let kind = SettingKind::Urls { file: None };
    Setting { kind, ..value(flag, env, None, form, example, help) }
}

/// A secret by the names of its flag and its variable, and by those of a file.
pub(super) const fn secret(
    (flag, env): (&'static str, &'static str),
    (file_flag, file_env): (&'static str, &'static str),
    form: &'static str,
    example: &'static str,
    help: &'static str,
) -> Setting {
    let kind = SettingKind::Secret { file_flag, file_env };
    Setting { kind, ..value(flag, env, None, form, example, help) }
}

pub(super) const fn switch(
    flag: &'static str,
    env: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    let value = value(flag, env, Some(default), "true or false", "true", help);
    Setting { kind: SettingKind::Switch, ..value }
}

/// Form of a number that must not be zero.
pub(super) const ABOVE_ZERO: &str = "a whole number above 0";
/// The expected form of a duration.
pub(super) const DURATION: &str = "a duration with units, such as 500ms, 30s, 5m or 1h30m";
/// Form of a duration that must not be zero.
pub(super) const DURATION_ABOVE_ZERO: &str =
    "a duration above 0 with units, such as 500ms, 30s, 5m or 1h30m";

impl Setting {
    /// Returns the flag and the variable that name a file with the value; `None` if it may not be in a file.
    #[must_use]
    pub fn file_names(&self) -> Option<(&'static str, &'static str)> {
        match self.kind {
            SettingKind::Secret { file_flag, file_env } => Some((file_flag, file_env)),
            SettingKind::Urls { file } => file,
            SettingKind::Value
            | SettingKind::Place
            | SettingKind::Witnesses
            | SettingKind::Switch => None,
        }
    }

    /// Returns its flag, and the one that names a file.
    pub fn flags(&self) -> impl Iterator<Item = &'static str> + use<> {
        [Some(self.flag), self.file_names().map(|(flag, _)| flag)].into_iter().flatten()
    }

    /// Returns its variable, and the one that names a file.
    pub fn variables(&self) -> impl Iterator<Item = &'static str> + use<> {
        [Some(self.env), self.file_names().map(|(_, env)| env)].into_iter().flatten()
    }
}
