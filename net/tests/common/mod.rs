//! Small networks on the loopback interface, and peers that misbehave.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test uses a part of it")]

pub mod envelopes;
pub mod network;
pub mod raw;
