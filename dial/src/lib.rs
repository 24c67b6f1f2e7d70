//! Bounds on connections to hosts that are not trusted.
//!
//! - [`look_up()`]: the addresses of a name that others choose; [`connect_first()`]: a connection to one of several;
//! - [`DialledNetworks`]: the networks in which such addresses are dialled;
//! - [`HostTls`]: TLS with a bound on the certificates of the host, which public authorities or those of a file
//!   ([`authorities_with`]) have issued; [`MeteredStream`]: HTTP/2 with a bound on frames that carry nothing;
//!   [`EventsLeft`]: events that a host may still cause;
//! - [`RedisConnection`]: a connection to Redis.
//!
//! Invariant: a host that never answers, or answers without an end, costs bounded memory and threads.

#![warn(missing_docs)]

mod connect_first;
mod events_left;
mod frame_meter;
mod look_up;
mod networks;
mod redis_connection;
mod short_chains;

pub use connect_first::connect_first;
pub use events_left::EventsLeft;
pub use frame_meter::{FrameFlood, HostStream, MeteredStream};
pub use look_up::look_up;
pub use networks::{DialledNetworks, is_private, is_public, is_this_machine};
pub use redis_connection::{RedisConnection, RedisConnectionSettings};
pub use rustls::RootCertStore;
pub use short_chains::{HostTls, authorities_with, public_authorities};
