//! A check that was made, with its result and the step to take.

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckResult {
    /// Nothing to do.
    Fine,
    /// The node works, and its operator should look.
    Doubtful,
    /// The node does not start, or does not do its work.
    Failed,
}

impl CheckResult {
    /// Returns the word that operators and programs see.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Doubtful => "warn",
            Self::Failed => "fail",
        }
    }
}

/// A check that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Its name, a closed set.
    pub name: &'static str,
    /// Its result.
    pub result: CheckResult,
    /// The facts that were found.
    pub found: String,
    /// The step to take; `None` if there is nothing to do.
    pub remedy: Option<String>,
}

impl Checked {
    /// Says that there is nothing to do.
    pub fn fine(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, result: CheckResult::Fine, found: found.into(), remedy: None }
    }

    /// Says that the operator should look.
    pub fn doubtful(
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { name, result: CheckResult::Doubtful, found: found.into(), remedy }
    }

    /// Says that the node does not do its work.
    pub fn failed(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let remedy = Some(remedy.into());
        Self { name, result: CheckResult::Failed, found: found.into(), remedy }
    }
}
