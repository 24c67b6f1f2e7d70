//! Bringing a database of an older format up to this one when it is opened.

use rocksdb::{DB, WriteBatch};

use crate::change::InvalidRule;
use crate::database::{family_of, write_synced};
use crate::keys::Key;
use crate::keys::mark::{Mark, MarkKey};
use crate::meta::{self, FORMAT};
use crate::open_error::OpenError;
use crate::projection::ProjectionSet;
use crate::raw_rows::current_mark;

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

/// Takes over the tallies of version 2, if they are those of version 3: if nothing has a mark with which an envelope is
/// booked since then. Otherwise they are stale, as those of any other version. Marks are few, so this costs less than a
/// rebuild of every folder.
pub(crate) fn keep_tallies(db: &DB) -> Result<(), OpenError> {
    const WITHOUT_MARKED: u32 = 2;
    /// The rules with whose marks envelopes are booked since version 3 (`docs/protocol/rules.md`).
    const BOOKED_RULES: [InvalidRule; 5] =
        [InvalidRule(4), InvalidRule(6), InvalidRule(7), InvalidRule(9), InvalidRule(14)];
    for tally in ProjectionSet::TALLIES {
        if meta::projection_version(db, tally)? != Some(WITHOUT_MARKED) {
            return Ok(());
        }
    }
    let mut rows = db.raw_iterator_cf(family_of(db, MarkKey::FAMILY));
    rows.seek_to_first();
    while let Some((_, mark)) = current_mark(&rows)? {
        if matches!(mark, Mark::Invalid(rule) if BOOKED_RULES.contains(&rule)) {
            return Ok(());
        }
        rows.next();
    }
    let mut batch = WriteBatch::default();
    for tally in ProjectionSet::TALLIES {
        meta::put_projection_version(db, &mut batch, tally);
    }
    Ok(write_synced(db, batch)?)
}
