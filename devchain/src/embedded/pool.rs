//! The pool of transactions that wait for a block.

use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;

use alloy::consensus::{Transaction, TxEnvelope};
use alloy::primitives::{Address, B256, U256};

use super::admission::TransactionError;
use super::pooled::PooledTransaction;

/// The largest number of transactions in the pool. A guess: go-ethereum's defaults
/// (5,120 + 1,024) are in the same range.
const COUNT_MAX: usize = 8192;
/// The largest number of transactions of one sender. A guess: one sender must not fill the pool.
const COUNT_OF_SENDER_MAX: usize = 1024;
/// The largest total of call data in the pool, in bytes. A guess: 256 payloads of the largest size, 256 KiB.
const INPUT_BYTES_MAX: usize = 64 << 20;
/// The least increase of both prices of a replacement, in percent: go-ethereum's default price bump.
const PRICE_BUMP_PERCENT: u128 = 10;

/// A pooled transaction with its number in the order of arrival.
#[derive(Debug, Clone)]
struct PoolEntry {
    pooled: Arc<PooledTransaction>,
    arrival: u64,
}

/// All waiting transactions, by sender and nonce.
///
/// Invariant: `by_hash` and `senders` hold the same transactions, and `input_bytes` is the sum of their call data.
#[derive(Debug, Clone, Default)]
pub(super) struct TransactionPool {
    senders: HashMap<Address, BTreeMap<u64, PoolEntry>>,
    by_hash: HashMap<B256, (Address, u64)>,
    input_bytes: usize,
    arrivals: u64,
}

impl TransactionPool {
    /// Returns the waiting transaction with this hash.
    pub(super) fn get(&self, hash: B256) -> Option<&Arc<PooledTransaction>> {
        let (sender, nonce) = self.by_hash.get(&hash)?;
        Some(&self.senders.get(sender)?.get(nonce)?.pooled)
    }

    /// Returns the number of waiting transactions.
    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Returns the highest total cost in wei of the sender's waiting transactions, except the one with `nonce`.
    pub(super) fn cost_of_others(&self, sender: Address, nonce: u64) -> U256 {
        let waiting = self.senders.get(&sender).into_iter().flatten();
        let others = waiting.filter(|(other, _)| **other != nonce);
        others.fold(U256::ZERO, |sum, (_, waiting)| sum.saturating_add(waiting.pooled.cost()))
    }

    /// Adds a transaction. It replaces a cheaper one with the same sender and nonce.
    ///
    /// # Errors
    /// `AlreadyKnown`, `ReplacementUnderpriced`, or `PoolFull`; the pool is then unchanged.
    pub(super) fn insert(
        &mut self,
        pooled: Arc<PooledTransaction>,
    ) -> Result<(), TransactionError> {
        let (hash, sender, nonce) = (pooled.hash(), pooled.tx.signer(), pooled.tx.nonce());
        if self.by_hash.contains_key(&hash) {
            return Err(TransactionError::AlreadyKnown);
        }
        let of_sender = self.senders.get(&sender);
        let replaced = of_sender.and_then(|waiting| waiting.get(&nonce));
        match replaced {
            Some(old) if !outbids(&pooled.tx, &old.pooled.tx) => {
                return Err(TransactionError::ReplacementUnderpriced);
            }
            Some(_) => {}
            None => {
                let too_many = self.by_hash.len() >= COUNT_MAX
                    || of_sender.is_some_and(|waiting| waiting.len() >= COUNT_OF_SENDER_MAX);
                if too_many {
                    return Err(TransactionError::PoolFull);
                }
            }
        }
        let input = pooled.tx.input().len();
        if self.input_bytes + input > INPUT_BYTES_MAX {
            return Err(TransactionError::PoolFull);
        }
        if let Some(old) = replaced.map(|old| old.pooled.hash()) {
            self.remove(old);
        }
        self.arrivals += 1;
        self.input_bytes += input;
        self.by_hash.insert(hash, (sender, nonce));
        let waiting = PoolEntry { pooled, arrival: self.arrivals };
        self.senders.entry(sender).or_default().insert(nonce, waiting);
        debug_assert!(self.by_hash.len() <= COUNT_MAX, "a replacement frees its place first");
        debug_assert!(self.input_bytes <= INPUT_BYTES_MAX);
        Ok(())
    }

    /// Removes a transaction. Returns false if the pool does not hold it.
    pub(super) fn remove(&mut self, hash: B256) -> bool {
        let Some((sender, nonce)) = self.by_hash.remove(&hash) else { return false };
        if let Some(waiting) = self.senders.get_mut(&sender) {
            if let Some(removed) = waiting.remove(&nonce) {
                self.input_bytes -= removed.pooled.tx.input().len();
            }
            if waiting.is_empty() {
                self.senders.remove(&sender);
            }
        }
        true
    }

    /// Removes the sender's transactions below `nonce`, which can no longer be mined.
    pub(super) fn forget_below(&mut self, sender: Address, nonce: u64) {
        let waiting = self.senders.get(&sender).into_iter();
        let passed = waiting.flat_map(|waiting| waiting.range(..nonce));
        let passed: Vec<_> = passed.map(|(_, waiting)| waiting.pooled.hash()).collect();
        for hash in passed {
            self.remove(hash);
        }
    }

    /// Returns the lowest nonce, from `nonce` on, that no waiting transaction of the sender has.
    pub(super) fn next_nonce(&self, sender: Address, nonce: u64) -> u64 {
        let Some(waiting) = self.senders.get(&sender) else { return nonce };
        let taken = waiting.range(nonce..).zip(nonce..).take_while(|((at, _), want)| **at == *want);
        taken.last().map_or(nonce, |((at, _), _)| at.saturating_add(1))
    }

    /// Returns the transactions that can be mined at this base fee, those with the highest tip first, and those of each
    /// sender in nonce order. `nonce_of` returns the next nonce of an account.
    pub(super) fn ready(
        &self,
        base_fee: u64,
        nonce_of: impl Fn(Address) -> u64,
    ) -> Vec<Arc<PooledTransaction>> {
        let mut heap = BinaryHeap::new();
        for (sender, waiting) in &self.senders {
            heap.extend(Candidate::of(waiting, nonce_of(*sender), base_fee));
        }
        let mut ready = Vec::new();
        while let Some(best) = heap.pop() {
            let PoolEntry { pooled, .. } = best.waiting;
            ready.push(pooled.clone());
            let next = pooled.tx.nonce().saturating_add(1);
            heap.extend(Candidate::of(&self.senders[&pooled.tx.signer()], next, base_fee));
        }
        ready
    }

    /// Iterates over all waiting transactions, in no particular order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<PooledTransaction>> {
        self.senders.values().flat_map(BTreeMap::values).map(|waiting| &waiting.pooled)
    }
}

/// Returns true if both prices of `new` are high enough to replace `old`.
fn outbids(new: &TxEnvelope, old: &TxEnvelope) -> bool {
    let higher = |new: u128, old: u128| {
        new > old && new >= old.saturating_mul(100 + PRICE_BUMP_PERCENT) / 100
    };
    higher(new.max_fee_per_gas(), old.max_fee_per_gas())
        && higher(new.priority_fee_or_price(), old.priority_fee_or_price())
}

/// A sender's next transaction, ordered by tip, then by arrival.
struct Candidate<'a> {
    tip: u128,
    waiting: &'a PoolEntry,
}

impl<'a> Candidate<'a> {
    fn of(waiting: &'a BTreeMap<u64, PoolEntry>, nonce: u64, base_fee: u64) -> Option<Self> {
        let waiting = waiting.get(&nonce)?;
        let tip = waiting.pooled.tx.effective_tip_per_gas(base_fee)?;
        Some(Self { tip, waiting })
    }

    fn rank(&self) -> (u128, std::cmp::Reverse<u64>) {
        (self.tip, std::cmp::Reverse(self.waiting.arrival))
    }
}

impl PartialEq for Candidate<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Candidate<'_> {}

impl PartialOrd for Candidate<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

#[cfg(test)]
mod tests {
    use alloy::consensus::transaction::Recovered;
    use alloy::consensus::{SignableTransaction, TxEip1559};
    use alloy::primitives::Signature;

    use super::*;

    fn pooled(sender: u8, nonce: u64, max_fee_per_gas: u128, tip: u128) -> Arc<PooledTransaction> {
        let max_priority_fee_per_gas = tip;
        let tx =
            TxEip1559 { nonce, max_fee_per_gas, max_priority_fee_per_gas, ..Default::default() };
        let signature = Signature::new(U256::from(sender), U256::from(1), false);
        let tx = Recovered::new_unchecked(tx.into_signed(signature).into(), sender_of(sender));
        Arc::new(PooledTransaction { tx, impersonated: false })
    }

    fn sender_of(sender: u8) -> Address {
        Address::repeat_byte(sender)
    }

    fn order(pool: &TransactionPool, base_fee: u64) -> Vec<(u8, u64)> {
        let ready = pool.ready(base_fee, |_| 0);
        ready.iter().map(|pooled| (pooled.tx.signer()[0], pooled.tx.nonce())).collect()
    }

    #[test]
    fn the_best_payer_comes_first_and_nonces_keep_their_order() {
        let mut pool = TransactionPool::default();
        for (sender, nonce, tip) in [(1, 1, 9), (1, 0, 1), (2, 0, 5), (3, 0, 5), (2, 2, 9)] {
            pool.insert(pooled(sender, nonce, 100, tip)).unwrap();
        }
        assert_eq!(order(&pool, 10), [(2, 0), (3, 0), (1, 0), (1, 1)]);
        assert_eq!(order(&pool, 101), [], "no transaction pays this base fee");
        assert_eq!(pool.next_nonce(sender_of(1), 0), 2);
        assert_eq!(pool.next_nonce(sender_of(2), 0), 1, "there is a gap");
    }

    #[test]
    fn a_replacement_pays_a_tenth_more_in_both_prices() {
        let mut pool = TransactionPool::default();
        let first = pooled(1, 0, 100, 10);
        pool.insert(first.clone()).unwrap();
        assert_eq!(pool.insert(first.clone()), Err(TransactionError::AlreadyKnown));
        for (max_fee, tip) in [(109, 11), (110, 10), (200, 10)] {
            let refused = pool.insert(pooled(1, 0, max_fee, tip));
            assert_eq!(refused, Err(TransactionError::ReplacementUnderpriced), "{max_fee} {tip}");
        }
        pool.insert(pooled(1, 0, 110, 11)).unwrap();
        assert_eq!(pool.len(), 1);
        assert!(pool.get(first.hash()).is_none());
    }

    #[test]
    fn used_nonces_are_forgotten() {
        let mut pool = TransactionPool::default();
        for nonce in 0..4 {
            pool.insert(pooled(1, nonce, 100, 1)).unwrap();
        }
        pool.forget_below(sender_of(1), 3);
        assert_eq!(pool.len(), 1);
        assert_eq!(pool.next_nonce(sender_of(1), 3), 4);
        pool.forget_below(sender_of(1), 9);
        assert_eq!((pool.len(), pool.input_bytes), (0, 0));
    }

    #[test]
    fn a_sender_cannot_fill_the_pool() {
        let mut pool = TransactionPool::default();
        for nonce in 0..COUNT_OF_SENDER_MAX as u64 {
            pool.insert(pooled(1, nonce, 100, 1)).unwrap();
        }
        assert_eq!(pool.insert(pooled(1, 5000, 100, 1)), Err(TransactionError::PoolFull));
        pool.insert(pooled(2, 0, 100, 1)).unwrap();
    }
}
