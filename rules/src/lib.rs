//! The rules of the protocol, as functions of values: envelopes, topics, retention, fees, congestion.
//!
//! The engine applies them before it signs and to all envelopes that peers have signed. The gateway
//! applies the same functions to envelopes of its clients and to answers of nodes. This crate knows
//! no clock, no randomness, no file, no thread and no channel (`clippy.toml` bans them), so two
//! programs that judge the same bytes agree. In reading order:
//!
//! - [`violation`]: every rule that an envelope can break, and the numbers of the rules;
//! - [`envelope`]: the checks of client envelopes and of signed statements;
//! - [`retention`]: allowed durations and the expiry that follows from them;
//! - [`fees`]: the price list, base fees, and which fees a price list explains;
//! - [`congestion`]: congestion units from envelopes per minute;
//! - [`registry`]: the node registry as a value; [`absences`]: when a node was not in the network;
//! - [`misbehavior`]: judging reports that a node broke a rule;
//! - [`payer_report`]: the bills of payers, and their attestation by nodes.
//!
//! The rules are specified in `docs/protocol/rules.md` and `docs/protocol/fees.md`.

#![warn(missing_docs)]

pub mod absences;
pub mod congestion;
pub mod contradiction;
pub mod envelope;
pub mod fees;
pub mod misbehavior;
pub mod payer_report;
pub mod registry;
pub mod retention;
pub mod violation;

pub use absences::{Absence, Absences, AbsencesError};
pub use contradiction::{Contradiction, NoContradictionError};
pub use envelope::{
    ENVELOPE_LEN_BYTES_MAX, PayloadClass, check_charges, check_dependencies_known,
    check_dependencies_on_chains, check_length, check_payload, check_statement, check_topic,
    key_package_form, payer_claim, payload_class,
};
pub use fees::{PriceError, Rate, RateTable, is_free, is_owed};
pub use registry::{NodeRecord, Registry};
pub use retention::check_retention;
pub use violation::{RuleNumber, Violation};
