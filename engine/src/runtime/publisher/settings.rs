//! Settings of the publish path.

use std::num::NonZeroU32;

/// Settings of the publish path.
#[derive(Debug, Clone)]
pub struct PublishSettings {
    /// Answer the same payer envelope again with the first result, instead of charging again.
    pub idempotent: bool,
    /// Take publishes only from payers whose balance covers them.
    pub require_balance: bool,
    /// Requests that one payer may have taken in a second, and at once; `None`: no limit.
    pub publishes_per_payer: Option<NonZeroU32>,
}
