//! The usage of a payer, and what it can still spend.

use hawser_proto::PayerAddress;
use hawser_rules::PicoDollarPrice;
use hawser_storage::{ReadError, Snapshot};

use super::ChainReports;
use crate::ledger::{self, PicoDollarBalance};

/// The usage of a payer, and its balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PayerUsage {
    /// Usage that is in no report which is settled as a whole. Saturates.
    pub unsettled: PicoDollarPrice,
    /// Usage of reports that are settled as a whole. Saturates.
    pub settled: PicoDollarPrice,
    /// Envelopes of both.
    pub envelopes: u64,
    /// The balance on the chain, which settlements reduce.
    pub balance: PicoDollarBalance,
    /// The amount that the payer can still spend: the balance without all of the unsettled usage.
    pub available: PicoDollarBalance,
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
    let balance = ledger::balance(&snapshot.ledger(payer)?);
    let mut usage = PayerUsage { balance, available: balance, ..PayerUsage::default() };
    snapshot.usage_of_payer(payer, |originator, minute, row| {
        let sum = match chain.is_settled(originator, minute) {
            true => &mut usage.settled,
            false => {
                usage.available = usage.available.without(row.picodollars);
                &mut usage.unsettled
            }
        };
        *sum = sum.plus(row.picodollars);
        usage.envelopes = usage.envelopes.saturating_add(row.messages);
    })?;
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
    let mut available = ledger::balance(&snapshot.ledger(payer)?);
    snapshot.usage_of_payer_skipping(payer, |originator, minute, row| {
        let settled = chain.settled_through(originator, minute);
        if settled.is_none() {
            available = available.without(row.picodollars);
        }
        settled
    })?;
    Ok(available)
}

#[cfg(test)]
mod tests {
    use hawser_proto::{Address, EnvelopeId, OriginatorId, SequenceId};
    use hawser_rules::{PicoDollarsPerByteDay, Rate};
    use hawser_storage::{Change, Charge};

    use super::*;
    use crate::read::testing;

    const PAYER: PayerAddress = Address([7; 20]);

    /// Returns a charged envelope in a minute of its own.
    fn append(sequence: u64) -> Change {
        let id = EnvelopeId::new(OriginatorId(200), SequenceId(sequence));
        let originator_ns = i64::try_from(sequence).unwrap() * 60_000_000_000;
        let stated_picodollars = PicoDollarPrice(0);
        let charge = Charge { payer: PAYER, size_bytes: 1, retention_days: 2, stated_picodollars };
        Change::Append(testing::charged(id, originator_ns, charge))
    }

    /// A payer publishes at three nodes or in three minutes for more than 64 bits can say.
    #[test]
    fn unsettled_usage_beyond_64_bits_is_taken_from_the_balance_exactly() {
        let (store, most) = (testing::store(), i64::MAX.unsigned_abs());
        let rate = Rate {
            start_unix_s: 0,
            message_fee: PicoDollarPrice(most),
            storage_fee: PicoDollarsPerByteDay(0),
            congestion_fee: PicoDollarPrice(0),
            target_rate_per_minute: 0,
        };
        store.record_rates(&[rate]).unwrap();
        store.commit(&[1, 2, 3].map(append)).unwrap();
        let (snapshot, chain) = (store.snapshot(), ChainReports::default());
        let owed = PicoDollarBalance(-3 * i128::from(most));
        assert_eq!(available_of(&snapshot, &chain, PAYER).unwrap(), owed);
        let usage = usage_of(&snapshot, &chain, PAYER).unwrap();
        assert_eq!((usage.available, usage.unsettled), (owed, PicoDollarPrice(u64::MAX)));
    }
}
