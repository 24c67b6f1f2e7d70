//! Chains in a folder.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use alloy::eips::BlockId;
use alloy::primitives::{B256, U256};
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::{Filter, TransactionReceipt};
use hawser_devchain::embedded::{
    EmbeddedChain, EmbeddedSettings, EmbeddedStartError, Genesis, JournalError,
};
use serde_json::json;

use crate::support::*;

fn kept(folder: &Path) -> EmbeddedSettings {
    EmbeddedSettings { data_dir: Some(folder.to_owned()), ..settings() }
}

/// Reads everything that a client can see of a chain.
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
        .args(["--exact", "kept::serve_until_killed", "--ignored", "--nocapture"])
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
