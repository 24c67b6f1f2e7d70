//! Failures of the database below, as this crate's callers see them.

/// RocksDB failed; the text is RocksDB's own. Nothing outside this crate decides by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DatabaseError(String);

impl DatabaseError {
    /// The failure that tests inject.
    pub(crate) fn injected() -> Self {
        Self("IO error: injected failure".to_owned())
    }
}

impl From<rocksdb::Error> for DatabaseError {
    fn from(error: rocksdb::Error) -> Self {
        Self(error.into_string())
    }
}
