//! Agreement of the endpoints on a mined payload, since one endpoint may make up a receipt.
//!
//! A made-up success would acknowledge a payload that is not on the chain, and a made-up failure would have a payload
//! sent and paid for twice. So a proof counts when two endpoints show the same. If every other endpoint has stopped
//! (see `heads`), the proof of a success counts alone, and that of a failure does not: the caller of an open outcome
//! waits, and the caller of a made-up failure pays twice. The success of a filler is the failure of its payload. An
//! endpoint is its host and port, as with snapshots, because one provider may have several URLs.

use alloy::primitives::B256;

use super::heads::FollowingEndpoints;
use super::receipts::MinedPayload;

/// The proofs for one nonce that endpoints show, each with its endpoint.
#[derive(Debug, Default)]
pub(super) struct NonceProofs(Vec<(String, MinedPayload)>);

impl NonceProofs {
    /// Adds the answer of one more endpoint.
    pub(super) fn add(&mut self, endpoint: &str, proof: Option<MinedPayload>) {
        self.0.extend(proof.map(|proof| (endpoint.to_owned(), proof)));
    }

    /// Returns the proof of the first endpoint that shows one.
    pub(super) fn first(&self) -> Option<&MinedPayload> {
        self.0.first().map(|(_, proof)| proof)
    }

    /// Returns the proof that two endpoints show, or the one of the only endpoint that follows the chain. `fillers` are
    /// the transactions that refuse a payload if they are mined.
    pub(super) fn agreed(
        &self,
        following: &FollowingEndpoints,
        fillers: &[B256],
    ) -> Option<&MinedPayload> {
        let is_second = |endpoint: &String, proof: &MinedPayload| {
            self.0.iter().any(|(other, same)| other != endpoint && same.agrees_with(proof))
        };
        let counts_alone = |endpoint: &String, proof: &MinedPayload| {
            following.names.iter().all(|other| other == endpoint)
                && (following.configured <= 1
                    || (proof.is_success() && !fillers.contains(&proof.hash())))
        };
        let agreed = self.0.iter().find(|(endpoint, proof)| is_second(endpoint, proof));
        let alone = || self.0.iter().find(|(endpoint, proof)| counts_alone(endpoint, proof));
        agreed.or_else(alone).map(|(_, proof)| proof)
    }
}

/// The other transactions of the account that endpoints show for one nonce, each with its endpoint.
///
/// Such a transaction ends a payload's claim to its nonce, and the payload is sent again with another nonce. The
/// signature proves who signed the transaction, and not that it is mined: an endpoint may have kept a transaction that
/// another one replaced. So the transaction counts when two endpoints show it, or if only one endpoint is configured.
/// If every other endpoint has stopped, it does not count, just as the proof of a failure does not.
#[derive(Debug, Default)]
pub(super) struct ForeignTransactions(Vec<(String, B256)>);

impl ForeignTransactions {
    /// Adds the transaction that an endpoint shows.
    pub(super) fn add(&mut self, endpoint: &str, hash: B256) {
        self.0.push((endpoint.to_owned(), hash));
    }

    /// Returns the transaction of the first endpoint that shows one.
    pub(super) fn first(&self) -> Option<B256> {
        self.0.first().map(|(_, hash)| *hash)
    }

    /// Returns the transaction that two endpoints show, or the one of the only endpoint if `configured` is 1.
    pub(super) fn agreed(&self, configured: usize) -> Option<B256> {
        let is_second = |endpoint: &String, hash: &B256| {
            self.0.iter().any(|(other, same)| other != endpoint && same == hash)
        };
        let agreed =
            self.0.iter().find(|(endpoint, hash)| configured <= 1 || is_second(endpoint, hash));
        agreed.map(|(_, hash)| *hash)
    }
}

impl MinedPayload {
    /// Returns true if both prove the same outcome: the same transaction in a block of the same number and time, with
    /// the same events. The hash of the block is left out, because some rollups set it after the receipt.
    fn agrees_with(&self, other: &Self) -> bool {
        self.place() == other.place()
            && match (self, other) {
                (Self::Receipt { receipt: one, .. }, Self::Receipt { receipt: other, .. }) => {
                    let [one_logs, other_logs] =
                        [one, other].map(|it| it.inner.logs().iter().map(|log| &log.inner));
                    one.status() == other.status() && one_logs.eq(other_logs)
                }
                (Self::Receipt { receipt, .. }, Self::Event { log, .. })
                | (Self::Event { log, .. }, Self::Receipt { receipt, .. }) => {
                    receipt.status() && receipt.inner.logs().iter().any(|it| it.inner == *log)
                }
                (Self::Event { log: one, .. }, Self::Event { log: other, .. }) => one == other,
            }
    }

    fn is_success(&self) -> bool {
        match self {
            Self::Receipt { receipt, .. } => receipt.status(),
            Self::Event { .. } => true,
        }
    }

    /// Returns the transaction, and the number and the time of its block.
    fn place(&self) -> (B256, u64, u64) {
        match self {
            Self::Receipt { receipt, block_time_s } => {
                let number = receipt.block_number.unwrap_or_default();
                (receipt.transaction_hash, number, *block_time_s)
            }
            Self::Event { receipt, .. } => {
                (receipt.transaction_hash, receipt.block_number, receipt.block_time_s)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::consensus::{Eip658Value, Receipt, ReceiptEnvelope, ReceiptWithBloom};
    use alloy::primitives::{Address, Bytes, Log};
    use alloy::rpc::types::TransactionReceipt;

    use super::*;
    use crate::broadcast::outcome::BroadcastReceipt;

    const HASH: B256 = B256::repeat_byte(1);

    fn log(number: u8) -> Log {
        Log::new_unchecked(Address::ZERO, vec![B256::repeat_byte(9)], Bytes::from(vec![number]))
    }

    fn receipt(succeeded: bool, block: u64, events: &[u8]) -> MinedPayload {
        let logs = events.iter().map(|number| alloy::rpc::types::Log {
            inner: log(*number),
            ..alloy::rpc::types::Log::default()
        });
        let receipt = Receipt {
            status: Eip658Value::Eip658(succeeded),
            cumulative_gas_used: 0,
            logs: logs.collect(),
        };
        let receipt = TransactionReceipt {
            inner: ReceiptEnvelope::Legacy(ReceiptWithBloom::from(receipt)),
            transaction_hash: HASH,
            transaction_index: None,
            block_hash: None,
            block_number: Some(block),
            gas_used: 0,
            effective_gas_price: 0,
            blob_gas_used: None,
            blob_gas_price: None,
            from: Address::ZERO,
            to: None,
            contract_address: None,
        };
        MinedPayload::Receipt { receipt: Box::new(receipt), block_time_s: 100 }
    }

    fn event(number: u8) -> MinedPayload {
        let receipt = BroadcastReceipt {
            sequence_id: hawser_proto::SequenceId(u64::from(number)),
            transaction_hash: HASH,
            block_number: 5,
            block_time_s: 100,
        };
        MinedPayload::Event { receipt, log: log(number) }
    }

    fn of(names: &[&str], configured: usize) -> FollowingEndpoints {
        let names = names.iter().copied().map(str::to_owned).collect();
        FollowingEndpoints { names, configured }
    }

    /// Returns true if the proofs of the endpoints `a`, `b` and so on agree while these follow the chain.
    fn agreed(following: &[&str], shown: Vec<Option<MinedPayload>>) -> bool {
        let following = of(following, shown.len().max(following.len()));
        let mut shown_proofs = NonceProofs::default();
        for (endpoint, shown) in ["a", "b", "c", "d"].into_iter().zip(shown) {
            shown_proofs.add(endpoint, shown);
        }
        shown_proofs.agreed(&following, &[]).is_some()
    }

    #[test]
    fn two_endpoints_or_the_only_one_that_follows_prove_an_outcome() {
        let mined = || Some(receipt(true, 5, &[1]));
        let failed = || Some(receipt(false, 5, &[]));
        assert!(agreed(&["a"], vec![mined()]));
        assert!(agreed(&["a"], vec![failed()]), "there is no other one");
        assert!(agreed(&["b"], vec![None, mined()]), "the other one has stopped");
        assert!(agreed(&["a", "b"], vec![mined(), mined()]));
        assert!(agreed(&["a", "b", "c", "d"], vec![failed(), None, mined(), mined()]));
        assert!(agreed(&["a", "b"], vec![mined(), Some(event(1))]));
        assert!(agreed(&["a", "b", "c"], vec![Some(event(1)), None, Some(event(1))]));
    }

    #[test]
    fn one_of_several_endpoints_proves_nothing() {
        const TWO: [&str; 2] = ["a", "b"];
        let mined = || Some(receipt(true, 5, &[1]));
        assert!(!agreed(&TWO, vec![]));
        assert!(!agreed(&["a"], vec![None]));
        assert!(!agreed(&TWO, vec![mined()]), "the other one has failed just now");
        assert!(!agreed(&TWO, vec![mined(), None]));
        assert!(!agreed(&["b"], vec![mined(), None]), "the one that shows it has stopped");
        let failed = Some(receipt(false, 5, &[]));
        assert!(
            !agreed(&["b"], vec![None, failed]),
            "the one that has stopped may know of a success"
        );
        assert!(!agreed(&TWO, vec![None, Some(event(1))]));
        for other in [
            receipt(false, 5, &[1]),
            receipt(true, 6, &[1]),
            receipt(true, 5, &[2]),
            receipt(true, 5, &[]),
            receipt(true, 5, &[1, 1]),
            event(2),
        ] {
            assert!(!agreed(&TWO, vec![mined(), Some(other.clone())]), "{other:?}");
        }
        assert!(!agreed(&TWO, vec![Some(receipt(false, 5, &[1])), Some(event(1))]));
        assert!(!agreed(&TWO, vec![Some(event(1)), Some(event(2))]));
    }

    #[test]
    fn another_transaction_with_the_nonce_needs_a_second_endpoint() {
        let other = B256::repeat_byte(2);
        let agreed = |shown: &[(&str, B256)], configured| {
            let mut shown_proofs = ForeignTransactions::default();
            shown.iter().for_each(|(endpoint, hash)| shown_proofs.add(endpoint, *hash));
            assert_eq!(shown_proofs.first(), shown.first().map(|(_, hash)| *hash));
            shown_proofs.agreed(configured)
        };
        assert_eq!(agreed(&[], 1), None);
        assert_eq!(agreed(&[("a", HASH)], 1), Some(HASH), "there is no other endpoint");
        assert_eq!(agreed(&[("a", HASH)], 2), None);
        assert_eq!(agreed(&[("a", HASH), ("a", HASH)], 2), None, "two URLs of one endpoint");
        assert_eq!(agreed(&[("a", HASH), ("b", other)], 3), None);
        assert_eq!(agreed(&[("a", other), ("b", HASH), ("c", HASH)], 3), Some(HASH));
    }

    #[test]
    fn an_endpoint_that_is_asked_twice_is_no_second_one() {
        let mut shown_proofs = NonceProofs::default();
        shown_proofs.add("a", Some(receipt(true, 5, &[1])));
        shown_proofs.add("a", Some(receipt(true, 5, &[1])));
        assert!(shown_proofs.agreed(&of(&["a", "b"], 2), &[]).is_none());
    }

    /// An endpoint that has refused the payload could otherwise make up the receipt of the filler, while the other one
    /// is gone and has the payload.
    #[test]
    fn the_success_of_a_filler_counts_like_a_failure() {
        let mined = || Some(receipt(true, 5, &[]));
        let mut shown_proofs = NonceProofs::default();
        shown_proofs.add("a", mined());
        assert!(shown_proofs.agreed(&of(&["a"], 2), &[]).is_some());
        assert!(shown_proofs.agreed(&of(&["a"], 2), &[HASH]).is_none());
        assert!(shown_proofs.agreed(&of(&["a"], 1), &[HASH]).is_some(), "there is no other one");
        shown_proofs.add("b", mined());
        assert!(shown_proofs.agreed(&of(&["a", "b"], 2), &[HASH]).is_some());
    }
}
