//! The services that clients call: `PayerApi` and `GatewayApi`, which do the same.
//!
//! - `wire`: requests as bytes, so that client envelopes stay unchanged;
//! - `router`: passes a request to the service of its caller's tenant;
//! - `publish`: one request from its bytes to its response.

pub(crate) mod publish;
pub(crate) mod router;
pub(crate) mod wire;
