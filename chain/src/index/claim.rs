//! Logs that one endpoint shows in a recheck and that were not read: whether they count is decided by the receipts
//! that every endpoint has of their transactions.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use alloy::primitives::{Address, B256};
use alloy::rpc::types::Log;

use super::event::{BlockRef, ContractEvent, EventSource, is_same};
use super::event_set::{EventSet, by_block};

/// The largest numbers of transactions of one claim, whose receipts are requested, and of its logs. Guesses: far above
/// the payments of most blocks, and few enough that an invented claim costs little. The next recheck finds the others.
const TRANSACTIONS_MAX: usize = 200;
const CLAIM_LOGS_MAX: usize = 1000;

/// Logs of a block that one endpoint shows and that were not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The block, as the endpoint has it.
    pub block: BlockRef,
    /// The logs that were not read.
    pub logs: Vec<Log>,
}

/// The answer of one endpoint to the question about the receipts of a claim.
#[derive(Debug, Clone, Default)]
pub struct ReceiptAnswer {
    /// The logs in the receipts of the claim's transactions.
    pub logs: Vec<Log>,
    /// The endpoint's block at the height of the claimed block.
    pub block: Option<BlockRef>,
}

/// The result of asking every endpoint about a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimVerdict {
    /// The chain has events that were not read.
    Confirmed,
    /// Endpoints are on different branches, of which only one has the events, so no endpoint can be preferred.
    Contradicted,
    /// An endpoint that has the block lacks the claimed logs.
    Denied,
    /// A proof of the block has events that were not read. Those endpoints are silent that could confirm the block, or
    /// name the transaction otherwise.
    Proven,
    /// No endpoint denies the claim, and none that suffices confirms it, because some did not answer.
    Open,
}

impl Claim {
    /// Returns a claim with the first block that has events that are not known, on any branch. Logs
    /// of other contracts are ignored.
    #[must_use]
    pub fn find(
        blocks: &RangeInclusive<u64>,
        known: &EventSet,
        logs: &[Log],
        source: EventSource,
        address: Address,
    ) -> Option<Self> {
        by_block(blocks, logs, source, address).into_iter().find_map(|((number, hash), logs)| {
            let (mut seen, mut transactions) = (EventSet::default(), BTreeSet::new());
            // An event counts as read wherever it was: a reorganisation may have moved it.
            let is_new = |(index, (log, event)): &(u64, (&Log, ContractEvent))| {
                let transaction = log.transaction_hash.unwrap_or_default();
                seen.add((number, *index), transaction, event) > known.count(transaction, event)
            };
            let is_asked_for = |log: &&Log| {
                transactions.extend(log.transaction_hash);
                transactions.len() <= TRANSACTIONS_MAX
            };
            let new = logs.into_iter().filter(is_new).map(|(_, (log, _))| log);
            let logs: Vec<_> = new.take_while(is_asked_for).take(CLAIM_LOGS_MAX).cloned().collect();
            (!logs.is_empty()).then(|| Self { block: BlockRef { number, hash }, logs })
        })
    }

    /// Returns the transactions whose receipts decide the claim.
    #[must_use]
    pub fn transactions(&self) -> BTreeSet<B256> {
        self.logs.iter().filter_map(|log| log.transaction_hash).collect()
    }

    /// Returns true if an endpoint has the claimed block without one of the claimed logs.
    #[must_use]
    pub(crate) fn is_denied_by(&self, answer: &ReceiptAnswer) -> bool {
        let lacks = |log: &Log| !answer.logs.iter().any(|other| is_same(other, log));
        answer.block == Some(self.block) && self.logs.iter().any(lacks)
    }

    /// Judges a claim by the answer of each endpoint: `None` for one that did not answer. `by` is the index of
    /// the claiming endpoint, and `active` that of the endpoint in use. `hosts` has the scheme, host and port of each.
    ///
    /// A log is confirmed if no endpoint denies it, and either an endpoint with another host or port than `by` has it
    /// in a receipt, or the endpoint in use has the host and port of `by`. An endpoint that has the block denies a log
    /// that it lacks; an endpoint that has another block at that height contradicts it.
    #[must_use]
    pub fn judge(
        &self,
        by: usize,
        active: usize,
        hosts: &[String],
        answers: &[Option<ReceiptAnswer>],
    ) -> ClaimVerdict {
        let is_other = |place: usize| hosts.get(place) != hosts.get(by);
        let (mut is_confirmed, mut is_contradicted, mut is_open) = (false, false, false);
        for log in &self.logs {
            let (mut denied, mut contradicted, mut counts) = (false, false, !is_other(active));
            for (place, answer) in answers.iter().enumerate() {
                let Some(answer) = answer else { continue };
                if answer.logs.iter().any(|other| is_same(other, log)) {
                    counts |= is_other(place);
                } else if let Some(block) = answer.block {
                    denied |= block == self.block;
                    contradicted |= block != self.block;
                }
            }
            is_contradicted |= contradicted && !denied;
            is_confirmed |= counts && !denied && !contradicted;
            is_open |= !counts && !denied && !contradicted;
        }
        if is_contradicted {
            ClaimVerdict::Contradicted
        } else if is_confirmed {
            ClaimVerdict::Confirmed
        } else if is_open {
            ClaimVerdict::Open
        } else {
            ClaimVerdict::Denied
        }
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use alloy::primitives::LogData;
    use hawser_proto::OriginatorId;

    use super::*;
    use crate::contracts::node_registry::NodeRegistry::NodeRemovedFromCanonicalNetwork;

    const REGISTRY: Address = Address::repeat_byte(7);
    const TRANSACTION: B256 = B256::repeat_byte(9);

    fn block(hash: u8) -> BlockRef {
        BlockRef { number: 1, hash: B256::with_last_byte(hash) }
    }

    /// Returns a log of block 1 at this index; logs with equal indices and nodes are equal.
    fn log(index: u64, node: u32) -> Log {
        let event = NodeRemovedFromCanonicalNetwork { nodeId: node };
        let data: LogData = alloy::sol_types::SolEvent::encode_log_data(&event);
        Log {
            inner: alloy::primitives::Log { address: REGISTRY, data },
            block_hash: Some(block(1).hash),
            block_number: Some(1),
            transaction_hash: Some(TRANSACTION),
            log_index: Some(index),
            ..Log::default()
        }
    }

    /// Returns the claim with these logs, given that the removal of node 100 was read.
    fn claim(logs: &[Log]) -> Option<Claim> {
        let read =
            ContractEvent::MembershipChanged { node_id: OriginatorId(100), is_member: false };
        let mut known = EventSet::default();
        known.add((1, 0), TRANSACTION, &read);
        Claim::find(&(0..=1), &known, logs, EventSource::NodeRegistry, REGISTRY)
    }

    /// Returns the host and port of each endpoint.
    fn hosts() -> [String; 3] {
        ["http://a:1", "http://b:1", "http://c:1"].map(str::to_owned)
    }

    fn shows(logs: &[Log]) -> Option<ReceiptAnswer> {
        Some(ReceiptAnswer { logs: logs.to_vec(), block: Some(block(1)) })
    }

    #[test]
    fn only_events_of_the_contract_that_were_not_read_are_a_claim() {
        let (first, late) = (log(0, 100), log(1, 200));
        assert_eq!(claim(slice::from_ref(&first)), None);
        assert_eq!(claim(&[first.clone(), first.clone()]), None, "one log twice");
        let twice = [first.clone(), log(1, 100)];
        assert_eq!(claim(&twice).unwrap().logs, twice[1..], "one event twice");
        let mut foreign = late.clone();
        foreign.inner.address = Address::repeat_byte(8);
        assert_eq!(claim(&[first.clone(), foreign]), None, "another contract's");
        let outside = Log { block_number: Some(2), ..late.clone() };
        assert_eq!(claim(&[first.clone(), outside]), None, "another block's");
        let moved = Log { block_hash: Some(block(3).hash), ..first.clone() };
        assert_eq!(claim(&[moved]), None, "on another branch, and read on this one");
        let other = Log { block_hash: Some(block(3).hash), ..late.clone() };
        assert_eq!(claim(&[first.clone(), other]).unwrap().block, block(3));
        let forged = claim(&[log(0, 300)]).unwrap();
        assert_eq!((forged.block, forged.logs), (block(1), vec![log(0, 300)]));
        assert_eq!(claim(&[first, late.clone()]).unwrap().logs, [late]);
    }

    #[test]
    fn a_claim_of_many_transactions_or_logs_asks_for_some_of_them() {
        let many: Vec<_> = (0..300_u32)
            .map(|node| {
                let transaction_hash = Some(B256::left_padding_from(&node.to_be_bytes()));
                Log { transaction_hash, ..log(node.into(), node) }
            })
            .collect();
        assert_eq!(claim(&many).unwrap().transactions().len(), 200);
        let of_one: Vec<_> = (0..3000_u32).map(|node| log(node.into(), node)).collect();
        assert_eq!(claim(&of_one).unwrap().logs.len(), CLAIM_LOGS_MAX);
    }

    #[test]
    fn a_log_counts_if_another_endpoint_has_it_and_none_denies_it() {
        let (first, late) = (log(0, 100), log(1, 200));
        let all = [first.clone(), late];
        let claim = claim(&all).unwrap();
        let judge = |answers: &[Option<ReceiptAnswer>]| claim.judge(1, 0, &hosts(), answers);
        // The endpoint in use had served its block before its logs.
        assert_eq!(judge(&[shows(&all), shows(&all)]), ClaimVerdict::Confirmed);
        // The log or its content is invented.
        assert_eq!(judge(&[shows(slice::from_ref(&first)), shows(&all)]), ClaimVerdict::Denied);
        assert_eq!(
            judge(&[shows(&[first.clone(), log(1, 300)]), shows(&all)]),
            ClaimVerdict::Denied
        );
        // Two liars do not outweigh one endpoint that has the block.
        assert_eq!(
            judge(&[shows(slice::from_ref(&first)), shows(&all), shows(&all)]),
            ClaimVerdict::Denied
        );
        // An endpoint without the block does not deny, and one that does not answer does not confirm.
        let lagging = Some(ReceiptAnswer::default());
        assert_eq!(judge(&[shows(&all), shows(&all), lagging.clone()]), ClaimVerdict::Confirmed);
        assert_eq!(judge(&[None, shows(&all)]), ClaimVerdict::Open);
        assert_eq!(judge(&[lagging, shows(&all)]), ClaimVerdict::Open);
    }

    #[test]
    fn a_log_of_one_branch_is_neither_believed_nor_dropped_while_another_branch_is_shown() {
        let (first, late) = (log(0, 100), log(1, 200));
        let all = [first.clone(), late];
        let claim = claim(&all).unwrap();
        let forked =
            |logs: &[Log]| Some(ReceiptAnswer { logs: logs.to_vec(), block: Some(block(3)) });
        for by in [0, 1] {
            let answers = [shows(&all), shows(&all), forked(&[])];
            assert_eq!(claim.judge(by, 0, &hosts(), &answers), ClaimVerdict::Contradicted);
        }
        // Its own receipts differ from its logs.
        assert_eq!(
            claim.judge(1, 0, &hosts(), &[forked(&all), shows(&all)]),
            ClaimVerdict::Confirmed
        );
        // An endpoint on the same branch denies the log.
        let denied = [forked(&[]), shows(&all), shows(slice::from_ref(&first))];
        assert_eq!(claim.judge(1, 0, &hosts(), &denied), ClaimVerdict::Denied);
    }

    #[test]
    fn the_endpoint_that_is_read_from_needs_no_other_one_but_may_be_denied() {
        let (first, late) = (log(0, 100), log(1, 200));
        let all = [first.clone(), late];
        let claim = claim(&all).unwrap();
        let judge = |answers: &[Option<ReceiptAnswer>]| claim.judge(0, 0, &hosts(), answers);
        assert_eq!(judge(&[shows(&all)]), ClaimVerdict::Confirmed);
        assert_eq!(judge(&[shows(&all), None]), ClaimVerdict::Confirmed);
        assert_eq!(judge(&[shows(&all), shows(slice::from_ref(&first))]), ClaimVerdict::Denied);
    }

    /// One provider is in the settings by two URLs. It makes a log up while the receipts of the endpoint in use do not
    /// come, to have that one distrusted.
    #[test]
    fn one_host_does_not_confirm_its_own_claim_by_a_second_url() {
        let all = [log(0, 100), log(1, 200)];
        let claim = claim(&all).unwrap();
        let hosts = ["http://a:1", "http://b:1", "http://b:1"].map(str::to_owned);
        let answers = [None, shows(&all), shows(&all)];
        for by in [1, 2] {
            assert_eq!(claim.judge(by, 0, &hosts, &answers), ClaimVerdict::Open);
            assert_eq!(
                claim.judge(by, 1, &hosts, &answers),
                ClaimVerdict::Confirmed,
                "it is in use"
            );
        }
        assert_eq!(claim.judge(1, usize::MAX, &hosts, &answers), ClaimVerdict::Open, "none is");
    }
}
