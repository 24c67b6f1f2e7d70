//! The places of client envelopes that this gateway has published at nodes, or another one of the same payer.
//!
//! Every reader of a topic can send its envelopes to the gateway again. Such a repetition is answered with
//! the stored envelope, wherever the topic is published by now, and costs nothing.

use hawser_proto::{Bytes, EnvelopeId};
use quick_cache::sync::Cache;

use crate::landed::{ClientKey, client_key};

/// Envelopes that are remembered. A guess: at about 60 bytes each they take 30 MB. One that is forgotten is
/// sent to the node of its topic, which answers it with what it has stored.
const ENVELOPES_MAX: usize = 500_000;

/// The place of each client envelope; those that are not asked for are forgotten first.
#[derive(Debug)]
pub(super) struct PublishedEnvelopes(Cache<ClientKey, EnvelopeId>);

impl Default for PublishedEnvelopes {
    fn default() -> Self {
        Self(Cache::new(ENVELOPES_MAX))
    }
}

impl PublishedEnvelopes {
    /// Returns the place at which these client bytes were published.
    pub(super) fn get(&self, client: &Bytes) -> Option<EnvelopeId> {
        self.0.get(&client_key(client))
    }

    /// Records the place at which these client bytes were published.
    pub(super) fn set(&self, client: &Bytes, id: EnvelopeId) {
        self.0.insert(client_key(client), id);
    }

    /// Takes the place of an envelope from another gateway.
    pub(super) fn learn(&self, client: ClientKey, id: EnvelopeId) {
        self.0.insert(client, id);
    }

    /// Forgets a place at which no node shows the envelope any more.
    pub(super) fn remove(&self, client: &Bytes) {
        self.0.remove(&client_key(client));
    }
}
