//! The vocabulary of the nonce decisions: ids, transactions, and what goes into and comes out of
//! [`Nonces`](super::nonces::Nonces).

use std::time::Duration;

use alloy::primitives::{B256, Bytes};

use super::error::BroadcastError;

/// First and longest pause before a transaction whose response was lost is sent again. Guesses: a
/// lost response is often a restarted proxy. The pauses have no jitter, because the simulation
/// replays these decisions by seed.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Errors after which a payload is given up that no node accepts and one may have. A guess: with the pauses
/// above they take half a minute, longer than a proxy or a node restarts.
const ERRORS_MAX: u32 = 20;

/// A payload that a caller wants on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct JobId(pub(super) u64);

/// The assignment of a nonce to a payload, on record under this number. A payload that needs
/// another nonce gets another slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SlotId(pub(super) u64);

/// The bounds after which transactions count as stuck or lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// Nonces in use at once.
    pub(super) in_flight_max: usize,
    /// The next transaction to be mined is sent again after this time, and replaced after as long
    /// again and two blocks.
    pub(super) stuck_after: Duration,
    /// It is replaced after this time even without blocks.
    pub(super) stuck_without_blocks_after: Duration,
    /// Interval of the searches for the user of a nonce that is used and has no receipt of ours.
    pub(super) seek_every: Duration,
    /// The outcome of a payload stays unknown if these searches find nothing for this time.
    pub(super) give_up_after: Duration,
}

impl Timeouts {
    /// Returns the timeouts in use. Guesses for chains with blocks of two seconds and less; giving
    /// up takes five minutes, because a wrong answer to the caller costs more than a late one.
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
    /// Wei per unit of gas.
    pub(super) price: u128,
    pub(super) raw: Bytes,
    /// True if it only uses the nonce up.
    pub(super) is_filler: bool,
}

impl AccountState {
    /// Returns true if every endpoint was asked.
    pub(super) fn is_whole(&self) -> bool {
        self.asked > 0
    }
}

/// A transaction that is to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DueTransaction {
    pub(super) nonce: u64,
    pub(super) signed: SignedTransaction,
    /// True if a node may have it, and it was not mined: it is sent to every endpoint.
    pub(super) is_repeated: bool,
}

/// The purpose of a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoncePurpose {
    /// Puts a payload on the chain.
    Payload(JobId),
    /// Does nothing but use the nonce up, so that later ones can be mined.
    Filler,
}

/// A transaction to sign and to record. The driver answers with `Nonces::signed` or
/// `Nonces::not_signed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SignRequest {
    pub(super) slot: SlotId,
    pub(super) nonce: u64,
    pub(super) purpose: NoncePurpose,
    /// The highest price signed so far for this nonce. The new transaction must cost at least
    /// [`replacement_price`](super::nonces::replacement_price) of it.
    pub(super) over: Option<u128>,
    /// The payload's former slot, which it gives up with this one on record.
    pub(super) instead_of: Option<SlotId>,
}

/// The answer to a signed transaction that was to be put on record.
#[derive(Debug, Clone)]
pub(super) enum Recorded {
    /// It may be sent.
    Yes,
    /// It is not on record, and must not be sent.
    No(BroadcastError),
    /// The answer was lost. Another process that takes the nonce over may find it and send it.
    Maybe,
}

/// A node's response to a transaction that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SendOutcome {
    /// The node has it, or had it.
    Accepted,
    /// The response was lost: the node may have it.
    Lost,
    /// The node answers with an error of unknown meaning: it may have it.
    Unclear(String),
    /// The nonce is used.
    NonceUsed,
    /// Transactions before it are missing at this node.
    NonceAhead,
    /// The node has another transaction with this nonce, and this one does not pay enough to
    /// replace it.
    Underpriced,
    /// The price is below what the chain takes at present.
    TooCheap(String),
    /// The node does not have it and takes nothing at present.
    Later,
    /// The node will never take it.
    Refused(String),
}

/// The account's transactions by the word of one endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AccountCounts {
    /// The number of mined transactions: the lowest unused nonce.
    pub(super) mined: u64,
    /// The same including pending transactions, if it was polled.
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
    /// The number of endpoints if every one was asked, else 0: only transactions with receipts count then.
    pub(super) asked: usize,
    /// The latest block.
    pub(super) head: u64,
    /// The use of each queried nonce that an endpoint calls used.
    pub(super) uses: Vec<(NonceQuery, NonceUse)>,
}

/// A nonce in use whose transactions are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NonceQuery {
    pub(super) slot: SlotId,
    pub(super) nonce: u64,
    pub(super) purpose: NoncePurpose,
    /// The hashes of all transactions signed for the nonce, the latest first.
    pub(super) hashes: Vec<B256>,
    /// True if every endpoint is to be searched for the nonce's user.
    pub(super) seeks: bool,
    /// The latest block when the first of them was signed; `None` after a restart.
    pub(super) since_block: Option<u64>,
}

/// The proven use of a nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NonceUse {
    /// No proof was found. This is inconclusive: receipts may lag behind the count, or be pruned.
    Unknown,
    /// The payload is on the chain, by this transaction.
    Mined(B256),
    /// Another transaction of the account used the nonce.
    Other(B256),
}

/// The end of a slot. The caller of the payload hears of it once it is on record.
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
    /// Every node refuses the payload, and none has it or will take it.
    Refused {
        /// The slot that ended.
        slot: SlotId,
        /// The payload.
        job: JobId,
        /// The node's message.
        said: String,
    },
    /// A filler's nonce is used up or given back.
    Void {
        /// The slot that ended.
        slot: SlotId,
    },
    /// The nonce is used and its user cannot be found: the payload may be on the chain.
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
    /// A node has it. `since` and `head` are the time and the latest block when it became the next
    /// one to be mined.
    Pending { since: Duration, head: u64, sent_again: bool },
    /// The nonce is used, and its user is sought.
    Used { since: Duration, seek_at: Duration },
}

/// The assignment of one nonce.
#[derive(Debug)]
pub(super) struct NonceSlot {
    pub(super) id: SlotId,
    pub(super) purpose: NoncePurpose,
    /// All transactions signed for the nonce, the oldest first.
    pub(super) signed: Vec<SignedTransaction>,
    /// True if a node may have one of them, or may get it from another process. From then on the nonce cannot be
    /// given back.
    pub(super) maybe_out: bool,
    /// True if the latest transaction may not be on record: it is not sent from here before it is.
    pub(super) is_unrecorded: bool,
    pub(super) since_block: Option<u64>,
    pub(super) instead_of: Option<SlotId>,
    /// Attempts since a node accepted a transaction last.
    pub(super) tries: u32,
    /// Errors by which nodes have refused its transactions since one was accepted last, while a node may
    /// have one of them.
    pub(super) errors: u32,
    /// The last of these errors, once the payload is given up: a filler uses the nonce up then.
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
            since_block: None,
            instead_of,
            tries: 0,
            errors: 0,
            given_up: None,
            phase: Phase::Sign,
        }
    }

    /// Returns the highest price that was signed.
    pub(super) fn price(&self) -> Option<u128> {
        self.signed.iter().map(|signed| signed.price).max()
    }

    /// Counts an error by which a node has refused a transaction that another node may have. Returns true if
    /// the payload is to be given up now.
    pub(super) fn count_error(&mut self, said: String) -> bool {
        self.errors = self.errors.saturating_add(1);
        let gives_up = self.errors >= ERRORS_MAX
            && self.given_up.is_none()
            && matches!(self.purpose, NoncePurpose::Payload(_));
        if gives_up {
            self.given_up = Some(said);
        }
        gives_up
    }

    /// Returns true if the user of the nonce is to be sought now.
    pub(super) fn is_sought(&self, now: Duration) -> bool {
        matches!(self.phase, Phase::Used { seek_at, .. } if now >= seek_at)
    }

    /// Counts an attempt and returns the pause before the next one.
    pub(super) fn next_pause(&mut self) -> Duration {
        self.tries = self.tries.saturating_add(1);
        PAUSE_MIN.saturating_mul(1 << self.tries.min(5)).min(PAUSE_MAX)
    }
}
