//! Questions to contract wallets, on both kinds of development chain.

use alloy::primitives::{Address, B256, Bytes, hex, keccak256};
use alloy::providers::Provider as _;
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolValue as _;
use hawser_chain::send::{Call, Chain, Sender};
use hawser_mls::identity::WalletQuestion;
use hawser_validation::wallets::client::{EndpointReply, ask};
use hawser_validation::wallets::{
    ChainReply, NewestBlock, WalletChains as _, WalletError, WalletRpc,
};

use crate::pair::{self, ChainBackend, Pair};

crate::on_both_kinds_of_chain! {
    a_deployed_wallet_is_asked_itself_at_the_block_that_is_named
    a_wallet_that_is_not_there_yet_is_deployed_for_the_question
    an_account_without_code_signs_with_its_key
    odd_questions_get_the_answers_that_clients_get
    wallets_that_misbehave_do_not_agree
    a_wallet_sees_the_gas_and_the_sender_of_the_protocol
    blocks_that_are_not_there_yet_are_told_apart
}

mod harness {
    alloy::sol! {
        #[sol(rpc)]
        WalletHarness,
        "../contracts/artifacts/WalletHarness.json"
    }
    alloy::sol! {
        #[sol(rpc)]
        WalletFactoryHarness,
        "../contracts/artifacts/WalletFactoryHarness.json"
    }
}

use harness::{WalletFactoryHarness, WalletHarness};

/// Creates a contract that answers every call with `isValidSignature`'s own selector.
const AGREES_TO_ALL: [u8; 48] = hex!(
    "60278060093d393df3"
    "7f1626ba7e00000000000000000000000000000000000000000000000000000000"
    "5f5260205ff3"
);

/// Creates a contract that answers in the same way, but only with less than 2^24 gas and a call from the zero
/// address.
const AGREES_TO_THE_CALL: [u8; 59] = hex!(
    "60328060093d393df3"
    "5a630100000011" // 2^24 > GAS
    "321516" // and ORIGIN is zero
    "7f1626ba7e00000000000000000000000000000000000000000000000000000000"
    "02" // times the selector
    "5f5260205ff3"
);

const SALT: B256 = B256::repeat_byte(5);

fn key(number: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(number)).unwrap()
}

fn digest() -> B256 {
    keccak256("what was signed")
}

fn sign(key: &PrivateKeySigner) -> Bytes {
    key.sign_hash_sync(&digest()).unwrap().as_bytes().into()
}

/// Returns a question without its block number, which the caller sets.
fn query(wallet: Address, signature: impl Into<Bytes>) -> WalletQuestion {
    WalletQuestion {
        chain_id: pair::APP_ID,
        address: hawser_proto::Address(wallet.0.0),
        block_number: 0,
        digest: hawser_proto::Digest(digest().0),
        signature: signature.into().0,
    }
}

async fn at(chain: &Chain, question: &WalletQuestion) -> bool {
    let reply = ask(chain, question).await.unwrap();
    matches!(reply, EndpointReply::Reply(ChainReply::Answer { agrees: true, .. }))
}

struct WalletChain {
    pair: Pair,
    sender: Sender,
    factory: Address,
    /// The call that creates a wallet of key 7.
    deploy: Bytes,
    wallet: Address,
}

impl WalletChain {
    async fn new(kind: ChainBackend) -> Self {
        use alloy::sol_types::SolCall as _;

        let pair = Pair::start(kind).await;
        let sender = pair::sender(&pair.app, 0);
        let code = WalletFactoryHarness::BYTECODE.clone();
        let receipt = sender.send(&Call::create(code)).await.unwrap();
        let factory = receipt.contract_address.unwrap();
        let call = WalletFactoryHarness::deployCall { owner_: key(7).address(), salt_: SALT };
        let arguments = key(7).address().abi_encode();
        let code = [&WalletHarness::BYTECODE[..], &arguments].concat();
        let wallet = factory.create2(SALT, keccak256(code));
        Self { pair, sender, factory, deploy: call.abi_encode().into(), wallet }
    }

    async fn deploy(&self) {
        let call = WalletFactoryHarness::deployCall { owner_: key(7).address(), salt_: SALT };
        self.sender.send(&Call::new(self.factory, &call)).await.unwrap();
        assert!(self.pair.app.has_code(self.wallet).await.unwrap());
    }

    /// Asks at the newest block.
    async fn agrees(&self, query: &WalletQuestion) -> bool {
        let block_number = self.newest().await;
        at(&self.pair.app, &WalletQuestion { block_number, ..query.clone() }).await
    }

    async fn newest(&self) -> u64 {
        self.pair.app.provider().get_block_number().await.unwrap()
    }

    fn wrap(&self, call: &Bytes, signature: Bytes) -> Bytes {
        let mut wrapped = (self.factory, call.clone(), signature).abi_encode_params();
        wrapped.extend([0x64, 0x92].repeat(16));
        wrapped.into()
    }
}

async fn a_deployed_wallet_is_asked_itself_at_the_block_that_is_named(kind: ChainBackend) {
    let chain = WalletChain::new(kind).await;
    chain.deploy().await;
    let block_number = chain.newest().await;
    let before = WalletQuestion { block_number, ..query(chain.wallet, sign(&key(7))) };
    assert!(at(&chain.pair.app, &before).await);
    assert!(!chain.agrees(&query(chain.wallet, sign(&key(8)))).await);
    let zero = hawser_proto::Digest([0; 32]);
    let other = WalletQuestion { digest: zero, ..query(chain.wallet, sign(&key(7))) };
    assert!(!chain.agrees(&other).await);
    let wrapped = chain.wrap(&chain.deploy, sign(&key(7)));
    assert!(chain.agrees(&query(chain.wallet, wrapped)).await, "the wrapper is not needed");

    let call = WalletHarness::setOwnerCall { owner_: key(8).address() };
    chain.sender.send(&Call::new(chain.wallet, &call)).await.unwrap();
    assert!(!chain.agrees(&query(chain.wallet, sign(&key(7)))).await);
    assert!(at(&chain.pair.app, &before).await, "that block's state has not changed");
}

async fn a_wallet_that_is_not_there_yet_is_deployed_for_the_question(kind: ChainBackend) {
    let chain = WalletChain::new(kind).await;
    let ask = |call: &Bytes, signer| query(chain.wallet, chain.wrap(call, sign(&key(signer))));
    assert!(chain.agrees(&ask(&chain.deploy, 7)).await);
    assert!(!chain.agrees(&ask(&chain.deploy, 8)).await);
    assert!(!chain.agrees(&ask(&Bytes::from_static(b"nothing it knows"), 7)).await);
    assert!(!chain.agrees(&query(chain.wallet, sign(&key(7)))).await, "without a wrapper");
    assert!(!chain.pair.app.has_code(chain.wallet).await.unwrap(), "nothing was left behind");
    let broken = [&[1; 7][..], &[0x64, 0x92].repeat(16)].concat();
    assert!(!chain.agrees(&query(chain.wallet, broken)).await);
}

async fn an_account_without_code_signs_with_its_key(kind: ChainBackend) {
    let chain = WalletChain::new(kind).await;
    assert!(chain.agrees(&query(key(7).address(), sign(&key(7)))).await);
    assert!(!chain.agrees(&query(key(8).address(), sign(&key(7)))).await);
    assert!(!chain.agrees(&query(key(7).address(), sign(&key(7)).slice(..64))).await);
}

/// Questions that no careful author would put, with the answers that clients get from the validator.
async fn odd_questions_get_the_answers_that_clients_get(kind: ChainBackend) {
    let chain = WalletChain::new(kind).await;
    // No key signed, and the account that recovery finds then is the zero account.
    let unsigned = [&[0; 64][..], &[27]].concat();
    assert!(chain.agrees(&query(Address::ZERO, unsigned.clone())).await);
    assert!(!chain.agrees(&query(Address::ZERO, vec![0; 65])).await, "v is 27 or 28");
    assert!(!chain.agrees(&query(key(7).address(), unsigned)).await);
    // A wallet that agrees to everything is not asked about a signature that is shorter than the mark of
    // a wrapper, nor about one that is too long for a call.
    let code = Call::create(AGREES_TO_ALL.into());
    let easy = chain.sender.send(&code).await.unwrap().contract_address.unwrap();
    for (len_bytes, agrees) in
        [(0, false), (1, false), (31, false), (32, true), (47_232, true), (47_233, false)]
    {
        let asked = chain.agrees(&query(easy, vec![7; len_bytes])).await;
        assert_eq!(asked, agrees, "{len_bytes} bytes");
    }
    chain.deploy().await;
    // A factory's address is a word whose upper bytes are zero.
    let wrapped = chain.wrap(&chain.deploy, sign(&key(7)));
    assert!(chain.agrees(&query(chain.wallet, wrapped.clone())).await);
    let mut dirty = wrapped.to_vec();
    dirty[0] = 1;
    assert!(!chain.agrees(&query(chain.wallet, dirty)).await);
}

async fn wallets_that_misbehave_do_not_agree(kind: ChainBackend) {
    let chain = WalletChain::new(kind).await;
    chain.deploy().await;
    for how in [1u8, 2, 3] {
        assert!(!chain.agrees(&query(chain.wallet, vec![how])).await, "way {how}");
    }
}

async fn a_wallet_sees_the_gas_and_the_sender_of_the_protocol(kind: ChainBackend) {
    let chain = WalletChain::new(kind).await;
    let code = Call::create(AGREES_TO_THE_CALL.into());
    let wallet = chain.sender.send(&code).await.unwrap().contract_address.unwrap();
    assert!(chain.agrees(&query(wallet, vec![7; 32])).await);
}

async fn blocks_that_are_not_there_yet_are_told_apart(kind: ChainBackend) {
    let chain = WalletChain::new(kind).await;
    for block_number in [chain.newest().await + 1000, u64::MAX] {
        let later = WalletQuestion { block_number, ..query(key(7).address(), sign(&key(7))) };
        let reply = ask(&chain.pair.app, &later).await;
        let is_later = matches!(reply, Ok(EndpointReply::Reply(ChainReply::NotYet { .. })));
        assert!(is_later, "block {block_number}: {reply:?}");
    }
}

#[tokio::test]
async fn a_wallet_is_asked_at_a_block_that_two_endpoints_have() {
    let low = Pair::start(ChainBackend::Embedded).await;
    let high = Pair::start(ChainBackend::Embedded).await;
    let blocks = serde_json::json!(["0x5"]);
    let mined = high.app.provider().raw_request("anvil_mine".into(), blocks);
    let _: serde_json::Value = mined.await.unwrap();
    let urls = [&low, &high].map(|it| (pair::APP_ID, it.app.endpoint().to_owned()));
    let newest = NewestBlock { reached: 0, stated: 5 };
    assert_eq!(WalletRpc::new(urls).newest_block(pair::APP_ID).await, Ok(newest));
}

#[tokio::test]
async fn the_next_endpoint_of_a_chain_is_asked_when_one_is_no_use() {
    let pair = Pair::start(ChainBackend::Embedded).await;
    let [settlement, app] = [&pair.settlement, &pair.app].map(|it| it.endpoint().to_owned());
    let nowhere = "http://127.0.0.1:9".to_owned();
    let also_app = app.replace("127.0.0.1", "localhost");
    let chains = WalletRpc::new([
        (pair::APP_ID, nowhere.clone()),
        (pair::APP_ID, app.clone()),
        (pair::APP_ID, also_app),
        (5, nowhere),
    ]);
    assert!(chains.ids() == [5, pair::APP_ID]);
    let query = query(key(7).address(), sign(&key(7)));
    let on = |chain_id| WalletQuestion { chain_id, ..query.clone() };
    let answer = chains.ask(&query).await.unwrap();
    assert!(matches!(answer, ChainReply::Answer { agrees: true, .. }), "{answer:?}");
    let newest = NewestBlock { reached: 0, stated: 0 };
    assert_eq!(chains.newest_block(pair::APP_ID).await, Ok(newest));
    let silent = chains.ask(&on(5)).await;
    assert!(matches!(silent, Err(WalletError::NoAnswer { chain_id: 5, .. })), "{silent:?}");
    assert_eq!(chains.ask(&on(6)).await, Err(WalletError::NoEndpoint(6)));
    // One endpoint says that it is another chain, and the other one does not decide at once.
    let alone = WalletRpc::new([(pair::APP_ID, settlement), (pair::APP_ID, app)]);
    let few = alone.ask(&query).await.unwrap_err().to_string();
    assert!(few.contains("only 1 of its 2 endpoints answer"), "{few}");
}
