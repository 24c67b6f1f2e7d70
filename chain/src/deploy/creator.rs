//! A contract that creates other contracts for one account, so that a contract can deploy a network.
//!
//! Factory and parameter registry need each other's addresses before they exist, so the factory's address must not
//! depend on its code. An account with a key gets such addresses from its transaction nonces; a multisig sends no
//! transactions of its own. Its creator contract supplies the nonces instead: it creates (CREATE) the code in any call
//! from its owner, and refuses other callers. The creator's own address depends on the owner alone (CREATE2, through
//! the deterministic deployer that most chains have), so it is the same on both chains.

use alloy::primitives::{Address, B256, Bytes, U256, address, keccak256};

use crate::send::Call;

/// The deterministic deployer: a contract that creates others by CREATE2 for any caller, from a salt and init code. It
/// has this address and code on nearly every chain, because it was deployed by a keyless transaction.
pub const CREATE2_DEPLOYER: Address = address!("0x4e59b44847b379578588920cA78FbF26c0B4956C");

/// The length of the creator's code in bytes.
pub(super) const CODE_LEN_BYTES: usize = 66;

/// The code before the owner's address: `CALLER`, and `PUSH20` for the owner's address that follows.
const BEFORE_OWNER: [u8; 2] = [0x33, 0x73];
/// The code after the owner's address.
const AFTER_OWNER: [u8; CODE_LEN_BYTES - 22] = [
    // EQ, and a jump to 0x1f; otherwise a revert without data.
    0x14, 0x60, 0x1f, 0x57, 0x60, 0x00, 0x60, 0x00, 0xfd, //
    // 0x1f: copy the call's data to memory.
    0x5b, 0x36, 0x60, 0x00, 0x60, 0x00, 0x37, //
    // CREATE with it, and with the call's value; a jump to 0x39 if there is an address.
    0x36, 0x60, 0x00, 0x34, 0xf0, 0x80, 0x60, 0x39, 0x57, //
    // Otherwise a revert with the revert data of the creation.
    0x3d, 0x60, 0x00, 0x60, 0x00, 0x3e, 0x3d, 0x60, 0x00, 0xfd, //
    // 0x39: return the address.
    0x5b, 0x60, 0x00, 0x52, 0x60, 0x20, 0x60, 0x00, 0xf3,
];
/// The init code in front of the code: it returns the 66 bytes that follow it.
const BEFORE_CODE: [u8; 12] =
    [0x60, 0x42, 0x60, 0x0c, 0x60, 0x00, 0x39, 0x60, 0x42, 0x60, 0x00, 0xf3];

fn init_code(owner: Address) -> Vec<u8> {
    [&BEFORE_CODE[..], &BEFORE_OWNER, owner.as_slice(), &AFTER_OWNER].concat()
}

/// Returns the address of the creator of `owner`.
pub(super) fn address(owner: Address) -> Address {
    CREATE2_DEPLOYER.create2(B256::ZERO, keccak256(init_code(owner)))
}

/// Returns the call that creates the creator of `owner`. Any account may send it.
pub(super) fn creation(owner: Address) -> Call {
    // The deterministic deployer expects the salt first.
    let data = [&B256::ZERO[..], &init_code(owner)].concat();
    Call { to: Some(CREATE2_DEPLOYER), data: data.into(), value: U256::ZERO }
}

/// Returns the call by which the owner creates a contract.
pub(super) fn create_by(creator: Address, init_code: Bytes) -> Call {
    Call { to: Some(creator), data: init_code, value: U256::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_as_long_as_its_init_code_says_and_its_jumps_lead_to_their_places() {
        let code = &init_code(Address::repeat_byte(0xee))[BEFORE_CODE.len()..];
        assert_eq!(code.len(), CODE_LEN_BYTES);
        assert_eq!(usize::from(BEFORE_CODE[1]), CODE_LEN_BYTES);
        assert_eq!(usize::from(BEFORE_CODE[3]), BEFORE_CODE.len());
        for target in [0x1f, 0x39] {
            assert_eq!(code[target], 0x5b, "a JUMPDEST");
        }
    }

    #[test]
    fn each_owner_has_a_creator_of_its_own() {
        let [one, other] = [1, 2].map(Address::repeat_byte);
        assert_ne!(address(one), address(other));
        assert_eq!(creation(one).to, Some(CREATE2_DEPLOYER));
    }
}
