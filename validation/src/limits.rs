//! The bounds of this crate. Any caller may send requests to the validation service, and any
//! account that pays for gas can put identity updates on a chain, so the cost of each is bounded
//! here.

use std::time::Duration;

use hawser_proto::pb::xmtp::identity::associations::IdentityAction;

/// Memory that an action of an identity update takes in a request, bytes; an empty one has two on the wire. Calculated:
/// the list that it is decoded into may have grown to twice its length, and is copied once.
pub const ACTION_BYTES: usize = 3 * size_of::<IdentityAction>();

/// Memory that the check of a log takes for each byte of its updates, besides [`ACTION_BYTES`]. Calculated: an action
/// that gets beyond the reading of its update has a signature, so 79 bytes or more. While its update is checked it
/// takes at most 1,500 bytes beyond those for reading it: its signers, its part of the signed text and its changes. An
/// action that adds a member has 168 bytes or more. It takes at most 2,900 while its update is checked, and later some
/// 2,700: two copies of the state (a member and two used signatures) and the answer.
pub const LOG_BYTES_PER_BYTE: usize = 24;

/// Largest number of items (messages, key packages, updates) in one request to the service. A guess: a few times
/// what one device of a user holds.
pub const REQUEST_ITEMS_MAX: usize = 4096;

/// The actions of a log that are checked in one turn; then other requests have the core. A guess: an action costs at
/// most two signature checks of about 100 µs, so a turn takes some 25 ms.
///
/// The number of a request's actions has no bound besides the length of a message, nor has that of one update: a
/// bootstrapped update may be longer than those that the contract accepts from payers, and a reference node repeats
/// its request until it learns that an update is valid or invalid.
pub const ACTIONS_PER_TURN: usize = 128;

/// Largest number of contract wallets that the service asks for one request. Known answers do not count, so a caller
/// that repeats a request for a longer log makes progress. A guess: each costs two requests to an RPC provider.
pub const REQUEST_WALLETS_MAX: usize = 64;

/// Time for all contract wallets of one request to the service together. A guess: twice the limit of
/// one RPC request ([`hawser_chain::send::REQUEST_MAX`]).
pub const REQUEST_WALLETS_TIMEOUT: Duration = Duration::from_secs(20);

/// The maximum number of requests that the service works on or keeps waiting for a core. A single caller may have all
/// of them. At the limit, a further request is refused at once, unless another network, or another caller of its
/// network, has at least two requests more than its own. A guess: a request waits for a turn of each of the others,
/// some 1.5 s on one core. The memory of the requests is charged to the budget of all calls.
pub const REQUESTS_MAX: usize = 64;

/// Contract wallets that the service begins to ask in [`WALLET_TURN`], for all requests together. Together these are
/// 600 in a minute, and callers take turns at them. A guess: each costs two requests to an RPC provider, which the
/// operator pays for.
pub const WALLETS_PER_TURN_MAX: usize = 20;

/// Time after which another question may be begun in place of one. Chosen: a new caller waits no longer for its first
/// question than that, unless more callers wait than [`WALLETS_PER_TURN_MAX`].
pub const WALLET_TURN: Duration = Duration::from_secs(2);

/// Questions to contract wallets that a gateway begins to ask in [`WALLET_TURN`], for all callers together: 3,000 in a
/// minute. A guess: 50 a second, more than a gateway sends transactions, and less than paid RPC providers allow.
pub const PRECHECK_WALLETS_PER_TURN_MAX: usize = 100;

/// The part of [`PRECHECK_WALLETS_PER_TURN_MAX`] for callers to whose updates wallets have agreed within
/// [`PRECHECK_KNOWN_FOR`]. These callers may have the rest too. A guess: a quarter.
pub const PRECHECK_WALLETS_RESERVED: usize = 25;

/// Time for which a caller counts as known after wallets have agreed to its update. A guess: clients of one app use
/// their gateway every day.
pub const PRECHECK_KNOWN_FOR: Duration = Duration::from_secs(86_400);

/// Largest number of known callers of a tenant. A guess: an entry takes about 200 bytes, so the worst case is about
/// 2 MB.
pub const PRECHECK_KNOWN_MAX: usize = 10_000;

/// Longest wait of a caller of a gateway for its turn to have a wallet asked. A guess: half of the time that a gateway
/// has for the wallets of a request.
pub const PRECHECK_TURN_WAIT_MAX: Duration = Duration::from_secs(5);

/// Questions that a gateway asks for one caller within [`QUOTA_PERIOD`]. A guess: a twentieth of all, and more than a
/// busy client needs.
pub const PRECHECK_WALLETS_PER_CALLER_MAX: usize = 150;

/// Period of [`PRECHECK_WALLETS_PER_CALLER_MAX`]. Chosen: RPC providers count by the second or the day, operators by
/// the minute.
pub const QUOTA_PERIOD: Duration = Duration::from_secs(60);

/// The maximum number of concurrent questions to contract wallets for one request. A guess below the rate limits of
/// public RPC providers.
pub const WALLETS_CONCURRENT_MAX: usize = 8;

/// The maximum number of cached answers of contract wallets. An entry takes about 128 bytes, so the worst case is about
/// 8 MiB.
pub const WALLET_ANSWERS_MAX: usize = 65_536;

/// The maximum number of questions to contract wallets that wait for an answer. A guess.
pub const WALLET_QUESTIONS_MAX: usize = 10_000;

/// The maximum number of bytes of signatures in waiting questions. A guess: real signatures have 65 bytes, or a few
/// hundred. A flood of longest possible signatures evicts its own questions first.
pub const WALLET_QUESTIONS_BYTES_MAX: usize = 64 * 1024 * 1024;

/// First pause before an unanswered question is asked again; each further failure doubles it. A guess: about the time
/// of a block.
pub const WALLET_PAUSE_MIN: Duration = Duration::from_secs(2);

/// Longest pause between two attempts at one question. A guess: an inbox waits no longer than this
/// after its wallet's chain is back.
pub const WALLET_PAUSE_MAX: Duration = Duration::from_secs(300);

/// The maximum number of seconds by which the block that a contract wallet's signature names may be later than the
/// event of its update. Part of the protocol: all nodes of a network use the same value. A guess: chains' clocks may
/// differ by that much, and a signature is made before its event.
pub const WALLET_BLOCK_AHEAD_MAX_S: u64 = 3600;

/// Seconds after the event of an update, by the app chain's clock, after which a node stops waiting for its contract
/// wallet. Part of the protocol, as above. A guess: longer than the usual outage of a provider, shorter than a night's
/// sleep of an operator.
pub const WALLET_ANSWER_MAX_S: u64 = 6 * 3600;

/// The shortest time for which a process asks for an answer, even if [`WALLET_ANSWER_MAX_S`] has passed: a node that
/// reads old events must have a chance to get their answers. A guess.
pub const WALLET_ASKED_MIN: Duration = Duration::from_secs(3600);

/// The maximum number of questions whose first attempt is remembered. A guess: an entry takes about 80 bytes, so the
/// worst case is about 16 MiB. If more are open, those that came later wait until earlier ones are decided.
pub const WALLET_FIRSTS_MAX: usize = 200_000;

/// The maximum number of questions of which a client remembers since when few endpoints reply. A guess: all waiting
/// questions ([`WALLET_QUESTIONS_MAX`]) and those of the validation service in ten minutes ([`WALLETS_PER_TURN_MAX`]).
/// An entry takes about 128 bytes, so the worst case is about 2 MiB.
pub const WALLET_FEW_REPLIES_MAX: usize = 16_384;

/// The maximum number of concurrent questions of one waiting update; the others follow when these are answered. An
/// update can name hundreds of wallets, or one wallet at hundreds of blocks, and its author pays for one transaction
/// only. A guess: more than the wallets that sign any update of a client.
pub const WALLETS_PER_UPDATE_MAX: usize = 4;

/// The maximum number of concurrent questions to the wallets of one chain. A guess below the rate limits of public RPC
/// providers. The bound is per chain, so a slow chain does not delay another one.
pub const WALLETS_PER_CHAIN_MAX: usize = 4;

/// Interval at which waiting updates are validated again although no answer has arrived. It queues questions again that
/// a full queue ([`WALLET_QUESTIONS_MAX`]) has dropped. A guess.
pub const JUDGE_AGAIN_EVERY: Duration = Duration::from_secs(300);

/// The maximum number of blocks by which a signature may be ahead of the newest block of a gateway's endpoint: the
/// wallet may have used an endpoint that was ahead of it. A guess.
pub const WALLET_BLOCKS_AHEAD_MAX: u64 = 10;

/// Bound on the total weight of cached inbox states in bytes. A guess: a state of a few members weighs about
/// 2 kB, so this holds about 60,000 active inboxes, or one with about 170,000 members.
pub const INBOX_STATES_BYTES_MAX: u64 = 128 << 20;

/// Items of a request that one thread validates in a row. A guess: large enough that the handover costs little beside a
/// signature check, small enough that all cores take part.
pub const ITEMS_PER_THREAD: usize = 16;

/// The maximum number of threads that validate items of one request at the same time. Chosen: the [`REQUESTS_MAX`]
/// requests that one caller may have then wait for 1,024 turns together, as many as a gate lets one caller wait for.
pub const REQUEST_THREADS_MAX: usize = 16;

/// Seconds after which a caller may find a place or a turn, of which it has none for now. A guess: most requests are
/// answered within it.
pub const RETRY_AFTER_PLACE_S: u64 = 1;

/// Seconds after which a service that does not answer, such as an endpoint of a wallet's chain, may answer again. A
/// guess: the next request asks anew, and a restart takes some.
pub const RETRY_AFTER_SILENCE_S: u64 = 5;
