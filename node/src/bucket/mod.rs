//! Object storage in a bucket of S3, or of a service with the same protocol.
//!
//! - `settings`: name, endpoint, keys;
//! - `client` and `connection`: HTTP with bounds, and waiting for its responses;
//! - `reader` and `writer`: one object; `lock`: one writer at a time;
//! - `objects`: a bucket as a backup destination;
//! - `at`: a folder or a bucket, as an operator names it.
//!
//! The adversaries are the operator of the bucket's service and others who may write to it. They may send endless
//! responses or lists, return other bytes than were written, fail, or not answer. So each response and each list is
//! bounded, and each request has a time limit. Readers compare the data with a signed manifest.

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
