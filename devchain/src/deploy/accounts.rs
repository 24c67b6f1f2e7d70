//! The funded accounts of a development network. Their keys are public: development chains share the mnemonic `test
//! test test test test test test test test test test junk`.

use alloy::primitives::{B256, U256, b256, uint};
use alloy::signers::local::PrivateKeySigner;

/// The native balance of each account on both chains at the start, in wei: 10,000
/// coins, as on other development chains.
pub const NATIVE_BALANCE: U256 = uint!(10_000_000_000_000_000_000_000_U256);

/// The private keys of the accounts, derived from the mnemonic by `m/44'/60'/0'/0/index`.
const KEYS: [B256; 10] = [
    b256!("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"),
    b256!("0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"),
    b256!("0x5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"),
    b256!("0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"),
    b256!("0x47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a"),
    b256!("0x8b3a350cf5c34c9194ca85829a2df0ec3153be0318b5e2d3348e872092edffba"),
    b256!("0x92db14e403b83dfe3df233f83dfa3a0d7096f21ca9b0d6d6b8d88b2b4ec1564e"),
    b256!("0x4bbbf85ce3377467afe5d46f804f221813b2bb87f24d81f60f1fcdbf7cbf4356"),
    b256!("0xdbda1821b80551c9d65939329250298aa3472ba22feea921c0cf5d620ea67b97"),
    b256!("0x2a871d0798f97d79848a013d4936a73bf4cc922c825d33c1cf7073dff6d409c6"),
];

/// Returns the keys of all accounts. The first is the deployer.
#[must_use]
pub fn accounts() -> Vec<PrivateKeySigner> {
    let signer = |key| PrivateKeySigner::from_bytes(key).expect("the keys are below the order");
    KEYS.iter().map(signer).collect()
}

/// Returns the key of the account that deploys and administers all contracts.
#[must_use]
pub fn deployer() -> PrivateKeySigner {
    accounts().swap_remove(0)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{address, utils::parse_ether};

    use super::*;

    #[test]
    fn the_accounts_are_the_usual_ones() {
        let all = accounts();
        assert_eq!(all[0].address(), address!("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"));
        assert_eq!(all[9].address(), address!("0xa0Ee7A142d267C1f36714E4a8F75612F20a79720"));
        assert_eq!(deployer().address(), all[0].address());
    }

    #[test]
    fn each_owns_ten_thousand_coins() {
        assert_eq!(NATIVE_BALANCE, parse_ether("10000").unwrap());
    }
}
