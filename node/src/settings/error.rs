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

/// All errors of the settings; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError(pub Vec<SettingError>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "{} fault{plural} in the configuration:", self.0.len())?;
        for error in &self.0 {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}
