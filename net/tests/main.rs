//! Nodes and peers that talk over real sockets, as one program: each program of its own would link RocksDB and QUIC
//! again.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod checkpoints;
mod common;
mod departed;
mod disputes;
mod long_frames;
mod migrated;
mod prefixes;
mod prune;
mod refuse;
mod replicate;
mod sessions;
mod voids;
mod wants;
