//! The init code of the factory's proxy, which initialises the factory in the same transaction that creates it.
//!
//! The address of the factory's first creation depends on the factory's nonce, and the addresses of all proxies depend
//! on that address. Any account may make an existing factory create contracts, which advances its nonce. Therefore the
//! first creation has to happen in the transaction that creates the factory.

use alloy::primitives::{Address, Bytes};
use alloy::sol_types::SolCall as _;

use crate::contracts::{Factory, IMPLEMENTATION_SLOT, artifact};

/// The length in bytes of the code in front of the proxy's code, which its jump and its copy refer to.
const HEAD_LEN_BYTES: usize = 121;
/// The jump destination after the initialisation.
const INITIALIZED: u8 = 0x6b;

/// Returns the init code of a proxy for the factory's implementation, which must be deployed already.
///
/// The proxy has the same code as the other proxies. Their constructor could set the slot
/// but not call the implementation.
pub(super) fn init_code(implementation: Address) -> Bytes {
    let (slot, code) = (IMPLEMENTATION_SLOT, code());
    let len = u16::try_from(code.len()).expect("EIP-170 bounds code to 24,576 bytes").to_be_bytes();
    let head = u16::try_from(HEAD_LEN_BYTES).expect("it is far below").to_be_bytes();
    let parts: [&[u8]; 14] = [
        // SSTORE the implementation's address.
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
        // On failure: revert with the revert data of the call.
        &[0x3d, 0x60, 0x00, 0x60, 0x00, 0x3e, 0x3d, 0x60, 0x00, 0xfd],
        // Return the code that follows.
        &[0x5b, 0x61],
        &len,
        &[0x80, 0x61, head[0], head[1], 0x60, 0x00, 0x39, 0x60, 0x00, 0xf3],
        code,
    ];
    parts.concat().into()
}

/// Returns the deployed code of every proxy.
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
