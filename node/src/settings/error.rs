//! All faults of the settings, reported together.

use std::fmt;

/// One setting that is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingError {
    /// Flag and variable.
    pub name: String,
    /// The value that was given, with secrets masked; `None` if there was none.
    pub given: Option<String>,
    /// The form of a valid value.
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

/// All errors of one reading; never empty.
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
