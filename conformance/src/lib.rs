//! A black-box suite that judges any node of the network's protocol by what it answers.
//!
//! Links neither engine nor storage, so that a mistake of Hawser's cannot also be the judge's. In reading order:
//!
//! - [`failure`]: the reason a case does not pass; [`case`]: a case, its area, its rule and what it needs;
//! - [`wire`]: answers with envelopes as the bytes that came; `bounded`: answers whose fields are
//!   counted before they are decoded; [`http`]: HTTP/1.1 byte by byte; [`connection`]: calls
//!   of one node; [`listener`] and [`talk`]: its streams; [`envelopes`]: what clients and payers make;
//! - [`context`]: the nodes under judgement and the helpers of cases; [`cases`]: every case, one file for each subject;
//! - [`run()`]: runs a selection; [`report`]: results as text, JSON and JUnit XML.
//!
//! **A node under judgement is not trusted**: it may lie, be silent, end connections and send anything. Every wait
//! has a limit, every answer is bounded before it is read, a case that panics or hangs ends alone, and text of the
//! node loses its control characters before it is shown.

#![warn(missing_docs)]

mod bounded;
pub mod case;
pub mod cases;
pub mod connection;
pub mod context;
pub mod envelopes;
pub mod failure;
pub mod http;
pub mod listener;
pub mod report;
pub mod run;
pub mod talk;
pub mod wire;

pub use case::{Area, Case, Need};
pub use context::STREAM_TOPICS_MAX;
pub use report::{CaseResult, Outcome, Report};
pub use run::{Plan, StartError, run};
