//! Validates key packages, identity updates and wallet signatures, with its caches and limits.
