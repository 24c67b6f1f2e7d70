//! The validation service on a node's own port, called as other software calls it.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings};
use hawser_proto::envelope::Payload;
use hawser_proto::pb::xmtp::identity::api::v1 as identity_api;
use hawser_proto::pb::xmtp::identity::associations::{IdentityAction, IdentityUpdate};
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::Version;
use hawser_proto::pb::xmtp::mls_validation::v1 as api;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::ClientEnvelope;
use hawser_tests::harness::client::Client;
use hawser_tests::harness::identities::{
    Account, adding, founding, identifier, key, personal, sign,
};
use hawser_tests::harness::network::Network;
use hawser_tests::harness::vectors;
use prost::Message;
use serde_json::Value;
use tonic::{Code, Status};

const SERVICE: &str = "/xmtp.mls_validation.v1.ValidationApi";
/// A chain that the node can ask, and one that it cannot.
const CHAIN_ID: u64 = 31_400;
const NOWHERE_ID: u64 = 31_401;

/// A node, and the chain that it may ask about wallets.
struct NodeAndChain {
    network: Network,
    chain: EmbeddedChain,
}

impl NodeAndChain {
    async fn start() -> Self {
        let chain = EmbeddedChain::start(EmbeddedSettings::new(CHAIN_ID)).await.unwrap();
        let mut network = Network::new(1);
        let url = format!("{CHAIN_ID}=http://{}", chain.local_addr());
        network.nodes[0].arguments = [
            "--wallet-rpc",
            &url,
            "--wallet-chains",
            &format!("{CHAIN_ID},{NOWHERE_ID}"),
            "--validation-api",
        ]
        .map(Into::into)
        .into();
        network.start_all().await;
        Self { network, chain }
    }

    async fn ask<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let client: Client = self.network.nodes[0].client();
        client.unary(&format!("{SERVICE}/{method}"), request).await
    }

    async fn state(
        &self,
        old: &[IdentityUpdate],
        new: &[IdentityUpdate],
    ) -> Result<api::GetAssociationStateResponse, Status> {
        let request = api::GetAssociationStateRequest {
            old_updates: old.to_vec(),
            new_updates: new.to_vec(),
        };
        self.ask("GetAssociationState", request).await
    }
}

/// Captured payloads of these kinds, with the expected verdict on each.
fn captured(kinds: &[&str]) -> Vec<(Payload, Value)> {
    let text = std::fs::read_to_string(vectors::path()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines = lines.filter(|line| kinds.contains(&line["kind"].as_str().unwrap()));
    let parsed = lines.map(|line| {
        let bytes = hex::decode(line["hex"].as_str().unwrap()).unwrap();
        (ClientEnvelope::decode(Bytes::from(bytes)).unwrap().payload.unwrap(), line)
    });
    let parsed: Vec<_> = parsed.collect();
    assert!(!parsed.is_empty());
    parsed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_validates_for_others_only_if_its_operator_says_so() {
    let mut network = Network::new(1);
    network.start_all().await;
    let client: Client = network.nodes[0].client();
    let request = api::ValidateGroupMessagesRequest::default();
    let answered: Result<api::ValidateGroupMessagesResponse, Status> =
        client.unary(&format!("{SERVICE}/ValidateGroupMessages"), request).await;
    assert_eq!(answered.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_messages_are_told_apart() {
    let setup = NodeAndChain::start().await;
    let kinds = ["group_commit", "group_proposal", "group_application"];
    let mut request = api::ValidateGroupMessagesRequest::default();
    let captured = captured(&kinds);
    for (payload, _) in &captured {
        let Payload::GroupMessage(message) = payload else { panic!("{payload:?}") };
        let Some(Version::V1(v1)) = &message.version else { panic!("{message:?}") };
        for data in [v1.data.clone(), v1.data.slice(..v1.data.len() - 1)] {
            request.group_messages.push(api::validate_group_messages_request::GroupMessage {
                group_message_bytes_tls_serialized: data,
            });
        }
    }
    let answer: api::ValidateGroupMessagesResponse =
        setup.ask("ValidateGroupMessages", request).await.unwrap();
    assert_eq!(answer.responses.len(), 2 * captured.len());
    for (pair, (_, line)) in answer.responses.chunks(2).zip(&captured) {
        let [whole, cut] = pair else { panic!() };
        assert!(whole.is_ok, "{}", whole.error_message);
        assert_eq!(whole.group_id, line["mls"]["group_id"].as_str().unwrap());
        assert_eq!(whole.is_commit, line["kind"] != "group_application");
        assert!(!cut.is_ok && !cut.error_message.is_empty());
    }
}

/// Clients send texts of megabytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_message_of_megabytes_is_validated() {
    const LEN_BYTES: u32 = 5 << 20;
    let setup = NodeAndChain::start().await;
    // A private message with a group id, an epoch, and a ciphertext whose length has four bytes.
    let group_id = [7_u8; 16];
    let mut data = [&[0_u8, 1, 0, 2, 16][..], &group_id, &[0; 8], &[1, 0, 0]].concat();
    data.extend((0x8000_0000 | LEN_BYTES).to_be_bytes());
    data.resize(data.len() + LEN_BYTES as usize, 9);
    let message = api::validate_group_messages_request::GroupMessage {
        group_message_bytes_tls_serialized: data.into(),
    };
    let request = api::ValidateGroupMessagesRequest { group_messages: vec![message] };
    let answer: api::ValidateGroupMessagesResponse =
        setup.ask("ValidateGroupMessages", request).await.unwrap();
    let [response] = &answer.responses[..] else { panic!("{answer:?}") };
    assert!(response.is_ok && !response.is_commit, "{}", response.error_message);
    assert_eq!(response.group_id, hex::encode(group_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_packages_are_judged_by_the_clock() {
    let setup = NodeAndChain::start().await;
    let mut request = api::ValidateKeyPackagesRequest::default();
    let captured = captured(&["key_package"]);
    for (payload, _) in &captured {
        let Payload::UploadKeyPackage(upload) = payload else { panic!("{payload:?}") };
        let whole = upload.key_package.clone().unwrap().key_package_tls_serialized;
        let mut changed = whole.to_vec();
        *changed.last_mut().unwrap() ^= 1;
        for bytes in [whole.clone(), changed.into(), whole.slice(1..), Bytes::new()] {
            request.key_packages.push(api::validate_key_packages_request::KeyPackage {
                key_package_bytes_tls_serialized: bytes,
                is_inbox_id_credential: true,
            });
        }
    }
    let answer: api::ValidateInboxIdKeyPackagesResponse =
        setup.ask("ValidateInboxIdKeyPackages", request).await.unwrap();
    assert_eq!(answer.responses.len(), 4 * captured.len());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (four, (_, line)) in answer.responses.chunks(4).zip(&captured) {
        let (good, bad) = four.split_first().unwrap();
        let expected = &line["key_package"];
        let (from, to) =
            (expected["not_before"].as_u64().unwrap(), expected["not_after"].as_u64().unwrap());
        // They will expire, and this test with them unless it knows that.
        assert_eq!(good.is_ok, (from..to).contains(&now), "{}", good.error_message);
        if good.is_ok {
            assert_eq!(hex::encode(&good.installation_public_key), expected["installation_key"]);
            let inbox = &good.credential.as_ref().unwrap().inbox_id;
            assert_eq!(inbox, expected["inbox_id"].as_str().unwrap());
        }
        for bad in bad {
            assert!(!bad.is_ok && !bad.error_message.is_empty() && bad.credential.is_none());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inboxes_come_to_what_their_updates_say() {
    let setup = NodeAndChain::start().await;
    let mut inboxes: BTreeMap<String, Vec<IdentityUpdate>> = BTreeMap::new();
    for (payload, _) in captured(&["identity_update"]) {
        let Payload::IdentityUpdate(update) = payload else { panic!("{payload:?}") };
        inboxes.entry(update.inbox_id.clone()).or_default().push(update);
    }
    for (inbox, updates) in &inboxes {
        let (old, new) = updates.split_at(updates.len() / 2);
        let answer = setup.state(old, new).await.unwrap();
        let state = answer.association_state.unwrap();
        assert_eq!((&state.inbox_id, state.members.is_empty()), (inbox, false));
        assert_eq!(setup.state(&[], updates).await.unwrap().association_state, Some(state));
    }

    let [owner, friend, stranger] = [11, 12, 13].map(Account::with_key);
    let inbox = owner.inbox_id(1);
    let first = founding(&owner, 1);
    let second = adding(inbox, &owner, &friend);
    let answer = setup.state(std::slice::from_ref(&first), std::slice::from_ref(&second)).await;
    let answer = answer.unwrap();
    assert_eq!(answer.state_diff.unwrap().new_members, [identifier(&friend.address())]);
    assert_eq!(answer.association_state.unwrap().members.len(), 2);

    let of_stranger = adding(inbox, &stranger, &friend);
    let mut changed = first.clone();
    changed.client_timestamp_ns += 1_000_000_000;
    for (old, new) in [
        (vec![], vec![]),
        (vec![], vec![second.clone()]),
        (vec![first.clone()], vec![first.clone()]),
        (vec![first.clone()], vec![of_stranger]),
        (vec![], vec![changed]),
        (vec![second], vec![first]),
    ] {
        let refused = setup.state(&old, &new).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{old:?} {new:?}: {refused}");
    }
}

/// A reference node repeats a request that fails for another reason than an invalid update, and its identity strand
/// waits for that. Empty actions have two bytes each, and hundreds once they are decoded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_megabytes_gets_a_verdict_and_one_of_empty_actions_gets_none() {
    let setup = NodeAndChain::start().await;
    let [owner, friend] = [11, 12].map(Account::with_key);
    let mut long = adding(owner.inbox_id(1), &owner, &friend);
    long.actions = vec![long.actions[0].clone(); 42];
    let log = vec![long.clone(); 400];
    let len_bytes: usize = log.iter().map(Message::encoded_len).sum();
    assert!(len_bytes > 3 << 20, "{len_bytes}");
    let refused = setup.state(&[], &log).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");

    long.actions = vec![IdentityAction::default(); 200_000];
    let refused = setup.state(&[], &[long]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}

/// Accounts without code answer like wallets do, by their keys.
fn account(chain_id: u64, number: u8) -> Account {
    let address = key(11).public_key().address().0;
    Account::Contract { chain_id, address, block_number: 0, key: key(number) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contract_wallets_are_asked_on_their_chains() {
    let setup = NodeAndChain::start().await;
    let agreed = setup.state(&[], &[founding(&account(CHAIN_ID, 11), 1)]).await.unwrap();
    assert_eq!(agreed.association_state.unwrap().members.len(), 1);
    for (chain_id, signer, code) in
        [(CHAIN_ID, 12, Code::InvalidArgument), (NOWHERE_ID, 11, Code::Unavailable)]
    {
        let refused = setup.state(&[], &[founding(&account(chain_id, signer), 1)]).await;
        assert_eq!(refused.unwrap_err().code(), code, "chain {chain_id}, key {signer}");
    }

    let digest = personal("what was signed");
    let ask = |chain_id: u64, block_number, signer| {
        identity_api::VerifySmartContractWalletSignatureRequestSignature {
            account_id: format!("eip155:{chain_id}:{}", account(chain_id, 11).address()),
            block_number,
            signature: sign(&key(signer), digest),
            hash: Bytes::copy_from_slice(&digest.0),
        }
    };
    let mut cut = ask(CHAIN_ID, None, 11);
    cut.hash = cut.hash.slice(1..);
    let mut stranger = ask(CHAIN_ID, None, 11);
    stranger.account_id = "no account".into();
    let signatures = vec![
        ask(CHAIN_ID, None, 11),
        ask(CHAIN_ID, Some(0), 12),
        ask(CHAIN_ID, Some(1000), 11),
        ask(NOWHERE_ID, None, 11),
        cut,
        stranger,
    ];
    let request = identity_api::VerifySmartContractWalletSignaturesRequest { signatures };
    let answer: identity_api::VerifySmartContractWalletSignaturesResponse =
        setup.ask("VerifySmartContractWalletSignatures", request).await.unwrap();
    let seen: Vec<_> = answer
        .responses
        .iter()
        .map(|response| (response.is_valid, response.block_number, response.error.is_some()))
        .collect();
    let unknown = (false, None, true);
    let known = [(true, Some(0), false), (false, Some(0), false)];
    assert_eq!(seen, [&known[..], &[unknown; 4]].concat());

    let NodeAndChain { network, chain } = setup;
    let calls = network.nodes[0].metrics().await;
    let service = "grpc_service=\"xmtp.mls_validation.v1.ValidationApi\"";
    assert!(calls.sum("grpc_server_started_total", &[service]) >= 4.0, "{}", calls.text());
    chain.stop().await;
}
