//! Opening a folder as a store, with errors that tell the operator what to do.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use hawser_proto::{Address, EnvelopeId, OriginatorId, SequenceId};
use rocksdb::{
    Cache, ColumnFamilyDescriptor, DB, Env, ErrorKind, Options, WriteBatch, WriteOptions,
};

use crate::database::{Database, OpenedDatabase, family_of};
use crate::error::DatabaseError;
use crate::error::ReadError;
use crate::family::Family;
use crate::meta::{self, FORMAT, FORMAT_MIN};
use crate::options;
use crate::raw_rows::load_heads;
use crate::settings::{Durability, StoreIdentity, StoreSettings};
use crate::store::Store;

/// The reason a folder was not opened, with advice for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path is not a folder.
    #[error("{path} is not a folder: name a folder for the data, or one that can be made")]
    NotADirectory {
        /// The path as given.
        path: PathBuf,
    },
    /// The folder cannot be created, or a file in it cannot be written and synced.
    #[error(
        "cannot write to {path}: {source}. Check owner, mode and free space, and that the \
             file system can sync"
    )]
    Unwritable {
        /// The path as given.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// Another process, or another store of this process, has the database open.
    #[error("{path} is in use by another process: stop it first, two nodes never share a folder")]
    Held {
        /// The path as given.
        path: PathBuf,
    },
    /// The folder holds no database of a node.
    #[error("{path} holds no database of a node")]
    NotADatabase {
        /// The path as given.
        path: PathBuf,
    },
    /// A newer version of this program wrote the database.
    #[error(
        "the database has format {found}, this program knows {FORMAT}: use the program that \
             wrote it, or a newer one"
    )]
    NewerFormat {
        /// The format of the database.
        found: u32,
    },
    /// The database belongs to another network.
    #[error(
        "the database belongs to network {stored}, not {wanted}: choose another folder or \
             the other network"
    )]
    OtherNetwork {
        /// The stored value.
        stored: String,
        /// The configured value.
        wanted: String,
    },
    /// The database belongs to another node.
    #[error(
        "the database belongs to node {stored}, not {wanted}: choose another folder or the \
             other node's key"
    )]
    OtherNode {
        /// The stored value.
        stored: OriginatorId,
        /// The configured value.
        wanted: OriginatorId,
    },
    /// The database belongs to the same node id, but to another key.
    #[error(
        "the database belongs to key {stored}, not {wanted}: a strand is signed with one key \
             only, so bring that key or choose another folder"
    )]
    OtherKey {
        /// The stored value.
        stored: Address,
        /// The configured value.
        wanted: Address,
    },
    /// Durable data is damaged.
    #[error(
        "the database is damaged ({cause}): envelopes may be lost, so do not publish from it; \
             restore a backup, or start with an empty folder and fetch the strand from peers"
    )]
    Corrupt {
        /// The finding of RocksDB or of a check in this crate.
        cause: String,
    },
    /// RocksDB failed for another reason.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The rows of `meta` or the heads could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Store {
    /// Opens the database in a folder, or creates it. A lock file that a crash left is ignored.
    ///
    /// # Errors
    /// When the folder cannot be used, is in use, is damaged, or belongs to another node, key or
    /// network. The error tells the operator what to do.
    pub fn open(settings: &StoreSettings) -> Result<Self, OpenError> {
        prepare_folder(&settings.path)?;
        let location = Location::Folder(&settings.path);
        start(location, Some(&settings.identity), settings.durability)
    }

    /// Opens the database in a folder, of any owner. For commands that know only the folder.
    ///
    /// # Errors
    /// As [`Store::open`], and when there is no database.
    pub fn open_existing(path: &Path) -> Result<(Self, StoreIdentity), OpenError> {
        if !has_database(path) {
            return Err(OpenError::NotADatabase { path: path.to_owned() });
        }
        let store = start(Location::Folder(path), None, Durability::Fsync)?;
        let identity = store.identity().clone();
        Ok((store, identity))
    }

    /// Creates a database in memory, for simulations. Dropping the last clone deletes it.
    ///
    /// # Errors
    /// When RocksDB fails.
    pub fn in_memory(identity: StoreIdentity) -> Result<Self, OpenError> {
        let env = Env::mem_env().map_err(DatabaseError::from)?;
        start(Location::Memory(&env), Some(&identity), Durability::Fsync)
    }
}

/// Location of a database.
#[derive(Clone, Copy)]
enum Location<'a> {
    Folder(&'a Path),
    Memory(&'a Env),
}

fn start(
    location: Location<'_>,
    wanted: Option<&StoreIdentity>,
    durability: Durability,
) -> Result<Store, OpenError> {
    let cache = options::block_cache();
    let mut db = open_database(location, &cache)?;
    let found = meta::format(&db)?;
    match found {
        Some(FORMAT_MIN..=FORMAT) => {}
        Some(found) if found > FORMAT => return Err(OpenError::NewerFormat { found }),
        Some(found) => return Err(OpenError::Corrupt { cause: format!("format {found}") }),
        None => {
            let wanted = wanted.ok_or_else(|| location.not_a_database())?;
            initialise(&mut db, location, wanted, &cache)?;
        }
    }
    make_families(&mut db, &cache)?;
    let header = meta::load(&db)?;
    if let Some(wanted) = wanted {
        require_same(&header.identity, wanted)?;
    }
    if let Some(older) = found.filter(|&found| found < FORMAT) {
        migrate(&db, older)?;
    }
    let heads = load_heads(&db)?;
    require_own_head(&heads, header.identity.node, header.highest_sequence)?;
    let store = Store {
        inner: Arc::new(Database::new(OpenedDatabase {
            db,
            identity: header.identity,
            incarnation: header.incarnation,
            path: location.folder().map(Path::to_owned),
            heads,
            stale: header.stale,
            durability,
        })),
    };
    log_opened(&store, location, header.highest_sequence);
    Ok(store)
}

impl<'a> Location<'a> {
    fn folder(self) -> Option<&'a Path> {
        match self {
            Self::Folder(path) => Some(path),
            Self::Memory(_) => None,
        }
    }

    /// Returns the path for RocksDB. In memory any path works, but the binding creates the folder on
    /// disk, so it is one that exists.
    fn path(self) -> PathBuf {
        self.folder().map_or_else(std::env::temp_dir, Path::to_owned)
    }

    fn not_a_database(self) -> OpenError {
        OpenError::NotADatabase { path: self.path() }
    }
}

/// Creates the folder, and checks that a file in it can be written and synced.
fn prepare_folder(path: &Path) -> Result<(), OpenError> {
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

fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Returns true when the folder holds a RocksDB database.
fn has_database(path: &Path) -> bool {
    path.join("CURRENT").is_file()
}

/// Opens an existing database with its own families, so that nothing is added to a newer format before
/// it is recognised. A new database gets all families at once.
fn open_database(location: Location<'_>, cache: &Cache) -> Result<DB, OpenError> {
    let path = location.path();
    let (options, names) = match location {
        Location::Folder(folder) if has_database(folder) => {
            let mut options = options::database(None);
            options.create_missing_column_families(false);
            let names = DB::list_cf(&options, &path).map_err(|error| explain(&path, error))?;
            (options, names)
        }
        Location::Folder(_) => (options::database(None), known_names()),
        Location::Memory(env) => (options::database(Some(env)), known_names()),
    };
    let families = names.iter().map(|name| {
        Family::ALL.into_iter().find(|family| family.name() == name).map_or_else(
            || ColumnFamilyDescriptor::new(name.as_str(), Options::default()),
            |family| options::descriptor(family, cache),
        )
    });
    DB::open_cf_descriptors(&options, &path, families).map_err(|error| explain(&path, error))
}

fn known_names() -> Vec<String> {
    Family::ALL.into_iter().map(|family| family.name().to_owned()).collect()
}

/// Maps an error of opening. RocksDB tells a held lock from other I/O errors only by its text.
fn explain(path: &Path, error: rocksdb::Error) -> OpenError {
    let text: &str = error.as_ref();
    match error.kind() {
        ErrorKind::IOError
            if text.contains("lock hold by current process")
                || text.contains("While lock file") =>
        {
            OpenError::Held { path: path.to_owned() }
        }
        ErrorKind::Corruption => OpenError::Corrupt { cause: error.into_string() },
        _ => OpenError::Database(error.into()),
    }
}

/// Writes the rows of a new database. A crash before that leaves families without rows, which the next
/// start treats as new again.
fn initialise(
    db: &mut DB,
    location: Location<'_>,
    identity: &StoreIdentity,
    cache: &Cache,
) -> Result<(), OpenError> {
    let foreign = location.folder().is_some_and(|path| {
        DB::list_cf(&Options::default(), path).is_ok_and(|names| {
            names.iter().any(|name| name != "default" && !known_names().contains(name))
        })
    });
    if foreign {
        return Err(location.not_a_database());
    }
    make_families(db, cache)?;
    let mut log = db.raw_iterator_cf(family_of(db, Family::Log));
    log.seek_to_first();
    if log.valid() {
        return Err(OpenError::Corrupt { cause: "envelopes without a format".to_owned() });
    }
    let mut batch = WriteBatch::default();
    meta::put_new(db, identity, new_incarnation(), &mut batch);
    write_durable(db, batch)?;
    Ok(())
}

/// Migrates an older format. A crash before the write leaves the older format with new families, and
/// the next start repeats the migration.
fn migrate(db: &DB, older: u32) -> Result<(), DatabaseError> {
    tracing::info!(from = older, to = FORMAT, "bringing the database up to a newer format");
    let mut batch = WriteBatch::default();
    meta::put_format(db, &mut batch);
    write_durable(db, batch)
}

fn write_durable(db: &DB, batch: WriteBatch) -> Result<(), DatabaseError> {
    let mut durable = WriteOptions::default();
    durable.set_sync(true);
    Ok(db.write_opt(batch, &durable)?)
}

fn make_families(db: &mut DB, cache: &Cache) -> Result<(), OpenError> {
    for family in Family::ALL {
        if db.cf_handle(family.name()).is_none() {
            db.create_cf(family.name(), &options::family_options(family, cache))
                .map_err(DatabaseError::from)?;
        }
    }
    Ok(())
}

/// Returns 16 bytes that no other database has.
///
/// The keys of a hash map come from the system's randomness. Time, process id and an address are hashed
/// in, for systems with weak randomness.
fn new_incarnation() -> [u8; 16] {
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

fn log_opened(store: &Store, location: Location<'_>, own_head: SequenceId) {
    let StoreIdentity { network, node, .. } = store.identity();
    match location {
        Location::Memory(_) => tracing::debug!(%network, %node, "database in memory"),
        Location::Folder(path) => tracing::info!(
            path = %path.display(),
            %network,
            %node,
            format = FORMAT,
            %own_head,
            disk_bytes = store.disk_bytes(),
            stale_projections = ?store.stale_projections(),
            "database open",
        ),
    }
}
