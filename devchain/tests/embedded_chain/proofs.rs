//! Tests of proofs of accounts and slots, and of the tries behind them.

use alloy::consensus::TrieAccount;
use alloy::consensus::private::alloy_trie::Nibbles;
use alloy::consensus::private::alloy_trie::proof::verify_proof;
use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::providers::Provider;
use alloy::rpc::types::EIP1186AccountProofResponse;
use hawser_devchain::deploy;
use serde_json::json;

use super::support::*;

/// Verifies a proof against the state root in a block's header.
async fn verified(running: &RunningChain, address: Address, number: u64) -> TrieAccount {
    let slots = [B256::ZERO, B256::with_last_byte(1)];
    let block = running.provider.get_block(number.into()).await.unwrap().unwrap();
    let proof: EIP1186AccountProofResponse =
        running.provider.get_proof(address, slots.to_vec()).number(number).await.unwrap();
    let account = TrieAccount {
        nonce: proof.nonce,
        balance: proof.balance,
        storage_root: proof.storage_hash,
        code_hash: proof.code_hash,
    };
    let there = (account != TrieAccount::default()).then(|| alloy::rlp::encode(account));
    let path = Nibbles::unpack(keccak256(address));
    verify_proof(block.header.state_root, path, there, &proof.account_proof).unwrap();
    for (slot, shown) in slots.iter().zip(&proof.storage_proof) {
        let value = running.provider.get_storage_at(address, (*slot).into()).number(number).await;
        assert_eq!((shown.key.as_b256(), shown.value), (*slot, value.unwrap()));
        let there = (!shown.value.is_zero()).then(|| alloy::rlp::encode(shown.value));
        let path = Nibbles::unpack(keccak256(slot));
        verify_proof(proof.storage_hash, path, there, &shown.proof).unwrap();
    }
    account
}

#[tokio::test]
async fn the_state_root_of_every_block_proves_its_accounts_and_slots() {
    let running = RunningChain::on_demand().await;
    let notebook = running.deploy(&NOTEBOOK).await;
    for value in [5, 6, 0, 7] {
        running.note(notebook, value).await;
    }
    running.call("anvil_reorg", json!([1, []])).await;
    let height = running.provider.get_block_number().await.unwrap();
    for number in 0..=height {
        for address in [notebook, STRANGER, signer(0).address(), signer(3).address()] {
            let account = verified(&running, address, number).await;
            let nonce = running.provider.get_transaction_count(address).number(number).await;
            assert_eq!(account.nonce, nonce.unwrap());
        }
    }
    let absent = verified(&running, Address::repeat_byte(0xee), height).await;
    assert_eq!(absent, TrieAccount::default());
}

#[tokio::test]
async fn what_control_methods_change_is_proved_from_the_next_block_on() {
    let running = RunningChain::on_demand().await;
    running.mine().await;
    running.call("anvil_setBalance", json!([STRANGER, "0x64"])).await;
    let slot = json!([STRANGER, "0x1", B256::with_last_byte(9)]);
    running.call("anvil_setStorageAt", slot).await;
    let before: EIP1186AccountProofResponse =
        running.provider.get_proof(STRANGER, vec![]).number(1).await.unwrap();
    assert_eq!(before.balance, U256::ZERO, "the root of block 1 stays what it is");
    running.mine().await;
    assert_eq!(verified(&running, STRANGER, 2).await.balance, U256::from(100));
}

#[tokio::test]
async fn the_keys_of_a_proof_come_back_as_they_were_sent() {
    let running = RunningChain::on_demand().await;
    let asked = json!([STRANGER, ["0x0", B256::ZERO, "0x1f"], "latest"]);
    let proof = running.call("eth_getProof", asked).await;
    let keys: Vec<_> = (0..3).map(|at| proof["storageProof"][at]["key"].clone()).collect();
    assert_eq!(keys, [json!("0x0"), json!(B256::ZERO), json!("0x1f")]);
    assert_eq!(proof["storageHash"], json!(alloy::consensus::EMPTY_ROOT_HASH));
    running.call("eth_getProof", json!([STRANGER, [], "pending"])).await;
    let unknown = running.try_call("eth_getProof", json!([STRANGER, [], "0x63"])).await;
    assert_eq!(unknown.unwrap_err().1, "header not found");
    let many = json!([STRANGER, vec!["0x0"; 1025], "latest"]);
    assert_eq!(running.try_call("eth_getProof", many).await.unwrap_err().0, -32602);
}

#[tokio::test]
async fn the_chain_signs_for_the_accounts_it_has_keys_of() {
    let signers = deploy::accounts();
    let running = RunningChain::with(hawser_devchain::embedded::EmbeddedSettings {
        signers: signers.clone(),
        genesis: hawser_devchain::embedded::Genesis {
            balances: signers.iter().map(|key| (key.address(), ether(10))).collect(),
            ..Default::default()
        },
        ..settings()
    })
    .await;
    running.call("anvil_impersonateAccount", json!([STRANGER])).await;
    running.call("anvil_impersonateAccount", json!([signers[0].address()])).await;
    running.call("anvil_stopImpersonatingAccount", json!([signers[0].address()])).await;
    let mut expected: Vec<_> = signers.iter().map(|key| key.address()).collect();
    expected.push(STRANGER);
    assert_eq!(running.call("eth_accounts", json!([])).await, json!(expected));
    for (nonce, signer) in [(0u64, &signers[2]), (0, &signers[9]), (1, &signers[2])] {
        let request = json!([{ "from": signer.address(), "to": STRANGER, "value": "0x1" }]);
        let hash = running.call("eth_sendTransaction", request).await;
        let hash: B256 = serde_json::from_value(hash).unwrap();
        let tx = running.provider.get_transaction_by_hash(hash).await.unwrap().unwrap();
        let signed = tx.inner.inner();
        let hash = signed.signature_hash();
        let recovered = signed.signature().recover_address_from_prehash(&hash).unwrap();
        assert_eq!(recovered, signer.address(), "a signature that every node accepts");
        assert_eq!(alloy::consensus::Transaction::nonce(signed), nonce);
    }
    let message = json!(alloy::primitives::Bytes::from_static(b"hello"));
    let signed = running.call("personal_sign", json!([message, signers[1].address()])).await;
    assert_eq!(running.call("eth_sign", json!([signers[1].address(), message])).await, signed);
    let signed: alloy::primitives::Bytes = serde_json::from_value(signed).unwrap();
    let signature = alloy::primitives::Signature::from_raw(&signed).unwrap();
    let signer = signature.recover_address_from_msg(b"hello").unwrap();
    assert_eq!(signer, signers[1].address());
    let foreign = running.try_call("eth_sign", json!([STRANGER, message])).await.unwrap_err();
    assert_eq!(foreign.0, -32602);
}
