//! Development chains: the embedded one, deployments, the relay between two, and the tools of others, as one program.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod deployment;
mod devnet;
mod embedded_chain;
mod pair;
mod relaying;
mod tools;
