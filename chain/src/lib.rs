//! Both chains of the network: what they hold, how to write to them, and one to develop against.

pub mod embedded;
