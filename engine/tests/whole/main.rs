//! A whole engine over an in-memory store: publishing, and following other nodes.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test binary: it runs an engine, fails by panicking, and has no users"
)]

mod admission;
mod ahead;
mod backlog;
mod booking;
mod broken_voids;
mod chain;
mod checkpoints;
mod clocks;
mod common;
mod contradictions;
mod damaged_reports;
mod damaged_rows;
mod departed;
mod dependencies;
mod disk;
mod evidence;
mod follow;
mod identities;
mod late_envelopes;
mod ledger;
mod liveness;
mod many_conflicts;
mod missing;
mod other_reports;
mod overcharges;
mod own_repairs;
mod payer_money;
mod payer_report_attacks;
mod payer_report_doubts;
mod payer_reports;
mod prices;
mod prune;
mod publish;
mod read_ahead;
mod report_contract;
mod report_network;
mod report_schedules;
mod scrub;
mod shown;
mod upgraded;
mod voids;
