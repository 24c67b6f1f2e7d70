//! The fee token and the dollar token under it: ERC-20, wrapping and unwrapping.

use alloy::primitives::{Address, U256};
use hawser_chain::contracts::FeeToken::{
    Approval, ERC20InsufficientAllowance, ERC20InsufficientBalance, ERC20InvalidApprover,
    ERC20InvalidReceiver, ERC20InvalidSender, ERC20InvalidSpender, Transfer, TransferFailed,
    TransferFromFailed, ZeroAmount, ZeroRecipient, allowanceCall, approveCall, decimalsCall,
    depositCall, depositForCall, nameCall, symbolCall, totalSupplyCall, transferCall,
    transferFromCall, withdrawCall, withdrawToCall,
};
use hawser_chain::contracts::MockUnderlyingFeeToken::mintCall;

use crate::harness::actors::{Actor, Caller as _, actor, anyone};
use crate::harness::bytecode;
use crate::harness::cases::on_both_chains;
use crate::harness::network::TestNetwork;
use crate::harness::tx::Tx;
use crate::harness::vectors::vectors;

on_both_chains! {
    the_fee_token_is_called_as_the_deployed_one
    anyone_mints_dollars_of_a_development_chain
    tokens_move_as_their_owner_says
    allowances_are_used_up_unless_they_are_infinite
    zero_addresses_take_no_part
    wrapping_takes_dollars_and_gives_fee_tokens
    unwrapping_gives_the_dollars_back
    invalid_wraps_and_unwraps_are_refused
    dollars_that_do_not_move_are_noticed
}

fn both(w: &TestNetwork) -> [Address; 2] {
    [w.at.token, w.at.underlying]
}

fn n(amount: u128) -> U256 {
    U256::from(amount)
}

async fn supply(w: &TestNetwork, token: Address) -> u128 {
    w.read(token, totalSupplyCall {}).await.to()
}

async fn allowance(w: &TestNetwork, token: Address, owner: &Actor, spender: Address) -> U256 {
    w.read(token, allowanceCall { owner: owner.address(), spender }).await
}

fn transfer(from: &Actor, token: Address, to: Address, amount: u128) -> Tx {
    from.calls(token, transferCall { to, value: n(amount) })
}

fn take(by: &Actor, token: Address, from: Address, amount: u128) -> Tx {
    by.calls(token, transferFromCall { from, to: by.address(), value: n(amount) })
}

async fn the_fee_token_is_called_as_the_deployed_one(w: &TestNetwork) {
    let expected = &vectors("constants")["fee_token"];
    assert_eq!(Some(w.read(w.at.token, nameCall {}).await.as_str()), expected["name"].as_str());
    let symbol = w.read(w.at.token, symbolCall {}).await;
    assert_eq!(Some(symbol.as_str()), expected["symbol"].as_str());
    assert_eq!(w.read(w.at.underlying, nameCall {}).await, "Mock USD");
    assert_eq!(w.read(w.at.underlying, symbolCall {}).await, "mUSD");
    for token in both(w) {
        let decimals = u64::from(w.read(token, decimalsCall {}).await);
        assert_eq!(Some(decimals), expected["decimals"].as_u64());
    }
}

async fn anyone_mints_dollars_of_a_development_chain(w: &TestNetwork) {
    let alice = actor("alice").address();
    let mint = |to_| anyone().calls(w.at.underlying, mintCall { to_, amount_: n(5) });
    let before = supply(w, w.at.underlying).await;
    let receipt = w.send(mint(alice)).await;
    assert_eq!(supply(w, w.at.underlying).await, before + 5);
    let event = Transfer { from: Address::ZERO, to: alice, value: n(5) };
    assert_eq!(receipt.event::<Transfer>(w.at.underlying), event);
    assert_eq!(w.owned(w.at.underlying, alice).await, 5);
    let refusal = ERC20InvalidReceiver { receiver: Address::ZERO };
    w.refuse(mint(Address::ZERO), refusal).await;
}

async fn tokens_move_as_their_owner_says(w: &TestNetwork) {
    let (alice, bob) = (actor("alice"), actor("bob"));
    w.give(&alice, 100).await;
    w.mint(&alice, 100).await;
    for token in both(w) {
        let receipt = w.send(transfer(&alice, token, bob.address(), 30)).await;
        let event = Transfer { from: alice.address(), to: bob.address(), value: n(30) };
        assert_eq!(receipt.event::<Transfer>(token), event);
        assert_eq!(w.owned(token, alice.address()).await, 70);
        assert_eq!(w.owned(token, bob.address()).await, 30);
        let refusal =
            ERC20InsufficientBalance { sender: bob.address(), balance: n(30), needed: n(31) };
        w.refuse(transfer(&bob, token, alice.address(), 31), refusal).await;
    }
}

async fn allowances_are_used_up_unless_they_are_infinite(w: &TestNetwork) {
    let (alice, bob) = (actor("alice"), actor("bob"));
    w.give(&alice, 100).await;
    w.mint(&alice, 100).await;
    for token in both(w) {
        let spender = bob.address();
        let call = approveCall { spender, value: n(50) };
        let receipt = w.send(alice.calls(token, call)).await;
        let event = Approval { owner: alice.address(), spender, value: n(50) };
        assert_eq!(receipt.event::<Approval>(token), event);
        w.send(take(&bob, token, alice.address(), 20)).await;
        assert_eq!(allowance(w, token, &alice, spender).await, n(30));
        let refusal = ERC20InsufficientAllowance { spender, allowance: n(30), needed: n(31) };
        w.refuse(take(&bob, token, alice.address(), 31), refusal).await;

        w.send(alice.calls(token, approveCall { spender, value: U256::MAX })).await;
        w.send(take(&bob, token, alice.address(), 20)).await;
        assert_eq!(allowance(w, token, &alice, spender).await, U256::MAX);
    }
}

async fn zero_addresses_take_no_part(w: &TestNetwork) {
    let (alice, zero) = (actor("alice"), Address::ZERO);
    for token in both(w) {
        let to = alice.address();
        w.refuse_all([
            (transfer(&alice, token, zero, 0), ERC20InvalidReceiver { receiver: zero }.into()),
            (
                alice.calls(token, approveCall { spender: zero, value: n(1) }),
                ERC20InvalidSpender { spender: zero }.into(),
            ),
            // No account can send from the zero address, but a call can.
            (
                zero.calls(token, transferCall { to, value: n(0) }),
                ERC20InvalidSender { sender: zero }.into(),
            ),
            (
                zero.calls(token, approveCall { spender: to, value: n(1) }),
                ERC20InvalidApprover { approver: zero }.into(),
            ),
        ])
        .await;
    }
}

async fn wrapping_takes_dollars_and_gives_fee_tokens(w: &TestNetwork) {
    let (alice, bob) = (actor("alice"), actor("bob"));
    let before = (supply(w, w.at.token).await, w.owned(w.at.underlying, w.at.token).await);
    w.mint(&alice, 100).await;
    w.approve(&alice, w.at.underlying, w.at.token, 100).await;
    let receipt = w.send(alice.calls(w.at.token, depositCall { amount_: n(40) })).await;
    let event = Transfer { from: Address::ZERO, to: alice.address(), value: n(40) };
    assert_eq!(receipt.events::<Transfer>(w.at.token), [event]);
    let call = || depositForCall { recipient_: bob.address(), amount_: n(60) };
    assert!(w.returned(alice.address(), w.at.token, call()).await);
    w.send(alice.calls(w.at.token, call())).await;

    assert_eq!(w.fee_tokens(alice.address()).await, 40);
    assert_eq!(w.fee_tokens(bob.address()).await, 60);
    assert_eq!(w.owned(w.at.underlying, alice.address()).await, 0);
    assert_eq!(w.owned(w.at.underlying, w.at.token).await, before.1 + 100);
    assert_eq!(supply(w, w.at.token).await, before.0 + 100);
}

async fn unwrapping_gives_the_dollars_back(w: &TestNetwork) {
    let (alice, bob) = (actor("alice"), actor("bob"));
    let before = (supply(w, w.at.token).await, w.owned(w.at.underlying, w.at.token).await);
    w.give(&alice, 100).await;
    let receipt = w.send(alice.calls(w.at.token, withdrawCall { amount_: n(40) })).await;
    let event = Transfer { from: alice.address(), to: Address::ZERO, value: n(40) };
    assert_eq!(receipt.events::<Transfer>(w.at.token), [event]);
    let call = || withdrawToCall { recipient_: bob.address(), amount_: n(60) };
    assert!(w.returned(alice.address(), w.at.token, call()).await);
    w.send(alice.calls(w.at.token, call())).await;

    assert_eq!(w.owned(w.at.underlying, alice.address()).await, 40);
    assert_eq!(w.owned(w.at.underlying, bob.address()).await, 60);
    assert_eq!(supply(w, w.at.token).await, before.0 - 100);
    assert_eq!(w.owned(w.at.underlying, w.at.token).await, before.1 - 100);
}

async fn invalid_wraps_and_unwraps_are_refused(w: &TestNetwork) {
    let alice = actor("alice");
    w.give(&alice, 10).await;
    let (token, zero) = (w.at.token, Address::ZERO);
    let to = |recipient_, amount| depositForCall { recipient_, amount_: n(amount) };
    let out = |recipient_, amount| withdrawToCall { recipient_, amount_: n(amount) };
    let too_little =
        ERC20InsufficientBalance { sender: alice.address(), balance: n(10), needed: n(11) };
    w.refuse_all([
        (alice.calls(token, depositCall { amount_: n(0) }), ZeroAmount {}.into()),
        (alice.calls(token, to(zero, 0)), ZeroAmount {}.into()),
        (alice.calls(token, to(zero, 1)), ZeroRecipient {}.into()),
        (alice.calls(token, depositCall { amount_: n(1) }), TransferFromFailed {}.into()),
        (alice.calls(token, withdrawCall { amount_: n(0) }), ZeroAmount {}.into()),
        (alice.calls(token, out(zero, 0)), ZeroAmount {}.into()),
        (alice.calls(token, out(zero, 11)), ZeroRecipient {}.into()),
        (alice.calls(token, withdrawCall { amount_: n(11) }), too_little.into()),
    ])
    .await;
}

async fn dollars_that_do_not_move_are_noticed(w: &TestNetwork) {
    let alice = actor("alice");
    w.give(&alice, 10).await;
    // A token that returns false instead of reverting.
    w.set_code(w.at.underlying, &bytecode::answering(0).into()).await;
    w.refuse_all([
        (alice.calls(w.at.token, withdrawCall { amount_: n(1) }), TransferFailed {}.into()),
        (alice.calls(w.at.token, depositCall { amount_: n(1) }), TransferFromFailed {}.into()),
    ])
    .await;
}
