//! Statements of nodes about void places of their own strands. They stay when the log is rebuilt, and a backup has
//! them.

use hawser_proto::OriginatorId;
use hawser_proto::void::{SIGNED_VOID_LEN, SignedVoid};

use crate::error::{CommitError, ReadError};
use crate::keys::meta::MetaKey;
use crate::store::Store;

/// Decodes the row of all of them.
fn decode_all(row: &[u8]) -> Option<Vec<SignedVoid>> {
    decode_some(row, |_| true)
}

/// Decodes those whose bytes are wanted.
fn decode_some(
    row: &[u8],
    is_wanted: impl Fn(&[u8; SIGNED_VOID_LEN]) -> bool,
) -> Option<Vec<SignedVoid>> {
    let (rows, rest) = row.as_chunks::<SIGNED_VOID_LEN>();
    let wanted = rows.iter().filter(|row| is_wanted(row));
    let read = wanted.map(|row| SignedVoid::decode(row).ok());
    if rest.is_empty() { read.collect() } else { None }
}

impl Store {
    /// Returns the statements that were recorded last, in their order.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn void_statements(&self) -> Result<Vec<SignedVoid>, ReadError> {
        self.database().read_list(MetaKey::VoidStatements, decode_all)
    }

    /// Returns the statements of one node, in their order. The others are not decoded: a caller pays for one strand.
    ///
    /// # Errors
    /// When the row, or a statement of the node in it, cannot be read.
    pub fn void_statements_of(&self, node: OriginatorId) -> Result<Vec<SignedVoid>, ReadError> {
        // A statement begins with its node.
        let is_its = |bytes: &[u8; SIGNED_VOID_LEN]| bytes.starts_with(&node.0.to_be_bytes());
        self.database().read_list(MetaKey::VoidStatements, |row| decode_some(row, is_its))
    }

    /// Records all statements that are known now, durably, in place of those before. The caller has verified them,
    /// bounds their number, and makes one call at a time.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn record_void_statements(&self, all: &[SignedVoid]) -> Result<(), CommitError> {
        let row: Vec<u8> = all.iter().flat_map(SignedVoid::encode).collect();
        self.database().record_list_durably(MetaKey::VoidStatements, &row)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::void::VoidStatement;
    use hawser_proto::{SecretKey, SequenceId};

    use super::*;
    use crate::testing::store;

    #[test]
    fn what_is_recorded_last_is_read_back_and_damage_is_not_guessed() {
        let key = SecretKey::from_bytes(&[1; 32]).unwrap();
        let store = store();
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

        let mut of_other = signed(6);
        of_other.statement.node = OriginatorId(201);
        store.record_void_statements(&[signed(9), of_other, signed(7)]).unwrap();
        let of = |node| store.void_statements_of(OriginatorId(node)).unwrap();
        assert_eq!([of(200), of(201)], [vec![signed(9), signed(7)], vec![of_other]]);
        assert!(of(0).is_empty() && of(200 << 8).is_empty());

        let row = [signed(9).encode(), signed(6).encode()].concat();
        assert_eq!(decode_all(&row).unwrap(), [signed(9), signed(6)]);
        assert_eq!(decode_all(&row[..row.len() - 1]), None);
        assert_eq!(decode_all(&[0; SIGNED_VOID_LEN]), None);
    }
}
