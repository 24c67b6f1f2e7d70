//! The payer service: signs for its users, picks nodes, broadcasts to the chain.
