//! Contracts of a few instructions with behaviour that no compiled contract here has.

use alloy::primitives::B256;

/// Reverts every call with this selector.
pub(crate) fn reverting(selector: [u8; 4]) -> Vec<u8> {
    let [a, b, c, d] = selector;
    // push4 selector; push0; mstore; push1 4; push1 28; revert
    vec![0x63, a, b, c, d, 0x5f, 0x52, 0x60, 4, 0x60, 28, 0xfd]
}

/// Answers every call with a number.
pub(crate) fn answering(number: u8) -> Vec<u8> {
    // push1 number; push0; mstore; push1 32; push0; return
    vec![0x60, number, 0x5f, 0x52, 0x60, 32, 0x5f, 0xf3]
}

/// Answers every call with four bytes.
pub(crate) fn answering_bytes4([a, b, c, d]: [u8; 4]) -> Vec<u8> {
    // push4 bytes; push1 224; shl; push0; mstore; push1 32; push0; return
    vec![0x63, a, b, c, d, 0x60, 224, 0x1b, 0x5f, 0x52, 0x60, 32, 0x5f, 0xf3]
}

/// Writes one slot of its caller's storage when delegated to: the smallest migrator.
pub(crate) fn writing(slot: B256, value: B256) -> Vec<u8> {
    // push32 value; push32 slot; sstore
    [&[0x7f], value.as_slice(), &[0x7f], slot.as_slice(), &[0x55]].concat()
}

/// Answers every call with these bytes.
pub(crate) fn answering_bytes(answer: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(answer.len()).expect("it is short").to_be_bytes();
    // push2 length; push1 12; push0; codecopy; push2 length; push0; return; the answer
    let code = [0x61, high, low, 0x60, 12, 0x5f, 0x39, 0x61, high, low, 0x5f, 0xf3];
    [&code, answer].concat()
}
