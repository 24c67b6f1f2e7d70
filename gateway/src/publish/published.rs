//! The ids of client envelopes that this gateway, or another gateway of the same payer, has published through
//! nodes.
//!
//! Every reader of a topic can send its envelopes to the gateway again. Such a repeat is answered with the stored
//! envelope, even if the topic has moved to another node, and costs nothing.

use hawser_proto::{EnvelopeId, OriginatorId};
use parking_lot::Mutex;
use quick_cache::sync::Cache;

use crate::landed::ClientKey;

/// Largest number of remembered envelopes. A guess: at about 60 bytes each they take 30 MB. A forgotten envelope is
/// sent to the node of its topic again, which answers with the stored one.
const ENVELOPES_MAX: usize = 500_000;
/// Largest number of remembered further nodes. A guess: few envelopes are published at two nodes, or fail at one that
/// may have published them.
const ALSO_MAX: usize = 10_000;

/// The id of each client envelope. The least used entries are removed first.
#[derive(Debug)]
pub(super) struct PublishedEnvelopes {
    places: Cache<ClientKey, EnvelopeId>,
    /// The envelopes that were published at these nodes before, or may have been published there.
    also: Cache<(ClientKey, OriginatorId), ()>,
    /// Held from the look-up of an id until it is recorded, so that of attempts that end at the same time only one
    /// is the first.
    claiming: Mutex<()>,
}

impl Default for PublishedEnvelopes {
    fn default() -> Self {
        Self {
            places: Cache::new(ENVELOPES_MAX),
            also: Cache::new(ALSO_MAX),
            claiming: Mutex::default(),
        }
    }
}

impl PublishedEnvelopes {
    /// Returns the id with which the client bytes of this key were published.
    pub(super) fn get(&self, client: &ClientKey) -> Option<EnvelopeId> {
        self.places.get(client)
    }

    /// Records the id with which the client bytes of this key were published. Returns false if it was recorded before:
    /// then another request has paid.
    pub(super) fn claim(&self, client: ClientKey, id: EnvelopeId) -> bool {
        let _one_at_a_time = self.claiming.lock();
        self.record(client, id)
    }

    /// Records an id from another gateway.
    pub(super) fn learn(&self, client: ClientKey, id: EnvelopeId) {
        self.record(client, id);
    }

    /// Records an id. Returns false if it was recorded before.
    fn record(&self, client: ClientKey, id: EnvelopeId) -> bool {
        let known = self.places.get(&client);
        if known == Some(id) {
            return false;
        }
        if let Some(earlier) = known {
            self.also.insert((client, earlier.originator), ());
        }
        self.places.insert(client, id);
        true
    }

    /// Records that a call has failed at a node which may have published the client bytes of this key nevertheless.
    pub(super) fn note_open(&self, client: ClientKey, node: OriginatorId) {
        self.also.insert((client, node), ());
    }

    /// Returns true if a request has published the client bytes of this key at a node, or may have done so.
    pub(super) fn may_be_at(&self, client: ClientKey, node: OriginatorId) -> bool {
        self.places.get(&client).is_some_and(|id| id.originator == node)
            || self.also.get(&(client, node)).is_some()
    }

    /// Removes the id of an envelope that no node shows any more.
    pub(super) fn remove(&self, client: &ClientKey) {
        self.places.remove(client);
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;

    use super::*;

    #[test]
    fn a_place_is_claimed_by_one_request_until_it_is_forgotten() {
        let published = PublishedEnvelopes::default();
        let (client, id) = ([7; 16], EnvelopeId::new(OriginatorId(100), SequenceId(7)));
        assert!(published.claim(client, id));
        assert!(!published.claim(client, id));
        assert!(published.claim(client, EnvelopeId::new(OriginatorId(200), SequenceId(7))));
        published.remove(&client);
        assert!(published.claim(client, id));
        published.learn(client, id);
        assert!(!published.claim(client, id), "another gateway has paid");
    }

    /// Otherwise a caller could have a node taken for one that stores what it refuses: it refuses one of two requests
    /// with the same envelope, because it is behind, and takes the other one a moment later.
    #[test]
    fn each_node_at_which_a_request_has_published_is_remembered() {
        let [first, second, other] = [100, 200, 300].map(OriginatorId);
        for order in [[first, second], [second, first]] {
            let (published, client) = (PublishedEnvelopes::default(), [7; 16]);
            for node in order {
                published.claim(client, EnvelopeId::new(node, SequenceId(7)));
            }
            let may_be_at = |node| published.may_be_at(client, node);
            assert_eq!([first, second, other].map(may_be_at), [true, true, false]);
        }
    }

    /// The node is slow: it fails a request, and stores the envelope after the gateway has looked for it. Another
    /// request with the same envelope was refused there meanwhile.
    #[test]
    fn a_node_that_may_have_published_an_envelope_is_remembered() {
        let (published, client, node) = (PublishedEnvelopes::default(), [7; 16], OriginatorId(100));
        published.note_open(client, node);
        published.claim(client, EnvelopeId::new(OriginatorId(200), SequenceId(7)));
        assert!(published.may_be_at(client, node) && !published.may_be_at([8; 16], node));
    }
}
