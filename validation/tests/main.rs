//! Tests of the validation service, the cached states, and questions to contract wallets, as one program.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../mls/tests/common/mod.rs"]
mod common;
#[path = "../../devchain/tests/pair/mod.rs"]
mod pair;
mod service;
mod states;
mod wallets;
