//! A case: a rule of the protocol, its source, and the function that checks it.

use std::pin::Pin;
use std::time::Duration;

use crate::case_error::Checked;
use crate::context::JudgedNodes;

/// Time limit of a case that sets no other. A guess: several times the default timeout of an answer.
const LIMIT: Duration = Duration::from_secs(60);

/// The part of the protocol that a case belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// Publishing and reading back, in every protocol.
    EndToEnd,
    /// Places, times, cursors and pages.
    Ordering,
    /// Refusals: codes and texts.
    Errors,
    /// Subscriptions.
    Streams,
    /// Maximum sizes and counts.
    Limits,
    /// Crashes, cancellations and resumption.
    Reliability,
    /// Response times that clients rely on.
    Performance,
    /// Forged, broken and hostile input.
    Security,
}

impl Area {
    /// Every area, in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::EndToEnd,
        Self::Ordering,
        Self::Errors,
        Self::Streams,
        Self::Limits,
        Self::Reliability,
        Self::Performance,
        Self::Security,
    ];

    /// Returns the name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EndToEnd => "end-to-end",
            Self::Ordering => "ordering",
            Self::Errors => "errors",
            Self::Streams => "streams",
            Self::Limits => "limits",
            Self::Reliability => "reliability",
            Self::Performance => "performance",
            Self::Security => "security",
        }
    }
}

/// An argument that a case requires; without it the case is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A payer's key: the case publishes.
    Payer,
    /// Another node of the network.
    Second,
    /// A gateway of the network.
    Gateway,
    /// Permission to attack.
    Destructive,
    /// Permission to send and store large amounts of data.
    Load,
    /// Commands that kill and start the target.
    Restart,
}

impl Need {
    /// Returns the name of the argument on the command line.
    #[must_use]
    pub fn argument(self) -> &'static str {
        match self {
            Self::Payer => "--payer-key-file",
            Self::Second => "--second",
            Self::Gateway => "--gateway",
            Self::Destructive => "--destructive",
            Self::Load => "--load",
            Self::Restart => "--kill-command and --start-command",
        }
    }
}

/// The work of a case.
pub type Running<'a> = Pin<Box<dyn Future<Output = Checked> + 'a>>;

/// A rule of the protocol and the function that checks it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Name, unique and lasting.
    pub id: &'static str,
    /// Area of the protocol.
    pub area: Area,
    /// The rule, as a sentence.
    pub rule: &'static str,
    /// Page and section of the repository that state the rule.
    pub source: &'static str,
    /// Arguments without which the case is skipped.
    pub needs: &'static [Need],
    /// Time after which the case has failed.
    pub limit: Duration,
    /// The check.
    pub check: for<'a> fn(&'a JudgedNodes) -> Running<'a>,
}

impl Case {
    /// Makes a case that needs no argument but the target.
    pub(crate) const fn new(
        area: Area,
        id: &'static str,
        rule: &'static str,
        source: &'static str,
        check: for<'a> fn(&'a JudgedNodes) -> Running<'a>,
    ) -> Self {
        Self { id, area, rule, source, needs: &[], limit: LIMIT, check }
    }

    /// Sets the arguments that the case requires.
    pub(crate) const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }

    /// Sets the time limit.
    pub(crate) const fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Returns true if the case must run alone: it disturbs other cases, or they disturb its figures.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.needs.iter().any(|need| matches!(need, Need::Destructive | Need::Load | Need::Restart))
    }
}
