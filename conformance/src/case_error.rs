//! The reason a case does not pass.

use std::fmt;

use hawser_proto::steers_terminal;
use tonic::{Code, Status};

/// Longest text of an error, in characters. A guess: a node may send megabytes, and a person reads a few lines.
const TEXT_LEN_CHARS_MAX: usize = 1_000;

/// The result of a case, or of a step of it.
pub type Checked<T = ()> = Result<T, CaseError>;

/// The reason a case does not pass: a broken rule, a known defect of other software, or a case that does not apply to
/// this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseError {
    /// The demand of the rule.
    pub expected: String,
    /// The answer that came instead.
    pub got: String,
    /// The meaning of the error.
    pub kind: CaseErrorKind,
}

/// The meaning of an error of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaseErrorKind {
    /// The node breaks the rule.
    Broken,
    /// The node has a defect that this other software is known to have.
    Known(&'static str),
    /// The case does not apply to this node; `got` is the reason.
    Skipped,
}

impl CaseError {
    /// Returns the error of a broken rule.
    pub fn new(expected: impl fmt::Display, got: impl fmt::Display) -> Self {
        Self { expected: shown(expected), got: shown(got), kind: CaseErrorKind::Broken }
    }

    /// Returns a defect that `software` is known to have.
    pub fn known(
        software: &'static str,
        expected: impl fmt::Display,
        got: impl fmt::Display,
    ) -> Self {
        Self { kind: CaseErrorKind::Known(software), ..Self::new(expected, got) }
    }

    /// Returns the reason a case does not apply to this node.
    pub fn skip(reason: impl fmt::Display) -> Self {
        Self { kind: CaseErrorKind::Skipped, ..Self::new("", reason) }
    }

    /// Adds the step of the case that failed.
    #[must_use]
    pub fn at(mut self, step: impl fmt::Display) -> Self {
        self.expected = shown(format_args!("{step}: {}", self.expected));
        self
    }
}

impl fmt::Display for CaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.expected.is_empty() {
            return f.write_str(&self.got);
        }
        write!(f, "expected {}; got {}", self.expected, self.got)
    }
}

/// Converts the status of a call that had to succeed.
impl From<Status> for CaseError {
    fn from(status: Status) -> Self {
        Self::new("OK", status_text(&status))
    }
}

/// Returns a status as text.
#[must_use]
pub fn status_text(status: &Status) -> String {
    format!("{} {:?}", code_name(status.code()), status.message())
}

/// Returns the protocol's name of a status code, such as `INVALID_ARGUMENT`.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Checks a condition.
///
/// # Errors
/// Returns an error if the condition does not hold.
pub fn ensure(holds: bool, expected: impl fmt::Display, got: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(CaseError::new(expected, got())) }
}

/// Checks that two values are equal.
///
/// # Errors
/// Returns an error if the values differ.
pub fn same<T: PartialEq + fmt::Debug + ?Sized>(what: &str, expected: &T, got: &T) -> Checked {
    ensure(expected == got, format_args!("{what} {expected:?}"), || format!("{got:?}"))
}

/// Checks that a call was refused with this code, and with a message that has `text` in it.
///
/// # Errors
/// Returns an error if the node accepted the call, or refused it with another code or message.
pub fn refused<T>(
    what: &str,
    answer: Result<T, Status>,
    code: Code,
    text: &str,
) -> Checked<Status> {
    let expected = || {
        let name = code_name(code);
        if text.is_empty() {
            format!("{what}: {name}")
        } else {
            format!("{what}: {name} with {text:?}")
        }
    };
    match answer {
        Ok(_) => Err(CaseError::new(expected(), "OK")),
        Err(status) if status.code() == code && status.message().contains(text) => Ok(status),
        Err(status) => Err(CaseError::new(expected(), status_text(&status))),
    }
}

/// Returns the answer of a service that some nodes of the network do not offer.
///
/// # Errors
/// A skip if the node does not offer the service; the failed call for any other refusal.
pub fn optional<T>(what: &str, answer: Result<T, Status>) -> Checked<T> {
    answer.map_err(|status| match status.code() {
        Code::Unimplemented => CaseError::skip(format_args!("the node does not serve {what}")),
        _ => status.into(),
    })
}

/// Cuts a text and replaces its characters that could command a terminal or break a file.
fn shown(text: impl fmt::Display) -> String {
    let text = text.to_string();
    let mut shown: String = text
        .chars()
        .take(TEXT_LEN_CHARS_MAX)
        .map(|letter| {
            if steers_terminal(letter) || letter == '\u{fffe}' || letter == '\u{ffff}' {
                '\u{fffd}'
            } else {
                letter
            }
        })
        .collect();
    if text.chars().nth(TEXT_LEN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_node_commands_no_terminal_and_has_an_end() {
        let failure = CaseError::new("OK", format!("\x1b[2J{}", "x".repeat(5_000)));
        assert!(!failure.got.contains('\x1b') && failure.got.ends_with('…'), "{failure}");
        assert_eq!(failure.got.chars().count(), TEXT_LEN_CHARS_MAX + 1);
    }

    #[test]
    fn a_service_that_is_not_there_skips_its_cases() {
        let kind = |status| optional::<()>("x", Err(status)).unwrap_err().kind;
        assert_eq!(kind(Status::unimplemented("")), CaseErrorKind::Skipped);
        assert_eq!(kind(Status::internal("")), CaseErrorKind::Broken);
        assert_eq!(optional("x", Ok(1)), Ok(1));
    }

    #[test]
    fn a_refusal_needs_its_code_and_its_text() {
        let no = || Err::<(), _>(Status::invalid_argument("topic has 0 bytes"));
        assert!(refused("x", no(), Code::InvalidArgument, "topic").is_ok());
        assert!(refused("x", no(), Code::InvalidArgument, "cursor").is_err());
        assert!(refused("x", no(), Code::Internal, "topic").is_err());
        assert!(refused("x", Ok::<_, Status>(()), Code::InvalidArgument, "").is_err());
        assert_eq!(code_name(Code::DeadlineExceeded), "DEADLINE_EXCEEDED");
    }
}
