//! Tests of the embedded chain over its port.

mod blocks;
mod calls;
mod control;
mod kept;
mod logs;
mod malformed;
mod proofs;
mod random;
mod reorganisation;
mod sending;
mod subscriptions;
mod support;
mod traces;
