//! Bounds the checks of wrong tokens. Plain values; time is an argument.
//!
//! The check of a signature takes a tenth of a millisecond or more, and any client can send tokens: with HTTP/2 a
//! request with one may have some dozen bytes. A site (an IPv4 address, or an IPv6 /48, which is 65,536 callers) has a
//! number of tokens refused after a check. Beyond that tokens that were accepted before are checked, and some of the
//! others, from a number that all such sites share: a client at a site of a flood is among them when it asks again a
//! few times.

use hawser_serve::address::ClientAddress;
use hawser_serve::bucket::{Bucket, BucketSize};
use hawser_serve::caller_table::CallerTable;
use sha2::{Digest as _, Sha256};

use super::jwt::{TOKEN_LEN_BYTES_MAX, TokenError};

/// Tokens of a site that are refused after a check, in a minute. A guess: a client asks its login service for
/// another one after the first.
const REFUSED: BucketSize = BucketSize::per_minute(60);
/// Further tokens that are refused after a check, in a second, of all sites that have used up theirs. A guess: some
/// hundredths of one core. Of a flood of 2,000 tokens a second every tenth is checked, so that a client with a new
/// token behind the same address gets in after some ten attempts.
const BEYOND: BucketSize = BucketSize { capacity: 200, window_ms: 1000 };
/// Largest number of sites whose refused tokens are counted. A guess: some megabytes.
const SITES_MAX: usize = 10_000;
/// Largest number of accepted tokens that are remembered. A guess: some megabytes.
const ACCEPTED_MAX: usize = 50_000;
/// Time for which an accepted token is remembered after its last use, milliseconds. A guess: tokens mostly live for an
/// hour.
const ACCEPTED_FOR_MS: u64 = 3_600_000;

/// The digest of a token, under which it is remembered.
pub(super) type TokenDigest = [u8; 32];

/// Returns the SHA-256 of a token. One that is too long to be accepted is not read to its end.
///
/// To be called before the checks are locked: a caller with long tokens must not hold up the others.
pub(super) fn digest(token: &str) -> TokenDigest {
    let bytes = token.as_bytes();
    Sha256::digest(&bytes[..bytes.len().min(TOKEN_LEN_BYTES_MAX + 1)]).into()
}

/// The tokens that were checked lately.
#[derive(Debug)]
pub(super) struct TokenChecks {
    /// Accepted tokens. False for one that was refused since: its time is over.
    accepted: CallerTable<TokenDigest, bool>,
    /// The refused tokens of each site, by its first address.
    refused: CallerTable<ClientAddress, Bucket>,
    /// The refused tokens of sites that had used up theirs.
    beyond: Bucket,
}

impl Default for TokenChecks {
    fn default() -> Self {
        let (accepted, refused) = (CallerTable::new(ACCEPTED_MAX), CallerTable::new(SITES_MAX));
        Self { accepted, refused, beyond: Bucket::default() }
    }
}

impl TokenChecks {
    /// Returns the seconds after which a token of this address is checked; 0 if it may be checked at `now_ms`.
    pub(super) fn wait_s(&self, token: TokenDigest, address: ClientAddress, now_ms: u64) -> u64 {
        let refused = self.refused.get(&address.site()).copied().unwrap_or_default();
        match refused.wait_ms(REFUSED, 1, now_ms) {
            Some(0) => 0,
            _ if self.beyond.wait_ms(BEYOND, 1, now_ms) == Some(0) || self.is_accepted(token) => 0,
            wait_ms => wait_ms.unwrap_or(u64::MAX).div_ceil(1000),
        }
    }

    fn is_accepted(&self, token: TokenDigest) -> bool {
        self.accepted.get(&token) == Some(&true)
    }

    /// Records that a token was accepted at `now_ms`.
    pub(super) fn note_accepted(&mut self, token: TokenDigest, now_ms: u64) {
        self.accepted.put(token, true, now_ms.saturating_add(ACCEPTED_FOR_MS), now_ms);
    }

    /// Records that a token of this address was refused at `now_ms`. A refusal without a check does not count.
    pub(super) fn note_refused(
        &mut self,
        token: TokenDigest,
        address: ClientAddress,
        error: &TokenError,
        now_ms: u64,
    ) {
        match error {
            TokenError::Missing
            | TokenError::NoKeys
            | TokenError::UnknownKey
            | TokenError::TooMany(_) => {}
            TokenError::Invalid(_)
            | TokenError::Expired
            | TokenError::TooEarly
            | TokenError::NoCaller(_) => {
                let site = address.site();
                let mut refused = self.refused.get(&site).copied().unwrap_or_default();
                if refused.wait_ms(REFUSED, 1, now_ms) == Some(0) {
                    refused.take(REFUSED, 1, now_ms);
                    self.refused.put(site, refused, refused.full_at_ms(REFUSED), now_ms);
                } else {
                    self.beyond.take(BEYOND, 1, now_ms);
                }
                if let Some(is_accepted) = self.accepted.get_mut(&token) {
                    *is_accepted = false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: ClientAddress = ClientAddress::V6(1);
    /// An address of another site.
    const THERE: ClientAddress = ClientAddress::V6(1 << 16);

    /// Checks without the part that all addresses share, which an attacker has used up.
    fn used_up() -> TokenChecks {
        let mut checks = TokenChecks::default();
        let (flood, far_ms) = (ClientAddress::Invalid, 10 * ACCEPTED_FOR_MS);
        let refused = REFUSED.capacity + BEYOND.capacity;
        (0..refused)
            .for_each(|_| checks.note_refused(digest("flood"), flood, &TokenError::Expired, 0));
        checks.beyond.take(BEYOND, far_ms, 0); // it does not refill during a test
        checks
    }

    #[test]
    fn a_flood_has_a_shared_number_of_tokens_checked_so_that_others_of_its_address_get_in() {
        let mut checks = TokenChecks::default();
        let mut checked = 0;
        while checks.wait_s(digest("wrong"), HERE, 0) == 0 {
            checks.note_refused(digest("wrong"), HERE, &TokenError::Expired, 0);
            checked += 1;
        }
        assert_eq!(checked, REFUSED.capacity + BEYOND.capacity);
        assert_eq!(checks.wait_s(digest("new"), HERE, 0), 1);
        assert_eq!(
            checks.wait_s(digest("new"), HERE, 5),
            0,
            "one is checked again, maybe this one"
        );
        checks.note_accepted(digest("new"), 5);
        checks.note_refused(digest("wrong"), HERE, &TokenError::Expired, 5);
        assert_eq!(
            (checks.wait_s(digest("wrong"), HERE, 5), checks.wait_s(digest("new"), HERE, 5)),
            (1, 0)
        );
        assert_eq!(checks.wait_s(digest("wrong"), THERE, 5), 0, "another address has its own");
    }

    #[test]
    fn an_address_has_a_number_of_wrong_tokens_checked_and_known_ones_besides() {
        let mut checks = used_up();
        checks.note_accepted(digest("known"), 0);
        for _ in 0..REFUSED.capacity {
            assert_eq!(checks.wait_s(digest("wrong"), HERE, 0), 0);
            checks.note_refused(digest("wrong"), HERE, &TokenError::Expired, 0);
        }
        assert_eq!(checks.wait_s(digest("wrong"), HERE, 0), 1);
        assert_eq!(checks.wait_s(digest("known"), HERE, 0), 0);
        assert_eq!(checks.wait_s(digest("wrong"), THERE, 0), 0, "others are not touched");
        assert_eq!(checks.wait_s(digest("wrong"), HERE, 1000), 0);
        assert_eq!(checks.wait_s(digest("wrong"), HERE, 999), 1);
    }

    /// The owner of a /48 could otherwise have millions of tokens checked in a minute.
    #[test]
    fn all_addresses_of_a_site_together_have_a_number_of_wrong_tokens_checked() {
        let mut checks = used_up();
        for subnet in 0..REFUSED.capacity {
            let address = ClientAddress::V6(subnet);
            assert_eq!(checks.wait_s(digest("wrong"), address, 0), 0);
            checks.note_refused(digest("wrong"), address, &TokenError::Expired, 0);
        }
        assert_eq!(checks.wait_s(digest("wrong"), ClientAddress::V6(0xffff), 0), 1);
        assert_eq!(checks.wait_s(digest("wrong"), THERE, 0), 0, "another site has its own");
        let [one, next] = [1, 2].map(|last| ClientAddress::V4(Ipv4Addr::new(192, 0, 2, last)));
        (0..REFUSED.capacity)
            .for_each(|_| checks.note_refused(digest("w"), one, &TokenError::Expired, 0));
        let waits = [one, next].map(|address| checks.wait_s(digest("wrong"), address, 0));
        assert_eq!(waits, [1, 0], "addresses of IPv4 are sites of their own");
    }

    /// A token may be valid for a day, while another client behind its address sends wrong ones.
    #[test]
    fn a_token_is_known_for_as_long_as_it_is_used() {
        let mut checks = used_up();
        let later_ms = ACCEPTED_FOR_MS + 1;
        checks.note_accepted(digest("known"), 0);
        checks.note_accepted(digest("known"), ACCEPTED_FOR_MS / 2);
        checks.note_accepted(digest("another one"), later_ms); // what has ended is forgotten
        for _ in 0..REFUSED.capacity {
            checks.note_refused(digest("wrong"), HERE, &TokenError::Expired, later_ms);
        }
        assert_eq!(checks.wait_s(digest("known"), HERE, later_ms), 0);
        assert_eq!(checks.wait_s(digest("wrong"), HERE, later_ms), 1);
    }

    #[test]
    fn an_accepted_token_that_has_expired_is_like_any_wrong_one() {
        let mut checks = used_up();
        checks.note_accepted(digest("known"), 0);
        for _ in 0..REFUSED.capacity {
            checks.note_refused(digest("known"), HERE, &TokenError::Expired, 0);
        }
        assert_eq!(checks.wait_s(digest("known"), HERE, 0), 1);
        checks.note_accepted(digest("known"), 1000); // a clock that was wrong
        checks.note_refused(digest("wrong"), HERE, &TokenError::Expired, 1000);
        assert_eq!(checks.wait_s(digest("known"), HERE, 1000), 0);
    }

    #[test]
    fn a_token_that_is_too_long_is_not_read_to_its_end_and_is_no_other_one() {
        let of_len = |len| digest(&"a".repeat(len));
        assert_eq!(of_len(TOKEN_LEN_BYTES_MAX + 1), of_len(TOKEN_LEN_BYTES_MAX + 9));
        assert_ne!(of_len(TOKEN_LEN_BYTES_MAX + 1), of_len(TOKEN_LEN_BYTES_MAX));
        assert_ne!(of_len(TOKEN_LEN_BYTES_MAX - 1), of_len(TOKEN_LEN_BYTES_MAX));
    }

    #[test]
    fn what_costs_no_check_does_not_count() {
        let mut checks = TokenChecks::default();
        for _ in 0..2 * REFUSED.capacity {
            for error in [TokenError::Missing, TokenError::NoKeys, TokenError::UnknownKey] {
                checks.note_refused(digest("wrong"), HERE, &error, 0);
            }
        }
        assert_eq!(checks.wait_s(digest("wrong"), HERE, 0), 0);
    }
}
