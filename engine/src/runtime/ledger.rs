//! Events of payers on their way into the ledger.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use hawser_proto::PayerAddress;
use hawser_storage::{CommitError, LedgerEntry, ReadError, RecheckedReader, Snapshot, Store};
use parking_lot::{Mutex, MutexGuard};

use crate::chain_strand::ChainPosition;
use crate::ledger::{self, LedgerAction, LedgerEvent, PayerLedger, PicoDollarBalance};

/// The most blocks of [`SettledBlocks`]. A guess: with one settlement a minute they are those of 45 days, and take some
/// megabytes.
pub(super) const SETTLED_BLOCKS_MAX: usize = 1 << 16;

/// Events could not be booked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerAppendError {
    /// The ledger cannot be read.
    #[error("the ledger cannot be read: {0}")]
    Read(#[from] ReadError),
    /// The ledger cannot be written.
    #[error("the ledger cannot be written: {0}")]
    Commit(#[from] CommitError),
}

/// Outcome of a batch of ledger events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BookedEvents {
    /// Events that changed a balance.
    pub booked: usize,
    /// Events that the ledger had already.
    pub known: usize,
    /// Entries that the chain no longer has, and that were reversed.
    pub reversed: usize,
    /// Events that can never be booked, and were passed over.
    pub refused: usize,
}

/// Books events of the payer registry. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct LedgerAppender {
    store: Store,
    one_at_a_time: Arc<Mutex<()>>,
    settled: Arc<Mutex<SettledBlocks>>,
}

/// The blocks in which the ledger has settlements of usage, as far as this process has read them. A payer report that
/// is settled in a block counts as settled only if the ledger has a settlement there, too: the reports have a reader of
/// their own, and after a reorganisation the two readers may follow different branches for a while.
#[derive(Debug, Default)]
pub(super) struct SettledBlocks {
    /// The first block from which on `blocks` is complete; `None` before the first batch.
    since: Option<u64>,
    /// The number of settled amounts in each block.
    blocks: BTreeMap<u64, u64>,
    /// Changes when blocks that were read before are read again.
    version: u64,
}

impl SettledBlocks {
    /// Returns a number that changes when blocks have been read again. While it stays, the ledger loses no settlement.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Returns true if the ledger has at least this number of settled amounts in a block, or if it read the block
    /// before this value recorded any. Meaningful only for blocks that the ledger's reader has passed.
    pub(super) fn has(&self, block: u64, amounts: u64) -> bool {
        let has_all = |counted: &u64| *counted >= amounts;
        self.since.is_none_or(|since| block < since) || self.blocks.get(&block).is_some_and(has_all)
    }

    /// Forgets the blocks from `from_block` on, which are about to be read. `is_again` is true if they were read
    /// before.
    fn forget_from(&mut self, from_block: u64, is_again: bool) {
        self.since = Some(self.since.map_or(from_block, |since| since.min(from_block)));
        drop(self.blocks.split_off(&from_block));
        self.version += u64::from(is_again);
    }

    /// Adds the settlements that the ledger has now. One of nothing is no entry there, and counts here.
    fn add(&mut self, events: &[LedgerEvent]) {
        let is_settlement =
            |event: &&LedgerEvent| matches!(event.action, LedgerAction::UsageSettled(_));
        for event in events.iter().filter(is_settlement) {
            *self.blocks.entry(event.block).or_default() += 1;
        }
        while self.blocks.len() > SETTLED_BLOCKS_MAX {
            self.since = self.blocks.pop_first().map(|(block, _)| block.saturating_add(1));
        }
    }
}

impl LedgerAppender {
    /// Creates an appender for the ledger of a store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, one_at_a_time: Arc::default(), settled: Arc::default() }
    }

    /// Returns the blocks with settlements, locked. Each is in every snapshot that is taken before the result is
    /// dropped; blocks of a batch that is being written are left out. Waits for no write.
    pub(super) fn settled(&self) -> MutexGuard<'_, SettledBlocks> {
        self.settled.lock()
    }

    /// Calls `then` while bookings wait, so that its result agrees with the ledger at one moment. Later bookings build
    /// on that state.
    pub(super) fn between<T>(&self, then: impl FnOnce() -> T) -> T {
        let _one_at_a_time = self.one_at_a_time.lock();
        then()
    }

    /// Books `events` and records `position`, in one write. The events are all that the chain has
    /// from `from_block` up to `position`, in its order.
    ///
    /// Afterwards the ledger holds what the chain has up to there and nothing else. An entry for `from_block` or a
    /// later one that does not follow from the events is reversed, and that of the same event is booked anew. So giving
    /// the same events again is harmless. An event that can never be booked is logged and passed over. Blocks for a
    /// sync of the disk.
    ///
    /// If an entry of a block behind `position` is reversed, no balance is known until a later position has reached
    /// that block: the chain may still have its event.
    ///
    /// # Errors
    /// [`LedgerAppendError`]; nothing was written then.
    pub fn append(
        &self,
        from_block: u64,
        events: &[LedgerEvent],
        position: ChainPosition,
    ) -> Result<BookedEvents, LedgerAppendError> {
        let _one_at_a_time = self.one_at_a_time.lock();
        let snapshot = self.store.snapshot();
        let mut of_payer: HashMap<PayerAddress, Vec<&LedgerEvent>> = HashMap::new();
        events.iter().for_each(|event| of_payer.entry(event.payer).or_default().push(event));
        let mut ledgers: HashMap<PayerAddress, PayerLedger> = HashMap::new();
        let mut entries: Vec<(PayerAddress, LedgerEntry)> = Vec::new();
        let mut count = BookedEvents::default();
        for payer in with_later_entries(&snapshot, from_block)? {
            let mut ledger = PayerLedger::new(snapshot.ledger(payer)?);
            let batch = of_payer.get(&payer).map(Vec::as_slice).unwrap_or_default();
            let staying = ledger.staying(from_block, batch);
            let undone = ledger::reversals(ledger.entries(), from_block, |id| staying.contains(id));
            count.reversed += undone.len();
            undone.iter().for_each(|entry| ledger.push(*entry));
            let left = ledger::reversals(ledger.entries(), from_block, |id| staying.contains(id));
            // Otherwise a payer would keep, or owe, an amount of an event that the chain has taken back.
            assert!(left.is_empty(), "the ledger of {payer} is balanced before it is written");
            entries.extend(undone.into_iter().map(|entry| (payer, entry)));
            ledgers.insert(payer, ledger);
        }
        for event in events {
            let ledger = ledger_of(event.payer, &mut ledgers, &snapshot)?;
            match ledger.book(event) {
                Ok(Some(entry)) => {
                    count.booked += 1;
                    ledger.push(entry);
                    entries.push((event.payer, entry));
                }
                Ok(None) => count.known += 1,
                Err(refusal) => {
                    count.refused += 1;
                    tracing::error!(
                        code = "ledger_event_refused",
                        payer = %event.payer,
                        block = event.block,
                        %refusal,
                        "an event of a payer cannot be booked, and is skipped"
                    );
                }
            }
        }
        let is_again = snapshot.ledger_position()?.is_some_and(|read| from_block <= read.block);
        // Before and after the write, so that no snapshot lacks a settlement that is in the blocks.
        self.settled().forget_from(from_block, is_again);
        self.store.record_ledger(from_block, &entries, Some(position))?;
        self.settled().add(events);
        Ok(count)
    }

    /// Returns for each event, in order, whether it is booked or can never be: see [`PayerLedger::knows`].
    ///
    /// # Errors
    /// If a row cannot be read.
    pub fn known(&self, events: &[LedgerEvent]) -> Result<Vec<bool>, ReadError> {
        let snapshot = self.store.snapshot();
        let mut ledgers: HashMap<PayerAddress, PayerLedger> = HashMap::new();
        let mut known = Vec::with_capacity(events.len());
        for event in events {
            known.push(ledger_of(event.payer, &mut ledgers, &snapshot)?.knows(event));
        }
        Ok(known)
    }

    /// Records that the ledger holds all events up to the head of the chain. Balances count from then on, and stay as
    /// they are while the chain cannot be reached. Blocks for a sync of the disk, unless balances are known already.
    ///
    /// # Errors
    /// [`LedgerAppendError`]; nothing was written then.
    pub fn note_at_head(&self, position: ChainPosition) -> Result<(), LedgerAppendError> {
        Ok(self.store.note_payers_read(position)?)
    }

    /// Returns the first block that the payer registry's reader has not rechecked for missing events, as last noted;
    /// `None` before the first note.
    ///
    /// # Errors
    /// If the row cannot be read.
    pub fn recheck_from(&self) -> Result<Option<u64>, ReadError> {
        self.store.chain_recheck_from(RecheckedReader::Ledger)
    }

    /// Notes the first block that the reader has not rechecked for missing events. This becomes durable with the next
    /// commit.
    ///
    /// # Errors
    /// [`LedgerAppendError`]; nothing was written then.
    pub fn note_recheck_from(&self, block: u64) -> Result<(), LedgerAppendError> {
        Ok(self.store.record_chain_recheck_from(RecheckedReader::Ledger, block)?)
    }

    /// Returns the position of the payer registry's reader at its last write; `None` before the first
    /// one.
    ///
    /// # Errors
    /// If the row cannot be read.
    pub fn position(&self) -> Result<Option<ChainPosition>, ReadError> {
        self.store.snapshot().ledger_position()
    }

    /// Returns a position that the payer registry's reader had when balances became known, or later; `None` before.
    ///
    /// # Errors
    /// If the row cannot be read.
    pub fn head_reached(&self) -> Result<Option<ChainPosition>, ReadError> {
        self.store.snapshot().payers_read()
    }

    /// Returns a payer's balance; 0 for an unknown payer. Usage since the last settlement is not subtracted.
    ///
    /// # Errors
    /// If a row cannot be read.
    pub fn balance(&self, payer: PayerAddress) -> Result<PicoDollarBalance, ReadError> {
        Ok(ledger::balance(&self.store.snapshot().ledger(payer)?))
    }
}

/// Returns the ledger of a payer, which is read unless it is among those that were read before.
fn ledger_of<'a>(
    payer: PayerAddress,
    ledgers: &'a mut HashMap<PayerAddress, PayerLedger>,
    snapshot: &Snapshot<'_>,
) -> Result<&'a mut PayerLedger, ReadError> {
    match ledgers.entry(payer) {
        Entry::Occupied(ledger) => Ok(ledger.into_mut()),
        Entry::Vacant(place) => Ok(place.insert(PayerLedger::new(snapshot.ledger(payer)?))),
    }
}

/// Returns the payers with entries for this block or later ones. Reads the whole ledger, but only if
/// the chain's reader has been further than that, as after a reorganisation.
fn with_later_entries(
    snapshot: &Snapshot<'_>,
    from_block: u64,
) -> Result<BTreeSet<PayerAddress>, ReadError> {
    let mut payers = BTreeSet::new();
    if snapshot.ledger_position()?.is_some_and(|position| position.block >= from_block) {
        snapshot.ledgers(|payer, entry| {
            if entry.block >= from_block {
                payers.insert(payer);
            }
        })?;
    }
    Ok(payers)
}
