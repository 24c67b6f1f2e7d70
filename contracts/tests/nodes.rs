//! The node registry: registering nodes, and choosing the canonical ones.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::{SolCall, SolValue as _};
use hawser_chain::contracts::NodeRegistry::{
    AdminUpdated, BaseURIUpdated, ERC721NonexistentToken, HttpAddressUpdated, InvalidHttpAddress,
    InvalidOwner, InvalidSigningPublicKey, InvalidURI, MaxCanonicalNodesBelowCurrentCount,
    MaxCanonicalNodesReached, MaxCanonicalNodesUpdated, MaxNodesReached, NODE_INCREMENTCall,
    NoChange, NodeAdded, NodeAddedToCanonicalNetwork, NodeRemovedFromCanonicalNetwork, NotAdmin,
    NotNodeOwner, ParameterOutOfTypeBounds, Transfer, ZeroAdmin, addNodeCall, addNodeReturn,
    addToNetworkCall, adminCall, approveCall, canonicalNodesCountCall, getAllNodesCall,
    getAllNodesCountCall, getCanonicalNodesCall, getIsCanonicalNodeCall, getNodeCall,
    getSignerCall, implementationCall, maxCanonicalNodesCall, migrateCall, ownerOfCall,
    removeFromNetworkCall, setBaseURICall, setHttpAddressCall, tokenURICall, updateAdminCall,
    updateMaxCanonicalNodesCall,
};

use crate::harness::actors::{Caller as _, actor, admin, anyone, deployer, owner, signer};
use crate::harness::bytecode;
use crate::harness::cases::on_both_chains;
use crate::harness::network::TestNetwork;
use crate::harness::tx::Tx;
use crate::harness::vectors::vectors;

on_both_chains! {
    nodes_get_ids_in_steps_of_a_hundred
    a_node_is_told_as_it_was_registered
    registrations_must_be_complete
    keys_are_taken_as_they_are
    ids_end_where_their_type_ends
    only_the_admin_decides
    canonical_nodes_are_chosen_and_dismissed
    a_choice_that_changes_nothing_is_silent
    the_last_canonical_node_moves_into_the_gap
    no_more_nodes_are_canonical_than_allowed
    the_admin_is_taken_over_from_a_parameter
    token_uris_begin_with_a_base_that_ends_in_a_slash
    owners_change_where_their_node_is_reached
    unknown_nodes_are_refused
    the_canonical_set_can_be_filled_from_marks
}

const UNKNOWN: ERC721NonexistentToken =
    ERC721NonexistentToken { tokenId: U256::from_limbs([700, 0, 0, 0]) };

fn node(owner_: Address, key: &[u8], http: &str) -> addNodeCall {
    let signingPublicKey_ = Bytes::copy_from_slice(key);
    addNodeCall { owner_, signingPublicKey_, httpAddress_: http.to_owned() }
}

fn by_admin<C: SolCall>(w: &TestNetwork, call: C) -> Tx {
    admin().calls(w.at.nodes, call)
}

fn add(nodeId_: u32) -> addToNetworkCall {
    addToNetworkCall { nodeId_ }
}

fn remove(nodeId_: u32) -> removeFromNetworkCall {
    removeFromNetworkCall { nodeId_ }
}

fn set_http(nodeId_: u32, http: &str) -> setHttpAddressCall {
    setHttpAddressCall { nodeId_, httpAddress_: http.to_owned() }
}

async fn canonical(w: &TestNetwork) -> Vec<u32> {
    w.read(w.at.nodes, getCanonicalNodesCall {}).await
}

async fn nodes_get_ids_in_steps_of_a_hundred(w: &TestNetwork) {
    assert_eq!(w.read(w.at.nodes, NODE_INCREMENTCall {}).await, 100);
    let call = node(owner(100).address(), &signer(100).public_key(), "https://node100.example");
    let returned = w.returned(admin().address(), w.at.nodes, call).await;
    let expected = addNodeReturn { nodeId_: 100, signer_: signer(100).address() };
    assert_eq!((returned.nodeId_, returned.signer_), (expected.nodeId_, expected.signer_));

    for (index, node_id) in [100, 200, 300].into_iter().enumerate() {
        let receipt = w.add_node(node_id).await;
        let transfer = Transfer {
            from: Address::ZERO,
            to: owner(node_id).address(),
            tokenId: U256::from(node_id),
        };
        let added = NodeAdded {
            nodeId: node_id,
            owner: owner(node_id).address(),
            signer: signer(node_id).address(),
            signingPublicKey: signer(node_id).public_key(),
            httpAddress: format!("https://node{node_id}.example"),
        };
        assert_eq!(receipt.event::<Transfer>(w.at.nodes), transfer);
        assert_eq!(receipt.event::<NodeAdded>(w.at.nodes), added);
        assert_eq!(receipt.0.logs().len(), 2);
        let count = u32::try_from(index + 1).unwrap();
        assert_eq!(w.read(w.at.nodes, getAllNodesCountCall {}).await, count);
    }
}

async fn a_node_is_told_as_it_was_registered(w: &TestNetwork) {
    for node_id in [100, 200] {
        w.add_node(node_id).await;
    }
    w.send(by_admin(w, add(200))).await;
    let all = w.read(w.at.nodes, getAllNodesCall {}).await;
    assert_eq!(all.iter().map(|it| it.nodeId).collect::<Vec<_>>(), [100, 200]);
    for it in all {
        let id = it.nodeId;
        assert_eq!(it.node.signer, signer(id).address());
        assert_eq!(it.node.isCanonical, id == 200);
        assert_eq!(it.node.signingPublicKey, signer(id).public_key());
        assert_eq!(it.node.httpAddress, format!("https://node{id}.example"));
        assert_eq!(w.read(w.at.nodes, getNodeCall { nodeId_: id }).await, it.node);
        assert_eq!(w.read(w.at.nodes, getSignerCall { nodeId_: id }).await, it.node.signer);
        let tokenId = U256::from(id);
        let holder = w.read(w.at.nodes, ownerOfCall { tokenId }).await;
        assert_eq!(holder, owner(id).address());
    }
}

async fn registrations_must_be_complete(w: &TestNetwork) {
    let someone = owner(100).address();
    let key = signer(100).public_key();
    let compressed = [&[2], &key[1..33]].concat();
    let wrong_first = [&[5], &key[1..]].concat();
    w.refuse_all([
        (by_admin(w, node(Address::ZERO, &key, "a")), InvalidOwner {}.into()),
        (by_admin(w, node(Address::ZERO, &[], "")), InvalidOwner {}.into()),
        (by_admin(w, node(someone, &key, "")), InvalidHttpAddress {}.into()),
        (by_admin(w, node(someone, &[], "")), InvalidHttpAddress {}.into()),
        (by_admin(w, node(someone, &[], "a")), InvalidSigningPublicKey {}.into()),
        (by_admin(w, node(someone, &key[..64], "a")), InvalidSigningPublicKey {}.into()),
        (by_admin(w, node(someone, &compressed, "a")), InvalidSigningPublicKey {}.into()),
        (by_admin(w, node(someone, &wrong_first, "a")), InvalidSigningPublicKey {}.into()),
    ])
    .await;
}

async fn keys_are_taken_as_they_are(w: &TestNetwork) {
    // A key that is no point of the curve, and the key of another node. The owner cannot receive tokens.
    let no_point = [&[4][..], &[9; 64]].concat();
    for key in [no_point, signer(100).public_key().to_vec()] {
        w.send(by_admin(w, node(w.at.rates, &key, "not a URL"))).await;
    }
    w.add_node(100).await;
    let signers = [200, 300].map(|nodeId_| w.read(w.at.nodes, getSignerCall { nodeId_ }));
    let [second, third] = signers;
    assert_eq!(second.await, third.await);
}

/// The word of the registry's state with admin, limit and count.
fn first_word() -> B256 {
    let constants = vectors("constants");
    let slot = &constants["erc7201_slots"]["xmtp.storage.NodeRegistry"];
    slot.as_str().unwrap().parse().unwrap()
}

async fn ids_end_where_their_type_ends(w: &TestNetwork) {
    // One node fewer than there are ids.
    let last = u64::from(u32::MAX / 100) - 1;
    let word: U256 = w.storage(w.at.nodes, first_word()).await.into();
    let value: U256 = word | (U256::from(last) << 168);
    let code = bytecode::writing(first_word(), value.into());
    let migrator = w.create_raw(deployer().address(), &code).await;
    w.set("xmtp.nodeRegistry.migrator", migrator).await;
    w.send(anyone().calls(w.at.nodes, migrateCall {})).await;

    w.add_node(u32::MAX / 100 * 100).await;
    let call = node(anyone().address(), &signer(1).public_key(), "a");
    w.refuse(by_admin(w, call), MaxNodesReached {}).await;
    let call = node(anyone().address(), &[], "a");
    w.refuse(by_admin(w, call), MaxNodesReached {}).await;
}

async fn only_the_admin_decides(w: &TestNetwork) {
    w.add_node(100).await;
    // The role is not that of a parameter admin or of an owner.
    let key = signer(200).public_key();
    let uri = setBaseURICall { baseURI_: "https://a/".to_owned() };
    for other in [anyone(), owner(100), deployer()] {
        let by_other = |data: Vec<u8>| Tx::raw(other.address(), w.at.nodes, data);
        w.refuse_all([
            (by_other(node(other.address(), &key, "a").abi_encode()), NotAdmin {}.into()),
            (by_other(node(Address::ZERO, &[], "").abi_encode()), NotAdmin {}.into()),
            (by_other(add(100).abi_encode()), NotAdmin {}.into()),
            (by_other(add(700).abi_encode()), NotAdmin {}.into()),
            (by_other(remove(100).abi_encode()), NotAdmin {}.into()),
            (by_other(uri.abi_encode()), NotAdmin {}.into()),
        ])
        .await;
    }
}

async fn canonical_nodes_are_chosen_and_dismissed(w: &TestNetwork) {
    for node_id in [100, 200] {
        w.add_node(node_id).await;
    }
    let receipt = w.send(by_admin(w, add(200))).await;
    assert_eq!(receipt.event::<NodeAddedToCanonicalNetwork>(w.at.nodes).nodeId, 200);
    w.send(by_admin(w, add(100))).await;
    assert_eq!(canonical(w).await, [200, 100]);
    assert_eq!(w.read(w.at.nodes, canonicalNodesCountCall {}).await, 2);
    assert!(w.read(w.at.nodes, getIsCanonicalNodeCall { nodeId_: 100 }).await);

    let receipt = w.send(by_admin(w, remove(100))).await;
    assert_eq!(receipt.event::<NodeRemovedFromCanonicalNetwork>(w.at.nodes).nodeId, 100);
    assert_eq!(canonical(w).await, [200]);
    assert!(!w.read(w.at.nodes, getIsCanonicalNodeCall { nodeId_: 100 }).await);
    assert!(!w.read(w.at.nodes, getNodeCall { nodeId_: 100 }).await.isCanonical);
}

async fn a_choice_that_changes_nothing_is_silent(w: &TestNetwork) {
    w.add_node(100).await;
    assert!(w.send(by_admin(w, remove(100))).await.0.logs().is_empty());
    w.send(by_admin(w, add(100))).await;
    assert!(w.send(by_admin(w, add(100))).await.0.logs().is_empty());
    assert_eq!(canonical(w).await, [100]);
}

async fn the_last_canonical_node_moves_into_the_gap(w: &TestNetwork) {
    w.add_canonical_nodes(7).await;
    w.send(by_admin(w, remove(200))).await;
    assert_eq!(canonical(w).await, [100, 700, 300, 400, 500, 600]);
    w.send(by_admin(w, add(200))).await;
    assert_eq!(canonical(w).await, [100, 700, 300, 400, 500, 600, 200]);
}

async fn no_more_nodes_are_canonical_than_allowed(w: &TestNetwork) {
    let update = anyone().calls(w.at.nodes, updateMaxCanonicalNodesCall {});
    let key = "xmtp.nodeRegistry.maxCanonicalNodes";
    w.refuse(update.clone(), NoChange {}).await;
    w.set(key, 256).await;
    w.refuse(update.clone(), ParameterOutOfTypeBounds {}).await;
    w.set(key, 2).await;
    let receipt = w.send(update.clone()).await;
    assert_eq!(receipt.event::<MaxCanonicalNodesUpdated>(w.at.nodes).maxCanonicalNodes, 2);
    assert_eq!(w.read(w.at.nodes, maxCanonicalNodesCall {}).await, 2);

    w.add_canonical_nodes(2).await;
    w.add_node(300).await;
    w.refuse(by_admin(w, add(300)), MaxCanonicalNodesReached {}).await;
    // A call that changes nothing ignores the limit.
    w.send(by_admin(w, add(200))).await;
    w.set(key, 1).await;
    w.refuse(update.clone(), MaxCanonicalNodesBelowCurrentCount {}).await;
    w.send(by_admin(w, remove(100))).await;
    w.send(update).await;
    assert_eq!(w.read(w.at.nodes, maxCanonicalNodesCall {}).await, 1);
}

async fn the_admin_is_taken_over_from_a_parameter(w: &TestNetwork) {
    let update = anyone().calls(w.at.nodes, updateAdminCall {});
    let key = "xmtp.nodeRegistry.admin";
    w.refuse(update.clone(), NoChange {}).await;
    w.set(key, 0).await;
    w.refuse(update.clone(), ZeroAdmin {}).await;
    w.set(key, U256::MAX).await;
    w.refuse(update.clone(), ParameterOutOfTypeBounds {}).await;

    let newcomer = actor("newcomer");
    w.set(key, newcomer.address()).await;
    let receipt = w.send(update).await;
    assert_eq!(receipt.event::<AdminUpdated>(w.at.nodes).admin, newcomer.address());
    assert_eq!(w.read(w.at.nodes, adminCall {}).await, newcomer.address());
    let call = node(newcomer.address(), &signer(100).public_key(), "a");
    w.refuse(by_admin(w, call.clone()), NotAdmin {}).await;
    w.send(newcomer.calls(w.at.nodes, call)).await;
}

async fn token_uris_begin_with_a_base_that_ends_in_a_slash(w: &TestNetwork) {
    w.add_node(100).await;
    let uri = || tokenURICall { tokenId: U256::from(100) };
    assert_eq!(w.read(w.at.nodes, uri()).await, "");
    let set = |text: &str| by_admin(w, setBaseURICall { baseURI_: text.to_owned() });
    w.refuse_all([
        (set(""), InvalidURI {}.into()),
        (set("https://nodes.example"), InvalidURI {}.into()),
    ])
    .await;
    let receipt = w.send(set("https://nodes.example/")).await;
    let event = receipt.event::<BaseURIUpdated>(w.at.nodes);
    assert_eq!(event.baseURI, "https://nodes.example/");
    assert_eq!(w.read(w.at.nodes, uri()).await, "https://nodes.example/100");
}

async fn owners_change_where_their_node_is_reached(w: &TestNetwork) {
    w.add_node(100).await;
    let by_owner = |http: &str| owner(100).calls(w.at.nodes, set_http(100, http));
    let receipt = w.send(by_owner("https://new.example")).await;
    let event = HttpAddressUpdated { nodeId: 100, httpAddress: "https://new.example".to_owned() };
    assert_eq!(receipt.event::<HttpAddressUpdated>(w.at.nodes), event);
    let node = w.read(w.at.nodes, getNodeCall { nodeId_: 100 }).await;
    assert_eq!(node.httpAddress, "https://new.example");

    // An account that may move the token may not do this.
    let approval = approveCall { to: anyone().address(), tokenId: U256::from(100) };
    w.send(owner(100).calls(w.at.nodes, approval)).await;
    w.refuse_all([
        (anyone().calls(w.at.nodes, set_http(100, "")), NotNodeOwner {}.into()),
        (by_admin(w, set_http(100, "a")), NotNodeOwner {}.into()),
        (by_owner(""), InvalidHttpAddress {}.into()),
        (by_owner("https://new.example"), NoChange {}.into()),
        (owner(100).calls(w.at.nodes, set_http(700, "a")), UNKNOWN.into()),
    ])
    .await;
}

async fn unknown_nodes_are_refused(w: &TestNetwork) {
    let nodeId_ = 700;
    let tokenId = U256::from(nodeId_);
    let at = w.at.nodes;
    w.refuse_all([
        (anyone().calls(at, getNodeCall { nodeId_ }), UNKNOWN.into()),
        (anyone().calls(at, getIsCanonicalNodeCall { nodeId_ }), UNKNOWN.into()),
        (anyone().calls(at, getSignerCall { nodeId_ }), UNKNOWN.into()),
        (anyone().calls(at, ownerOfCall { tokenId }), UNKNOWN.into()),
        (anyone().calls(at, tokenURICall { tokenId }), UNKNOWN.into()),
        (by_admin(w, add(700)), UNKNOWN.into()),
        (by_admin(w, remove(700)), UNKNOWN.into()),
    ])
    .await;
}

async fn the_canonical_set_can_be_filled_from_marks(w: &TestNetwork) {
    w.add_canonical_nodes(3).await;
    w.add_node(400).await;
    w.send(by_admin(w, remove(200))).await;
    let creator = deployer().address();
    let implementation = w.create(creator, "NodeRegistry", w.at.params.abi_encode()).await;
    let eraser = w.create(creator, "CanonicalSetEraser", []).await;
    let arguments = implementation.abi_encode();
    let backfill = w.create(creator, "NodeRegistryBackfillMigrator", arguments).await;
    let migrate = || anyone().calls(w.at.nodes, migrateCall {});

    w.set("xmtp.nodeRegistry.migrator", eraser).await;
    w.send(migrate()).await;
    assert!(canonical(w).await.is_empty());
    assert!(w.read(w.at.nodes, getIsCanonicalNodeCall { nodeId_: 300 }).await);

    w.set("xmtp.nodeRegistry.migrator", backfill).await;
    for _ in 0..2 {
        w.send(migrate()).await;
        assert_eq!(canonical(w).await, [100, 300]);
        assert_eq!(w.read(w.at.nodes, implementationCall {}).await, implementation);
    }
}
