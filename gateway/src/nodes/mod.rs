//! The nodes of the canonical network: connections, calls, observations, and the choice among them. In reading
//! order:
//!
//! - `node`: one node; `dial`: connections to it; `error`: the errors of calls;
//! - `call`: calls whose answers have bounds; `batch`: sends the envelopes of several requests in one call; `queue`:
//!   the requests that wait for a call; `suspects`: callers whose requests are sent alone; `answer`: verifies the
//!   answer; `report_count`, `logged_envelope`: the log lines about wrong ones; `reporter`, `report_outcome`,
//!   `reports`: report a node that has signed a wrong answer to other nodes;
//! - `recent_calls`: the share of the calls to a node that failed;
//! - `set`: all nodes, and the choice among them; `ask_order`: the nodes that one request asks in turn;
//!   `placement`: the last node of each topic; `lag`: detects nodes that are behind;
//! - `observed`, `fresh`, `follow`: the envelopes of the chain strands that nodes have shown; `node_messages`: the
//!   messages of the streams that show them;
//! - `query`: asks a node for envelopes, within bounds of memory, and decodes those of answers; `wanted`: an
//!   envelope that a node is asked to publish;
//! - `watch`: polls one node; `registry`: starts and stops nodes by the registry.

mod answer;
mod ask_order;
mod batch;
mod call;
mod dial;
mod error;
mod follow;
mod fresh;
mod lag;
mod logged_envelope;
mod node;
mod node_messages;
mod observed;
mod placement;
mod query;
mod queue;
mod recent_calls;
mod registry;
mod report_count;
mod report_outcome;
mod reporter;
mod reports;
mod set;
mod suspects;
mod wanted;
mod watch;

pub(crate) use answer::ANSWER_OVERHEAD_BYTES;
#[cfg(test)]
pub(crate) use answer::AnswerError;
pub(crate) use ask_order::AskOrder;
pub(crate) use batch::{NodeAnswers, PayerSettings, PlacedEnvelope, RequestsPerCall};
pub use dial::{AddressFrom, node_connector};
pub(crate) use error::{NodeError, NodeErrorKind};
pub(crate) use follow::ChainStrands;
pub(crate) use logged_envelope::LoggedEnvelope;
pub use node::node_channel;
pub(crate) use node::{Health, Node, REQUESTS_AT_NODE_MAX, RequestAtNode};
pub(crate) use observed::{Comparison, ExpectedEnvelope, is_padded, with_own_buffers};
pub(crate) use placement::topic_key;
pub(crate) use query::{AnswerPlace, query_log, query_newest, query_page, query_place};
pub(crate) use recent_calls::RecentCalls;
pub(crate) use registry::{NodeSetup, follow_registry};
pub(crate) use report_outcome::ReportOutcome;
pub(crate) use reporter::Reporter;
pub(crate) use reports::reporter;
pub(crate) use set::Nodes;
pub(crate) use wanted::WantedEnvelope;
