//! Tests of chains with a data folder.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use alloy::eips::BlockId;
use alloy::primitives::{B256, U256};
use alloy::providers::{DynProvider, Provider};
use alloy::rlp::Decodable;
use alloy::rpc::types::{Filter, TransactionReceipt};
use hawser_devchain::embedded::{
    EmbeddedChain, EmbeddedSettings, EmbeddedStartError, Genesis, JournalError,
};
use serde_json::json;

use super::support::*;

fn kept(folder: &Path) -> EmbeddedSettings {
    EmbeddedSettings { data_dir: Some(folder.to_owned()), ..settings() }
}

/// Reads all state of a chain that a client can see.
async fn everything(running: &RunningChain) -> Vec<String> {
    let mut seen = Vec::new();
    let provider = &running.provider;
    for number in 0..=provider.get_block_number().await.unwrap() {
        let block = provider.get_block(number.into()).full().await.unwrap().unwrap();
        let receipts = provider.get_block_receipts(number.into()).await.unwrap();
        let accounts = (0..4).map(|index| signer(index).address()).chain([STRANGER]);
        for address in accounts {
            let balance = provider.get_balance(address).number(number).await.unwrap();
            let nonce = provider.get_transaction_count(address).number(number).await.unwrap();
            let code = provider.get_code_at(address).number(number).await.unwrap();
            seen.push(format!("{number} {address} {balance} {nonce} {code}"));
        }
        seen.push(format!("{block:?} {receipts:?}"));
    }
    seen.push(format!("{:?}", provider.get_logs(&Filter::new().from_block(0)).await.unwrap()));
    seen
}

#[tokio::test]
async fn a_chain_is_the_same_after_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let running = RunningChain::with(kept(folder.path())).await;
    let notebook = running.deploy(&NOTEBOOK).await;
    for value in 1..=4 {
        running.note(notebook, value).await;
    }
    running.call("anvil_reorg", json!([2, []])).await;
    let snapshot = running.call("evm_snapshot", json!([])).await;
    running.note(notebook, 5).await;
    running.call("evm_revert", json!([snapshot])).await;
    running.call("anvil_setBalance", json!([STRANGER, "0x99"])).await;
    running.call("anvil_setCode", json!([STRANGER, ECHO])).await;
    running.note(notebook, 6).await;
    running.call("evm_increaseTime", json!([5000])).await;
    running.mine().await;
    running.call("evm_increaseTime", json!([5000])).await;
    let before = everything(&running).await;
    let time =
        running.provider.get_block(BlockId::latest()).await.unwrap().unwrap().header.timestamp;
    running.chain.stop().await;

    let again = RunningChain::with(kept(folder.path())).await;
    assert_eq!(everything(&again).await, before);
    let slot = again.provider.get_storage_at(notebook, U256::ZERO).await.unwrap();
    assert_eq!(slot, U256::from(6));
    again.note(notebook, 7).await;
    let head = again.provider.get_block(BlockId::latest()).await.unwrap().unwrap();
    assert!(head.header.timestamp >= time + 5000, "the clock is where it was");
}

/// Chains of an older version have other state roots in their headers.
#[tokio::test]
async fn a_chain_of_an_older_version_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let running = RunningChain::with(kept(folder.path())).await;
    let notebook = running.deploy(&NOTEBOOK).await;
    running.chain.stop().await;
    let file = folder.path().join("chain.log");
    let older = older_journal(&std::fs::read(&file).unwrap());
    std::fs::write(&file, older).unwrap();

    let again = RunningChain::with(kept(folder.path())).await;
    again.note(notebook, 7).await;
    let slot = again.provider.get_storage_at(notebook, U256::ZERO).await.unwrap();
    assert_eq!(slot, U256::from(7));
    let proof = async |number| {
        again.try_call("eth_getProof", json!([notebook, [], format!("{number:#x}")])).await
    };
    let error = proof(1u64).await.unwrap_err();
    assert!(error.1.contains("older version"), "{error:?}");
    proof(2).await.unwrap();
    again.chain.stop().await;
    RunningChain::with(kept(folder.path())).await;
}

/// Returns a journal in an older format: another version number, and headers without valid state roots.
fn older_journal(bytes: &[u8]) -> Vec<u8> {
    let mut older = bytes[..32].to_vec();
    assert_eq!(older[..24], *b"development chain log 2\n");
    older[22] = b'1';
    let mut rest = &bytes[32..];
    let mut parent: Option<B256> = None;
    while let Some((head, after)) = rest.split_at_checked(12) {
        let len = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        let (body, after) = after.split_at(len);
        rest = after;
        let mut body = body.to_vec();
        if body[0] == 1 {
            let header_len = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
            let encoded = &body[5..5 + header_len];
            let mut header = alloy::consensus::Header::decode(&mut &encoded[..]).unwrap();
            header.state_root = alloy::primitives::keccak256(header.state_root);
            header.parent_hash = parent.unwrap_or(header.parent_hash);
            parent = Some(header.hash_slow());
            let encoded = alloy::rlp::encode(&header);
            let encoded_len = u32::try_from(encoded.len()).unwrap().to_be_bytes();
            body = [&[1], &encoded_len[..], &encoded, &body[5 + header_len..]].concat();
        }
        older.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        older.extend(&alloy::primitives::keccak256(&body)[..8]);
        older.extend(&body);
    }
    older
}

#[tokio::test]
async fn a_folder_is_used_only_for_the_chain_that_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let running = RunningChain::with(kept(folder.path())).await;
    running.mine().await;
    let refused = async |settings| match EmbeddedChain::start(settings).await {
        Err(EmbeddedStartError::Store(error)) => error,
        other => panic!("{other:?}"),
    };
    let locked = refused(kept(folder.path())).await;
    assert!(matches!(locked, JournalError::Locked { .. }), "{locked}");
    running.chain.stop().await;
    let other = refused(EmbeddedSettings { chain_id: 7, ..kept(folder.path()) }).await;
    assert!(
        matches!(other, JournalError::OtherChain { found: CHAIN_ID, wanted: 7, .. }),
        "{other}"
    );
    let poorer = EmbeddedSettings { genesis: Genesis::default(), ..kept(folder.path()) };
    let poorer = refused(poorer).await;
    assert!(matches!(poorer, JournalError::OtherGenesis { .. }), "{poorer}");
    std::fs::write(folder.path().join("chain.log"), [7; 400]).unwrap();
    let unknown = refused(kept(folder.path())).await;
    assert!(matches!(unknown, JournalError::UnknownFormat { .. }), "{unknown}");
}

#[tokio::test]
async fn a_path_that_is_no_folder_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = EmbeddedChain::start(kept(file.path())).await.unwrap_err();
    assert!(matches!(error, EmbeddedStartError::Store(JournalError::Io { .. })), "{error}");
}

const FOLDER: &str = "HAWSER_TEST_CHAIN_FOLDER";

#[tokio::test]
#[ignore = "serves a folder in a process of its own, for the test that kills it"]
async fn serve_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let chain = EmbeddedChain::start(kept(Path::new(&folder))).await.unwrap();
    println!("\nlistens on {}", chain.local_addr());
    std::future::pending().await
}

fn in_another_process(folder: &Path) -> (Child, DynProvider) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded_chain::kept::serve_until_killed", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("listens on ").map(|address| address.parse().unwrap()));
    (child, http(address.expect("it prints its address")))
}

/// Kills the process under load. Every transaction with a receipt must survive.
#[tokio::test]
async fn nothing_that_was_answered_is_lost_by_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut confirmed: Vec<TransactionReceipt> = Vec::new();
    let mut nonce = 0;
    for round in 0..4usize {
        let (mut child, provider) = in_another_process(folder.path());
        check(&provider, &confirmed).await;
        let start = provider.get_transaction_count(signer(0).address()).await.unwrap();
        assert!(start >= nonce, "round {round}");
        let (sender, mut receipts) = tokio::sync::mpsc::unbounded_channel();
        let flood = tokio::spawn(async move {
            for nonce in start.. {
                let tx = transfer(0, |tx| (tx.nonce, tx.value) = (nonce, U256::from(nonce)));
                let sent =
                    provider.raw_request::<_, B256>("eth_sendRawTransaction".into(), raw(&tx));
                let Ok(hash) = sent.await else { return };
                let Ok(Some(receipt)) = provider.get_transaction_receipt(hash).await else {
                    return;
                };
                let _ = sender.send(receipt);
            }
        });
        let enough = 20 + 37 * round;
        for _ in 0..enough {
            confirmed.push(receipts.recv().await.unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        flood.await.unwrap();
        while let Some(receipt) = receipts.recv().await {
            confirmed.push(receipt);
        }
        nonce = confirmed.len() as u64;
    }
    let running = RunningChain::with(kept(folder.path())).await;
    check(&running.provider, &confirmed).await;
}

async fn check(provider: &DynProvider, confirmed: &[TransactionReceipt]) {
    for receipt in confirmed {
        let found = provider.get_transaction_receipt(receipt.transaction_hash).await.unwrap();
        assert_eq!(found.as_ref(), Some(receipt));
    }
}
