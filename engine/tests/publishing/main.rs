//! Publishing through a whole engine over an in-memory store.

mod admission;
mod common;
mod publish;
