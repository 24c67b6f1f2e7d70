//! A report, or evidence that rests on signed trees, with its judgement, as text for people and JSON for programs.

use std::fmt;

use hawser_rules::misbehavior::{
    ChainRecord, Fact, Host, Judgement, Missing, NoChain, Report, TreeEvidence,
};
use serde_json::{Map, Value, json};

use crate::evidence_file::{EvidenceFile, FiledReport, KnownKeys};

/// A report with its judgement.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The report.
    pub held: FiledReport,
    /// The report decoded; `None` if it is malformed.
    pub report: Option<Report>,
    /// Its judgement.
    pub judgement: Judgement,
}

impl Judged {
    /// Judges a report without data of chains.
    #[must_use]
    pub fn new(held: FiledReport, keys: &KnownKeys) -> Self {
        Self::by_chain(held, keys, &NoChain)
    }

    /// Judges a report, also by data of chains.
    #[must_use]
    pub fn by_chain(held: FiledReport, keys: &KnownKeys, chain: &dyn ChainRecord) -> Self {
        let judgement = keys.judge(&held, chain);
        Self { report: Report::decode(&held.report).ok(), held, judgement }
    }

    /// Makes an evidence file of reports and of evidence that rests on signed trees, judged by these keys and rates.
    #[must_use]
    pub fn file(
        tool: &str,
        reports: &[FiledReport],
        trees: &[TreeEvidence],
        keys: &KnownKeys,
    ) -> EvidenceFile {
        let verdicts = reports.iter().map(|it| Self::new(it.clone(), keys).to_json());
        let of_trees = trees.iter().map(|it| JudgedTrees::new(it.clone(), keys).to_json());
        EvidenceFile::new(tool, (reports, trees), verdicts.chain(of_trees).collect(), keys)
    }

    /// Renders the judgement for programs: names, and numbers as JSON numbers or, above 64 bits, as text.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let it = &self.judgement;
        json!({
            "verdict": it.verdict.name(),
            "kind": it.kind.map(i32::from),
            "kind_name": it.kind.map(|kind| kind.as_str_name()),
            "misbehaving_node_id": it.accused.map(|node| node.0),
            "sequence_id": it.place.0,
            "severity": it.difference.map(|difference| difference.name()),
            "facts": it.facts.iter().map(fact_json).collect::<Vec<_>>(),
            "missing": it.missing.iter().map(|it| Missing::name(*it)).collect::<Vec<_>>(),
            "host_node_id": it.host.node().map(|node| node.0),
            "host": host_name(it.host),
            "seen_by_host": it.is_seen_by_host,
            "reporter_time_ns": self.report.as_ref().map(Report::reporter_time_ns),
            "server_time_ns": self.held.server_time_ns,
        })
    }
}

/// Evidence that rests on signed trees, with its judgement.
#[derive(Debug, Clone)]
pub struct JudgedTrees {
    /// The evidence.
    pub held: TreeEvidence,
    /// Its judgement.
    pub judgement: Judgement,
}

impl JudgedTrees {
    /// Judges evidence.
    #[must_use]
    pub fn new(held: TreeEvidence, keys: &KnownKeys) -> Self {
        let judgement = keys.judge_trees(&held);
        Self { held, judgement }
    }

    /// Renders the judgement for programs, as [`Judged::to_json`] does.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let it = &self.judgement;
        json!({
            "verdict": it.verdict.name(),
            "fault": self.held.fault.name(),
            "misbehaving_node_id": it.accused.map(|node| node.0),
            "sequence_id": it.place.0,
            "facts": it.facts.iter().map(fact_json).collect::<Vec<_>>(),
            "missing": it.missing.iter().map(|it| Missing::name(*it)).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for JudgedTrees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let it = &self.judgement;
        write!(f, "{}: {}", it.verdict.name(), self.held.fault.name())?;
        if let Some(node) = it.accused {
            write!(f, " against node {node}")?;
        }
        write_facts(f, it)
    }
}

/// Writes the findings, and the missing data that would decide.
fn write_facts(f: &mut fmt::Formatter<'_>, judgement: &Judgement) -> fmt::Result {
    for fact in &judgement.facts {
        write!(f, "\n  {fact}")?;
    }
    if !judgement.missing.is_empty() {
        let missing: Vec<&str> = judgement.missing.iter().map(|it| it.name()).collect();
        write!(f, "\n  to decide it takes: {}", missing.join(", "))?;
    }
    Ok(())
}

fn host_name(host: Host) -> &'static str {
    match host {
        Host::None => "none",
        Host::Unknown => "unknown",
        Host::Other(_) => "other",
        Host::Node(_) => "node",
    }
}

fn fact_json(fact: &Fact) -> Value {
    let number = |number: i128| match i64::try_from(number) {
        Ok(number) => Value::from(number),
        Err(_) => u64::try_from(number).map_or_else(|_| number.to_string().into(), Value::from),
    };
    let numbers: Map<String, Value> =
        fact.numbers.iter().map(|(name, it)| ((*name).to_owned(), number(*it))).collect();
    json!({
        "fact": fact.name,
        "text": fact.text,
        "envelope": fact.at.map(|at| at.to_string()),
        "numbers": numbers,
    })
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let it = &self.judgement;
        write!(f, "{}", it.verdict.name())?;
        match (it.kind, it.accused) {
            (Some(kind), Some(node)) => write!(f, ": {} against node {node}", kind.as_str_name())?,
            _ => write!(f, ": no report")?,
        }
        if let Some(difference) = it.difference {
            write!(f, " ({})", difference.name())?;
        }
        write_facts(f, it)?;
        match it.host {
            Host::None => Ok(()),
            Host::Unknown => write!(f, "\n  kept by no node of the registry"),
            Host::Other(node) => {
                write!(f, "\n  signed by node {node}, and not by the node that it came from")
            }
            Host::Node(node) if it.is_seen_by_host => {
                write!(f, "\n  kept by node {node}, which says that it saw it")
            }
            Host::Node(node) => write!(f, "\n  kept by node {node}"),
        }
    }
}
