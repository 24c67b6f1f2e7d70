//! Tests of a complete gateway between clients and fake nodes that can lie, hang and stop.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod chain;
mod edges;
mod fake_node;
mod faults;
mod fixture;
mod floods;
mod identity_checks;
mod late_redis;
mod lateness;
mod moved_payloads;
mod policies;
#[path = "../../../tests/src/harness/ports.rs"]
#[allow(dead_code, unreachable_pub, reason = "other programs of tests use the rest")]
mod ports;
mod publish;
#[path = "../../../chain/tests/redis_server/mod.rs"]
mod redis_server;
mod refusals;
mod repeats;
mod reports;
mod shared_bills;
mod sharing;
mod status_pages;
mod strangers;
mod tenants;
mod webhook;
