//! The state as Merkle Patricia tries: its root, and proofs against that root (yellow paper, appendix D).
//!
//! A changed trie shares all unchanged nodes with its predecessor, so the tries of all versions can be kept. A node is
//! hashed once, when its root is first requested.

mod node;

use std::sync::Arc;

use alloy::consensus::{EMPTY_ROOT_HASH, TrieAccount};
use alloy::primitives::{Address, B256, Bytes, U256, keccak256};

use super::state::{AccountState, StateDiff};
use node::{TrieNode, TrieValue};

impl TrieValue for U256 {
    fn rlp(&self) -> Vec<u8> {
        alloy::rlp::encode(self)
    }
}

/// An account as a leaf of the state trie.
#[derive(Debug, Clone, Default)]
struct AccountLeaf {
    account: AccountState,
    storage: Trie<U256>,
}

impl TrieValue for AccountLeaf {
    fn rlp(&self) -> Vec<u8> {
        let AccountState { nonce, balance, code_hash } = self.account;
        let storage_root = self.storage.root();
        alloy::rlp::encode(TrieAccount { nonce, balance, storage_root, code_hash })
    }
}

/// A trie whose keys are hashes.
#[derive(Debug, Clone)]
struct Trie<V>(Option<Arc<TrieNode<V>>>);

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self(None)
    }
}

impl<V: TrieValue> Trie<V> {
    fn root(&self) -> B256 {
        self.0.as_ref().map_or(EMPTY_ROOT_HASH, |node| keccak256(node.rlp()))
    }

    fn get(&self, key: B256) -> Option<&V> {
        self.0.as_ref()?.get(&nibbles(key))
    }

    /// Sets a value, or removes it with `None`.
    fn set(&mut self, key: B256, value: Option<V>) {
        let path = nibbles(key);
        self.0 = match value {
            Some(value) => Some(TrieNode::insert(self.0.as_ref(), &path, value)),
            None => self.0.as_ref().and_then(|node| TrieNode::remove(node, &path)),
        };
    }

    /// Returns the nodes on the path from the root to this key. They prove its value, or its absence.
    fn prove(&self, key: B256) -> Vec<Bytes> {
        let mut proof = Vec::new();
        if let Some(root) = &self.0 {
            root.prove(&nibbles(key), &mut proof);
        }
        proof
    }
}

/// Returns the nibbles of a key, its path through a trie.
fn nibbles(key: B256) -> [u8; 64] {
    std::array::from_fn(|at| if at % 2 == 0 { key[at / 2] >> 4 } else { key[at / 2] & 0xf })
}

/// The whole state as a trie of accounts.
#[derive(Debug, Clone, Default)]
pub(super) struct StateTrie(Trie<AccountLeaf>);

/// The proof of one account.
#[derive(Debug)]
pub(super) struct AccountProof {
    pub(super) account: AccountState,
    pub(super) storage_root: B256,
    pub(super) nodes: Vec<Bytes>,
    /// The value and the proof of each requested slot, in the order of the request.
    pub(super) slots: Vec<(U256, Vec<Bytes>)>,
}

impl StateTrie {
    /// Returns the state root.
    pub(super) fn root(&self) -> B256 {
        self.0.root()
    }

    /// Returns the state after a change.
    #[must_use]
    pub(super) fn after(&self, diff: &StateDiff) -> Self {
        let mut after = self.clone();
        for (address, change) in &diff.accounts {
            let key = keccak256(address);
            let mut leaf = after.0.get(key).cloned().unwrap_or_default();
            leaf.account = change.account;
            if change.wiped {
                leaf.storage = Trie::default();
            }
            for (slot, value) in &change.slots {
                leaf.storage.set(slot_key(*slot), (!value.is_zero()).then_some(*value));
            }
            // An account with nothing but a slot that a control method set is kept, so that its slot can be proved.
            let gone = leaf.account == AccountState::EMPTY && leaf.storage.0.is_none();
            after.0.set(key, (!gone).then_some(leaf));
        }
        after
    }

    /// Returns an account and some of its slots with their proofs.
    pub(super) fn prove(&self, address: Address, slots: &[U256]) -> AccountProof {
        let key = keccak256(address);
        let leaf = self.0.get(key).cloned().unwrap_or_default();
        let prove_slot = |slot: &U256| {
            let key = slot_key(*slot);
            (leaf.storage.get(key).copied().unwrap_or_default(), leaf.storage.prove(key))
        };
        AccountProof {
            account: leaf.account,
            storage_root: leaf.storage.root(),
            nodes: self.0.prove(key),
            slots: slots.iter().map(prove_slot).collect(),
        }
    }
}

fn slot_key(slot: U256) -> B256 {
    keccak256(slot.to_be_bytes::<32>())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alloy::consensus::private::alloy_trie::Nibbles;
    use alloy::consensus::private::alloy_trie::proof::verify_proof;
    use alloy::consensus::proofs::{state_root_unhashed, storage_root_unhashed};
    use proptest::prelude::*;

    use super::*;
    use crate::embedded::state::AccountDiff;

    /// The state as plain maps, with roots from another implementation.
    type Model = BTreeMap<Address, (AccountState, BTreeMap<U256, U256>)>;

    fn storage_root(slots: &BTreeMap<U256, U256>) -> B256 {
        storage_root_unhashed(slots.iter().map(|(slot, value)| (B256::from(*slot), *value)))
    }

    fn leaf((account, slots): &(AccountState, BTreeMap<U256, U256>)) -> TrieAccount {
        let AccountState { nonce, balance, code_hash } = *account;
        TrieAccount { nonce, balance, storage_root: storage_root(slots), code_hash }
    }

    fn root(model: &Model) -> B256 {
        state_root_unhashed(model.iter().map(|(address, account)| (*address, leaf(account))))
    }

    fn apply(model: &mut Model, diff: &StateDiff) {
        for (address, change) in &diff.accounts {
            let (account, slots) = model.entry(*address).or_default();
            *account = change.account;
            if change.wiped {
                slots.clear();
            }
            slots.extend(change.slots.iter().map(|(slot, value)| (*slot, *value)));
            slots.retain(|_, value| !value.is_zero());
        }
        model.retain(|_, (account, slots)| *account != AccountState::EMPTY || !slots.is_empty());
    }

    /// Generates changes of few addresses and slots, so that values are replaced and removed.
    fn change() -> impl Strategy<Value = (Address, AccountDiff)> {
        let slots = prop::collection::btree_map(0u64..40, 0u64..3, 0..12);
        (0u8..30, 0u64..3, 0u64..3, prop::bool::weighted(0.2), slots).prop_map(
            |(address, nonce, balance, wiped, slots)| {
                let slots =
                    slots.into_iter().map(|(slot, value)| (U256::from(slot), U256::from(value)));
                let balance = U256::from(balance) << 100;
                let account = AccountState { nonce, balance, ..AccountState::EMPTY };
                let change = AccountDiff { account, wiped, slots: slots.collect() };
                (Address::repeat_byte(address), change)
            },
        )
    }

    fn diffs() -> impl Strategy<Value = Vec<StateDiff>> {
        let accounts = prop::collection::btree_map(0usize..8, change(), 1..6);
        let diff = accounts.prop_map(|accounts| StateDiff {
            accounts: accounts.into_values().collect(),
            ..StateDiff::default()
        });
        prop::collection::vec(diff, 1..12)
    }

    /// Checks the proof of a value, or of its absence, with the other implementation.
    fn verify(root: B256, key: B256, value: Option<Vec<u8>>, proof: &[Bytes]) {
        verify_proof(root, Nibbles::unpack(key), value, proof).unwrap();
    }

    proptest! {
        #[test]
        fn roots_and_proofs_are_those_of_another_implementation(diffs in diffs()) {
            let (mut tries, mut models) = (vec![StateTrie::default()], vec![Model::default()]);
            for diff in &diffs {
                let mut model = models.last().unwrap().clone();
                apply(&mut model, diff);
                models.push(model);
                tries.push(tries.last().unwrap().after(diff));
            }
            // All earlier versions must be unchanged.
            for (trie, model) in tries.iter().zip(&models) {
                let root = root(model);
                prop_assert_eq!(trie.root(), root);
                for address in (0u8..32).map(Address::repeat_byte) {
                    let slots: Vec<_> = (0..41).map(U256::from).collect();
                    let proof = trie.prove(address, &slots);
                    let (account, kept) = model.get(&address).cloned().unwrap_or_default();
                    prop_assert_eq!(proof.account, account);
                    prop_assert_eq!(proof.storage_root, storage_root(&kept));
                    let there = model.get(&address).map(|account| alloy::rlp::encode(leaf(account)));
                    verify(root, keccak256(address), there, &proof.nodes);
                    for (slot, (value, nodes)) in slots.iter().zip(&proof.slots) {
                        prop_assert_eq!(*value, kept.get(slot).copied().unwrap_or_default());
                        let there = kept.get(slot).map(alloy::rlp::encode);
                        verify(proof.storage_root, slot_key(*slot), there, nodes);
                    }
                }
            }
        }
    }
}
