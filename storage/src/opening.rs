//! Everything that opening a database needs, each time.

use std::path::{Path, PathBuf};

use rocksdb::{Cache, Env};

use crate::database::LastingParts;
use crate::options;
use crate::price::PriceFn;
use crate::settings::{Durability, HostSettings};

/// Location of a database.
#[derive(Clone)]
pub(crate) enum Location {
    /// A folder, and the largest number of its table files that may be open.
    Folder(PathBuf, usize),
    Memory(Env),
}

/// Permission of RocksDB for the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    /// For reading only: the folder is neither written to nor locked.
    ReadOnly,
}

/// Everything that opening a database needs, each time.
pub(crate) struct Opening {
    pub(crate) location: Location,
    pub(crate) cache: Cache,
    pub(crate) durability: Durability,
    pub(crate) price: PriceFn,
    pub(crate) host: Option<HostSettings>,
    pub(crate) lasting: LastingParts,
}

impl Opening {
    pub(crate) fn new(
        location: Location,
        durability: Durability,
        price: PriceFn,
        host: Option<HostSettings>,
        cache_bytes: usize,
    ) -> Self {
        let (cache, lasting) = (options::block_cache(cache_bytes), LastingParts::default());
        Self { location, cache, durability, price, host, lasting }
    }
}

impl Location {
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(path, _) => Some(path),
            Self::Memory(_) => None,
        }
    }

    /// Returns the path for RocksDB. In memory any path works, but the binding creates the folder on disk, so an
    /// existing folder is used.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder().map_or_else(std::env::temp_dir, Path::to_owned)
    }
}
