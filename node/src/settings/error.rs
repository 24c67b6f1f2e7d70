//! The errors of the settings, reported together.

use std::fmt;

/// A missing or invalid setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingError {
    /// The flag and the variable.
    pub name: String,
    /// The given value, with secrets masked; `None` if there is none.
    pub given: Option<String>,
    /// The expected form of a value.
    pub expected: String,
    /// An example of a valid value.
    pub example: String,
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, given, expected, example } = self;
        match given {
            Some(given) => write!(f, "{name}: {given}; expected {expected}, for example {example}"),
            None => write!(f, "{name}: missing; expected {expected}, for example {example}"),
        }
    }
}

/// All errors of the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError {
    /// The missing and invalid settings; never empty.
    pub faults: Vec<SettingError>,
    /// A note about each variable that is not known: a setting may be missing because its name is misspelt.
    pub unknown: Vec<String>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { faults, unknown } = self;
        let plural = if faults.len() == 1 { "" } else { "s" };
        write!(f, "{} fault{plural} in the configuration:", faults.len())?;
        for fault in faults {
            write!(f, "\n  {fault}")?;
        }
        for note in unknown {
            write!(f, "\n  note: {note}")?;
        }
        Ok(())
    }
}
