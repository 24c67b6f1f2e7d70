//! `hawser snapshot`: copies of a log for new nodes. See `docs/runbooks/bootstrap-a-node.md`.

use std::ops::ControlFlow;
use std::sync::Arc;

use hawser_node::admin::AdminRequest;
use hawser_node::backup;
use hawser_node::error::RunError;
use hawser_node::service::bootstrap::{
    self, BootstrapFetchError, BootstrapFetched, FetchedChain, FetchedStrand, StrandCounts,
    VerifiedStrand, WantedBootstrap, run_error,
};
use hawser_node::service::projections;
use hawser_node::settings::{self, NodeServiceSettings};
use hawser_node::web::WebObjects;
use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_storage::{BootstrapManifest, Bootstraps, Objects};
use serde_json::{Value, json};

use super::audit::registry_of;
use super::{backup as backups, rebuild};
use crate::args::snapshot::{
    SnapshotCommand, SnapshotCreateArgs, SnapshotFetchArgs, SnapshotFromArgs, SnapshotListArgs,
    SnapshotVerifyArgs,
};
use crate::clock::now_unix_s;
use crate::{exit_codes, output};

/// Runs the command.
///
/// # Errors
/// When a snapshot cannot be made, or its content does not match its manifest.
pub(super) fn run(command: SnapshotCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        SnapshotCommand::Create(args) => create(&args, as_json),
        SnapshotCommand::List(args) => list(&args, as_json),
        SnapshotCommand::Verify(args) => verify(&args, as_json),
        SnapshotCommand::Fetch(args) => super::blocking(fetch(*args, as_json)),
    }
}

fn create(args: &SnapshotCreateArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = settings::data_dir(&args.data.sources()).map_err(RunError::usage)?;
    let to = backups::place_of(&args.to)?;
    let request =
        AdminRequest::Snapshot { to: to.clone(), bytes_per_s: u64::from(args.rate) << 20 };
    let done = backups::node_or("snapshot", &data_dir, &request, |bar| {
        let (store, _) = projections::open_for_bootstrap(&data_dir).map_err(rebuild::refusal)?;
        let report = backup::create_bootstrap(&store, backups::open(&to)?, &mut |bytes| {
            bar.inc(bytes);
            ControlFlow::Continue(())
        });
        Ok(backup::json_of_bootstrap(&report.map_err(|error| run_error(&error))?))
    })?;
    if as_json {
        output::line(done);
        return Ok(());
    }
    let number = |name: &str| done.get(name).and_then(Value::as_u64).unwrap_or_default();
    output::line(format_args!(
        "snapshot {}: {}, {}; {}, {} of them new",
        done.get("snapshot").and_then(Value::as_str).unwrap_or_default(),
        output::count(number("chunks"), "chunk"),
        output::size(number("bytes")),
        output::count(number("chunks_new"), "chunk"),
        output::size(number("bytes_new")),
    ));
    Ok(())
}

/// Opens a place that is read from. The command ends with its process, so no work has to be stopped.
fn open(from: &SnapshotFromArgs) -> Result<Arc<dyn Objects>, RunError> {
    let given = from.from.to_string_lossy();
    if WebObjects::is_url(&given) {
        let web = WebObjects::new(&given, from.allow_http, Arc::new(|| false));
        return Ok(Arc::new(web.map_err(RunError::usage)?));
    }
    backups::open(&backups::place_of(&from.from)?)
}

fn list(args: &SnapshotListArgs, as_json: bool) -> Result<(), RunError> {
    let place = Bootstraps::new(open(&args.place)?);
    for name in place.names().map_err(|error| run_error(&error))? {
        match place.manifest(&name) {
            Ok(manifest) => show(&name, &manifest, &[], as_json),
            Err(error) => show_fault(&name, &error, as_json),
        }
    }
    Ok(())
}

fn verify(args: &SnapshotVerifyArgs, as_json: bool) -> Result<(), RunError> {
    let place = Bootstraps::new(open(&args.place)?);
    let keys = args.keys.as_deref().map(registry_of).transpose()?;
    let names = match &args.snapshot {
        Some(name) => vec![name.clone()],
        None => place.names().map_err(|error| run_error(&error))?,
    };
    if names.is_empty() {
        let place = args.place.from.display();
        return Err(RunError::not_found(format!("{place}: there are no snapshots to verify")));
    }
    let (mut refused, mut unchecked, mut unvouched) = (0, 0, 0);
    for name in &names {
        let bar = backups::bar("verify");
        let verified = manifest_of(&place, name, args.network.as_deref()).and_then(|manifest| {
            let mut note = |bytes| bar.inc(bytes);
            let strands = bootstrap::verify(&place, &manifest, keys.as_ref(), &mut note)?;
            Ok((manifest, strands))
        });
        bar.finish_and_clear();
        match verified {
            Ok((manifest, strands)) => {
                unchecked += usize::from(keys.is_some() && strands.iter().any(has_unchecked));
                unvouched += usize::from(strands.iter().any(is_unvouched));
                show(name, &manifest, &strands, as_json);
            }
            Err(error) if args.snapshot.is_some() => return Err(RunError::from(error)),
            Err(error) => {
                refused += 1;
                show_fault(name, &error, as_json);
            }
        }
    }
    let snapshots = output::count(names.len(), "snapshot");
    match (refused, unchecked) {
        (0, _) if keys.is_none() => {
            let text = format!(
                "no signature of {snapshots} was checked: name a registry (--registry); lengths, hashes and order are \
                 right"
            );
            Err(exit_codes::answer(exit_codes::INCONCLUSIVE, text))
        }
        (0, 0) if unvouched > 0 => {
            let text = format!(
                "no node of the registry has signed a tree of a chain's strand in {unvouched} of {snapshots}, and no \
                 chain was asked, so nothing shows that its envelopes are of the chain; the rest is right"
            );
            Err(exit_codes::answer(exit_codes::INCONCLUSIVE, text))
        }
        (0, 0) => Ok(()),
        (0, _) => Err(RunError::failed(format!(
            "not all signatures of {unchecked} of {snapshots} were checked: the registry does not name each node; the \
             rest is right"
        ))),
        _ => Err(RunError::failed(format!("{refused} of {snapshots} cannot be used"))),
    }
}

/// Prints a snapshot that cannot be used, with the reason.
fn show_fault(name: &str, error: &dyn std::error::Error, as_json: bool) {
    if as_json {
        output::line(json!({ "snapshot": name, "error": error.to_string() }));
    } else {
        output::line(format_args!("{name}  {error}"));
    }
}

/// Reads the manifest of a snapshot, which has to be of the network `wanted` if one is given.
fn manifest_of(
    place: &Bootstraps,
    name: &str,
    wanted: Option<&str>,
) -> Result<BootstrapManifest, BootstrapFetchError> {
    let manifest = place.manifest(name)?;
    match wanted {
        Some(wanted) if wanted != manifest.network => {
            let (found, wanted) = (manifest.network, wanted.to_owned());
            Err(BootstrapFetchError::OtherNetwork { found, wanted })
        }
        _ => Ok(manifest),
    }
}

/// Returns true if envelopes of a node's strand were read and no signature of them was checked.
fn has_unchecked(strand: &VerifiedStrand) -> bool {
    strand.originator.is_node() && !strand.is_signed && strand.envelopes > 0
}

/// Returns true if envelopes of a chain's strand were read, and no known node has signed a tree of any of them.
fn is_unvouched(strand: &VerifiedStrand) -> bool {
    !strand.originator.is_node() && strand.covered.is_none() && strand.envelopes > 0
}

async fn fetch(args: SnapshotFetchArgs, as_json: bool) -> Result<(), RunError> {
    let SnapshotFetchArgs { place, snapshot, trust_nodes_for_chains, release, node } = args;
    let settings = NodeServiceSettings::read(&node.sources()).map_err(RunError::usage)?;
    let from = open(&place)?;
    let wanted = WantedBootstrap {
        name: snapshot,
        trusts_nodes_for_chains: trust_nodes_for_chains
            || settings.bootstrap_trust.nodes_for_chains,
        ends_early: release,
    };
    let bar = backups::bar("fetch");
    let progress_bar = bar.clone();
    let tell = Box::new(move |progress: bootstrap::BootstrapProgress| {
        progress_bar.set_length(progress.total);
        progress_bar.set_position(progress.done);
    });
    let fetched = bootstrap::fetch(&settings, from, wanted, now_unix_s(), tell).await;
    bar.finish_and_clear();
    tell_fetched(&fetched?, &settings, as_json);
    Ok(())
}

fn tell_fetched(fetched: &BootstrapFetched, settings: &NodeServiceSettings, as_json: bool) {
    let BootstrapFetched { name, node, resumed, strands, left_out } = fetched;
    if as_json {
        output::line(json!({
            "snapshot": name,
            "node_id": node.0,
            "resumed": resumed,
            "strands": strands.iter().map(json_of_fetched).collect::<Vec<_>>(),
            "left_out": left_out.iter().map(|it| it.0).collect::<Vec<_>>(),
            "data_dir": settings.store.data_dir,
        }));
        return;
    }
    strands.iter().for_each(show_fetched);
    for originator in left_out {
        let reason = if originator == node {
            "the node's own strand comes from its peers"
        } else if originator.is_node() {
            "the registry has no key for it, or no run has begun it"
        } else {
            "the node reads the chain itself (--trust-nodes-for-chains takes it from here)"
        };
        output::line(format_args!("originator {originator}: left out, {reason}"));
    }
    output::line(format_args!(
        "node {node} can be started from {}; a node whose key has never signed says --new-strand once",
        settings.store.data_dir.display()
    ));
}

fn show_fetched(strand: &FetchedStrand) {
    let FetchedStrand { originator, head, reached, covered, is_tree_short, of_chain, unverified } =
        strand;
    let StrandCounts { envelopes, invalid, missing } = reached;
    let grounds = match of_chain {
        None => {
            let signed = match unverified {
                0 => "each is signed by its node".to_owned(),
                _ => {
                    format!("the node checks the signatures of the last {unverified} when it runs")
                }
            };
            format!("{signed}; {}", words_of(covered.as_ref(), *is_tree_short))
        }
        Some(FetchedChain { nodes, confirmed, next_block }) => format!(
            "their tree is signed by {}, and the chain has {confirmed} of them, which it was asked for; the node reads \
             it from block {next_block}",
            output::count(nodes.len(), "node")
        ),
    };
    output::line(format_args!(
        "originator {originator}: {} of this run, up to {head}; {grounds}",
        output::count(*envelopes, "envelope")
    ));
    if (*invalid, *missing) != (0, 0) {
        output::line(format_args!(
            "  {} without an envelope, {invalid} kept from readers because they break a rule",
            output::count(*missing, "place")
        ));
    }
}

/// Returns the findings of checkpoints about a strand, for people.
fn words_of(covered: Option<&CosignedCheckpoint>, is_tree_short: bool) -> String {
    let short = if is_tree_short {
        ", and a later checkpoint is not compared: a place before its end has no envelope here"
    } else {
        ""
    };
    match covered {
        Some(checkpoint) => {
            let of = checkpoint.signed.checkpoint;
            let cosigners = checkpoint.cosignatures.len();
            let cosigners = output::count(cosigners, "other node");
            format!("the tree of {} is signed by node {} and {cosigners}{short}", of.size, of.node)
        }
        None => format!("no checkpoint shows that the strand is whole{short}"),
    }
}

fn json_of_checkpoint(covered: Option<&CosignedCheckpoint>) -> Value {
    covered.map_or(Value::Null, |checkpoint| {
        let of = checkpoint.signed.checkpoint;
        let cosigners: Vec<_> = checkpoint.cosignatures.iter().map(|it| it.cosigner.0).collect();
        json!({ "size": of.size, "node": of.node.0, "cosigners": cosigners })
    })
}

fn json_of_fetched(strand: &FetchedStrand) -> Value {
    let FetchedStrand { originator, head, reached, covered, is_tree_short, of_chain, unverified } =
        strand;
    let of_chain = of_chain.as_ref().map(|FetchedChain { nodes, confirmed, next_block }| {
        let nodes: Vec<_> = nodes.iter().map(|it| it.0).collect();
        json!({ "nodes": nodes, "confirmed": confirmed, "next_block": next_block })
    });
    json!({
        "originator": originator.0,
        "head": head.0,
        "envelopes": reached.envelopes,
        "invalid": reached.invalid,
        "missing": reached.missing,
        "covered": json_of_checkpoint(covered.as_ref()),
        "checkpoint_not_compared": is_tree_short,
        "chain": of_chain,
        "unverified": unverified,
    })
}

fn show(name: &str, manifest: &BootstrapManifest, verified: &[VerifiedStrand], as_json: bool) {
    if as_json {
        let heads: serde_json::Map<_, _> = manifest
            .strands
            .iter()
            .map(|strand| (strand.originator.to_string(), json!(strand.head.0)))
            .collect();
        let json_of = |strand: &VerifiedStrand| {
            json!({
                "originator": strand.originator.0,
                "envelopes": strand.envelopes,
                "last": strand.last.0,
                "signed": strand.is_signed,
                "covered": json_of_checkpoint(strand.covered.as_ref()),
                "checkpoint_not_compared": strand.is_tree_short,
            })
        };
        output::line(json!({
            "snapshot": name,
            "made_unix_s": manifest.made_unix_s,
            "network": manifest.network,
            "bytes": manifest.len_bytes(),
            "heads": heads,
            "strands": verified.iter().map(json_of).collect::<Vec<_>>(),
        }));
        return;
    }
    output::line(format_args!(
        "{name}  network {:?}  {}  {}",
        manifest.network,
        output::count(manifest.strands.len(), "strand"),
        output::size(manifest.len_bytes()),
    ));
    for strand in verified {
        let signed = if strand.is_signed {
            "each signed by its node"
        } else if strand.originator.is_node() {
            "no signature checked"
        } else {
            "of a chain, which was not asked"
        };
        output::line(format_args!(
            "  originator {}: {} up to {}, {signed}; {}",
            strand.originator,
            output::count(strand.envelopes, "envelope"),
            strand.last,
            words_of(strand.covered.as_ref(), strand.is_tree_short),
        ));
    }
}
