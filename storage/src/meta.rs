//! Reads and writes the `meta` family: format, owner and projection versions.

use hawser_proto::{OriginatorId, PublicKey, SequenceId};
use rocksdb::{DB, WriteBatch};

use crate::database::write_synced;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::meta::MetaKey;
use crate::keys::misbehavior::EvidenceTime;
use crate::keys::{Key, decode_u64};
use crate::progress::{OlderRows, Rebuilt};
use crate::projection::{Projection, ProjectionSet};
use crate::settings::StoreIdentity;

/// The format that this code reads and writes. Raised when rows change in a way that older programs
/// cannot read.
pub(crate) const FORMAT: u32 = 6;
/// The oldest format that opening migrates.
pub(crate) const FORMAT_MIN: u32 = 1;

/// The rows of `meta` that exist from the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreHeader {
    pub(crate) identity: StoreIdentity,
    pub(crate) incarnation: [u8; 16],
    /// Number of the last run that was about to sign; 0 before the first.
    pub(crate) generation: u64,
    /// Head of the own strand at the last commit to it.
    pub(crate) highest_sequence: SequenceId,
    /// Projections of other versions; after an interrupted rebuild all of them.
    pub(crate) stale: Vec<Projection>,
}

/// Returns the stored format; `None` for a new database. Other rows may be read only when this is from
/// [`FORMAT_MIN`] to [`FORMAT`].
pub(crate) fn format(db: &DB) -> Result<Option<u32>, ReadError> {
    if db.cf_handle(Family::Meta.name()).is_none() {
        return Ok(None);
    }
    row(db, MetaKey::Format, decode_u32)
}

/// Returns the version of the program that wrote the format, also of one that is newer than [`FORMAT`]. `None` if it is
/// unknown: older programs did not note theirs.
pub(crate) fn writer(db: &DB) -> Option<String> {
    /// Longest version that is shown, in bytes. A guess: versions have some ten.
    const LEN_BYTES_MAX: usize = 64;
    let text = row(db, MetaKey::Writer, |bytes| String::from_utf8(bytes.to_vec()).ok()).ok()??;
    let is_version = |letter: char| letter.is_ascii_alphanumeric() || ".-+".contains(letter);
    let is_known = !text.is_empty() && text.len() <= LEN_BYTES_MAX;
    (is_known && text.chars().all(is_version)).then_some(text)
}

/// Stages the current format, and this program as its writer. The families must exist already.
///
/// Migration 1 → 2 changes no row: `mark` got a value for waiting envelopes, which older programs cannot read; the
/// projection `inbox` and the family `ledger` are new. Migration 2 → 3 removes the marks of prices, which are not a
/// rule any more. Migration 3 → 4 changes no row during opening: topic rows now have small envelopes, and
/// `older_rows` converts the stored rows. Migration 4 → 5 changes no row: the families of the trees are new, and
/// `trees` builds the trees. Migration 5 → 6 changes no row: `mark` got a value for pruned places, whose records
/// are in the new family `pruned`. Format 6 also has ledger entries of amounts beyond 64 bits.
pub(crate) fn put_format(db: &DB, batch: &mut WriteBatch) {
    put(db, batch, MetaKey::Format, &FORMAT.to_be_bytes());
    put(db, batch, MetaKey::Writer, env!("CARGO_PKG_VERSION").as_bytes());
}

/// Reads the header of a database of this format, or of one that can be migrated.
pub(crate) fn load(db: &DB) -> Result<StoreHeader, ReadError> {
    let network = required(db, MetaKey::Network, |bytes| String::from_utf8(bytes.to_vec()).ok())?;
    let node = OriginatorId(required(db, MetaKey::NodeId, decode_u32)?);
    let public_key = required(db, MetaKey::PublicKey, PublicKey::from_uncompressed)?;
    Ok(StoreHeader {
        identity: StoreIdentity { network, node, public_key },
        incarnation: required(db, MetaKey::Incarnation, |bytes| bytes.try_into().ok())?,
        generation: generation(db)?,
        highest_sequence: SequenceId(
            row(db, MetaKey::HighestSequence, decode_u64)?.unwrap_or_default(),
        ),
        stale: stale(db)?,
    })
}

fn stale(db: &DB) -> Result<Vec<Projection>, ReadError> {
    let interrupted = rebuilding(db)?;
    let mut stale = Vec::new();
    for projection in Projection::ALL {
        if interrupted.contains(projection) || !is_of_this_version(db, projection)? {
            stale.push(projection);
        }
    }
    Ok(stale)
}

fn is_of_this_version(db: &DB, projection: Projection) -> Result<bool, ReadError> {
    Ok(projection_version(db, projection)? == Some(projection.version()))
}

/// Returns the version of the code that wrote the rows of a projection.
pub(crate) fn projection_version(
    db: &DB,
    projection: Projection,
) -> Result<Option<u32>, ReadError> {
    row(db, MetaKey::Projection(projection), decode_u32)
}

/// Stages the rows of a new database.
pub(crate) fn put_new(
    db: &DB,
    identity: &StoreIdentity,
    incarnation: [u8; 16],
    batch: &mut WriteBatch,
) {
    put_format(db, batch);
    put(db, batch, MetaKey::Network, identity.network.as_bytes());
    put(db, batch, MetaKey::NodeId, &identity.node.0.to_be_bytes());
    put(db, batch, MetaKey::PublicKey, identity.public_key.as_bytes());
    put(db, batch, MetaKey::Incarnation, &incarnation);
    put_projection_versions(db, batch);
}

/// Stages another owner of the database: a node with its key, and the head of its strand. The new incarnation tells the
/// folder from all others. It may lack places that the node has signed.
pub(crate) fn put_owner(
    db: &DB,
    batch: &mut WriteBatch,
    (node, public_key): (OriginatorId, &PublicKey),
    incarnation: [u8; 16],
    head: SequenceId,
) {
    put(db, batch, MetaKey::NodeId, &node.0.to_be_bytes());
    put(db, batch, MetaKey::PublicKey, public_key.as_bytes());
    put(db, batch, MetaKey::Incarnation, &incarnation);
    put(db, batch, MetaKey::HighestSequence, &head.0.to_be_bytes());
    put(db, batch, MetaKey::Promoted, &[]);
}

/// Returns true if the folder was a replica's, or comes from a backup or from before an upgrade, and its node has not
/// signed from it yet.
pub(crate) fn may_lack_places(db: &DB) -> Result<bool, ReadError> {
    Ok(row(db, MetaKey::Promoted, |_| Some(()))?.is_some())
}

/// Returns the part that an interrupted rebuild has processed; `None` if a rebuild has to start over, or if none
/// was interrupted.
pub(crate) fn rebuilt(db: &DB) -> Result<Option<Rebuilt>, ReadError> {
    Ok(row(db, MetaKey::Rebuilding, |value| Some(Rebuilt::decode(value)))?.flatten())
}

/// The value of [`MetaKey::Rebuilding`] with which opening drops the families of projections: of all, or of the set
/// in the byte after it. Older programs start a rebuild of all from the beginning.
const CONDEMNED: &[u8] = b"condemned";
/// The value of [`MetaKey::Rebuilding`] while some projections are rebuilt and the others are complete. The set is
/// in the byte after it, followed by the progress, if there is any. Older programs start a rebuild of all from the
/// beginning.
const PART: &[u8] = b"part";

/// Projections that are rebuilt while the others are complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RebuiltSet {
    pub(crate) set: ProjectionSet,
    /// The processed part of the log; `None` if the rebuild of the set starts over.
    pub(crate) done: Option<Rebuilt>,
}

impl RebuiltSet {
    /// Encodes the value of its row in `meta`.
    pub(crate) fn encode(self) -> Vec<u8> {
        let done = self.done.map(Rebuilt::encode).unwrap_or_default();
        [behind(PART, self.set), done].concat()
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (bits, done) = value.strip_prefix(PART)?.split_first()?;
        Some(Self { set: ProjectionSet::decode(*bits)?, done: Rebuilt::decode(done) })
    }
}

/// Returns the projections whose families have to be dropped before use; an empty set if there are none.
pub(crate) fn condemned(db: &DB) -> Result<ProjectionSet, ReadError> {
    let set = row(db, MetaKey::Rebuilding, |value| Some(decode_condemned(value)))?.flatten();
    Ok(set.unwrap_or_default())
}

/// Stages the record that the families of projections are to be dropped at the next opening.
pub(crate) fn put_condemned(db: &DB, batch: &mut WriteBatch, set: ProjectionSet) {
    let is_all = set == ProjectionSet::all();
    let value = if is_all { CONDEMNED.to_vec() } else { behind(CONDEMNED, set) };
    put(db, batch, MetaKey::Rebuilding, &value);
}

/// Returns the projections that are rebuilt while the others are complete; `None` if there are none, or if any of
/// them may have rows of another version of this program.
pub(crate) fn part(db: &DB) -> Result<Option<RebuiltSet>, ReadError> {
    let part = row(db, MetaKey::Rebuilding, |value| Some(RebuiltSet::decode(value)))?.flatten();
    for projection in Projection::ALL {
        if !is_of_this_version(db, projection)? {
            return Ok(None);
        }
    }
    Ok(part)
}

/// Returns true if an interrupted rebuild has counted some envelopes, which a change of the log would count again:
/// the rebuild then has to start over. Rows that depend on one envelope each are not counts.
pub(crate) fn is_counted_in_part(db: &DB) -> Result<bool, ReadError> {
    let of_set = part(db)?.is_some_and(|part| part.done.is_some() && part.set.has_tallies());
    Ok(of_set || rebuilt(db)?.is_some())
}

/// Stages the record that the families of these projections are empty, and that their rebuild starts from the
/// beginning.
pub(crate) fn put_emptied(db: &DB, batch: &mut WriteBatch, set: ProjectionSet) {
    let is_all = set == ProjectionSet::all();
    let value = if is_all { Vec::new() } else { RebuiltSet { set, done: None }.encode() };
    put(db, batch, MetaKey::Rebuilding, &value);
}

/// Returns the projections that are incomplete because of a rebuild, or condemned.
pub(crate) fn rebuilding(db: &DB) -> Result<ProjectionSet, ReadError> {
    let decode = |value: &[u8]| {
        let part = RebuiltSet::decode(value).map(|part| part.set);
        let set = part.or(decode_condemned(value));
        Some(set.unwrap_or_else(ProjectionSet::all))
    };
    Ok(row(db, MetaKey::Rebuilding, decode)?.unwrap_or_default())
}

fn behind(word: &[u8], set: ProjectionSet) -> Vec<u8> {
    [word, &[set.encode()]].concat()
}

fn decode_set(word: &[u8], value: &[u8]) -> Option<ProjectionSet> {
    let [bits] = value.strip_prefix(word)? else { return None };
    ProjectionSet::decode(*bits)
}

fn decode_condemned(value: &[u8]) -> Option<ProjectionSet> {
    match value == CONDEMNED {
        true => Some(ProjectionSet::all()),
        false => decode_set(CONDEMNED, value),
    }
}

/// Returns the progress with topic rows of an older format; `None` if there are none.
pub(crate) fn older_topic_rows(db: &DB) -> Result<Option<OlderRows>, ReadError> {
    row(db, MetaKey::OlderTopicRows, OlderRows::decode)
}

/// Stages the start of converting topic rows to this format.
pub(crate) fn put_older_topic_rows(db: &DB, batch: &mut WriteBatch) {
    put(db, batch, MetaKey::OlderTopicRows, &OlderRows::default().encode());
}

/// Returns the time up to which the recorded rates were noted to be complete, unix nanoseconds.
pub(crate) fn rates_complete(db: &DB) -> Result<Option<i64>, ReadError> {
    row(db, MetaKey::RatesComplete, decode_i64)
}

/// Stages the time up to which the recorded rates are complete, unix nanoseconds.
pub(crate) fn put_rates_complete(db: &DB, batch: &mut WriteBatch, until_ns: i64) {
    put(db, batch, MetaKey::RatesComplete, &until_ns.to_be_bytes());
}

/// Returns the position of the last evidence from which reports were made; the position before the first if there
/// is none.
pub(crate) fn reported_evidence(db: &DB) -> Result<EvidenceTime, ReadError> {
    Ok(row(db, MetaKey::ReportedEvidence, |bytes| EvidenceTime::decode(bytes))?.unwrap_or_default())
}

/// Stages the position of the last evidence from which reports were made.
pub(crate) fn put_reported_evidence(db: &DB, batch: &mut WriteBatch, at: EvidenceTime) {
    put(db, batch, MetaKey::ReportedEvidence, &at.encode());
}

/// Stages the removal of the row of amounts of payer reports that an older version wrote.
pub(crate) fn delete_older_report_amounts(db: &DB, batch: &mut WriteBatch) {
    let family = crate::database::family_of(db, Family::Meta);
    batch.delete_cf(family, MetaKey::ReportAmounts.encode());
}

/// Reads the first block that is not rechecked, from the row of a reader.
pub(crate) fn chain_recheck_from(db: &DB, key: MetaKey) -> Result<Option<u64>, ReadError> {
    row(db, key, decode_u64)
}

/// Stages the first block that is not rechecked, in the row of a reader.
pub(crate) fn put_chain_recheck_from(db: &DB, batch: &mut WriteBatch, key: MetaKey, block: u64) {
    put(db, batch, key, &block.to_be_bytes());
}

/// Returns the number of the last run.
pub(crate) fn generation(db: &DB) -> Result<u64, ReadError> {
    Ok(row(db, MetaKey::Generation, decode_u64)?.unwrap_or_default())
}

/// Counts one more run, durably, and returns its number. Unlike [`write_generation`] it states nothing about places
/// that the folder may lack.
pub(crate) fn count_run(db: &DB) -> Result<u64, CommitError> {
    let run = generation(db)?.saturating_add(1);
    let mut batch = WriteBatch::default();
    put(db, &mut batch, MetaKey::Generation, &run.to_be_bytes());
    write_synced(db, batch).map_err(CommitError::Write)?;
    Ok(run)
}

/// Writes the number of the run that is about to sign, durably. From then on it counts as lacking no place.
pub(crate) fn write_generation(db: &DB, generation: u64) -> Result<(), DatabaseError> {
    let mut batch = WriteBatch::default();
    put(db, &mut batch, MetaKey::Generation, &generation.to_be_bytes());
    batch.delete_cf(crate::database::family_of(db, Family::Meta), MetaKey::Promoted.encode());
    write_synced(db, batch)
}

/// Durably gives a restored folder a new incarnation, so that every host distinguishes it from the folder that was
/// backed up. It may lack places that the node has signed since.
pub(crate) fn write_restored(db: &DB, incarnation: [u8; 16]) -> Result<(), DatabaseError> {
    let mut batch = WriteBatch::default();
    put(db, &mut batch, MetaKey::Incarnation, &incarnation);
    put(db, &mut batch, MetaKey::Promoted, &[]);
    write_synced(db, batch)
}

/// Writes durably that the folder may lack places, or that it lacks none.
pub(crate) fn write_may_lack_places(db: &DB, lacks: bool) -> Result<(), DatabaseError> {
    let mut batch = WriteBatch::default();
    if lacks {
        put(db, &mut batch, MetaKey::Promoted, &[]);
    } else {
        batch.delete_cf(crate::database::family_of(db, Family::Meta), MetaKey::Promoted.encode());
    }
    write_synced(db, batch)
}

/// Stages the current versions of all projections.
pub(crate) fn put_projection_versions(db: &DB, batch: &mut WriteBatch) {
    for projection in Projection::ALL {
        put_projection_version(db, batch, projection);
    }
}

/// Stages the current version of one projection.
pub(crate) fn put_projection_version(db: &DB, batch: &mut WriteBatch, projection: Projection) {
    put(db, batch, MetaKey::Projection(projection), &projection.version().to_be_bytes());
}

/// Stages a row.
pub(crate) fn put(db: &DB, batch: &mut WriteBatch, key: MetaKey, value: &[u8]) {
    batch.put_cf(crate::database::family_of(db, Family::Meta), key.encode(), value);
}

fn required<V>(
    db: &DB,
    key: MetaKey,
    decode: impl FnOnce(&[u8]) -> Option<V>,
) -> Result<V, ReadError> {
    row(db, key, decode)?.ok_or_else(|| ReadError::corrupt(Family::Meta, key.encode()))
}

/// Reads a row; `None` if it does not exist. `decode` returns `None` for a damaged one.
pub(crate) fn row<V>(
    db: &DB,
    key: MetaKey,
    decode: impl FnOnce(&[u8]) -> Option<V>,
) -> Result<Option<V>, ReadError> {
    db.get_pinned_cf(crate::database::family_of(db, Family::Meta), key.encode())
        .map_err(DatabaseError::from)?
        .map(|value| decode(&value).ok_or_else(|| ReadError::corrupt(Family::Meta, key.encode())))
        .transpose()
}

/// Decodes a time in unix nanoseconds.
pub(crate) fn decode_i64(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(bytes.try_into().ok()?))
}

fn decode_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}
