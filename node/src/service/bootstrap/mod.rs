//! Takes over a snapshot of another node into the log of a new node: `hawser snapshot fetch`.
//!
//! - `checkpoints`: verifies the checkpoints of a snapshot with the keys of the registry;
//! - `strand`: verifies and writes one strand; - `chain`: the same for a chain's strand;
//! - `shown`: writes one strand before its signatures are checked, if the operator allows it;
//! - `gather`: has many envelopes written together;
//! - `fill`: fills the strands of a running node; - `verify`: reads a snapshot without writing anything;
//! - `voids`: statements about void places;
//! - `report`: the result; - `error`: why a snapshot was refused.
//!
//! The adversaries are the maker of the snapshot, the operator of its source, and the network in between. None of their
//! claims is trusted: each envelope must be signed by the originator of its strand, each checkpoint by the node that it
//! names, and the envelopes must have the tree that a checkpoint signs. Derived rows are computed here. Chain strands
//! are read from the chain, unless the operator trusts most nodes of the network for them.
//!
//! Invariant: no node starts from the folder before all of this is verified. With `--catch-up checkpoints` it may start
//! before signatures are checked under a tree that the strand's own node and most others have signed. It then checks
//! them, and passes on nothing before. A running node takes only envelopes from a snapshot, each verified like one from
//! a peer.

mod chain;
mod checkpoints;
mod error;
mod fill;
mod gather;
mod report;
mod shown;
mod strand;
#[cfg(test)]
mod testing;
mod verify;
mod voids;

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_engine::facts;
use hawser_engine::replication::EnvelopeVerifier;
use hawser_engine::runtime::ChainAppender;
use hawser_engine::runtime::replication::CatchUp;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{Absences, RateTable, Registry};
use hawser_storage::{
    BootstrapManifest, BootstrapStrand, Bootstraps, FiledChanges, Objects, Store,
};
use tokio::runtime::Handle;

use super::import::{ImportFolder, open_store};
use super::network::NetworkState;
use super::network::chains::Chains;
use super::open;
use crate::service::blocking;
use crate::service::strand_faults::StrandFaults;
use crate::settings::NodeServiceSettings;

pub use error::{BootstrapFetchError, run_error};
pub(in crate::service) use fill::{ChainFill, FillTask};
pub use report::{FetchedChain, FetchedStrand, StrandCounts, VerifiedStrand};
pub use verify::verify;

use chain::{AskedContract, ChainGrounds};
use checkpoints::Evidence;
use shown::TakenFirst;

/// The requested snapshot, and the operator's trust decisions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedBootstrap {
    /// The name of the snapshot; `None` for the newest one of the network.
    pub name: Option<String>,
    /// True if chain strands are taken where most nodes of the network have signed their trees. Otherwise
    /// the node reads the chains itself.
    pub trusts_nodes_for_chains: bool,
    /// True if taking over ends now: nodes may start on the data of earlier calls, and get the rest from peers.
    pub ends_early: bool,
}

/// The progress of taking over a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootstrapProgress {
    /// The total length of the chunks taken over, in this run and earlier ones, in bytes.
    pub done: u64,
    /// The total length of all chunks in bytes.
    pub total: u64,
}

/// The result of taking over a snapshot.
#[derive(Debug)]
pub struct BootstrapFetched {
    /// The name of the snapshot.
    pub name: String,
    /// Id of the new node.
    pub node: OriginatorId,
    /// True if this run continued an earlier one.
    pub resumed: bool,
    /// The strands that were taken over.
    pub strands: Vec<FetchedStrand>,
    /// The strands that were left out: that of the node itself, which its peers supply; those of nodes outside the
    /// registry; and those of chains that the node reads itself.
    pub left_out: Vec<OriginatorId>,
}

/// A callback for progress.
pub type ProgressFn = Box<dyn FnMut(BootstrapProgress) + Send>;

/// Takes over a snapshot into the empty data folder of these settings. A second call continues an interrupted one.
///
/// # Errors
/// [`BootstrapFetchError`]. The folder keeps the verified data for the next call, and no node starts from it.
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
    let known = VerifiedParts { registry: &registry, evidence: &evidence, own: own.id };
    let grounds = match trusts_nodes_for_chains {
        true => grounds_of(&manifest, known, &chains, settings.bootstrap_trust.one_endpoint)?,
        false => BTreeMap::new(),
    };
    let fingerprint = fingerprint_of(&manifest, trusts_nodes_for_chains);
    let (folder, resumed) = ImportFolder::claim(&settings.store.data_dir, &fingerprint)?;
    if ends_early && !resumed {
        folder.undo()?;
        return Err(BootstrapFetchError::NothingTaken);
    }
    let store = open_store(settings, &own).map_err(open::OpenNodeError::from)?;
    let rates = open::first_rates(settings, &chains, &store)?;
    // Only chain strands need an engine, which validates identity updates.
    let engine = if grounds.is_empty() {
        None
    } else {
        let network = NetworkState::new(own.id, store.clone(), registry.clone(), rates.clone());
        let wallets = open::wallets_of(settings);
        Some(open::start_engine(settings, &network, wallets).map_err(open::OpenNodeError::from)?)
    };
    let appender = engine.as_ref().map(|(engine, _)| engine.chain_appender());
    let job = FetchJob {
        place,
        manifest,
        evidence,
        grounds,
        appender,
        lists: KnownLists { registry, rates },
        own: own.id,
        shows_first: settings.catch_up == CatchUp::Checkpoints,
        ends_early,
        store,
    };
    let taken = blocking(move || {
        let taken = job.run(now_unix_s, tell);
        if let Some((engine, threads)) = engine {
            // The process must not end while a thread is working on the database.
            engine.drain();
            threads.join();
        }
        taken
    });
    let (strands, left_out) = taken.await?;
    folder.release()?;
    Ok(BootstrapFetched { name, node: own.id, resumed, strands, left_out })
}

/// The registry's keys, the verified checkpoints of a snapshot, and the node that takes it over.
#[derive(Clone, Copy)]
struct VerifiedParts<'a> {
    registry: &'a Registry,
    evidence: &'a Evidence,
    own: OriginatorId,
}

/// Returns the grounds for taking the chain strands of a snapshot.
fn grounds_of(
    manifest: &BootstrapManifest,
    known: VerifiedParts<'_>,
    chains: &Chains,
    trusts_one_endpoint: bool,
) -> Result<BTreeMap<OriginatorId, ChainGrounds>, BootstrapFetchError> {
    let VerifiedParts { registry, evidence, own } = known;
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

/// Returns a name of the whole content of the snapshot and of the trust with which it is taken: a run without that
/// trust must not finish what a run with it has begun.
fn fingerprint_of(manifest: &BootstrapManifest, trusts_nodes_for_chains: bool) -> String {
    let bytes = manifest.encode().expect("what was read can be written");
    let trust = if trusts_nodes_for_chains { " and chains by its nodes" } else { "" };
    format!("snapshot {}{trust}", blake3::hash(&bytes).to_hex())
}

/// The lists of the chain, by which strands are verified and judged.
struct KnownLists {
    registry: Registry,
    rates: RateTable,
}

/// The part of the work that runs on a blocking thread.
struct FetchJob {
    place: Bootstraps,
    manifest: BootstrapManifest,
    evidence: Evidence,
    /// The grounds for each chain strand that is taken.
    grounds: BTreeMap<OriginatorId, ChainGrounds>,
    /// The appender for chain strands; `None` if there are none.
    appender: Option<ChainAppender>,
    lists: KnownLists,
    own: OriginatorId,
    /// True if strands may be taken before their signatures are checked.
    shows_first: bool,
    ends_early: bool,
    store: Store,
}

type FetchedStrands = (Vec<FetchedStrand>, Vec<OriginatorId>);

impl FetchJob {
    fn run(
        self,
        now_unix_s: u64,
        mut tell: ProgressFn,
    ) -> Result<FetchedStrands, BootstrapFetchError> {
        let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, self.own);
        for stated in &self.manifest.strands {
            // An earlier run may have been killed within a write. If this run writes other rows in their place, the
            // rest of the earlier rows would then lie below the head.
            self.store.remove_above_head(stated.originator, &derive)?;
        }
        let total = self.manifest.len_bytes();
        let (mut done, mut strands, mut left_out) = (0_u64, Vec::new(), Vec::new());
        for stated in &self.manifest.strands {
            let mut note = |bytes: u64| {
                done = done.saturating_add(bytes);
                tell(BootstrapProgress { done, total });
            };
            match self.take_over(stated, now_unix_s, &mut note)? {
                Some(taken) => strands.push(taken),
                None => left_out.push(stated.originator),
            }
        }
        while !self.store.extend_trees(TREE_STEPS)? {}
        for fetched in &mut strands {
            match self.grounds.get(&fetched.originator) {
                Some(grounds) => chain::require_tree(&self.store, &grounds.signed, fetched)?,
                None => self.evidence.require_roots(&self.store, fetched)?,
            }
        }
        for fetched in &mut strands {
            fetched.unverified = shown::unverified(&self.store, fetched.originator)?;
        }
        // The node compares the checkpoint of an unverified strand with those that its peers show.
        let verified = strands.iter().filter(|it| it.unverified == 0);
        self.store.put_checkpoints(verified.filter_map(|it| it.covered.as_ref()))?;
        for fetched in &mut strands {
            if let Some(grounds) = self.grounds.get(&fetched.originator) {
                Handle::current().block_on(chain::compare(&self.store, grounds, fetched))?;
            }
        }
        voids::record(&self.manifest, &self.lists.registry, now_unix_s, &self.store)?;
        self.store.flush()?;
        Ok((strands, left_out))
    }

    /// Takes over a strand; `None` if it is left out.
    fn take_over(
        &self,
        stated: &BootstrapStrand,
        now_unix_s: u64,
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
        let key = self.lists.registry.node(originator).map(|record| record.public_key);
        let Some(key) = key.filter(|_| originator != *own) else { return Ok(None) };
        // The node judges the strand again when it learns of an absence.
        let absences = Absences::NONE;
        let verifier = EnvelopeVerifier { originator, key, own: *own, absences };
        let mut noted = 0_u64;
        let first = self.show(stated, &verifier, &mut |bytes| {
            noted = noted.saturating_add(bytes);
            note(bytes);
        })?;
        let earlier = match first {
            TakenFirst::Whole(head, reached) => {
                return Ok(Some(FetchedStrand::new(originator, head, reached)));
            }
            TakenFirst::Cut(reached) => {
                StrandCounts { invalid: self.verify_shown(&verifier, now_unix_s)?, ..reached }
            }
            TakenFirst::Nothing => StrandCounts::default(),
        };
        let mut note = |bytes: u64| {
            let again = noted.min(bytes);
            noted -= again;
            note(bytes - again);
        };
        shown::require_verified(store, originator)?;
        let (held, all) = (store.snapshot().head(originator)?, SequenceId(u64::MAX));
        let rates = self.lists.rates.clone();
        let mut faults = StrandFaults::after_log(store, originator, rates, now_unix_s)?;
        let ((head, mut reached), invalid) = gather::beside_loads(
            &verifier,
            strand::check_signed,
            |changes, hashed| Ok(store.file(changes, hashed)?),
            |filed: FiledChanges| {
                // Before the changes, so a crash in between loses none.
                faults.record(store, filed.changes())?;
                Ok(store.load(filed, None)?)
            },
            |write| {
                let writing = strand::Writing::new(write, strand::Gaps::Mark, held, all);
                strand::take_over(place, stated, writing, &mut note)
            },
        )?;
        reached.invalid += invalid;
        Ok(Some(FetchedStrand::new(originator, head, reached.and(earlier))))
    }

    /// Takes a node's strand over before its signatures are checked, if enough nodes vouch for its tree and the
    /// operator allows it.
    fn show(
        &self,
        stated: &BootstrapStrand,
        verifier: &EnvelopeVerifier,
        note: &mut dyn FnMut(u64),
    ) -> Result<TakenFirst, BootstrapFetchError> {
        let signed = self.evidence.vouched_tree(stated.originator, &self.lists.registry, self.own);
        let Some(signed) = signed.filter(|_| self.shows_first) else {
            return Ok(TakenFirst::Nothing);
        };
        // A crash may have left the tree behind the log.
        while !self.store.extend_trees(TREE_STEPS)? {}
        let showing = shown::Showing { place: &self.place, store: &self.store, verifier, signed };
        showing.take_over(stated, note)
    }

    /// Checks the signatures of the unverified places of a strand. Returns the number of envelopes that break a rule.
    fn verify_shown(
        &self,
        verifier: &EnvelopeVerifier,
        now_unix_s: u64,
    ) -> Result<u64, BootstrapFetchError> {
        let Self { store, lists, .. } = self;
        let verified = store.snapshot().verified_head(verifier.originator)?;
        let verified = EnvelopeId::new(verifier.originator, verified);
        let mut faults = StrandFaults::after(store, verified, lists.rates.clone(), now_unix_s)?;
        shown::verify_shown(store, verifier, &mut faults)
    }

    /// Returns a strand as earlier calls have left it; `None` if they have not begun it. Any part of a node's strand is
    /// valid if each envelope was verified by itself. Where a tree takes the place of signatures, the strand has to
    /// reach the end of that tree, and a chain's strand has to be whole.
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
        while !self.store.extend_trees(TREE_STEPS)? {}
        shown::require_whole(&self.store, originator)?;
        Ok(Some(FetchedStrand::new(originator, head, StrandCounts::default())))
    }
}

/// The number of tree steps between two checks whether all are done. A guess.
const TREE_STEPS: usize = 1024;
