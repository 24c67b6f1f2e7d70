//! Sends the transactions of an account on one chain, one after the other, and waits for each receipt.

use std::fmt;
use std::time::{Duration, Instant};

use alloy::eips::{BlockId, Encodable2718 as _};
use alloy::network::{EthereumWallet, NetworkTransactionBuilder as _};
use alloy::primitives::{Address, B256, Bytes};
use alloy::providers::Provider as _;
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::signers::local::PrivateKeySigner;
use hawser_proto::one_line;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::call::{Call, Quote};
use super::chain::Chain;
use super::error::{RequestError, SendError};
use crate::admin::WeiPerGas;
use crate::backoff::Pauses;
use crate::broadcast::{
    TransmitOutcome, UnsettledNonce, WitnessedOutcome, Witnesses, is_too_cheap,
};

/// Default time limit for a receipt. Guess.
pub const RECEIPT_MAX: Duration = Duration::from_secs(60);
/// The longest pause between two requests for a receipt. Guess.
const LOOK_EVERY_MAX: Duration = Duration::from_millis(500);
/// The first pause between two requests for a receipt. Guess: a development chain mines within milliseconds.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// The time within which the receipt of a used nonce has to appear. Receipts appear later than counts, and later still
/// at other machines of the same provider. Guess.
const RECEIPT_FOLLOWS_WITHIN: Duration = Duration::from_secs(3);
/// The number of attempts to submit a transaction to a node that lacks transactions before it. Guess.
const SUBMIT_TRIES: u32 = 5;

/// The owner of an account's nonces on a chain. Two senders for one account would use the same nonces, so
/// share one sender by reference.
pub struct Sender {
    chain: Chain,
    wallet: EthereumWallet,
    account: Address,
    receipt_max: Duration,
    /// The endpoints that have to agree on outcomes; `None` if the one in use is believed.
    witnesses: Option<Witnesses>,
    /// Is told the hash of each transaction before a node gets it.
    tell: Option<fn(B256)>,
    /// The nonce after that of the last transaction that a node accepted; `None` if the chain's count alone is known.
    next_nonce: Mutex<Option<u64>>,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sender({} on {:?})", self.account, self.chain)
    }
}

/// A signed transaction.
struct Signed {
    hash: B256,
    raw: Bytes,
    nonce: u64,
}

impl Sender {
    /// Creates a sender for the account of this key.
    #[must_use]
    pub fn new(chain: Chain, key: PrivateKeySigner) -> Self {
        Self {
            chain,
            account: key.address(),
            wallet: EthereumWallet::from(key),
            receipt_max: RECEIPT_MAX,
            witnesses: None,
            tell: None,
            next_nonce: Mutex::new(None),
        }
    }

    /// Sets the time limit for a receipt.
    #[must_use]
    pub fn with_receipt_timeout(self, receipt_max: Duration) -> Self {
        Self { receipt_max, ..self }
    }

    /// Makes the sender ask all endpoints of the chain for outcomes, fees and the account's counts: it does not believe
    /// a statement that only one of several makes (decision 55). With a single endpoint nothing changes.
    #[must_use]
    pub fn with_witnesses(self, witnesses: Witnesses) -> Self {
        Self { witnesses: Some(witnesses).filter(Witnesses::are_several), ..self }
    }

    /// Makes the sender tell the hash of each transaction before a node gets it. An operator who ends the process
    /// while it waits can then look for the transaction.
    #[must_use]
    pub fn with_hash_callback(self, tell: fn(B256)) -> Self {
        Self { tell: Some(tell), ..self }
    }

    /// Returns the account.
    #[must_use]
    pub fn account(&self) -> Address {
        self.account
    }

    /// Returns the chain.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Returns the result and the cost of a call, without sending it.
    ///
    /// # Errors
    /// See [`Chain::quote`].
    pub async fn quote(&self, call: &Call) -> Result<Quote, SendError> {
        self.quote_up_to(call, WeiPerGas(u128::MAX)).await
    }

    /// Returns the present quote of a call, at a price at which it costs no more than an earlier quote that the sender
    /// has agreed to. `None` if it is not mined at that price. Of the prices of two endpoints the lower one counts if
    /// the other one is more than twice the agreed price: one that lies must not prevent the call.
    ///
    /// # Errors
    /// See [`Chain::quote`].
    pub async fn quote_within(
        &self,
        call: &Call,
        agreed: &Quote,
    ) -> Result<Option<Quote>, SendError> {
        let quote = self.quote_up_to(call, agreed.max_fee_per_gas.times(2)).await?;
        Ok(quote.within(agreed))
    }

    /// Returns a quote like [`quote`](Self::quote), with [`Witnesses::quote_up_to`] if there are witnesses.
    pub(crate) async fn quote_up_to(
        &self,
        call: &Call,
        price_max: WeiPerGas,
    ) -> Result<Quote, SendError> {
        match &self.witnesses {
            Some(witnesses) => {
                witnesses.quote_up_to(&self.chain, self.account, call, price_max).await
            }
            None => self.chain.quote(self.account, call).await,
        }
    }

    /// Simulates the call, sends it if it would succeed, and waits until it is mined. The
    /// returned receipt is that of a success.
    ///
    /// # Errors
    /// [`SendError`], whose variants state whether anything was sent. Another attempt is safe
    /// unless the variant says otherwise.
    pub async fn send(&self, call: &Call) -> Result<TransactionReceipt, SendError> {
        let quote = self.quote(call).await?;
        self.send_quoted(call, &quote).await
    }

    /// Sends a call with a given quote and waits until it is mined.
    ///
    /// # Errors
    /// See [`send`](Self::send).
    pub async fn send_quoted(
        &self,
        call: &Call,
        quote: &Quote,
    ) -> Result<TransactionReceipt, SendError> {
        self.send_in_place_of(None, call, quote).await
    }

    /// Sends a call like [`send_quoted`](Self::send_quoted), with the nonce `replaced` if there is one. Of the
    /// transactions with that nonce one is mined; if it is not this one, the error is [`SendError::NonceTaken`]. If the
    /// fees do not suffice to replace the transaction that has the nonce, the error is [`SendError::TooCheap`].
    ///
    /// # Errors
    /// See [`send`](Self::send).
    pub(crate) async fn send_in_place_of(
        &self,
        replaced: Option<u64>,
        call: &Call,
        quote: &Quote,
    ) -> Result<TransactionReceipt, SendError> {
        if let Some(witnesses) = &self.witnesses {
            witnesses.begin().await;
        }
        let signed = match replaced {
            Some(nonce) => self.submit_at(nonce, call, quote, true).await?.0,
            None => self.submit(call, quote).await?,
        };
        let receipt = match &self.witnesses {
            Some(witnesses) => self.agreed_receipt_of(&signed, witnesses).await?,
            None => self.receipt_of(&signed).await?,
        };
        if receipt.status() {
            Ok(receipt)
        } else {
            Err(self.chain.reverted(self.account, call, &receipt).await)
        }
    }

    /// Signs the call with the next nonce and submits it, once. The lock admits one call at a time, so no two calls get
    /// the same nonce, and the node receives nonces in order.
    async fn submit(&self, call: &Call, quote: &Quote) -> Result<Signed, SendError> {
        let mut next = self.next_nonce.lock().await;
        // Another process may have used the account since.
        let pending = self.pending_nonce().await?;
        let nonce = next.take().map_or(pending, |next| next.max(pending));
        let (signed, is_accepted) = self.submit_at(nonce, call, quote, false).await?;
        // Otherwise the next call asks for its nonce: a gap would hold up all that follow.
        *next = is_accepted.then_some(nonce + 1);
        Ok(signed)
    }

    /// Signs the call with a nonce and submits it, once. Returns true if a node has accepted it.
    ///
    /// A node that says that the nonce is used may have this very transaction: proxies submit one twice, and a hostile
    /// node keeps it. Another one with the next nonce would make the payment a second time, so only the receipt
    /// decides. The same holds if one node refuses the transaction and others do not: it may have passed it on. Of a
    /// replacement, on the other hand, it is certain that another transaction has the nonce.
    async fn submit_at(
        &self,
        nonce: u64,
        call: &Call,
        quote: &Quote,
        is_replacement: bool,
    ) -> Result<(Signed, bool), SendError> {
        let signed = self.sign(call, quote, nonce).await?;
        if let Some(tell) = self.tell {
            tell(signed.hash);
        }
        for _ in 0..SUBMIT_TRIES {
            match self.hand_over(&signed).await? {
                TransmitOutcome::Accepted => return Ok((signed, true)),
                TransmitOutcome::Outbid if is_replacement => {
                    let said = "they do not suffice to replace the transaction with its nonce";
                    let (hash, said) = (signed.hash, said.to_owned());
                    return Err(SendError::TooCheap { hash, nonce, said });
                }
                TransmitOutcome::NonceUsed | TransmitOutcome::Outbid | TransmitOutcome::Unsure => {
                    return Ok((signed, false));
                }
                TransmitOutcome::NonceAhead => sleep(LOOK_AGAIN_AFTER).await,
                TransmitOutcome::TooCheap(said) => {
                    return Err(SendError::TooCheap { hash: signed.hash, nonce, said });
                }
                TransmitOutcome::Refused(said) => {
                    return Err(SendError::RefusedByAll { hash: signed.hash, said });
                }
            }
        }
        Ok((signed, false))
    }

    /// Waits until all known transactions of the account are mined, so that no transaction of an earlier run
    /// changes the chain's state later. Returns true if there was one, and not only an endpoint that is behind.
    ///
    /// # Errors
    /// [`SendError::NotSettled`] when they are not mined in time.
    pub async fn settled(&self) -> Result<bool, SendError> {
        let (begun, mut has_waited) = (Instant::now(), false);
        loop {
            let Some(UnsettledNonce { nonce, is_mined_for_two }) = self.first_pending().await?
            else {
                return Ok(has_waited);
            };
            has_waited |= !is_mined_for_two;
            if begun.elapsed() >= self.receipt_max {
                return Err(SendError::NotSettled {
                    account: self.account,
                    chain_id: self.chain.id(),
                    nonce,
                });
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    /// Returns the first nonce that is pending and not mined, if there is one. With witnesses, each of them is
    /// asked: if a single one hid a transaction, a payment would be made twice.
    async fn first_pending(&self) -> Result<Option<UnsettledNonce>, RequestError> {
        if let Some(witnesses) = &self.witnesses {
            return witnesses.first_pending(self.account).await;
        }
        let (mined, pending) = (self.mined_nonce().await?, self.pending_nonce().await?);
        let is_mined_for_two = false;
        Ok((mined < pending).then_some(UnsettledNonce { nonce: mined, is_mined_for_two }))
    }

    /// Returns the first nonce that is pending and not mined, on which the witnesses agree if there are any; `None` if
    /// there is none.
    pub(crate) async fn first_agreed_pending(&self) -> Result<Option<u64>, RequestError> {
        match &self.witnesses {
            Some(witnesses) => witnesses.first_agreed_pending(self.account).await,
            None => Ok(self.first_pending().await?.map(|it| it.nonce)),
        }
    }

    /// Returns the count of mined and pending transactions, on which the witnesses agree if there are any.
    async fn pending_nonce(&self) -> Result<u64, RequestError> {
        match &self.witnesses {
            Some(witnesses) => witnesses.next_nonce(self.account).await,
            None => self.chain.transaction_count(self.account, BlockId::pending()).await,
        }
    }

    async fn mined_nonce(&self) -> Result<u64, RequestError> {
        self.chain.transaction_count(self.account, BlockId::latest()).await
    }

    async fn sign(&self, call: &Call, quote: &Quote, nonce: u64) -> Result<Signed, SendError> {
        let request = TransactionRequest {
            chain_id: Some(self.chain.id()),
            nonce: Some(nonce),
            gas: Some(quote.gas_limit),
            max_fee_per_gas: Some(quote.max_fee_per_gas.0),
            max_priority_fee_per_gas: Some(quote.max_priority_fee_per_gas.0),
            ..call.request(self.account)
        };
        let fail = |reason: String| SendError::Key { account: self.account, reason };
        let envelope =
            request.build(&self.wallet).await.map_err(|error| fail(error.to_string()))?;
        Ok(Signed { hash: *envelope.tx_hash(), raw: envelope.encoded_2718().into(), nonce })
    }

    /// Submits the transaction. If the response is lost, the node may still have it.
    async fn hand_over(&self, signed: &Signed) -> Result<TransmitOutcome, SendError> {
        if let Some(witnesses) = &self.witnesses {
            return Ok(witnesses.hand_over(self.account, signed.nonce, &signed.raw).await);
        }
        let Err(error) = self.chain.provider().send_raw_transaction(&signed.raw).await else {
            return Ok(TransmitOutcome::Accepted);
        };
        let Some(payload) = error.as_error_resp() else {
            let error = self.chain.request_error("eth_sendRawTransaction", error);
            return match error {
                // The transaction may have arrived.
                RequestError::Unreachable { .. } | RequestError::Malformed { .. } => {
                    Ok(TransmitOutcome::Unsure)
                }
                error @ RequestError::Refused { .. } => Err(error.into()),
            };
        };
        let said = payload.message.to_ascii_lowercase();
        let is = |text: &str| said.contains(text);
        if is("already known") || is("already imported") || is("already in the mempool") {
            Ok(TransmitOutcome::Accepted)
        } else if is("nonce too low") || is("nonce has already been used") {
            Ok(TransmitOutcome::NonceUsed)
        } else if is("replacement transaction underpriced") || is("replacement fee too low") {
            Ok(TransmitOutcome::Outbid)
        } else if is("nonce too high") {
            Ok(TransmitOutcome::NonceAhead)
        } else if is_too_cheap(&said) {
            Ok(TransmitOutcome::TooCheap(one_line(&payload.message)))
        } else {
            Err(self.chain.request_error("eth_sendRawTransaction", error).into())
        }
    }

    /// Waits for a receipt on which the endpoints agree. Failed requests are repeated until the time limit.
    async fn agreed_receipt_of(
        &self,
        signed: &Signed,
        witnesses: &Witnesses,
    ) -> Result<TransactionReceipt, SendError> {
        let (hash, account, nonce) = (signed.hash, self.account, signed.nonce);
        let (begun, mut pauses) = (Instant::now(), Pauses::new(LOOK_AGAIN_AFTER, LOOK_EVERY_MAX));
        let mut is_spread = false;
        loop {
            let waited = begun.elapsed();
            let is_late = waited >= RECEIPT_FOLLOWS_WITHIN;
            if is_late && !is_spread {
                witnesses.spread(&signed.raw).await;
                is_spread = true;
            }
            let outcome = witnesses.outcome(account, nonce, hash, is_late).await;
            let is_contested = match outcome {
                Ok(WitnessedOutcome::Mined(receipt)) => return Ok(*receipt),
                Ok(WitnessedOutcome::NonceTaken) => {
                    return Err(SendError::NonceTaken { hash, account, nonce });
                }
                Ok(WitnessedOutcome::Contested) => true,
                Ok(WitnessedOutcome::Open) | Err(_) => false,
            };
            if waited >= self.receipt_max {
                let waited = self.receipt_max;
                return Err(match is_contested {
                    true => SendError::Contested { hash, waited },
                    false => SendError::NotMined { hash, account, nonce, waited },
                });
            }
            sleep(pauses.next()).await;
        }
    }

    /// Waits for the receipt. Failed requests are repeated until the time limit.
    async fn receipt_of(&self, signed: &Signed) -> Result<TransactionReceipt, SendError> {
        let begun = Instant::now();
        let mut used_since = None;
        let mut pauses = Pauses::new(LOOK_AGAIN_AFTER, LOOK_EVERY_MAX);
        loop {
            let is_used = self.mined_nonce().await.is_ok_and(|mined| mined > signed.nonce);
            let receipt = self.chain.provider().get_transaction_receipt(signed.hash).await;
            if let Ok(Some(receipt)) = receipt
                && receipt.transaction_hash == signed.hash
            {
                return Ok(receipt);
            }
            used_since = used_since.filter(|_| is_used).or_else(|| is_used.then(Instant::now));
            if used_since.is_some_and(|since: Instant| since.elapsed() >= RECEIPT_FOLLOWS_WITHIN) {
                return Err(SendError::NonceTaken {
                    hash: signed.hash,
                    account: self.account,
                    nonce: signed.nonce,
                });
            }
            if begun.elapsed() >= self.receipt_max {
                return Err(SendError::NotMined {
                    hash: signed.hash,
                    account: self.account,
                    nonce: signed.nonce,
                    waited: self.receipt_max,
                });
            }
            sleep(pauses.next()).await;
        }
    }
}
