//! The listener that every service shares: gRPC, gRPC-Web and Connect, limits, health, the operator port, metrics.
