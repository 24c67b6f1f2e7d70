//! Verdicts, and the facts on which they rest.

use std::fmt;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, StatementDifference};

use super::report::{MisbehaviorKind, Report, ReportError};

/// The verdict on a report; greater values mean stronger evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MisbehaviorVerdict {
    /// The evidence contradicts the report, or is not authentic.
    Refuted,
    /// Data that would decide is missing.
    Inconclusive,
    /// The report is plausible, but nothing in it can be verified.
    Claim,
    /// Signatures and public chain data suffice: every judge comes to the same verdict, at any time.
    Proven,
}

impl MisbehaviorVerdict {
    /// Returns the name used in commands and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuted => "refuted",
            Self::Inconclusive => "inconclusive",
            Self::Claim => "claim",
            Self::Proven => "proven",
        }
    }
}

/// The host of a report: the node that keeps it and signed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// The report was judged without a host's signature.
    None,
    /// The signature is by no node of the registry: the report counts as anonymous.
    Unknown,
    /// This node signed, but another one was expected: the report counts as anonymous.
    Other(OriginatorId),
    /// This node had the report at the stated time; with `submitted_by_node` it also states that it saw the fault.
    Node(OriginatorId),
}

impl Host {
    /// Returns the host; `None` if there is no valid signature of the expected node.
    #[must_use]
    pub fn node(self) -> Option<OriginatorId> {
        match self {
            Self::Node(node) => Some(node),
            Self::None | Self::Unknown | Self::Other(_) => None,
        }
    }
}

/// One finding with its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// A name for programs, whose meaning never changes.
    pub name: &'static str,
    /// The finding as a sentence for people, without the numbers.
    pub text: String,
    /// The envelope concerned, if any.
    pub at: Option<EnvelopeId>,
    /// The numbers of the finding, each with a name.
    pub numbers: Vec<(&'static str, i128)>,
}

impl Fact {
    pub(super) fn new(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, text: text.into(), at: None, numbers: Vec::new() }
    }

    pub(super) fn at(self, id: EnvelopeId) -> Self {
        Self { at: Some(id), ..self }
    }

    pub(super) fn with(mut self, name: &'static str, number: impl Into<i128>) -> Self {
        self.numbers.push((name, number.into()));
        self
    }

    pub(super) fn malformed(text: impl Into<String>) -> Self {
        Self::new("malformed", text)
    }

    /// Makes the fact that the registry never had the accused.
    pub(super) fn unknown_node(accused: OriginatorId) -> Self {
        Self::new("unknown_node", "the accused was never in the registry").with("node", accused.0)
    }

    pub(super) fn of_report(error: &ReportError) -> Self {
        let name = if error.is_size() { "too_large" } else { "malformed" };
        Self::new(name, error.to_string())
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.text)?;
        if let Some(at) = self.at {
            write!(f, "; envelope {at}")?;
        }
        self.numbers.iter().try_for_each(|(name, number)| write!(f, "; {name} {number}"))
    }
}

/// Data that would make an inconclusive judgement conclusive, or might turn a claim into a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// The rates up to the envelope's time.
    Rates,
    /// The block in which a rate came to the chain: until then honest nodes applied the one before it.
    RateBlock,
    /// The app chain, at the sequence id or the transaction that the envelope names.
    Chain,
    /// All envelopes of the current minute and the four before it, and one earlier envelope.
    Window,
    /// The proof of how the larger of two trees begins.
    Tree,
}

impl Missing {
    /// Returns the name used in commands and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rates => "rates",
            Self::RateBlock => "rate_block",
            Self::Chain => "chain",
            Self::Window => "window",
            Self::Tree => "tree",
        }
    }
}

/// The result of judging one kind of fault.
#[derive(Debug)]
pub(super) struct FaultJudgement {
    pub(super) verdict: MisbehaviorVerdict,
    pub(super) difference: Option<StatementDifference>,
    pub(super) place: SequenceId,
    pub(super) facts: Vec<Fact>,
    pub(super) missing: Vec<Missing>,
}

impl FaultJudgement {
    pub(super) fn new(verdict: MisbehaviorVerdict, fact: Fact) -> Self {
        let place = fact.at.map_or(SequenceId::NONE, |at| at.sequence);
        Self { verdict, difference: None, place, facts: vec![fact], missing: Vec::new() }
    }

    pub(super) fn refuted(fact: Fact) -> Self {
        Self::new(MisbehaviorVerdict::Refuted, fact)
    }

    /// Returns a claim. With the data that is `missing`, other parts of the evidence might prove a fault.
    pub(super) fn claim(fact: Fact, mut missing: Vec<Missing>) -> Self {
        missing.sort_unstable();
        missing.dedup();
        Self { missing, ..Self::new(MisbehaviorVerdict::Claim, fact) }
    }

    pub(super) fn inconclusive(fact: Fact, missing: Missing) -> Self {
        Self { missing: vec![missing], ..Self::new(MisbehaviorVerdict::Inconclusive, fact) }
    }
}

/// The judgement of a report, or of evidence outside of reports (`docs/protocol/misbehavior.md`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The weight of the evidence.
    pub verdict: MisbehaviorVerdict,
    /// The accused node; `None` if the report does not decode.
    pub accused: Option<OriginatorId>,
    /// The kind of the fault; `None` if the report does not decode, and for evidence outside reports.
    pub kind: Option<MisbehaviorKind>,
    /// The kind of difference, if the fault is two statements.
    pub difference: Option<StatementDifference>,
    /// The sequence id in the accused's strand that the fault concerns; 0 if it concerns none.
    pub place: SequenceId,
    /// The findings; the first decides the verdict.
    pub facts: Vec<Fact>,
    /// The data that is missing for a final verdict; empty unless the verdict is inconclusive or a claim.
    pub missing: Vec<Missing>,
    /// The host of the report.
    pub host: Host,
    /// True if the host states that it saw the fault itself; false without a host.
    pub is_seen_by_host: bool,
}

impl Judgement {
    /// Returns a number that distinguishes faults of one kind at one sequence id: the kind of difference between two
    /// statements, the broken rule, the size of a step back in time, or 0.
    #[must_use]
    pub fn detail(&self) -> u8 {
        match (self.difference, self.first_number("rule")) {
            (Some(difference), _) => difference as u8,
            (None, Some(rule)) => u8::try_from(rule).unwrap_or(0),
            (None, None) => self.step_size().unwrap_or(0),
        }
    }

    /// Returns the earlier of the two places that prove a step back in time. The step lies after it, and at or before
    /// [`place`](Self::place). `None` for any other fault.
    #[must_use]
    pub fn step_behind(&self) -> Option<SequenceId> {
        self.facts.first().filter(|fact| fact.name == "time_back")?;
        let earlier = u64::try_from(self.first_number("earlier_sequence")?).ok()?;
        Some(SequenceId(earlier))
    }

    /// Returns the size of a step back in time: the number of binary digits of its whole seconds, which is 1 or more.
    fn step_size(&self) -> Option<u8> {
        self.step_behind()?;
        let step_s = u64::try_from(self.first_number("step_ns")? / 1_000_000_000).ok()?;
        u8::try_from(u64::BITS - step_s.leading_zeros()).ok()
    }

    /// Returns the number called `name` of the first fact, which decides the verdict; `None` if it has none.
    fn first_number(&self, name: &str) -> Option<i128> {
        let mut numbers = self.facts.first()?.numbers.iter();
        numbers.find(|(its, _)| *its == name).map(|(_, number)| *number)
    }

    pub(super) fn of(host: Host, report: &Report, ruling: FaultJudgement) -> Self {
        Self {
            kind: Some(report.kind()),
            host,
            is_seen_by_host: host.node().is_some() && report.is_by_node(),
            ..Self::of_trees(Some(report.accused()), ruling)
        }
    }

    /// Creates the judgement of evidence outside reports.
    pub(super) fn of_trees(accused: Option<OriginatorId>, ruling: FaultJudgement) -> Self {
        let FaultJudgement { verdict, difference, place, facts, missing } = ruling;
        let (host, is_seen_by_host) = (Host::None, false);
        Self {
            verdict,
            accused,
            kind: None,
            difference,
            place,
            facts,
            missing,
            host,
            is_seen_by_host,
        }
    }

    pub(super) fn refuted(
        host: Host,
        about: Option<(OriginatorId, MisbehaviorKind)>,
        fact: Fact,
    ) -> Self {
        let (accused, kind) = about.unzip();
        Self { kind, host, ..Self::of_trees(accused, FaultJudgement::refuted(fact)) }
    }
}
