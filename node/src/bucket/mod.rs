//! Objects in a bucket of S3, or of a service that speaks its protocol.
//!
//! - `settings`: name, endpoint, keys;
//! - `client` and `connection`: HTTP with bounds, and how it is waited for;
//! - `reader` and `writer`: one object; `lock`: one writer at a time;
//! - `objects`: all of it as a place of backups;
//! - `at`: a folder or a bucket, as an operator names it.
//!
//! The enemies are the keeper of the bucket and others who may write to it. They may answer without end, list without
//! end, give other bytes than were written, fail, or stay silent. So answers and lists are bounded, and each
//! request has a time limit; the reader compares the content with a signed manifest.

mod at;
mod client;
mod connection;
mod lock;
mod objects;
mod reader;
mod settings;
mod writer;

pub use at::ObjectsAt;
pub use objects::BucketObjects;
pub use settings::{BucketError, BucketKeys, BucketSettings};

pub use crate::requests::StopCheck;
