//! Opening a folder as a store.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use rocksdb::{DB, DEFAULT_COLUMN_FAMILY_NAME, Env, ErrorKind, Options, WriteBatch};

use crate::condemned::{self, drop_condemned};
use crate::database::{Database, OpenedDatabase, family_of, write_synced};
use crate::error::{DatabaseError, NO_FILE, ReadError};
use crate::fact_index::FactIndex;
use crate::facts::load_index;
use crate::family::Family;
use crate::folder::{
    is_folder, is_of_backups, make_folder, remove_checkpoint, remove_scrub_checkpoint,
    remove_table_files,
};
use crate::host::{FolderFacts, FolderStanding, HostMarker, UnknownFolder};
use crate::kept_copy;
use crate::keys::misbehavior::FactKey;
use crate::keys::report::ReportFact;
use crate::lost_manifest::{no_database, require_named, require_none};
use crate::meta::{self, FORMAT, FORMAT_MIN, StoreHeader};
use crate::migrate::migrate;
use crate::open_error::OpenError;
use crate::opening::{Access, Location, Opening};
use crate::options::{self, CACHE_BYTES_MIN};
use crate::price::PriceFn;
use crate::projection::{ProjectionSet, is_dropped_with_projections};
use crate::raw_rows::{is_empty, load_heads, load_rates};
use crate::settings::{Durability, HostSettings, StoreIdentity, StoreSettings};
use crate::store::Store;
use crate::unread::UnreadFamily;
use crate::unread_tables::{descriptor, drop_unread, is_of_table};

impl Store {
    /// Opens the database in a folder, or creates it. A lock file that a crash left is ignored.
    ///
    /// A database on a disk that allows no writes is opened for reading: [`Store::is_poisoned`] is true then, and
    /// [`Store::reopen`] makes it writable when the disk allows.
    ///
    /// # Errors
    /// When the folder cannot be used, is in use, is damaged, or belongs to another node, key or
    /// network. The text of the error names the remedy.
    pub fn open(settings: &StoreSettings) -> Result<Self, OpenError> {
        let StoreSettings { path, identity, durability, price, host, open_files_max, cache_bytes } =
            settings;
        if let Err(error) = prepare_folder(path)
            && !(error.is_of_disk() && has_database(path))
        {
            return Err(error);
        }
        let start = |access| {
            let location = Location::Folder(path.clone(), *open_files_max);
            let how = Opening::new(location, *durability, *price, host.clone(), *cache_bytes);
            start(how, Some(identity), access)
        };
        let error = match start(Access::ReadWrite) {
            Err(error) if error.is_of_disk() && has_database(path) => error,
            done => return done,
        };
        tracing::error!(code = "log_read_only", %error, "the database is opened for reading only");
        start(Access::ReadOnly).map_err(|_| error)
    }

    /// Opens the database in a folder, of any owner. For commands that know only the folder. `price` calculates the
    /// prices of envelopes.
    ///
    /// # Errors
    /// The errors of [`Store::open`], and an error if there is no database.
    pub fn open_existing(path: &Path, price: PriceFn) -> Result<(Self, StoreIdentity), OpenError> {
        if !has_database(path) {
            return Err(no_database(path));
        }
        let location = Location::Folder(path.to_owned(), options::OPEN_FILES_MAX);
        let how = Opening::new(location, Durability::Fsync, price, None, CACHE_BYTES_MIN);
        let store = start(how, None, Access::ReadWrite)?;
        let identity = store.identity().clone();
        Ok((store, identity))
    }

    /// Creates a database in memory, for simulations. Dropping the last clone deletes it.
    ///
    /// # Errors
    /// When RocksDB fails.
    pub fn in_memory(identity: StoreIdentity, price: PriceFn) -> Result<Self, OpenError> {
        let env = Env::mem_env().map_err(DatabaseError::from)?;
        let how =
            Opening::new(Location::Memory(env), Durability::Fsync, price, None, CACHE_BYTES_MIN);
        start(how, Some(&identity), Access::ReadWrite)
    }
}

/// Opens a database and the in-memory state beside it.
pub(crate) fn start(
    how: Opening,
    wanted: Option<&StoreIdentity>,
    access: Access,
) -> Result<Store, OpenError> {
    let (database, header) = load(&how, wanted, access)?;
    let store = Store::new(database, how);
    if access == Access::ReadWrite {
        store.judge(&header)?;
        for remove in [remove_checkpoint, remove_scrub_checkpoint, remove_table_files] {
            if let Some(Err(error)) = store.path().map(remove) {
                tracing::warn!(%error, "files left by an interrupted backup, scrub or fetch cannot be removed");
            }
        }
        store.path().into_iter().for_each(kept_copy::mention_copies);
    }
    log_opened(&store, header.highest_sequence);
    Ok(store)
}

/// Rows that are read when the database is opened, and without which it can be opened too.
struct DispensableRows {
    has_unpriced: bool,
    evidence: FactIndex<FactKey>,
    reports: FactIndex<ReportFact>,
    unread: Vec<UnreadFamily>,
}

impl DispensableRows {
    /// Reads them.
    ///
    /// # Errors
    /// When the last evidence or the last report is not found by a read that may succeed later: another one would take
    /// its place.
    fn load(db: &DB) -> Result<Self, ReadError> {
        let mut unread = Vec::new();
        // If this is unknown, the task that corrects amounts reads the family, and reports the error.
        let is_empty = UnreadFamily::read(Family::Reprice, &mut unread, || {
            Ok(match is_empty(db, Family::Reprice) {
                Ok(is_empty) => (is_empty, Ok(())),
                Err(error) => (false, Err(error)),
            })
        })?;
        let facts = Family::MisbehaviorFact;
        let evidence = UnreadFamily::read(facts, &mut unread, || load_index(db))?;
        let facts = Family::MisbehaviorReportFact;
        let reports = UnreadFamily::read(facts, &mut unread, || load_index(db))?;
        Ok(Self { has_unpriced: !is_empty, evidence, reports, unread })
    }
}

/// Opens the database, checks it, and loads its in-memory state.
pub(crate) fn load(
    how: &Opening,
    wanted: Option<&StoreIdentity>,
    access: Access,
) -> Result<(Arc<Database>, StoreHeader), OpenError> {
    load_opened(open_database(how, access)?, how, wanted, access)
}

fn newer_format(db: &DB, found: u32) -> OpenError {
    OpenError::NewerFormat { found, writer: meta::writer(db) }
}

/// Checks an open database, and loads its in-memory state. One without rows becomes a new one.
pub(crate) fn load_opened(
    mut db: DB,
    how: &Opening,
    wanted: Option<&StoreIdentity>,
    access: Access,
) -> Result<(Arc<Database>, StoreHeader), OpenError> {
    let location = &how.location;
    let found = meta::format(&db)?;
    let is_ours = access == Access::ReadWrite && found == Some(FORMAT);
    let dropped = if is_ours { drop_unusable(&mut db, how)? } else { ProjectionSet::default() };
    match found {
        Some(FORMAT) => {}
        Some(found) if found > FORMAT => return Err(newer_format(&db, found)),
        Some(FORMAT_MIN..) if access == Access::ReadWrite => {}
        Some(FORMAT_MIN..) => return Err(not_a_database(location)),
        Some(found) => return Err(OpenError::Corrupt { cause: format!("format {found}") }),
        None => {
            let wanted = wanted.filter(|_| access == Access::ReadWrite);
            let wanted = wanted.ok_or_else(|| not_a_database(location))?;
            initialise(&mut db, how, wanted)?;
        }
    }
    let older = found.filter(|&found| found < FORMAT);
    if access == Access::ReadWrite {
        keep_older(&db, how, wanted, older)?;
        make_families(&mut db, how)?;
    } else if Family::ALL.into_iter().any(|it| !is_dropped_with_projections(it) && !has(&db, it)) {
        return Err(not_a_database(location));
    }
    if dropped != ProjectionSet::default() {
        condemned::settle(&db, &how.lasting.faults, dropped)?;
    }
    let mut header = meta::load(&db)?;
    if lacks_beside(&db, ProjectionSet::of(header.stale.iter().copied())) {
        header.stale = ProjectionSet::all().list(); // and it is opened for reading
    }
    if let Some(wanted) = wanted {
        require_same(&header.identity, wanted)?;
    }
    if let Some(older) = older {
        migrate(&db, older)?;
    }
    let heads = load_heads(&db)?;
    require_own_head(&heads, header.identity.node, header.highest_sequence)?;
    let rates = load_rates(&db)?;
    let DispensableRows { has_unpriced, evidence, reports, unread } = DispensableRows::load(&db)?;
    let older_rows = meta::older_topic_rows(&db)?;
    let rebuilt_in_part = meta::is_counted_in_part(&db)?;
    let database = Database::new(OpenedDatabase {
        db,
        identity: header.identity.clone(),
        incarnation: header.incarnation,
        path: location.folder().map(Path::to_owned),
        lasting: how.lasting.clone(),
        is_read_only: access == Access::ReadOnly,
        heads,
        stale: header.stale.clone(),
        durability: how.durability,
        price: how.price,
        rates,
        has_unpriced,
        evidence,
        reports,
        older_rows,
        rebuilt_in_part,
        unread,
    });
    Ok((Arc::new(database), header))
}

/// Keeps a copy of a database of an older format, before anything in it changes. The copy that an interrupted migration
/// has kept stays, because the migration may have changed the database. It is replaced if the earlier program has run
/// since: a return to it would lose what that one has written.
fn keep_older(
    db: &DB,
    how: &Opening,
    wanted: Option<&StoreIdentity>,
    older: Option<u32>,
) -> Result<(), OpenError> {
    let (Some(older), Some(folder)) = (older, how.location.folder()) else { return Ok(()) };
    let header = meta::load(db)?;
    if let Some(wanted) = wanted {
        require_same(&header.identity, wanted)?; // or it is left as it is
    }
    let copy = kept_copy::copy_folder(folder, older);
    match is_folder(&copy) {
        Ok(true) if is_run_of(&header, how, &copy)? => Ok(()),
        Ok(_) => kept_copy::keep(db, folder, older),
        Err(source) => Err(OpenError::Unreadable { path: copy, source }),
    }
}

/// Returns true if a copy is of the last run that this header is of, and false if it is of another one or damaged.
///
/// # Errors
/// When the disk fails to read the copy, which may pass. Nothing else has the database as it was before the migration.
fn is_run_of(header: &StoreHeader, how: &Opening, copy: &Path) -> Result<bool, OpenError> {
    // A copy whose first file is not found counts as damaged.
    let current = copy.join("CURRENT");
    if let Err(source) = fs::exists(&current) {
        return Err(OpenError::Unreadable { path: current, source });
    }
    let location = Location::Folder(copy.to_path_buf(), options::OPEN_FILES_MAX);
    let how = Opening::new(location, how.durability, how.price, None, CACHE_BYTES_MIN);
    let kept = open_database(&how, Access::ReadOnly).and_then(|db| Ok(meta::load(&db)?));
    let run =
        |header: &StoreHeader| (header.incarnation, header.generation, header.highest_sequence);
    match kept {
        Ok(kept) => Ok(run(&kept) == run(header)),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Drops the families of projections that have to be rebuilt. Returns the projections.
fn drop_unusable(db: &mut rocksdb::DB, how: &Opening) -> Result<ProjectionSet, OpenError> {
    // A projection has no family if the disk failed between dropping and creating it. An empty family must never count
    // as complete, so the need to rebuild it is recorded before the family is created.
    if lacks_beside(db, meta::condemned(db)?) {
        condemned::note(db, &how.lasting.faults)?;
    }
    Ok(drop_condemned(db)?)
}

impl Store {
    /// Compares the folder with the host marker, if requested and not done yet. The folder is adopted if it is the
    /// newest one.
    pub(crate) fn judge(&self, header: &StoreHeader) -> Result<(), OpenError> {
        let Opening { location, host, lasting, .. } = &self.shared.how;
        let (Some(folder), Some(host), None) = (location.folder(), host, lasting.host.get()) else {
            return Ok(());
        };
        let lacks = host.new_strand && meta::may_lack_places(&self.database().db)?;
        let marker = judge(folder, host, header, lacks)?;
        let is_newest = marker.standing() == FolderStanding::Newest;
        if is_newest {
            self.adopt_by(&marker)?;
        }
        let _ = lasting.host.set(marker);
        Ok(())
    }
}

/// Compares the folder with the host marker, and with the operator's word. `lacks` is true if the folder may lack
/// places that its node has signed, such as one that a backup has brought here.
fn judge(
    folder: &Path,
    host: &HostSettings,
    header: &StoreHeader,
    lacks: bool,
) -> Result<HostMarker, OpenError> {
    let StoreHeader { identity, incarnation, generation, highest_sequence, .. } = header;
    let facts = FolderFacts {
        incarnation: *incarnation,
        generation: *generation,
        inode: 0,
        head: *highest_sequence,
    };
    let marker = HostMarker::judge(&host.state_dir, identity, folder, facts)?;
    if !host.new_strand || (!lacks && marker.note_new()) {
        return Ok(marker);
    }
    match marker.standing() {
        // The flag has been there since before the first envelope.
        FolderStanding::Newest if *highest_sequence == SequenceId::NONE => Ok(marker),
        FolderStanding::Newest | FolderStanding::New | FolderStanding::Unjudged => {
            Err(OpenError::StrandExists { found: format!("its strand ends at {highest_sequence}") })
        }
        FolderStanding::Unknown(UnknownFolder::Empty) => {
            let found = "the folder comes from a backup or from another node, and may lack what this one has signed since";
            Err(OpenError::StrandExists { found: found.to_owned() })
        }
        FolderStanding::Unknown(UnknownFolder::NoMarker) => {
            let found = format!("the folder holds its strand up to {highest_sequence}");
            Err(OpenError::StrandExists { found })
        }
        FolderStanding::Unknown(reason) => {
            Err(OpenError::StrandExists { found: reason.explanation().to_owned() })
        }
    }
}

fn not_a_database(location: &Location) -> OpenError {
    OpenError::NotADatabase { path: location.path() }
}

/// Creates the folder, and checks that a file in it can be written and synced.
pub(crate) fn prepare_folder(path: &Path) -> Result<(), OpenError> {
    let unwritable = |source| OpenError::Unwritable { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(found) if !found.is_dir() => {
            return Err(OpenError::NotADirectory { path: path.to_owned() });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(path).map_err(unwritable)?;
        }
        Err(error) => return Err(unwritable(error)),
    }
    let probe = path.join("write-probe");
    fs::File::create(&probe)
        .and_then(|mut file| {
            io::Write::write_all(&mut file, b"can this folder be written to?")?;
            file.sync_all()
        })
        .and_then(|()| fs::remove_file(&probe))
        .map_err(unwritable)
}

/// Returns true when the folder holds a RocksDB database.
pub(crate) fn has_database(path: &Path) -> bool {
    path.join("CURRENT").is_file()
}

/// Refuses to create a database among backups. A node would sign its first envelopes there, and take the folder for the
/// one that this host wrote last.
fn require_no_backups(folder: &Path) -> Result<(), OpenError> {
    match is_of_backups(folder) {
        Ok(false) => Ok(()),
        Ok(true) => Err(OpenError::OfBackups { path: folder.to_owned() }),
        Err(source) => Err(OpenError::Unreadable { path: folder.to_owned(), source }),
    }
}

/// Opens an existing database with its own families, so that nothing is added to a newer format before
/// it is recognised. A new database gets all families at once.
pub(crate) fn open_database(how: &Opening, access: Access) -> Result<DB, OpenError> {
    let location = &how.location;
    let path = location.path();
    location.folder().map_or(Ok(()), kept_copy::require_finished)?;
    let (mut options, names) = match location {
        Location::Folder(folder, open_files_max) if has_database(folder) => {
            let mut options = options::database(None, *open_files_max);
            options.create_missing_column_families(false);
            let names =
                DB::list_cf(&options, &path).map_err(|error| explain(&path, access, error))?;
            require_named(folder, &names)?;
            (options, names)
        }
        Location::Folder(folder, open_files_max) => {
            require_none(folder)?;
            require_no_backups(folder)?;
            (options::database(None, *open_files_max), known_names())
        }
        Location::Memory(env) => {
            (options::database(Some(env), options::OPEN_FILES_MAX), known_names())
        }
    };
    if access == Access::ReadOnly {
        // Otherwise RocksDB starts sixteen threads for each family to open its tables, one family after the other.
        // Measured: with 25 families that was 0.19 of the 0.23 s of a traced backup of 150 KiB. Tables that are not
        // opened here are opened when they are read.
        options.set_max_file_opening_threads(1);
    }
    let open = |options: &Options, names: &[String]| {
        let families = names.iter().map(|name| descriptor(how, name, false));
        match access {
            Access::ReadWrite => DB::open_cf_descriptors(options, &path, families),
            Access::ReadOnly => DB::open_cf_descriptors_read_only(options, &path, families, false),
        }
    };
    let error = match open(&options, &names) {
        Err(error) if is_of_table(&error) => error,
        Err(error) => return Err(explain(&path, access, error)),
        Ok(db) => {
            // A return to an earlier format may have begun since: it writes its note while it has the database locked.
            location.folder().map_or(Ok(()), kept_copy::require_finished)?;
            return Ok(db);
        }
    };
    let is_on_disk = location.folder().is_some_and(has_database);
    if access == Access::ReadWrite && is_on_disk && drop_unread(how, &path, &mut options, &names)? {
        let names = DB::list_cf(&options, &path).map_err(|error| explain(&path, access, error))?;
        return open(&options, &names).map_err(|error| explain(&path, access, error));
    }
    Err(explain(&path, access, error))
}

fn known_names() -> Vec<String> {
    Family::ALL.into_iter().map(|family| family.name().to_owned()).collect()
}

/// Maps an error of opening. RocksDB distinguishes a held lock and a lost file from other I/O errors only by the text.
fn explain(path: &Path, access: Access, error: rocksdb::Error) -> OpenError {
    let text: &str = error.as_ref();
    // Under a reader, a running node may replace a file. A writer finds every file that the manifest names, unless the
    // disk has lost it.
    let may_lose = access == Access::ReadWrite;
    match error.kind() {
        ErrorKind::IOError
            if text.contains("lock hold by current process")
                || text.contains("While lock file") =>
        {
            OpenError::Held { path: path.to_owned() }
        }
        ErrorKind::IOError if may_lose && text.contains(NO_FILE) => {
            OpenError::Corrupt { cause: error.into_string() }
        }
        ErrorKind::Corruption => OpenError::Corrupt { cause: error.into_string() },
        _ => OpenError::Database(error.into()),
    }
}

/// Writes the rows of a new database. A crash before that leaves families without rows, which the next
/// start treats as new again.
fn initialise(db: &mut DB, how: &Opening, identity: &StoreIdentity) -> Result<(), OpenError> {
    let location = &how.location;
    let foreign = location.folder().is_some_and(|path| {
        DB::list_cf(&Options::default(), path).is_ok_and(|names| {
            names
                .iter()
                .any(|name| name != DEFAULT_COLUMN_FAMILY_NAME && !known_names().contains(name))
        })
    });
    if foreign {
        return Err(not_a_database(location));
    }
    make_families(db, how)?;
    let mut log = db.raw_iterator_cf(family_of(db, Family::Log));
    log.seek_to_first();
    if log.valid() {
        return Err(OpenError::Corrupt { cause: "envelopes without a format".to_owned() });
    }
    let mut batch = WriteBatch::default();
    meta::put_new(db, identity, new_incarnation(), &mut batch);
    write_synced(db, batch)?;
    Ok(())
}

fn make_families(db: &mut DB, how: &Opening) -> Result<(), OpenError> {
    for family in Family::ALL {
        if !has(db, family) {
            if how.lasting.faults.next().is_some() {
                return Err(DatabaseError::injected().into());
            }
            db.create_cf(family.name(), &options::family_options(family, &how.cache))
                .map_err(DatabaseError::from)?;
        }
    }
    Ok(())
}

fn has(db: &DB, family: Family) -> bool {
    db.cf_handle(family.name()).is_some()
}

/// Returns true if a projection's family is missing that is not in the set.
fn lacks_beside(db: &DB, set: ProjectionSet) -> bool {
    let is_other = |family: &Family| is_dropped_with_projections(*family) && !set.covers(*family);
    Family::ALL.into_iter().filter(is_other).any(|family| !has(db, family))
}

/// Returns 16 bytes that no other database has.
///
/// The keys of a hash map come from the system's randomness. Time, process id and an address are hashed
/// in, for systems with weak randomness.
pub(crate) fn new_incarnation() -> [u8; 16] {
    let state = RandomState::new();
    let mut hasher = blake3::Hasher::new();
    for index in 0u8..4 {
        hasher.update(&state.hash_one(index).to_be_bytes());
    }
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    hasher.update(&since_1970.as_nanos().to_be_bytes());
    hasher.update(&std::process::id().to_be_bytes());
    hasher.update(format!("{:p}", &raw const state).as_bytes());
    let mut incarnation = [0; 16];
    hasher.finalize_xof().fill(&mut incarnation);
    incarnation
}

fn require_same(stored: &StoreIdentity, wanted: &StoreIdentity) -> Result<(), OpenError> {
    if stored.network != wanted.network {
        return Err(OpenError::OtherNetwork {
            stored: stored.network.clone(),
            wanted: wanted.network.clone(),
        });
    }
    if stored.node != wanted.node {
        return Err(OpenError::OtherNode { stored: stored.node, wanted: wanted.node });
    }
    if stored.public_key != wanted.public_key {
        return Err(OpenError::OtherKey {
            stored: stored.public_key.address(),
            wanted: wanted.public_key.address(),
        });
    }
    Ok(())
}

/// Compares the own strand's head in `cursor` and in `meta`. The same commits write both, so a
/// difference means that the next sequence id is unknown.
fn require_own_head(
    heads: &[EnvelopeId],
    own: OriginatorId,
    highest: SequenceId,
) -> Result<(), OpenError> {
    let head = heads.iter().find(|head| head.originator == own).map(|head| head.sequence);
    let head = head.unwrap_or_default();
    if head == highest {
        return Ok(());
    }
    Err(OpenError::Corrupt {
        cause: format!("own strand ends at {head} in one place and at {highest} in another"),
    })
}

fn log_opened(store: &Store, own_head: SequenceId) {
    let StoreIdentity { network, node, .. } = store.identity();
    match store.path() {
        None => tracing::debug!(%network, node_id = %node, "database in memory"),
        Some(path) => tracing::info!(
            path = %path.display(),
            %network,
            node_id = %node,
            format = FORMAT,
            %own_head,
            standing = ?store.standing(),
            read_only = store.is_poisoned(),
            disk_bytes = store.disk_bytes(),
            stale_projections = ?store.stale_projections(),
            "database open",
        ),
    }
}
