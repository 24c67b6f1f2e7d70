//! Bounds on connections to hosts that are not trusted.
//!
//! - [`look_up()`]: the addresses of a name that others choose;
//! - [`RedisConnection`]: a connection to Redis.
//!
//! Invariant: a host that never answers, or answers without an end, costs bounded memory and threads.

#![warn(missing_docs)]

mod look_up;
mod redis_connection;

pub use look_up::{is_of_no_node, look_up, of_nodes};
pub use redis_connection::{RedisConnection, RedisConnectionSettings};
