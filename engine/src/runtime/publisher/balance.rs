//! The balances of payers, for a node that takes publishes only from payers who can pay.
//!
//! A balance is read on a worker, because a payer may have many rows, and kept for some seconds. What
//! this node charges meanwhile counts at once and exactly, durable or not; what other nodes charge and
//! what the chain books counts with the next reading.

use std::collections::{HashMap, VecDeque};

use hawser_proto::{OriginatorId, PayerAddress, SequenceId};
use hawser_storage::{ReadError, Store};
use parking_lot::{Mutex, MutexGuard};

use super::error::PublishError;
use crate::ledger;
use crate::sequencer::Sequenced;

/// Age of a balance at which it is read again. A guess: payers top up for weeks, and a reading takes
/// milliseconds.
const AGE_NS_MAX: i64 = 5_000_000_000;
/// Payers whose balances are kept. A guess: a network has fewer; each takes some hundred bytes.
const PAYERS_MAX: usize = 10_000;

/// The balances of payers.
#[derive(Debug, Default)]
pub(super) struct Balances {
    payers: Mutex<HashMap<PayerAddress, Balance>>,
}

#[derive(Debug)]
struct Balance {
    /// The amount that the payer can spend by the database, picodollars.
    available: i128,
    /// The head of this node's strand at that time: charges up to it are in `available`.
    head: SequenceId,
    read_ns: i64,
    /// Charges of this node after that head.
    charged: VecDeque<(SequenceId, u64)>,
    /// Sum of those.
    charged_sum: i128,
}

impl Balance {
    fn left(&self) -> i128 {
        self.available - self.charged_sum
    }

    fn charge(&mut self, place: SequenceId, picodollars: u64) {
        debug_assert!(place > self.head, "a place is charged before it is durable");
        self.charged.push_back((place, picodollars));
        self.charged_sum += i128::from(picodollars);
    }
}

impl Balances {
    /// Reads a payer's balance if it is not known or too old. Blocks on the disk.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub(super) fn refresh(
        &self,
        store: &Store,
        node: OriginatorId,
        payer: PayerAddress,
        now_ns: i64,
    ) -> Result<(), ReadError> {
        let is_fresh = |balance: &Balance| (0..AGE_NS_MAX).contains(&(now_ns - balance.read_ns));
        if self.lock().get(&payer).is_some_and(is_fresh) {
            return Ok(());
        }
        let snapshot = store.snapshot();
        let head = snapshot.head(node)?;
        let mut used = 0;
        snapshot.usage_of_payer(payer, |_, _, row| used += i128::from(row.picodollars))?;
        let available = ledger::available(&snapshot.ledger(payer)?, used);
        let mut payers = self.lock();
        // Another worker may have read it too, and sooner or later than this one.
        let charged = match payers.remove(&payer) {
            Some(newer) if newer.head > head => {
                payers.insert(payer, newer);
                return Ok(());
            }
            Some(older) => older.charged,
            None => VecDeque::new(),
        };
        if payers.len() >= PAYERS_MAX {
            // An entry of this age has only durable charges.
            payers.retain(|_, balance| now_ns - balance.read_ns < AGE_NS_MAX);
        }
        let charged: VecDeque<_> = charged.into_iter().filter(|(place, _)| *place > head).collect();
        let charged_sum = charged.iter().map(|(_, charge)| i128::from(*charge)).sum();
        payers.insert(payer, Balance { available, head, read_ns: now_ns, charged, charged_sum });
        Ok(())
    }

    /// Checks that a payer can pay a price.
    ///
    /// # Errors
    /// [`PublishError::Balance`] if it cannot.
    pub(super) fn check(&self, payer: PayerAddress, price: u64) -> Result<(), PublishError> {
        if price == 0 {
            return Ok(());
        }
        // Read when the request was admitted; forgotten since only in a flood of payers.
        let payers = self.lock();
        let balance = payers.get(&payer);
        let left = balance.ok_or_else(|| PublishError::broken("the balance is being read"))?.left();
        if i128::from(price) > left {
            return Err(PublishError::Balance { price, left });
        }
        Ok(())
    }

    /// Books what the places of a request cost its payer.
    pub(super) fn charge(&self, payer: PayerAddress, places: &[Sequenced]) {
        if let Some(balance) = self.lock().get_mut(&payer) {
            places.iter().for_each(|place| balance.charge(place.id.sequence, place.picodollars));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PayerAddress, Balance>> {
        self.payers.lock()
    }
}
