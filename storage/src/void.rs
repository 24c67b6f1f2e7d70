//! Statements of nodes about void places of their own strands. They stay when the log is rebuilt, and a backup has
//! them.

use hawser_proto::void::{SIGNED_VOID_LEN, SignedVoid};
use rocksdb::WriteBatch;

use crate::error::{CommitError, ReadError};
use crate::meta;
use crate::store::Store;

/// Decodes the row of all of them.
fn decode_all(row: &[u8]) -> Option<Vec<SignedVoid>> {
    let (rows, rest) = row.as_chunks::<SIGNED_VOID_LEN>();
    let read = rows.iter().map(|row| SignedVoid::decode(row).ok());
    if rest.is_empty() { read.collect() } else { None }
}

impl Store {
    /// Returns the statements that were recorded last, in their order.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn void_statements(&self) -> Result<Vec<SignedVoid>, ReadError> {
        Ok(meta::void_statements(&self.database().db, decode_all)?.unwrap_or_default())
    }

    /// Records all statements that are known now, durably, in place of those before. The caller has verified them,
    /// bounds their number, and makes one call at a time.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn record_void_statements(&self, all: &[SignedVoid]) -> Result<(), CommitError> {
        let database = self.database();
        database.check_writable()?;
        let row: Vec<u8> = all.iter().flat_map(SignedVoid::encode).collect();
        let mut batch = WriteBatch::default();
        meta::put_void_statements(&database.db, &mut batch, &row);
        database.write_durable(batch)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::void::VoidStatement;
    use hawser_proto::{OriginatorId, SecretKey, SequenceId};

    use super::*;
    use crate::settings::StoreIdentity;

    #[test]
    fn what_is_recorded_last_is_read_back_and_damage_is_not_guessed() {
        let key = SecretKey::from_bytes(&[1; 32]).unwrap();
        let public_key = key.public_key();
        let identity =
            StoreIdentity { network: "test".into(), node: OriginatorId(100), public_key };
        let store = Store::in_memory(identity, |_, _| 0).unwrap();
        assert_eq!(store.void_statements().unwrap(), []);
        let signed = |through| {
            let (from, through) = (SequenceId(5), SequenceId(through));
            let (time_ns, incarnation) = (7, [8; 16]);
            VoidStatement { node: OriginatorId(200), from, through, time_ns, incarnation }
                .sign(&key)
        };
        store.record_void_statements(&[signed(9), signed(6)]).unwrap();
        assert_eq!(store.void_statements().unwrap(), [signed(9), signed(6)]);
        store.record_void_statements(&[signed(9), signed(6), signed(7)]).unwrap();
        assert_eq!(store.void_statements().unwrap(), [signed(9), signed(6), signed(7)]);

        let row = [signed(9).encode(), signed(6).encode()].concat();
        assert_eq!(decode_all(&row).unwrap(), [signed(9), signed(6)]);
        assert_eq!(decode_all(&row[..row.len() - 1]), None);
        assert_eq!(decode_all(&[0; SIGNED_VOID_LEN]), None);
    }
}
