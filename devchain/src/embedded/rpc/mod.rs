//! The RPC methods, by group.

mod accounts;
pub(super) mod args;
mod blocks;
mod calls;
mod control;
mod control_accounts;
pub(super) mod error;
mod fees;
pub(super) mod filter;
mod logs;
pub(super) mod present;
mod trace;
mod transactions;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use args::Args;
use error::RpcError;

use super::node::EmbeddedNode;

/// The result of a method as JSON.
pub(super) type RpcResult = Result<Box<RawValue>, RpcError>;
/// The function behind a method.
type Handler = fn(&EmbeddedNode, &Args<'_>) -> RpcResult;

/// A group of methods: the names of each, and its function.
type Group = &'static [(&'static [&'static str], Handler)];

const GROUPS: &[Group] = &[
    blocks::METHODS,
    accounts::METHODS,
    calls::METHODS,
    fees::METHODS,
    transactions::METHODS,
    trace::METHODS,
    logs::METHODS,
    filter::METHODS,
    control::METHODS,
    control_accounts::METHODS,
];

/// One method under one of its names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method {
    pub(super) name: &'static str,
    handler: Handler,
}

/// Iterates over all methods except the subscriptions, once for each name.
pub(super) fn methods() -> impl Iterator<Item = Method> {
    let methods = GROUPS.iter().flat_map(|group| group.iter());
    methods.flat_map(|(names, handler)| names.iter().map(|name| Method { name, handler: *handler }))
}

impl Method {
    /// Runs the method.
    pub(super) fn call(self, node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
        (self.handler)(node, args)
    }
}

/// Returns a value as the result of a method.
pub(super) fn answer<T: Serialize + ?Sized>(value: &T) -> RpcResult {
    to_raw_value(value).map_err(error::failed)
}
