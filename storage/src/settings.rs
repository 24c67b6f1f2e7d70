//! What a store is opened with.

use std::path::PathBuf;

use hawser_proto::{OriginatorId, PublicKey};

/// Which database this is. A database belongs to one node of one network, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreIdentity {
    /// The network's name.
    pub network: String,
    /// The node whose own strand is written here.
    pub node: OriginatorId,
    /// The key that signs that strand.
    pub public_key: PublicKey,
}

/// When a commit counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// On the disk: survives power loss.
    #[default]
    Fsync,
    /// With the operating system: survives a crash of the process, not of the machine.
    Os,
}

/// Where and how to open a store.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The folder; made (mode 0700) if it does not exist.
    pub path: PathBuf,
    /// Whose database it must be; a new one becomes theirs.
    pub identity: StoreIdentity,
    /// When a commit counts as durable.
    pub durability: Durability,
}
