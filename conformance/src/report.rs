//! Results of a run, as text, as JSON and as JUnit XML.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::case::{Area, Case, Need};
use crate::case_error::CaseError;

/// The result of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The rule holds.
    Passed,
    /// The rule is broken.
    Failed(CaseError),
    /// The node has a defect that this other software is known to have.
    Finding(&'static str, CaseError),
    /// The case was not run, with the reason.
    Skipped(String),
}

impl Outcome {
    /// Returns the name in reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed(_) => "failed",
            Self::Finding(..) => "finding",
            Self::Skipped(_) => "skipped",
        }
    }

    /// Returns the reason of an outcome other than a pass, as text.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Passed => None,
            Self::Failed(failure) => Some(failure.to_string()),
            Self::Finding(software, failure) => {
                Some(format!("known defect of {software}: {failure}"))
            }
            Self::Skipped(reason) => Some(reason.clone()),
        }
    }
}

/// A case with its result.
#[derive(Debug, Clone)]
pub struct CaseResult {
    /// The case.
    pub case: Case,
    /// The result.
    pub outcome: Outcome,
    /// Time that the case took.
    pub took: Duration,
}

/// Cases that leave more on the node than messages of a short retention, each with what it leaves.
const LEFT_LONGER: [(&str, &str); 2] = [
    ("long-retentions-are-accepted", "One message stays for a year, and one for ever."),
    ("a-report-is-kept", "The node keeps the suite's report about it for 30 days."),
];

/// The results of a run.
#[derive(Debug, Clone)]
pub struct SuiteReport {
    /// URL of the node that was judged.
    pub target: String,
    /// Every selected case.
    pub results: Vec<CaseResult>,
    /// Time of the whole run.
    pub took: Duration,
}

/// Counts of outcomes: passed, failed, findings, skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Cases that passed.
    pub passed: usize,
    /// Cases that failed.
    pub failed: usize,
    /// Cases that found a known defect.
    pub findings: usize,
    /// Cases that were not run.
    pub skipped: usize,
}

impl SuiteReport {
    /// Returns the counts of one area, or of all cases for `None`.
    #[must_use]
    pub fn counts(&self, area: Option<Area>) -> Counts {
        let mut counts = Counts::default();
        for result in &self.results {
            if area.is_some_and(|area| area != result.case.area) {
                continue;
            }
            *match result.outcome {
                Outcome::Passed => &mut counts.passed,
                Outcome::Failed(_) => &mut counts.failed,
                Outcome::Finding(..) => &mut counts.findings,
                Outcome::Skipped(_) => &mut counts.skipped,
            } += 1;
        }
        counts
    }

    /// Returns what the cases of one area leave on the node, or all cases for `None`: a sentence for each kind.
    #[must_use]
    pub fn leaves(&self, area: Option<Area>) -> Vec<&'static str> {
        // A gateway pays for what is published through it.
        let is_paid = |need: &Need| matches!(need, Need::Payer | Need::Gateway);
        let has_published = |result: &&CaseResult| {
            area.is_none_or(|area| area == result.case.area)
                && result.case.needs.iter().any(is_paid)
                && !matches!(result.outcome, Outcome::Skipped(_))
        };
        let published: Vec<_> = self.results.iter().filter(has_published).collect();
        let mut leaves = Vec::new();
        if !published.is_empty() {
            leaves.push("What the suite has published stays on the node until its retention ends.");
        }
        for (id, left) in LEFT_LONGER {
            if published.iter().any(|result| result.case.id == id) {
                leaves.push(left);
            }
        }
        leaves
    }

    /// Returns the summary as text: a row for each area, and the sum.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{:<14}{:>8}{:>8}{:>10}{:>9}\n",
            "area", "passed", "failed", "findings", "skipped"
        );
        let mut row = |name: &str, counts: Counts| {
            let Counts { passed, failed, findings, skipped } = counts;
            let _ = writeln!(text, "{name:<14}{passed:>8}{failed:>8}{findings:>10}{skipped:>9}");
        };
        for area in Area::ALL {
            let counts = self.counts(Some(area));
            if counts != Counts::default() {
                row(area.name(), counts);
            }
        }
        row("all", self.counts(None));
        text
    }

    /// Returns the report as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let result = |result: &CaseResult| {
            let CaseResult { case, outcome, took } = result;
            json!({
                "case": case.id,
                "area": case.area.name(),
                "rule": case.rule,
                "source": case.source,
                "outcome": outcome.name(),
                "reason": outcome.reason(),
                "took_ms": millis(*took),
            })
        };
        let Counts { passed, failed, findings, skipped } = self.counts(None);
        json!({
            "target": self.target,
            "passed": passed,
            "failed": failed,
            "findings": findings,
            "skipped": skipped,
            "took_ms": millis(self.took),
            "leaves": self.leaves(None),
            "cases": self.results.iter().map(result).collect::<Vec<_>>(),
        })
    }

    /// Returns the report as JUnit XML: a suite for each area. A finding is a pass with its text as output.
    /// The output of a suite names what the cases of its area leave on the node.
    #[must_use]
    pub fn junit(&self) -> String {
        let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
        let all = self.counts(None);
        let tests = self.results.len();
        let _ = writeln!(
            text,
            "<testsuites name=\"hawser conformance\" tests=\"{tests}\" failures=\"{}\" skipped=\"{}\" time=\"{}\">",
            all.failed,
            all.skipped,
            seconds(self.took)
        );
        for area in Area::ALL {
            let results: Vec<_> =
                self.results.iter().filter(|result| result.case.area == area).collect();
            if results.is_empty() {
                continue;
            }
            let Counts { failed, skipped, .. } = self.counts(Some(area));
            let _ = writeln!(
                text,
                "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failed}\" skipped=\"{skipped}\">",
                area.name(),
                results.len()
            );
            for result in results {
                text += &junit_case(result);
            }
            let leaves = self.leaves(Some(area));
            if !leaves.is_empty() {
                let leaves = escaped(&leaves.join("\n"));
                let _ = writeln!(text, "    <system-out>{leaves}</system-out>");
            }
            text += "  </testsuite>\n";
        }
        text += "</testsuites>\n";
        text
    }
}

fn junit_case(result: &CaseResult) -> String {
    let CaseResult { case, outcome, took } = result;
    let head = format!(
        "    <testcase classname=\"{}\" name=\"{}\" time=\"{}\"",
        case.area.name(),
        case.id,
        seconds(*took)
    );
    let reason = escaped(&outcome.reason().unwrap_or_default());
    match outcome {
        Outcome::Passed => format!("{head}/>\n"),
        Outcome::Failed(_) => {
            let rule = escaped(&format!("{} ({})", case.rule, case.source));
            format!("{head}><failure message=\"{reason}\">{rule}</failure></testcase>\n")
        }
        Outcome::Finding(..) => format!("{head}><system-out>{reason}</system-out></testcase>\n"),
        Outcome::Skipped(_) => format!("{head}><skipped message=\"{reason}\"/></testcase>\n"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> SuiteReport {
        let case =
            |id| Case::new(Area::Errors, id, "a rule", "docs/x", |_| Box::pin(async { Ok(()) }));
        let failure = CaseError::new("<\"a\">", "b & \x1b[0m");
        let outcomes = [
            Outcome::Passed,
            Outcome::Failed(failure.clone()),
            Outcome::Finding("xmtpd", failure),
            Outcome::Skipped("needs --load".into()),
        ];
        let results =
            outcomes.map(|outcome| CaseResult { case: case("c"), outcome, took: Duration::ZERO });
        SuiteReport {
            target: "http://x:1".into(),
            results: results.into(),
            took: Duration::from_secs(1),
        }
    }

    #[test]
    fn every_form_tells_every_outcome() {
        let report = report();
        let counts = Counts { passed: 1, failed: 1, findings: 1, skipped: 1 };
        assert_eq!((report.counts(None), report.counts(Some(Area::Errors))), (counts, counts));
        assert_eq!(report.counts(Some(Area::Limits)), Counts::default());
        assert_eq!(report.summary().lines().count(), 3, "{}", report.summary());
        let json = report.json();
        let outcomes: Vec<_> =
            json["cases"].as_array().unwrap().iter().map(|case| &case["outcome"]).collect();
        assert_eq!(outcomes, ["passed", "failed", "finding", "skipped"]);
        let xml = report.junit();
        assert!(xml.contains("failures=\"1\" skipped=\"1\""), "{xml}");
        assert!(xml.contains("message=\"expected &lt;&quot;a&quot;&gt;; got b &amp; "), "{xml}");
        assert!(!xml.contains('\x1b') && xml.ends_with("</testsuites>\n"));
    }

    #[test]
    fn files_for_programs_say_what_stays_on_the_node() {
        let report_of = |outcome: Outcome| {
            let case = Case::new(Area::Security, "a-report-is-kept", "a rule", "docs/x", |_| {
                Box::pin(async { Ok(()) })
            });
            let case = case.needs(&[Need::Payer]);
            let results = vec![CaseResult { case, outcome, took: Duration::ZERO }];
            SuiteReport { results, ..report() }
        };
        let run = report_of(Outcome::Passed);
        let leaves = run.leaves(None);
        assert_eq!(leaves.len(), 2, "{leaves:?}");
        assert_eq!(run.json()["leaves"], json!(leaves));
        let output = format!("<system-out>{}</system-out>\n  </testsuite>", leaves.join("\n"));
        assert!(run.junit().contains(&output), "{}", run.junit());
        assert!(run.leaves(Some(Area::Limits)).is_empty(), "no case of this area has published");
        let run = report_of(Outcome::Skipped("needs --load".into()));
        assert_eq!(run.json()["leaves"], json!([]));
        assert!(!run.junit().contains("<system-out>"), "{}", run.junit());
    }
}
