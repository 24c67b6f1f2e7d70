//! The log of a new node from a copy that another node has made: `hawser snapshot fetch`.
//!
//! - `checkpoints`: which checkpoints of a copy hold, by the keys of the registry;
//! - `strand`: one strand, checked and written; - `chain`: the same of a chain's strand;
//! - `fill`: the strands of a node that runs; - `verify`: reading a copy without writing anything;
//! - `report`: what was taken over; - `error`: why a copy was refused.
//!
//! The enemy is the maker of the copy, the keeper of its place, and the network between. Nothing that they say is
//! believed: each envelope has to be signed by the node of its strand, each checkpoint by the node that it names, and a
//! tree has to come out of the envelopes that a checkpoint signs. Rows that are derived are derived here. What a chain
//! orders is read from the chain, unless the operator trusts most nodes of the network for it.
//!
//! Invariant: no node starts from the folder before all of this was found to hold. A node that runs is filled with envelopes
//! alone, each of which was checked as one of a peer is.

mod chain;
mod checkpoints;
mod error;
mod fill;
mod report;
mod strand;
#[cfg(test)]
mod testing;
mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_engine::replication::EnvelopeVerifier;
use hawser_engine::runtime::ChainAppender;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::{Absences, Registry};
use hawser_storage::{BootstrapManifest, BootstrapStrand, Bootstraps, Change, Objects, Store};
use tokio::runtime::Handle;

use super::import::{ImportFolder, open_store};
use super::network::NetworkState;
use super::network::chains::Chains;
use super::open;
use crate::service::blocking;
use crate::settings::NodeServiceSettings;

pub use error::{BootstrapFetchError, run_error};
pub(in crate::service) use fill::{ChainFill, FillTask};
pub use report::{FetchedChain, FetchedStrand, Reached, VerifiedStrand};
pub use verify::verify;

use chain::{AskedContract, ChainGrounds};
use checkpoints::Evidence;

/// The copy that is wanted, and the trust that the operator gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedBootstrap {
    /// Name of the copy; `None` for the newest one of the network.
    pub name: Option<String>,
    /// True if strands of chains are taken where most nodes of the network have signed their trees. The node reads the
    /// chains itself otherwise.
    pub trusts_nodes_for_chains: bool,
    /// True if nothing more is taken: nodes may start on what earlier calls have taken, and peers give them the rest.
    pub ends_early: bool,
}

/// Progress of taking a copy over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootstrapProgress {
    /// Bytes of chunks that were taken over, in this run and those before.
    pub done: u64,
    /// Bytes of all chunks.
    pub total: u64,
}

/// The result of taking a copy over.
#[derive(Debug)]
pub struct BootstrapFetched {
    /// Name of the copy.
    pub name: String,
    /// Id of the new node.
    pub node: OriginatorId,
    /// True if an earlier run had begun.
    pub resumed: bool,
    /// The strands that were taken over.
    pub strands: Vec<FetchedStrand>,
    /// Strands that were left out: that of the node itself, which its peers give it, those of nodes that the registry
    /// does not know, and those of chains that the node reads itself.
    pub left_out: Vec<OriginatorId>,
}

/// The function that is told about progress.
pub type ProgressFn = Box<dyn FnMut(BootstrapProgress) + Send>;

/// Takes a copy over into the empty data folder of these settings. A second call goes on where an earlier one was
/// interrupted.
///
/// # Errors
/// [`BootstrapFetchError`]. The folder keeps what was found right for the next call, and no node starts from it.
pub async fn fetch(
    settings: &NodeServiceSettings,
    from: Arc<dyn Objects>,
    wanted: WantedBootstrap,
    now_unix_s: u64,
    tell: ProgressFn,
) -> Result<BootstrapFetched, BootstrapFetchError> {
    if settings.follow.is_some() {
        return Err(BootstrapFetchError::Replica);
    }
    let WantedBootstrap { name, trusts_nodes_for_chains, ends_early } = wanted;
    let chains = Chains::reach(settings).await.map_err(open::OpenNodeError::from)?;
    let registry = open::first_registry(settings, &chains)?;
    let own = open::own_record(&registry, settings, &chains)?.clone();
    let network = settings.store.network.clone();
    let place = Bootstraps::new(from);
    let looked_up = {
        let (place, network) = (place.clone(), network.clone());
        blocking(move || look_up(&place, name, &network, now_unix_s)).await
    };
    let (name, manifest) = looked_up?;
    let evidence = Evidence::of(&manifest, &registry)?;
    let known = Known { registry: &registry, evidence: &evidence, own: own.id };
    let grounds = match trusts_nodes_for_chains {
        true => grounds_of(&manifest, known, &chains, settings.bootstrap_trust.one_endpoint)?,
        false => BTreeMap::new(),
    };
    // A run without that trust must not release what one with it has begun.
    let trust = if trusts_nodes_for_chains { " and chains by its nodes" } else { "" };
    let fingerprint = format!("snapshot {}{trust}", manifest_digest(&manifest));
    let (folder, resumed) = ImportFolder::claim(&settings.store.data_dir, &fingerprint)?;
    if ends_early && !resumed {
        return Err(BootstrapFetchError::NothingTaken);
    }
    let store = open_store(settings, &own).map_err(open::OpenNodeError::from)?;
    let rates = open::first_rates(settings, &chains, &store)?;
    // Only strands of chains need an engine: it judges updates of identities.
    let engine = if grounds.is_empty() {
        None
    } else {
        let network = NetworkState::new(own.id, store.clone(), registry.clone(), rates);
        let wallets = open::wallets_of(settings);
        Some(open::start_engine(settings, &network, wallets).map_err(open::OpenNodeError::from)?)
    };
    let appender = engine.as_ref().map(|(engine, _)| engine.chain_appender());
    let own = own.id;
    let job =
        Job { place, manifest, evidence, grounds, appender, registry, own, ends_early, store };
    let taken = blocking(move || {
        let taken = job.run(tell);
        if let Some((engine, threads)) = engine {
            // The process is about to end, and must not while a thread is at work on the database.
            engine.drain();
            threads.join();
        }
        taken
    });
    let (strands, left_out) = taken.await?;
    folder.release()?;
    Ok(BootstrapFetched { name, node: own, resumed, strands, left_out })
}

/// The keys, what they show of a copy, and the node that takes it over.
#[derive(Clone, Copy)]
struct Known<'a> {
    registry: &'a Registry,
    evidence: &'a Evidence,
    own: OriginatorId,
}

/// Returns the grounds on which the strands of chains of a copy are taken.
fn grounds_of(
    manifest: &BootstrapManifest,
    known: Known<'_>,
    chains: &Chains,
    trusts_one_endpoint: bool,
) -> Result<BTreeMap<OriginatorId, ChainGrounds>, BootstrapFetchError> {
    let Known { registry, evidence, own } = known;
    let mut grounds = BTreeMap::new();
    for strand in manifest.strands.iter().filter(|strand| strand.is_of_chain()) {
        let originator = strand.originator;
        let contract = chains.contract_of(originator).ok_or(BootstrapFetchError::NoAppChain)?;
        let contract = AskedContract::new(contract, trusts_one_endpoint)?;
        let signed = evidence.majority_tree(originator, registry, own)?;
        grounds.insert(originator, ChainGrounds { signed, contract });
    }
    Ok(grounds)
}

fn look_up(
    place: &Bootstraps,
    name: Option<String>,
    network: &str,
    now_unix_s: u64,
) -> Result<(String, BootstrapManifest), BootstrapFetchError> {
    let Some(name) = name else {
        return Ok(place.newest(network, now_unix_s)?);
    };
    let manifest = place.manifest(&name)?;
    if manifest.network != network {
        let (found, wanted) = (manifest.network, network.to_owned());
        return Err(BootstrapFetchError::OtherNetwork { found, wanted });
    }
    Ok((name, manifest))
}

/// Returns a digest of everything that the copy holds.
fn manifest_digest(manifest: &BootstrapManifest) -> String {
    let bytes = manifest.encode().expect("what was read can be written");
    blake3::hash(&bytes).to_hex().to_string()
}

/// The work on a blocking thread of a runtime.
struct Job {
    place: Bootstraps,
    manifest: BootstrapManifest,
    evidence: Evidence,
    /// Those strands of chains that are taken.
    grounds: BTreeMap<OriginatorId, ChainGrounds>,
    /// The way into the log for those; `None` if there are none.
    appender: Option<ChainAppender>,
    registry: Registry,
    own: OriginatorId,
    ends_early: bool,
    store: Store,
}

type Taken = (Vec<FetchedStrand>, Vec<OriginatorId>);

impl Job {
    fn run(self, mut tell: ProgressFn) -> Result<Taken, BootstrapFetchError> {
        let total = self.manifest.len_bytes();
        let (mut done, mut strands, mut left_out) = (0_u64, Vec::new(), Vec::new());
        for stated in &self.manifest.strands {
            let mut note = |bytes: u64| {
                done = done.saturating_add(bytes);
                tell(BootstrapProgress { done, total });
            };
            match self.take_over(stated, &mut note)? {
                Some(taken) => strands.push(taken),
                None => left_out.push(stated.originator),
            }
        }
        while !self.store.bring_up_trees(TREE_STEPS)? {}
        for fetched in &mut strands {
            match self.grounds.get(&fetched.originator) {
                Some(grounds) => chain::require_tree(&self.store, &grounds.signed, fetched)?,
                None => self.evidence.require_roots(&self.store, fetched)?,
            }
        }
        let held = strands.iter().filter_map(|it| it.covered.as_ref());
        self.store.put_checkpoints(held)?;
        for fetched in &mut strands {
            if let Some(grounds) = self.grounds.get(&fetched.originator) {
                Handle::current().block_on(chain::compare(&self.store, grounds, fetched))?;
            }
        }
        self.store.flush()?;
        Ok((strands, left_out))
    }

    /// Takes a strand over; `None` if it is left out.
    fn take_over(
        &self,
        stated: &BootstrapStrand,
        note: &mut dyn FnMut(u64),
    ) -> Result<Option<FetchedStrand>, BootstrapFetchError> {
        let Self { place, store, own, .. } = self;
        let originator = stated.originator;
        if self.ends_early {
            return self.taken_earlier(stated);
        }
        let grounds = self.grounds.get(&originator);
        if let Some((grounds, appender)) = grounds.zip(self.appender.as_ref()) {
            let append = &|originator, events: &[_]| appender.append(originator, events, None);
            return chain::take_over(place, store, stated, &grounds.signed, append, note).map(Some);
        }
        let key = self.registry.node(originator).map(|record| record.public_key);
        let Some(key) = key.filter(|_| originator != *own) else { return Ok(None) };
        // A node that learns of an absence judges the strand anew.
        let absences = Absences::NONE;
        let verifier = EnvelopeVerifier { originator, key, own: *own, absences };
        let commit: strand::Commit<'_> = &|changes: Vec<Change>| Ok(store.commit(&changes)?);
        let write: strand::Write<'_> =
            &|head, envelopes| strand::write_signed(&verifier, commit, head, envelopes);
        let (held, all) = (store.snapshot().head(originator)?, SequenceId(u64::MAX));
        let writing = strand::Writing::new(write, strand::Gaps::Mark, held, all);
        let (head, reached) = strand::take_over(place, stated, writing, note)?;
        let (covered, is_tree_short, of_chain) = (None, false, None);
        Ok(Some(FetchedStrand { originator, head, reached, covered, is_tree_short, of_chain }))
    }

    /// Returns a strand as earlier calls have left it; `None` if they have not begun it. Any beginning of a node's strand
    /// is as good as the whole, because each envelope was checked by itself. A chain's is good as a whole alone.
    fn taken_earlier(
        &self,
        stated: &BootstrapStrand,
    ) -> Result<Option<FetchedStrand>, BootstrapFetchError> {
        let originator = stated.originator;
        let head = self.store.snapshot().head(originator)?;
        if head == SequenceId::NONE {
            return Ok(None);
        }
        if stated.is_of_chain() {
            let signed = self.grounds.get(&originator).map(|it| it.signed.end());
            if signed != Some(head) {
                return Err(BootstrapFetchError::ChainPart { originator, head });
            }
        }
        let (reached, covered, is_tree_short, of_chain) = (Reached::default(), None, false, None);
        Ok(Some(FetchedStrand { originator, head, reached, covered, is_tree_short, of_chain }))
    }
}

/// Steps of trees between two looks if all are done. A guess.
const TREE_STEPS: usize = 1024;
