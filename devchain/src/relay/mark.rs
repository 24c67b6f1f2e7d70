//! The mark of a delivered ticket: the ticket number appended to the call data.
//!
//! Contracts ignore data after their arguments, so the mark does not change the call. The mark is part of the
//! transaction, so it exists exactly when the delivery does, even if the process is killed.

use alloy::primitives::{Address, Bytes, U160, address};

/// The offset that is added to an account of the settlement chain to get its alias. Specified by Arbitrum's
/// `AddressAliasHelper`: no key controls the alias on the app chain.
const OFFSET: Address = address!("0x1111000000000000000000000000000000001111");
/// The first bytes of a mark.
const WORD: [u8; 12] = *b"hawser relay";
const MARK_LEN: usize = WORD.len() + size_of::<u64>();

/// Returns the alias of an account of the settlement chain, which is the sender of its calls on the app chain.
#[must_use]
pub fn alias(account: Address) -> Address {
    let number = |account: Address| U160::from_be_bytes(account.into_array());
    number(account).wrapping_add(number(OFFSET)).into()
}

/// Returns call data with the mark of a ticket. `number` is the ticket's.
pub(super) fn marked(data: &[u8], number: u64) -> Bytes {
    [data, &WORD, &number.to_be_bytes()].concat().into()
}

/// Returns the number of the ticket that a transaction with this call data delivered; `None` if the data has no mark.
pub(super) fn number_of(data: &[u8]) -> Option<u64> {
    let (_, mark) = data.split_last_chunk::<MARK_LEN>()?;
    let number = mark.strip_prefix(&WORD)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_other_bytes_are_no_mark() {
        assert_eq!(number_of(&marked(&[1, 2, 3], 77)), Some(77));
        assert_eq!(number_of(&marked(&[], u64::MAX)), Some(u64::MAX));
        assert_eq!(number_of(&[0; 64]), None);
        assert_eq!(number_of(&marked(&[], 1)[1..]), None);
    }

    #[test]
    fn aliases_are_those_of_the_vectors() {
        let text = include_str!("../../../tests/vectors/contracts/addresses.json");
        let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
        for case in vectors["alias"].as_array().unwrap() {
            let address = |key: &str| case[key].as_str().unwrap().parse::<Address>().unwrap();
            assert_eq!(alias(address("account")), address("alias"));
        }
    }
}
