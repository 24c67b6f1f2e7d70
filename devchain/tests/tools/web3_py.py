"""Uses the development chain as a program with web3.py does: python web3_py.py RPC_URL

Needs what scripts/chain-tools installs.
"""

import json
import sys
from pathlib import Path

import rlp
from eth_account.messages import encode_defunct
from trie import HexaryTrie
from web3 import Web3
from web3.exceptions import ContractCustomError, ContractLogicError

ARTIFACTS = Path(__file__).parents[3] / "contracts" / "artifacts"

w3 = Web3(Web3.HTTPProvider(sys.argv[1]))


def send(method, *params):
    answer = w3.provider.make_request(method, list(params))
    assert "error" not in answer, f"{method}: {answer['error']}"
    return answer["result"]


def mined(tx_hash):
    return w3.eth.wait_for_transaction_receipt(tx_hash, poll_latency=0.05)


def deploy(name, *args):
    artifact = json.loads((ARTIFACTS / f"{name}.json").read_text())
    kind = w3.eth.contract(abi=artifact["abi"], bytecode=artifact["bytecode"])
    receipt = mined(kind.constructor(*args).transact())
    assert receipt.status == 1
    return w3.eth.contract(address=receipt.contractAddress, abi=artifact["abi"])


def step(name):
    print(f"ok {name}", flush=True)


# The usual ten accounts, and signatures by the chain.
assert w3.is_connected()
accounts = w3.eth.accounts
assert len(accounts) == 10
first, second = accounts[:2]
assert first == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
w3.eth.default_account = first
signature = w3.eth.sign(second, text="signed by the chain")
message = encode_defunct(text="signed by the chain")
assert w3.eth.account.recover_message(message, signature=signature) == second
step("accounts")

# Transfers: signed by the chain, and signed here.
stranger = w3.eth.account.create()
mined(w3.eth.send_transaction({"to": stranger.address, "value": w3.to_wei(2, "ether")}))
signed = stranger.sign_transaction(
    {
        "to": second,
        "value": 5,
        "nonce": 0,
        "gas": 21000,
        "chainId": w3.eth.chain_id,
        "maxFeePerGas": 2 * w3.eth.gas_price,
        "maxPriorityFeePerGas": w3.eth.max_priority_fee,
    }
)
receipt = mined(w3.eth.send_raw_transaction(signed.raw_transaction))
assert receipt.status == 1 and receipt["from"] == stranger.address
paid = receipt.gasUsed * receipt.effectiveGasPrice
assert w3.eth.get_balance(stranger.address) == w3.to_wei(2, "ether") - 5 - paid
assert w3.eth.get_transaction(receipt.transactionHash).blockHash == receipt.blockHash
history = w3.eth.fee_history(2, "latest", [50])
assert len(history.baseFeePerGas) == 3 and len(history.reward) == 2
step("transfers")

# A contract: deployment, calls, events, filters, errors.
token = deploy("MockUnderlyingFeeToken", "0x" + "00" * 20)
transfers = token.events.Transfer.create_filter(from_block="latest")
receipt = mined(token.functions.mint(second, 70).transact())
(event,) = token.events.Transfer().process_receipt(receipt)
assert list(event.args.values()) == ["0x" + "00" * 20, second, 70]
assert [found.transactionHash for found in transfers.get_new_entries()] == [receipt.transactionHash]
assert len(token.events.Transfer().get_logs(from_block=0)) == 1
assert token.functions.balanceOf(second).call() == 70
try:
    token.functions.mint("0x" + "00" * 20, 1).transact()
    raise AssertionError("tokens for the zero address")
except ContractCustomError as refused:
    assert refused.data[:10] == w3.keccak(text="ERC20InvalidReceiver(address)")[:4].to_0x_hex()
wallet = deploy("WalletHarness", second)
try:
    wallet.functions.isValidSignature(bytes(32), b"\x01").call()
    raise AssertionError("this signature makes it revert")
except ContractLogicError as refused:
    assert "as told" in refused.message
step("contracts")


def proved(root, key, nodes):
    """The value that a proof shows for a key, by another implementation of the trie; empty if it shows that there is none."""
    return HexaryTrie.get_from_proof(root, w3.keccak(key), [rlp.decode(bytes(node)) for node in nodes])


# Proofs of accounts and slots, present and absent, against the state roots of several blocks.
mined(token.functions.mint(second, 5).transact())
for number in (receipt.blockNumber, w3.eth.block_number):
    root = w3.eth.get_block(number).stateRoot
    for address in (first, stranger.address, token.address, wallet.address, Web3.to_checksum_address("0x" + "ee" * 20)):
        slots = list(range(4))
        keys = [Web3.to_hex(slot.to_bytes(32)) for slot in slots]
        proof = w3.eth.get_proof(address, keys, number)
        found = proved(root, bytes.fromhex(address[2:]), proof.accountProof)
        if address.lower() == "0x" + "ee" * 20:
            assert found == b"" and proof.nonce == 0 and proof.balance == 0
            continue
        if address == wallet.address and found == b"":
            assert number < w3.eth.block_number, "the wallet came later"
            continue
        nonce, balance, storage_root, code_hash = rlp.decode(found)
        assert int.from_bytes(nonce) == proof.nonce == w3.eth.get_transaction_count(address, number)
        assert int.from_bytes(balance) == proof.balance == w3.eth.get_balance(address, number)
        assert storage_root == proof.storageHash and code_hash == proof.codeHash
        for slot, shown in zip(slots, proof.storageProof):
            value = w3.eth.get_storage_at(address, slot, number)
            # An empty trie has no nodes to show.
            kept = proved(storage_root, slot.to_bytes(32), shown.proof) if shown.proof else b""
            kept = int.from_bytes(rlp.decode(kept)) if kept else 0
            assert kept == int.from_bytes(value) == int.from_bytes(bytes(shown.value))
# A slot may be a short number, too.
owner = w3.eth.get_proof(wallet.address, [0]).storageProof[0]
assert int.from_bytes(bytes(owner.value)) == int(second, 16)
step("proofs")

# Nested calls of a trace.
factory = deploy("WalletFactoryHarness")
receipt = mined(factory.functions.deploy(second, bytes(32)).transact())
frame = send("debug_traceTransaction", receipt.transactionHash.to_0x_hex(), {"tracer": "callTracer"})
assert [call["type"] for call in frame["calls"]] == ["CREATE2"]
assert w3.eth.get_code(Web3.to_checksum_address(frame["calls"][0]["to"])) == w3.eth.get_code(wallet.address)
step("traces")

# Time: blocks made at once lead the clock, and the next one is later by all that was asked for.
for value in range(20):
    mined(w3.eth.send_transaction({"to": second, "value": value}))
before = w3.eth.get_block("latest").timestamp
send("evm_increaseTime", 1000)
send("evm_mine")
assert w3.eth.get_block("latest").timestamp >= before + 1000
step("time")

# Snapshots.
snapshot = send("evm_snapshot")
mined(token.functions.mint(second, 1).transact())
assert send("evm_revert", snapshot) is True
assert token.functions.balanceOf(second).call() == 75
step("snapshots")
