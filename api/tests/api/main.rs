//! Tests of the API through a real server on a free port, over an engine in memory.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod callers;
mod changes;
mod common;
mod conditions;
mod connect;
mod figures;
mod followers;
mod health;
mod hostile;
mod hostile_node;
mod inboxes;
mod long_requests;
mod metadata;
mod oldest;
mod operator;
mod pauses;
mod peer_metrics;
mod proofs;
mod protocols;
mod publish;
mod query;
mod reads;
mod redis;
#[path = "../../../chain/tests/redis_server/process.rs"]
mod redis_server;
mod reference;
mod reports;
mod shutdown;
mod snapshot_pages;
mod status_page;
mod streams;
mod subscribe;
mod subscribe_sequences;
mod tree_pages;
mod waiting;
