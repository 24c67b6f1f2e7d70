//! The faults that a proxy can have.

/// The faults of the proxy. Those up to `narrow`, except `dead`, `hangs` and `wrong_chain`, occur at random.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Closes every connection.
    pub(crate) dead: bool,
    /// Does not answer requests that arrive.
    pub(crate) hangs: bool,
    pub(crate) wrong_chain: bool,
    /// Responds with status 500, or with a body that is not JSON.
    pub(crate) garbage: bool,
    pub(crate) slow: bool,
    /// Returns logs out of order, twice, or marked as removed.
    pub(crate) shuffled: bool,
    /// Omits logs.
    pub(crate) truncated: bool,
    /// Omits blocks.
    pub(crate) forgetful: bool,
    /// Refuses long block ranges.
    pub(crate) narrow: bool,
    /// Does not respond to requests for the logs of more than two blocks.
    pub(crate) weak: bool,
    /// The largest number of blocks of which it returns logs in one request; it refuses longer ranges.
    pub(crate) range_max: Option<u64>,
    /// The first block whose logs it has; it refuses ranges from earlier blocks on.
    pub(crate) pruned_below: Option<u64>,
    /// Refuses every request but that for its chain id.
    pub(crate) useless: bool,
    /// Refuses requests for its newest block.
    pub(crate) headless: bool,
    /// Omits transactions although it has their logs.
    pub(crate) unindexed: bool,
    /// The number of newest blocks that it lacks.
    pub(crate) behind: u64,
    /// The highest block that it has while it syncs anew.
    pub(crate) resyncing: Option<u64>,
    /// The time in milliseconds for which it serves a block without its logs.
    pub(crate) late_ms: u64,
    /// Omits the logs of every third block, always.
    pub(crate) omits: bool,
    /// Shows nothing of every third block, although it states newer ones: no header, no logs and no receipts.
    pub(crate) conceals: bool,
    /// Returns other payloads than those on the chain.
    pub(crate) forges: bool,
    /// Returns logs under the names of other transactions.
    pub(crate) renames: bool,
    /// The height up to which it makes up blocks above the chain's, the highest one with an event.
    pub(crate) invents: Option<u64>,
    /// Leaves the blocks that it makes up without events.
    pub(crate) is_barren: bool,
    /// The number that it states for its newest block, although it serves no such block.
    pub(crate) claims_head: Option<u64>,
    /// Refuses every other request for logs because of too many requests.
    pub(crate) limited: bool,
    /// Has no state of past blocks.
    pub(crate) stateless: bool,
    /// Returns this from all functions of all contracts, so every contract is paused, or none.
    pub(crate) claims_pause: Option<bool>,
    /// States a time an hour ahead for all blocks.
    pub(crate) misdates: bool,
    /// States another parent of each block.
    pub(crate) orphans: bool,
    /// Returns block headers whose bloom filters admit everything (true) or nothing (false).
    pub(crate) bloom: Option<bool>,
    /// The block from which on it is on another branch, with other hashes and without logs.
    pub(crate) forked_at: Option<u64>,
    /// Has no receipts of transactions, and returns block receipts without logs.
    pub(crate) denies: bool,
    /// Answers no request for receipts, because of too many requests.
    pub(crate) withholds: bool,
    /// Serves receipts only singly, not by block.
    pub(crate) singly: bool,
    /// Returns the same word from all functions of all contracts.
    pub(crate) feigns: bool,
    /// Returns an empty list from all functions of all contracts.
    pub(crate) empties: bool,
    /// The amount that it adds to the transaction counts of accounts.
    pub(crate) miscounts: i64,
    /// Accepts transactions and does not pass them on.
    pub(crate) swallows: bool,
    /// Neither answers transactions nor passes them on.
    pub(crate) mutes: bool,
    /// Refuses every transaction because of missing funds.
    pub(crate) refuses: bool,
    /// The lowest tip in wei of the transactions that it accepts.
    pub(crate) tip_min_wei: Option<u128>,
    /// Passes transactions on, and says that their nonce was used already.
    pub(crate) says_used: bool,
    /// Passes transactions on, and refuses them because of missing funds.
    pub(crate) says_refused: bool,
    /// Calls every transaction mined and failed, also those that are not mined.
    pub(crate) reverts: bool,
    /// Calls every transaction mined and successful, also those that are not mined.
    pub(crate) confirms: bool,
    /// The price of gas in wei, and of its parts, that it states.
    pub(crate) prices_wei: Option<u64>,
    /// The gas that it estimates for each call.
    pub(crate) estimates: Option<u64>,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        garbage: false,
        slow: false,
        shuffled: false,
        truncated: false,
        forgetful: false,
        narrow: false,
        ..Self::ALL
    };

    pub(crate) const ALL: Self = Self {
        dead: false,
        hangs: false,
        wrong_chain: false,
        garbage: true,
        slow: true,
        shuffled: true,
        truncated: true,
        forgetful: true,
        narrow: true,
        weak: false,
        range_max: None,
        pruned_below: None,
        useless: false,
        headless: false,
        unindexed: false,
        behind: 0,
        resyncing: None,
        late_ms: 0,
        omits: false,
        conceals: false,
        forges: false,
        renames: false,
        invents: None,
        is_barren: false,
        claims_head: None,
        limited: false,
        stateless: false,
        claims_pause: None,
        misdates: false,
        orphans: false,
        bloom: None,
        forked_at: None,
        denies: false,
        withholds: false,
        singly: false,
        feigns: false,
        empties: false,
        miscounts: 0,
        swallows: false,
        mutes: false,
        refuses: false,
        tip_min_wei: None,
        says_used: false,
        says_refused: false,
        reverts: false,
        confirms: false,
        prices_wei: None,
        estimates: None,
    };
}
