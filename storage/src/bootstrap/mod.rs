//! Snapshots of a log for new nodes of other identities: `hawser snapshot`.
//!
//! - `chunk`: a range of a strand, as bytes; - `manifest`: the strands, checkpoints and chunks of a snapshot;
//! - `error`: the errors of snapshots; - `stored`: the snapshots of one place;
//! - `create`: creates a snapshot of an open database; - `shared`: the files of a folder that a node serves.
//!
//! A snapshot has envelopes with their originators' signatures, and checkpoints with cosignatures. It has no derived
//! rows, and neither the identity nor a signature of its maker. A reader verifies each envelope and each checkpoint
//! with the keys of the registry, so it does not have to trust the maker. See
//! `docs/decisions/0025-snapshots-for-new-nodes.md`. Names of code call it a bootstrap, because
//! [`Snapshot`](crate::Snapshot) is a view of the database.

mod chunk;
mod create;
mod error;
mod manifest;
mod shared;
mod stored;

pub use chunk::{CHUNK_LEN_BYTES_MAX, ChunkError, decode_chunk, encode_chunk};
pub use create::BootstrapReport;
pub use error::BootstrapError;
pub use manifest::{BootstrapChunk, BootstrapManifest, BootstrapManifestError, BootstrapStrand};
pub use shared::SharedSnapshots;
pub use stored::Bootstraps;
