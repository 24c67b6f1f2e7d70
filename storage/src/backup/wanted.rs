//! The owner that a backup must have.

use hawser_proto::{Address, OriginatorId};

use super::error::BackupError;
use super::manifest::ReadManifest;
use crate::settings::StoreIdentity;

/// The owner that a backup must have. A field that is `None` accepts any value.
#[derive(Debug, Clone, Default)]
pub struct WantedBackup {
    /// Name of the network.
    pub network: Option<String>,
    /// Id of the node.
    pub node: Option<OriginatorId>,
    /// Address of the node's key. Without it a signature only shows that the writer of the manifest has some key.
    pub key: Option<Address>,
    /// Accepts a manifest without a signature. Such a database may have any bytes, and RocksDB reads them.
    pub unsigned: bool,
}

impl WantedBackup {
    /// Checks that a manifest has the wanted owner.
    ///
    /// # Errors
    /// [`BackupError::OtherNetwork`], [`BackupError::OtherNode`], [`BackupError::OtherKey`] or
    /// [`BackupError::Unsigned`].
    pub fn require(&self, read: &ReadManifest) -> Result<(), BackupError> {
        let StoreIdentity { network, node, public_key } = &read.manifest.identity;
        if let Some(wanted) = self.network.as_ref().filter(|it| *it != network) {
            let (found, wanted) = (network.clone(), wanted.clone());
            return Err(BackupError::OtherNetwork { found, wanted });
        }
        if let Some(wanted) = self.node.filter(|it| it != node) {
            return Err(BackupError::OtherNode { found: *node, wanted });
        }
        let found = public_key.address();
        if let Some(wanted) = self.key.filter(|it| *it != found) {
            return Err(BackupError::OtherKey { found, wanted });
        }
        if read.is_signed || self.unsigned { Ok(()) } else { Err(BackupError::Unsigned) }
    }
}
