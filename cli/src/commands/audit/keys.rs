//! The keys and rates that evidence is judged by.

use std::path::Path;

use hawser_audit::evidence_file::{FILE_LEN_BYTES_MAX, NodeEntry, RegistrySource, SCHEMA};
use hawser_audit::plain_file::{self, PlainFileError};
use hawser_audit::{EvidenceFile, KnownKeys};
use hawser_chain::admin::Contract;
use hawser_node::error::RunError;
use hawser_node::files::registry::{RegistryFile, RegistryFileError};
use hawser_node::files::{rates, registry};
use hawser_proto::OriginatorId;
use hawser_rules::misbehavior::Missing;
use hawser_rules::{RateTable, Registry};
use serde::Deserialize;

use crate::args::audit::KeysArgs;
use crate::args::onchain::NetworkArgs;
use crate::commands::onchain::{self, ChainsNeeded};
use crate::commands::registry::rates_file;
use crate::network_file::NetworkFile;
use crate::output;

/// Keys and rates, and where they are from.
#[derive(Debug)]
pub(crate) struct LoadedKeys {
    pub(crate) known: KnownKeys,
    /// Addresses of the nodes' APIs, as far as the source names them.
    pub(crate) addresses: Vec<(u32, String)>,
    /// The source of the keys, for people.
    pub(crate) origin: String,
    /// The contract that they were read from, if their file names it.
    pub(crate) source: Option<RegistrySource>,
    /// True if the writer of the evidence gave the keys, too.
    pub(crate) is_on_trust: bool,
}

/// The error of a command that judges and has no keys.
const NO_KEYS: &str = "give the keys of the nodes: --registry FILE, such as `hawser registry node list --registry-file` \
                       prints, or the network.json of `hawser dev`";

/// Loads keys: the given ones, else those of the evidence file, else those of `./hawser-dev`. The rates of the evidence
/// file are used only with its keys: with the reader's keys, a price list that the accuser has invented would prove an
/// honest node guilty.
///
/// # Errors
/// When a file cannot be read, or there are no keys.
pub(crate) fn load(args: &KeysArgs, file: Option<&EvidenceFile>) -> Result<LoadedKeys, RunError> {
    let mut loaded = match (&args.registry, file) {
        (Some(path), _) => of_path(path)?,
        (None, Some(file)) => {
            let known = file.keys().map_err(RunError::usage)?;
            let origin = "of the evidence file, taken on trust: give those of the registry (--registry FILE)";
            let origin = origin.to_owned();
            let source = file.registry_source.clone();
            LoadedKeys { known, addresses: Vec::new(), origin, source, is_on_trust: true }
        }
        (None, None) => match NetworkFile::of_current_folder() {
            Some(path) => of_path(&path)?,
            None => return Err(RunError::usage(NO_KEYS)),
        },
    };
    if let Some(path) = &args.rates {
        loaded.known.rates = Some(rates_of(path)?);
    }
    Ok(loaded)
}

/// Loads keys like [`load`], and the rates of the settlement chain if an argument names one. Without such an argument
/// no chain is asked, whatever the environment says.
///
/// # Errors
/// When there are no keys, a file of rates is given beside a chain, or the chain does not show a list of rates.
pub(super) fn load_with_chain(
    args: &KeysArgs,
    network: &NetworkArgs,
) -> Result<LoadedKeys, RunError> {
    if !network.are_given() {
        return load(args, None);
    }
    if args.rates.is_some() {
        return Err(RunError::usage(
            "rates are given twice: by --rates, and by the arguments that name a settlement chain",
        ));
    }
    let mut loaded = load(args, None)?;
    let read = crate::commands::blocking(rates_of_chain(network));
    let (rates, origin) =
        read.map_err(|error| error.while_doing("the rates of the settlement chain"))?;
    loaded.known.rates = Some(rates);
    loaded.origin = format!("{}; {origin}", loaded.origin);
    Ok(loaded)
}

/// Reads the rates of the settlement chain for judging. Returns them with their source, for people.
async fn rates_of_chain(args: &NetworkArgs) -> Result<(RateTable, String), RunError> {
    let reached = onchain::connect_to_all(args, ChainsNeeded::Settlement).await?;
    let network = &reached.network;
    let contract = network.at(Contract::RateRegistry)?;
    let rates = rates_file(&reached).await?.table_for_judging().map_err(RunError::failed)?;
    let (id, endpoint) = (network.settlement.id(), network.settlement.endpoint());
    let origin =
        format!("rates of contract {contract} on settlement chain {id}, on the word of {endpoint}");
    Ok((rates, origin))
}

impl LoadedKeys {
    /// Returns advice on the rates that would decide open verdicts; `None` if no verdict lacks rates.
    pub(crate) fn rates_to_give(&self, lacking: &[Missing]) -> Option<&'static str> {
        let is_none = self.known.rates.is_none();
        lacking.contains(&Missing::Rates).then_some(match is_none {
            true => {
                "none were given, and without them nothing about fees is decided: give their history (--rates FILE)"
            }
            false => {
                "the given ones do not cover the time of an envelope: give the whole history, read more than five \
                 minutes later (hawser registry rates list --rates-file prints it; --rates FILE)"
            }
        })
    }
}

/// Reads a rates file. Its rates cover only the times for which the file is known to be complete: nodes apply rates
/// that an old file lacks.
///
/// # Errors
/// When it cannot be read, or is not a rates file.
pub(crate) fn rates_of(path: &Path) -> Result<RateTable, RunError> {
    let rates = rates::parse_for_judging(&read(path)?);
    rates.map_err(|error| RunError::failed(error).while_doing(path.display()))
}

/// Reads the nodes with their keys from a registry file, a network file or an evidence file.
///
/// # Errors
/// When it cannot be read, or has another form.
pub(crate) fn registry_of(path: &Path) -> Result<Registry, RunError> {
    of_path(path).map(|loaded| loaded.known.registry)
}

/// Reads keys from a registry file, a network file or an evidence file.
fn of_path(path: &Path) -> Result<LoadedKeys, RunError> {
    let text = read(path)?;
    let origin = format!("of {}", path.display());
    let fail =
        |error: &dyn std::fmt::Display| RunError::failed(format!("{}: {error}", path.display()));
    if is_evidence(&text) {
        let file = EvidenceFile::parse(&text).map_err(|error| fail(&error))?;
        let known = file.keys().map_err(|error| fail(&error))?;
        let (addresses, source) = (Vec::new(), file.registry_source);
        return Ok(LoadedKeys { known, addresses, origin, source, is_on_trust: false });
    }
    if let Ok(network) = NetworkFile::parse(&text) {
        let entry = |node: &crate::network_file::NetworkNode| NodeEntry {
            node_id: OriginatorId(node.node_id),
            public_key: node.public_key.clone(),
            canonical: true,
            absences: Vec::new(),
        };
        let entries: Vec<NodeEntry> = network.nodes.iter().map(entry).collect();
        let registry = NodeEntry::registry(&entries).map_err(|error| fail(&error))?;
        let known = KnownKeys { registry, rates: None };
        let addresses = network.nodes.iter().map(|node| (node.node_id, node.grpc.clone()));
        let (addresses, source) = (addresses.collect(), source_of(&network));
        return Ok(LoadedKeys { known, addresses, origin, source, is_on_trust: false });
    }
    let registry: Registry = registry::parse(&text).map_err(|error| match error {
        RegistryFileError::Json(error) => fail(&format_args!(
            "neither a registry file (`hawser registry node list --registry-file`), nor a `network.json`, nor an \
             evidence file: {error}"
        )),
        error @ RegistryFileError::Record { .. } => fail(&error),
    })?;
    for id in registry.registered_ids().filter(|id| registry.node(*id).is_none()) {
        let path = path.display();
        output::note(format_args!(
            "hawser: {path}: node {id} has no valid key, so none of its signatures is checked"
        ));
    }
    let addresses = registry.nodes().filter(|node| node.canonical);
    let addresses = addresses.filter_map(|node| Some((node.id.0, node.http_address.clone()?)));
    let addresses = addresses.collect();
    let known = KnownKeys { registry, rates: None };
    let file: RegistryFile = serde_json::from_str(&text).map_err(|error| fail(&error))?;
    let source = file.source.map(|it| {
        RegistrySource { contract: it.contract, chain_id: it.chain_id, block: it.block }.checked()
    });
    let source = source.transpose().map_err(|error| fail(&error))?;
    Ok(LoadedKeys { known, addresses, origin, source, is_on_trust: false })
}

/// Returns true if a text states the schema of evidence files as its own.
///
/// Other files may have the name of the schema elsewhere: the owner of a node can register any address, and must not
/// make the registry file unreadable for all auditors of the node.
fn is_evidence(text: &str) -> bool {
    #[derive(Deserialize)]
    struct StatedSchema {
        schema: String,
    }
    serde_json::from_str::<StatedSchema>(text).is_ok_and(|stated| stated.schema == SCHEMA)
}

/// Returns the contract of a development network's registry, if it has chains.
fn source_of(network: &NetworkFile) -> Option<RegistrySource> {
    let contract = network.contracts.get("nodeRegistry")?.as_str()?.to_owned();
    let chain_id = network.settlement_chain.as_ref()?.chain_id;
    RegistrySource { contract, chain_id, block: None }.checked().ok()
}

/// Reads a text file of the length that evidence may have.
///
/// # Errors
/// When there is no such file, it is empty, too long or not text, or a pipe or device has the name.
pub(crate) fn read(path: &Path) -> Result<String, RunError> {
    read_text(path, FILE_LEN_BYTES_MAX as u64)
}

/// Reads a text file of up to `len_bytes_max` bytes.
///
/// # Errors
/// See [`read`]; and when the file is empty.
pub(super) fn read_text(path: &Path, len_bytes_max: u64) -> Result<String, RunError> {
    let text = plain_file::read_text(path, len_bytes_max).map_err(|error| unread(path, &error))?;
    if text.trim().is_empty() {
        return Err(RunError::failed(format!("{}: the file is empty", path.display())));
    }
    Ok(text)
}

/// Returns the error of a file that was not read.
pub(super) fn unread(path: &Path, error: &PlainFileError) -> RunError {
    let text = format!("{}: {error}", path.display());
    match error.is_absence() {
        true => RunError::not_found(text),
        false => RunError::failed(text),
    }
}
