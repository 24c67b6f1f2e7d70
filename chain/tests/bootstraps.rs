//! Tests of broadcasters that their operator pauses and fills with payloads under chosen sequence ids.

use std::sync::Arc;

use alloy::primitives::{Address, B256, Bytes, FixedBytes, U256, uint};
use alloy::providers::Provider as _;
use alloy::sol_types::{SolCall as _, SolEvent as _};
use hawser_chain::contracts::group_message_broadcaster::GroupMessageBroadcaster::{
    MessageSent, PauseStatusUpdated, addMessageCall, bootstrapMessagesCall,
};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{
    BlockRef, ChainReader, ContractEvent, EventBatch, PushSettings, ReaderState, Sink, SinkError,
    WalkSettings,
};
use hawser_chain::send::Call;
use hawser_chain::watch::{PauseState, PauseWatcher};
use hawser_proto::SequenceId;
use parking_lot::Mutex;
use serde_json::json;

use crate::broadcaster::{Memory, TestBroadcaster, until};
use crate::pair::{APP_ID, ChainBackend, sender};
use crate::proxy::Proxy;

/// The storage slot in which the broadcaster keeps its pause flag, after three numbers. The next slot holds its
/// bootstrapper (`contracts/src/app/PayloadBroadcaster.sol`).
const SLOT: U256 = uint!(0xeda186f2b85b2c197e0a3ff15dc0c5c16c74d00b5c7f432acaa215db84203b00_U256);
/// A contract that forwards its input to the contract named by the first word, and fails if that one fails.
const FORWARDER: &str = "0x602036038060206000376000600082600060006000355af160205760006000fd5b00";
const FORWARDER_ADDRESS: Address = Address::repeat_byte(0x4f);
/// A contract that emits a pause, a payload and the end of the pause. Its input holds the first topic of the pause
/// events, the three topics of the payload event, and its data. It answers no other call.
const IN_ONE_GO: &str =
    "0x60015f355f5fa260803603 60805f37 60603560403560203560803603 5fa3 5f5f355f5fa200";
const IN_ONE_GO_ADDRESS: Address = Address::repeat_byte(0x50);

/// A sink that records each sequence id and whether the operator chose it.
#[derive(Default)]
struct Marks(Mutex<Vec<(u64, bool)>>);

impl Sink for Marks {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(None)
    }

    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        Ok(SequenceId::NONE)
    }

    fn store(&self, batch: &EventBatch) -> Result<(), SinkError> {
        self.0.lock().extend(batch.events.iter().map(|event| match &event.decoded {
            ContractEvent::Payload { sequence_id, bootstrapped, .. } => {
                (sequence_id.0, *bootstrapped)
            }
            other => panic!("no payload: {other:?}"),
        }));
        Ok(())
    }
}

/// A sink with the rule of a strand: ids follow one another, unless the operator chose one.
#[derive(Default)]
struct Strand(Mutex<Stored>);

/// The position, and each id with true if it was bootstrapped.
#[derive(Default)]
struct Stored {
    position: Option<BlockRef>,
    ids: Vec<(u64, bool)>,
}

impl Sink for Strand {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(self.0.lock().position)
    }

    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        Ok(SequenceId(self.0.lock().ids.last().map_or(0, |(id, _)| *id)))
    }

    fn store(&self, batch: &EventBatch) -> Result<(), SinkError> {
        let mut held = self.0.lock();
        let mut ids = held.ids.clone();
        for event in &batch.events {
            let ContractEvent::Payload { sequence_id, bootstrapped, .. } = event.decoded else {
                panic!("no payload: {:?}", event.decoded);
            };
            let sequence_id = sequence_id.0;
            let last = ids.last().map_or(0, |(id, _)| *id);
            if sequence_id > last + 1 && !bootstrapped {
                return Err(SinkError::Gap(format!("{} is missing", last + 1)));
            }
            if sequence_id > last {
                ids.push((sequence_id, bootstrapped));
            }
        }
        *held = Stored { position: Some(batch.position), ids };
        Ok(())
    }
}

impl TestBroadcaster {
    async fn ask(&self, method: &'static str, params: serde_json::Value) -> serde_json::Value {
        self.pair.app.provider().raw_request(method.into(), params).await.unwrap()
    }

    /// Sets the pause flag, from the next block on.
    async fn set_paused(&self, is_paused: bool) {
        self.mine(1).await;
        let slot = self.ask("eth_getStorageAt", json!([self.address, SLOT, "latest"])).await;
        let mut word = slot.as_str().unwrap().parse::<B256>().unwrap();
        word[15] = u8::from(is_paused);
        self.ask("anvil_setStorageAt", json!([self.address, SLOT, word])).await;
    }

    /// Calls a contract through the forwarding contract.
    async fn call_indirectly(&self, contract: Address, input: &[u8]) {
        self.ask("anvil_setCode", json!([FORWARDER_ADDRESS, FORWARDER])).await;
        let data = [contract.into_word().as_slice(), input].concat().into();
        let call = Call { to: Some(FORWARDER_ADDRESS), data, value: U256::ZERO };
        sender(&self.pair.app, 0).send(&call).await.unwrap();
    }

    /// Reads a contract through the endpoints until `count` payloads have arrived.
    async fn marks(&self, contract: Address, proxies: &[Proxy], count: usize) -> Vec<(u64, bool)> {
        let strand = Arc::new(Strand::default());
        let urls: Vec<_> = proxies.iter().map(Proxy::url).collect();
        let endpoints = Endpoints::new("app", &urls, APP_ID).unwrap();
        let walk = WalkSettings { address: contract, ..self.walk() };
        let sink: Arc<dyn Sink> = strand.clone();
        let reader = ChainReader::start(endpoints, PushSettings::default(), vec![(walk, sink)]);
        until("all of them are there", || strand.0.lock().ids.len() == count).await;
        reader.stop().await;
        strand.0.lock().ids.clone()
    }
}

fn bootstrap(ids: &[u64]) -> Vec<u8> {
    let call = bootstrapMessagesCall {
        groupIds_: vec![FixedBytes::repeat_byte(1); ids.len()],
        messages_: ids.iter().map(|id| Bytes::from(id.to_be_bytes().repeat(10))).collect(),
        sequenceIds_: ids.to_vec(),
    };
    call.abi_encode()
}

#[tokio::test]
async fn pauses_are_known_with_the_block_that_says_so() {
    let chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    for is_paused in [false, true] {
        chain.set_paused(is_paused).await;
        let block = chain.mine(1).await;
        let endpoints = Endpoints::new("app", &[chain.url()], APP_ID).unwrap();
        let pauses = PauseWatcher::start(endpoints, vec![chain.address]);
        until("it is read", || pauses.state(chain.address).is_some()).await;
        assert_eq!(pauses.state(chain.address), Some(PauseState { is_paused, block }));
        assert_eq!(pauses.state(Address::ZERO), None);
    }
}

#[tokio::test]
async fn ids_that_a_multisig_chose_are_recognised() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send(3).await;
    chain.set_paused(true).await;
    let owner = json!([chain.address, SLOT + U256::from(1), FORWARDER_ADDRESS.into_word()]);
    chain.ask("anvil_setStorageAt", owner).await;
    chain.call_indirectly(chain.address, &bootstrap(&[10, 11])).await;
    chain.set_paused(false).await;
    chain.send(1).await;
    let usual = |id| (id, false);
    let wanted = [usual(1), usual(2), usual(3), (10, true), (11, true), usual(12)];
    let proxies = [Proxy::start(&chain.url(), 0).await, Proxy::start(&chain.url(), 0).await];
    assert_eq!(chain.marks(chain.address, &proxies[..1], 6).await, wanted);
    // If one endpoint has pruned the state of old blocks, another one decides.
    proxies[0].set(|faults| faults.stateless = true);
    assert_eq!(chain.marks(chain.address, &proxies, 6).await, wanted);
    assert!(proxies[0].asked("eth_call") > 0);
}

#[tokio::test]
async fn one_endpoint_of_three_that_denies_a_pause_does_not_stop_a_strand() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send(3).await;
    chain.set_paused(true).await;
    let owner = json!([chain.address, SLOT + U256::from(1), FORWARDER_ADDRESS.into_word()]);
    chain.ask("anvil_setStorageAt", owner).await;
    chain.call_indirectly(chain.address, &bootstrap(&[10, 11])).await;
    chain.set_paused(false).await;
    chain.send(1).await;
    let mut proxies = Vec::new();
    for _ in 0..3 {
        proxies.push(Proxy::start(&chain.url(), 0).await);
    }
    proxies[0].set(|faults| faults.claims_pause = Some(false));
    let usual = |id| (id, false);
    let wanted = [usual(1), usual(2), usual(3), (10, true), (11, true), usual(12)];
    assert_eq!(chain.marks(chain.address, &proxies, 6).await, wanted);
}

/// Returns a chain with three messages. Liars can omit the second one. A contract sends the third one, with a bootstrap
/// call behind it in its input.
async fn with_a_bootstrap_in_the_input_of_a_call() -> TestBroadcaster {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send_in(false).await;
    chain.send_in(true).await;
    chain.next_in(false).await;
    let call = addMessageCall {
        groupId_: FixedBytes::repeat_byte(1),
        message_: Bytes::from(vec![7; 100]),
    };
    let input = [call.abi_encode(), bootstrap(&[9])].concat();
    chain.call_indirectly(chain.address, &input).await;
    chain
}

/// An endpoint leaves out an event, and claims that the contract was paused at the next one, so that its place would be
/// void. Some of the honest ones have no old state that would show it.
#[tokio::test]
async fn a_claimed_pause_voids_no_place_beside_honest_endpoints_without_old_state() {
    let chain = with_a_bootstrap_in_the_input_of_a_call().await;
    for (liars, stateless, honest) in [(1, 2, 0), (2, 2, 1)] {
        let mut proxies = Vec::new();
        for number in 0..liars + stateless + honest {
            let proxy = Proxy::start(&chain.url(), 0).await;
            proxy.set(|faults| {
                if number < liars {
                    (faults.omits, faults.claims_pause) = (true, Some(true));
                } else {
                    faults.stateless = number < liars + stateless;
                }
            });
            proxies.push(proxy);
        }
        let marks = chain.marks(chain.address, &proxies, 3).await;
        assert_eq!(marks, [(1, false), (2, false), (3, false)], "{liars} liars");
    }
}

/// Any account can make a contract call the broadcaster with the bootstrap call somewhere in its input.
#[tokio::test]
async fn ids_that_an_endpoint_without_old_state_leaves_out_are_not_void() {
    let chain = with_a_bootstrap_in_the_input_of_a_call().await;
    let liar = Proxy::start(&chain.url(), 0).await;
    liar.set(|faults| (faults.stateless, faults.omits) = (true, true));
    let marks = Arc::new(Marks::default());
    let endpoints = Endpoints::new("app", &[liar.url()], APP_ID).unwrap();
    let sink: Arc<dyn Sink> = marks.clone();
    let walk = WalkSettings { page_blocks: 1000, ..chain.walk() };
    let reader = ChainReader::start(endpoints, PushSettings::default(), vec![(walk, sink)]);
    let view = reader.view();
    until("the reader says what it lacks", || {
        let state = view.readers().remove(0).state;
        matches!(state, ReaderState::Stuck(reason) if reason.contains("the state of old blocks"))
    })
    .await;
    assert_eq!(*marks.0.lock(), [], "nothing is stored over a gap");
    liar.set(|faults| faults.stateless = false);
    until("the rest is there", || marks.0.lock().len() == 2).await;
    assert_eq!(*marks.0.lock(), [(1, false), (3, false)], "a sink of a strand notices the gap");
    reader.stop().await;
}

/// A multisig can do this. Neither the pause state at the end of the block nor, here, the input shows it.
#[tokio::test]
async fn ids_that_were_chosen_in_a_pause_of_one_transaction_are_recognised() {
    let chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let code: String = IN_ONE_GO.split(' ').collect();
    chain.ask("anvil_setCode", json!([IN_ONE_GO_ADDRESS, code])).await;
    let event = MessageSent {
        groupId: FixedBytes::repeat_byte(1),
        message: Bytes::from_static(b"a payload"),
        sequenceId: 7,
    };
    let topics = event.encode_topics().into_iter().map(|topic| topic.0);
    let words = std::iter::once(PauseStatusUpdated::SIGNATURE_HASH).chain(topics);
    let input = [words.flat_map(|word| word.0).collect(), event.encode_data()].concat();
    chain.call_indirectly(IN_ONE_GO_ADDRESS, &input).await;
    let proxy = Proxy::start(&chain.url(), 0).await;
    assert_eq!(chain.marks(IN_ONE_GO_ADDRESS, &[proxy], 1).await, [(7, true)]);
}

/// The id of a false event that counted as the last one would have the transactions of all later events looked up.
#[tokio::test]
async fn events_behind_refuted_ones_have_no_transaction_looked_up() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send(3).await;
    let forger = Proxy::start(&chain.url(), 1).await;
    forger.set(|faults| faults.forges = true);
    let honest = Proxy::start(&chain.url(), 2).await;
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[forger.url(), honest.url()], Vec::new(), &memory);
    until("every event is there", || memory.payloads() == chain.sent).await;
    assert!(forger.spoilt() > 0, "it was asked first");
    assert_eq!(honest.asked("eth_getTransactionByHash"), 0);
    reader.stop().await;
}
