//! The balances of payers, for a node that takes publishes only from payers who can pay.
//!
//! A balance is read on a thread for look-ups, because a payer may have many rows, and kept for some seconds. Charges
//! of this node meanwhile count at once and exactly, durable or not. Charges of other nodes and bookings of the chain
//! count from the next reading on.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use hawser_proto::{OriginatorId, PayerAddress, SequenceId};
use hawser_rules::PicoDollarPrice;
use hawser_storage::ReadError;
use parking_lot::{Mutex, MutexGuard};

use super::error::PublishError;
use crate::ledger::PicoDollarBalance;
use crate::payer_reports::available_of;
use crate::runtime::report_history::ReportHistory;
use crate::sequencer::Sequenced;

/// Age of a balance at which it is read again. A guess: payers top up for weeks, and a reading takes
/// milliseconds.
const AGE_NS_MAX: i64 = 5_000_000_000;
/// Payers whose balances are kept; of more, those with the most money are served. A guess: a network has fewer; each
/// takes some hundred bytes.
const PAYERS_MAX: usize = 10_000;
/// Balances that make room for a payer with more money, so that one search serves many such payers. A guess.
const DROPPED_AT_ONCE: usize = PAYERS_MAX / 100;
/// Pause for the payers that do not fit: balances are old by then.
const RETRY_FULL: Duration = Duration::from_nanos(AGE_NS_MAX.unsigned_abs());

/// Pause while the payer registry is being read for the first time or anew. A guess: a reader needs less if its chain
/// answers.
const RETRY_UNREAD: Duration = Duration::from_secs(5);

/// The balances of payers.
pub(super) struct Balances {
    payers: Mutex<Payers>,
    report_history: ReportHistory,
}

/// Plain values; time is an argument.
#[derive(Debug, Default)]
struct Payers {
    known: HashMap<PayerAddress, Balance>,
    /// The head of the database when balances were dropped last: older readings may miss their charges.
    dropped_at: SequenceId,
    /// The number of times that the end of the strand was read anew. A reading that began before the last time may
    /// have envelopes that were not stored.
    round: u64,
}

/// A payer's balance as the database has it.
#[derive(Debug, Clone, Copy)]
struct ReadBalance {
    /// The amount that the payer can spend.
    available: PicoDollarBalance,
    /// The head of this node's strand: charges up to it are in `available`.
    head: SequenceId,
    read_ns: i64,
}

#[derive(Debug)]
struct Balance {
    reading: ReadBalance,
    /// Charges of this node after that head.
    charged: VecDeque<(SequenceId, PicoDollarPrice)>,
    /// The amount that the payer can spend after those.
    left: PicoDollarBalance,
}

/// A payer who can pay for a request that has no places yet.
#[derive(Debug)]
pub(super) struct CheckedPayer<'a> {
    payers: MutexGuard<'a, Payers>,
    payer: PayerAddress,
}

/// The outcome of keeping a reading.
#[derive(Debug, PartialEq, Eq)]
enum PutOutcome {
    Known,
    /// The balance is older than charges that are already forgotten, or than the last reading of the strand's end.
    TooOld,
    /// The largest allowed number of payers is publishing now.
    Full,
}

impl Balance {
    fn new(reading: ReadBalance, charged: VecDeque<(SequenceId, PicoDollarPrice)>) -> Self {
        let fees = charged.iter().map(|(_, fee)| *fee);
        let left = fees.fold(reading.available, PicoDollarBalance::without);
        Self { reading, charged, left }
    }

    fn is_fresh(&self, now_ns: i64) -> bool {
        (0..AGE_NS_MAX).contains(&(now_ns - self.reading.read_ns))
    }

    fn charge(&mut self, place: SequenceId, price: PicoDollarPrice) {
        debug_assert!(place > self.reading.head, "a place is charged before it is durable");
        self.charged.push_back((place, price));
        self.left = self.left.without(price);
    }

    /// Returns true if a reading at `head` would find all charges in the database, also those that are in the reading.
    fn is_stored(&self, head: SequenceId) -> bool {
        self.reading.head <= head && self.charged.back().is_none_or(|(place, _)| *place <= head)
    }
}

impl Payers {
    /// Keeps a reading that began in a round, as [`Payers::put`] does. One of an earlier round is repeated: its head
    /// may be a place that was lost, and later readings would count as older than that.
    fn put_of_round(
        &mut self,
        round: u64,
        payer: PayerAddress,
        reading: ReadBalance,
    ) -> PutOutcome {
        match round == self.round {
            true => self.put(payer, reading),
            false => PutOutcome::TooOld,
        }
    }

    fn put(&mut self, payer: PayerAddress, reading: ReadBalance) -> PutOutcome {
        let head = reading.head;
        // Another worker may have read the same balance, earlier or later than this worker.
        let charged = match self.known.get_mut(&payer) {
            Some(newer) if newer.reading.head > head => return PutOutcome::Known,
            Some(older) => std::mem::take(&mut older.charged),
            None if head < self.dropped_at => return PutOutcome::TooOld,
            None => {
                if !self.make_room(reading) {
                    return PutOutcome::Full;
                }
                VecDeque::new()
            }
        };
        let charged = charged.into_iter().filter(|(place, _)| *place > head).collect();
        self.known.insert(payer, Balance::new(reading, charged));
        PutOutcome::Known
    }

    fn forget_after(&mut self, head: SequenceId) {
        // Otherwise no reading would be late enough, and each would be repeated until the strand has grown.
        self.dropped_at = self.dropped_at.min(head);
        self.round = self.round.wrapping_add(1);
        self.known.retain(|_, balance| balance.reading.head <= head);
        for balance in self.known.values_mut() {
            let mut charged = std::mem::take(&mut balance.charged);
            charged.retain(|(place, _)| *place <= head);
            *balance = Balance::new(balance.reading, charged);
        }
    }

    /// Checks that a payer can pay these prices, as [`Balances::check`] does. The price that is told saturates; the
    /// comparison does not.
    fn check(
        &self,
        payer: PayerAddress,
        prices: &[Option<PicoDollarPrice>],
    ) -> Result<(), PublishError> {
        let owed = prices.iter().flatten().copied();
        let Some(price) = owed.reduce(PicoDollarPrice::plus) else { return Ok(()) };
        // Read when the request was admitted; forgotten since only in a flood of payers.
        let balance = self.known.get(&payer);
        let balance = balance
            .ok_or_else(|| PublishError::broken("the payer's balance is being read: try again"))?;
        let left = balance.left;
        match first_uncovered(prices, left) {
            Some(index) => Err(PublishError::Balance { price, left, index }),
            None => Ok(()),
        }
    }

    /// Makes room for a payer if there is none: removes balances that are too old or used up, and the lowest ones if
    /// the payer has more. Those with charges that the database does not have yet stay. Returns false if there still is
    /// no room.
    ///
    /// A caller can keep thousands of payers with too little for a single fee in the table, by publishes that are
    /// refused.
    fn make_room(&mut self, reading: ReadBalance) -> bool {
        let ReadBalance { available, head, read_ns } = reading;
        if self.known.len() < PAYERS_MAX {
            return true;
        }
        self.known.retain(|_, balance| {
            balance.is_fresh(read_ns) && balance.left.0 > 0 || !balance.is_stored(head)
        });
        if self.known.len() >= PAYERS_MAX {
            self.drop_lower(available, head);
        }
        self.dropped_at = self.dropped_at.max(head);
        self.known.len() < PAYERS_MAX
    }

    /// Removes some of the balances below `available`, the lowest first, except those with charges that the database
    /// does not have at `head`.
    fn drop_lower(&mut self, available: PicoDollarBalance, head: SequenceId) {
        let lower = self.known.iter().filter(|(_, it)| it.left < available && it.is_stored(head));
        let mut lower: Vec<_> = lower.map(|(payer, it)| (it.left, *payer)).collect();
        if lower.len() > DROPPED_AT_ONCE {
            lower.select_nth_unstable(DROPPED_AT_ONCE);
            lower.truncate(DROPPED_AT_ONCE);
        }
        for (_, payer) in lower {
            self.known.remove(&payer);
        }
    }
}

impl Balances {
    pub(super) fn new(report_history: ReportHistory) -> Self {
        Self { payers: Mutex::default(), report_history }
    }

    /// Returns true if a payer's balance is known and not too old.
    pub(super) fn know(&self, payer: PayerAddress, now_ns: i64) -> bool {
        self.lock().known.get(&payer).is_some_and(|balance| balance.is_fresh(now_ns))
    }

    /// Reads a payer's balance if it is not known or too old. Blocks on the disk.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] when a row cannot be read, the payer registry has not been read to
    /// the head of its chain, or too many payers with as much money or more publish at once.
    pub(super) fn refresh(
        &self,
        node: OriginatorId,
        payer: PayerAddress,
        now_ns: i64,
    ) -> Result<(), PublishError> {
        if self.know(payer, now_ns) {
            return Ok(());
        }
        loop {
            let round = self.lock().round;
            let reading = self
                .read(node, payer, now_ns)
                .map_err(|error| PublishError::of_failed_read("a balance", &error))?;
            // The balance in a part of the ledger says nothing about the payer.
            let Some(reading) = reading else {
                let reason =
                    "deposits and settlements on the settlement chain are being read, and no balance is known until then"
                        .into();
                return Err(PublishError::Unavailable { reason, retry_after: RETRY_UNREAD });
            };
            match self.lock().put_of_round(round, payer, reading) {
                PutOutcome::Known => return Ok(()),
                PutOutcome::TooOld => {} // the next one is of this round, at the head of the last dropping or later
                PutOutcome::Full => {
                    let reason = "too many payers publish at once".into();
                    return Err(PublishError::Unavailable { reason, retry_after: RETRY_FULL });
                }
            }
        }
    }

    /// Drops the charges after `head`, and the balances that were read with envelopes after it: these envelopes were
    /// not stored. After a failed write, the end of the write-ahead log may show them until the log is read again.
    pub(super) fn forget_after(&self, head: SequenceId) {
        self.lock().forget_after(head);
    }

    /// Checks that a payer can pay the prices of envelopes; an envelope without a price is a repeat, or on a
    /// reserved topic. A balance below 0 does not cover a price of 0. The balance stays as it is until the result is
    /// dropped.
    ///
    /// # Errors
    /// [`PublishError::Balance`] if it cannot, with the index of the first price that the balance does not cover.
    pub(super) fn check(
        &self,
        payer: PayerAddress,
        prices: &[Option<PicoDollarPrice>],
    ) -> Result<CheckedPayer<'_>, PublishError> {
        let payers = self.lock();
        payers.check(payer, prices)?;
        Ok(CheckedPayer { payers, payer })
    }

    fn lock(&self) -> MutexGuard<'_, Payers> {
        self.payers.lock()
    }

    /// Reads a payer's balance; `None` until the payer registry and the payer reports have been read up to the head of
    /// their chain.
    fn read(
        &self,
        node: OriginatorId,
        payer: PayerAddress,
        read_ns: i64,
    ) -> Result<Option<ReadBalance>, ReadError> {
        let now = self.report_history.now()?;
        if !now.snapshot.knows_balances()? {
            return Ok(None);
        }
        let head = now.snapshot.head(node)?;
        let available = available_of(&now.snapshot, &now.reports, payer)?;
        Ok(Some(ReadBalance { available, head, read_ns }))
    }
}

/// Returns the index of the first of these prices that an amount does not cover after those before it; `None` if it
/// covers all.
fn first_uncovered(
    prices: &[Option<PicoDollarPrice>],
    mut left: PicoDollarBalance,
) -> Option<usize> {
    prices.iter().position(|price| {
        let Some(price) = *price else { return false };
        left = left.without(price);
        left.0 < 0
    })
}

impl CheckedPayer<'_> {
    /// Books the costs of the request's places.
    pub(super) fn charge(mut self, places: &[Sequenced]) {
        if let Some(balance) = self.payers.known.get_mut(&self.payer) {
            places.iter().for_each(|place| balance.charge(place.id.sequence, place.picodollars));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUNDED: i128 = 100;
    const SECOND_NS: i64 = 1_000_000_000;

    fn payer(number: usize) -> PayerAddress {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        hawser_proto::Address(bytes)
    }

    fn reading(available: i128, head: u64, read_ns: i64) -> ReadBalance {
        let available = PicoDollarBalance(available);
        ReadBalance { available, head: SequenceId(head), read_ns }
    }

    /// These prices, behind a repeat.
    fn prices_of(prices: &[u64]) -> Vec<Option<PicoDollarPrice>> {
        let prices = prices.iter().map(|price| Some(PicoDollarPrice(*price)));
        std::iter::once(None).chain(prices).collect()
    }

    /// A full table, read at head 4 and time 0, each payer with `available`.
    fn full(available: i128) -> Payers {
        let mut payers = Payers::default();
        for number in 0..PAYERS_MAX {
            assert_eq!(payers.put(payer(number), reading(available, 4, 0)), PutOutcome::Known);
        }
        payers
    }

    #[test]
    fn the_envelope_that_exceeds_a_balance_is_the_first_one_that_it_does_not_cover() {
        let first = |prices: &[u64], left| {
            let found = first_uncovered(&prices_of(prices), PicoDollarBalance(left));
            found.map(|index| index - 1)
        };
        assert_eq!(first(&[0, 40, 60, 1, 5], 100), Some(3));
        assert_eq!(first(&[0, 40, 60], 99), Some(2));
        assert_eq!(first(&[0, 40, 60], 100), None);
        assert_eq!(first(&[0, 40, 60], 0), Some(1), "an amount of 0 covers a price of 0");
        assert_eq!(first(&[0, 40, 60], -1), Some(0), "and no debt does");
        assert_eq!(first(&[], -1), None);
        assert_eq!(first(&[u64::MAX; 3], i128::from(u64::MAX)), Some(1));
    }

    /// A payer with more money than 64 bits can say asks for envelopes that cost more than it has.
    #[test]
    fn a_request_whose_prices_exceed_64_bits_together_is_compared_exactly() {
        let most = i128::from(u64::MAX);
        for (available, index) in [(most, Some(2)), (2 * most - 1, Some(2)), (2 * most, None)] {
            let mut payers = Payers::default();
            assert_eq!(payers.put(payer(1), reading(available, 4, 0)), PutOutcome::Known);
            let checked = payers.check(payer(1), &prices_of(&[u64::MAX, u64::MAX]));
            let (price, left) = (PicoDollarPrice(u64::MAX), PicoDollarBalance(available));
            let refused = index.map(|index| PublishError::Balance { price, left, index });
            assert_eq!(checked.err(), refused, "{available}");
        }
    }

    #[test]
    fn a_charge_is_remembered_until_it_is_stored_however_long_that_takes() {
        let mut payers = full(FUNDED);
        payers.known.get_mut(&payer(1)).unwrap().charge(SequenceId(5), PicoDollarPrice(70));
        let late_ns = 60 * SECOND_NS;
        assert_eq!(payers.put(payer(PAYERS_MAX), reading(FUNDED, 4, late_ns)), PutOutcome::Known);
        assert_eq!(payers.known.len(), 2, "the others are read again when they publish");
        assert_eq!(payers.put(payer(1), reading(FUNDED, 4, late_ns)), PutOutcome::Known);
        assert_eq!(payers.known[&payer(1)].left, PicoDollarBalance(30));
        assert_eq!(payers.put(payer(1), reading(30, 5, late_ns)), PutOutcome::Known);
        assert_eq!(payers.known[&payer(1)].left, PicoDollarBalance(30), "the database has it now");
    }

    #[test]
    fn a_reading_from_before_a_dropped_charge_is_repeated() {
        let mut payers = full(FUNDED);
        payers.known.get_mut(&payer(1)).unwrap().charge(SequenceId(5), PicoDollarPrice(70));
        payers.put(payer(PAYERS_MAX), reading(FUNDED, 5, 60 * SECOND_NS));
        assert!(!payers.known.contains_key(&payer(1)));
        assert_eq!(payers.put(payer(1), reading(FUNDED, 4, 60 * SECOND_NS)), PutOutcome::TooOld);
        assert_eq!(payers.put(payer(1), reading(30, 5, 60 * SECOND_NS)), PutOutcome::Known);
    }

    /// The balances were read between a failed write, whose envelope was shown, and its loss.
    #[test]
    fn a_balance_with_a_lost_envelope_is_read_again_and_the_reading_counts() {
        let mut payers = full(FUNDED);
        payers.put(payer(PAYERS_MAX), reading(30, 5, 60 * SECOND_NS));
        assert_eq!(payers.dropped_at, SequenceId(5));
        payers.forget_after(SequenceId(4));
        assert!(payers.known.is_empty(), "place 5 is given away again");
        for number in [1, PAYERS_MAX] {
            let again = reading(FUNDED, 4, 61 * SECOND_NS);
            assert_eq!(payers.put(payer(number), again), PutOutcome::Known);
            let balance = payers.known.get_mut(&payer(number)).unwrap();
            balance.charge(SequenceId(5), PicoDollarPrice(70));
            assert_eq!(balance.left, PicoDollarBalance(30));
        }
        payers.forget_after(SequenceId(4));
        assert!(payers.known.values().all(|it| it.left == PicoDollarBalance(FUNDED)));
    }

    /// A worker reads a balance while a failed write shows its envelope, and keeps it after that envelope was lost.
    #[test]
    fn a_reading_of_a_lost_envelope_that_arrives_late_is_repeated() {
        let mut payers = full(FUNDED);
        let round = payers.round;
        payers.forget_after(SequenceId(4));
        let lost = reading(30, 5, 60 * SECOND_NS);
        for number in [1, PAYERS_MAX] {
            assert_eq!(payers.put_of_round(round, payer(number), lost), PutOutcome::TooOld);
        }
        assert_eq!(payers.known[&payer(1)].left, PicoDollarBalance(FUNDED));
        assert_eq!(payers.dropped_at, SequenceId(0), "readings at the head count");
        let again = reading(FUNDED, 4, 60 * SECOND_NS);
        for number in [1, PAYERS_MAX] {
            let kept = payers.put_of_round(payers.round, payer(number), again);
            assert_eq!(kept, PutOutcome::Known);
        }
    }

    #[test]
    fn more_payers_than_fit_are_refused_and_those_who_cannot_pay_make_room() {
        let mut payers = full(FUNDED);
        assert_eq!(payers.put(payer(PAYERS_MAX), reading(FUNDED, 4, SECOND_NS)), PutOutcome::Full);
        assert_eq!(payers.put(payer(1), reading(FUNDED, 4, SECOND_NS)), PutOutcome::Known);
        assert_eq!(payers.known.len(), PAYERS_MAX);
        let mut payers = full(0);
        assert_eq!(payers.put(payer(PAYERS_MAX), reading(FUNDED, 4, SECOND_NS)), PutOutcome::Known);
        assert_eq!(payers.known.len(), 1);
    }

    /// Ten thousand payers of a picodollar each, kept fresh by publishes that are refused, would shut out all others.
    #[test]
    fn payers_with_less_money_make_room_for_those_with_more() {
        let mut payers = full(1);
        assert_eq!(payers.put(payer(0), reading(FUNDED, 4, 0)), PutOutcome::Known);
        payers.known.get_mut(&payer(1)).unwrap().charge(SequenceId(5), PicoDollarPrice(1));
        for number in 0..500 {
            let newcomer = payer(PAYERS_MAX + number);
            assert_eq!(
                payers.put(newcomer, reading(FUNDED, 4, SECOND_NS)),
                PutOutcome::Known,
                "{number}"
            );
            assert!(payers.known.len() <= PAYERS_MAX);
        }
        let stay = [0, 1].into_iter().chain(PAYERS_MAX..PAYERS_MAX + 500);
        assert!(stay.map(payer).all(|it| payers.known.contains_key(&it)), "richer, or charged");
        assert_eq!(
            payers.put(payer(0), reading(FUNDED, 3, SECOND_NS)),
            PutOutcome::Known,
            "it is known"
        );
        let mut payers = full(1);
        let older = reading(FUNDED, 3, SECOND_NS);
        assert_eq!(
            payers.put(payer(PAYERS_MAX), older),
            PutOutcome::Full,
            "a later reading drops them"
        );
        let mut payers = full(FUNDED);
        assert_eq!(payers.put(payer(PAYERS_MAX), reading(1, 4, SECOND_NS)), PutOutcome::Full);
        assert_eq!(payers.known.len(), PAYERS_MAX, "a poor payer drops none");
    }
}
