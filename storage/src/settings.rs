//! Settings of a store.

use std::path::PathBuf;

use hawser_proto::{OriginatorId, PublicKey};

use crate::price::PriceFn;

/// The owner of a database: one node of one network. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreIdentity {
    /// The name of the network (`--network`). A database belongs to one network.
    pub network: String,
    /// The node that sequences its own strand in this database.
    pub node: OriginatorId,
    /// The key that signs that strand.
    pub public_key: PublicKey,
}

/// The point from which a commit counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// After fsync: a commit survives power loss.
    #[default]
    Fsync,
    /// After the write call: a commit survives a crash of the process, not of the machine.
    Os,
}

/// Settings for [`Store::open`](crate::Store::open): they hold until the database is closed.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// Data folder. Created with mode 0700 if it does not exist.
    pub path: PathBuf,
    /// Required owner of the database; a new database gets this owner.
    pub identity: StoreIdentity,
    /// The point from which a commit counts as durable. With [`Durability::Os`], power loss may take acknowledged
    /// envelopes.
    pub durability: Durability,
    /// Calculates the prices of envelopes. Must be the same function in every process that opens the database, or the
    /// booked amounts differ from those of a rebuild.
    pub price: PriceFn,
    /// Settings of the host marker; `None` for no check against it, for tests and measurements.
    pub host: Option<HostSettings>,
    /// Largest number of open table files of RocksDB, at least 20. It has some dozens of other open files as well:
    /// logs, and files that it writes.
    pub open_files_max: usize,
    /// Memory for blocks of table files, their indexes and filters, in bytes; at least
    /// [`CACHE_BYTES_MIN`](crate::CACHE_BYTES_MIN) for a node.
    pub cache_bytes: usize,
}

/// Settings of the host marker; see [`FolderStanding`](crate::FolderStanding).
#[derive(Debug, Clone)]
pub struct HostSettings {
    /// Folder of the marker. Backups and copies of the data folder must not include it. Created with mode 0700 if
    /// it does not exist.
    pub state_dir: PathBuf,
    /// The operator states that the node's key has no strand yet.
    pub new_strand: bool,
}
