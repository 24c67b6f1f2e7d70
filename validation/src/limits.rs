//! The bounds of this crate. Any caller may send requests to the validation service, and any
//! account that pays for gas can put identity updates on a chain, so the cost of each is bounded
//! here.

use std::time::Duration;

/// Largest number of items (messages, key packages, updates) in one request to the service.
/// A guess: a few times what one device of a user holds.
pub const REQUEST_ITEMS_MAX: usize = 4096;

/// Largest number of actions in all updates of one request to the service. A guess: an action costs
/// at most two signature checks of about 100 µs, so a request costs at most about 3 s of one core.
pub const REQUEST_ACTIONS_MAX: usize = 16_384;

/// Largest number of contract wallets that one request to the service may have asked. A guess:
/// each costs two requests to an RPC provider.
pub const REQUEST_WALLETS_MAX: usize = 64;

/// Time for all contract wallets of one request to the service together. A guess: twice the limit of
/// one RPC request ([`hawser_chain::send::REQUEST_MAX`]).
pub const REQUEST_WALLETS_TIMEOUT: Duration = Duration::from_secs(20);

/// Requests to the service that are at work or wait for a core. A guess: each holds a message of up to
/// 25 MiB, and further ones are refused at once.
pub const REQUESTS_MAX: usize = 16;

/// Contract wallets that all requests to the service together may have asked in [`QUOTA_PERIOD`]. A guess:
/// each costs two requests to an RPC provider, which the operator pays.
pub const WALLETS_PER_PERIOD_MAX: usize = 600;

/// Questions to contract wallets that a gateway asks for all callers together within [`QUOTA_PERIOD`]. A guess: 50 a second,
/// more than a gateway sends transactions, and less than paid RPC providers allow.
pub const PRECHECK_WALLETS_MAX: usize = 3000;

/// Those for one caller. A guess: a twentieth of all, and more than a busy client needs.
pub const PRECHECK_WALLETS_PER_CALLER_MAX: usize = 150;

/// Period of [`WALLETS_PER_PERIOD_MAX`].
pub const QUOTA_PERIOD: Duration = Duration::from_secs(60);

/// Questions to contract wallets that are under way at once, for all callers together and for one
/// request. A guess that stays below the rate limits of public RPC providers.
pub const WALLETS_CONCURRENT_MAX: usize = 8;

/// Answers of contract wallets that are remembered. An entry takes about 128 bytes, so the worst
/// case is about 8 MiB.
pub const WALLET_ANSWERS_MAX: usize = 65_536;

/// Questions to contract wallets that wait for an answer. A guess.
pub const WALLET_QUESTIONS_MAX: usize = 10_000;

/// Bytes of the signatures in these questions together. A guess: real ones have 65 bytes, or some hundreds, and those
/// that a stranger makes as long as they can be push out their like.
pub const WALLET_QUESTIONS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Pause before a question that got no answer is asked again; each further failure doubles it. A
/// guess: about the time of a block.
pub const WALLET_PAUSE_MIN: Duration = Duration::from_secs(2);

/// Longest pause between two attempts at one question. A guess: an inbox waits no longer than this
/// after its wallet's chain is back.
pub const WALLET_PAUSE_MAX: Duration = Duration::from_secs(300);

/// Seconds by which the block that a contract wallet's signature names may be later than the event of its
/// update. Part of the protocol: all nodes of a network have the same. A guess: chains may run ahead of one
/// another by that much, and a signature is made before its event.
pub const WALLET_BLOCK_AHEAD_MAX_S: u64 = 3600;

/// Seconds after the event of an update, by the app chain's clock, from which on its contract wallet needs
/// no longer be waited for. Part of the protocol, as above. A guess: longer than the usual outage of a
/// provider, shorter than a night's sleep of an operator.
pub const WALLET_ANSWER_MAX_S: u64 = 6 * 3600;

/// Time for which a process looks for an answer in any case: a node that reads old events has to get their
/// answers first. A guess.
pub const WALLET_ASKED_MIN: Duration = Duration::from_secs(3600);

/// Questions to contract wallets whose first attempt is remembered. An entry takes about 128 bytes.
pub const WALLET_FIRSTS_MAX: usize = 65_536;

/// Questions of one waiting update that are looked for at once; the others follow when these are answered. An update can
/// name hundreds of wallets, or one wallet at hundreds of blocks, and its author pays for one transaction. A guess: more
/// than the wallets that sign any update of a client.
pub const WALLETS_PER_UPDATE_MAX: usize = 4;

/// Questions to the wallets of one chain that are under way at once. A guess that stays below the rate
/// limits of public RPC providers; a chain that is slow takes no room of another one.
pub const WALLETS_PER_CHAIN_MAX: usize = 4;

/// Interval at which waiting updates are judged again although no answer has arrived. A guess: it
/// brings back questions that [`WALLET_QUESTIONS_MAX`] has pushed out.
pub const JUDGE_AGAIN_EVERY: Duration = Duration::from_secs(300);

/// Blocks by which a signature may be ahead of an endpoint's newest block at a gateway: the wallet
/// may have used an endpoint that was ahead of ours. A guess.
pub const WALLET_BLOCKS_AHEAD_MAX: u64 = 10;

/// Total weight of remembered inbox states in bytes. A guess: a state of a few members weighs about
/// 2 kB, so this holds about 60,000 active inboxes, or one with about 170,000 members.
pub const INBOX_STATES_BYTES_MAX: u64 = 128 << 20;

/// Items of a request that one thread judges in a row. A guess: large enough that handing over
/// costs little beside a signature check, small enough that all cores take part.
pub const ITEMS_PER_THREAD: usize = 16;
