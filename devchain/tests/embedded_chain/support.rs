//! A running chain, funded accounts, and small contracts in bytecode.

use std::net::SocketAddr;
use std::sync::Once;
use std::time::Duration;

use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::Encodable2718;
use alloy::network::{EthereumWallet, TransactionBuilder};
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, address, bytes};
use alloy::providers::{DynProvider, Provider, ProviderBuilder, WsConnect};
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::transports::RpcError;
use futures_util::{SinkExt, StreamExt};
use hawser_devchain::embedded::{BlockProduction, EmbeddedChain, EmbeddedSettings, Genesis};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

pub(crate) const CHAIN_ID: u64 = 31337;
pub(crate) const STRANGER: Address = address!("0x00000000000000000000000000000000000000aa");

/// A contract that stores the first word of its input in slot 0, and logs its input with topics 0x11 and that word.
pub(crate) const NOTEBOOK: Bytes = bytes!("365f5f375f355f555f356011365fa200");
/// A contract that reverts with its input.
pub(crate) const REFUSER: Bytes = bytes!("365f5f37365ffd");
/// A contract that returns its input.
pub(crate) const ECHO: Bytes = bytes!("365f5f37365ff3");
/// A contract that never ends.
pub(crate) const LOOP: Bytes = bytes!("5b5f56");
/// A contract that returns the number, time, base fee and randomness of the block, and the hash of the previous block.
pub(crate) const ENVIRONMENT: Bytes =
    bytes!("435f52426020524860405244606052600143034060805260a05ff3");
/// A contract that returns slot 0.
pub(crate) const SLOT: Bytes = bytes!("5f545f5260205ff3");

/// The first topic of a notebook's logs.
pub(crate) const TOPIC: B256 = B256::with_last_byte(0x11);

/// Returns init code that deploys this code.
pub(crate) fn deploying(code: &Bytes) -> Bytes {
    let len = u8::try_from(code.len()).unwrap();
    [&[0x60, len, 0x80, 0x60, 9, 0x5f, 0x39, 0x5f, 0xf3], &code[..]].concat().into()
}

pub(crate) fn word(value: u64) -> Bytes {
    B256::from(U256::from(value)).into()
}

/// Returns the key of one of four accounts with a genesis balance.
pub(crate) fn signer(index: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(index + 1)).unwrap()
}

pub(crate) fn ether(amount: u64) -> U256 {
    U256::from(amount) * U256::from(10).pow(U256::from(18))
}

pub(crate) fn settings() -> EmbeddedSettings {
    let balances = (0..4).map(|index| (signer(index).address(), ether(1000))).collect();
    EmbeddedSettings {
        genesis: Genesis { balances, ..Genesis::default() },
        ..EmbeddedSettings::new(CHAIN_ID)
    }
}

/// A running chain and a client.
pub(crate) struct RunningChain {
    pub(crate) chain: EmbeddedChain,
    /// A client with the keys of all funded accounts; the first is the default sender.
    pub(crate) provider: DynProvider,
}

impl RunningChain {
    pub(crate) async fn on_demand() -> Self {
        Self::with(settings()).await
    }

    /// Starts a chain that makes blocks only on request: its interval is longer than any test.
    pub(crate) async fn by_hand() -> Self {
        Self::with(EmbeddedSettings {
            blocks: BlockProduction::Every(Duration::from_secs(86_400)),
            ..settings()
        })
        .await
    }

    pub(crate) async fn with(settings: EmbeddedSettings) -> Self {
        let chain = EmbeddedChain::start(settings).await.unwrap();
        let provider = http(chain.local_addr());
        Self { chain, provider }
    }

    pub(crate) async fn web_socket(&self) -> DynProvider {
        let connect = WsConnect::new(format!("ws://{}", self.chain.local_addr()));
        ProviderBuilder::new().wallet(wallet()).connect_ws(connect).await.unwrap().erased()
    }

    pub(crate) async fn call(&self, method: &'static str, params: Value) -> Value {
        self.try_call(method, params).await.unwrap_or_else(|error| panic!("{method}: {error:?}"))
    }

    pub(crate) async fn try_call(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<Value, (i64, String)> {
        match self.provider.raw_request(method.into(), params).await {
            Ok(value) => Ok(value),
            Err(RpcError::ErrorResp(error)) => Err((error.code, error.message.to_string())),
            Err(other) => panic!("{method}: {other:?}"),
        }
    }

    pub(crate) async fn mine(&self) {
        self.call("evm_mine", json!([])).await;
    }

    pub(crate) async fn send(&self, request: TransactionRequest) -> TransactionReceipt {
        self.provider.send_transaction(request).await.unwrap().get_receipt().await.unwrap()
    }

    pub(crate) async fn deploy(&self, code: &Bytes) -> Address {
        let request = TransactionRequest::default()
            .with_from(signer(0).address())
            .with_deploy_code(deploying(code));
        let receipt = self.send(request).await;
        assert!(receipt.status());
        receipt.contract_address.unwrap()
    }

    /// Writes a word into a notebook.
    pub(crate) async fn note(&self, notebook: Address, value: u64) -> TransactionReceipt {
        self.send(note(notebook, value)).await
    }
}

pub(crate) fn note(notebook: Address, value: u64) -> TransactionRequest {
    let request = TransactionRequest::default().with_from(signer(0).address());
    request.with_to(notebook).with_input(word(value))
}

fn wallet() -> EthereumWallet {
    let mut wallet = EthereumWallet::from(signer(0));
    (1..4).for_each(|index| wallet.register_signer(signer(index)));
    wallet
}

pub(crate) fn http(address: SocketAddr) -> DynProvider {
    static TLS: Once = Once::new();
    // The client library needs a cryptography provider even without TLS. Another test of this
    // process may have installed it.
    TLS.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let url = format!("http://{address}").parse().unwrap();
    ProviderBuilder::new()
        .with_simple_nonce_management()
        .wallet(wallet())
        .connect_http(url)
        .erased()
}

/// Returns a signed transfer with all fields set.
pub(crate) fn transfer(sender: u8, change: impl FnOnce(&mut TxEip1559)) -> TxEnvelope {
    let mut tx = TxEip1559 {
        chain_id: CHAIN_ID,
        gas_limit: 21_000,
        max_fee_per_gas: 1_000_000_000,
        max_priority_fee_per_gas: 1_000_000,
        to: TxKind::Call(STRANGER),
        value: U256::from(1),
        ..TxEip1559::default()
    };
    change(&mut tx);
    let signature = signer(sender).sign_hash_sync(&tx.signature_hash()).unwrap();
    tx.into_signed(signature).into()
}

pub(crate) fn raw(tx: &TxEnvelope) -> Value {
    json!([Bytes::from(tx.encoded_2718())])
}

/// Posts a body and returns status and body of the response.
pub(crate) async fn post(address: SocketAddr, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).map_or(0, |status| status.parse().unwrap());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}

pub(crate) async fn post_json(address: SocketAddr, body: &str) -> Value {
    let (status, body) = post(address, body.as_bytes()).await;
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{status} {body}: {error}"))
}

/// A WebSocket connection without a JSON-RPC client library.
pub(crate) struct RawSocket(WebSocketStream<TcpStream>);

impl RawSocket {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let url = format!("ws://{address}");
        Self(tokio_tungstenite::client_async(url, stream).await.unwrap().0)
    }

    pub(crate) async fn send(&mut self, message: &str) {
        self.0.send(Message::text(message)).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Value {
        let message = self.0.next().await.unwrap().unwrap();
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }

    pub(crate) async fn ask(&mut self, message: &str) -> Value {
        self.send(message).await;
        self.next().await
    }

    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        let request = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
        let answer = self.ask(&request.to_string()).await;
        assert_eq!(answer["id"], json!(7), "{answer}");
        answer["result"].clone()
    }
}
