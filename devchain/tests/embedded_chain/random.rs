//! Tests of random histories: after any steps, every block keeps its state, and a reopened folder has the same chain.

use alloy::eips::eip2718::Encodable2718;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use hawser_devchain::embedded::{EmbeddedSettings, OfflineChain};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::*;

#[derive(Debug, Clone)]
enum Action {
    Send { from: u8, to: u8, amount: u64 },
    Mine { blocks: u8 },
    OnDemand(bool),
    SetBalance { of: u8, balance: u64 },
    Snapshot,
    Revert { snapshot: usize },
    Reorganise { depth: usize },
    Reopen,
}

fn action() -> impl Strategy<Value = Action> {
    let account = 0..4u8;
    prop_oneof![
        8 => (account.clone(), account.clone(), 0..1_000_000u64)
            .prop_map(|(from, to, amount)| Action::Send { from, to, amount }),
        3 => (1..4u8).prop_map(|blocks| Action::Mine { blocks }),
        2 => any::<bool>().prop_map(Action::OnDemand),
        2 => (account, any::<u64>())
            .prop_map(|(of, balance)| Action::SetBalance { of, balance }),
        2 => Just(Action::Snapshot),
        2 => (0..4usize).prop_map(|snapshot| Action::Revert { snapshot }),
        1 => (0..5usize).prop_map(|depth| Action::Reorganise { depth }),
        1 => Just(Action::Reopen),
    ]
}

/// A block as read while it was the head: its hash, and the values of the accounts.
type ObservedState = (Value, Vec<U256>);

struct Walk {
    folder: tempfile::TempDir,
    chain: Option<OfflineChain>,
    seen: Vec<ObservedState>,
    snapshots: Vec<(Value, Vec<ObservedState>)>,
}

impl Walk {
    fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut walk = Self { folder, chain: None, seen: Vec::new(), snapshots: Vec::new() };
        walk.open();
        walk.look();
        walk
    }

    fn open(&mut self) {
        self.chain = None;
        let data_dir = Some(self.folder.path().to_owned());
        self.chain =
            Some(OfflineChain::open(&EmbeddedSettings { data_dir, ..settings() }).unwrap());
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = self.chain.as_mut().unwrap().answer(request.to_string().as_bytes()).unwrap();
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        answer["result"].take()
    }

    fn balances(&mut self, block: Value) -> Vec<U256> {
        let accounts = (0..4).map(|index| signer(index).address()).chain([Address::ZERO]);
        let balance = |address| {
            serde_json::from_value(self.call("eth_getBalance", json!([address, block]))).unwrap()
        };
        accounts.map(balance).collect()
    }

    /// Records new blocks and the state at the head.
    fn look(&mut self) {
        let height: U256 = serde_json::from_value(self.call("eth_blockNumber", json!([]))).unwrap();
        let height: usize = height.to();
        self.seen.truncate(height + 1);
        for number in self.seen.len().saturating_sub(1)..=height {
            let tag = json!(format!("{number:#x}"));
            let block = self.call("eth_getBlockByNumber", json!([tag, false]));
            let balances = self.balances(tag);
            if number == self.seen.len() {
                if let Some((_, before)) = self.seen.last() {
                    let gone = before.iter().sum::<U256>() - balances.iter().sum::<U256>();
                    assert_eq!(gone, burnt(&block), "only the base fee disappears");
                }
                self.seen.push((block["hash"].clone(), balances));
            } else {
                assert_eq!(self.seen[number].0, block["hash"], "block {number}");
                self.seen[number].1 = balances;
            }
        }
    }

    fn check(&mut self) {
        for (number, (hash, balances)) in self.seen.clone().into_iter().enumerate() {
            let tag = json!(format!("{number:#x}"));
            let block = self.call("eth_getBlockByNumber", json!([tag, false]));
            assert_eq!(block["hash"], hash, "block {number}");
            assert_eq!(self.balances(tag), balances, "block {number}");
        }
        assert_eq!(
            self.call("eth_getBlockByNumber", json!(["latest", false]))["number"],
            json!(format!("{:#x}", self.seen.len() - 1))
        );
    }

    fn go(&mut self, action: &Action) {
        match action {
            Action::Send { from, to, amount } => self.send(*from, *to, *amount),
            Action::Mine { blocks } => {
                self.call("anvil_mine", json!([blocks]));
            }
            Action::OnDemand(on) => {
                self.call("evm_setAutomine", json!([on]));
            }
            Action::SetBalance { of, balance } => {
                let balance = U256::from(*balance) * U256::from(1_000_000_000u64);
                self.call("anvil_setBalance", json!([signer(*of).address(), balance]));
            }
            Action::Snapshot => {
                let id = self.call("evm_snapshot", json!([]));
                self.snapshots.push((id, self.seen.clone()));
            }
            Action::Revert { snapshot } if *snapshot < self.snapshots.len() => {
                let (id, seen) = self.snapshots[*snapshot].clone();
                assert_eq!(self.call("evm_revert", json!([id])), json!(true));
                self.snapshots.truncate(*snapshot);
                self.seen = seen;
                let balances = self.balances(json!("latest"));
                assert_eq!(Some(&balances), self.seen.last().map(|(_, balances)| balances));
            }
            Action::Reorganise { depth } if *depth < self.seen.len() => {
                self.call("anvil_reorg", json!([depth, []]));
                self.seen.truncate(self.seen.len() - depth);
                let kept = self.seen.len();
                // A rollback of a block also removes the snapshots taken on it.
                self.snapshots.retain(|(_, seen)| seen.len() <= kept);
            }
            Action::Revert { .. } | Action::Reorganise { .. } => {}
            Action::Reopen => {
                self.open();
                self.check();
                self.snapshots.clear();
            }
        }
        self.look();
    }

    fn send(&mut self, from: u8, to: u8, amount: u64) {
        let sender = signer(from).address();
        let nonce = self.call("eth_getTransactionCount", json!([sender, "pending"]));
        let nonce: U256 = serde_json::from_value(nonce).unwrap();
        let tx = transfer(from, |tx| {
            tx.nonce = nonce.to();
            tx.to = TxKind::Call(signer(to).address());
            tx.value = U256::from(amount);
        });
        self.call("eth_sendRawTransaction", json!([Bytes::from(tx.encoded_2718())]));
    }
}

fn burnt(block: &Value) -> U256 {
    let number = |name: &str| -> U256 { serde_json::from_value(block[name].clone()).unwrap() };
    number("baseFeePerGas") * number("gasUsed")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_block_keeps_its_state_whatever_happens(actions in prop::collection::vec(action(), 1..60)) {
        let mut walk = Walk::begin();
        for action in &actions {
            walk.go(action);
        }
        walk.check();
        walk.open();
        walk.check();
        let hashes: Vec<B256> =
            walk.seen.iter().map(|(hash, _)| serde_json::from_value(hash.clone()).unwrap()).collect();
        let mut distinct = hashes.clone();
        distinct.sort_unstable();
        distinct.dedup();
        prop_assert_eq!(distinct.len(), hashes.len());
    }
}
