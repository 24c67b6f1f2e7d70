//! The listener over sockets, as one program.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod arrivals;
mod common;
mod compression;
mod http2_frames;
mod listener;
mod publishers;
mod refusals;
mod test_service;
mod tls;
