//! Log lines about what is tried again and again.

use std::fmt::Display;

/// The last failure of an action that is tried again until it succeeds.
#[derive(Debug, Default)]
pub struct LastFailure(Option<String>);

impl LastFailure {
    /// Notes the end of an attempt, with its error. Returns true if the error is to be logged: the attempt before did
    /// not fail, or it failed for another reason.
    pub fn note(&mut self, error: Option<&impl Display>) -> bool {
        let failure = error.map(ToString::to_string);
        let is_new = failure.is_some() && failure != self.0;
        self.0 = failure;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_lasts_is_logged_once_and_again_when_it_changes() {
        let mut last = LastFailure::default();
        let attempts =
            [None, Some("full"), Some("full"), Some("gone"), Some("full"), None, Some("full")];
        let logged = attempts.map(|error| last.note(error.as_ref()));
        assert_eq!(logged, [false, true, false, true, true, false, true]);
    }
}
