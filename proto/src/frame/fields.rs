//! A reader over the fields of one frame's body, in order and to the last byte.

use bytes::{Buf, Bytes};

use super::FrameError;
use crate::ids::{OriginatorId, SequenceId};

/// A reader over a body. Every error names the frame's type.
pub(super) struct Fields {
    kind: u8,
    body: Bytes,
}

impl Fields {
    pub(super) fn new(kind: u8, body: Bytes) -> Self {
        Self { kind, body }
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        self.body.try_get_u8().map_err(|_| self.truncated())
    }

    pub(super) fn u16(&mut self) -> Result<u16, FrameError> {
        self.body.try_get_u16().map_err(|_| self.truncated())
    }

    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        self.body.try_get_u32().map_err(|_| self.truncated())
    }

    pub(super) fn u64(&mut self) -> Result<u64, FrameError> {
        self.body.try_get_u64().map_err(|_| self.truncated())
    }

    pub(super) fn originator(&mut self) -> Result<OriginatorId, FrameError> {
        self.u32().map(OriginatorId)
    }

    /// Reads a sequence id. Refuses ids above [`SequenceId::MAX`], which no node can store.
    pub(super) fn sequence(&mut self, field: &'static str) -> Result<SequenceId, FrameError> {
        let sequence = SequenceId(self.u64()?);
        if sequence > SequenceId::MAX {
            return Err(self.bad(field));
        }
        Ok(sequence)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let mut array = [0; N];
        self.body.try_copy_to_slice(&mut array).map_err(|_| self.truncated())?;
        Ok(array)
    }

    /// Returns the unread bytes.
    pub(super) fn rest(&self) -> &Bytes {
        &self.body
    }

    pub(super) fn into_rest(self) -> Bytes {
        self.body
    }

    /// Requires exactly `len` unread bytes, before a list is collected.
    pub(super) fn expect_rest(&self, len: usize) -> Result<(), FrameError> {
        match self.body.len() {
            rest if rest < len => Err(self.truncated()),
            rest if rest > len => Err(FrameError::Trailing { kind: self.kind, extra: rest - len }),
            _ => Ok(()),
        }
    }

    pub(super) fn finish(&self) -> Result<(), FrameError> {
        self.expect_rest(0)
    }

    pub(super) fn bad(&self, field: &'static str) -> FrameError {
        FrameError::Value { kind: self.kind, field }
    }

    pub(super) fn truncated(&self) -> FrameError {
        FrameError::Truncated { kind: self.kind }
    }
}
