//! The types of the nonce decisions: ids, transactions, and the inputs and outputs of
//! [`Nonces`](super::nonces::Nonces).

use std::time::Duration;

use alloy::primitives::{B256, Bytes};

use super::error::BroadcastError;
use crate::admin::WeiPerGas;

/// The shortest and the longest pause before a transaction whose response was lost is sent again. Guesses:
/// a lost response is often due to a proxy that restarts. There is no jitter, because the simulation
/// replays these decisions by seed.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The number of errors after which a payload is given up that no node accepts and one may have. A guess: with the
/// pauses above they take half a minute, longer than a proxy or a node restarts.
const ERRORS_MAX: u32 = 20;
/// The number of contested answers after which the next payload to be mined is given up: an endpoint calls the payload
/// accepted, and another endpoint refuses it. A guess: two such answers are two blocks and two seconds apart, or ten
/// seconds, and the price rises with each answer. So nodes that have the payload would have mined it by then.
const CONTESTED_MAX: u32 = 5;
/// The number of answers after which the next payload to be mined gets a higher price. In each of these answers an
/// endpoint has another transaction with the payload's nonce, and a second endpoint gives no clear answer. A guess:
/// with the pauses, ten seconds.
const OUTBID_MAX: u32 = 5;

/// The id of a payload to broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct JobId(pub(super) u64);

/// The id of an assignment of a nonce to a payload, also in the record. A payload that gets
/// another nonce gets another slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SlotId(pub(super) u64);

/// The bounds of the nonce decisions, most of them times after which transactions count as stuck or lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// The largest number of nonces in use at once.
    pub(super) in_flight_max: usize,
    /// The time after which the next transaction to be mined is sent again. After as long again and at
    /// least two blocks, it is replaced.
    pub(super) stuck_after: Duration,
    /// The time after which it is replaced even if there are no new blocks.
    pub(super) stuck_without_blocks_after: Duration,
    /// The interval of searches for the user of a nonce that is used although no own transaction has a receipt.
    pub(super) seek_every: Duration,
    /// The time without a search result after which the payload's outcome is given up as unknown.
    pub(super) give_up_after: Duration,
}

impl Timeouts {
    /// Returns the default timeouts. Guesses for chains with block times of at most two seconds. Giving up takes five
    /// minutes, because a wrong answer to the caller costs more than a late one.
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
pub(super) struct SignedTransaction {
    pub(super) hash: B256,
    pub(super) price: WeiPerGas,
    pub(super) raw: Bytes,
    /// True if it is a filler.
    pub(super) is_filler: bool,
}

impl AccountState {
    /// Returns true if every endpoint was asked.
    pub(super) fn is_whole(&self) -> bool {
        self.asked > 0
    }
}

/// A transaction that is due to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DueTransaction {
    pub(super) nonce: u64,
    pub(super) purpose: NoncePurpose,
    pub(super) signed: SignedTransaction,
    pub(super) recipients: Recipients,
}

/// The endpoints that get a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recipients {
    /// The preferred endpoint, and every endpoint if the preferred one does not accept the transaction soon.
    First,
    /// Every one, because one may lately have kept a transaction to itself, or was slow.
    All,
    /// Every one, because a node may already have the transaction, unmined.
    AllAgain,
}

/// The purpose of a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoncePurpose {
    /// Puts a payload on the chain.
    Payload(JobId),
    /// Uses the nonce without a payload (a *filler*), so that later nonces can be mined.
    Filler,
}

/// A transaction to sign and to record. The driver answers with `Nonces::signed` or `Nonces::not_signed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SignRequest {
    pub(super) slot: SlotId,
    pub(super) nonce: u64,
    pub(super) purpose: NoncePurpose,
    /// The highest price signed so far for this nonce.
    pub(super) over: Option<WeiPerGas>,
    /// The lowest price of the new transaction.
    pub(super) price_min: WeiPerGas,
    /// True if it is signed again only because the price on which endpoints agree has risen.
    pub(super) follows: bool,
    /// The payload's former slot, which ends when this transaction is on record.
    pub(super) instead_of: Option<SlotId>,
}

/// The outcome of recording a signed transaction.
#[derive(Debug, Clone)]
pub(super) enum Recorded {
    /// The transaction may be sent.
    Yes,
    /// The transaction is not on record and must not be sent.
    No(BroadcastError),
    /// The answer was lost. Another process that takes over the nonce may find the transaction and send it.
    Maybe,
}

/// A node's response to a transaction that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SendOutcome {
    /// The node has the transaction, or had it.
    Accepted,
    /// The response was lost; the node may have the transaction.
    Lost,
    /// An endpoint says that it has the transaction. Another endpoint refuses the transaction, or answers with an
    /// unspecific error. Either endpoint may lie.
    Contested(String),
    /// The node answered with an unspecific error; it may have the transaction. Or an endpoint refuses the transaction,
    /// and another endpoint gives an answer by which it does not claim to have it.
    Unclear(String),
    /// The nonce is used, by this transaction or by another one.
    NonceUsed,
    /// The node lacks transactions with lower nonces.
    NonceAhead,
    /// An endpoint lacks transactions with lower nonces, and may accept this one later. Another one refuses it: this is
    /// the outcome once it is the next one to be mined.
    NonceAheadForSome(Box<Self>),
    /// The node has another transaction with this nonce. The price of the sent transaction is too low to replace it.
    Underpriced,
    /// An endpoint answers [`Underpriced`](Self::Underpriced). Another endpoint gives this answer, by which it does not
    /// claim to have the transaction.
    UnderpricedForSome(Box<Self>),
    /// The price is below the chain's current minimum.
    TooCheap(String),
    /// Some endpoints say that the price is below the minimum, and another one accepts no transaction at present or
    /// gives no clear answer. One that lies may have passed the transaction on.
    TooCheapForSome(String),
    /// The node does not have the transaction and accepts none at present.
    Later,
    /// The node will never accept the transaction.
    Refused(String),
}

impl SendOutcome {
    /// Returns true if the node may have the transaction, or has had it.
    pub(super) fn may_be_out(&self) -> bool {
        matches!(
            self,
            Self::Accepted
                | Self::Contested(_)
                | Self::Lost
                | Self::Unclear(_)
                | Self::NonceUsed
                | Self::NonceAheadForSome(_)
                | Self::UnderpricedForSome(_)
                | Self::TooCheapForSome(_)
        )
    }
}

/// The account's transaction counts as reported by one endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AccountCounts {
    /// The number of mined transactions: the lowest unused nonce.
    pub(super) mined: u64,
    /// The number of mined and pending transactions, if it was polled.
    pub(super) pending: Option<u64>,
    /// True if the endpoint has shown the transaction before `mined`, with the account's signature.
    pub(super) is_proven: bool,
}

/// The state of the account on the chain.
#[derive(Debug, Clone, Default)]
pub(super) struct AccountState {
    /// The driver's time at the start of the poll.
    pub(super) asked_at: Duration,
    /// The counts of the endpoints that answered.
    pub(super) counts: Vec<AccountCounts>,
    /// The number of endpoints if every one was asked, else 0; in that case only transactions with receipts are used.
    pub(super) asked: usize,
    /// The latest block.
    pub(super) head: u64,
    /// The uses of the queried nonces that an endpoint reports as used.
    pub(super) uses: Vec<(NonceQuery, NonceUse)>,
}

/// A query for the transactions of a nonce in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NonceQuery {
    pub(super) slot: SlotId,
    pub(super) nonce: u64,
    pub(super) purpose: NoncePurpose,
    /// The hashes of all transactions signed for the nonce, the latest first.
    pub(super) hashes: Vec<B256>,
    /// The hashes of fillers in place of a payload. The proof that one of them is mined refuses the payload.
    pub(super) fillers: Vec<B256>,
    /// True if every endpoint is to be searched for the transaction that used the nonce.
    pub(super) seeks: bool,
    /// The latest block when the first of them was signed; `None` after a restart.
    pub(super) since_block: Option<u64>,
}

/// The proven use of a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NonceUse {
    /// No proof was found. This is inconclusive: receipts may lag behind the count or be pruned.
    Unknown,
    /// The payload is on the chain, by this transaction.
    Mined(B256),
    /// Another transaction of the account used the nonce.
    Other(B256),
}

/// The end of a slot. The caller of a payload that ends otherwise than mined is answered after the end is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SlotOutcome {
    /// This transaction is mined.
    Mined {
        /// The slot that ended.
        slot: SlotId,
        /// Its purpose.
        purpose: NoncePurpose,
        /// The mined transaction.
        hash: B256,
    },
    /// Every node refuses the payload, no node has it, and it will not be sent again.
    Refused {
        /// The slot that ended.
        slot: SlotId,
        /// The payload.
        job: JobId,
        /// The node's message.
        reason: String,
    },
    /// A filler has ended: its nonce is used or given back.
    Void {
        /// The slot that ended.
        slot: SlotId,
    },
    /// The nonce is used and no endpoint shows by which transaction: the payload may be on the chain.
    Unknown {
        /// The slot that ended.
        slot: SlotId,
        /// The payload.
        job: JobId,
        /// The payload's latest transaction.
        hash: B256,
    },
}

impl SlotOutcome {
    /// Returns the slot that ended.
    pub(super) fn slot(&self) -> SlotId {
        match self {
            Self::Mined { slot, .. }
            | Self::Refused { slot, .. }
            | Self::Void { slot }
            | Self::Unknown { slot, .. } => *slot,
        }
    }
}

/// The progress of a slot.
#[derive(Debug)]
pub(super) enum Phase {
    /// A transaction has to be signed.
    Sign,
    /// The latest transaction has to be sent at this time.
    Send { at: Duration },
    /// A node has the transaction. `since` and `head` are the time and the latest block when it
    /// became the next one to be mined.
    Pending { since: Duration, head: u64, sent_again: bool },
    /// The nonce is used, and the transaction that used it is sought.
    Used { since: Duration, seek_at: Duration },
}

/// The assignment of one nonce to a payload or a filler.
#[derive(Debug)]
pub(super) struct NonceSlot {
    pub(super) id: SlotId,
    pub(super) purpose: NoncePurpose,
    /// All transactions signed for the nonce, the oldest first.
    pub(super) signed: Vec<SignedTransaction>,
    /// True if a node may have one of the transactions, or may get it from another process. The nonce
    /// can then no longer be given back.
    pub(super) maybe_out: bool,
    /// True if the latest transaction may not be on record. It is not sent from here before it is.
    pub(super) is_unrecorded: bool,
    /// True if its next transaction only follows the price, because another one had to be replaced.
    pub(super) follows: bool,
    pub(super) since_block: Option<u64>,
    pub(super) instead_of: Option<SlotId>,
    /// Attempts since a node last accepted one of its transactions.
    pub(super) tries: u32,
    /// Higher prices that were signed since then, because the chain called a transaction too cheap.
    pub(super) raises: u32,
    /// The number of errors with which nodes have refused the slot's transactions since a node last accepted one. They
    /// count while a node may have one of these transactions.
    pub(super) errors: u32,
    /// The number of contested answers since a transaction was last accepted without a refusal. Only answers about the
    /// next transaction to be mined count.
    pub(super) contested: u32,
    /// The number of undecided answers since a transaction was last accepted, or last got a higher price because of
    /// such answers. In each, one endpoint calls the payload too cheap to replace another transaction, and a second
    /// endpoint gives no clear answer.
    pub(super) outbid: u32,
    /// The last of these errors, once the payload is given up and a filler uses the nonce.
    pub(super) given_up: Option<String>,
    pub(super) phase: Phase,
}

impl NonceSlot {
    /// Creates a slot whose first transaction has to be signed.
    pub(super) fn new(id: SlotId, purpose: NoncePurpose, instead_of: Option<SlotId>) -> Self {
        Self {
            id,
            purpose,
            signed: Vec::new(),
            maybe_out: false,
            is_unrecorded: false,
            follows: false,
            since_block: None,
            instead_of,
            tries: 0,
            raises: 0,
            errors: 0,
            contested: 0,
            outbid: 0,
            given_up: None,
            phase: Phase::Sign,
        }
    }

    /// Returns the highest price that was signed.
    pub(super) fn price(&self) -> Option<WeiPerGas> {
        self.signed.iter().map(|signed| signed.price).max()
    }

    /// Returns what a response says about the latest transaction. `is_next` is true if it is the next one to be mined,
    /// by the count: no lower nonces are missing.
    ///
    /// Two responses contradict the count of mined nonces: that the next nonce is used, and that lower nonces are
    /// missing. An endpoint that gives them lies, or is behind. Another endpoint may refuse a filler because it has the
    /// payload, or another sender's transaction, and the filler is too cheap to replace it. The contradiction outweighs
    /// such a refusal. So for a filler both responses count as lost. After a number of lost responses the filler's
    /// price rises.
    ///
    /// [`SendOutcome::UnderpricedForSome`] stays what it is only if the payload is to get a higher price now.
    pub(super) fn said(&mut self, response: SendOutcome, is_next: bool) -> SendOutcome {
        match response {
            SendOutcome::UnderpricedForSome(others) => {
                // About a later one, both may be right: one endpoint lacks lower nonces, and no node has the payload.
                self.maybe_out |= is_next;
                self.outbid += u32::from(is_next && !self.needs_filler());
                if self.outbid < OUTBID_MAX {
                    return self.said(*others, is_next);
                }
                self.outbid = 0;
                SendOutcome::UnderpricedForSome(others)
            }
            SendOutcome::NonceAheadForSome(others) if is_next => *others,
            SendOutcome::NonceUsed | SendOutcome::NonceAhead if is_next && self.needs_filler() => {
                SendOutcome::Lost
            }
            response => response,
        }
    }

    /// Counts an error with which a node has refused a transaction that another node may have. Returns true if the
    /// payload is to be given up now.
    pub(super) fn count_error(&mut self, reason: String) -> bool {
        self.errors = self.errors.saturating_add(1);
        self.give_up_if(self.errors >= ERRORS_MAX, reason)
    }

    /// Notes an error after which the transaction is sent again, unless the payload is given up now. A filler gets a
    /// higher price after the same number of errors: a node may refuse it because the node has the payload, or a
    /// transaction of another sender of this account, which the filler does not replace at its price.
    pub(super) fn failed(&mut self, reason: String, now: Duration) {
        self.maybe_out = true;
        let at = now + self.next_pause();
        let gives_up = self.count_error(reason);
        let raises = self.needs_filler() && self.errors >= ERRORS_MAX;
        if raises {
            self.errors = 0;
        }
        self.phase = if gives_up || raises { Phase::Sign } else { Phase::Send { at } };
    }

    /// Counts an answer in which one endpoint accepts and another endpoint refuses the next transaction to be mined.
    /// Returns true if the payload is to be given up now.
    pub(super) fn count_contested(&mut self, reason: String) -> bool {
        self.contested = self.contested.saturating_add(1);
        self.give_up_if(self.contested >= CONTESTED_MAX, reason)
    }

    /// Gives the payload up if it is enough. Returns true if that happens now; fillers are never given up.
    fn give_up_if(&mut self, is_enough: bool, reason: String) -> bool {
        let gives_up = is_enough
            && self.given_up.is_none()
            && matches!(self.purpose, NoncePurpose::Payload(_));
        if gives_up {
            self.given_up = Some(reason);
        }
        gives_up
    }

    /// Takes note that nodes have accepted its latest transaction and none has refused it.
    pub(super) fn accepted(&mut self) {
        (self.tries, self.raises, self.errors) = (0, 0, 0);
        (self.contested, self.outbid) = (0, 0);
    }

    /// Returns the hashes of the fillers in place of its payload.
    pub(super) fn fillers(&self) -> Vec<B256> {
        let is_payload = self.purpose != NoncePurpose::Filler;
        let fillers = self.signed.iter().filter(|it| is_payload && it.is_filler);
        fillers.map(|it| it.hash).collect()
    }

    /// Returns true if its next transaction uses the nonce without a payload.
    pub(super) fn needs_filler(&self) -> bool {
        self.purpose == NoncePurpose::Filler || self.given_up.is_some()
    }

    /// Returns true if a search for the nonce's user is due.
    pub(super) fn is_sought(&self, now: Duration) -> bool {
        matches!(self.phase, Phase::Used { seek_at, .. } if now >= seek_at)
    }

    /// Counts an attempt and returns the pause before the next one.
    pub(super) fn next_pause(&mut self) -> Duration {
        self.tries = self.tries.saturating_add(1);
        PAUSE_MIN.saturating_mul(1 << self.tries.min(5)).min(PAUSE_MAX)
    }
}
