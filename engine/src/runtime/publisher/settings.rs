//! Settings of the publish path.

/// Settings of the publish path.
#[derive(Debug, Clone)]
pub struct PublishSettings {
    /// Answer the same payer envelope again with the first result, instead of charging again.
    pub idempotent: bool,
    /// Take publishes only from payers whose balance covers them.
    pub require_balance: bool,
}
