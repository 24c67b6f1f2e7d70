//! Scans the topic index, with or without the envelopes in its rows.

use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use rocksdb::DBRawIterator;

use crate::error::DatabaseError;
use crate::error::ReadError;
use crate::keys::Key;
use crate::keys::topic::{TopicKey, TopicRow, TopicValue};
use crate::recent::Recent;
use crate::shared_copies::SharedCopies;

/// A scan over rows of topics, each topic by originator and then by sequence.
///
/// One iterator serves all topics. For a topic without rows a bloom filter usually answers the seek.
pub struct TopicScan<'s> {
    /// The rows, or an error while they have to be rebuilt.
    rows: Result<DBRawIterator<'s>, ReadError>,
    /// The key of the last seek.
    key: Vec<u8>,
    /// Length of the key's topic prefix.
    prefix_len: usize,
    /// True while the iterator is at a row of that topic.
    on_row: bool,
    /// Bytes of envelopes that further rows may include.
    room_bytes: usize,
    /// Memory for these envelopes; `None` if each has its own.
    copies: Option<SharedCopies>,
    seeks: usize,
    rows_read: usize,
    recent: &'s Recent,
}

impl<'s> TopicScan<'s> {
    pub(crate) fn new(
        rows: Result<DBRawIterator<'s>, ReadError>,
        room_bytes: usize,
        recent: &'s Recent,
    ) -> Self {
        Self {
            rows,
            key: Vec::new(),
            prefix_len: 0,
            on_row: false,
            room_bytes,
            copies: None,
            seeks: 0,
            rows_read: 0,
            recent,
        }
    }

    /// Makes the envelopes of rows share memory, in pieces of at most 64 KiB. An envelope that is kept keeps its whole
    /// piece, so this is for readers who keep nearly all of them.
    #[must_use]
    pub fn sharing_memory(self) -> Self {
        Self { copies: Some(SharedCopies::new()), ..self }
    }

    /// Returns false if `topic` certainly has no row after `after` and up to `ends`. Does not read the disk, and
    /// counts as one row.
    ///
    /// May miss a row that is being written at that moment below the head of its strand.
    pub fn probe_newer(
        &mut self,
        topic: &[u8],
        after: &dyn Fn(OriginatorId) -> SequenceId,
        ends: &[EnvelopeId],
    ) -> bool {
        self.rows_read += 1;
        self.recent.has_news(topic, after, ends)
    }

    /// Returns the number of seeks of the scan.
    #[must_use]
    pub fn seeks(&self) -> usize {
        self.seeks
    }

    /// Returns the number of rows that the scan has read, including those of seeks.
    #[must_use]
    pub fn rows_read(&self) -> usize {
        self.rows_read
    }

    /// Returns the bytes of envelopes that further rows may include.
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        self.room_bytes
    }

    /// Seeks to the first row of `topic` at or after `from`; `None` past the topic's last row. The
    /// rows of a strand are adjacent, so the next strand is found with its id and sequence 0.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn seek(&mut self, topic: &[u8], from: EnvelopeId) -> Result<Option<TopicRow>, ReadError> {
        self.on_row = false;
        let Some(key) = TopicKey::new(topic, from) else { return Ok(None) };
        key.encode_into(&mut self.key);
        self.prefix_len = 2 + topic.len();
        self.seeks += 1;
        self.step(|rows, key| rows.seek(key))
    }

    /// Returns the next row of the same topic; `None` past its last row, and before the first
    /// [`TopicScan::seek`].
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn next_row(&mut self) -> Result<Option<TopicRow>, ReadError> {
        if !self.on_row {
            return Ok(None);
        }
        self.step(|rows, _| rows.next())
    }

    /// Seeks to the last row of `topic` at or before `through`; `None` before the topic's first row. The
    /// row may belong to a lower strand.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn seek_back(
        &mut self,
        topic: &[u8],
        through: EnvelopeId,
    ) -> Result<Option<TopicRow>, ReadError> {
        self.on_row = false;
        let Some(key) = TopicKey::new(topic, through) else { return Ok(None) };
        key.encode_into(&mut self.key);
        self.prefix_len = 2 + topic.len();
        self.seeks += 1;
        self.step(|rows, key| rows.seek_for_prev(key))
    }

    /// Returns the row of the same topic before the one returned last; `None` before its first row, and
    /// when the last call returned none.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn previous_row(&mut self) -> Result<Option<TopicRow>, ReadError> {
        if !self.on_row {
            return Ok(None);
        }
        self.step(|rows, _| rows.prev())
    }

    /// Moves to another row, and returns it if it is one of the topic.
    fn step(
        &mut self,
        to: impl FnOnce(&mut DBRawIterator<'s>, &[u8]),
    ) -> Result<Option<TopicRow>, ReadError> {
        self.on_row = false;
        let rows = self.rows.as_mut().map_err(|error| error.clone())?;
        to(rows, &self.key);
        self.rows_read += 1;
        let Some((key, value)) = rows.item() else {
            rows.status().map_err(DatabaseError::from)?;
            return Ok(None);
        };
        if !key.starts_with(&self.key[..self.prefix_len]) {
            return Ok(None);
        }
        let (id, value) = TopicKey::decode(key)
            .and_then(|key| Some((key.id(), TopicValue::decode(value)?)))
            .ok_or_else(|| ReadError::corrupt(TopicKey::FAMILY, key))?;
        let mut row = value.row(id);
        if let Some(envelope) = value.envelope.filter(|bytes| bytes.len() <= self.room_bytes) {
            self.room_bytes -= envelope.len();
            row.envelope = Some(match &mut self.copies {
                Some(copies) => copies.copy(envelope),
                None => Bytes::copy_from_slice(envelope),
            });
        }
        self.on_row = true;
        Ok(Some(row))
    }
}
