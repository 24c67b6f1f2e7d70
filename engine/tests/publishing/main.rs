//! Publishing through a whole engine over an in-memory store.

#![expect(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test binary: it fails by panicking, and has no users"
)]

mod admission;
mod common;
mod publish;
