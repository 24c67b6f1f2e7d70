//! Permits (ERC-2612) of the fee token and of the dollar token under it: allowances by signature.

use alloy::primitives::{Address, B256, FixedBytes, U256, uint};
use hawser_chain::contracts::FeeToken::{
    Approval, DOMAIN_SEPARATORCall, ECDSAInvalidSignature, ECDSAInvalidSignatureS,
    ERC2612ExpiredSignature, ERC2612InvalidSigner, PERMIT_TYPEHASHCall, TransferFromFailed,
    ZeroAmount, ZeroRecipient, allowanceCall, depositForWithPermitCall, depositWithPermitCall,
    eip712DomainCall, getPermitDigestCall, noncesCall, permitCall,
};

use crate::harness::actors::{Actor, Caller as _, actor, anyone};
use crate::harness::cases::on_both_chains;
use crate::harness::money::{NO_PERMIT, Permit, permit_type};
use crate::harness::network::{CHAIN_ID, TestNetwork};
use crate::harness::test_chain::TestChain;
use crate::harness::tx::Tx;
use crate::harness::vectors::{field, list, vectors};

on_both_chains! {
    a_permit_gives_an_allowance_once
    permits_of_others_and_late_ones_are_refused
    a_signature_has_one_form
    a_domain_names_token_and_chain
    digests_are_those_of_the_vectors
    dollars_are_wrapped_with_a_permit
}

/// The order of the curve.
pub(crate) const ORDER: U256 =
    uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);

fn both(w: &TestNetwork) -> [Address; 2] {
    [w.at.token, w.at.underlying]
}

pub(crate) fn use_of(
    permit: Permit,
    token: Address,
    owner_: Address,
    spender_: Address,
    value: u64,
) -> Tx {
    let call = permitCall {
        owner_,
        spender_,
        value_: U256::from(value),
        deadline_: permit.deadline,
        v_: permit.v,
        r_: permit.r,
        s_: permit.s,
    };
    anyone().calls(token, call)
}

async fn allowance(w: &TestNetwork, token: Address, owner: &Actor, spender: Address) -> U256 {
    w.read(token, allowanceCall { owner: owner.address(), spender }).await
}

async fn a_permit_gives_an_allowance_once(w: &TestNetwork) {
    let (alice, spender) = (actor("alice"), actor("bob").address());
    for token in both(w) {
        let permit = w.permit(token, &alice, spender, 7).await;
        let tx = use_of(permit, token, alice.address(), spender, 7);
        let receipt = w.send(tx.clone()).await;
        let event = Approval { owner: alice.address(), spender, value: U256::from(7) };
        assert_eq!(receipt.event::<Approval>(token), event);
        assert_eq!(allowance(w, token, &alice, spender).await, U256::from(7));
        let nonce = w.read(token, noncesCall { owner_: alice.address() }).await;
        assert_eq!(nonce, U256::from(1));
        // With the next nonce the digest differs, so the signature recovers to another account.
        assert!(w.try_send(tx).await.is_err());
    }
}

async fn permits_of_others_and_late_ones_are_refused(w: &TestNetwork) {
    let (alice, mallory) = (actor("alice"), actor("mallory"));
    let (owner, spender) = (alice.address(), mallory.address());
    for token in both(w) {
        let digest = w.permit_digest(token, owner, spender, 7).await;
        let forged = Permit::signed(&mallory, digest);
        let refusal = ERC2612InvalidSigner { signer: spender, owner };
        w.refuse(use_of(forged, token, owner, spender, 7), refusal).await;

        let deadline = U256::from(w.now().await - 1);
        let late = Permit { deadline, ..Permit::signed(&alice, digest) };
        let refusal = ERC2612ExpiredSignature { deadline };
        w.refuse(use_of(late, token, owner, spender, 7), refusal).await;
    }
}

async fn a_signature_has_one_form(w: &TestNetwork) {
    let alice = actor("alice");
    let (owner, spender) = (alice.address(), actor("bob").address());
    for token in both(w) {
        let permit = w.permit(token, &alice, spender, 7).await;
        let high: B256 = (ORDER - U256::from_be_bytes(permit.s.0)).into();
        let other_form = Permit { v: 55 - permit.v, s: high, ..permit };
        let small_v = Permit { v: permit.v - 27, ..permit };
        w.refuse_all([
            (
                use_of(other_form, token, owner, spender, 7),
                ECDSAInvalidSignatureS { s: high }.into(),
            ),
            (use_of(small_v, token, owner, spender, 7), ECDSAInvalidSignature {}.into()),
            (use_of(NO_PERMIT, token, owner, spender, 7), ECDSAInvalidSignature {}.into()),
            (use_of(NO_PERMIT, token, Address::ZERO, spender, 7), ECDSAInvalidSignature {}.into()),
        ])
        .await;
    }
}

async fn a_domain_names_token_and_chain(w: &TestNetwork) {
    assert_eq!(w.read(w.at.token, PERMIT_TYPEHASHCall {}).await, permit_type());
    for (token, name) in [(w.at.token, "XMTP USD Fee Token"), (w.at.underlying, "Mock USD")] {
        let domain = w.read(token, eip712DomainCall {}).await;
        assert_eq!(domain.fields, FixedBytes([0x0f]));
        assert_eq!((domain.name.as_str(), domain.version.as_str()), (name, "1"));
        assert_eq!(domain.chainId, U256::from(CHAIN_ID));
        assert_eq!(domain.verifyingContract, token);
        assert_eq!(domain.salt, B256::ZERO);
        assert!(domain.extensions.is_empty());
    }
}

/// A chain of this id with a fee token at this address.
async fn chain_with_token(w: &TestNetwork, chain_id: u64, token: Address) -> TestChain {
    let net = TestChain::start(w.kind, chain_id).await;
    let arguments = w.at.arguments("FeeToken");
    let implementation = net.create(anyone().address(), "FeeToken", arguments).await;
    // Code alone is copied: the flag that locks the implementation is in its state.
    net.set_code(token, &net.code(implementation).await).await;
    net.name(token, "FeeToken");
    let initialise = w.at.initialisation("FeeToken");
    net.send(Tx::raw(anyone().address(), token, initialise)).await;
    net
}

async fn digests_are_those_of_the_vectors(w: &TestNetwork) {
    for case in list(&vectors("permit_digest"), "cases") {
        let token: Address = field(case, "token");
        let net = chain_with_token(w, field(case, "chain_id"), token).await;
        let domain: B256 = field(case, "domain_separator");
        assert_eq!(net.read(token, DOMAIN_SEPARATORCall {}).await, domain);
        let call = getPermitDigestCall {
            owner_: field(case, "owner"),
            spender_: field(case, "spender"),
            value_: field(case, "value"),
            nonce_: field(case, "nonce"),
            deadline_: field(case, "deadline"),
        };
        let digest: B256 = field(case, "digest");
        assert_eq!(net.read(token, call).await, digest);

        let signature = actor("xmtp vector key 1").sign(digest);
        let expected = &case["signature_by_vector_key_1"];
        assert_eq!(27 + u8::from(signature.v()), field::<u8>(expected, "v"));
        assert_eq!(B256::from(signature.r()), field::<B256>(expected, "r"));
        assert_eq!(B256::from(signature.s()), field::<B256>(expected, "s"));
    }
}

/// Returns a wrapping of dollars with its permit.
pub(crate) fn deposit(amount: u64, permit: Permit) -> depositWithPermitCall {
    depositWithPermitCall {
        amount_: U256::from(amount),
        deadline_: permit.deadline,
        v_: permit.v,
        r_: permit.r,
        s_: permit.s,
    }
}

/// Returns a wrapping for another account, with its permit.
pub(crate) fn deposit_for(
    recipient_: Address,
    amount: u64,
    permit: Permit,
) -> depositForWithPermitCall {
    depositForWithPermitCall {
        recipient_,
        amount_: U256::from(amount),
        deadline_: permit.deadline,
        v_: permit.v,
        r_: permit.r,
        s_: permit.s,
    }
}

async fn dollars_are_wrapped_with_a_permit(w: &TestNetwork) {
    let (alice, bob) = (actor("alice"), actor("bob").address());
    let at = w.at.token;
    w.mint(&alice, 100).await;
    let permit = w.permit(w.at.underlying, &alice, at, 30).await;
    w.send(alice.calls(at, deposit(30, permit))).await;
    let permit = w.permit(w.at.underlying, &alice, at, 50).await;
    let call = deposit_for(bob, 50, permit);
    assert!(w.returned(alice.address(), at, call.clone()).await);
    w.send(alice.calls(at, call)).await;
    assert_eq!(w.fee_tokens(alice.address()).await, 30);
    assert_eq!(w.fee_tokens(bob).await, 50);

    // A permit that fails does not matter if there is an allowance.
    let call = deposit(20, NO_PERMIT);
    w.refuse_all([
        (alice.calls(at, call.clone()), TransferFromFailed {}.into()),
        (alice.calls(at, deposit_for(bob, 20, NO_PERMIT)), TransferFromFailed {}.into()),
        (alice.calls(at, deposit(0, NO_PERMIT)), ZeroAmount {}.into()),
        (alice.calls(at, deposit_for(Address::ZERO, 1, NO_PERMIT)), ZeroRecipient {}.into()),
    ])
    .await;
    w.approve(&alice, w.at.underlying, at, 20).await;
    w.send(alice.calls(at, call)).await;
    assert_eq!(w.fee_tokens(alice.address()).await, 50);
}
