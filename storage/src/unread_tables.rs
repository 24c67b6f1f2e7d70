//! Handles table files that RocksDB cannot open, because the disk has damaged their index, properties or footer.
//!
//! RocksDB reads these parts of some files during opening, and fails if one of them is damaged. If only projections
//! have such files, their families are dropped with them and rebuilt from the log. If another family has one, the
//! folder stays unchanged, because the log does not have its rows.
//!
//! No check is skipped for this: the database is opened with the same checks of its manifest and its write-ahead
//! log, and only the tables are opened later than usual.

use std::path::Path;

use rocksdb::{
    ColumnFamilyDescriptor, DB, DEFAULT_COLUMN_FAMILY_NAME, ErrorKind, Options, WriteBatch,
};

use crate::database::write_synced;
use crate::error::{DatabaseError, ReadError};
use crate::family::Family;
use crate::meta::{self, FORMAT};
use crate::opening::Opening;
use crate::options;
use crate::projection::{Projection, ProjectionSet, is_dropped_with_projections};

/// Drops the projections with tables that cannot be opened, of a database of this format that is otherwise intact.
/// Returns false if there are none; nothing is changed then.
///
/// After a crash meanwhile, or if the record cannot be written, the next opening finds a missing family and all
/// projections are rebuilt.
///
/// # Errors
/// An error if the disk fails in another way.
pub(crate) fn drop_unread(
    how: &Opening,
    path: &Path,
    options: &mut Options,
    names: &[String],
) -> Result<bool, ReadError> {
    let found = unread(how, path, options, names);
    if found == ProjectionSet::default() {
        return Ok(false);
    }
    let later = opens_tables_later(options).map_err(DatabaseError::from)?;
    // Compactions are paused, because one that reads the tables would fail.
    let families = names.iter().map(|name| descriptor(how, name, true));
    let mut db = DB::open_cf_descriptors(&later, path, families).map_err(DatabaseError::from)?;
    if meta::format(&db)? != Some(FORMAT) {
        return Ok(false);
    }
    // Projections that are to be rebuilt anyway are incomplete too.
    let set = meta::rebuilding(&db)?.or(found).with_companions();
    let mut batch = WriteBatch::default();
    meta::put_condemned(&db, &mut batch, set);
    if let Err(error) = write_synced(&db, batch) {
        // RocksDB may have met the tables already, and refuses writes then.
        tracing::warn!(%error, "all projections will be rebuilt");
    }
    let names: Vec<_> = set.list().into_iter().map(Projection::name).collect();
    let names = names.join(", ");
    tracing::warn!(
        code = "projections_condemned",
        projections = names,
        "table files of derived indexes cannot be opened: they are dropped, and rebuilt from the log"
    );
    for family in Family::ALL.into_iter().filter(|it| set.covers(*it)) {
        if db.cf_handle(family.name()).is_some() {
            db.drop_cf(family.name()).map_err(DatabaseError::from)?;
        }
    }
    Ok(true)
}

/// Returns the projections with tables that cannot be opened; none if another family has such tables, too.
fn unread(how: &Opening, path: &Path, options: &Options, names: &[String]) -> ProjectionSet {
    let is_made_anew = |name: &str| {
        let family = Family::ALL.into_iter().find(|family| family.name() == name);
        family.filter(|family| is_dropped_with_projections(*family))
    };
    // Each opening reads the manifest, the write-ahead log and these families, and writes nothing.
    let opens = |options: &Options, names: &[&str]| {
        let families = names.iter().map(|name| descriptor(how, name, true));
        DB::open_cf_descriptors_read_only(options, path, families, false).map(drop)
    };
    // Opens all tables of the families that cannot be rebuilt, not only the first sixteen. If there are more than this
    // process may open, that counts as damage, and the folder stays as it is.
    let mut all_tables = options.clone();
    all_tables.set_max_open_files(-1);
    let rest: Vec<_> =
        names.iter().map(String::as_str).filter(|it| is_made_anew(it).is_none()).collect();
    if opens(&all_tables, &rest).is_err() {
        return ProjectionSet::default();
    }
    let mut found = ProjectionSet::default();
    for family in names.iter().filter_map(|name| is_made_anew(name)) {
        let opened = opens(options, &[DEFAULT_COLUMN_FAMILY_NAME, family.name()]);
        if opened.is_err_and(|error| is_of_table(&error)) {
            let one = Projection::ALL.into_iter().find(|it| it.family() == family);
            // The marks of minutes to be priced again are dropped with the amounts.
            found = found.or(ProjectionSet::of([one.unwrap_or(Projection::Usage)]));
        }
    }
    found
}

/// Returns true for errors that a damaged table causes: a damaged footer may state an unknown version.
pub(crate) fn is_of_table(error: &rocksdb::Error) -> bool {
    matches!(error.kind(), ErrorKind::Corruption | ErrorKind::NotSupported)
}

/// Returns options with which tables are opened at their first read, and in the background.
fn opens_tables_later(options: &mut Options) -> Result<Options, rocksdb::Error> {
    // The binding has no function for the first option, and RocksDB requires the second one with it.
    options.get_options_from_string("open_files_async=true;skip_stats_update_on_db_open=true")
}

/// Returns a family's descriptor for opening. `is_held` pauses its compactions.
pub(crate) fn descriptor(how: &Opening, name: &str, is_held: bool) -> ColumnFamilyDescriptor {
    let family = Family::ALL.into_iter().find(|family| family.name() == name);
    family.map_or_else(
        || ColumnFamilyDescriptor::new(name, Options::default()),
        |family| {
            let is_held = is_held || how.lasting.compactions.holds(family);
            options::descriptor(family, &how.cache, is_held)
        },
    )
}
