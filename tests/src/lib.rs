//! Whole networks under test. The tests themselves are in `tests/`; this crate is what they share.
//!
//! [`harness`] starts the shipped binary as processes of their own, talks to them as clients and
//! peers do, breaks what lies between them, and kills them. Nothing but the loopback interface,
//! network namespaces of its own and temporary folders is touched, and nothing is left running, also when a test fails.

#![warn(missing_docs)]
#![expect(clippy::unwrap_used, reason = "everything here is test code: a panic is how it fails")]

pub mod harness;
pub mod sim;
