//! Copies of a log for new nodes of other identities: `hawser snapshot`.
//!
//! - `chunk`: a range of a strand, as bytes; - `manifest`: which chunks belong to a copy;
//! - `error`: what can be wrong with one; - `stored`: the copies of one place;
//! - `create`: one more copy of an open database; - `shared`: the files of a folder that a node gives out.
//!
//! A copy holds envelopes as their originators signed them, and checkpoints with cosignatures. It holds no row that a
//! node derives, nothing of the identity of its maker, and no signature of his: a reader checks each envelope and each
//! checkpoint by the keys of the registry, so it makes no difference who made the copy.
//! See `docs/decisions/0025-snapshots-for-new-nodes.md`.

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
pub use stored::{Bootstraps, ListedBootstrap};
