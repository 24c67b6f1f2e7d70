//! The outcome of a check, with a remedy for the operator.

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckResult {
    /// Nothing needs to be done.
    Fine,
    /// The node works, but its operator should look.
    Doubtful,
    /// The node does not start, or does not do its work.
    Failed,
}

impl CheckResult {
    /// Returns the word used for operators and programs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Doubtful => "warn",
            Self::Failed => "fail",
        }
    }
}

/// A check with its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoctorCheck {
    /// The name, from a closed set.
    pub name: &'static str,
    /// Its result.
    pub result: CheckResult,
    /// The observed facts.
    pub found: String,
    /// The advised step; `None` if nothing needs to be done.
    pub remedy: Option<String>,
}

impl DoctorCheck {
    /// Creates a check whose result is [`CheckResult::Fine`].
    pub fn fine(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, result: CheckResult::Fine, found: found.into(), remedy: None }
    }

    /// Creates a check whose result is [`CheckResult::Doubtful`].
    pub fn doubtful(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { name, result: CheckResult::Doubtful, found: found.into(), remedy }
    }

    /// Creates a check whose result is [`CheckResult::Failed`].
    pub fn failed(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { name, result: CheckResult::Failed, found: found.into(), remedy }
    }
}
