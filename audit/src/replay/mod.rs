//! Replay: a whole log is checked again, from its bytes alone.
//!
//! A source gives the rows of each strand in order, and the records that are kept beside them. In reading order:
//!
//! - `item`: rows, and the records beside a strand; `source`: the trait of a log;
//! - `check`: checks of single envelopes, on all cores;
//! - `judge`: the faults of a row; `dependencies`: those of an envelope that is earlier than what it depends on;
//! - `strand`: checks that need the order: times, the tree, checkpoints, tallies;
//! - `tally`, `tree_replay`, `void`: parts of these checks; `stored_load`: the envelopes by minute in a state file;
//! - `pipeline`: reading, checking and taking at once, with bounded queues;
//! - `fault`: the kinds of faults; `stats`: figures for people; `amount_text`: their amounts in JSON;
//! - `rates`, `judged_nodes`: the given and the recorded rates, and the given nodes;
//! - `run`: a whole log, and the state from which a replay continues;
//! - `bill`: one payer's part of it, compared with the reports on the chain; `report_ranges`: its
//!   division among them; `report_sums`: the amounts of one report; `repeats`: payer envelopes charged more than once;
//! - `sample`: the signatures of a part of it;
//! - `second_checkpoints`: checkpoints of a second source; `checkpoint_list`: those of a source that holds them in
//!   memory.
//!
//! No fault ends the replay: it is counted, and the first ones of each kind are named.

mod amount_text;
mod bill;
pub(crate) mod check;
mod checkpoint_list;
pub(crate) mod dependencies;
#[cfg(test)]
pub(crate) mod dependency_tests;
mod fault;
mod item;
pub(crate) mod judge;
mod judged_nodes;
#[cfg(test)]
pub(crate) mod odd_tests;
pub(crate) mod pipeline;
#[cfg(test)]
pub(crate) mod planted;
mod rates;
#[cfg(test)]
mod reorganisation_tests;
mod repeats;
mod report_ranges;
mod report_sums;
pub(crate) mod run;
mod sample;
mod second_checkpoints;
pub(crate) mod source;
mod stats;
mod stored_load;
mod strand;
#[cfg(test)]
mod taken_over_tests;
pub(crate) mod tally;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;
mod tree_replay;
#[cfg(test)]
mod unproven_tests;
#[cfg(test)]
mod unreadable_tests;
pub(crate) mod void;

pub use bill::{BillSettings, BillVerdict, BilledPart, StrandBill, UnverifiedPart, bill};
pub use checkpoint_list::CheckpointList;
pub(crate) use fault::KEPT_OF_KIND;
pub use fault::{Fault, FaultKind, Faults};
pub use item::{
    EnvelopeCharge, GapReason, PrunedRecord, SourceError, StoredMark, StrandRow, StrandRows, Usage,
};
pub use repeats::{ChargedAgain, RepeatedCharges};
pub use report_ranges::BilledReport;
pub use run::{
    Replay, ReplayProgress, ReplayReport, ReplaySettings, ReplayState, ReplayStateError,
    STATE_LEN_BYTES_MAX,
};
pub use sample::{SAMPLE_MAX, SampleSize, SampledSignatures, sample_signatures};
pub use second_checkpoints::{LogWithSecond, SecondCheckpoints};
pub use source::{LogIdentity, LogRows, LogSource, STRANDS_MAX};
pub use stats::{DayFigures, Gap, PayerFigures, StrandFigures};
pub use strand::{ReplayedStrand, StrandReplay};
