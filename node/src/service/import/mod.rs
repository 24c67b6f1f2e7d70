//! Imports the database of a stopped node of the reference implementation (xmtpd, in Postgres).
//!
//! - `address`: the connection string; `tls`: the protection of the connection; `messages`: bounds on what comes;
//! - `session`: one session, with its time limits;
//! - `source`: reads the database; `facts`: its properties; `check`: decides whether it may be imported;
//! - `strand`: verifies one strand, and converts it to changes of the log;
//! - `batches`: batches of rows on several threads; `transfer`: reads, verifies and writes, concurrently;
//! - `compare`: the final comparison;
//! - `folder`: the data folder of an unfinished import;
//! - `error`: the errors of an import.
//!
//! The strands of nodes are imported, and those of the older network if their signer is named. Chain strands are not: a
//! node reads them from the chain, because each node of the reference implementation has dated them with its own clock.
//!
//! The database is read once: each row is checked, and then written to a folder from which no node starts. If a row is
//! refused, the run that began the folder empties it. A run that continues an earlier one checks all rows again, and
//! writes those that the log lacks.
//!
//! Invariants: no row is written before it and all earlier rows of its strand were found good. No node starts from the
//! folder before every row was found good, and database and log were found equal.
//!
//! The folder is not written elsewhere and renamed: it may be a mount point, and a node that is started meanwhile would
//! begin with an empty log.

mod address;
mod batches;
mod check;
mod compare;
mod error;
mod facts;
mod folder;
mod messages;
mod session;
mod source;
mod strand;
mod tls;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};

use hawser_chain::admin::Contract;
use hawser_engine::ports::NodeRecord;
use hawser_engine::replication::EnvelopeVerifier;
use hawser_proto::OriginatorId;
use hawser_rules::Absences;
use hawser_storage::{Durability, OpenError, Store, StoreSettings};

use super::network::chains::Chains;
use super::open;
use crate::files::deployment::KnownDeployment;
use crate::settings::NodeServiceSettings;

pub use check::ImportPlanError;
pub use error::ImportError;
pub use facts::SkippedRows;
pub use strand::{RowError, StrandReport};

use check::{ImportPlan, NetworkContracts, PlannedStrand};
use facts::SourceFacts;
use session::PostgresLimits;
use source::SourceDatabase;
use transfer::JudgingFacts;

pub(in crate::service) use folder::ImportFolder;
pub(in crate::service) use strand::gap;

/// The progress of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// The number of envelopes read so far.
    pub done: u64,
    /// The number of envelopes.
    pub total: u64,
}

/// The result of a finished import.
#[derive(Debug)]
pub struct ImportReport {
    /// Id of the node.
    pub node: OriginatorId,
    /// True if this run continued an earlier one.
    pub resumed: bool,
    /// The imported strands, equal in database and log.
    pub strands: Vec<StrandReport>,
    /// The strands that were left out, with the number of their envelopes.
    pub left_out: Vec<(OriginatorId, u64)>,
    /// The number of places of the own strand that the database has assigned above its last envelope. They stay empty.
    pub unused: u64,
    /// The numbers of other rows that were left out.
    pub aside: SkippedRows,
}

/// Returns true if a connection string has a password. The import refuses a string that is none.
#[must_use]
pub fn has_password(postgres: &str) -> bool {
    let address = address::DatabaseAddress::parse(postgres);
    address.is_ok_and(|address| address.config.get_password().is_some())
}

/// Imports the database at `postgres`, a connection string, into the data folder of these settings. `name` is that of
/// the database, if it is another one than the string names. The strands of the nodes `without` are left out.
/// `now_unix_s` is the present time. Calls `progress` at intervals. A second call continues an interrupted one.
///
/// # Errors
/// [`ImportError`]. If this call began the folder, and the database or one of its rows was refused, the folder is as it
/// was before. Otherwise the folder keeps the imported data for the next call, and no node starts from it.
pub async fn run(
    settings: &NodeServiceSettings,
    postgres: &str,
    name: Option<&str>,
    without: &BTreeSet<OriginatorId>,
    now_unix_s: u64,
    progress: &mut (dyn FnMut(ImportProgress) + Send),
) -> Result<ImportReport, ImportError> {
    let chains = Chains::reach(settings).await.map_err(open::OpenNodeError::from)?;
    let registry = open::first_registry(settings, &chains)?;
    let own = open::own_record(&registry, settings, &chains)?.clone();
    let source = SourceDatabase::open(postgres, name, PostgresLimits::default()).await?;
    let facts = source.facts().await?;
    let contracts = contracts(settings).await?;
    let older = settings.migrated.map(|it| it.key);
    let plan = check::check(&facts, &own, &registry, older, &contracts, without)?;
    let (folder, resumed) = ImportFolder::claim(&settings.store.data_dir, &facts.fingerprint)?;
    let total = plan.envelopes();
    let mut done = 0;
    let mut note = |rows: u64| {
        done += rows;
        progress(ImportProgress { done, total });
    };
    let planned =
        PlannedImport { source: &source, facts: &facts, own: &own, plan: &plan, now_unix_s };
    let taken = planned.take(settings, &chains, &mut note).await;
    let strands = match taken {
        Err(refused) if refused.refuses_content() => {
            return Err(if resumed { folder.keep(refused) } else { folder.clear(refused) });
        }
        taken => taken?,
    };
    folder.release()?;
    let head = facts.strands.get(&own.id).map_or(0, |strand| strand.head.unsigned_abs());
    let unused = plan.counter.0.saturating_sub(head);
    let (left_out, aside) = (plan.left_out, facts.aside);
    Ok(ImportReport { node: own.id, resumed, strands, left_out, unused, aside })
}

/// The import of a database that was found to be this node's, as far as its facts show.
struct PlannedImport<'a> {
    source: &'a SourceDatabase,
    facts: &'a SourceFacts,
    own: &'a NodeRecord,
    plan: &'a ImportPlan,
    now_unix_s: u64,
}

impl PlannedImport<'_> {
    /// Takes all strands over, and compares both sides. The log is closed afterwards.
    async fn take(
        &self,
        settings: &NodeServiceSettings,
        chains: &Chains,
        note: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Vec<StrandReport>, ImportError> {
        let Self { source, facts, own, plan, now_unix_s } = *self;
        let store = open_store(settings, own)?;
        compare::require_planned(&store, own.id, plan)?;
        let rates = open::first_rates(settings, chains, &store)?;
        let judging = JudgingFacts { rates, now_unix_s };
        let taken = transfer::take(source, &store, verifiers(plan, own), &judging, note).await?;
        for strand in &taken {
            plan.require_read(strand.originator, strand.envelopes, strand.head)?;
        }
        let compared = async {
            compare::seal(&store, own, plan).await?;
            compare::require_same(&store, taken).await
        };
        let (same, still) = tokio::join!(compared, source.require_still(facts));
        let strands = same?;
        still?;
        Ok(strands)
    }
}

/// Returns the verifier of each strand.
fn verifiers(plan: &ImportPlan, own: &NodeRecord) -> BTreeMap<OriginatorId, EnvelopeVerifier> {
    let verifier = |(&originator, strand): (&OriginatorId, &PlannedStrand)| {
        // The node judges the strand again when it learns of an absence.
        let absences = Absences::NONE;
        (originator, EnvelopeVerifier { originator, key: strand.key, own: own.id, absences })
    };
    plan.strands.iter().map(verifier).collect()
}

/// Returns the contracts whose events the database may contain. None if files substitute for the chains.
async fn contracts(settings: &NodeServiceSettings) -> Result<NetworkContracts, ImportError> {
    let access = &settings.chains.contracts;
    if access.settlement.urls.is_empty() && access.app.urls.is_empty() {
        return Ok(NetworkContracts::default());
    }
    let read = [
        Contract::GroupMessageBroadcaster,
        Contract::IdentityUpdateBroadcaster,
        Contract::PayerRegistry,
        Contract::PayerReportManager,
    ];
    let deployment = KnownDeployment::of(access, &read).await?;
    let addresses = |contracts: &[Contract]| {
        let known = contracts.iter().filter_map(|it| deployment.contracts.get(*it));
        known.map(|address| address.to_string().to_lowercase()).collect()
    };
    Ok(NetworkContracts { all: addresses(&Contract::ALL), read: addresses(&read) })
}

/// Opens the data folder without registering it on this host, so no host knows it yet. Writes do not wait for the disk,
/// because no reply depends on them: everything is synced before a node may start from the folder.
pub(in crate::service) fn open_store(
    settings: &NodeServiceSettings,
    own: &NodeRecord,
) -> Result<Store, OpenError> {
    let config = &settings.store;
    let as_stated = open::store_settings(config, own);
    let store = Store::open(&StoreSettings { durability: Durability::Os, ..as_stated })?;
    open::keep_room(&store, config);
    Ok(store)
}
