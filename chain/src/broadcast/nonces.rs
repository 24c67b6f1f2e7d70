//! Which nonce is whose, and what is to be done next: a plain value that is told what has happened
//! and reads neither clock nor chain.
//!
//! ```text
//!             sign ──▶ send ──▶ waits ──▶ mined
//!               ▲        ▲        │
//!               └────────┴────────┘  stuck: sent again, then signed again and dearer
//! ```
//!
//! A payload has one nonce at a time, and all transactions that were ever signed for it have that
//! nonce, so that at most one of them is mined. It gets another nonce only when it is seen that
//! somebody else has used its own: that no receipt is shown proves nothing, and a payload of which
//! nothing else is ever seen is given up as unknown, not sent again. A nonce whose payload was refused is given back, or used up by a transaction that
//! does nothing if later ones are under way already.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use alloy::primitives::{B256, Bytes};

/// A replacement is dearer by an eighth: nodes want a tenth.
const BUMP_DIVISOR: u128 = 8;
/// Transactions that were too cheap for the chain are signed anew so often.
const PRICE_TRIES: u32 = 12;
/// The first pause before a transaction whose answer was lost is sent again, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Gaps are filled so many nonces at a time.
const FILL_MAX: u64 = 64;

/// A payload that somebody wants on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct JobId(pub(super) u64);

/// A nonce that a payload has, or had: on record under this number. A payload that needs another
/// nonce gets another of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SlotId(pub(super) u64);

/// When things are taken for lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// How many nonces are used at once.
    pub(super) in_flight_max: usize,
    /// A transaction that is next and was not mined for so long is sent again; after as long again,
    /// and two blocks, it is replaced.
    pub(super) stuck_after: Duration,
    /// It is replaced after so long whether there were blocks or not.
    pub(super) stuck_without_blocks_after: Duration,
    /// When a nonce is used and no receipt of its transactions is found, it is sought after who
    /// used it, so often.
    pub(super) seek_every: Duration,
    /// When that is not found for so long, what became of the payload stays unknown.
    pub(super) give_up_after: Duration,
}

impl Patience {
    pub(super) fn new(in_flight_max: usize) -> Self {
        Self {
            in_flight_max,
            stuck_after: Duration::from_secs(2),
            stuck_without_blocks_after: Duration::from_secs(10),
            seek_every: Duration::from_secs(1),
            give_up_after: Duration::from_secs(300),
        }
    }
}

/// A signed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signed {
    pub(super) hash: B256,
    /// Wei for a unit of gas.
    pub(super) price: u128,
    pub(super) raw: Bytes,
}

/// What a nonce is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Payload(JobId),
    /// Nothing: it is only to be used up.
    Filler,
}

/// A transaction to sign and to record; then [`Nonces::signed`] or [`Nonces::not_signed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ToSign {
    pub(super) slot: SlotId,
    pub(super) nonce: u64,
    pub(super) work: Work,
    /// The dearest so far: the new one has to be dearer by [`replacing`].
    pub(super) over: Option<u128>,
    /// What the payload had before, and will never use.
    pub(super) instead_of: Option<SlotId>,
}

/// What a node said of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sent {
    /// It has it, or had it.
    Taken,
    /// Nothing was heard. It may have it.
    Lost,
    /// The nonce is used.
    NonceUsed,
    /// Transactions before it are missing.
    NonceAhead,
    /// There is another one with this nonce that is not much cheaper.
    Underpriced,
    /// It is too cheap at the moment.
    TooCheap(String),
    /// Not now, and it does not have it.
    Later,
    /// It takes no such transaction.
    Refused(String),
}

/// What the chain says of the account.
#[derive(Debug, Clone, Default)]
pub(super) struct Polled {
    /// When it was asked.
    pub(super) asked_at: Duration,
    /// How many of its transactions are mined.
    pub(super) mined: u64,
    /// The same with those that wait, if it was asked.
    pub(super) pending: Option<u64>,
    /// The latest block.
    pub(super) head: u64,
    /// Of every used nonce that was watched: what was seen.
    pub(super) found: Vec<(Look, Found)>,
}

/// A nonce under way that is to be looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) slot: SlotId,
    pub(super) nonce: u64,
    pub(super) work: Work,
    /// All transactions that were signed for it, the latest first.
    pub(super) hashes: Vec<B256>,
    /// Whether every endpoint is to be asked who has used the nonce, and by all means.
    pub(super) seeks: bool,
    /// The latest block when the first was sent, if that is known.
    pub(super) since_block: Option<u64>,
}

/// What is seen of a used nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing: that proves nothing.
    Nothing,
    /// The payload is on the chain, with this transaction.
    Mined(B256),
    /// The nonce was used by this transaction of the account, which does something else.
    Other(B256),
}

/// What is over. To be told when it is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Done {
    /// This transaction is mined.
    Mined { slot: SlotId, work: Work, hash: B256 },
    /// No node takes the payload, and none has it.
    Refused { slot: SlotId, job: JobId, said: String },
    /// A nonce that was only to be used up is.
    Void { slot: SlotId },
    /// The nonce is used, by whom cannot be found out: the payload may be on the chain.
    Unknown { slot: SlotId, job: JobId, hash: B256 },
}

#[derive(Debug)]
enum Phase {
    Sign,
    Send { at: Duration },
    Waits { since: Duration, head: u64, sent_again: bool },
    Used { since: Duration, seek_at: Duration },
}

#[derive(Debug)]
struct Slot {
    id: SlotId,
    work: Work,
    /// The oldest first.
    signed: Vec<Signed>,
    /// Whether some node may have one of them.
    maybe_out: bool,
    since_block: Option<u64>,
    instead_of: Option<SlotId>,
    tries: u32,
    phase: Phase,
}

impl Slot {
    fn new(id: SlotId, work: Work, instead_of: Option<SlotId>) -> Self {
        Self {
            id,
            work,
            signed: Vec::new(),
            maybe_out: false,
            since_block: None,
            instead_of,
            tries: 0,
            phase: Phase::Sign,
        }
    }

    fn price(&self) -> Option<u128> {
        self.signed.iter().map(|signed| signed.price).max()
    }

    fn pause(&mut self) -> Duration {
        self.tries = self.tries.saturating_add(1);
        PAUSE_MIN.saturating_mul(1 << self.tries.min(5)).min(PAUSE_MAX)
    }
}

/// The nonces of one account.
#[derive(Debug)]
pub(super) struct Nonces {
    patience: Patience,
    /// What the next payload gets.
    next: u64,
    /// Known since the chain was asked first, and unknown while it has to be asked again.
    asked: bool,
    mined: u64,
    head: u64,
    slots: BTreeMap<u64, Slot>,
    slots_made: u64,
    /// Payloads that have no nonce, with what they had.
    ready: VecDeque<(JobId, Option<SlotId>)>,
    /// Since when nodes have nothing that could be mined next.
    gap_since: Option<Duration>,
}

/// The least price of a transaction that takes the place of one with price `over`.
pub(super) fn replacing(over: u128) -> u128 {
    over.saturating_add(over / BUMP_DIVISOR).saturating_add(1)
}

impl Nonces {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            patience,
            next: 0,
            asked: false,
            mined: 0,
            head: 0,
            slots: BTreeMap::new(),
            slots_made: 0,
            ready: VecDeque::new(),
            gap_since: None,
        }
    }

    /// Takes up what an earlier process has recorded, in the order of the slots: any of these may
    /// be out. When two have one nonce, it was taken from the earlier.
    pub(super) fn recover(&mut self, id: SlotId, nonce: u64, work: Work, signed: Vec<Signed>) {
        self.slots_made = self.slots_made.max(id.0);
        let phase = Phase::Send { at: Duration::ZERO };
        let slot = Slot { signed, maybe_out: true, phase, ..Slot::new(id, work, None) };
        if let Some(earlier) = self.slots.insert(nonce, slot)
            && let Work::Payload(job) = earlier.work
        {
            self.ready.push_back((job, Some(earlier.id)));
        }
        self.next = self.next.max(nonce + 1);
    }

    fn slot_id(&mut self) -> SlotId {
        self.slots_made += 1;
        SlotId(self.slots_made)
    }

    /// A payload that may be signed now. Those of one topic come one after another.
    pub(super) fn submit(&mut self, job: JobId) {
        self.ready.push_back((job, None));
    }

    /// Takes back a payload that has no nonce. Whether it had none.
    pub(super) fn withdraw(&mut self, job: JobId) -> bool {
        let before = self.ready.len();
        // One that had a nonce may not be taken back: its record still stands.
        self.ready.retain(|(ready, instead_of)| *ready != job || instead_of.is_some());
        self.ready.len() < before
    }

    /// Every nonce under way, and all transactions that were signed for it.
    pub(super) fn watched(&self, now: Duration) -> Vec<Look> {
        let slots = self.slots.iter().filter(|(_, slot)| slot.maybe_out);
        slots
            .map(|(nonce, slot)| Look {
                slot: slot.id,
                nonce: *nonce,
                work: slot.work,
                hashes: slot.signed.iter().map(|it| it.hash).rev().collect(),
                seeks: matches!(slot.phase, Phase::Used { seek_at, .. } if now >= seek_at),
                since_block: slot.since_block,
            })
            .collect()
    }

    /// Whether something is under way or waits for a nonce.
    pub(super) fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.ready.is_empty()
    }

    /// Whether the chain must be asked before anything goes on.
    pub(super) fn must_ask(&self) -> bool {
        !self.asked
    }

    /// Whether it is of use to ask the chain for waiting transactions.
    pub(super) fn wants_pending(&self) -> bool {
        !self.asked || self.slots.first_key_value().is_some_and(|(first, _)| *first > self.mined)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// The transaction that was sent last for a payload.
    pub(super) fn latest(&self, job: JobId) -> Option<B256> {
        let slot = self.slots.values().find(|slot| slot.work == Work::Payload(job))?;
        slot.signed.last().map(|signed| signed.hash)
    }

    /// Takes back payloads that nobody wants any more and that have no nonce.
    pub(super) fn withdraw_unwanted(&mut self, is_wanted: impl Fn(JobId) -> bool) -> Vec<JobId> {
        let unwanted = self.ready.iter().filter(|(job, _)| !is_wanted(*job)).map(|(job, _)| *job);
        let mut unwanted: Vec<JobId> = unwanted.collect();
        unwanted.retain(|job| self.withdraw(*job));
        unwanted
    }

    /// Hands out nonces, and says what is to be signed: all of it may go on record at once.
    pub(super) fn hand_out(&mut self) -> Vec<ToSign> {
        if !self.asked {
            return Vec::new();
        }
        while self.slots.len() < self.patience.in_flight_max
            && let Some((job, instead_of)) = self.ready.pop_front()
        {
            let slot = Slot::new(self.slot_id(), Work::Payload(job), instead_of);
            self.slots.insert(self.next, slot);
            self.next += 1;
        }
        let to_sign = self.slots.iter().filter(|(_, slot)| matches!(slot.phase, Phase::Sign));
        to_sign
            .map(|(nonce, slot)| ToSign {
                slot: slot.id,
                nonce: *nonce,
                work: slot.work,
                over: slot.price(),
                instead_of: slot.instead_of,
            })
            .collect()
    }

    /// What is to be sent now: the lowest nonce first, and the next one when
    /// [`sent`](Self::sent) has told of it.
    pub(super) fn due(&self, now: Duration) -> Option<(u64, Signed)> {
        let is_due = |slot: &Slot| matches!(slot.phase, Phase::Send { at } if at <= now);
        let (nonce, slot) = self.slots.iter().find(|(_, slot)| is_due(slot))?;
        Some((*nonce, slot.signed.last().expect("what is to be sent is signed").clone()))
    }

    /// When something is to be sent, if nothing happens before.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let at = |slot: &Slot| match slot.phase {
            Phase::Send { at } => Some(at),
            _ => None,
        };
        self.slots.values().filter_map(at).min()
    }

    /// It is signed and on record.
    pub(super) fn signed(&mut self, nonce: u64, signed: Signed, now: Duration) {
        let price = signed.price;
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        let is_replacement = !slot.signed.is_empty();
        if !is_replacement {
            slot.since_block = Some(self.head);
        }
        slot.signed.push(signed);
        slot.instead_of = None;
        slot.phase = Phase::Send { at: now };
        if !is_replacement {
            return;
        }
        // When prices have risen, the others are too cheap as well.
        for slot in self.slots.values_mut() {
            let is_cheaper = slot.price().is_some_and(|own| replacing(own) < price);
            if matches!(slot.phase, Phase::Waits { .. }) && is_cheaper {
                slot.phase = Phase::Sign;
            }
        }
    }

    /// It cannot be signed or recorded, or would be too dear. The payload is given up if no node
    /// can have it.
    pub(super) fn not_signed(&mut self, nonce: u64, now: Duration) -> Option<Done> {
        let head = self.head;
        let slot = self.slots.get_mut(&nonce)?;
        if slot.maybe_out {
            slot.phase = Phase::Waits { since: now, head, sent_again: false };
            return None;
        }
        self.refused(nonce, String::new(), now)
    }

    /// What a node said of the transaction that was sent.
    pub(super) fn sent(&mut self, nonce: u64, sent: Sent, now: Duration) -> Option<Done> {
        let head = self.head;
        let slot = self.slots.get_mut(&nonce)?;
        if !matches!(slot.phase, Phase::Send { .. }) {
            return None; // it was found on the chain meanwhile
        }
        let waits = |sent_again| Phase::Waits { since: now, head, sent_again };
        match sent {
            Sent::Taken => {
                slot.phase = waits(slot.maybe_out);
                slot.maybe_out = true;
                slot.tries = 0;
            }
            Sent::Lost => {
                slot.maybe_out = true;
                slot.phase = Phase::Send { at: now + slot.pause() };
            }
            // It may be this very one, when a proxy has sent it twice.
            Sent::NonceUsed => {
                slot.maybe_out = true;
                slot.phase = Phase::Used { since: now, seek_at: now };
            }
            Sent::Underpriced if slot.maybe_out => slot.phase = waits(true),
            Sent::Underpriced => return self.displace(nonce),
            Sent::Later => slot.phase = Phase::Send { at: now + slot.pause() },
            Sent::NonceAhead => {
                slot.phase = Phase::Send { at: now + slot.pause() };
                self.send_again_below(nonce, now);
            }
            Sent::TooCheap(_) if slot.tries < PRICE_TRIES => {
                slot.tries += 1;
                slot.phase = Phase::Sign;
            }
            Sent::TooCheap(said) | Sent::Refused(said) => {
                if slot.maybe_out {
                    slot.phase = waits(false);
                } else {
                    return self.refused(nonce, said, now);
                }
            }
        }
        None
    }

    /// No node has it and none will: the nonce is given back if nothing depends on it.
    fn refused(&mut self, nonce: u64, said: String, now: Duration) -> Option<Done> {
        let is_last = self.slots.last_key_value().is_some_and(|(last, _)| *last == nonce);
        let filler = self.slot_id();
        let slot = self.slots.get_mut(&nonce)?;
        let (id, work) = (slot.id, slot.work);
        if is_last {
            self.slots.remove(&nonce);
            self.next = nonce;
        } else if work == Work::Filler {
            let pause = slot.pause();
            slot.phase = match slot.signed.last() {
                Some(_) => Phase::Send { at: now + pause },
                None => Phase::Sign,
            };
            return None;
        } else {
            *slot = Slot::new(filler, Work::Filler, None);
        }
        Some(match work {
            Work::Payload(job) => Done::Refused { slot: id, job, said },
            Work::Filler => Done::Void { slot: id },
        })
    }

    /// Somebody else uses the nonce: the payload needs another one.
    fn displace(&mut self, nonce: u64) -> Option<Done> {
        let slot = self.slots.remove(&nonce)?;
        self.asked = false;
        match slot.work {
            Work::Payload(job) => {
                self.ready.push_front((job, Some(slot.id)));
                None
            }
            Work::Filler => Some(Done::Void { slot: slot.id }),
        }
    }

    /// A node misses what comes before: it may have forgotten it, or be another one.
    fn send_again_below(&mut self, nonce: u64, now: Duration) {
        for slot in self.slots.range_mut(..nonce).map(|(_, slot)| slot) {
            if let Phase::Waits { since, .. } = slot.phase
                && now >= since + PAUSE_MIN
            {
                slot.phase = Phase::Send { at: now };
            }
        }
    }

    /// Takes up what the chain says, and returns the payloads that are on it.
    pub(super) fn polled(&mut self, polled: &Polled, now: Duration) -> Vec<Done> {
        // What follows may find that it has to be asked again.
        self.asked = true;
        self.head = self.head.max(polled.head);
        let advanced = polled.mined != self.mined;
        self.mined = polled.mined;
        self.next = self.next.max(polled.mined);
        if let Some(pending) = polled.pending {
            self.next = self.next.max(pending);
        }
        let mut done = Vec::new();
        for (look, found) in &polled.found {
            // The nonce may have been given to another payload since it was asked for.
            if self.slots.get(&look.nonce).is_none_or(|slot| slot.id != look.slot) {
                continue;
            }
            done.extend(match found {
                Found::Mined(hash) => self.found(look.nonce, *hash),
                Found::Other(hash) => self.used_by(look.nonce, *hash),
                Found::Nothing => self.not_found(look, polled.asked_at, now),
            });
        }
        // Nothing above what the account may use next is there for good.
        if self.slots.is_empty() {
            self.next = polled.pending.map_or(self.next, |pending| pending.max(polled.mined));
        }
        self.restart_clocks(advanced, now);
        self.find_stuck(now);
        self.find_gap(polled, now);
        done
    }

    fn found(&mut self, nonce: u64, hash: B256) -> Option<Done> {
        let slot = self.slots.remove(&nonce)?;
        Some(Done::Mined { slot: slot.id, work: slot.work, hash })
    }

    /// A transaction with this nonce was seen on the chain.
    fn used_by(&mut self, nonce: u64, hash: B256) -> Option<Done> {
        let slot = self.slots.get(&nonce)?;
        // It may have been signed since it was asked.
        let is_ours = slot.signed.iter().any(|signed| signed.hash == hash);
        if is_ours { None } else { self.displace(nonce) }
    }

    /// The nonce is used, and nobody says by whom.
    fn not_found(&mut self, look: &Look, asked_at: Duration, now: Duration) -> Option<Done> {
        let Patience { seek_every, give_up_after, .. } = self.patience;
        let slot = self.slots.get_mut(&look.nonce).filter(|slot| slot.maybe_out)?;
        let Phase::Used { since, seek_at } = &mut slot.phase else {
            // Receipts come somewhat later than the count.
            slot.phase = Phase::Used { since: now, seek_at: now + seek_every / 2 };
            return None;
        };
        if !look.seeks {
            return None;
        }
        *seek_at = now + seek_every;
        let is_over = asked_at >= *since + give_up_after;
        let (id, work, hash) = (slot.id, slot.work, slot.signed.last()?.hash);
        match work {
            Work::Filler => {
                self.slots.remove(&look.nonce);
                Some(Done::Void { slot: id })
            }
            Work::Payload(job) if is_over => {
                self.slots.remove(&look.nonce);
                Some(Done::Unknown { slot: id, job, hash })
            }
            Work::Payload(_) => None,
        }
    }

    /// What waits behind others is not stuck: its time begins when it is next. A nonce that was
    /// said to be used, and is not, is sent again.
    fn restart_clocks(&mut self, advanced: bool, now: Duration) {
        let (mined, head) = (self.mined, self.head);
        for (nonce, slot) in &mut self.slots {
            match &mut slot.phase {
                Phase::Waits { since, head: since_head, .. } if advanced => {
                    (*since, *since_head) = (now, head);
                }
                Phase::Used { since, .. }
                    if *nonce >= mined && now >= *since + self.patience.stuck_after =>
                {
                    slot.phase = Phase::Send { at: now };
                }
                _ => {}
            }
        }
    }

    /// When the next one to be mined takes too long, everything is sent again: a node may have
    /// forgotten it. If that does not help, it is signed again and dearer.
    fn find_stuck(&mut self, now: Duration) {
        let Patience { stuck_after, stuck_without_blocks_after, .. } = self.patience;
        let Some(slot) = self.slots.get_mut(&self.mined) else { return };
        let Phase::Waits { since, head, sent_again } = slot.phase else { return };
        let waited = now.saturating_sub(since);
        let blocks = self.head.saturating_sub(head);
        if !sent_again && waited >= stuck_after {
            for slot in self.slots.values_mut() {
                if matches!(slot.phase, Phase::Waits { sent_again: false, .. }) {
                    slot.phase = Phase::Send { at: now };
                }
            }
        } else if waited >= stuck_without_blocks_after || (waited >= stuck_after && blocks >= 2) {
            slot.phase = Phase::Sign;
        }
    }

    /// Nonces below ours that no node has anything for are used up.
    fn find_gap(&mut self, polled: &Polled, now: Duration) {
        let first = self.slots.first_key_value().map(|(first, _)| *first);
        let is_gap = first.is_some_and(|first| {
            first > polled.mined && polled.pending.is_some_and(|pending| pending <= polled.mined)
        });
        let Some(first) = first.filter(|_| is_gap) else {
            self.gap_since = None;
            return;
        };
        let since = *self.gap_since.get_or_insert(now);
        if now >= since + self.patience.stuck_after {
            self.gap_since = None;
            for nonce in polled.mined..first.min(polled.mined + FILL_MAX) {
                let slot = Slot::new(self.slot_id(), Work::Filler, None);
                self.slots.insert(nonce, slot);
            }
        }
    }
}
