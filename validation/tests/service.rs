//! The validation service, called as its server would call it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use api::validation_api_server::ValidationApi as _;
use bytes::Bytes;
use hawser_mls::identity::{MemberIdentifier, WalletQuestion};
use hawser_proto::pb::xmtp::identity::api::v1 as identity_api;
use hawser_proto::pb::xmtp::identity::associations::IdentityAction;
use hawser_proto::pb::xmtp::mls_validation::v1 as api;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::client_envelope::Payload;
use hawser_validation::limits::{
    ACTIONS_PER_TURN, REQUEST_WALLETS_MAX, REQUESTS_MAX, WALLET_TURN, WALLETS_PER_TURN_MAX,
};
use hawser_validation::service::{ServiceCaller, ValidationService};
use hawser_validation::wallets::{
    ChainReply, NewestBlock, WalletChainList, WalletChains, WalletError, Wallets,
};
use identity_api::VerifySmartContractWalletSignatureRequestSignature as WalletRequest;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request};

use crate::common::{
    self, add, captured, contract_signature, create, inbox, installation, update, wallet,
};

/// The endpoint of chain 2, which callers are not to learn.
const ENDPOINT: &str = "https://paid.example";

/// Wallets of chain 1 accept signatures whose first byte is 1. Chain 2 has no answer, and a call to chain 3 never
/// returns.
#[derive(Default)]
struct Chains {
    asked: AtomicUsize,
}

#[tonic::async_trait]
impl WalletChains for Chains {
    fn ids(&self) -> Vec<u64> {
        vec![1, 2]
    }

    async fn newest_block(&self, chain_id: u64) -> Result<NewestBlock, WalletError> {
        match chain_id {
            1 => Ok(NewestBlock { reached: 99, stated: 1000 }),
            other => Err(silent(other)),
        }
    }

    async fn ask(&self, question: &WalletQuestion) -> Result<ChainReply, WalletError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match question.chain_id {
            3 => std::future::pending().await,
            1 => Ok(ChainReply::Answer {
                agrees: question.signature.first() == Some(&1),
                block_time_s: 0,
            }),
            other => Err(silent(other)),
        }
    }
}

/// Returns the error of a chain without an answer.
fn silent(chain_id: u64) -> WalletError {
    let reason = format!("{ENDPOINT} refuses eth_call: missing trie node");
    WalletError::NoAnswer { chain_id, reason }
}

/// The metadata that names a caller, after the network and a slash if another one has that network; requests without it
/// are of one caller.
const CALLER: &str = "x-caller";

fn service() -> (ValidationService, Arc<Chains>) {
    service_on(2)
}

fn service_on(cores: usize) -> (ValidationService, Arc<Chains>) {
    let chains = Arc::new(Chains::default());
    let now = Arc::new(|| common::TIME_NS / 1_000_000_000);
    let wallets = Wallets::new(chains.clone(), WalletChainList::with([2, 3]));
    let name = |metadata: &MetadataMap, _: Option<SocketAddr>| {
        let name = metadata.get(CALLER).map(|it| it.to_str().unwrap()).unwrap_or_default();
        let network = name.split('/').next().unwrap_or_default();
        ServiceCaller { network: network.into(), name: name.into() }
    };
    (ValidationService::new(Arc::new(wallets), now, Arc::new(name), cores), chains)
}

fn key_package(bytes: Bytes) -> api::validate_key_packages_request::KeyPackage {
    api::validate_key_packages_request::KeyPackage {
        key_package_bytes_tls_serialized: bytes,
        is_inbox_id_credential: true,
    }
}

#[tokio::test]
async fn key_packages_are_answered_one_by_one_in_order() {
    let (service, _) = service();
    let packages: Vec<_> = captured("key_package")
        .into_iter()
        .map(|captured| match captured.envelope.payload {
            Some(Payload::UploadKeyPackage(upload)) => {
                (upload.key_package.unwrap().key_package_tls_serialized, captured.line)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let mut request = api::ValidateKeyPackagesRequest::default();
    for (bytes, _) in packages.iter().cycle().take(70) {
        request.key_packages.push(key_package(bytes.clone()));
        request.key_packages.push(key_package(Bytes::from_static(b"no key package")));
    }
    let answered = service.validate_inbox_id_key_packages(Request::new(request)).await.unwrap();
    let responses = answered.into_inner().responses;
    assert_eq!(responses.len(), 140);
    for (pair, (_, line)) in responses.chunks(2).zip(packages.iter().cycle()) {
        let [good, bad] = pair else { panic!() };
        assert!(good.is_ok && good.error_message.is_empty() && good.expiration == 0);
        assert_eq!(
            good.credential.as_ref().unwrap().inbox_id,
            line["key_package"]["inbox_id"].as_str().unwrap()
        );
        assert_eq!(
            hex::encode(&good.installation_public_key),
            line["key_package"]["installation_key"]
        );
        assert!(!bad.is_ok && !bad.error_message.is_empty() && bad.credential.is_none());
    }
}

#[tokio::test]
async fn group_messages_are_answered_one_by_one() {
    let (service, _) = service();
    let commit = hex::decode("0001000210aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000000000000103000000");
    let bytes = [commit.unwrap(), vec![0]].map(Bytes::from);
    let group_messages = bytes.map(|group_message_bytes_tls_serialized| {
        api::validate_group_messages_request::GroupMessage { group_message_bytes_tls_serialized }
    });
    let request = api::ValidateGroupMessagesRequest { group_messages: group_messages.into() };
    let answered = service.validate_group_messages(Request::new(request)).await.unwrap();
    let [good, bad] = &answered.into_inner().responses[..] else { panic!() };
    assert!(good.is_ok && good.is_commit);
    assert_eq!(good.group_id, "aa".repeat(16));
    assert!(!bad.is_ok && !bad.error_message.is_empty());
}

/// The id of a group is answered as text of twice its length. The transport would end the call with OUT_OF_RANGE.
#[tokio::test]
async fn an_answer_that_is_longer_than_a_message_is_refused_by_name() {
    const ID_LEN_BYTES: u32 = 13 << 20;
    let (service, _) = service();
    let mut commit = hex::decode("00010002").unwrap();
    commit.extend((0x8000_0000 | ID_LEN_BYTES).to_be_bytes());
    commit.resize(commit.len() + ID_LEN_BYTES as usize, 0xaa);
    commit.extend(hex::decode("000000000000000103000000").unwrap());
    let message = api::validate_group_messages_request::GroupMessage {
        group_message_bytes_tls_serialized: commit.into(),
    };
    let request = api::ValidateGroupMessagesRequest { group_messages: vec![message] };
    let refused = service.validate_group_messages(Request::new(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let details = String::from_utf8_lossy(refused.details());
    assert!(details.contains("ANSWER_TOO_LARGE"), "{refused}");
}

async fn state(
    service: &ValidationService,
    old: Vec<hawser_proto::pb::xmtp::identity::associations::IdentityUpdate>,
    new: Vec<hawser_proto::pb::xmtp::identity::associations::IdentityUpdate>,
) -> Result<api::GetAssociationStateResponse, tonic::Status> {
    let request = api::GetAssociationStateRequest { old_updates: old, new_updates: new };
    service.get_association_state(Request::new(request)).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_log_gives_a_state_and_what_its_end_changed() {
    let (service, chains) = service();
    let (owner, phone) = (wallet(1), installation(2));
    let id = owner.identifier().inbox_id(1);
    let founding = update(&id, vec![create(&owner.identifier(), 1, &owner)]);
    let adding = update(&id, vec![add(&phone.identifier(), &owner, &phone)]);

    let all_new = state(&service, vec![], vec![founding.clone(), adding.clone()]).await.unwrap();
    assert_eq!(all_new.association_state.as_ref().unwrap().members.len(), 2);
    assert_eq!(all_new.state_diff.unwrap().new_members.len(), 2);

    let later = state(&service, vec![founding.clone()], vec![adding.clone()]).await.unwrap();
    assert_eq!(later.association_state, all_new.association_state);
    assert_eq!(later.state_diff.unwrap().new_members, [phone.identifier().to_pb()]);

    for (old, new, phrase) in [
        (vec![], vec![adding.clone()], "XID not yet created"),
        (vec![], vec![], "XID not yet created"),
        (vec![adding.clone()], vec![founding.clone()], "XID not yet created"),
        (vec![founding.clone()], vec![founding.clone()], "Multiple create operations detected"),
        (vec![founding.clone(), adding.clone()], vec![adding.clone()], "Replay detected"),
    ] {
        let error = state(&service, old, new).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains(phrase), "{error}");
    }
    assert_eq!(chains.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn contract_wallets_are_asked_and_a_silent_chain_is_worth_another_try() {
    let (service, chains) = service();
    let account = MemberIdentifier::Ethereum("0x00000000000000000000000000000000000000aa".into());
    let founding = |chain: u64, signature: u8| {
        let id = account.inbox_id(1);
        let name = format!("eip155:{chain}:{account}");
        let sign = move |_: &str| contract_signature(&name, 7, &[signature]);
        update(&id, vec![create(&account, 1, common::by(sign))])
    };
    let agreed = state(&service, vec![], vec![founding(1, 1)]).await.unwrap();
    let member = agreed.association_state.unwrap().members[0].value.clone().unwrap();
    assert_eq!(member.added_on_chain_id, Some(1));
    assert_eq!(chains.asked.load(Ordering::Relaxed), 1);
    let again = state(&service, vec![], vec![founding(1, 1)]).await.unwrap();
    assert_eq!(again.association_state.unwrap().members.len(), 1);
    assert_eq!(chains.asked.load(Ordering::Relaxed), 1, "an answer for one block is asked once");

    let error = state(&service, vec![], vec![founding(1, 0)]).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("Signature validation failed"), "{error}");
    assert_named(&error, "IDENTITY_UPDATE", false);
    let error = state(&service, vec![], vec![founding(2, 1)]).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_named(&error, "WALLET_SILENT", true);
    assert!(!error.message().contains(ENDPOINT), "{error}");
}

/// Checks that a refusal has a reason for programs, and a time to try again if `waits`.
fn assert_named(refused: &tonic::Status, reason: &str, waits: bool) {
    let details = String::from_utf8_lossy(refused.details());
    assert!(details.contains(reason), "{refused}");
    assert_eq!(refused.metadata().contains_key("retry-after"), waits, "{refused}");
}

#[tokio::test]
async fn wallets_are_answered_in_order_with_errors_in_their_places() {
    let (service, _) = service();
    let request = |chain: u64, block_number, signature: u8| WalletRequest {
        account_id: format!("eip155:{chain}:0x00000000000000000000000000000000000000aa"),
        block_number,
        signature: vec![signature].into(),
        hash: vec![0; 32].into(),
    };
    let signatures = vec![
        request(1, Some(5), 1),
        request(1, None, 0),
        request(2, None, 1),
        WalletRequest { account_id: "no account".into(), ..request(1, None, 1) },
        WalletRequest { hash: vec![0; 31].into(), ..request(1, None, 1) },
    ];
    let request = identity_api::VerifySmartContractWalletSignaturesRequest { signatures };
    let answered = service.verify_smart_contract_wallet_signatures(Request::new(request)).await;
    let responses = answered.unwrap().into_inner().responses;
    assert!(responses[0].is_valid && responses[0].block_number == Some(5));
    assert!(!responses[1].is_valid && responses[1].block_number == Some(99));
    assert!(responses[..2].iter().all(|response| response.error.is_none()));
    assert!(responses[2..].iter().all(|it| !it.is_valid && it.error.is_some()));
    let tells = |text: &String| text.contains(ENDPOINT);
    assert!(!responses.iter().any(|it| it.error.as_ref().is_some_and(tells)), "{responses:?}");
}

/// A reference node repeats a request until its inbox is found valid or invalid. The phrase says that it is invalid.
#[tokio::test]
async fn a_log_of_any_length_gets_a_verdict() {
    let (service, _) = service();
    let owner = wallet(1);
    let id = owner.identifier().inbox_id(1);
    let mut log = vec![update(&id, vec![create(&owner.identifier(), 1, &owner)])];
    for part in 0..4u8 {
        let phones = (0..48).map(|phone| installation(2 + 48 * part + phone));
        let adding = phones.map(|phone| add(&phone.identifier(), &owner, &phone));
        log.push(update(&id, adding.collect()));
    }
    assert_eq!(members(&state(&service, log.clone(), vec![]).await.unwrap()), 1 + 4 * 48);

    // As many actions as fit into the longest update of a chain.
    let mut absurd = update(&id, vec![]);
    absurd.actions = vec![IdentityAction::default(); 128 << 10];
    let error = state(&service, log.clone(), vec![absurd]).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("Deserialization error"), "{error}");
}

/// One update may fill a request. Its check must not keep the only core from the requests of others.
#[tokio::test]
async fn other_requests_are_answered_between_the_turns_of_one_long_update() {
    let (service, _) = service_on(1);
    let sign = |account: &MemberIdentifier| {
        let name = format!("eip155:1:{account}");
        common::by(move |_: &str| contract_signature(&name, 7, &[1]))
    };
    let [owner, second] =
        [1, 2].map(|number: u8| MemberIdentifier::Ethereum(format!("0x{number:040x}")));
    let mut actions = vec![create(&owner, 1, sign(&owner))];
    let adding = || add(&second, sign(&owner), sign(&second));
    actions.extend(std::iter::repeat_with(adding).take(100 * ACTIONS_PER_TURN));
    let long = update(&owner.inbox_id(1), actions);

    let other = service.clone();
    let checking = tokio::spawn(async move { state(&other, vec![], vec![long]).await });
    let mut answered = 0;
    while !checking.is_finished() {
        let group_messages = vec![api::validate_group_messages_request::GroupMessage::default()];
        let request = api::ValidateGroupMessagesRequest { group_messages };
        service.validate_group_messages(Request::new(request)).await.unwrap();
        answered += 1;
    }
    assert_eq!(members(&checking.await.unwrap().unwrap()), 2);
    // About one after each of the 101 turns; the scheduler may let some turns follow one another.
    assert!(answered > 8, "{answered} requests were answered meanwhile");
}

/// A reference node repeats a request that fails for another reason than an invalid update.
#[tokio::test(start_paused = true)]
async fn a_request_with_many_contract_wallets_gets_on_when_it_is_repeated() {
    let (service, chains) = service();
    let owner = wallet(1);
    let id = owner.identifier().inbox_id(1);
    let adding = (0..REQUEST_WALLETS_MAX + 6).map(|number| {
        let account = MemberIdentifier::Ethereum(format!("0x{:040x}", number + 1));
        let name = format!("eip155:1:{account}");
        let sign = move |_: &str| contract_signature(&name, 7, &[1]);
        add(&account, &owner, common::by(sign))
    });
    let founding = update(&id, vec![create(&owner.identifier(), 1, &owner)]);
    let log = vec![founding, update(&id, adding.collect())];
    let error = state(&service, vec![], log.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert_named(&error, "WALLET_CHECKS", true);
    assert_eq!(chains.asked.load(Ordering::Relaxed), REQUEST_WALLETS_MAX);
    let answered = state(&service, vec![], log).await.unwrap();
    assert_eq!(members(&answered), 1 + REQUEST_WALLETS_MAX + 6);
    assert_eq!(chains.asked.load(Ordering::Relaxed), REQUEST_WALLETS_MAX + 6);
}

fn members(answered: &api::GetAssociationStateResponse) -> usize {
    answered.association_state.as_ref().unwrap().members.len()
}

#[tokio::test]
async fn the_cost_of_a_request_is_bounded() {
    let (service, chains) = service();
    let packages = vec![key_package(Bytes::new()); 5000];
    let request = api::ValidateKeyPackagesRequest { key_packages: packages };
    let error = service.validate_inbox_id_key_packages(Request::new(request)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_named(&error, "TOO_MANY_ITEMS", false);

    let (id, _) = inbox();
    let empty = update(&id, vec![]);
    let error = state(&service, vec![empty; 5000], vec![]).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);

    let signatures = vec![WalletRequest::default(); 100];
    let request = identity_api::VerifySmartContractWalletSignaturesRequest { signatures };
    let answered = service.verify_smart_contract_wallet_signatures(Request::new(request)).await;
    assert_eq!(answered.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(chains.asked.load(Ordering::Relaxed), 0);
}

/// Returns a request with so many questions to wallets that were not asked before.
fn wallets(
    count: usize,
    chain: u64,
) -> Request<identity_api::VerifySmartContractWalletSignaturesRequest> {
    static BLOCKS: AtomicU64 = AtomicU64::new(1);
    let signature = || WalletRequest {
        account_id: format!("eip155:{chain}:0x00000000000000000000000000000000000000aa"),
        block_number: Some(BLOCKS.fetch_add(1, Ordering::Relaxed)),
        signature: vec![1].into(),
        hash: vec![0; 32].into(),
    };
    let signatures = std::iter::repeat_with(signature).take(count).collect();
    Request::new(identity_api::VerifySmartContractWalletSignaturesRequest { signatures })
}

/// Starts so many requests of a caller that get no answer.
fn without_answers(service: &ValidationService, caller: &str, count: usize) -> Vec<JoinHandle<()>> {
    let start = |_| {
        let (service, mut request) = (service.clone(), wallets(1, 3));
        request.metadata_mut().insert(CALLER, caller.parse().unwrap());
        tokio::spawn(async move {
            let _ = service.verify_smart_contract_wallet_signatures(request).await;
        })
    };
    (0..count).map(start).collect()
}

/// Returns the status of a request of this caller that is validated at once.
async fn one_of(service: &ValidationService, caller: &str) -> Code {
    let group_messages = vec![api::validate_group_messages_request::GroupMessage::default()];
    let mut request = Request::new(api::ValidateGroupMessagesRequest { group_messages });
    request.metadata_mut().insert(CALLER, caller.parse().unwrap());
    service
        .validate_group_messages(request)
        .await
        .map_or_else(|refused| refused.code(), |_| Code::Ok)
}

#[tokio::test]
async fn requests_beyond_the_places_are_refused_at_once() {
    let (service, chains) = service();
    // Each of so many callers has one place.
    let callers = (0..REQUESTS_MAX).map(|number| format!("caller {number}"));
    let waiting: Vec<_> =
        callers.flat_map(|caller| without_answers(&service, &caller, 1)).collect();
    while chains.asked.load(Ordering::Relaxed) < REQUESTS_MAX {
        tokio::task::yield_now().await;
    }
    assert_eq!(one_of(&service, "new").await, Code::ResourceExhausted);
    for request in waiting {
        request.abort();
        let _ = request.await;
    }
    assert_eq!(one_of(&service, "new").await, Code::Ok, "the places are free again");
}

/// The addresses of one owner, as those of an IPv6 /48.
#[tokio::test]
async fn callers_of_one_network_leave_places_to_a_caller_of_another() {
    let (service, chains) = service();
    let callers = (0..REQUESTS_MAX).map(|number| format!("flood/{number}"));
    let waiting: Vec<_> =
        callers.flat_map(|caller| without_answers(&service, &caller, 1)).collect();
    while chains.asked.load(Ordering::Relaxed) < REQUESTS_MAX {
        tokio::task::yield_now().await;
    }
    assert_eq!(one_of(&service, "flood/new").await, Code::ResourceExhausted);
    assert_eq!(one_of(&service, "other").await, Code::Ok);
    waiting.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn a_single_caller_has_all_places_and_a_new_one_takes_one_of_them() {
    let (service, _) = service();
    let waiting = without_answers(&service, "greedy", 2 * REQUESTS_MAX);
    let at_work = || waiting.iter().filter(|request| !request.is_finished()).count();
    while at_work() > REQUESTS_MAX {
        tokio::task::yield_now().await;
    }
    assert_eq!(one_of(&service, "greedy").await, Code::ResourceExhausted);
    assert_eq!(at_work(), REQUESTS_MAX, "no other caller wants a place");
    assert_eq!(one_of(&service, "other").await, Code::Ok);
    while at_work() == REQUESTS_MAX {
        tokio::task::yield_now().await;
    }
    assert_eq!(at_work(), REQUESTS_MAX - 1);
    waiting.iter().for_each(JoinHandle::abort);
}

/// On one core, so that requests are validated one after another.
#[tokio::test]
async fn a_caller_with_many_requests_delays_another_by_one_turn() {
    let (service, _) = service_on(1);
    let answered = Arc::new(Mutex::new(Vec::new()));
    let start = |caller: &'static str| {
        let (service, answered) = (service.clone(), answered.clone());
        tokio::spawn(async move {
            assert_eq!(one_of(&service, caller).await, Code::Ok);
            answered.lock().push(caller);
        })
    };
    let waiting: Vec<_> = std::iter::repeat_n("greedy", 40).chain(["other"]).map(start).collect();
    for request in waiting {
        request.await.unwrap();
    }
    let place = answered.lock().iter().position(|caller| *caller == "other").unwrap();
    // Some requests of the greedy caller may be answered before the other one arrives.
    assert!(place < 20, "{place} were answered first");
}

/// Asks so many wallets for a caller. Returns the status.
async fn ask_wallets(service: &ValidationService, caller: &str, count: usize) -> Code {
    let mut request = wallets(count, 1);
    request.metadata_mut().insert(CALLER, caller.parse().unwrap());
    let answered = service.verify_smart_contract_wallet_signatures(request).await;
    answered.map_or_else(|refused| refused.code(), |_| Code::Ok)
}

#[tokio::test(start_paused = true)]
async fn a_single_caller_has_all_questions_to_wallets_and_a_new_one_the_next() {
    let (service, chains) = service();
    for _ in 0..20 {
        let service = service.clone();
        tokio::spawn(async move { ask_wallets(&service, "greedy", 60).await });
    }
    sleep(5 * WALLET_TURN - Duration::from_millis(1)).await;
    let asked = move || chains.asked.load(Ordering::Relaxed);
    let before = asked();
    assert_eq!(before, 5 * WALLETS_PER_TURN_MAX, "a bounded number, and all of one caller");
    // In a task, as callers are: the runtime looks at the test itself only after some tens of tasks.
    let other = tokio::spawn(async move {
        let since = Instant::now();
        assert_eq!(ask_wallets(&service, "other", 1).await, Code::Ok);
        (since.elapsed(), asked())
    });
    let (waited, asked) = other.await.unwrap();
    assert!(waited < 2 * WALLET_TURN, "{waited:?}");
    assert!(asked <= before + WALLETS_PER_TURN_MAX, "{asked}");
}
