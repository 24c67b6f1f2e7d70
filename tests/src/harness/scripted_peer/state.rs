//! The state that a scripted peer shares with its server.

use std::collections::BTreeMap;

use bytes::Bytes;
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::void::SignedVoid;
use hawser_proto::{OriginatorId, SecretKey};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::watch;

use super::habits::Habits;

/// The peer's records of its callers.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Calls, by path.
    pub calls: BTreeMap<String, u64>,
    /// Calls for strands of others that it refused.
    pub refused: u64,
    /// Calls without a node token.
    pub without_token: u64,
    /// The maximum number of bytes of envelopes that it has put into one message.
    pub frame_bytes_max: usize,
    /// Envelopes that it has put into pages.
    pub paged: u64,
    /// Pages that claimed to be longer than messages may be.
    pub long_pages: u64,
    /// Messages of streams that claimed the same.
    pub long_messages: u64,
    /// The maximum number of envelopes that it was asked for in a page that did not follow the one before.
    pub first_page_max: usize,
    /// The last place of the last page of each strand.
    pub(super) page_ends: BTreeMap<OriginatorId, u64>,
    /// The maximum number of pages that it was asked for at a time.
    pub pages_max: usize,
    /// The maximum number of bytes at a time of long messages that it never ended, of calls that were open.
    pub long_bytes_max: usize,
    /// Calls that their caller ended within such a message.
    pub long_stopped: u64,
    /// Bytes of the calls that are open.
    pub(super) long_bytes: usize,
    /// Pages that callers wait for.
    pages: usize,
}

/// A page that a caller waits for.
#[derive(Debug)]
pub(super) struct OpenPage<'a>(&'a ScriptedPeerState);

impl<'a> OpenPage<'a> {
    pub(super) fn begin(state: &'a ScriptedPeerState) -> Self {
        let mut seen = state.seen.lock();
        seen.pages += 1;
        seen.pages_max = seen.pages_max.max(seen.pages);
        Self(state)
    }
}

impl Drop for OpenPage<'_> {
    fn drop(&mut self) {
        self.0.seen.lock().pages -= 1;
    }
}

/// Strand, habits and records.
#[derive(Debug)]
pub(super) struct ScriptedPeerState {
    pub(super) id: OriginatorId,
    pub(super) key: SecretKey,
    pub(super) strand: watch::Sender<BTreeMap<u64, Bytes>>,
    /// Strands that it took over from the older network, and those of other peers.
    pub(super) older: Mutex<BTreeMap<OriginatorId, BTreeMap<u64, Bytes>>>,
    /// Its statements about void places of its own strand.
    pub(super) voids: Mutex<Vec<SignedVoid>>,
    pub(super) habits: Mutex<Habits>,
    pub(super) seen: Mutex<Seen>,
}

impl ScriptedPeerState {
    /// Looks at the strand that a call asks for; at an empty one if the peer serves none of these.
    pub(super) fn with_strand<T>(
        &self,
        originator: OriginatorId,
        look: impl FnOnce(&BTreeMap<u64, Bytes>) -> T,
    ) -> T {
        if originator == self.id {
            return look(&self.strand.borrow());
        }
        look(self.older.lock().get(&originator).unwrap_or(&BTreeMap::new()))
    }
}

/// Signs a statement, in canonical form.
pub(super) fn signed(statement: &pb::UnsignedOriginatorEnvelope, key: &SecretKey) -> Bytes {
    let bytes: Bytes = statement.encode_to_vec().into();
    let signature = key.sign(originator_digest(&bytes));
    OriginatorEnvelope::encode(bytes, Proof::Signature(signature))
}
