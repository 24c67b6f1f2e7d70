//! The services that clients call: `PayerApi` and `GatewayApi`, which do the same.
//!
//! - `wire`: requests as bytes, so that client envelopes stay unchanged;
//! - `publish`: one request from its bytes to its response.

pub(crate) mod publish;
pub(crate) mod wire;
