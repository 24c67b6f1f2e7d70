//! The places of client envelopes that this gateway has published at nodes.
//!
//! Every reader of a topic can send its envelopes to the gateway again. Such a repetition is answered with
//! the stored envelope, wherever the topic is published by now, and costs nothing.

use hawser_proto::{Bytes, EnvelopeId};
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};

/// Envelopes that are remembered. A guess: at about 60 bytes each they take 30 MB. One that is forgotten is
/// sent to the node of its topic, which answers it with what it has stored.
const ENVELOPES_MAX: usize = 500_000;

/// The place of each client envelope; those that are not asked for are forgotten first.
#[derive(Debug)]
pub(super) struct PublishedEnvelopes(Cache<[u8; 16], EnvelopeId>);

impl Default for PublishedEnvelopes {
    fn default() -> Self {
        Self(Cache::new(ENVELOPES_MAX))
    }
}

impl PublishedEnvelopes {
    /// Returns the place at which these client bytes were published.
    pub(super) fn get(&self, client: &Bytes) -> Option<EnvelopeId> {
        self.0.get(&key(client))
    }

    /// Records the place at which these client bytes were published.
    pub(super) fn set(&self, client: &Bytes, id: EnvelopeId) {
        self.0.insert(key(client), id);
    }

    /// Forgets a place at which no node shows the envelope any more.
    pub(super) fn remove(&self, client: &Bytes) {
        self.0.remove(&key(client));
    }
}

fn key(client: &Bytes) -> [u8; 16] {
    let hash = Sha256::digest(client);
    let mut key = [0; 16];
    key.copy_from_slice(&hash[..16]);
    key
}
