//! The rule by which nodes decide about a contract wallet's signature in bounded time
//! (`docs/protocol/contract-wallets.md`). A function of its arguments.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::limits::{WALLET_ANSWER_MAX_S, WALLET_ASKED_MIN, WALLET_BLOCK_AHEAD_MAX_S};

/// The chains of contract wallets that clients know without configuration, by EIP-155 id: the default list
/// of libxmtp at commit a53a97e.
const CHAINS_OF_CLIENTS: [u64; 11] = [1, 10, 100, 137, 232, 324, 480, 2741, 8453, 42_161, 59_144];

/// The chains of contract wallets that a network knows. It is part of the protocol, so all nodes of a network have the
/// same: a wallet of another chain never signs. Development networks may add chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletChainList(BTreeSet<u64>);

impl Default for WalletChainList {
    /// Returns the chains that clients know without configuration.
    fn default() -> Self {
        Self(CHAINS_OF_CLIENTS.into())
    }
}

impl WalletChainList {
    /// Returns the chains that clients know without configuration, together with `more`, for a development network.
    #[must_use]
    pub fn with(more: impl IntoIterator<Item = u64>) -> Self {
        let Self(mut ids) = Self::default();
        ids.extend(more);
        Self(ids)
    }

    /// Returns true if the network knows this chain.
    #[must_use]
    pub fn contains(&self, chain_id: u64) -> bool {
        self.0.contains(&chain_id)
    }
}

/// The state of the answer to a question, as this process knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownAnswer {
    /// Nothing.
    Nothing,
    /// The chain does not have the block yet.
    NotYet {
        /// Time of the newest block that the chain had, unix seconds.
        newest_time_s: u64,
    },
    /// The wallet was asked.
    Given {
        /// True if it accepts the signature.
        agrees: bool,
        /// Time of the block at which it was asked, unix seconds.
        block_time_s: u64,
    },
}

/// All facts that the rule depends on.
#[derive(Debug, Clone, Copy)]
pub struct QuestionFacts {
    /// True if the network knows the wallet's chain.
    pub is_listed: bool,
    /// Time of the update's event: its block's on the app chain, unix seconds.
    pub event_s: u64,
    /// The latest time that this node knows of the app chain, unix seconds.
    pub chain_now_s: u64,
    /// Time for which the question has been unanswered in this process: since the first attempt.
    pub unanswered_for: Duration,
    /// The knowledge of the answer.
    pub known: KnownAnswer,
}

/// The decision about a wallet's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalletDecision {
    /// The wallet accepts it.
    Agrees,
    /// The wallet does not accept it, or the signature never counts: the update is invalid.
    Refused(WalletRefusal),
    /// There is no decision yet: the update waits for the answer.
    Open,
}

/// The reason a contract wallet's signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalletRefusal {
    /// The wallet does not accept it.
    Disagrees,
    /// The network does not know the chain.
    UnknownChain,
    /// The block is too far ahead of the event.
    BlockAhead,
    /// There was no answer in time. Only this reason may differ between nodes.
    Unanswered,
}

impl fmt::Display for WalletRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disagrees => "the contract wallet does not agree",
            Self::UnknownChain => "the network knows no contract wallets of this chain",
            Self::BlockAhead => "it names a block too far ahead of its own event",
            Self::Unanswered => "its contract wallet could not be asked in time",
        })
    }
}

/// Decides about one signature.
#[must_use]
pub fn decide(facts: &QuestionFacts) -> WalletDecision {
    let latest_block_s = facts.event_s.saturating_add(WALLET_BLOCK_AHEAD_MAX_S);
    let deadline_s = facts.event_s.saturating_add(WALLET_ANSWER_MAX_S);
    let is_late = facts.chain_now_s >= deadline_s && facts.unanswered_for >= WALLET_ASKED_MIN;
    let refused = WalletDecision::Refused;
    match facts.known {
        _ if !facts.is_listed => refused(WalletRefusal::UnknownChain),
        // The named block comes after the newest one, so it is no earlier.
        KnownAnswer::Given { block_time_s: at_s, .. }
        | KnownAnswer::NotYet { newest_time_s: at_s }
            if at_s > latest_block_s =>
        {
            refused(WalletRefusal::BlockAhead)
        }
        KnownAnswer::Given { agrees: true, .. } => WalletDecision::Agrees,
        KnownAnswer::Given { agrees: false, .. } => refused(WalletRefusal::Disagrees),
        KnownAnswer::Nothing | KnownAnswer::NotYet { .. } if is_late => {
            refused(WalletRefusal::Unanswered)
        }
        KnownAnswer::Nothing | KnownAnswer::NotYet { .. } => WalletDecision::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT_S: u64 = 1_800_000_000;

    fn facts(known: KnownAnswer) -> QuestionFacts {
        QuestionFacts {
            is_listed: true,
            event_s: EVENT_S,
            chain_now_s: EVENT_S,
            unanswered_for: Duration::ZERO,
            known,
        }
    }

    fn given(agrees: bool, block_time_s: u64) -> KnownAnswer {
        KnownAnswer::Given { agrees, block_time_s }
    }

    #[test]
    fn a_chain_outside_the_list_is_refused_whatever_an_endpoint_says() {
        let facts = QuestionFacts { is_listed: false, ..facts(given(true, EVENT_S)) };
        assert_eq!(decide(&facts), WalletDecision::Refused(WalletRefusal::UnknownChain));
        let list = WalletChainList::default();
        assert!(list.contains(8453) && !list.contains(31_337) && !list.contains(84_532));
        assert!(WalletChainList::with([31_337]).contains(31_337));
    }

    /// All nodes have this list, so a chain is added to it only together with the block at which the list changes.
    #[test]
    fn the_networks_list_is_the_one_that_the_protocol_names() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol/contract-wallets.md");
        let page = std::fs::read_to_string(path).unwrap();
        let page: Vec<&str> = page.split_whitespace().collect();
        let list: Vec<String> = WalletChainList::default().0.iter().map(u64::to_string).collect();
        let named = format!("without configuration ({}).", list.join(", "));
        assert!(page.join(" ").contains(&named), "{named}");
    }

    #[test]
    fn the_wallet_decides_at_blocks_up_to_the_margin_after_the_event() {
        let margin_s = EVENT_S + WALLET_BLOCK_AHEAD_MAX_S;
        for (agrees, decision) in [
            (true, WalletDecision::Agrees),
            (false, WalletDecision::Refused(WalletRefusal::Disagrees)),
        ] {
            for at_s in [0, EVENT_S, margin_s] {
                assert_eq!(decide(&facts(given(agrees, at_s))), decision);
            }
            let ahead = decide(&facts(given(agrees, margin_s + 1)));
            assert_eq!(ahead, WalletDecision::Refused(WalletRefusal::BlockAhead));
        }
    }

    #[test]
    fn a_block_that_never_comes_is_refused_when_the_wallets_chain_has_passed_the_margin() {
        let not_yet = |newest_time_s| decide(&facts(KnownAnswer::NotYet { newest_time_s }));
        assert_eq!(not_yet(EVENT_S + WALLET_BLOCK_AHEAD_MAX_S), WalletDecision::Open);
        let passed = not_yet(EVENT_S + WALLET_BLOCK_AHEAD_MAX_S + 1);
        assert_eq!(passed, WalletDecision::Refused(WalletRefusal::BlockAhead));
    }

    #[test]
    fn silence_ends_by_the_chains_clock_and_not_before_this_node_has_tried() {
        let late_s = EVENT_S + WALLET_ANSWER_MAX_S;
        let at = |chain_now_s, unanswered_for| {
            decide(&QuestionFacts { chain_now_s, unanswered_for, ..facts(KnownAnswer::Nothing) })
        };
        let unanswered = WalletDecision::Refused(WalletRefusal::Unanswered);
        assert_eq!(at(late_s, WALLET_ASKED_MIN), unanswered);
        assert_eq!(at(late_s - 1, WALLET_ASKED_MIN), WalletDecision::Open);
        assert_eq!(at(u64::MAX, WALLET_ASKED_MIN - Duration::from_secs(1)), WalletDecision::Open);
        // A late answer counts as long as the signature is undecided.
        let late = QuestionFacts {
            chain_now_s: late_s,
            unanswered_for: WALLET_ASKED_MIN,
            ..facts(given(true, EVENT_S))
        };
        assert_eq!(decide(&late), WalletDecision::Agrees);
    }
}
