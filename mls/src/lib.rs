//! What is inside envelopes: key packages, group messages, identity updates.
