//! A bot that pays for itself.
fn main() {}
