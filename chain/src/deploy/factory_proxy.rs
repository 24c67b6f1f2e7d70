//! The init code of the factory's proxy, which initialises the factory as it is created.
//!
//! The factory's first creation has its address by the factory's nonce, and all proxies have theirs by that address. Any
//! account may have a factory create contracts as soon as it is there, which moves its nonce on. So there is no moment at
//! which it is there and has not made its first creation.

use alloy::primitives::{Address, Bytes, b256};
use alloy::sol_types::SolCall as _;

use crate::contracts::{Factory, artifact};

/// Code before that of the proxy, as its jump and its copy count it.
const HEAD_LEN_BYTES: usize = 121;
/// The place that the jump leads to.
const INITIALIZED: u8 = 0x6b;

/// Returns the init code of a proxy in front of the factory's code, which must be deployed already.
///
/// The proxy has the same code as others. A constructor of its own could set the slot, but could not call the
/// code behind it.
pub(super) fn init_code(implementation: Address) -> Bytes {
    // ERC-1967.
    let slot = b256!("0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc");
    let code = code();
    let len = u16::try_from(code.len()).expect("EIP-170 bounds code to 24,576 bytes").to_be_bytes();
    let head = u16::try_from(HEAD_LEN_BYTES).expect("it is far below").to_be_bytes();
    let parts: [&[u8]; 14] = [
        // SSTORE the implementation.
        &[0x73],
        implementation.as_slice(),
        &[0x7f],
        slot.as_slice(),
        // MSTORE the selector, which ends at byte 32.
        &[0x55, 0x63],
        &Factory::initializeCall::SELECTOR,
        // DELEGATECALL the implementation with it.
        &[0x60, 0x00, 0x52, 0x60, 0x00, 0x60, 0x00, 0x60, 0x04, 0x60, 0x1c, 0x73],
        implementation.as_slice(),
        &[0x5a, 0xf4, 0x60, INITIALIZED, 0x57],
        // It has failed: revert with the same data.
        &[0x3d, 0x60, 0x00, 0x60, 0x00, 0x3e, 0x3d, 0x60, 0x00, 0xfd],
        // Return the code behind this.
        &[0x5b, 0x61],
        &len,
        &[0x80, 0x61, head[0], head[1], 0x60, 0x00, 0x39, 0x60, 0x00, 0xf3],
        code,
    ];
    parts.concat().into()
}

/// Returns the code of every proxy.
fn code() -> &'static Bytes {
    &artifact::named("Proxy").expect("every proxy has it").deployed_code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jump_and_the_copy_lead_to_their_places() {
        let init = init_code(Address::repeat_byte(0xee));
        assert_eq!(init[usize::from(INITIALIZED)], 0x5b, "a JUMPDEST");
        assert_eq!(&init[HEAD_LEN_BYTES..], &code()[..]);
    }
}
