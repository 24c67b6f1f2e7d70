//! The facts about a database that a manifest records.

use std::path::Path;
use std::sync::Arc;

use hawser_proto::{Cursor, EnvelopeId};

use super::error::BackupError;
use super::manifest::{BackupManifest, BackupStrand};
use crate::database::Database;
use crate::open::load;
use crate::opening::{Access, Location, Opening};
use crate::options::{CACHE_BYTES_MIN, OPEN_FILES_MAX};
use crate::price::PriceFn;
use crate::settings::{Durability, StoreIdentity};
use crate::snapshot::Snapshot;

/// The owner of a database and the ends of its strands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) identity: StoreIdentity,
    pub(super) incarnation: [u8; 16],
    pub(super) strands: Vec<BackupStrand>,
}

impl Contents {
    /// Reads the facts from a folder that no process has open.
    pub(super) fn of_folder(folder: &Path, price: PriceFn) -> Result<Self, BackupError> {
        let location = Location::Folder(folder.to_owned(), OPEN_FILES_MAX);
        let how = Opening::new(location, Durability::Fsync, price, None, CACHE_BYTES_MIN);
        let (database, _) = load(&how, None, Access::ReadOnly)?;
        Self::of(&database)
    }

    pub(super) fn of(database: &Arc<Database>) -> Result<Self, BackupError> {
        let snapshot = Snapshot::new(database);
        let heads: Cursor = snapshot.heads()?;
        let mut strands = Vec::new();
        for EnvelopeId { originator, sequence: head } in heads.iter() {
            let tree = match snapshot.tree_size(originator)? {
                0 => None,
                size => Some((size, snapshot.root(originator, size)?)),
            };
            strands.push(BackupStrand { originator, head, tree });
        }
        let (identity, incarnation) = (database.identity.clone(), database.incarnation);
        Ok(Self { identity, incarnation, strands })
    }

    /// Compares the facts with those of a manifest.
    ///
    /// # Errors
    /// [`BackupError::Differs`].
    pub(super) fn require(&self, manifest: &BackupManifest) -> Result<(), BackupError> {
        let differs = |what: String| Err(BackupError::Differs { what });
        if self.identity != manifest.identity {
            return differs("its network, node or key".to_owned());
        }
        if self.incarnation != manifest.incarnation {
            return differs("its incarnation".to_owned());
        }
        let stated = &manifest.strands;
        match stated.iter().find(|it| !self.strands.contains(it)) {
            Some(strand) => differs(format!("the end of strand {}", strand.originator)),
            None if stated.len() != self.strands.len() => differs("its list of strands".to_owned()),
            None => Ok(()),
        }
    }
}
