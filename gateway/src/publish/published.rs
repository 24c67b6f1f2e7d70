//! The ids of client envelopes that this gateway, or another gateway of the same payer, has published through
//! nodes.
//!
//! Every reader of a topic can send its envelopes to the gateway again. Such a repeat is answered with the stored
//! envelope, even if the topic has moved to another node, and costs nothing.

use hawser_proto::EnvelopeId;
use parking_lot::Mutex;
use quick_cache::sync::Cache;

use crate::landed::ClientKey;

/// Largest number of remembered envelopes. A guess: at about 60 bytes each they take 30 MB. A forgotten envelope is
/// sent to the node of its topic again, which answers with the stored one.
const ENVELOPES_MAX: usize = 500_000;

/// The id of each client envelope. The least used entries are removed first.
#[derive(Debug)]
pub(super) struct PublishedEnvelopes {
    places: Cache<ClientKey, EnvelopeId>,
    /// Held from the look-up of an id until it is recorded, so that of attempts that end at the same time only one
    /// is the first.
    claiming: Mutex<()>,
}

impl Default for PublishedEnvelopes {
    fn default() -> Self {
        Self { places: Cache::new(ENVELOPES_MAX), claiming: Mutex::default() }
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
        let is_new = self.places.get(&client) != Some(id);
        if is_new {
            self.places.insert(client, id);
        }
        is_new
    }

    /// Records an id from another gateway.
    pub(super) fn learn(&self, client: ClientKey, id: EnvelopeId) {
        self.places.insert(client, id);
    }

    /// Removes the id of an envelope that no node shows any more.
    pub(super) fn remove(&self, client: &ClientKey) {
        self.places.remove(client);
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId};

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
}
