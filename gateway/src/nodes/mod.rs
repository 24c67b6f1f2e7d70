//! The nodes of the canonical network: how each is reached and called, and which of them can be
//! used now. In reading order:
//!
//! - `node`: one node; `dial`: connections to it; `error`: how a node fails a request;
//! - `batch`: sends the envelopes of several requests in one call; `queue`: those that wait for it; `answer`: verifies the
//!   answer; `reporter`, `report_outcome`, `reports`: tells other nodes of one that has signed a wrong answer;
//! - `set`: all nodes, and the choice among them; `placement`: the node that a topic had last; `lag`:
//!   which nodes are behind;
//! - `observed`, `fresh`, `follow`: the envelopes of the chain strands that nodes have shown;
//! - `query`: asks a node for one envelope;
//! - `watch`: polls one node; `registry`: starts and stops nodes by the registry.

mod answer;
mod batch;
mod dial;
mod error;
mod follow;
mod fresh;
mod lag;
mod node;
mod observed;
mod placement;
mod query;
mod queue;
mod registry;
mod report_outcome;
mod reporter;
mod reports;
mod set;
mod watch;

pub(crate) use batch::{PayerSettings, PlacedEnvelope};
pub(crate) use error::{NodeError, NodeErrorKind};
pub(crate) use follow::ChainStrands;
pub(crate) use node::{Health, Node};
pub(crate) use observed::{Comparison, ExpectedEnvelope, with_own_buffers};
pub(crate) use placement::topic_key;
pub(crate) use query::query_place;
pub(crate) use registry::{NodeSetup, follow_registry};
pub(crate) use report_outcome::ReportOutcome;
pub(crate) use reporter::Reporter;
pub(crate) use reports::reporter;
pub(crate) use set::Nodes;
