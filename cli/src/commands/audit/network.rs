//! `hawser audit network`: the reports of all nodes, each fact once.

use hawser_audit::{ClaimCount, Judged, NetworkAudit, NodeFindings};
use hawser_node::AddressFrom;
use hawser_node::error::RunError;
use hawser_proto::OriginatorId;
use hawser_rules::misbehavior::MisbehaviorVerdict;
use hawser_rules::misbehavior::quorum::Outage;
use serde_json::{Value, json};

use super::asked_chain::{self, AskedChain};
use super::reports::READ_MOST;
use super::{keys, reports};
use crate::args::audit::AuditNetworkArgs;
use crate::{exit_codes, output};

/// Bytes of proofs of one node that are held. A guess: above what a node keeps of a network that works.
const PROOFS_LEN_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Memory of a proof beside the bytes of its report. A guess: the report once more, decoded into its fields, and the
/// findings.
const PROOF_BYTES: usize = 4 * 1024;

/// Runs the command.
///
/// # Errors
/// When there are no keys, or no node answers; and with the exit code of the verdict.
pub(super) async fn run(args: AuditNetworkArgs, as_json: bool) -> Result<(), RunError> {
    let mut chain = AskedChain::of(&args.network).await?;
    let keys = keys::load(&args.keys, None)?;
    let registered = AddressFrom::Registry { allow_private: args.allow_private_nodes };
    let (from, nodes): (_, Vec<(Option<u32>, String)>) = match args.nodes.as_slice() {
        [] => (registered, keys.addresses.iter().map(|(id, it)| (Some(*id), it.clone())).collect()),
        nodes => (AddressFrom::Operator, nodes.iter().map(|it| (None, it.clone())).collect()),
    };
    if nodes.is_empty() {
        return Err(RunError::usage("name the nodes to ask: --nodes URLS"));
    }
    let mut audit = NetworkAudit::default();
    let (mut silent, mut is_read) = (Vec::new(), false);
    for (id, address) in &nodes {
        // Reports that were read before an error count: one further report must not hide them.
        let mut held_bytes = 0;
        let read = reports::each_page((address.as_str(), from), 0, READ_MOST, async |page| {
            for mut held in page {
                held.host = id.map(OriginatorId);
                let len_bytes = held.report.len();
                let judged = asked_chain::judge(&mut chain, held, &keys.known).await;
                // Proofs are held until the end, and a node can make any number of them against itself.
                if judged.judgement.verdict == MisbehaviorVerdict::Proven {
                    held_bytes += len_bytes + PROOF_BYTES;
                }
                if held_bytes > PROOFS_LEN_BYTES_MAX {
                    return Err(RunError::failed("the node has more proofs than one run holds"));
                }
                audit.add(judged);
                is_read = true;
            }
            Ok(())
        });
        if let Err(error) = read.await {
            silent.push((address, error));
        }
    }
    if silent.len() == nodes.len() && !is_read {
        let (address, error) = &silent[0];
        return Err(RunError::failed(format!("no node answers; {address}: {}", error.text)));
    }
    let (findings, refuted) = audit.finish(&keys.known.registry);
    for (node, found) in &findings {
        match as_json {
            true => output::line(to_json(*node, found)),
            false => print_node(*node, found),
        }
    }
    let refuted: usize = refuted.values().sum();
    let asked = nodes.len() - silent.len();
    match as_json {
        true => output::line(summary_json(asked, refuted, &silent, chain.as_ref())),
        false => print_summary(asked, refuted, &silent, chain.as_ref()),
    }
    let has_proof = findings.values().any(|found| !found.proven.is_empty());
    verdict(has_proof, silent.len())
}

/// Returns the verdict, with its exit code. A proof stands, whatever a node keeps that was not read to its end.
fn verdict(has_proof: bool, silent: usize) -> Result<(), RunError> {
    let code = match (has_proof, silent) {
        (true, _) => exit_codes::FAULTS,
        (false, 0) => return Ok(()),
        (false, _) => exit_codes::INCOMPLETE,
    };
    let text = match silent {
        0 => String::new(),
        silent => format!("{} not read to the end", output::count(silent, "node")),
    };
    Err(exit_codes::answer(code, text))
}

/// A node that was not read to its end, by its address, and the reason.
type SilentNode<'a> = (&'a String, RunError);

fn summary_json(
    asked: usize,
    refuted: usize,
    silent: &[SilentNode<'_>],
    chain: Option<&AskedChain>,
) -> Value {
    let silent: Vec<Value> = silent
        .iter()
        .map(|(address, error)| json!({ "node": address, "error": error.text }))
        .collect();
    let mut line = json!({ "nodes_asked": asked, "refuted": refuted, "silent": silent });
    if let Some(chain) = chain {
        line["chain"] = json!(chain.read());
        line["chain_errors"] = json!(chain.errors());
    }
    line
}

fn print_summary(
    asked: usize,
    refuted: usize,
    silent: &[SilentNode<'_>],
    chain: Option<&AskedChain>,
) {
    for (address, error) in silent {
        // A node's owner has written its address, and the node may have written the reason.
        let (address, why) = (output::plain(address), output::printable(&error.text));
        output::line(format_args!("{address} was not read to its end: {why}"));
    }
    let asked = output::count(asked, "node");
    output::line(format_args!("{asked} asked; {} refuted", output::count(refuted, "report")));
    for text in chain.into_iter().flat_map(AskedChain::lines) {
        output::line(format_args!("chain: {text}"));
    }
}

fn to_json(node: OriginatorId, found: &NodeFindings) -> Value {
    let claim = |(kind, it): (&i32, &ClaimCount)| {
        let hosts: Vec<u32> = it.hosts.iter().map(|host| host.0).collect();
        json!({ "kind": kind, "reports": it.reports, "hosts": hosts })
    };
    json!({
        "node_id": node.0,
        "proven": found.proven.iter().map(Judged::to_json).collect::<Vec<_>>(),
        "outages": found.outages.iter().map(outage_json).collect::<Vec<_>>(),
        "claims": found.claims.iter().map(claim).collect::<Vec<_>>(),
    })
}

fn print_node(node: OriginatorId, found: &NodeFindings) {
    let (proven, outages) = (found.proven.len(), found.outages.len());
    let claims: usize = found.claims.values().map(|it| it.reports).sum();
    output::line(format_args!(
        "node {node}: {}, {}, {}",
        output::count(proven, "proven fault"),
        output::count(outages, "outage"),
        output::count(claims, "claim"),
    ));
    for judged in &found.proven {
        output::line(judged);
    }
    for outage in &found.outages {
        output::line(of_outage(outage));
    }
}

/// Renders an outage for programs.
pub(super) fn outage_json(outage: &Outage) -> Value {
    let witnesses: Vec<u32> = outage.witnesses.iter().map(|host| host.0).collect();
    json!({
        "node_id": outage.node.0,
        "hour_unix_s": outage.hour_unix_s,
        "witnesses": witnesses,
        "others": outage.others,
    })
}

/// Returns the line about an outage, without the node.
pub(super) fn of_outage(outage: &Outage) -> String {
    let hour = i64::try_from(outage.hour_unix_s).unwrap_or(0).saturating_mul(1_000_000_000);
    let (witnesses, others) = (outage.witnesses.len(), outage.others);
    format!("  out of reach from {} for {witnesses} of {others} others", output::time(hour))
}

#[cfg(test)]
mod tests {
    use hawser_node::error::RunErrorKind;

    use super::*;

    #[test]
    fn a_proof_decides_the_exit_code_before_a_node_that_was_not_read() {
        let kind = |has_proof, silent| verdict(has_proof, silent).map_err(|error| error.kind);
        assert_eq!(kind(false, 0), Ok(()));
        assert_eq!(kind(false, 1), Err(RunErrorKind::Answer(exit_codes::INCOMPLETE)));
        for silent in [0, 1] {
            assert_eq!(kind(true, silent), Err(RunErrorKind::Answer(exit_codes::FAULTS)));
        }
    }
}
