//! Bounds on connections to hosts that are not trusted.
//!
//! - [`look_up()`]: the addresses of a name that others choose;
//! - [`DialledNetworks`]: the networks in which such addresses are dialled;
//! - [`RedisConnection`]: a connection to Redis.
//!
//! Invariant: a host that never answers, or answers without an end, costs bounded memory and threads.

#![warn(missing_docs)]

mod look_up;
mod networks;
mod redis_connection;

pub use look_up::look_up;
pub use networks::{DialledNetworks, is_private, is_public, is_this_machine};
pub use redis_connection::{RedisConnection, RedisConnectionSettings};
