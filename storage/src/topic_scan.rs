//! Reading topics: all that a page plan needs, without touching the envelopes.

use hawser_proto::EnvelopeId;
use rocksdb::DBRawIterator;

use crate::error::DatabaseError;
use crate::keys::Key;
use crate::keys::topic::{self, TopicKey};
use crate::snapshot::ReadError;

/// One envelope of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRow {
    /// Which one.
    pub id: EnvelopeId,
    /// Unix nanoseconds, as its originator says.
    pub originator_ns: i64,
    /// Its length as stored.
    pub len_bytes: u32,
    /// Chain envelopes that must be known first. Nothing is allocated when there are none.
    pub depends_on: Vec<EnvelopeId>,
}

/// Reads rows of topics, by originator and then by sequence. Made for seeking often: one iterator
/// serves all topics, and a topic without rows is mostly recognised by a filter alone.
pub struct TopicScan<'s> {
    rows: DBRawIterator<'s>,
    /// The key last sought.
    key: Vec<u8>,
    /// How many of its bytes name the topic.
    prefix_len: usize,
    /// Whether the iterator stands on a row of that topic.
    on_row: bool,
}

impl<'s> TopicScan<'s> {
    pub(crate) fn new(rows: DBRawIterator<'s>) -> Self {
        Self { rows, key: Vec::new(), prefix_len: 0, on_row: false }
    }

    /// The first row of `topic` at or after `from`; `None` when the topic has none left. Each
    /// strand's rows lie together, so the next strand is sought with its id and sequence 0.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn seek(&mut self, topic: &[u8], from: EnvelopeId) -> Result<Option<TopicRow>, ReadError> {
        self.on_row = false;
        let Some(key) = TopicKey::new(topic, from) else { return Ok(None) };
        key.encode_into(&mut self.key);
        self.prefix_len = 2 + topic.len();
        self.rows.seek(&self.key);
        self.current()
    }

    /// The row after the one returned last, within the same topic; `None` at its end, and before
    /// the first [`TopicScan::seek`].
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn next_row(&mut self) -> Result<Option<TopicRow>, ReadError> {
        if !self.on_row {
            return Ok(None);
        }
        self.rows.next();
        self.current()
    }

    fn current(&mut self) -> Result<Option<TopicRow>, ReadError> {
        self.on_row = false;
        let Some((key, value)) = self.rows.item() else {
            self.rows.status().map_err(DatabaseError::from)?;
            return Ok(None);
        };
        if !key.starts_with(&self.key[..self.prefix_len]) {
            return Ok(None);
        }
        let row = TopicKey::decode(key)
            .and_then(|key| topic::decode_value(key.id(), value))
            .ok_or_else(|| ReadError::corrupt(TopicKey::FAMILY, key))?;
        self.on_row = true;
        Ok(Some(row))
    }
}
