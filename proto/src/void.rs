//! Statements of nodes that places of their own strands are left out: `docs/protocol/replication.md`, *Void places*.
//!
//! A node that continues its strand behind a gap signs one for the gap. The bytes have one form, so a statement has one
//! encoding only.

use bytes::{Buf as _, BufMut as _};

use crate::ids::{OriginatorId, SequenceId};
use crate::sign::{Digest, PublicKey, SecretKey, Signature, SignatureError, keccak256};

/// Length of a signed statement in bytes.
pub const SIGNED_VOID_LEN: usize = 4 + 8 + 8 + 8 + 16 + 65;

/// Statements of one node that are kept and shown. Specified in `docs/protocol/replication.md`. A guess: a node makes
/// one for each restore that leaves a gap.
pub const VOIDS_OF_NODE_MAX: usize = 64;

/// The most by which two clocks of one node differ, before and after a restore, in nanoseconds. Specified in
/// `docs/protocol/replication.md`: the time by which an envelope may be ahead.
const CLOCKS_DIFFER_NS: u64 = 300_000_000_000;

/// The statement of a node that it holds no envelope for some places of its own strand, and signs none for them from
/// now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VoidStatement {
    /// The node, which is also the originator of the strand.
    pub node: OriginatorId,
    /// The first place, included; at least 1.
    pub from: SequenceId,
    /// The last place, included.
    pub through: SequenceId,
    /// Time of the statement, unix nanoseconds.
    pub time_ns: u64,
    /// The incarnation of the data folder from which the node continues.
    pub incarnation: [u8; 16],
}

impl VoidStatement {
    /// Returns the digest that the node signs.
    #[must_use]
    pub fn digest(&self) -> Digest {
        keccak256(&[
            b"void|",
            &self.node.0.to_be_bytes(),
            &self.from.0.to_be_bytes(),
            &self.through.0.to_be_bytes(),
            &self.time_ns.to_be_bytes(),
            &self.incarnation,
        ])
    }

    /// Signs the statement. The caller makes sure that the node assigns none of the places later.
    #[must_use]
    pub fn sign(self, key: &SecretKey) -> SignedVoid {
        SignedVoid { statement: self, signature: key.sign(self.digest()) }
    }

    /// Returns true if the statement is about this place of its node's strand.
    #[must_use]
    pub fn covers(&self, place: SequenceId) -> bool {
        (self.from..=self.through).contains(&place)
    }

    /// Returns true if an envelope of this time, for a covered place, was signed after the statement, so that the node
    /// has broken its word: it is later than clocks differ. Any other envelope may be one that the node had lost.
    #[must_use]
    pub fn is_broken_by(&self, originator_ns: i64) -> bool {
        u64::try_from(originator_ns)
            .is_ok_and(|ns| ns > self.time_ns.saturating_add(CLOCKS_DIFFER_NS))
    }
}

/// The places of a strand that a node lacks of those that another one claims, without places that are declared void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LackedPlaces {
    /// The place before the first one that the node lacks; the claimed place if it lacks none.
    pub held: SequenceId,
    /// The number of places that the node lacks.
    pub count: u64,
}

impl LackedPlaces {
    /// Compares the place up to which a node holds a strand with a claimed one. `declared` are verified statements of
    /// the strand's node.
    ///
    /// A statement whose range ends behind the claimed place does not count. A node that leaves places out claims the
    /// last of them. If its claim ends within the range, it has signed an envelope there, and must not hide how far
    /// others are behind.
    #[must_use]
    pub fn new(
        held: SequenceId,
        claimed: SequenceId,
        declared: impl IntoIterator<Item = VoidStatement>,
    ) -> Self {
        let ranges = declared.into_iter().filter(|it| it.through <= claimed);
        let mut ranges: Vec<_> = ranges.map(|it| (it.from.previous(), it.through)).collect();
        ranges.sort_unstable();
        let mut of = Self { held, count: claimed.0.saturating_sub(held.0) };
        let mut looked_at = held;
        for (before, through) in ranges {
            if through > looked_at {
                let void = through.0.saturating_sub(before.max(looked_at).0);
                of.count = of.count.saturating_sub(void);
                looked_at = through;
            }
            if before <= of.held {
                of.held = of.held.max(through);
            }
        }
        of
    }
}

/// A statement with its signature, which need not be verified: see [`verify`](Self::verify).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedVoid {
    /// The statement.
    pub statement: VoidStatement,
    /// The node's signature over [`VoidStatement::digest`].
    pub signature: Signature,
}

/// The reason why bytes are no statement of the node that they name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VoidStatementError {
    /// The bytes have another length.
    #[error("a statement about void places has 109 bytes, not {0}")]
    Length(usize),
    /// The places are no range of a strand.
    #[error("no strand has places from {0} to {1}")]
    Places(u64, u64),
    /// The signature is malformed, or not in the one form that is accepted.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Another key than the node's has signed.
    #[error("the statement about void places is not signed with the key of node {0}")]
    OtherKey(OriginatorId),
}

impl SignedVoid {
    /// Encodes the statement.
    #[must_use]
    pub fn encode(&self) -> [u8; SIGNED_VOID_LEN] {
        let VoidStatement { node, from, through, time_ns, incarnation } = self.statement;
        let mut bytes = [0; SIGNED_VOID_LEN];
        let mut rest = &mut bytes[..];
        rest.put_u32(node.0);
        rest.put_u64(from.0);
        rest.put_u64(through.0);
        rest.put_u64(time_ns);
        rest.put_slice(&incarnation);
        rest.put_slice(self.signature.as_bytes());
        bytes
    }

    /// Decodes a statement, to the last byte. Does not verify the signature.
    ///
    /// # Errors
    /// Returns an error if the bytes are not the canonical encoding of a statement.
    pub fn decode(bytes: &[u8]) -> Result<Self, VoidStatementError> {
        if bytes.len() != SIGNED_VOID_LEN {
            return Err(VoidStatementError::Length(bytes.len()));
        }
        let mut rest = bytes;
        let node = OriginatorId(rest.get_u32());
        let (from, through) = (SequenceId(rest.get_u64()), SequenceId(rest.get_u64()));
        let time_ns = rest.get_u64();
        if from == SequenceId::NONE || through < from || through > SequenceId::MAX {
            return Err(VoidStatementError::Places(from.0, through.0));
        }
        let mut incarnation = [0; 16];
        rest.copy_to_slice(&mut incarnation);
        let signature = Signature::from_bytes(rest)?;
        signature.require_canonical()?;
        let statement = VoidStatement { node, from, through, time_ns, incarnation };
        Ok(Self { statement, signature })
    }

    /// Checks the signature with the key that the registry holds for the node.
    ///
    /// # Errors
    /// Returns an error if the key did not sign the statement, or the signature is not canonical.
    pub fn verify(&self, key: &PublicKey) -> Result<(), VoidStatementError> {
        self.signature.require_canonical()?;
        match self.signature.recover(self.statement.digest())? == *key {
            true => Ok(()),
            false => Err(VoidStatementError::OtherKey(self.statement.node)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[7; 32]).expect("a key")
    }

    fn statement() -> VoidStatement {
        VoidStatement {
            node: OriginatorId(100),
            from: SequenceId(11),
            through: SequenceId(1_000_010),
            time_ns: 1_767_000_000_000_000_000,
            incarnation: [9; 16],
        }
    }

    #[test]
    fn every_field_is_signed() {
        let signed = statement().sign(&key());
        assert_eq!(signed.verify(&key().public_key()), Ok(()));
        let other = SecretKey::from_bytes(&[8; 32]).expect("a key").public_key();
        assert_eq!(signed.verify(&other), Err(VoidStatementError::OtherKey(OriginatorId(100))));
        let bytes = signed.encode();
        for at in 0..SIGNED_VOID_LEN - 65 {
            let mut changed = bytes;
            changed[at] ^= 1;
            let is_verified =
                SignedVoid::decode(&changed).is_ok_and(|it| it.verify(&key().public_key()).is_ok());
            assert!(!is_verified, "byte {at}");
        }
    }

    #[test]
    fn ranges_that_no_strand_has_and_other_lengths_are_refused() {
        let encoded = |from, through| {
            let (from, through) = (SequenceId(from), SequenceId(through));
            VoidStatement { from, through, ..statement() }.sign(&key()).encode()
        };
        assert!(SignedVoid::decode(&encoded(1, SequenceId::MAX.0)).is_ok());
        for (from, through) in [(0, 5), (6, 5), (1, SequenceId::MAX.0 + 1)] {
            let refused = SignedVoid::decode(&encoded(from, through));
            assert_eq!(refused, Err(VoidStatementError::Places(from, through)));
        }
        let bytes = encoded(1, 1);
        let longer = [&bytes[..], &[0]].concat();
        for refused in [&bytes[..108], &longer, &[]] {
            let error = VoidStatementError::Length(refused.len());
            assert_eq!(SignedVoid::decode(refused), Err(error));
        }
        let mut other_form = bytes;
        other_form[SIGNED_VOID_LEN - 1] += 27;
        assert!(matches!(SignedVoid::decode(&other_form), Err(VoidStatementError::Signature(_))));
    }

    #[test]
    fn only_an_envelope_of_a_later_time_breaks_the_word() {
        let of = statement();
        let ns = i64::try_from(of.time_ns).expect("a time of this century");
        let minutes_ns = i64::try_from(CLOCKS_DIFFER_NS).expect("it is five minutes");
        assert!(of.is_broken_by(ns + minutes_ns + 1) && of.is_broken_by(i64::MAX));
        assert!(!of.is_broken_by(ns + minutes_ns) && !of.is_broken_by(ns) && !of.is_broken_by(-1));
        let last = VoidStatement { time_ns: u64::MAX, ..of };
        assert!(!last.is_broken_by(i64::MAX), "no sum overflows");
        assert!(of.covers(SequenceId(11)) && of.covers(SequenceId(1_000_010)));
        assert!(!of.covers(SequenceId(10)) && !of.covers(SequenceId(1_000_011)));
    }

    #[test]
    fn places_that_are_declared_void_are_not_lacked() {
        let lacked = |held, claimed, declared: &[(u64, u64)]| {
            let of = declared.iter().map(|&(from, through)| VoidStatement {
                from: SequenceId(from),
                through: SequenceId(through),
                ..statement()
            });
            let lacked = LackedPlaces::new(SequenceId(held), SequenceId(claimed), of);
            (lacked.held.0, lacked.count)
        };
        assert_eq!(lacked(2, 9, &[]), (2, 7));
        assert_eq!(lacked(2, 100, &[(3, 100)]), (100, 0), "the whole gap");
        assert_eq!(lacked(2, 103, &[(3, 100)]), (100, 3), "and what follows");
        assert_eq!(lacked(1, 100, &[(3, 100)]), (1, 1), "one before it");
        assert_eq!(lacked(50, 101, &[(3, 100)]), (100, 1), "a place of the gap was found");
        assert_eq!(lacked(100, 100, &[(3, 100)]), (100, 0));
        assert_eq!(lacked(9, 7, &[(3, 7)]), (9, 0), "it holds more");
        // A second gap about the same places, one inside, and one further on, in any order.
        let many = [(201, 300), (3, 150), (3, 100), (20, 30)];
        assert_eq!(lacked(2, 301, &many), (150, 51));
        assert_eq!(lacked(2, 300, &[(3, 150), (151, 300)]), (300, 0), "one behind the other");
        // A node that goes on to publish in places that it has declared hides no lag.
        assert_eq!(lacked(2, 99, &[(3, 100), (3, SequenceId::MAX.0)]), (2, 97));
        let all = (1, SequenceId::MAX.0);
        assert_eq!(lacked(0, SequenceId::MAX.0, &[all]), (SequenceId::MAX.0, 0));
        assert_eq!(lacked(0, 9, &[(8, 4), (0, 2)]), (2, 7), "ranges that no statement has");
    }

    proptest! {
        #[test]
        fn bytes_read_back(
            node in any::<u32>(),
            places in (1..=SequenceId::MAX.0, 1..=SequenceId::MAX.0),
            time_ns in any::<u64>(),
            incarnation in any::<[u8; 16]>(),
        ) {
            let (from, through) = (places.0.min(places.1), places.0.max(places.1));
            let (from, through) = (SequenceId(from), SequenceId(through));
            let node = OriginatorId(node);
            let of = VoidStatement { node, from, through, time_ns, incarnation };
            let signed = of.sign(&key());
            prop_assert_eq!(SignedVoid::decode(&signed.encode()), Ok(signed));
        }

        /// Random bytes alone hardly ever have the length of a statement and a signature in its one form.
        #[test]
        fn any_changed_bytes_are_refused_or_the_one_form(
            changes in proptest::collection::vec((0..SIGNED_VOID_LEN, any::<u8>()), 0..4),
        ) {
            let mut bytes = statement().sign(&key()).encode();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if let Ok(read) = SignedVoid::decode(&bytes) {
                prop_assert_eq!(&read.encode()[..], &bytes[..]);
            }
        }
    }
}
