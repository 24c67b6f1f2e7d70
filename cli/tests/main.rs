//! The `hawser` program: its commands, and the networks and chains that it starts, as one program.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod administration;
mod audit;
mod audit_bucket;
mod audit_chain;
mod audit_compare;
mod audit_export;
mod audit_input;
mod audit_proof;
mod audit_report;
mod audit_snapshot;
mod audit_void;
mod backup_place;
mod backup_signatures;
mod bench;
mod chain;
mod commands;
mod contracts;
mod debian_package;
mod deployment;
mod dev;
mod dev_changes;
mod doctor;
mod empty_chains;
mod hostile_server;
mod image;
mod joined;
mod key_rotation;
mod manual;
#[path = "money/network.rs"]
#[expect(dead_code, unreachable_pub, reason = "the program `money` uses the rest")]
mod money_network;
mod multisig;
mod network;
mod network_watcher;
mod network_watcher_silence;
mod network_watcher_voids;
mod private_nodes;
#[path = "money/publishing.rs"]
#[expect(dead_code, unreachable_pub, reason = "the program `money` uses the rest")]
mod publishing;
mod query;
#[path = "../../chain/tests/redis_server/process.rs"]
mod redis_server;
mod runbooks;
#[path = "../../node/tests/bucket/real.rs"]
mod s3_server;
mod scrub;
mod secrets;
mod single_node;
mod splitter;
mod support;
mod two_gateways;
