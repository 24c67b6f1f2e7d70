//! Nodes as tokens (ERC-721): the holder of the token owns the node.

use alloy::primitives::{Address, Bytes, FixedBytes, U256};
use hawser_chain::contracts::NodeRegistry::{
    Approval, ApprovalForAll, ERC721IncorrectOwner, ERC721InsufficientApproval,
    ERC721InvalidApprover, ERC721InvalidOperator, ERC721InvalidOwner, ERC721InvalidReceiver,
    ERC721NonexistentToken, NotNodeOwner, Transfer, approveCall, balanceOfCall, getApprovedCall,
    isApprovedForAllCall, nameCall, ownerOfCall, safeTransferFrom_0Call, safeTransferFrom_1Call,
    setApprovalForAllCall, setHttpAddressCall, supportsInterfaceCall, symbolCall, transferFromCall,
};

use crate::harness::actors::{Actor, Caller as _, actor, admin, anyone, deployer, owner};
use crate::harness::bytecode;
use crate::harness::cases::on_both_chains;
use crate::harness::network::TestNetwork;
use crate::harness::tx::Tx;
use crate::harness::vectors::vectors;

on_both_chains! {
    the_token_has_the_names_of_the_deployed_one
    a_transfer_moves_the_rights_to_a_node
    an_approved_account_may_transfer_once
    operators_may_transfer_everything_of_their_owner
    safe_transfers_ask_receivers_that_are_contracts
    transfers_without_an_allowance_are_refused
}

const NODE: u32 = 100;

fn token() -> U256 {
    U256::from(NODE)
}

fn transfer(by: &Actor, w: &TestNetwork, from: Address, to: Address) -> Tx {
    by.calls(w.at.nodes, transferFromCall { from, to, tokenId: token() })
}

fn safe_transfer(by: &Actor, w: &TestNetwork, to: Address) -> Tx {
    let from = by.address();
    by.calls(w.at.nodes, safeTransferFrom_0Call { from, to, tokenId: token() })
}

async fn holder(w: &TestNetwork) -> Address {
    w.read(w.at.nodes, ownerOfCall { tokenId: token() }).await
}

async fn approved(w: &TestNetwork) -> Address {
    w.read(w.at.nodes, getApprovedCall { tokenId: token() }).await
}

async fn the_token_has_the_names_of_the_deployed_one(w: &TestNetwork) {
    let expected = &vectors("constants")["node_nft"];
    let at = w.at.nodes;
    assert_eq!(Some(w.read(at, nameCall {}).await.as_str()), expected["name"].as_str());
    assert_eq!(Some(w.read(at, symbolCall {}).await.as_str()), expected["symbol"].as_str());
    // ERC-165, ERC-721, its metadata; not its enumeration, and not "none".
    let interfaces: [(u32, bool); 5] = [
        (0x01ff_c9a7, true),
        (0x80ac_58cd, true),
        (0x5b5e_139f, true),
        (0x780e_9d63, false),
        (0xffff_ffff, false),
    ];
    for (id, is_supported) in interfaces {
        let interfaceId = FixedBytes::from(id);
        assert_eq!(w.read(at, supportsInterfaceCall { interfaceId }).await, is_supported);
    }
}

async fn a_transfer_moves_the_rights_to_a_node(w: &TestNetwork) {
    w.add_node(NODE).await;
    let (old, new) = (owner(NODE), actor("new owner"));
    let receipt = w.send(transfer(&old, w, old.address(), new.address())).await;
    let event = Transfer { from: old.address(), to: new.address(), tokenId: token() };
    assert_eq!(receipt.event::<Transfer>(w.at.nodes), event);
    assert_eq!(holder(w).await, new.address());
    for (account, count) in [(&old, 0), (&new, 1)] {
        let call = balanceOfCall { owner: account.address() };
        assert_eq!(w.read(w.at.nodes, call).await, U256::from(count));
    }
    let set = setHttpAddressCall { nodeId_: NODE, httpAddress_: "a".to_owned() };
    w.refuse(old.calls(w.at.nodes, set.clone()), NotNodeOwner {}).await;
    w.send(new.calls(w.at.nodes, set)).await;
}

async fn an_approved_account_may_transfer_once(w: &TestNetwork) {
    w.add_node(NODE).await;
    let (old, agent, new) = (owner(NODE), actor("agent"), actor("new owner"));
    let call = approveCall { to: agent.address(), tokenId: token() };
    let receipt = w.send(old.calls(w.at.nodes, call)).await;
    let event = Approval { owner: old.address(), approved: agent.address(), tokenId: token() };
    assert_eq!(receipt.event::<Approval>(w.at.nodes), event);
    assert_eq!(approved(w).await, agent.address());

    w.send(transfer(&agent, w, old.address(), new.address())).await;
    assert_eq!(holder(w).await, new.address());
    assert_eq!(approved(w).await, Address::ZERO);
    let refusal = ERC721InsufficientApproval { operator: agent.address(), tokenId: token() };
    w.refuse(transfer(&agent, w, new.address(), old.address()), refusal).await;
}

async fn operators_may_transfer_everything_of_their_owner(w: &TestNetwork) {
    w.add_node(NODE).await;
    let (old, operator, new) = (owner(NODE), actor("operator"), actor("new owner"));
    let allow = |approved| {
        let call = setApprovalForAllCall { operator: operator.address(), approved };
        old.calls(w.at.nodes, call)
    };
    let is_allowed = || {
        let (owner, operator) = (old.address(), operator.address());
        w.read(w.at.nodes, isApprovedForAllCall { owner, operator })
    };
    assert!(!is_allowed().await);
    let receipt = w.send(allow(true)).await;
    let event =
        ApprovalForAll { owner: old.address(), operator: operator.address(), approved: true };
    assert_eq!(receipt.event::<ApprovalForAll>(w.at.nodes), event);
    assert!(is_allowed().await);
    // An operator may also approve others.
    let call = approveCall { to: anyone().address(), tokenId: token() };
    w.send(operator.calls(w.at.nodes, call)).await;
    w.send(transfer(&operator, w, old.address(), new.address())).await;
    assert_eq!(holder(w).await, new.address());
    w.send(allow(false)).await;
    assert!(!is_allowed().await);
}

async fn safe_transfers_ask_receivers_that_are_contracts(w: &TestNetwork) {
    w.add_node(NODE).await;
    let old = owner(NODE);
    // The result of a receiver: the selector of `onERC721Received`.
    let accepts = bytecode::answering_bytes4([0x15, 0x0b, 0x7a, 0x02]);
    let receiver = w.create_raw(deployer().address(), &accepts).await;
    let deaf = w.create_raw(deployer().address(), &bytecode::answering_bytes4([1; 4])).await;
    for contract in [deaf, w.at.rates] {
        let refusal = ERC721InvalidReceiver { receiver: contract };
        w.refuse(safe_transfer(&old, w, contract), refusal).await;
    }
    let from = old.address();
    let data = Bytes::from_static(b"hello");
    let call = safeTransferFrom_1Call { from, to: receiver, tokenId: token(), data };
    w.send(old.calls(w.at.nodes, call)).await;
    assert_eq!(holder(w).await, receiver);

    w.add_node(200).await;
    let call = safeTransferFrom_0Call {
        from: owner(200).address(),
        to: old.address(),
        tokenId: U256::from(200),
    };
    w.send(owner(200).calls(w.at.nodes, call)).await;
}

async fn transfers_without_an_allowance_are_refused(w: &TestNetwork) {
    w.add_node(NODE).await;
    let (old, thief) = (owner(NODE), actor("thief"));
    let at = w.at.nodes;
    let (old_at, thief_at) = (old.address(), thief.address());
    let approve = |to, tokenId| thief.calls(at, approveCall { to, tokenId });
    let tokenId = token();
    let not_allowed = ERC721InsufficientApproval { operator: thief_at, tokenId };
    let unknown = || ERC721NonexistentToken { tokenId: U256::from(7) };
    let no_receiver = ERC721InvalidReceiver { receiver: Address::ZERO };
    let not_the_owner = ERC721IncorrectOwner { sender: thief_at, tokenId, owner: old_at };
    let no_operator = ERC721InvalidOperator { operator: Address::ZERO };
    let everyone = setApprovalForAllCall { operator: Address::ZERO, approved: true };
    let balance_of_zero = balanceOfCall { owner: Address::ZERO };
    w.refuse_all([
        (transfer(&thief, w, old_at, thief_at), not_allowed.clone().into()),
        (
            transfer(&admin(), w, old_at, thief_at),
            ERC721InsufficientApproval { operator: admin().address(), tokenId }.into(),
        ),
        (transfer(&old, w, old_at, Address::ZERO), no_receiver.into()),
        (transfer(&old, w, thief_at, thief_at), not_the_owner.into()),
        (approve(thief_at, tokenId), ERC721InvalidApprover { approver: thief_at }.into()),
        (approve(thief_at, U256::from(7)), unknown().into()),
        (old.calls(at, everyone), no_operator.into()),
        (thief.calls(at, balance_of_zero), ERC721InvalidOwner { owner: Address::ZERO }.into()),
        (thief.calls(at, getApprovedCall { tokenId: U256::from(7) }), unknown().into()),
    ])
    .await;
}
