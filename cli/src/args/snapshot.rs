//! Arguments of `hawser snapshot`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::NodeArgs;
use super::backup::{DataDirArgs, network_name};

/// `hawser snapshot`.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Copy the strands of all nodes and chains, with signed checkpoints, for new nodes. A node that runs on the folder
    /// keeps running, and makes the copy itself.
    Create(SnapshotCreateArgs),
    /// List the snapshots of a folder or bucket, oldest first.
    List(SnapshotListArgs),
    /// Read every chunk of a snapshot, and check it by the keys of a registry.
    Verify(SnapshotVerifyArgs),
    /// Fill the empty data folder of a new node from a snapshot that any node has made. Repeat the command after an
    /// interruption: it continues where it stopped.
    Fetch(Box<SnapshotFetchArgs>),
}

/// `hawser snapshot create`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotCreateArgs {
    /// Folder of the snapshots, or s3://BUCKET/PREFIX. Chunks that an earlier one has are not copied again.
    #[arg(long, value_name = "DIR|s3://…")]
    pub(crate) to: PathBuf,
    /// The most MiB that a running node reads in a second; 0 for no bound. A guess: publishes are then hardly slower on
    /// any disk.
    #[arg(long, value_name = "MIB", default_value_t = 32)]
    pub(crate) rate: u32,
    /// The data folder.
    #[command(flatten)]
    pub(crate) data: DataDirArgs,
}

/// The place of snapshots that are read.
#[derive(Debug, Args)]
pub(crate) struct SnapshotFromArgs {
    /// Folder of the snapshots, s3://BUCKET/PREFIX, or the URL at which a web server serves such a folder.
    #[arg(long, value_name = "DIR|s3://…|https://…")]
    pub(crate) from: PathBuf,
    /// Also read from a URL of another machine that begins with http://. Routers on the way can see the content.
    #[arg(long)]
    pub(crate) allow_http: bool,
}

/// `hawser snapshot list`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotListArgs {
    /// The place.
    #[command(flatten)]
    pub(crate) place: SnapshotFromArgs,
}

/// `hawser snapshot verify`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotVerifyArgs {
    /// The place.
    #[command(flatten)]
    pub(crate) place: SnapshotFromArgs,
    /// Name of the snapshot [default: all].
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot: Option<String>,
    /// Network that the snapshots must be of, as in the settings of a node [default: any].
    #[arg(long, value_name = "NAME", value_parser = network_name)]
    pub(crate) network: Option<String>,
    /// Keys of the nodes: a registry file, a `network.json`, or an evidence file. Without it no signature is checked,
    /// and the exit code is 6 if the rest is right.
    #[arg(long, visible_alias = "registry", value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
}

/// `hawser snapshot fetch`, with the same flags, variables and file as `hawser node`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotFetchArgs {
    /// The place.
    #[command(flatten)]
    pub(crate) place: SnapshotFromArgs,
    /// Name of the snapshot [default: the newest one of the network].
    #[arg(long, value_name = "NAME")]
    pub(crate) snapshot: Option<String>,
    /// Take the strands of the chains too, as far as more than half of the network's other nodes have signed the same
    /// tree of them. Two of the node's own endpoints of the app chain, or one that it trusts
    /// (--bootstrap-trust-one-endpoint), are asked for the last event and for some others; all other events are taken
    /// on the word of these nodes. Without this flag the node reads the chains itself, from the beginning.
    #[arg(long)]
    pub(crate) trust_nodes_for_chains: bool,
    /// Take nothing more, and let nodes start on the part that interrupted runs of the command have taken. Trees are
    /// compared as far as this part goes, and the node takes the rest from its peers.
    #[arg(long)]
    pub(crate) release: bool,
    /// Settings of the new node. Its registry, from the chain or from a file, has the keys that everything is
    /// checked by.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}
