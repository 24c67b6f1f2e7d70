//! A black-box conformance suite: it judges any node of the network by its answers alone.
//!
//! Links neither engine nor storage, so that a defect of Hawser cannot also be one of the suite. In reading order:
//!
//! - [`case_error`]: the reason a case does not pass; [`case`]: a case, its area, its rule and what it needs;
//! - [`wire`]: answers that keep their envelopes as received bytes; [`http`]: HTTP/1.1 byte by byte; `connector`:
//!   connections for gRPC; `channel`: gRPC codes of HTTP statuses; [`connection`]: calls to one node, whose answers are
//!   decoded only if their number of fields is bounded; [`listener`] and [`duplex`]: its streams; [`envelopes`]:
//!   builders of envelopes;
//! - [`context`]: the nodes under test and the helpers of cases; [`cases`]: every case, one file for each subject;
//! - [`run()`]: runs a selection; [`report`]: results as text, JSON and JUnit XML.
//!
//! **A node under test is not trusted**: it may lie, be silent, end connections and send any bytes. Every wait has a
//! limit, every answer is bounded before it is decoded, a case that panics or hangs fails alone, and control characters
//! are removed from the node's texts before a terminal shows them.

#![warn(missing_docs)]

pub mod case;
pub mod case_error;
pub mod cases;
mod channel;
pub mod connection;
mod connector;
pub mod context;
pub mod duplex;
pub mod envelopes;
pub mod http;
pub mod listener;
pub mod report;
pub mod run;
pub mod wire;

pub use case::{Area, Case, Need};
pub use context::{RestartCommands, STREAM_TOPICS_MAX};
pub use report::{CaseResult, Outcome, SuiteReport};
pub use run::{SuitePlan, SuiteStartError, run};
