//! The rules of the protocol as pure functions: envelopes, topics, retention, fees, congestion.
//!
//! The engine applies them before it signs, and to everything that peers have signed. The gateway applies the same
//! functions to its clients' envelopes and to nodes' responses. This crate uses no clock, randomness, files, threads or
//! channels (`clippy.toml` bans them), so two programs that judge the same bytes agree. In reading order:
//!
//! - [`violation`]: every rule that an envelope can break, and the numbers of the rules;
//! - [`envelope`]: the checks of client envelopes and of signed statements; [`elsewhere`]: those that other software
//!   accepts all the same;
//! - [`retention`]: allowed durations and the expiry that follows from them;
//! - [`fees`]: the rates, base fees, and the check whether rates explain charged fees;
//! - [`congestion`]: congestion units from envelopes per minute;
//! - [`registry`]: the node registry as a value; [`absences`]: the periods in which a node was not in the network;
//! - [`misbehavior`]: judges reports that a node broke a rule;
//! - [`payer_report`]: payer reports, which state what an originator's payers owe, and nodes' attestations of them.
//!
//! The rules are specified in `docs/protocol/rules.md` and `docs/protocol/fees.md`.

#![warn(missing_docs)]

pub mod absences;
pub mod congestion;
pub mod contradiction;
pub mod elsewhere;
pub mod envelope;
pub mod fees;
pub mod misbehavior;
pub mod payer_report;
pub mod registry;
pub mod retention;
pub mod violation;

pub use absences::{Absence, Absences, AbsencesError, JudgedAbsences};
pub use contradiction::{Contradiction, NoContradictionError};
pub use elsewhere::is_taken_elsewhere;
pub use envelope::{
    ENVELOPE_LEN_BYTES_MAX, OddTerms, PayloadClass, check_charges, check_charges_by_former,
    check_dependencies_known, check_dependencies_on_chains, check_length, check_no_charges,
    check_payload, check_statement, check_topic, expires_late, is_read_elsewhere, key_package_form,
    key_package_signatures, odd_terms, payer_claim, payer_claims, payload_class,
};
pub use fees::{
    PicoDollarPrice, PicoDollarsPerByteDay, PriceError, Rate, RateTable, is_free, is_owed,
};
pub use registry::{NodeRecord, Registry};
pub use retention::check_retention;
pub use violation::{RULES_VERSION, RuleNumber, Violation};
