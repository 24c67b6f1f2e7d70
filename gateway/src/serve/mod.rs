//! The gRPC services for clients: `PayerApi` and `GatewayApi`, which have the same methods.
//!
//! - `wire`: requests with client envelopes as bytes, so that they stay unchanged;
//! - `router`: passes a request to the service of its caller's tenant;
//! - `publish`: handles one request, from its envelopes to its response.

pub(crate) mod publish;
pub(crate) mod router;
pub(crate) mod wire;
