//! Tests of the contracts on both kinds of development chain: reading, writing, administration and broadcasting.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod administration;
mod agreement;
mod bootstraps;
mod broadcaster;
mod broadcasting;
mod fee_claims;
mod indexing;
mod late_heads;
mod lied_bounds;
mod lied_branches;
mod lied_counts;
mod lied_heights;
mod lied_parents;
mod lied_positions;
mod lied_prices;
mod lied_receipts;
mod lied_times;
mod membership;
#[path = "../../devchain/tests/pair/mod.rs"]
mod pair;
mod payloads;
mod proxy;
mod redis_server;
mod restarts;
mod sending;
mod sharing;
mod stale_pushes;
mod walking;
mod watcher;
