//! Requests that only development chains answer: act for any account, set balances and code, move the clock.
//!
//! The embedded chain and anvil answer the same requests.

use std::time::{Duration, Instant};

use alloy::network::TransactionBuilder as _;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::rpc::types::TransactionReceipt;
use serde_json::{Value, json};
use tokio::time::sleep;

use hawser_chain::send::{Call, Chain, Quote, RECEIPT_MAX, RequestError, SendError};

/// The pause between two requests for a receipt. A guess: the embedded chain makes its block at once.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A chain that answers the control requests of development chains.
#[derive(Debug, Clone, Copy)]
pub struct DevChain<'a>(pub &'a Chain);

impl DevChain<'_> {
    /// Sets the native balance of an account, in wei.
    ///
    /// # Errors
    /// Returns an error if the chain does not answer, or is not a development chain.
    pub async fn set_balance(self, account: Address, wei: U256) -> Result<(), RequestError> {
        self.control("anvil_setBalance", json!([account, wei])).await
    }

    /// Sets the code of an account.
    ///
    /// # Errors
    /// Returns an error if the chain does not answer, or is not a development chain.
    pub async fn set_code(self, address: Address, code: &Bytes) -> Result<(), RequestError> {
        self.control("anvil_setCode", json!([address, code])).await
    }

    /// Sets the chain's clock to a time in unix seconds, from which it continues.
    ///
    /// # Errors
    /// Returns an error if the chain does not answer, or is not a development chain.
    pub(crate) async fn set_clock(self, unix_seconds: u64) -> Result<(), RequestError> {
        self.control("evm_setTime", json!([unix_seconds])).await
    }

    /// Makes a block at each interval, in whole seconds, and no blocks on demand.
    ///
    /// # Errors
    /// Returns an error if the chain does not answer, or is not a development chain.
    pub(crate) async fn make_blocks_every(self, interval: Duration) -> Result<(), RequestError> {
        self.control("evm_setIntervalMining", json!([interval.as_secs()])).await
    }

    /// Sends a call from any account, without its key, and waits for the receipt.
    ///
    /// The account must own the value of the call. The fee is credited to the account and taken back afterwards.
    ///
    /// # Errors
    /// The errors of [`Sender::send`](hawser_chain::send::Sender::send).
    pub async fn send_as(
        self,
        account: Address,
        call: &Call,
    ) -> Result<TransactionReceipt, SendError> {
        let quote = self.0.quote_without_fee(account, call).await?;
        self.send_quoted(account, call, &quote).await
    }

    /// Sends a call with too little gas, so that a call that would succeed is mined and fails.
    ///
    /// # Errors
    /// The errors of [`Sender::send`](hawser_chain::send::Sender::send).
    pub(crate) async fn send_starved(
        self,
        account: Address,
        call: &Call,
    ) -> Result<TransactionReceipt, SendError> {
        let quote = self.0.quote_without_fee(account, call).await?;
        // A quote's gas limit is at most 5/4 of the estimate, so 3/5 of it are at most 3/4 of the needed gas.
        let starved = Quote { gas_limit: quote.gas_limit / 5 * 3, ..quote };
        self.send_quoted(account, call, &starved).await
    }

    async fn send_quoted(
        self,
        account: Address,
        call: &Call,
        quote: &Quote,
    ) -> Result<TransactionReceipt, SendError> {
        let mut request = call.request(account).with_gas_limit(quote.gas_limit);
        request.set_max_fee_per_gas(quote.max_fee_per_gas.0);
        request.set_max_priority_fee_per_gas(quote.max_priority_fee_per_gas.0);
        let lent = quote.fee_max();
        let owned = self.balance(account).await?;
        self.set_balance(account, owned.saturating_add(lent)).await?;
        self.control("anvil_impersonateAccount", json!([account])).await?;
        let method = "eth_sendTransaction";
        let sent = self.0.provider().raw_request(method.into(), (request,)).await;
        let hash = sent.map_err(|error| self.0.request_error(method, error))?;
        let receipt = self.mined(account, hash).await?;
        self.control("anvil_stopImpersonatingAccount", json!([account])).await?;
        let paid = U256::from(receipt.gas_used) * U256::from(receipt.effective_gas_price);
        let left = self.balance(account).await?;
        self.set_balance(account, left.saturating_sub(lent.saturating_sub(paid))).await?;
        if receipt.status() {
            Ok(receipt)
        } else {
            Err(self.0.reverted(account, call, &receipt).await)
        }
    }

    /// Returns the native balance of an account, in wei.
    pub(crate) async fn balance(self, account: Address) -> Result<U256, RequestError> {
        let balance = self.0.provider().get_balance(account).await;
        balance.map_err(|error| self.0.request_error("eth_getBalance", error))
    }

    async fn mined(self, account: Address, hash: B256) -> Result<TransactionReceipt, SendError> {
        let begun = Instant::now();
        while begun.elapsed() < RECEIPT_MAX {
            let receipt = self.0.provider().get_transaction_receipt(hash).await;
            match receipt
                .map_err(|error| self.0.request_error("eth_getTransactionReceipt", error))?
            {
                Some(receipt) => return Ok(receipt),
                None => sleep(LOOK_AGAIN_AFTER).await,
            }
        }
        let nonce = self.0.provider().get_transaction_count(account).await.unwrap_or_default();
        Err(SendError::NotMined { hash, account, nonce, waited: RECEIPT_MAX })
    }

    async fn control(self, method: &'static str, params: Value) -> Result<(), RequestError> {
        let answer = self.0.provider().raw_request::<_, Value>(method.into(), params).await;
        answer.map(drop).map_err(|error| self.0.request_error(method, error))
    }
}
