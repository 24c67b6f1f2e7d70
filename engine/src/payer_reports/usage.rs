//! The usage of a payer, and what it can still spend.

use hawser_proto::PayerAddress;
use hawser_rules::PicoDollarPrice;
use hawser_storage::{ReadError, Snapshot};

use super::ChainReports;
use crate::ledger::{self, PicoDollarBalance};

/// The usage of a payer, and its balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PayerUsage {
    /// Usage that is in no report which is settled as a whole.
    pub unsettled: PicoDollarPrice,
    /// Usage of reports that are settled as a whole.
    pub settled: PicoDollarPrice,
    /// Envelopes of both.
    pub envelopes: u64,
    /// The balance on the chain, which settlements reduce.
    pub balance: PicoDollarBalance,
}

impl PayerUsage {
    /// Returns the amount that the payer can still spend: the balance without the unsettled usage.
    #[must_use]
    pub fn available(&self) -> PicoDollarBalance {
        self.balance.without(self.unsettled.0.into())
    }
}

/// Returns the usage of a payer at all originators. `chain` is of the same moment as `snapshot`. Reads every minute in
/// which the payer has published.
///
/// # Errors
/// When a row cannot be read.
pub fn usage_of(
    snapshot: &Snapshot<'_>,
    chain: &ChainReports,
    payer: PayerAddress,
) -> Result<PayerUsage, ReadError> {
    let mut usage = PayerUsage::default();
    snapshot.usage_of_payer(payer, |originator, minute, row| {
        let sum = match chain.is_settled(originator, minute) {
            true => &mut usage.settled,
            false => &mut usage.unsettled,
        };
        *sum = sum.plus(row.picodollars);
        usage.envelopes = usage.envelopes.saturating_add(row.messages);
    })?;
    usage.balance = ledger::balance(&snapshot.ledger(payer)?);
    Ok(usage)
}

/// Returns the amount that a payer can still spend, as [`PayerUsage::available`] of [`usage_of`]. Passes over the
/// minutes that are settled, so the cost does not grow with the time for which a payer has published.
///
/// # Errors
/// When a row cannot be read.
pub fn available_of(
    snapshot: &Snapshot<'_>,
    chain: &ChainReports,
    payer: PayerAddress,
) -> Result<PicoDollarBalance, ReadError> {
    let mut usage = PayerUsage::default();
    snapshot.usage_of_payer_skipping(payer, |originator, minute, row| {
        let settled = chain.settled_through(originator, minute);
        if settled.is_none() {
            usage.unsettled = usage.unsettled.plus(row.picodollars);
        }
        settled
    })?;
    usage.balance = ledger::balance(&snapshot.ledger(payer)?);
    Ok(usage.available())
}
