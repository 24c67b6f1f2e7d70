//! The assignment of nonces to payloads, and the next step of each nonce: a plain value that
//! reads neither clock nor chain.
//!
//! ```text
//!             sign ──▶ send ──▶ pending ──▶ mined
//!               ▲        ▲         │
//!               └────────┴─────────┘  stuck: sent again, then signed again at a higher price
//! ```
//!
//! # Why a payload is mined once
//!
//! A payload holds one nonce at a time, and every transaction ever signed for it has that nonce. The chain mines at
//! most one transaction per nonce, so it mines at most one transaction of a payload.
//!
//! A payload moves to another nonce only on *proof* that another transaction used its own. A missing receipt is not
//! proof: nodes serve receipts later than counts, and some prune them. If no proof is found, the payload is given up as
//! unknown and never sent again, because a caller can resolve an unknown payload but not one that was mined twice.
//!
//! If nodes refuse a payload again and again while a node may have it, a filler with the same nonce is sent instead.
//! The outcome of the payload is known as soon as either the payload or the filler is mined. The filler starts at the
//! current price: a node that has the payload keeps it, and a node that refuses the payload takes the filler.
//!
//! # Why nonces have no gaps
//!
//! A chain mines an account's nonces in order, so one missing nonce blocks all later ones. The
//! nonce of a refused payload is given back if it is the highest. Otherwise a filler, a transaction
//! that does nothing, uses it up.

mod counts;
mod gap_fills;
mod gaps;
mod shared;
mod stuck;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use alloy::primitives::B256;
use gap_fills::Gaps;

use super::slots::{
    AccountState, DueTransaction, JobId, NoncePurpose, NonceQuery, NonceSlot, NonceUse, Phase,
    Recipients, SendOutcome, SignRequest, SignedTransaction, SlotId, SlotOutcome, Timeouts,
};
use crate::admin::WeiPerGas;

/// The divisor of the price increase of a replacement. go-ethereum demands a tenth of the old price
/// (`--txpool.pricebump`); an eighth leaves room for rounding.
const BUMP_DIVISOR: u128 = 8;
/// Attempts to sign a transaction again at a higher price after the chain has refused it as too cheap. Guess.
const PRICE_TRIES: u32 = 12;
/// The bound of a replacement's price, as a multiple of the current price. Guess: 17 replacements by an eighth each.
pub(crate) const PRICE_FACTOR_MAX: u128 = 8;

/// The nonces of one account.
///
/// Invariants: `next` is above every assigned nonce, and a slot in the phase [`Phase::Send`] or
/// later has a signed transaction.
#[derive(Debug)]
pub(super) struct Nonces {
    timeouts: Timeouts,
    /// The nonce that the next payload gets.
    next: u64,
    /// False until the first poll, and again after the account was seen to have another sender.
    /// While false, no nonce is assigned.
    is_current: bool,
    /// The lowest unused nonce on the chain.
    mined: u64,
    /// The latest block. Endpoints agree on it, or a single endpoint states it while no other endpoint answers.
    head: u64,
    /// The highest block that two endpoints have stated at once, or the only one.
    agreed_head: u64,
    /// The slots by nonce.
    slots: BTreeMap<u64, NonceSlot>,
    slots_made: u64,
    /// Payloads without a nonce, in the order of their turn, each with its former slot.
    ready: VecDeque<(JobId, Option<SlotId>)>,
    gaps: Gaps,
    /// The end of the time for which new transactions go to every endpoint.
    spread_until: Duration,
    /// The time at which every endpoint was asked last.
    whole_at: Option<Duration>,
    /// The time since which one of several endpoints alone answers, and counts more than is known.
    alone_since: Option<Duration>,
    /// The highest count that an endpoint has proven by a transaction of the account.
    proven: u64,
    /// The highest count of mined transactions that two endpoints have stated at once, or the only one; lowered when
    /// every endpoint states a lower one.
    confirmed: u64,
    /// The count of transactions up to the highest own one that was mined.
    seen_mined: u64,
    /// The chain's count of mined and pending transactions when it was polled last.
    pending: u64,
    /// Set if nonces come from outside, because other processes use the account too.
    shared: Option<SharedGaps>,
    /// True while payloads get no nonce.
    is_paused: bool,
    /// The count up to which nonces were used by this process, or before it; `None` before the first poll.
    known: Option<u64>,
    /// True once another sender was seen to use the account.
    rival_seen: bool,
}

/// The gaps among nonces that several processes use. They may be another process's to fill.
#[derive(Debug, Default)]
struct SharedGaps {
    found: Option<Range<u64>>,
    /// The gap about which Redis was asked last.
    asked: Option<Range<u64>>,
}

/// Returns the lowest price at which nodes let a transaction replace one of price `over`.
pub(crate) fn replacement_price(WeiPerGas(over): WeiPerGas) -> WeiPerGas {
    WeiPerGas(over.saturating_add(over / BUMP_DIVISOR).saturating_add(1))
}

/// Returns the lowest price of the next transaction with a slot's nonce. A filler need not replace the payload that was
/// given up: a node that has the payload is to keep it, and the ceilings may leave no room for a higher price.
fn price_min(slot: &NonceSlot) -> WeiPerGas {
    let is_given_up = slot.given_up.is_some();
    let replaced = slot.signed.iter().filter(|it| it.is_filler || !is_given_up);
    replaced.map(|it| replacement_price(it.price)).max().unwrap_or_default()
}

impl Nonces {
    pub(super) fn new(timeouts: Timeouts) -> Self {
        Self {
            timeouts,
            next: 0,
            is_current: false,
            mined: 0,
            head: 0,
            agreed_head: 0,
            slots: BTreeMap::new(),
            slots_made: 0,
            ready: VecDeque::new(),
            gaps: Gaps::default(),
            spread_until: Duration::ZERO,
            whole_at: None,
            alone_since: None,
            proven: 0,
            confirmed: 0,
            seen_mined: 0,
            pending: 0,
            shared: None,
            is_paused: false,
            known: None,
            rival_seen: false,
        }
    }

    /// Restores a slot of an earlier process. Slots come in the order of their ids, and any of their transactions may
    /// be out. If two slots have the same nonce, the later slot holds the nonce, because the earlier payload had given
    /// it up.
    pub(super) fn recover(
        &mut self,
        id: SlotId,
        nonce: u64,
        purpose: NoncePurpose,
        signed: Vec<SignedTransaction>,
    ) {
        assert!(!signed.is_empty(), "a slot on record has a signed transaction");
        self.reserve(id);
        let phase = Phase::Send { at: Duration::ZERO };
        let is_given_up = matches!(purpose, NoncePurpose::Payload(_))
            && signed.iter().any(|transaction| transaction.is_filler);
        let slot = NonceSlot {
            signed,
            maybe_out: true,
            phase,
            given_up: is_given_up.then(|| "it was given up before a restart".to_owned()),
            ..NonceSlot::new(id, purpose, None)
        };
        if let Some(earlier) = self.slots.insert(nonce, slot)
            && let NoncePurpose::Payload(job) = earlier.purpose
        {
            self.ready.push_back((job, Some(earlier.id)));
        }
        self.next = self.next.max(nonce + 1);
    }

    /// Keeps the id of a slot on record that is not resumed from being given to a new slot, whose nonce would differ.
    pub(super) fn reserve(&mut self, id: SlotId) {
        self.slots_made = self.slots_made.max(id.0);
    }

    fn slot_id(&mut self) -> SlotId {
        self.slots_made += 1;
        SlotId(self.slots_made)
    }

    /// Adds a payload whose turn has come. Payloads of one topic come one after another.
    pub(super) fn submit(&mut self, job: JobId) {
        self.ready.push_back((job, None));
    }

    /// Takes back a payload that has no nonce and never had one. Returns false if it stays.
    pub(super) fn withdraw(&mut self, job: JobId) -> bool {
        let before = self.ready.len();
        // A payload with a former slot is still on record: after a crash it would be sent again.
        self.ready.retain(|(ready, instead_of)| *ready != job || instead_of.is_some());
        self.ready.len() < before
    }

    /// Returns a query for each nonce whose transactions a node may have.
    pub(super) fn queries(&self, now: Duration) -> Vec<NonceQuery> {
        let slots = self.slots.iter().filter(|(_, slot)| slot.maybe_out);
        slots
            .map(|(nonce, slot)| NonceQuery {
                slot: slot.id,
                nonce: *nonce,
                purpose: slot.purpose,
                hashes: slot.signed.iter().map(|it| it.hash).rev().collect(),
                fillers: slot.fillers(),
                seeks: slot.is_sought(now),
                since_block: slot.since_block,
            })
            .collect()
    }

    /// Returns true if no nonce is in use and no payload waits for one.
    pub(super) fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.ready.is_empty()
    }

    /// Returns true if the account has to be polled before another nonce is assigned.
    pub(super) fn must_poll(&self) -> bool {
        !self.is_current
    }

    /// Returns true if the next poll has to ask every endpoint: one alone may be behind, or lie.
    pub(super) fn wants_all(&self, now: Duration) -> bool {
        let is_due = |at: Duration| now >= at + self.timeouts.stuck_after;
        self.wants_pending()
            || (!self.slots.is_empty() && self.whole_at.is_none_or(is_due))
            || self.slots.values().any(|it| it.is_sought(now))
    }

    /// Returns the count of transactions that this process knows of. No endpoint is believed alone that there are more.
    pub(super) fn known_count(&self) -> u64 {
        self.next.max(self.proven)
    }

    /// Returns true if the next poll has to count pending transactions.
    pub(super) fn wants_pending(&self) -> bool {
        !self.is_current
            || self.slots.first_key_value().is_some_and(|(first, _)| *first > self.mined)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// Returns the lowest nonce in use: the next one to be mined.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.slots.first_key_value().map(|(nonce, _)| *nonce)
    }

    /// Returns the latest transaction signed for a payload.
    pub(super) fn latest(&self, job: JobId) -> Option<B256> {
        let slot = self.slots.values().find(|slot| slot.purpose == NoncePurpose::Payload(job))?;
        slot.signed.iter().rev().find(|signed| !signed.is_filler).map(|signed| signed.hash)
    }

    /// Returns true if a payload waits for another nonce, because another sender has used its own.
    pub(super) fn is_displaced(&self, job: JobId) -> bool {
        self.ready.iter().any(|(ready, instead_of)| *ready == job && instead_of.is_some())
    }

    /// Takes back the payloads without a nonce whose callers have gone.
    pub(super) fn withdraw_unwanted(&mut self, is_wanted: impl Fn(JobId) -> bool) -> Vec<JobId> {
        let unwanted = self.ready.iter().filter(|(job, _)| !is_wanted(*job)).map(|(job, _)| *job);
        let mut unwanted: Vec<JobId> = unwanted.collect();
        unwanted.retain(|job| self.withdraw(*job));
        unwanted
    }

    /// Assigns nonces to waiting payloads. Returns the transactions to sign, ascending by nonce;
    /// all of them may go on record at once.
    pub(super) fn assign(&mut self) -> Vec<SignRequest> {
        if !self.is_current {
            return Vec::new();
        }
        let hands_out = self.shared.is_none() && !self.is_paused;
        while hands_out
            && self.slots.len() < self.timeouts.in_flight_max
            && let Some((job, instead_of)) = self.ready.pop_front()
        {
            let slot = NonceSlot::new(self.slot_id(), NoncePurpose::Payload(job), instead_of);
            self.slots.insert(self.next, slot);
            self.next += 1;
        }
        assert!(
            self.slots.last_key_value().is_none_or(|(last, _)| *last < self.next),
            "the next nonce is above every assigned one"
        );
        let to_sign = self.slots.iter().filter(|(_, slot)| matches!(slot.phase, Phase::Sign));
        to_sign
            .map(|(nonce, slot)| SignRequest {
                slot: slot.id,
                nonce: *nonce,
                purpose: match slot.needs_filler() {
                    true => NoncePurpose::Filler,
                    false => slot.purpose,
                },
                over: slot.price(),
                price_min: price_min(slot),
                follows: slot.follows,
                instead_of: slot.instead_of,
            })
            .collect()
    }

    /// Returns the transaction to send now, the one with the lowest nonce. The next one is due
    /// after [`sent`](Self::sent).
    ///
    /// One at a time keeps the nonces in order at the nodes, and lets a refused nonce be given back
    /// before the next one is out.
    pub(super) fn due(&self, now: Duration) -> Option<DueTransaction> {
        let is_due = |slot: &NonceSlot| {
            !slot.is_unrecorded && matches!(slot.phase, Phase::Send { at } if at <= now)
        };
        let (nonce, slot) = self.slots.iter().find(|(_, slot)| is_due(slot))?;
        let signed =
            slot.signed.last().expect("a slot that sends has a signed transaction").clone();
        Some(DueTransaction {
            nonce: *nonce,
            purpose: slot.purpose,
            signed,
            recipients: match slot.maybe_out {
                true => Recipients::AllAgain,
                false if now < self.spread_until => Recipients::All,
                false => Recipients::First,
            },
        })
    }

    /// Returns the time at which a transaction is due, if nothing else happens before.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let at = |slot: &NonceSlot| match slot.phase {
            Phase::Send { at } if !slot.is_unrecorded => Some(at),
            _ => None,
        };
        self.slots.values().filter_map(at).min()
    }

    /// Takes note that a transaction is signed and on record. `agreed_price` is the price at which other transactions
    /// are signed now: that of a replacement may rest on one endpoint that lies.
    pub(super) fn signed(
        &mut self,
        nonce: u64,
        signed: SignedTransaction,
        agreed_price: WeiPerGas,
        now: Duration,
    ) {
        let price = signed.price;
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        let is_replacement = !slot.signed.is_empty();
        if !is_replacement {
            slot.since_block = Some(self.head);
        }
        assert!(price >= price_min(slot), "a replacement pays enough to replace");
        slot.signed.push(signed);
        (slot.instead_of, slot.is_unrecorded, slot.follows) = (None, false, false);
        slot.phase = Phase::Send { at: now };
        if !is_replacement {
            return;
        }
        // If the agreed price has risen, the other pending transactions are too cheap as well.
        for slot in self.slots.values_mut() {
            let is_cheaper = price_min(slot) < agreed_price;
            if matches!(slot.phase, Phase::Pending { .. }) && is_cheaper {
                (slot.phase, slot.follows) = (Phase::Sign, true);
            }
        }
    }

    /// Takes note that a transaction was not signed or not recorded, or would cost too much. Gives
    /// the payload up if no node can have it.
    pub(super) fn not_signed(&mut self, nonce: u64, now: Duration) -> Option<SlotOutcome> {
        let head = self.head;
        let slot = self.slots.get_mut(&nonce)?;
        slot.follows = false;
        if slot.maybe_out {
            slot.phase = Phase::Pending { since: now, head, sent_again: false };
            return None;
        }
        self.refused(nonce, String::new(), now)
    }

    /// Takes note of a node's response to the transaction that was sent.
    pub(super) fn sent(
        &mut self,
        nonce: u64,
        outcome: SendOutcome,
        now: Duration,
    ) -> Option<SlotOutcome> {
        let head = self.head;
        let slot = self.slots.get_mut(&nonce)?;
        if !matches!(slot.phase, Phase::Send { .. }) {
            return None; // a poll found it on the chain meanwhile
        }
        let pending = |sent_again| Phase::Pending { since: now, head, sent_again };
        let outcome = slot.said(outcome, nonce == self.mined);
        slot.maybe_out |=
            matches!(outcome, SendOutcome::TooCheapForSome(_) | SendOutcome::NonceAheadForSome(_));
        match outcome {
            SendOutcome::Accepted => {
                slot.phase = pending(slot.maybe_out);
                slot.maybe_out = true;
                slot.accepted();
            }
            SendOutcome::Contested(reason) => {
                // A node mines a transaction only once its nonce is the account's next one.
                let is_next = slot.maybe_out && nonce == self.mined;
                let gives_up = is_next && slot.count_contested(reason);
                slot.phase = if gives_up { Phase::Sign } else { pending(slot.maybe_out) };
                slot.maybe_out = true;
            }
            SendOutcome::Lost if slot.needs_filler() => slot.failed(String::new(), now),
            SendOutcome::Lost => {
                slot.maybe_out = true;
                slot.phase = Phase::Send { at: now + slot.next_pause() };
            }
            SendOutcome::Unclear(reason) => slot.failed(reason, now),
            // It may be this very transaction: proxies send one twice.
            SendOutcome::NonceUsed => {
                slot.maybe_out = true;
                slot.phase = Phase::Used { since: now, seek_at: now };
            }
            SendOutcome::Underpriced if slot.maybe_out => slot.phase = pending(true),
            SendOutcome::Underpriced => return self.displace(nonce),
            SendOutcome::UnderpricedForSome(_) => slot.phase = Phase::Sign,
            SendOutcome::Later => slot.phase = Phase::Send { at: now + slot.next_pause() },
            SendOutcome::NonceAhead | SendOutcome::NonceAheadForSome(_) => {
                slot.phase = Phase::Send { at: now + slot.next_pause() };
                self.send_again_below(nonce, now);
            }
            SendOutcome::TooCheap(_) | SendOutcome::TooCheapForSome(_)
                if slot.raises < PRICE_TRIES || slot.needs_filler() =>
            {
                slot.raises = slot.raises.saturating_add(1);
                slot.phase = Phase::Sign;
            }
            SendOutcome::TooCheap(reason)
            | SendOutcome::TooCheapForSome(reason)
            | SendOutcome::Refused(reason) => {
                if slot.maybe_out {
                    let gives_up = slot.count_error(reason);
                    slot.phase = if gives_up { Phase::Sign } else { pending(false) };
                } else {
                    return self.refused(nonce, reason, now);
                }
            }
        }
        None
    }

    /// Ends a slot that no node has and none will take. Gives the nonce back if it is the highest.
    fn refused(&mut self, nonce: u64, reason: String, now: Duration) -> Option<SlotOutcome> {
        // A shared nonce goes back to where it came from.
        let is_shared = self.shared.is_some();
        let is_last =
            is_shared || self.slots.last_key_value().is_some_and(|(last, _)| *last == nonce);
        let filler = self.slot_id();
        let slot = self.slots.get_mut(&nonce)?;
        let (id, purpose) = (slot.id, slot.purpose);
        if is_last {
            self.slots.remove(&nonce);
            self.next = if is_shared { self.next } else { nonce };
        } else if purpose == NoncePurpose::Filler {
            let pause = slot.next_pause();
            slot.phase = match slot.signed.last() {
                Some(_) => Phase::Send { at: now + pause },
                None => Phase::Sign,
            };
            return None;
        } else {
            *slot = NonceSlot::new(filler, NoncePurpose::Filler, None);
        }
        Some(match purpose {
            NoncePurpose::Payload(job) => SlotOutcome::Refused { slot: id, job, reason },
            NoncePurpose::Filler => SlotOutcome::Void { slot: id },
        })
    }

    /// Moves a payload to another nonce, because another sender of the account uses its own.
    fn displace(&mut self, nonce: u64) -> Option<SlotOutcome> {
        let slot = self.slots.remove(&nonce)?;
        (self.is_current, self.rival_seen) = (false, true);
        match slot.purpose {
            NoncePurpose::Payload(job) if slot.given_up.is_some() => {
                let reason = slot.given_up.unwrap_or_default();
                Some(SlotOutcome::Refused { slot: slot.id, job, reason })
            }
            NoncePurpose::Payload(job) => {
                self.ready.push_front((job, Some(slot.id)));
                None
            }
            NoncePurpose::Filler => Some(SlotOutcome::Void { slot: slot.id }),
        }
    }

    /// Takes note of the account's state. Returns the slots that have ended.
    pub(super) fn polled(&mut self, state: &AccountState, now: Duration) -> Vec<SlotOutcome> {
        // The uses below may find another sender, which invalidates the state again.
        let before = self.mined;
        if state.is_whole() && !self.wait_for_others(state, now) {
            self.is_current = true;
            self.count(state, now);
        }
        let mut done = Vec::new();
        for (query, used) in &state.uses {
            // The nonce may have been assigned to another payload since the query.
            if self.slots.get(&query.nonce).is_none_or(|slot| slot.id != query.slot) {
                continue;
            }
            done.extend(match used {
                NonceUse::Mined(hash) => self.mined(query.nonce, *hash),
                NonceUse::Other(hash) => self.used_by(query.nonce, *hash),
                NonceUse::Unknown if state.is_whole() => self.not_shown(query, state.asked_at, now),
                NonceUse::Unknown => None,
            });
        }
        // Without own transactions, a higher `next` came from pending ones of another sender, which
        // may have been dropped since.
        if self.slots.is_empty() && state.counts.iter().any(|it| it.pending.is_some()) {
            self.next = self.pending.max(self.mined);
        }
        self.mined = if state.is_whole() { self.mined } else { self.mined.max(self.seen_mined) };
        self.restart_clocks(self.mined != before, now);
        self.find_stuck(now);
        self.find_gap(state, now);
        done
    }

    fn mined(&mut self, nonce: u64, hash: B256) -> Option<SlotOutcome> {
        let slot = self.slots.remove(&nonce)?;
        self.seen_mined = self.seen_mined.max(nonce + 1);
        let is_filler = slot.signed.iter().any(|signed| signed.hash == hash && signed.is_filler);
        Some(match slot.purpose {
            // The nonce is used up, so none of the payload's transactions can be mined any more.
            NoncePurpose::Payload(job) if is_filler => SlotOutcome::Refused {
                slot: slot.id,
                job,
                reason: slot.given_up.unwrap_or_default(),
            },
            purpose => SlotOutcome::Mined { slot: slot.id, purpose, hash },
        })
    }

    /// Takes note that a transaction with this nonce is on the chain that was not ours at the time
    /// of the query.
    fn used_by(&mut self, nonce: u64, hash: B256) -> Option<SlotOutcome> {
        let slot = self.slots.get(&nonce)?;
        // It may have been signed since the query.
        let is_ours = slot.signed.iter().any(|signed| signed.hash == hash);
        if is_ours { None } else { self.displace(nonce) }
    }

    /// Takes note that the nonce is used and no endpoint shows its use.
    fn not_shown(
        &mut self,
        query: &NonceQuery,
        asked_at: Duration,
        now: Duration,
    ) -> Option<SlotOutcome> {
        let Timeouts { seek_every, give_up_after, .. } = self.timeouts;
        if query.nonce >= self.mined {
            return None; // one endpoint alone calls it used
        }
        let slot = self.slots.get_mut(&query.nonce).filter(|slot| slot.maybe_out)?;
        let Phase::Used { since, seek_at } = &mut slot.phase else {
            // Nodes serve receipts somewhat later than the count, so the search starts later.
            slot.phase = Phase::Used { since: now, seek_at: now + seek_every / 2 };
            return None;
        };
        if !query.seeks {
            return None;
        }
        *seek_at = now + seek_every;
        let is_over = asked_at >= *since + give_up_after;
        let own = slot.signed.iter().rev().find(|signed| !signed.is_filler);
        let hash = own.or(slot.signed.last())?.hash;
        let (id, purpose) = (slot.id, slot.purpose);
        match purpose {
            NoncePurpose::Filler => {
                self.slots.remove(&query.nonce);
                Some(SlotOutcome::Void { slot: id })
            }
            NoncePurpose::Payload(job) if is_over => {
                self.slots.remove(&query.nonce);
                Some(SlotOutcome::Unknown { slot: id, job, hash })
            }
            NoncePurpose::Payload(_) => None,
        }
    }
}
