//! The log of a new node from a copy that another node has made: `hawser snapshot fetch`.
//!
//! - `checkpoints`: which checkpoints of a copy hold, by the keys of the registry;
//! - `strand`: one strand, checked and written; - `verify`: reading a copy without writing anything;
//! - `report`: what was taken over; - `error`: why a copy was refused.
//!
//! The enemy is the maker of the copy, the keeper of its place, and the network between. Nothing that they say is
//! believed: each envelope has to be signed by the node of its strand, each checkpoint by the node that it names, and a
//! tree has to come out of the envelopes that a checkpoint signs. Rows that are derived are derived here. What a chain
//! orders is read from the chain.
//!
//! Invariant: no node starts from the folder before all of this was found to hold.

mod checkpoints;
mod error;
mod report;
mod strand;
mod verify;

use std::sync::Arc;

use hawser_engine::replication::EnvelopeVerifier;
use hawser_proto::OriginatorId;
use hawser_rules::{Absences, Registry};
use hawser_storage::{BootstrapManifest, Bootstraps, Objects, Store};

use super::import::{ImportFolder, open_store};
use super::network::chains::Chains;
use super::open;
use crate::service::blocking;
use crate::settings::NodeServiceSettings;

pub use error::{BootstrapFetchError, run_error};
pub use report::{FetchedStrand, Reached, VerifiedStrand};
pub use verify::verify;

use checkpoints::Evidence;

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
    /// Strands that were left out: that of the node itself, which its peers give it, and those of nodes that the
    /// registry does not know.
    pub left_out: Vec<OriginatorId>,
}

/// The function that is told about progress.
pub type TellProgress = Box<dyn FnMut(BootstrapProgress) + Send>;

/// Takes a copy over into the empty data folder of these settings. `name` chooses the copy; the newest one of the
/// network by default. A second call goes on where an earlier one was interrupted.
///
/// # Errors
/// [`BootstrapFetchError`]. The folder keeps what was found right for the next call, and no node starts from it.
pub async fn fetch(
    settings: &NodeServiceSettings,
    from: Arc<dyn Objects>,
    name: Option<String>,
    now_unix_s: u64,
    tell: TellProgress,
) -> Result<BootstrapFetched, BootstrapFetchError> {
    if settings.follow.is_some() {
        return Err(BootstrapFetchError::Replica);
    }
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
    let fingerprint = format!("snapshot {}", manifest_digest(&manifest));
    let (folder, resumed) = ImportFolder::claim(&settings.store.data_dir, &fingerprint)?;
    let store = open_store(settings, &own).map_err(open::OpenNodeError::from)?;
    open::first_rates(settings, &chains, &store)?;
    let job = Job { place, manifest, evidence, registry, own: own.id, store };
    let (strands, left_out) = blocking(move || job.run(tell)).await?;
    folder.release()?;
    Ok(BootstrapFetched { name, node: own.id, resumed, strands, left_out })
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

/// The work on a blocking thread.
struct Job {
    place: Bootstraps,
    manifest: BootstrapManifest,
    evidence: Evidence,
    registry: Registry,
    own: OriginatorId,
    store: Store,
}

type Taken = (Vec<FetchedStrand>, Vec<OriginatorId>);

impl Job {
    fn run(self, mut tell: TellProgress) -> Result<Taken, BootstrapFetchError> {
        let Self { place, manifest, evidence, registry, own, store } = self;
        let total = manifest.len_bytes();
        let (mut done, mut strands, mut left_out) = (0_u64, Vec::new(), Vec::new());
        for stated in &manifest.strands {
            let originator = stated.originator;
            let key = registry.node(originator).map(|record| record.public_key);
            let Some(key) = key.filter(|_| originator != own) else {
                left_out.push(originator);
                continue;
            };
            // A node that learns of an absence judges the strand anew.
            let absences = Absences::NONE;
            let verifier = EnvelopeVerifier { originator, key, own, absences };
            let mut note = |bytes: u64| {
                done = done.saturating_add(bytes);
                tell(BootstrapProgress { done, total });
            };
            strands.push(strand::take_over(&place, &store, stated, &verifier, &mut note)?);
        }
        while !store.bring_up_trees(TREE_STEPS)? {}
        for fetched in &mut strands {
            evidence.require_roots(&store, fetched)?;
        }
        let held = strands.iter().filter_map(|it| it.covered.as_ref());
        store.put_checkpoints(held)?;
        store.flush()?;
        Ok((strands, left_out))
    }
}

/// Steps of trees between two looks if all are done. A guess.
const TREE_STEPS: usize = 1024;
