//! Tests of development chains: the embedded chain, deployments, the relay between two chains, and third-party tools.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod deployment;
mod devnet;
mod embedded_chain;
mod pair;
mod relaying;
mod tools;
