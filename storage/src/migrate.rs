//! Migrates a database of an older format when it is opened, and takes over tallies of an older version.

use rocksdb::{DB, WriteBatch};

use crate::change::InvalidRule;
use crate::database::{family_of, write_synced};
use crate::error::{CommitError, ReadError};
use crate::keys::Key;
use crate::keys::mark::{Mark, MarkKey};
use crate::meta::{self, FORMAT};
use crate::open_error::OpenError;
use crate::projection::ProjectionSet;
use crate::raw_rows::current_mark;
use crate::store::Store;

/// Marks of prices that a migration removes with one write. A guess: about a megabyte.
const UNMARKED_AT_ONCE: usize = 20_000;

/// Migrates an older format. A crash before the last write leaves the older format with new families, and
/// the next start repeats the migration.
pub(crate) fn migrate(db: &DB, older: u32) -> Result<(), OpenError> {
    tracing::info!(from = older, to = FORMAT, "bringing the database up to a newer format");
    if older < 3 {
        unmark_prices(db)?;
    }
    let mut batch = WriteBatch::default();
    if older < 4 {
        meta::put_older_topic_rows(db, &mut batch);
    }
    meta::put_format(db, &mut batch);
    Ok(write_synced(db, batch)?)
}

/// Removes the marks of prices, in steps of bounded memory. Formats up to 2 kept envelopes from readers whose fees the
/// price list did not explain. The projections of these formats are stale, so their rows come with the
/// rebuild at this start.
fn unmark_prices(db: &DB) -> Result<(), OpenError> {
    const PRICE_RULES: [InvalidRule; 2] = [InvalidRule(10), InvalidRule(11)];
    let family = family_of(db, MarkKey::FAMILY);
    let mut rows = db.raw_iterator_cf(family);
    rows.seek_to_first();
    let mut batch = WriteBatch::default();
    while let Some((at, mark)) = current_mark(&rows)? {
        if matches!(mark, Mark::Invalid(rule) if PRICE_RULES.contains(&rule)) {
            batch.delete_cf(family, MarkKey(at).encode());
        }
        if batch.len() >= UNMARKED_AT_ONCE {
            write_synced(db, std::mem::take(&mut batch))?;
        }
        rows.next();
    }
    Ok(write_synced(db, batch)?)
}

impl Store {
    /// Takes over the tallies of versions 2 to 4 if they are those of version 5: if the folder has no mark with which
    /// an envelope may be booked since then. Otherwise they stay stale, as those of any other version.
    /// `is_booked_since` gets the version, and returns true for these marks. Marks are few, so this costs less than a
    /// rebuild of every folder.
    ///
    /// # Errors
    /// When the marks cannot be read or the disk accepts no write. The tallies then stay stale.
    pub fn keep_tallies(
        &self,
        is_booked_since: &dyn Fn(u32, InvalidRule) -> bool,
    ) -> Result<(), CommitError> {
        let database = self.database();
        if !ProjectionSet::of(database.stale.list()).has_tallies() {
            return Ok(());
        }
        let _no_commits = database.gate_for_a_step()?;
        let db = &database.db;
        if meta::rebuilding(db)?.has_tallies() {
            return Ok(());
        }
        let [first, others @ ..] = ProjectionSet::TALLIES;
        let Some(version @ 2..=4) = meta::projection_version(db, first)? else { return Ok(()) };
        for tally in others {
            if meta::projection_version(db, tally)? != Some(version) {
                return Ok(());
            }
        }
        if has_mark(db, &|rule| is_booked_since(version, rule))? {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        for tally in ProjectionSet::TALLIES {
            meta::put_projection_version(db, &mut batch, tally);
        }
        database.write_durable(batch)?;
        database.stale.remove(ProjectionSet::of(ProjectionSet::TALLIES));
        tracing::info!(
            "took over the tallies of an older version: they are as this one makes them"
        );
        Ok(())
    }
}

/// Returns true if an envelope has the mark of one of these rules.
fn has_mark(db: &DB, is_wanted: &dyn Fn(InvalidRule) -> bool) -> Result<bool, ReadError> {
    let mut rows = db.raw_iterator_cf(family_of(db, MarkKey::FAMILY));
    rows.seek_to_first();
    while let Some((_, mark)) = current_mark(&rows)? {
        if matches!(mark, Mark::Invalid(rule) if is_wanted(rule)) {
            return Ok(true);
        }
        rows.next();
    }
    Ok(false)
}
