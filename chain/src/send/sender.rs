//! One account on one chain: signs, counts nonces, waits for receipts.

use std::fmt;
use std::time::{Duration, Instant};

use alloy::eips::Encodable2718 as _;
use alloy::network::{EthereumWallet, NetworkTransactionBuilder as _};
use alloy::primitives::{Address, B256, Bytes};
use alloy::providers::Provider as _;
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::signers::local::PrivateKeySigner;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::call::{Call, Quote};
use super::chain::Chain;
use super::error::{RequestError, SendError};

/// How long a receipt is waited for, unless told otherwise.
pub const RECEIPT_MAX: Duration = Duration::from_secs(60);
/// The first look for a receipt comes at once, the next ones ever later, up to this.
const LOOK_EVERY_MAX: Duration = Duration::from_millis(500);
pub(super) const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// When a nonce is used, the receipt of the transaction that used it may appear a little later, or
/// at another machine of the same provider.
const RECEIPT_FOLLOWS_WITHIN: Duration = Duration::from_secs(3);
/// How often a nonce that turns out to be used is replaced by the next one.
const NONCE_TRIES: u32 = 5;

/// The one owner of an account's nonces on a chain: two of them for the same account would take
/// them from one another. Share it by reference.
pub struct Sender {
    chain: Chain,
    wallet: EthereumWallet,
    account: Address,
    receipt_max: Duration,
    /// What the next transaction gets, once the chain has been asked.
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

/// What a node said of a transaction that it was given.
enum Taken {
    /// It has it, or may have it: the answer was lost.
    Maybe,
    /// Its nonce is used, and not by it.
    NonceUsed,
    /// It has a gap before this nonce.
    NonceAhead,
}

impl Sender {
    /// Sends for the account of this key.
    #[must_use]
    pub fn new(chain: Chain, key: PrivateKeySigner) -> Self {
        Self {
            chain,
            account: key.address(),
            wallet: EthereumWallet::from(key),
            receipt_max: RECEIPT_MAX,
            next_nonce: Mutex::new(None),
        }
    }

    /// The same, waiting so long for a receipt.
    #[must_use]
    pub fn waiting(self, receipt_max: Duration) -> Self {
        Self { receipt_max, ..self }
    }

    /// The account.
    #[must_use]
    pub fn account(&self) -> Address {
        self.account
    }

    /// The chain.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// What the call would return and cost.
    ///
    /// # Errors
    /// See [`Chain::quote`].
    pub async fn quote(&self, call: &Call) -> Result<Quote, SendError> {
        self.chain.quote(self.account, call).await
    }

    /// Tries the call, and if it would succeed sends it and waits until it is mined. The receipt
    /// is that of a success.
    ///
    /// # Errors
    /// Each variant says whether something was sent. Trying again is safe unless it says
    /// otherwise.
    pub async fn send(&self, call: &Call) -> Result<TransactionReceipt, SendError> {
        let quote = self.quote(call).await?;
        self.send_quoted(call, &quote).await
    }

    /// Sends a call that was quoted before, and waits until it is mined.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_quoted(
        &self,
        call: &Call,
        quote: &Quote,
    ) -> Result<TransactionReceipt, SendError> {
        let signed = self.submit(call, quote).await?;
        let receipt = self.receipt_of(&signed).await?;
        if receipt.status() {
            Ok(receipt)
        } else {
            Err(self.chain.reverted(self.account, call, &receipt).await)
        }
    }

    /// Signs the call with the next nonce and gives it to the node. One at a time, so that no two
    /// get the same nonce and none is given to the node before its predecessor.
    async fn submit(&self, call: &Call, quote: &Quote) -> Result<Signed, SendError> {
        let mut next = self.next_nonce.lock().await;
        for _ in 0..NONCE_TRIES {
            let nonce = match *next {
                Some(nonce) => nonce,
                None => self.pending_nonce().await?,
            };
            *next = None; // whatever happens but success: ask the chain again
            let signed = self.sign(call, quote, nonce).await?;
            match self.hand_over(&signed).await? {
                Taken::Maybe => {
                    *next = Some(nonce + 1);
                    return Ok(signed);
                }
                Taken::NonceUsed | Taken::NonceAhead => sleep(LOOK_AGAIN_AFTER).await,
            }
        }
        Err(SendError::NonceContended { account: self.account, chain_id: self.chain.id() })
    }

    /// Waits until every transaction of the account that the node knows is mined, so that what the
    /// chain says is not about to change by an earlier run's doing.
    ///
    /// # Errors
    /// `NotSettled` when they are not mined in time.
    pub async fn settled(&self) -> Result<(), SendError> {
        let begun = Instant::now();
        loop {
            let (mined, pending) = (self.mined_nonce().await?, self.pending_nonce().await?);
            if mined >= pending {
                return Ok(());
            }
            if begun.elapsed() >= self.receipt_max {
                return Err(SendError::NotSettled {
                    account: self.account,
                    chain_id: self.chain.id(),
                    nonce: mined,
                });
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    async fn pending_nonce(&self) -> Result<u64, RequestError> {
        let count = self.chain.provider().get_transaction_count(self.account).pending().await;
        count.map_err(|error| self.chain.fault("eth_getTransactionCount", error))
    }

    async fn mined_nonce(&self) -> Result<u64, RequestError> {
        let count = self.chain.provider().get_transaction_count(self.account).await;
        count.map_err(|error| self.chain.fault("eth_getTransactionCount", error))
    }

    async fn sign(&self, call: &Call, quote: &Quote, nonce: u64) -> Result<Signed, SendError> {
        let request = TransactionRequest {
            chain_id: Some(self.chain.id()),
            nonce: Some(nonce),
            gas: Some(quote.gas_limit),
            max_fee_per_gas: Some(quote.max_fee_per_gas),
            max_priority_fee_per_gas: Some(quote.max_priority_fee_per_gas),
            ..call.request(self.account)
        };
        let fail = |reason: String| SendError::Key { account: self.account, reason };
        let envelope =
            request.build(&self.wallet).await.map_err(|error| fail(error.to_string()))?;
        Ok(Signed { hash: *envelope.tx_hash(), raw: envelope.encoded_2718().into(), nonce })
    }

    /// Gives the transaction to the node. When the answer is lost, the transaction may not be.
    async fn hand_over(&self, signed: &Signed) -> Result<Taken, SendError> {
        let Err(error) = self.chain.provider().send_raw_transaction(&signed.raw).await else {
            return Ok(Taken::Maybe);
        };
        let Some(payload) = error.as_error_resp() else {
            let fault = self.chain.fault("eth_sendRawTransaction", error);
            return match fault {
                // It may have arrived.
                RequestError::Unreachable { .. } | RequestError::Malformed { .. } => {
                    Ok(Taken::Maybe)
                }
                fault @ RequestError::Refused { .. } => Err(fault.into()),
            };
        };
        let said = payload.message.to_ascii_lowercase();
        let is = |text: &str| said.contains(text);
        if is("already known") || is("already imported") || is("already in the mempool") {
            Ok(Taken::Maybe)
        } else if is("nonce too low")
            || is("replacement transaction underpriced")
            || is("nonce has already been used")
        {
            Ok(Taken::NonceUsed)
        } else if is("nonce too high") {
            Ok(Taken::NonceAhead)
        } else {
            Err(self.chain.fault("eth_sendRawTransaction", error).into())
        }
    }

    /// Waits for the receipt. What the node fails to answer meanwhile is asked again.
    async fn receipt_of(&self, signed: &Signed) -> Result<TransactionReceipt, SendError> {
        let begun = Instant::now();
        let mut used_since = None;
        let mut pause = LOOK_AGAIN_AFTER;
        loop {
            let is_used = self.mined_nonce().await.is_ok_and(|mined| mined > signed.nonce);
            let receipt = self.chain.provider().get_transaction_receipt(signed.hash).await;
            if let Ok(Some(receipt)) = receipt {
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
            sleep(pause).await;
            pause = (pause * 2).min(LOOK_EVERY_MAX);
        }
    }
}
