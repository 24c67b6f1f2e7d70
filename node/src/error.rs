//! The error of a run or a command.

use std::fmt;

use hawser_chain::admin::{AdminError, Contract};

use crate::settings::table::chains;

/// The kind of a [`RunError`], which determines the exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunErrorKind {
    /// The request was tried and failed.
    Failed,
    /// The request itself is invalid.
    Usage,
    /// A rule forbids the request.
    Refused,
    /// The subject of the request does not exist.
    NotFound,
    /// The work was done, and its result is this exit code.
    Answer(u8),
}

/// The error of a run or a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunError {
    /// The kind, which determines the exit code.
    pub kind: RunErrorKind,
    /// A description of the failure, with the remedy if it is known. Empty if everything was already printed.
    pub text: String,
}

impl RunError {
    /// Creates an error of kind [`RunErrorKind::Failed`].
    pub fn failed(text: impl fmt::Display) -> Self {
        Self { kind: RunErrorKind::Failed, text: text.to_string() }
    }

    /// Creates an error of kind [`RunErrorKind::Usage`].
    pub fn usage(text: impl fmt::Display) -> Self {
        Self { kind: RunErrorKind::Usage, text: text.to_string() }
    }

    /// Creates an error of kind [`RunErrorKind::Refused`].
    pub fn refused(text: impl fmt::Display) -> Self {
        Self { kind: RunErrorKind::Refused, text: text.to_string() }
    }

    /// Creates an error of kind [`RunErrorKind::NotFound`].
    pub fn not_found(text: impl fmt::Display) -> Self {
        Self { kind: RunErrorKind::NotFound, text: text.to_string() }
    }

    /// Prefixes the text with the step that failed.
    #[must_use]
    pub fn while_doing(self, step: impl fmt::Display) -> Self {
        Self { text: format!("{step}: {}", self.text), ..self }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for RunError {}

impl From<AdminError> for RunError {
    fn from(error: AdminError) -> Self {
        match &error {
            AdminError::NoAddress(contract) if Contract::OPTIONAL.contains(contract) => {
                Self::usage(format!(
                    "the address of {contract} is not given: give a file that has it with \
                     --chain-json FILE"
                ))
            }
            AdminError::NoAddress(contract) => {
                let flag = chains::flag_of(*contract);
                Self::usage(format!(
                    "the address of {contract} is not given: give --chain-json FILE, or --{flag} \
                     ADDRESS"
                ))
            }
            AdminError::NoChain(_)
            | AdminError::NoAccount
            | AdminError::UnknownParameter { .. }
            | AdminError::Value { .. } => Self::usage(error),
            AdminError::UnknownNode { .. } | AdminError::UnsetParameter { .. } => {
                Self::not_found(error)
            }
            AdminError::KeyInUse { .. }
            | AdminError::NotPausable(_)
            | AdminError::NotUpgradable(_)
            | AdminError::OtherImplementation { .. }
            | AdminError::OtherBeside { .. }
            | AdminError::BackfillOfOther(_)
            | AdminError::OwnContract { .. }
            | AdminError::SubmissionFeeTooHigh { .. }
            | AdminError::PriceTooHigh { .. }
            | AdminError::TargetTooHigh { .. }
            | AdminError::StartInPast { .. }
            | AdminError::StartTooFar { .. } => Self::refused(error),
            AdminError::TooFewTokens { .. }
            | AdminError::NotUpgraded { .. }
            | AdminError::Key(_)
            | AdminError::WouldRevert { .. }
            | AdminError::ReportsContradicted { .. }
            | AdminError::TooManyPages { .. }
            | AdminError::View { .. }
            | AdminError::Rpc(_) => Self::failed(error),
        }
    }
}
