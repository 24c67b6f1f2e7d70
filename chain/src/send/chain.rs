//! One endpoint of a chain, reached by JSON-RPC over HTTP.

use std::fmt;
use std::sync::{Arc, Once};
use std::time::Duration;

use alloy::eips::BlockId;
use alloy::eips::eip1559::Eip1559Estimation;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::utils::{Eip1559Estimator, eip1559_default_estimator};
use alloy::providers::{DynProvider, Provider as _, ProviderBuilder};
use alloy::rpc::client::RpcClient;
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::sol_types::SolCall;
use alloy::sol_types::abi::AbiDecoderConfig;
use alloy::transports::TransportError;
use alloy::transports::utils::guess_local_url;
use serde::Deserialize;
use serde_json::json;

use super::call::{Call, Quote};
use super::error::{ConnectError, RequestError, SendError, ViewError, revert_of};
use super::transport::{ANSWER_LEN_BYTES_MAX, BoundedHttp};
use crate::admin::WeiPerGas;
use crate::contracts::revert::Revert;
use crate::prices::agreed_fees;

/// The highest accepted block number. A bound is needed because readers and searches count up from it.
pub(crate) const BLOCK_NUMBER_MAX: u64 = i64::MAX as u64;
/// The lowest refused transaction count. A guess: no account ever has as many transactions, later nonces are far from
/// overflowing, and numbers in Redis scripts are exact below it.
const COUNT_END: u64 = 1 << 53;
/// The highest fee in wei per unit of gas that is used in computations. A guess: no account can pay it, and
/// sums of it are far from overflowing.
const FEE_MAX: u128 = 1 << 96;
/// The memory that the decoded result of a call may take, in bytes: a result may name the same bytes many times, so a
/// short one could take a GiB. A guess: four times the data of the longest answer, whose text has two digits for each
/// byte.
const RETURNED_LEN_BYTES_MAX: usize = 2 * ANSWER_LEN_BYTES_MAX;
/// The time limit of a request. Guess.
pub const REQUEST_MAX: Duration = Duration::from_secs(10);
/// The time limit of connecting. Guess.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The gas limit of a transaction (EIP-7825).
const TRANSACTION_GAS_MAX: u64 = 1 << 24;
/// Length of the code of an account that has delegated to a contract: three bytes and the contract's address.
const DELEGATION_LEN_BYTES: usize = 23;

/// A connection to an endpoint that has proved its chain id. Cheap to clone.
#[derive(Clone)]
pub struct Chain {
    id: u64,
    endpoint: Arc<str>,
    provider: DynProvider,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({} at {})", self.id, self.endpoint)
    }
}

impl Chain {
    /// Connects to `http://…` or `https://…` and checks that the endpoint serves chain `id`.
    ///
    /// # Errors
    /// Fails when the URL is malformed, the endpoint does not answer, or it serves another chain.
    pub async fn connect(url: &str, id: u64) -> Result<Self, ConnectError> {
        let (url, endpoint) = parse(url)?;
        // A redirect could lead to a service in the network of this machine.
        let client = http_client().map_err(|error| ConnectError::Url {
            given: endpoint.clone(),
            reason: error.to_string(),
        })?;
        let is_local = guess_local_url(url.as_str());
        let transport = BoundedHttp::new(client, url, ANSWER_LEN_BYTES_MAX);
        let provider = ProviderBuilder::new()
            .disable_recommended_fillers()
            .connect_client(RpcClient::new(transport, is_local))
            .erased();
        let chain = Self { id, endpoint: endpoint.into(), provider };
        chain.check_id().await?;
        Ok(chain)
    }

    /// Checks the endpoint's chain id again.
    ///
    /// # Errors
    /// Fails when the endpoint does not answer, or serves another chain.
    pub(crate) async fn check_id(&self) -> Result<(), ConnectError> {
        let found = self.provider.get_chain_id().await;
        let found = found.map_err(|error| self.request_error("eth_chainId", error))?;
        if found != self.id {
            let endpoint = self.endpoint.to_string();
            return Err(ConnectError::WrongChain { endpoint, expected: self.id, found });
        }
        Ok(())
    }

    /// Returns the chain id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns scheme, host and port: the part of the URL without secrets.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the provider, for requests that this type does not offer.
    #[must_use]
    pub fn provider(&self) -> &DynProvider {
        &self.provider
    }

    /// Converts the error of a request through [`provider`](Self::provider) and adds the endpoint's name.
    #[must_use]
    pub fn request_error(&self, method: &'static str, error: TransportError) -> RequestError {
        RequestError::new(&self.endpoint, method, error)
    }

    /// Returns true if there is a contract at the address.
    ///
    /// # Errors
    /// Fails when the chain does not answer.
    pub async fn has_code(&self, address: Address) -> Result<bool, RequestError> {
        Ok(self.code_len(address).await? != 0)
    }

    /// Returns true if the address is that of a contract, and not an account with a key. The holder of a key has the
    /// same account on every chain, also after the account has delegated to a contract.
    ///
    /// # Errors
    /// Fails when the chain does not answer.
    pub async fn has_keyless_code(&self, address: Address) -> Result<bool, RequestError> {
        let code = self.provider.get_code_at(address).await;
        let code = code.map_err(|error| self.request_error("eth_getCode", error))?;
        Ok(!code.is_empty() && !is_delegation(&code))
    }

    /// Returns the length of the code at the address, in bytes; 0 without a contract.
    ///
    /// # Errors
    /// Fails when the chain does not answer.
    pub async fn code_len(&self, address: Address) -> Result<usize, RequestError> {
        let code = self.provider.get_code_at(address).await;
        code.map(|code| code.len()).map_err(|error| self.request_error("eth_getCode", error))
    }

    /// Returns the number of the newest block.
    ///
    /// # Errors
    /// Fails when the chain does not answer.
    pub async fn newest_block(&self) -> Result<u64, RequestError> {
        const METHOD: &str = "eth_blockNumber";
        let newest = self.provider.get_block_number().await;
        let newest = newest.map_err(|error| self.request_error(METHOD, error))?;
        if newest <= BLOCK_NUMBER_MAX {
            return Ok(newest);
        }
        Err(self.malformed(METHOD, format!("no chain has a block {newest}")))
    }

    /// Returns the time of a block, unix seconds.
    ///
    /// # Errors
    /// Fails when the chain does not answer or does not have the block.
    pub(crate) async fn block_time(&self, block: u64) -> Result<u64, RequestError> {
        const METHOD: &str = "eth_getBlockByNumber";
        let found = self.provider.get_block(BlockId::number(block)).await;
        let found = found.map_err(|error| self.request_error(METHOD, error))?;
        let found =
            found.ok_or_else(|| self.malformed(METHOD, format!("there is no block {block}")))?;
        Ok(found.header.timestamp)
    }

    /// Returns the number of an account's transactions up to a block, which is the account's next nonce there.
    ///
    /// # Errors
    /// Fails when the chain does not answer, or when it returns an impossible number.
    pub async fn transaction_count(
        &self,
        account: Address,
        at: BlockId,
    ) -> Result<u64, RequestError> {
        const METHOD: &str = "eth_getTransactionCount";
        let count = self.provider.get_transaction_count(account).block_id(at).await;
        let count = count.map_err(|error| self.request_error(METHOD, error))?;
        if count < COUNT_END {
            return Ok(count);
        }
        Err(self.malformed(METHOD, format!("{count} transactions of one account")))
    }

    /// Returns the error of an endpoint that did not answer within `waited`.
    pub(crate) fn too_slow(&self, waited: std::time::Duration) -> RequestError {
        let reason = format!("no answer within {} s", waited.as_secs());
        RequestError::Unreachable { endpoint: self.endpoint.to_string(), reason }
    }

    /// Returns the error of an endpoint whose answer has another form than the method's.
    pub(crate) fn malformed(&self, method: &'static str, reason: String) -> RequestError {
        RequestError::Malformed { endpoint: self.endpoint.to_string(), method, reason }
    }

    /// Calls a view function of a contract at the state of the latest block.
    ///
    /// # Errors
    /// Fails when there is no contract or another one, when it reverts, or when the chain does not
    /// answer.
    pub async fn view<C: SolCall>(&self, to: Address, call: &C) -> Result<C::Return, ViewError> {
        self.view_at(to, call, BlockId::latest()).await
    }

    /// Calls a view function of a contract at the state of a block.
    ///
    /// # Errors
    /// The errors of [`view`](Self::view), and an error if the endpoint does not have the state of that block.
    pub async fn view_at<C: SolCall>(
        &self,
        to: Address,
        call: &C,
        block: BlockId,
    ) -> Result<C::Return, ViewError> {
        let request = Call::new(to, call).request(Address::ZERO);
        let returned = match self.call(request, block).await {
            Ok(returned) => returned,
            Err(EthCallError::Reverted(revert)) => return Err(ViewError::Reverted(revert)),
            Err(EthCallError::Rpc(error)) => return Err(error.into()),
        };
        let bounded = AbiDecoderConfig::new().memory_limit(RETURNED_LEN_BYTES_MAX);
        match C::abi_decode_returns_with_config(&returned, bounded) {
            Ok(value) => Ok(value),
            Err(_) if !self.has_code(to).await? => {
                Err(ViewError::NoCode { address: to, chain_id: self.id })
            }
            Err(error) => Err(ViewError::OtherContract {
                address: to,
                chain_id: self.id,
                function: C::SIGNATURE,
                reason: error.to_string(),
            }),
        }
    }

    /// Simulates a call from this account and returns its result and cost. Sends nothing and needs no key.
    ///
    /// # Errors
    /// [`SendError`] if the call would fail; only variants for which nothing was sent.
    pub async fn quote(&self, from: Address, call: &Call) -> Result<Quote, SendError> {
        self.quote_at(from, call, &[], WeiPerGas(u128::MAX)).await
    }

    /// Simulates a call like [`quote`](Self::quote), at the fees that endpoints state; at those of this endpoint if
    /// there are none. See [`agreed_fees`]: of two prices, one that is above `price_max`, or that the account
    /// cannot pay, gives way to the other one.
    pub(crate) async fn quote_at(
        &self,
        from: Address,
        call: &Call,
        stated: &[Eip1559Estimation],
        price_max: WeiPerGas,
    ) -> Result<Quote, SendError> {
        self.require_code(call).await?;
        let balance = self
            .provider
            .get_balance(from)
            .await
            .map_err(|error| self.request_error("eth_getBalance", error))?;
        let no_funds =
            |needed| SendError::NoFunds { account: from, chain_id: self.id, balance, needed };
        if balance < call.value {
            return Err(no_funds(call.value));
        }
        let (returned, gas_limit) = self.simulated(from, call).await?;
        let affordable_wei = (balance - call.value) / U256::from(gas_limit.max(1));
        let price_max = price_max.min(WeiPerGas(affordable_wei.saturating_to()));
        let fees = match agreed_fees(stated, price_max) {
            Some(fees) => fees,
            None => self.fees().await?,
        };
        let quote = quote_of(returned, gas_limit, fees);
        let needed = quote.fee_max().saturating_add(call.value);
        if balance < needed { Err(no_funds(needed)) } else { Ok(quote) }
    }

    /// Simulates a call and returns its result and cost, even if the account cannot pay the fee.
    /// Sends nothing and needs no key.
    ///
    /// # Errors
    /// Fails when there is no contract, the call would be reverted, or the chain does not answer.
    pub async fn quote_without_fee(&self, from: Address, call: &Call) -> Result<Quote, SendError> {
        self.require_code(call).await?;
        let (returned, gas_limit) = self.simulated(from, call).await?;
        Ok(quote_of(returned, gas_limit, self.fees().await?))
    }

    /// Simulates a call and returns its result and its gas limit.
    async fn simulated(&self, from: Address, call: &Call) -> Result<(Bytes, u64), SendError> {
        let request = call.request(from);
        let returned = self.call(request.clone(), BlockId::pending()).await?;
        Ok((returned, self.gas_limit(request).await?))
    }

    /// Refuses a call with data to an account without code, which the chain would accept without effect.
    async fn require_code(&self, call: &Call) -> Result<(), SendError> {
        match call.to {
            Some(address) if !call.data.is_empty() && !self.has_code(address).await? => {
                Err(SendError::NoCode { address, chain_id: self.id })
            }
            _ => Ok(()),
        }
    }

    /// Estimates the gas of a call and adds up to a quarter.
    pub(crate) async fn gas_limit(&self, request: TransactionRequest) -> Result<u64, EthCallError> {
        let estimate = self.provider.estimate_gas(request).await;
        estimate.map(with_head_room).map_err(|error| self.call_fault("eth_estimateGas", error))
    }

    /// Returns the price of gas at which a transaction would be sent now: twice the base fee, and a tip.
    ///
    /// # Errors
    /// Fails when the endpoint does not answer.
    pub async fn present_price(&self) -> Result<WeiPerGas, RequestError> {
        Ok(WeiPerGas(self.fees().await?.max_fee_per_gas))
    }

    /// Estimates the current fees per gas.
    pub(crate) async fn fees(&self) -> Result<Eip1559Estimation, RequestError> {
        let fees = self.provider.estimate_eip1559_fees_with(Eip1559Estimator::new(estimated)).await;
        fees.map_err(|error| self.request_error("eth_feeHistory", error))
    }

    /// Returns the error of a mined transaction that failed, found by running its call again at the preceding block, or
    /// by a trace of the transaction.
    pub async fn reverted(
        &self,
        from: Address,
        call: &Call,
        receipt: &TransactionReceipt,
    ) -> SendError {
        let hash = receipt.transaction_hash;
        let (reason, revert) = self.reason_of_revert(from, call, receipt).await;
        SendError::Reverted { hash, reason, revert }
    }

    /// Returns the reason of a failure as text, and the contract's error if the call reverts again.
    pub(crate) async fn reason_of_revert(
        &self,
        from: Address,
        call: &Call,
        receipt: &TransactionReceipt,
    ) -> (String, Option<Revert>) {
        let before = receipt.block_number.unwrap_or_default().saturating_sub(1);
        let called = match self.call(call.request(from), BlockId::number(before)).await {
            Err(EthCallError::Reverted(revert)) => return (revert.to_string(), Some(revert)),
            Ok(_) => {
                "it failed on the state between other transactions, or ran out of gas".to_owned()
            }
            Err(EthCallError::Rpc(error)) => format!("the reason is not known ({error})"),
        };
        // The call may fail only behind the transactions that are before it in its block.
        match self.traced_revert(receipt.transaction_hash).await {
            Some(revert) => (revert.to_string(), Some(revert)),
            None => (called, None),
        }
    }

    /// Returns the contract's error with which a mined transaction failed, by a trace of it. `None` if it succeeded or
    /// returned nothing, and if the endpoint serves no traces.
    async fn traced_revert(&self, transaction: B256) -> Option<Revert> {
        const METHOD: &str = "debug_traceTransaction";
        let options = json!({ "tracer": "callTracer", "tracerConfig": { "onlyTopCall": true } });
        let client = self.provider.client();
        let traced = client.request::<_, TracedTransaction>(METHOD, (transaction, options)).await;
        let TracedTransaction { error, output } = traced.ok()?;
        let data = output.filter(|data| !data.is_empty())?;
        error.is_some().then(|| Revert::decode(&data))
    }

    /// Simulates a call at the state of a block.
    async fn call(&self, request: TransactionRequest, at: BlockId) -> Result<Bytes, EthCallError> {
        let returned = self.provider.call(request).block(at).await;
        returned.map_err(|error| self.call_fault("eth_call", error))
    }

    fn call_fault(&self, method: &'static str, error: TransportError) -> EthCallError {
        match revert_of(&error) {
            Some(revert) => EthCallError::Reverted(revert),
            None => EthCallError::Rpc(self.request_error(method, error)),
        }
    }
}

/// The outermost call of a traced transaction. Other fields are ignored.
#[derive(Debug, Deserialize)]
struct TracedTransaction {
    /// The failure; `None` after a success.
    error: Option<String>,
    /// The returned data, or the contract's error.
    output: Option<Bytes>,
}

/// Error of a simulated call.
#[derive(Debug)]
pub(crate) enum EthCallError {
    /// The contract reverted the call.
    Reverted(Revert),
    /// The request failed.
    Rpc(RequestError),
}

impl From<EthCallError> for SendError {
    fn from(error: EthCallError) -> Self {
        match error {
            EthCallError::Reverted(revert) => Self::WouldRevert(revert),
            EthCallError::Rpc(error) => error.into(),
        }
    }
}

/// Returns true if an account with this code has a key, and has delegated to a contract (EIP-7702). No contract's code
/// begins like this.
fn is_delegation(code: &[u8]) -> bool {
    code.len() == DELEGATION_LEN_BYTES && code.starts_with(&[0xef, 0x01, 0x00])
}

fn quote_of(returned: Bytes, gas_limit: u64, fees: Eip1559Estimation) -> Quote {
    let Eip1559Estimation { max_fee_per_gas, max_priority_fee_per_gas } = fees;
    Quote {
        returned,
        gas_limit,
        max_fee_per_gas: WeiPerGas(max_fee_per_gas),
        max_priority_fee_per_gas: WeiPerGas(max_priority_fee_per_gas),
    }
}

/// Estimates the fees per gas like alloy, whose arithmetic is unchecked. Fees above [`FEE_MAX`] are reduced to it.
fn estimated(base_fee: u128, rewards: &[Vec<u128>]) -> Eip1559Estimation {
    let of_block = |rewards: &Vec<u128>| rewards.first().map(|it| vec![(*it).min(FEE_MAX)]);
    let rewards: Vec<_> = rewards.iter().filter_map(of_block).collect();
    eip1559_default_estimator(base_fee.min(FEE_MAX), &rewards)
}

/// Adds up to a quarter to an estimate, because transactions mined earlier may raise the cost.
fn with_head_room(estimate: u64) -> u64 {
    let roomy = estimate.saturating_add(estimate / 4);
    roomy.min(estimate.max(TRANSACTION_GAS_MAX))
}

/// Parses a URL. Returns it with the part that may be displayed: the paths and queries of providers contain keys. Of a
/// URL that does not parse nothing is displayed.
pub(crate) fn parse(given: &str) -> Result<(reqwest::Url, String), ConnectError> {
    let fail = |given: &str, reason: &str| {
        Err(ConnectError::Url { given: given.to_owned(), reason: reason.to_owned() })
    };
    let given = given.trim();
    // The parser deletes line breaks and tabs, and so would make one URL of two lines.
    if given.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return fail("…", "it contains white space; several URLs are separated by commas");
    }
    let Ok(url) = given.parse::<reqwest::Url>() else {
        return fail("…", "it does not parse (it is not shown, because it may contain a key)");
    };
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    let endpoint = format!("{}://{host}{port}", url.scheme());
    match url.scheme() {
        "http" | "https" => Ok((url, endpoint)),
        "ws" | "wss" => fail(&endpoint, "this needs the http or https URL of the chain"),
        _ => fail(&endpoint, "the scheme must be http or https"),
    }
}

/// Creates an HTTP client with time limits that follows no redirects, so it sends nothing to a host
/// that the operator did not name.
///
/// # Errors
/// Fails when the system's TLS roots cannot be used.
pub fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    install_cryptography();
    let limited = reqwest::Client::builder().connect_timeout(CONNECT_MAX).timeout(REQUEST_MAX);
    limited.redirect(reqwest::redirect::Policy::none()).build()
}

/// Installs the TLS cryptography provider of the process, once.
pub(crate) fn install_cryptography() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // An error means that the process has already installed another one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_has_delegated_to_a_contract_is_none() {
        let delegation = [&[0xef_u8, 0x01, 0x00][..], &[7; 20]].concat();
        assert!(is_delegation(&delegation));
        assert!(!is_delegation(&[&delegation[..], &[0]].concat()));
        assert!(!is_delegation(&[&[0x60_u8, 0x01, 0x00][..], &[7; 20]].concat()));
        assert!(!is_delegation(&[]));
    }

    #[test]
    fn only_the_host_of_a_url_is_shown() {
        let (_, shown) =
            parse("https://user:secret@rpc.example:8545/v2/secret?key=secret").unwrap();
        assert_eq!(shown, "https://rpc.example:8545");
        let error = parse("wss://rpc.example/secret").unwrap_err().to_string();
        assert!(error.contains("needs the http") && !error.contains("secret"), "{error}");
        assert!(parse("ftp://rpc.example").is_err());
        for wrong in [
            "rpc.example/secret",
            "https://u:secret@rpc.example:port/",
            "https://:secret@",
            "secret",
        ] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains("does not parse") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn two_lines_are_not_one_url() {
        for between in ["\n", "\r\n", "\t", " ", "\u{0}"] {
            let text = format!("https://a.example/secret{between}https://b.example/secret\n");
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains("commas") && !error.contains("secret"), "{error}");
        }
        assert!(parse(" https://a.example\n").is_ok());
    }

    #[test]
    fn no_fee_that_an_endpoint_invents_overflows() {
        let usual = eip1559_default_estimator(7_000_000, &[vec![3], vec![9], vec![5]]);
        assert_eq!(estimated(7_000_000, &[vec![3], vec![9], vec![5]]), usual);
        let most = u128::MAX;
        for rewards in [vec![vec![most], vec![most]], vec![vec![most, most]], vec![vec![]], vec![]]
        {
            let fees = estimated(most, &rewards);
            assert!(fees.max_fee_per_gas >= 2 * FEE_MAX, "{fees:?}");
        }
    }

    #[test]
    fn head_room_ends_at_the_gas_limit_of_a_transaction() {
        assert_eq!(with_head_room(100), 125);
        assert_eq!(with_head_room(TRANSACTION_GAS_MAX - 1), TRANSACTION_GAS_MAX);
        assert_eq!(with_head_room(TRANSACTION_GAS_MAX + 9), TRANSACTION_GAS_MAX + 9);
        assert_eq!(with_head_room(u64::MAX), u64::MAX);
    }
}
