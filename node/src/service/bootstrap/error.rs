//! Errors of taking over a snapshot.

use hawser_chain::send::RequestError;
use hawser_engine::runtime::ChainAppendError;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{BootstrapError, CommitError, DatabaseError, ReadError, TreeError};

use crate::error::RunError;
use crate::service::import::ImportError;
use crate::service::open::OpenNodeError;
use crate::service::strand_faults::StrandFaultsError;

/// Error of taking over a snapshot. No node starts from the folder after it.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapFetchError {
    /// A replica follows the strands that its sources list, which are not in a registry.
    #[error(
        "a replica takes everything from its sources (--follow): a snapshot is for a node of the registry"
    )]
    Replica,
    /// The snapshot is of another network.
    #[error("the snapshot is of network {found:?}, not {wanted:?}. Nothing was written")]
    OtherNetwork {
        /// The network of the snapshot.
        found: String,
        /// The network of the settings.
        wanted: String,
    },
    /// A checkpoint bears the name of a node that has not signed it.
    #[error(
        "strand {originator}: node {node} has not signed the checkpoint that bears its name, so the snapshot was \
         altered: take another one. Nothing was written"
    )]
    ForgedCheckpoint {
        /// The strand.
        originator: OriginatorId,
        /// The node.
        node: OriginatorId,
    },
    /// A statement about void places bears the name of a node that has not signed it.
    #[error(
        "strand {originator}: its node has not signed that places {from} to {through} are void, so the snapshot was \
         altered: take another one. Nothing was written"
    )]
    ForgedVoid {
        /// The strand.
        originator: OriginatorId,
        /// The first place.
        from: SequenceId,
        /// The last place.
        through: SequenceId,
    },
    /// The snapshot ends before the size that a node has signed.
    #[error(
        "strand {originator}: {signed} places were signed, and the snapshot ends at {head}: it was cut off. Take \
         another one. Nothing was written"
    )]
    Cut {
        /// The strand.
        originator: OriginatorId,
        /// The size that was signed.
        signed: u64,
        /// The last sequence id in the snapshot.
        head: SequenceId,
    },
    /// An envelope is not signed by the originator of its strand.
    #[error(
        "strand {originator}, place {place}: the node has not signed this envelope, or it belongs to another place: \
         the snapshot was altered. Take another one; a fetch begins again in an empty folder"
    )]
    Forged {
        /// The strand.
        originator: OriginatorId,
        /// The sequence id in the snapshot.
        place: SequenceId,
    },
    /// The envelopes have another tree than a node has signed.
    #[error(
        "strand {originator}: the first {size} places make another tree than node {node} has signed: envelopes of the \
         snapshot were exchanged, or the node has signed two things. Take another one; a fetch begins again in an \
         empty folder"
    )]
    OtherTree {
        /// The strand.
        originator: OriginatorId,
        /// The node that signed the checkpoint.
        node: OriginatorId,
        /// The size that was signed.
        size: u64,
    },
    /// Too few nodes have signed the tree of a chain's strand.
    #[error(
        "strand {originator} of a chain: {most} nodes of the network have signed the same tree of it, and {wanted} are \
         wanted. Take a later snapshot, or let the node read the chain (without --trust-nodes-for-chains). Nothing was \
         written"
    )]
    ChainUnsigned {
        /// The strand.
        originator: OriginatorId,
        /// The largest number of nodes that have signed the same tree.
        most: usize,
        /// The required number: more than half of the nodes.
        wanted: usize,
    },
    /// No endpoint of the app chain is configured.
    #[error(
        "strands of chains are compared with the chain (--trust-nodes-for-chains): give \
         --contracts.app-chain.rpc-url, and no chain file. Nothing was written"
    )]
    NoAppChain,
    /// An earlier run has taken more of a chain's strand than enough nodes have signed now.
    #[error(
        "strand {originator} of a chain: an earlier run has taken {head} places, and enough nodes vouch for {signed} \
         now: the registry has changed. Remove the data folder and begin again"
    )]
    ChainAhead {
        /// The strand.
        originator: OriginatorId,
        /// The last sequence id of the strand in the folder.
        head: SequenceId,
        /// The size that enough nodes have signed.
        signed: u64,
    },
    /// A chain's strand is incomplete, and nodes must not start on a part of it.
    #[error(
        "strand {originator} of a chain ends at {head}, before what most nodes have signed, and a part of it is compared \
         with nothing. Repeat the command without --release until the strand is whole"
    )]
    ChainPart {
        /// The strand.
        originator: OriginatorId,
        /// The last sequence id of the strand in the folder.
        head: SequenceId,
    },
    /// A strand of a node has places that are not verified, and does not end with the tree that nodes vouch for.
    #[error(
        "strand {originator}: the signatures behind place {verified} were not checked (--catch-up checkpoints), and its \
         end {head} is not that of the tree which most nodes vouch for. Repeat the command with that setting and without \
         --release until the strand is whole. If that does not help, remove the data folder and begin again"
    )]
    ShownPart {
        /// The strand.
        originator: OriginatorId,
        /// The last verified sequence id.
        verified: SequenceId,
        /// The last sequence id of the strand in the folder.
        head: SequenceId,
    },
    /// No earlier call has taken anything over.
    #[error("nothing was taken yet that nodes could start on: begin without --release")]
    NothingTaken,
    /// Bytes in a chain's strand are not an envelope that nodes make from an event.
    #[error(
        "strand {originator} of a chain, place {place}: no node makes such an envelope of an event: the snapshot was \
         altered. Take another one; a fetch begins again in an empty folder"
    )]
    NoEvent {
        /// The strand.
        originator: OriginatorId,
        /// The sequence id in the snapshot.
        place: SequenceId,
    },
    /// The chain does not have the event of an envelope.
    #[error(
        "strand {originator} of a chain, place {place}: the chain does not have this event in the transaction that the \
         envelope names, as the node's endpoints show it: the chain was reorganised, they keep no old transactions, or \
         nodes of the network have signed what the chain does not have. The node has to read the chain itself: a fetch \
         begins again in an empty folder, without --trust-nodes-for-chains"
    )]
    NotOnChain {
        /// The strand.
        originator: OriginatorId,
        /// The place.
        place: SequenceId,
    },
    /// The endpoints of the app chain contradict each other about an event.
    #[error(
        "strand {originator} of a chain, place {place}: the endpoints of the app chain contradict each other: {endpoint} \
         {how}. One of them lies, is behind, or keeps no old transactions, or the chain was reorganised just now. Run the \
         command again, and if that does not help, without the endpoint that is wrong"
    )]
    ChainDisputed {
        /// The strand.
        originator: OriginatorId,
        /// The place.
        place: SequenceId,
        /// An endpoint that contradicts: scheme, host and port.
        endpoint: String,
        /// Its statement, and what that contradicts.
        how: &'static str,
    },
    /// Only one endpoint is configured, which would be believed without confirmation.
    #[error(
        "strands of chains are compared with what two endpoints of the app chain say, because one of them could make up \
         a chain: name two in --contracts.app-chain.rpc-url, of other hosts or ports, or trust one \
         (--bootstrap-trust-one-endpoint). Nothing was written"
    )]
    OneEndpoint,
    /// Too few endpoints answer a request about an event.
    #[error(
        "strand {originator} of a chain, place {place}: {answered} of the {wanted} endpoints answer that have to say the \
         same. Run the command again, or trust one (--bootstrap-trust-one-endpoint)"
    )]
    FewEndpoints {
        /// The strand.
        originator: OriginatorId,
        /// The place.
        place: SequenceId,
        /// The number of endpoints that answered.
        answered: usize,
        /// The number of endpoints that have to answer.
        wanted: usize,
    },
    /// The endpoints of the app chain do not answer.
    #[error("the app chain: {0}. Run the command again")]
    Chain(#[from] RequestError),
    /// The strand of a chain cannot be written.
    #[error("a strand of a chain: {0}")]
    ChainAppend(#[from] ChainAppendError),
    /// The snapshot cannot be read, or is damaged.
    #[error("the snapshot: {0}")]
    Snapshot(#[from] BootstrapError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Folder(Box<ImportError>),
    /// Settings, registry or chains cannot be used.
    #[error(transparent)]
    Open(Box<OpenNodeError>),
    /// The log cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A tree cannot be read.
    #[error("a tree: {0}")]
    Tree(#[from] TreeError),
    /// The log cannot be synced to the disk.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<ImportError> for BootstrapFetchError {
    fn from(error: ImportError) -> Self {
        Self::Folder(Box::new(error))
    }
}

impl From<StrandFaultsError> for BootstrapFetchError {
    fn from(error: StrandFaultsError) -> Self {
        match error {
            StrandFaultsError::Read(error) => Self::Read(error),
            StrandFaultsError::Commit(error) => Self::Commit(error),
        }
    }
}

impl From<OpenNodeError> for BootstrapFetchError {
    fn from(error: OpenNodeError) -> Self {
        Self::Open(Box::new(error))
    }
}

impl From<BootstrapFetchError> for RunError {
    fn from(error: BootstrapFetchError) -> Self {
        match error {
            BootstrapFetchError::Open(error) => (*error).into(),
            BootstrapFetchError::Folder(error) => (*error).into(),
            BootstrapFetchError::Snapshot(error) => run_error(&error),
            BootstrapFetchError::Replica
            | BootstrapFetchError::NoAppChain
            | BootstrapFetchError::OneEndpoint => Self::usage(error),
            BootstrapFetchError::OtherNetwork { .. }
            | BootstrapFetchError::ForgedCheckpoint { .. }
            | BootstrapFetchError::ForgedVoid { .. }
            | BootstrapFetchError::Cut { .. }
            | BootstrapFetchError::Forged { .. }
            | BootstrapFetchError::OtherTree { .. }
            | BootstrapFetchError::ChainUnsigned { .. }
            | BootstrapFetchError::ChainAhead { .. }
            | BootstrapFetchError::ChainPart { .. }
            | BootstrapFetchError::ShownPart { .. }
            | BootstrapFetchError::NothingTaken
            | BootstrapFetchError::NoEvent { .. }
            | BootstrapFetchError::NotOnChain { .. }
            | BootstrapFetchError::ChainDisputed { .. } => Self::refused(error),
            BootstrapFetchError::Chain(_)
            | BootstrapFetchError::FewEndpoints { .. }
            | BootstrapFetchError::ChainAppend(_)
            | BootstrapFetchError::Commit(_)
            | BootstrapFetchError::Read(_)
            | BootstrapFetchError::Tree(_)
            | BootstrapFetchError::Database(_) => Self::failed(error),
        }
    }
}

/// Converts an error of work on snapshots.
#[must_use]
pub fn run_error(error: &BootstrapError) -> RunError {
    match error {
        BootstrapError::None { .. }
        | BootstrapError::OtherNetworks { .. }
        | BootstrapError::NotFound { .. } => RunError::not_found(error),
        BootstrapError::NoRoom { .. } | BootstrapError::Stopped => RunError::refused(error),
        _ => RunError::failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node that is filled while it runs logs these, and its folder has its own strand: the keeper of a snapshot must
    /// not have its operator remove that.
    #[test]
    fn no_error_that_a_running_node_logs_has_its_folder_removed() {
        let (originator, node) = (OriginatorId(200), OriginatorId(300));
        let place = SequenceId(7);
        let (size, endpoint) = (9, "http://127.0.0.1:1".to_owned());
        for error in [
            BootstrapFetchError::ForgedCheckpoint { originator, node },
            BootstrapFetchError::ForgedVoid { originator, from: place, through: place },
            BootstrapFetchError::Cut { originator, signed: size, head: place },
            BootstrapFetchError::Forged { originator, place },
            BootstrapFetchError::OtherTree { originator, node, size },
            BootstrapFetchError::ChainUnsigned { originator, most: 1, wanted: 2 },
            BootstrapFetchError::NoAppChain,
            BootstrapFetchError::NoEvent { originator, place },
            BootstrapFetchError::NotOnChain { originator, place },
            BootstrapFetchError::ChainDisputed { originator, place, endpoint, how: "lies" },
            BootstrapFetchError::OneEndpoint,
            BootstrapFetchError::FewEndpoints { originator, place, answered: 1, wanted: 2 },
        ] {
            let text = error.to_string();
            assert!(!text.to_lowercase().contains("remove"), "{text}");
        }
    }
}
