//! Tests of the search for a nonce's user, on chains where the user is known.

use alloy::primitives::{Bytes, U256};
use alloy::rpc::types::TransactionReceipt;
use serde_json::{Value, json};

use super::super::signing::{TransactionSigner, UnsignedTransaction};
use super::super::slots::{JobId, NoncePurpose, SlotId};
use super::*;
use crate::admin::WeiPerGas;
use crate::send::Sender;
use hawser_devchain::deploy;
use hawser_devchain::devnet::{APP_ID, Devnet, DevnetSettings};
use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings, Genesis};
use hawser_proto::{GroupId, InboxId};

const GROUP: PayloadTopic = PayloadTopic::Group(GroupId([7; 16]));
const INBOX: PayloadTopic = PayloadTopic::Inbox(InboxId([8; 32]));

/// The hash of a transaction that was never sent.
fn lost() -> B256 {
    B256::repeat_byte(0xEE)
}

fn query(nonce: u64, hashes: &[B256], since_block: Option<u64>) -> NonceQuery {
    let (slot, purpose) = (SlotId(1), NoncePurpose::Payload(JobId(1)));
    let (hashes, fillers) = (hashes.to_vec(), Vec::new());
    NonceQuery { slot, nonce, purpose, hashes, fillers, seeks: true, since_block }
}

fn payload(number: u8) -> Bytes {
    vec![number; 120].into()
}

/// An app chain with contracts, and two accounts that send.
struct AppChain {
    chain: Chain,
    contracts: BroadcasterContracts,
    own: Sender,
    rival: Sender,
    _chains: Devnet,
}

impl AppChain {
    async fn start() -> Self {
        let chains = Devnet::start(DevnetSettings::default()).await.unwrap();
        let url = format!("http://{}", chains.app_address());
        let chain = Chain::connect(&url, APP_ID).await.unwrap();
        let at = &chains.deployment().addresses;
        let contracts = BroadcasterContracts {
            groups: at.group_message_broadcaster,
            identities: at.identity_update_broadcaster,
        };
        let [own, rival] = [5, 6].map(|account| sender(&chain, account));
        Self { chain, contracts, own, rival, _chains: chains }
    }

    fn sought(&self, topic: PayloadTopic, number: u8) -> SoughtPayload {
        let call = self.contracts.call(topic, payload(number));
        SoughtPayload { contracts: self.contracts, topic, call }
    }

    async fn send(&self, by: &Sender, topic: PayloadTopic, number: u8) -> BroadcastReceipt {
        let call = self.contracts.call(topic, payload(number));
        let sent = by.send(&call).await.unwrap();
        let block = self.chain.provider().get_block_by_hash(sent.block_hash.unwrap());
        BroadcastReceipt {
            sequence_id: self.contracts.sequence_id(topic, &call, &sent).unwrap(),
            transaction_hash: sent.transaction_hash,
            block_number: sent.block_number.unwrap(),
            block_time_s: block.await.unwrap().unwrap().header.timestamp,
        }
    }

    /// Returns the event found for a payload, no matter which transaction used the nonce.
    async fn event(&self, query: &NonceQuery, sought: &SoughtPayload) -> Option<BroadcastReceipt> {
        match seek(&self.chain, self.own.account(), query, Some(sought)).await.unwrap() {
            Some(NonceUser::Payload(MinedPayload::Event { receipt: broadcasted, .. })) => {
                Some(broadcasted)
            }
            None | Some(NonceUser::Other(_)) => None,
            Some(NonceUser::Payload(receipt)) => panic!("{receipt:?}"),
        }
    }
}

fn sender(chain: &Chain, account: usize) -> Sender {
    Sender::new(chain.clone(), deploy::accounts().swap_remove(account))
}

async fn tell(chain: &Chain, method: &'static str, params: Value) {
    let _: Value = chain.provider().raw_request(method.into(), params).await.unwrap();
}

async fn mine(chain: &Chain, blocks: u64) {
    tell(chain, "anvil_mine", json!([U64::from(blocks)])).await;
}

#[tokio::test]
async fn zero_in_a_log_is_no_time_of_its_block() {
    let app_chain = AppChain::start().await;
    let sent = app_chain.send(&app_chain.own, GROUP, 1).await;
    let block = Some(sent.block_number);
    let time_s = block_time(&app_chain.chain, Some(0), block).await.unwrap();
    assert_eq!(time_s, sent.block_time_s, "that of the header");
    let time_s = block_time(&app_chain.chain, Some(7), block).await.unwrap();
    assert_eq!(time_s, 7, "it needs no request");
}

#[tokio::test]
async fn a_receipt_proves_more_than_anything_else() {
    let app_chain = AppChain::start().await;
    let sent = app_chain.send(&app_chain.own, GROUP, 1).await;
    let query = query(0, &[lost(), sent.transaction_hash], Some(0));
    let wanted = app_chain.sought(GROUP, 1);
    let seen =
        seek(&app_chain.chain, app_chain.own.account(), &query, Some(&wanted)).await.unwrap();
    let Some(NonceUser::Payload(MinedPayload::Receipt { receipt, block_time_s })) = seen else {
        panic!("{seen:?}")
    };
    assert_eq!(receipt.transaction_hash, sent.transaction_hash);
    assert_eq!(block_time_s, sent.block_time_s);
}

#[tokio::test]
async fn a_payload_is_found_by_its_event_whatever_account_sent_it() {
    let app_chain = AppChain::start().await;
    for (topic, by) in [(GROUP, &app_chain.own), (INBOX, &app_chain.rival)] {
        let before = app_chain.chain.newest_block().await.unwrap();
        app_chain.send(by, topic, 1).await;
        let sent = app_chain.send(by, topic, 2).await;
        app_chain.send(by, topic, 3).await;
        let query = query(99, &[lost()], Some(before));
        assert_eq!(app_chain.event(&query, &app_chain.sought(topic, 2)).await, Some(sent));
        assert_eq!(
            app_chain.event(&query, &app_chain.sought(topic, 4)).await,
            None,
            "it was never sent"
        );
    }
    let query = query(99, &[lost()], Some(0));
    let elsewhere = app_chain.sought(PayloadTopic::Group(GroupId([9; 16])), 2);
    assert_eq!(app_chain.event(&query, &elsewhere).await, None, "the same bytes in another group");
}

#[tokio::test]
async fn only_what_was_sent_since_counts() {
    let app_chain = AppChain::start().await;
    let (first, wanted) =
        (app_chain.send(&app_chain.own, GROUP, 1).await, app_chain.sought(GROUP, 1));
    let since = |block| query(99, &[lost()], Some(block));
    assert_eq!(app_chain.event(&since(first.block_number), &wanted).await, Some(first));
    assert_eq!(app_chain.event(&since(first.block_number + 1), &wanted).await, None);
    let second = app_chain.send(&app_chain.rival, GROUP, 1).await;
    assert_eq!(app_chain.event(&since(first.block_number + 1), &wanted).await, Some(second));
    assert_eq!(
        app_chain.event(&since(second.block_number + 100), &wanted).await,
        None,
        "not yet there"
    );
}

#[tokio::test]
async fn after_a_crash_an_event_of_another_account_proves_nothing() {
    let app_chain = AppChain::start().await;
    let sent = app_chain.send(&app_chain.rival, GROUP, 1).await;
    let wanted = app_chain.sought(GROUP, 1);
    assert_eq!(app_chain.event(&query(99, &[lost()], None), &wanted).await, None);
    assert_eq!(app_chain.event(&query(99, &[lost()], Some(0)), &wanted).await, Some(sent));
}

#[tokio::test]
async fn a_long_stretch_is_searched_page_by_page() {
    let app_chain = AppChain::start().await;
    let from = app_chain.chain.newest_block().await.unwrap();
    mine(&app_chain.chain, 2 * PAGE_BLOCKS).await;
    let sent = app_chain.send(&app_chain.own, GROUP, 1).await;
    mine(&app_chain.chain, PAGE_BLOCKS).await;
    let wanted = app_chain.sought(GROUP, 1);
    // The pages have to cover every block, for every start of the first page.
    for shift in [0, 1, 2, PAGE_BLOCKS - 1, PAGE_BLOCKS] {
        let query = query(99, &[lost()], Some(from + shift));
        assert_eq!(app_chain.event(&query, &wanted).await, Some(sent), "from {shift} on");
    }
}

/// A chain without contracts, and an account with transactions in some of its blocks.
struct Bare {
    chain: Chain,
    own: Sender,
    _running: EmbeddedChain,
}

impl Bare {
    async fn start() -> Self {
        let accounts = deploy::accounts();
        let balances = accounts.iter().map(|key| (key.address(), deploy::NATIVE_BALANCE));
        let genesis = Genesis { balances: balances.collect(), ..Genesis::default() };
        let settings = EmbeddedSettings { genesis, ..EmbeddedSettings::new(APP_ID) };
        let running = EmbeddedChain::start(settings).await.unwrap();
        let url = format!("http://{}", running.local_addr());
        let chain = Chain::connect(&url, APP_ID).await.unwrap();
        let own = sender(&chain, 5);
        Self { chain, own, _running: running }
    }

    async fn pay(&self, by: &Sender) -> TransactionReceipt {
        let call = Call { to: Some(Address::repeat_byte(1)), data: Bytes::new(), value: U256::ONE };
        by.send(&call).await.unwrap()
    }

    /// Returns the use of a nonce for which other transactions were signed.
    async fn user(&self, nonce: u64) -> Option<B256> {
        let query = query(nonce, &[lost()], None);
        match seek(&self.chain, self.own.account(), &query, None).await.unwrap() {
            None => None,
            Some(NonceUser::Other(hash)) => Some(hash),
            Some(NonceUser::Payload(mined)) => panic!("{mined:?}"),
        }
    }
}

#[tokio::test]
async fn the_transaction_that_used_a_nonce_is_found_in_any_block() {
    let bare = Bare::start().await;
    let rival = sender(&bare.chain, 6);
    let mut used = Vec::new();
    for pause in [0, 0, 1, 2, 0, 7, 30, 0] {
        if pause > 0 {
            mine(&bare.chain, pause).await;
        }
        bare.pay(&rival).await; // the same nonce of another account
        used.push(bare.pay(&bare.own).await.transaction_hash);
    }
    for (nonce, hash) in (0..).zip(&used) {
        assert_eq!(bare.user(nonce).await, Some(*hash), "nonce {nonce}");
    }
    assert_eq!(bare.user(used.len() as u64).await, None, "it is unused");
    mine(&bare.chain, 100).await;
    assert_eq!(bare.user(0).await, Some(used[0]), "long ago");
}

#[tokio::test]
async fn the_first_block_may_have_it() {
    let bare = Bare::start().await;
    let sent = bare.pay(&bare.own).await;
    assert_eq!(sent.block_number, Some(1));
    assert_eq!(bare.user(0).await, Some(sent.transaction_hash));
}

#[tokio::test]
async fn several_of_one_block_are_told_apart() {
    let bare = Bare::start().await;
    tell(&bare.chain, "evm_setAutomine", json!([false])).await;
    let mut hashes = Vec::new();
    for (nonce, account) in (0..3u64).flat_map(|nonce| [(nonce, 6), (nonce, 5)]) {
        let signer = TransactionSigner::new(deploy::accounts().swap_remove(account), APP_ID);
        let unsigned = UnsignedTransaction {
            nonce,
            gas_price: WeiPerGas(10_000_000_000),
            gas_limit: 21_000,
            to: Address::repeat_byte(1),
            input: Bytes::new(),
        };
        let signed = signer.sign(unsigned).unwrap();
        let _ = bare.chain.provider().send_raw_transaction(&signed.raw).await.unwrap();
        if account == 5 {
            hashes.push((nonce, signed.hash));
        }
    }
    assert_eq!(bare.user(1).await, None, "it waits for a block");
    mine(&bare.chain, 1).await;
    for (nonce, hash) in hashes {
        assert_eq!(bare.user(nonce).await, Some(hash), "nonce {nonce}");
    }
}

/// Chains that impersonate accounts have transactions without the account's signature, as a lying endpoint shows them.
#[tokio::test]
async fn a_transaction_that_the_account_did_not_sign_proves_nothing() {
    let bare = Bare::start().await;
    let from = bare.own.account();
    tell(&bare.chain, "anvil_impersonateAccount", json!([from])).await;
    let transaction =
        json!({ "from": from, "to": Address::repeat_byte(1), "value": "0x1", "gas": "0x5208" });
    let sent = bare.chain.provider().raw_request("eth_sendTransaction".into(), [transaction]);
    let _: B256 = sent.await.unwrap();
    let count = bare.chain.transaction_count(from, BlockId::latest()).await.unwrap();
    assert_eq!(count, 1, "the chain has it");
    assert_eq!(bare.user(0).await, None);
}

/// The other form of a signature gives the payload's own transaction another hash.
#[tokio::test]
async fn the_payloads_own_transaction_under_another_hash_proves_nothing() {
    let bare = Bare::start().await;
    let sent = bare.pay(&bare.own).await;
    let block = json!(U64::from(sent.block_number.unwrap()));
    let block =
        bare.chain.provider().raw_request("eth_getBlockByNumber".into(), json!([block, true]));
    let block: Value = block.await.unwrap();
    let own = block["transactions"][0].clone();
    let judged = |it: &Value| signed_hash(it.clone(), APP_ID, bare.own.account(), 0);
    assert_eq!(judged(&own), Some(sent.transaction_hash));
    let mut renamed = own.clone();
    renamed["hash"] = json!(lost());
    assert_eq!(judged(&renamed), Some(sent.transaction_hash), "the hash is calculated");
    let mut mirrored = own.clone();
    let order: U256 =
        "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141".parse().unwrap();
    let s: U256 = own["s"].as_str().unwrap().parse().unwrap();
    mirrored["s"] = json!(order - s);
    let flip = |v: &Value| json!(if *v == json!("0x0") { "0x1" } else { "0x0" });
    mirrored["yParity"] = flip(&own["yParity"]);
    mirrored["v"] = flip(&own["v"]);
    assert_eq!(judged(&mirrored), None);
    assert_eq!(signed_hash(own, APP_ID + 1, bare.own.account(), 0), None, "of another chain");
}

#[tokio::test]
async fn a_transaction_of_the_payload_itself_is_no_other_user() {
    let bare = Bare::start().await;
    let sent = bare.pay(&bare.own).await.transaction_hash;
    let query = query(0, &[sent], None);
    let seen = seek(&bare.chain, bare.own.account(), &query, None).await.unwrap();
    assert!(matches!(seen, Some(NonceUser::Payload(mined)) if mined.hash() == sent));
}
