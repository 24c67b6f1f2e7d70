//! Tokens of accounts, and balances of payers.

use alloy::primitives::aliases::U96;
use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::sol_types::SolValue as _;
use hawser_chain::contracts::{FeeToken, MockUnderlyingFeeToken, PayerRegistry};

use super::actors::{Actor, Caller, patron};
use super::network::{Contracts, TestNetwork};
use super::test_chain::TestChain;

/// A dollar in microdollars.
pub(crate) const DOLLAR: u128 = 1_000_000;

pub(crate) fn u96(amount: u128) -> U96 {
    U96::from(amount)
}

/// A permit's signature, in the three parts that contracts take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permit {
    pub(crate) deadline: U256,
    pub(crate) v: u8,
    pub(crate) r: B256,
    pub(crate) s: B256,
}

impl Permit {
    /// A permit without a deadline.
    pub(crate) fn signed(owner: &Actor, digest: B256) -> Self {
        let signature = owner.sign(digest);
        Self {
            deadline: U256::MAX,
            v: 27 + u8::from(signature.v()),
            r: signature.r().into(),
            s: signature.s().into(),
        }
    }
}

/// The hash of a permit's type, ERC-2612.
pub(crate) fn permit_type() -> B256 {
    let text = "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)";
    keccak256(text)
}

/// A signature that nothing accepts.
pub(crate) const NO_PERMIT: Permit =
    Permit { deadline: U256::MAX, v: 27, r: B256::ZERO, s: B256::ZERO };

/// Mints and wraps the tokens of the patron, and allows the payer registry to take them.
pub(crate) async fn endow_patron(net: &TestChain, at: &Contracts) {
    let patron = patron();
    let amount_ = U256::from(10).pow(U256::from(24));
    let approve = |spender| FeeToken::approveCall { spender, value: U256::MAX };
    let to_ = patron.address();
    for tx in [
        patron.calls(at.underlying, MockUnderlyingFeeToken::mintCall { to_, amount_ }),
        patron.calls(at.underlying, approve(at.token)),
        patron.calls(at.token, FeeToken::depositCall { amount_ }),
        patron.calls(at.token, approve(at.payers)),
    ] {
        net.send(tx).await;
    }
}

impl TestNetwork {
    /// Gives underlying tokens.
    pub(crate) async fn mint(&self, to: &impl Caller, amount: u128) {
        let (to_, amount_) = (to.address(), U256::from(amount));
        let call = MockUnderlyingFeeToken::mintCall { to_, amount_ };
        self.send(patron().calls(self.at.underlying, call)).await;
    }

    /// Gives fee tokens.
    pub(crate) async fn give(&self, to: &impl Caller, amount: u128) {
        let call = FeeToken::transferCall { to: to.address(), value: U256::from(amount) };
        self.send(patron().calls(self.at.token, call)).await;
    }

    pub(crate) async fn approve(
        &self,
        owner: &impl Caller,
        token: Address,
        spender: Address,
        amount: u128,
    ) {
        let call = FeeToken::approveCall { spender, value: U256::from(amount) };
        self.send(owner.calls(token, call)).await;
    }

    /// Deposits for a payer.
    pub(crate) async fn deposit(&self, payer: &impl Caller, amount: u128) {
        let call = PayerRegistry::depositCall { payer_: payer.address(), amount_: u96(amount) };
        self.send(patron().calls(self.at.payers, call)).await;
    }

    /// Returns the token balance of an account.
    pub(crate) async fn owned(&self, token: Address, account: Address) -> u128 {
        self.read(token, FeeToken::balanceOfCall { account }).await.to()
    }

    /// Returns the balance of fee tokens of an account.
    pub(crate) async fn fee_tokens(&self, account: Address) -> u128 {
        self.owned(self.at.token, account).await
    }

    /// A payer's balance in microdollars; below zero it is a debt.
    pub(crate) async fn balance(&self, payer: &impl Caller) -> i128 {
        let call = PayerRegistry::getBalanceCall { payer_: payer.address() };
        self.read(self.at.payers, call).await.try_into().unwrap()
    }

    /// A permit of the owner's tokens.
    pub(crate) async fn permit(
        &self,
        token: Address,
        owner: &Actor,
        spender: Address,
        amount: u128,
    ) -> Permit {
        let digest = self.permit_digest(token, owner.address(), spender, amount).await;
        Permit::signed(owner, digest)
    }

    /// Returns the digest of a permit with the owner's current nonce and no deadline.
    pub(crate) async fn permit_digest(
        &self,
        token: Address,
        owner: Address,
        spender: Address,
        amount: u128,
    ) -> B256 {
        let domain = self.read(token, FeeToken::DOMAIN_SEPARATORCall {}).await;
        let nonce = self.read(token, FeeToken::noncesCall { owner_: owner }).await;
        let permit =
            (permit_type(), owner, spender, U256::from(amount), nonce, U256::MAX).abi_encode();
        keccak256([&[0x19, 0x01], domain.as_slice(), keccak256(permit).as_slice()].concat())
    }
}
