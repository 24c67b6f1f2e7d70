//! Arguments of `hawser snapshot`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::NodeArgs;
use super::backup::DataDirArgs;

/// `hawser snapshot`.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Copy the strands of all nodes, with signed checkpoints, for new nodes. A node that runs on the folder goes on
    /// meanwhile, and makes the copy itself.
    Create(SnapshotCreateArgs),
    /// List the snapshots of a folder or bucket, oldest first.
    List(SnapshotListArgs),
    /// Read every chunk of a snapshot, and check it by the keys of a registry.
    Verify(SnapshotVerifyArgs),
    /// Fill the empty data folder of a new node from a snapshot that any node has made. Repeat the command after an
    /// interruption: it goes on where it was.
    Fetch(Box<SnapshotFetchArgs>),
}

/// `hawser snapshot create`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotCreateArgs {
    /// Folder of the snapshots, or s3://BUCKET/PREFIX. Chunks that an earlier one has are not copied again.
    #[arg(long, value_name = "DIR|s3://…")]
    pub(crate) to: PathBuf,
    /// MiB that a running node reads in a second at most; 0 for no bound. A guess: a publish then hardly
    /// notices on any disk.
    #[arg(long, value_name = "MIB", default_value_t = 32)]
    pub(crate) rate: u32,
    /// The data folder.
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

/// `hawser snapshot list`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotListArgs {
    /// Folder of the snapshots, or s3://BUCKET/PREFIX.
    #[arg(long, value_name = "DIR|s3://…")]
    pub(crate) from: PathBuf,
}

/// `hawser snapshot verify`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotVerifyArgs {
    /// Folder of the snapshots, or s3://BUCKET/PREFIX.
    #[arg(long, value_name = "DIR|s3://…")]
    pub(crate) from: PathBuf,
    /// Name of the snapshot [default: all].
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot: Option<String>,
    /// Keys of the nodes: a registry file. Without it no signature is checked.
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
}

/// `hawser snapshot fetch`, with the same flags, variables and file as `hawser node`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotFetchArgs {
    /// Folder of the snapshots, or s3://BUCKET/PREFIX.
    #[arg(long, value_name = "DIR|s3://…")]
    pub(crate) from: PathBuf,
    /// Name of the snapshot [default: the newest one of the network].
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot: Option<String>,
    /// Settings of the new node. Its registry, from the chain or from a file, has the keys that everything is
    /// checked by.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}
