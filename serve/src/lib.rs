//! The listener that all services share: every protocol of callers, on one port.
//!
//! gRPC over HTTP/2, gRPC-Web and Connect over HTTP/1.1 and HTTP/2, with or without TLS, and the headers that
//! browsers need. The node's API and the gateway are two services on it, so this crate knows neither. In
//! reading order:
//!
//! - [`Server`], [`ServeSettings`]: the listener and its limits; [`RpcMethod`]: a method of a service;
//! - `connection`: sockets, idle connections, shutdown of a connection; `activity`: its calls; `connection_admission`,
//!   `proxy_protocol`: the client of a connection; `connection_slots`: bounds on their number; `frame_meter`: floods of
//!   HTTP/2 frames; `frame_head`: the head of one; `short_writes`: short writes of HTTP/2, together; `head_timer`:
//!   slow heads of HTTP/1.1; `upgrade`: connections that change to HTTP/2; `filtered`: connections whose reads pass a
//!   filter; `warning_throttle`: lines of the log that a flood does not repeat;
//! - [`tls`]: certificates, and connections with and without TLS;
//! - [`address`], [`bucket`], [`caller_table`], [`address_slots`]: callers by address, and limits on each, for
//!   every service;
//! - `turns`: the order in which tasks of connections run; `read_turn`: the turn of one that has more to read; `pace`:
//!   rests of all others while publishers are late; `task_threads`, `socket`: the threads of publishers; [`fair_gate`]:
//!   turns of callers, for every service; [`network_gate`]: turns of their networks, too;
//! - `dispatch`, `cors`: classification of a request, and the headers of every response; `web_text`, `web_answer`:
//!   requests and answers of gRPC-Web in base64; `connect`: calls of the Connect protocol, translated;
//! - `calls`, `request`, `response`, `status_headers`: one call, its messages, its metrics, its end;
//!   `request_messages`: messages for a handler that takes them itself; [`stream_response`]: messages of a handler, for
//!   the listener to encode; `message_boundaries`: the ends of messages in a body;
//!   `held_pieces`: bytes of a body that wait; `answer_body`: the body of an answer on its way to the connection;
//!   `unwritten`: its bytes that wait; `answered_task`: the task of its call behind a proxy;
//!   `decompression`, `compression`: messages in gzip; `refused_calls`: refusals that hold for further calls;
//!   `publish_call`: publishes that outlast their calls; `unread`: bodies of requests that are answered before their
//!   end; `close_signal`: the end of a connection or call that holds too much;
//!   `long_work`: long messages, which are decompressed, scanned, decoded and encoded outside of the runtime's threads;
//! - [`MemoryBudget`], [`CallCharge`], [`OverloadedError`]: the memory that callers may make a process hold;
//!   `call_share`, `call_bytes`: the part of one call; `charged_bytes`: a part that ends by itself; `request_head`: the
//!   part of a head; `unflushed`: heads that wait to be written; `kept_frames`: the room for frames that wait;
//!   `kept_fields`: the fields of heads that later heads may name; `shedding`: closes the largest connections when it
//!   is short; `decoded_size`: the memory of a decoded request; `memory_wait`: requests that wait for it; `writing`:
//!   progress with answers;
//! - [`metrics`], [`CallMetrics`], [`ProcessMetrics`]: counting, and the text format for scrapes; [`MetricsFormat`]:
//!   the one that a scraper asks for;
//! - [`readiness`], [`HealthService`]: conditions of a process, and readiness for balancers;
//! - [`StatusDetails`]: statuses that programs understand; [`CheckedChannel`]: calls to servers that are not trusted;
//! - [`reflect`]: gRPC reflection of the services that are served;
//! - [`named_file`]: files that an operator names, and pipes in their places, for every service;
//! - [`public_pages`]: pages for callers, on the listener of calls;
//! - [`pages`]: the operators' HTTP port; `operator_places`: bounds on its connections; [`BuildInfo`],
//!   [`ChainListStatus`]: content that both services show there.
//!
//! Invariant: a hostile request costs bounded memory and never delays another connection.

#![warn(missing_docs)]

mod activity;
pub mod address;
pub mod address_slots;
mod answer_body;
mod answered_task;
pub mod bucket;
mod budget;
mod build_info;
mod call_bytes;
mod call_metrics;
mod call_share;
pub mod caller_table;
mod calls;
mod chain_list;
mod charged_bytes;
mod checked_channel;
mod close_signal;
mod compression;
mod connect;
mod connection;
mod connection_admission;
mod connection_slots;
pub mod cors;
mod decoded_size;
mod decompression;
mod dispatch;
pub mod fair_gate;
mod filtered;
mod frame_head;
mod frame_meter;
mod head_timer;
mod health;
mod held_pieces;
mod kept_fields;
mod kept_frames;
mod listener;
mod long_work;
mod memory_wait;
mod message_boundaries;
mod method;
pub mod metrics;
mod metrics_format;
pub mod named_file;
pub mod network_gate;
mod operator_places;
mod overloaded;
mod pace;
pub mod pages;
mod process_metrics;
mod proxy_protocol;
pub mod public_pages;
mod publish_call;
mod read_turn;
pub mod readiness;
mod reflection;
mod refused_calls;
mod request;
mod request_head;
mod request_messages;
mod response;
mod response_messages;
mod settings;
mod shedding;
mod short_writes;
mod socket;
mod status_details;
mod status_headers;
mod task_threads;
#[cfg(test)]
#[path = "../tests/test_service.rs"]
mod test_service;
pub mod tls;
mod turns;
mod unflushed;
mod unread;
mod unwritten;
mod upgrade;
mod warning_throttle;
mod web_answer;
mod web_text;
#[cfg(test)]
mod worker_wait_tests;
mod writing;

pub use budget::changes::ChangeUnderWay;
pub use budget::{CALLERS_BYTES_MAX, MemoryBudget};
pub use build_info::BuildInfo;
pub use call_metrics::CallMetrics;
pub use call_share::{CallCharge, CallerWatch, HeldCharge};
pub use chain_list::{ChainListReport, ChainListStatus, ChainListsView};
pub use checked_channel::CheckedChannel;
pub use connect::ConnectRequest;
pub use decoded_size::FieldCost;
pub use health::HealthService;
pub use kept_frames::UnreadRequests;
pub use listener::Server;
pub use method::{MethodKind, RpcMethod};
pub use metrics_format::MetricsFormat;
pub use overloaded::OverloadedError;
pub use process_metrics::ProcessMetrics;
pub use reflection::{SchemaError, reflect};
pub use request_messages::{DecodingMessage, RequestMessages};
pub use response_messages::{NoMessages, stream_response};
pub use settings::{MESSAGE_LEN_BYTES_MAX, SHUTTING_DOWN, STREAM_WINDOW_BYTES, ServeSettings};
pub use status_details::{StatusDetails, WrongField};
pub use turns::without_rest;
pub use warning_throttle::WarningThrottle;
pub use web_text::WebText;
