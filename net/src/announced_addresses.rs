//! QUIC addresses that peers have announced over gRPC. They are only claims, and a peer may name a foreign host: the
//! end that answers has to prove the peer's id.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, QuicAddress};

/// Pause between two attempts at announced addresses where the peer was not found. Specified
/// (`docs/protocol/replication.md`), so that a host whose address a hostile node announces receives few packets.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The last announced address of each peer. At most one entry for each registry node.
#[derive(Default)]
pub(crate) struct AnnouncedAddresses(HashMap<OriginatorId, AnnouncedAddress>);

/// The QUIC address that a peer announces.
#[derive(Debug, PartialEq, Eq)]
struct AnnouncedAddress {
    /// URL of the API that announced the address.
    by: String,
    address: QuicAddress,
}

impl AnnouncedAddresses {
    /// Notes an answer of the API at `by`: the address that the API announced, or the fact that it announces none any
    /// more. Returns true if the answer changes anything.
    pub(crate) fn note(
        &mut self,
        peer: OriginatorId,
        by: &str,
        address: Option<QuicAddress>,
    ) -> bool {
        let Some(address) = address else { return self.0.remove(&peer).is_some() };
        let announced = AnnouncedAddress { by: by.to_owned(), address };
        let is_new = self.0.get(&peer) != Some(&announced);
        if is_new {
            self.0.insert(peer, announced);
        }
        is_new
    }

    /// Returns the address that the API at `url` has announced for this peer.
    pub(crate) fn get(&self, peer: OriginatorId, url: &str) -> Option<&QuicAddress> {
        self.0
            .get(&peer)
            .filter(|announced| announced.by == url)
            .map(|announced| &announced.address)
    }
}

/// Bounds how often the announced addresses of one peer are tried, however many it announces.
#[derive(Default)]
pub(crate) struct AnnouncedPause {
    until: Option<Instant>,
}

impl AnnouncedPause {
    /// Returns true if an announced address may be tried now. The attempt counts as failed until [`end`](Self::end).
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        let may_begin = self.until.is_none_or(|until| until <= now);
        if may_begin {
            self.until = Some(now + AGAIN_AFTER);
        }
        may_begin
    }

    /// Notes that the peer was found at its announced address.
    pub(crate) fn end(&mut self) {
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: OriginatorId = OriginatorId(200);
    const URL: &str = "https://a.example";

    #[test]
    fn an_address_that_is_not_told_any_more_is_forgotten() {
        let mut announced = AnnouncedAddresses::default();
        let first = QuicAddress::parse("a.example:1");
        assert!(announced.note(PEER, URL, first.clone()));
        assert!(!announced.note(PEER, URL, first.clone()));
        assert_eq!(announced.get(PEER, URL), first.as_ref());
        assert_eq!(announced.get(PEER, "https://b.example"), None, "another URL counts now");
        assert!(announced.note(PEER, URL, QuicAddress::parse("a.example:2")));
        assert!(announced.note(PEER, URL, None));
        assert_eq!(announced.get(PEER, URL), None);
        assert!(!announced.note(PEER, URL, None));
    }

    #[test]
    fn failing_addresses_are_tried_seldom() {
        let mut pause = AnnouncedPause::default();
        let now = Instant::now();
        assert!(pause.begin(now));
        assert!(!pause.begin(now));
        assert!(!pause.begin(now + AGAIN_AFTER / 2));
        assert!(pause.begin(now + AGAIN_AFTER));
        assert!(!pause.begin(now + AGAIN_AFTER), "a failed one begins the next pause");
        pause.end();
        assert!(pause.begin(now + AGAIN_AFTER), "a peer that was found is dialled at once");
    }
}
