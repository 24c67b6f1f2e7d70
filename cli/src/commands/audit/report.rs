//! `hawser audit report`: the reports of an evidence file or of a node, judged one by one.

use std::collections::BTreeMap;

use hawser_audit::evidence_file::FiledReport;
use hawser_audit::{EvidenceFile, JudgedTrees, KnownKeys, UnknownTreeFault};
use hawser_node::AddressFrom;
use hawser_node::error::RunError;
use hawser_rules::misbehavior::quorum::LivenessRecord;
use hawser_rules::misbehavior::{MisbehaviorVerdict, Missing, TreeEvidence};
use serde_json::{Value, json};

use super::asked_chain::{self, AskedChain};
use super::keys::LoadedKeys;
use super::{exit_of, keys, network, read_file, reports};
use crate::args::audit::AuditReportArgs;
use crate::{exit_codes, output};

/// Judges the reports of a file or of a node. A node's reports are judged page by page, so that only one page is held.
///
/// # Errors
/// When files or nodes cannot be read; and with the exit code of the verdict, or of a node that was not read to its
/// end.
pub(in super::super) async fn report(args: AuditReportArgs, as_json: bool) -> Result<(), RunError> {
    let chain = AskedChain::of(&args.network).await?;
    if args.source.contains("://") {
        let keys = keys::load(&args.keys, None)?;
        let mut judging = Judging::new(&keys.known, chain, as_json);
        let named = (args.source.as_str(), AddressFrom::Operator);
        let read = reports::each_page(named, 0, reports::READ_MOST, async |page| {
            for held in page {
                judging.take(held).await;
            }
            Ok(())
        });
        let read = read.await;
        return judging.finish(&keys, &[], read);
    }
    let file = read_file(args.source.as_ref())?;
    let keys = keys::load(&args.keys, Some(&file))?;
    // Before the first verdict: a file that is malformed anywhere is not judged in part.
    let reports = file.held().map_err(RunError::failed)?;
    let trees = file.held_trees().map_err(RunError::failed)?;
    let notes = differences(&file, &keys)?;
    let mut judging = Judging::new(&keys.known, chain, as_json);
    for held in reports {
        judging.take(held).await;
    }
    for held in trees {
        judging.take_trees(held);
    }
    for fault in file.unknown_faults() {
        judging.take_unknown(&fault);
    }
    judging.finish(&keys, &notes, Ok(()))
}

/// Returns what an evidence file states about the registry and the given keys contradict. Nothing if its keys are used.
fn differences(file: &EvidenceFile, keys: &LoadedKeys) -> Result<Vec<String>, RunError> {
    if keys.is_on_trust || file.registry.is_empty() {
        return Ok(Vec::new());
    }
    let of_file = file.keys().map_err(RunError::failed)?.registry;
    let other_key = of_file.nodes().filter(|node| {
        keys.known.registry.node(node.id).is_some_and(|known| known.public_key != node.public_key)
    });
    let mut found: Vec<_> = other_key
        .map(|node| format!("the file has another key of node {} than the given one", node.id))
        .collect();
    if let (Some(written), Some(given)) = (&file.registry_source, &keys.source)
        && !written.is_same_contract(given)
    {
        found.push(format!("the file was written with the keys of another registry: {written}"));
    }
    Ok(found)
}

/// The judgements so far, of which only sums are held.
struct Judging<'a> {
    keys: &'a KnownKeys,
    /// The chain to ask; `None` if the arguments name none.
    chain: Option<AskedChain>,
    as_json: bool,
    counts: BTreeMap<MisbehaviorVerdict, u64>,
    /// A verdict is open because rates are missing.
    lacks_rates: bool,
    liveness: LivenessRecord,
}

impl<'a> Judging<'a> {
    fn new(keys: &'a KnownKeys, chain: Option<AskedChain>, as_json: bool) -> Self {
        let (counts, liveness) = (BTreeMap::new(), LivenessRecord::default());
        Self { keys, chain, as_json, counts, lacks_rates: false, liveness }
    }

    async fn take(&mut self, held: FiledReport) {
        let judged = asked_chain::judge(&mut self.chain, held, self.keys).await;
        if let Some(report) = &judged.report {
            self.liveness.add(report, &judged.judgement);
        }
        self.lacks_rates |= judged.judgement.missing.contains(&Missing::Rates);
        self.show(judged.judgement.verdict, || judged.to_json(), &judged);
    }

    fn take_trees(&mut self, held: TreeEvidence) {
        let judged = JudgedTrees::new(held, self.keys);
        self.show(judged.judgement.verdict, || judged.to_json(), &judged);
    }

    fn take_unknown(&mut self, fault: &UnknownTreeFault) {
        self.show(MisbehaviorVerdict::Inconclusive, || fault.to_json(), fault);
    }

    /// Counts a verdict, and prints it in the form that was asked for.
    fn show(
        &mut self,
        verdict: MisbehaviorVerdict,
        json: impl FnOnce() -> Value,
        text: impl std::fmt::Display,
    ) {
        *self.counts.entry(verdict).or_default() += 1;
        match self.as_json {
            true => output::line(json()),
            false => output::line(text),
        }
    }

    /// Prints the verdict on all judged reports. `read` states if all of them were read.
    fn finish(
        self,
        keys: &LoadedKeys,
        differences: &[String],
        read: Result<(), RunError>,
    ) -> Result<(), RunError> {
        if self.counts.is_empty() {
            return read.and(Err(RunError::not_found("the source holds no report to judge")));
        }
        // Printed beside the verdict: the agreement of most nodes is not a proof either.
        for outage in self.liveness.outages(&self.keys.registry) {
            match self.as_json {
                true => output::line(json!({ "outage": network::outage_json(&outage) })),
                false => output::line(format_args!(
                    "node {}{}",
                    outage.node,
                    network::of_outage(&outage)
                )),
            }
        }
        let total = self.total(keys);
        match self.as_json {
            true => output::line(self.to_json(total, keys, differences)),
            false => self.print(keys, differences),
        }
        if let (Err(error), MisbehaviorVerdict::Proven) = (&read, total) {
            output::note(format_args!("hawser: {}", unread(error)));
        }
        end(total, read)
    }

    fn total(&self, keys: &LoadedKeys) -> MisbehaviorVerdict {
        // Strangers can submit reports to a node, so a worthless report does not weaken a proof beside it.
        let strongest =
            self.counts.keys().next_back().copied().unwrap_or(MisbehaviorVerdict::Refuted);
        // Nothing is proven with keys of the writer of the file.
        let most =
            if keys.is_on_trust { MisbehaviorVerdict::Claim } else { MisbehaviorVerdict::Proven };
        strongest.min(most)
    }

    fn rates(&self, keys: &LoadedKeys) -> Option<&'static str> {
        self.lacks_rates.then(|| keys.rates_to_give(&[Missing::Rates])).flatten()
    }

    fn to_json(
        &self,
        total: MisbehaviorVerdict,
        keys: &LoadedKeys,
        differences: &[String],
    ) -> Value {
        let counts: serde_json::Map<_, _> =
            self.counts.iter().map(|(it, count)| (it.name().to_owned(), json!(count))).collect();
        let mut line = json!({ "verdict": total.name(), "counts": counts, "keys": keys.origin });
        if let Some(source) = &keys.source {
            line["registry_source"] = json!(source);
        }
        if !differences.is_empty() {
            line["differences"] = json!(differences);
        }
        if let Some(rates) = self.rates(keys) {
            line["rates"] = rates.into();
        }
        if let Some(chain) = &self.chain {
            line["chain"] = json!(chain.read());
            line["chain_errors"] = json!(chain.errors());
        }
        line
    }

    fn print(&self, keys: &LoadedKeys, differences: &[String]) {
        let counts = self.counts.iter().rev();
        let counts: Vec<_> = counts.map(|(it, count)| format!("{count} {}", it.name())).collect();
        output::line(format_args!("verdicts: {}", counts.join(", ")));
        output::line(format_args!("keys: {}", keys.origin));
        if let Some(source) = &keys.source {
            output::line(format_args!("registry: {source}"));
        }
        for difference in differences {
            output::line(format_args!("keys: {difference}"));
        }
        if let Some(rates) = self.rates(keys) {
            output::line(format_args!("rates: {rates}"));
        }
        if let Some(chain) = &self.chain {
            for text in chain.lines() {
                output::line(format_args!("chain: {text}"));
            }
        }
    }
}

/// Returns the end of the command, with its exit code. A proof stands, whatever a node keeps that was not read: the
/// node may be the one that it is about.
fn end(total: MisbehaviorVerdict, read: Result<(), RunError>) -> Result<(), RunError> {
    match read {
        Err(error) if total != MisbehaviorVerdict::Proven => {
            Err(exit_codes::answer(exit_codes::INCOMPLETE, unread(&error)))
        }
        Ok(()) | Err(_) => exit_of(total),
    }
}

fn unread(error: &RunError) -> String {
    format!("the node was not read to its end: {}", error.text)
}

#[cfg(test)]
mod tests {
    use hawser_node::error::RunErrorKind;

    use super::*;

    #[test]
    fn a_proof_stands_at_a_node_that_was_not_read_to_its_end_and_a_claim_does_not() {
        let ends = |total, read| end(total, read).map_err(|error| error.kind);
        let unread = || Err(RunError::failed("the connection was closed"));
        assert_eq!(ends(MisbehaviorVerdict::Proven, Ok(())), Ok(()));
        assert_eq!(ends(MisbehaviorVerdict::Proven, unread()), Ok(()));
        let incomplete = Err(RunErrorKind::Answer(exit_codes::INCOMPLETE));
        for total in [MisbehaviorVerdict::Claim, MisbehaviorVerdict::Refuted] {
            assert_eq!(ends(total, unread()), incomplete);
            assert_ne!(ends(total, Ok(())), Ok(()));
        }
    }
}
