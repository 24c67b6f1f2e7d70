//! How a command ends when it does not do what it was asked to.

use std::fmt;

use hawser_chain::admin::AdminError;

use crate::settings::table::chains;

/// Why a command failed: decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It was tried and did not work: 1.
    Failed,
    /// It was asked for in a way that makes no sense: 2.
    Usage,
    /// A rule forbids it: 3.
    Refused,
    /// What it is about does not exist: 4.
    NotFound,
}

/// A command that failed: why, and what people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Decides the exit code.
    pub reason: Reason,
    /// Says what happened, and what to do if that is known. Empty when everything has been said.
    pub text: String,
}

impl Failure {
    /// It was tried and did not work.
    pub fn failed(text: impl fmt::Display) -> Self {
        Self { reason: Reason::Failed, text: text.to_string() }
    }

    /// It makes no sense.
    pub fn usage(text: impl fmt::Display) -> Self {
        Self { reason: Reason::Usage, text: text.to_string() }
    }

    /// A rule forbids it.
    pub fn refused(text: impl fmt::Display) -> Self {
        Self { reason: Reason::Refused, text: text.to_string() }
    }

    /// It does not exist.
    pub fn not_found(text: impl fmt::Display) -> Self {
        Self { reason: Reason::NotFound, text: text.to_string() }
    }

    /// The same, with a sentence in front that says what was being done.
    #[must_use]
    pub fn while_doing(self, what: impl fmt::Display) -> Self {
        Self { text: format!("{what}: {}", self.text), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        match &error {
            AdminError::NoAddress(contract) => {
                let flag = chains::flag_of(*contract);
                Self::usage(format!(
                    "nobody has said where {contract} is: give --chain-json FILE, or --{flag} \
                     ADDRESS"
                ))
            }
            AdminError::NoChain(_)
            | AdminError::NoAccount
            | AdminError::UnknownParameter { .. }
            | AdminError::Value { .. } => Self::usage(error),
            AdminError::UnknownNode { .. } => Self::not_found(error),
            AdminError::KeyInUse { .. }
            | AdminError::StartInPast { .. }
            | AdminError::StartTooFar { .. } => Self::refused(error),
            AdminError::TooFewTokens { .. }
            | AdminError::Key(_)
            | AdminError::WouldRevert { .. }
            | AdminError::View { .. }
            | AdminError::Rpc(_) => Self::failed(error),
        }
    }
}
