//! Calls of a node, with its refusals and limits, as one program: publishing, reading, streams, validation, and the
//! threads and files behind them.

mod a_million_topics;
mod api_pages;
mod api_schema;
mod bad_input;
mod caller_limits;
mod client_vectors;
mod contract_wallets;
mod idempotent;
mod open_files;
mod pages;
mod subscriptions;
mod threads;
mod validation;
