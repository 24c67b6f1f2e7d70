//! The end of the own strand, from which the next place, its time and its fee follow.

use std::cell::RefCell;

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{ReadError, Store};
use parking_lot::Mutex;

use super::error::PublishError;
use crate::sequencer::Sequencer;

/// Returns the sequencer as the stored strand left it.
///
/// # Errors
/// When the end of the strand, or the messages of the last minutes, cannot be read. An envelope whose statement cannot
/// be read is no envelope of time 0: the strand would go back in time. The layers inside need not decode: a node of
/// other software may have signed it with this key, and any payer may have made it the last one.
pub(super) fn resume(store: &Store, node: OriginatorId) -> Result<Sequencer, ReadError> {
    let snapshot = store.snapshot();
    let last = snapshot.head(node)?;
    // The head may be the end of a gap that was declared after a restore.
    let newest = snapshot.last_held(node)?;
    let held = newest.as_ref().map_or(SequenceId::NONE, |(id, _)| id.sequence);
    let last_ns = match newest {
        None => 0,
        Some((id, bytes)) => OriginatorEnvelope::stated_ns(&bytes)
            .ok_or_else(|| ReadError::unreadable_envelope(id))?,
    };
    let last_ns = last_ns.max(stated_ns(store, node, held)?);
    // With a count that cannot be read, this node would sign fees that the strand does not explain.
    let unread = RefCell::new(None);
    let count = |minute| {
        let counted = snapshot.congestion(node, minute);
        counted.unwrap_or_else(|error| {
            unread.replace(Some(error));
            0
        })
    };
    let sequencer = Sequencer::new(node, last, last_ns, count);
    unread.into_inner().map_or(Ok(sequencer), Err)
}

/// Returns the place of the newest envelope of the strand that is stored. The strand may end later, with a gap.
///
/// # Errors
/// When it cannot be read.
pub(super) fn newest_held(store: &Store, node: OriginatorId) -> Result<SequenceId, ReadError> {
    let newest = store.snapshot().last_held(node)?;
    Ok(newest.map_or(SequenceId::NONE, |(id, _)| id.sequence))
}

/// Returns the latest time of what this node has signed about places of its own strand above `held`, unix nanoseconds:
/// its newest checkpoint, and its statements about void places; 0 if there are none. A restored folder may have them
/// from peers, without the envelopes before them, and its machine's clock may be behind. An envelope that is dated
/// before them would look like one of a strand whose times go back. Up to `held`, the newest envelope of the folder,
/// the envelopes themselves give the times: a checkpoint that was signed while the clock was wrong does not count.
///
/// # Errors
/// When a statement about void places cannot be read. A checkpoint that cannot be read counts as none.
fn stated_ns(store: &Store, node: OriginatorId, held: SequenceId) -> Result<i64, ReadError> {
    let newest = store.snapshot().readable_checkpoint(node, node).newest;
    let checkpoint = newest.map(|newest| newest.signed.checkpoint).filter(|it| it.size > held.0);
    let checkpoint_ns = checkpoint.map(|checkpoint| checkpoint.time_ns);
    let voids = store.void_statements_of(node)?.into_iter().map(|signed| signed.statement);
    let void_ns = voids.filter(|void| void.through > held).map(|void| void.time_ns);
    let all_ns = void_ns.chain(checkpoint_ns);
    Ok(all_ns.filter_map(|ns| i64::try_from(ns).ok()).max().unwrap_or(0))
}

/// Returns a sequencer for a strand whose end cannot be read: it has no place left to give out.
pub(super) fn without_places(node: OriginatorId) -> Sequencer {
    Sequencer::new(node, SequenceId::MAX, 0, |_| 0)
}

/// Names the end of the own strand in errors.
const OWN_END: &str = "the end of this node's own strand";

/// The reason for which the end of the own strand could not be read at the last look, if it could not. Nothing is given
/// out then.
#[derive(Debug, Default)]
pub(super) struct OwnEnd(Mutex<Option<ReadError>>);

impl OwnEnd {
    /// Notes the outcome of a look. Logs the first failure: the disk is looked at again every second or so.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] if it failed.
    pub(super) fn note<T>(&self, looked: Result<T, ReadError>) -> Result<T, PublishError> {
        let before = std::mem::replace(&mut *self.0.lock(), looked.as_ref().err().cloned());
        looked.map_err(|error| match before {
            None => PublishError::of_failed_read(OWN_END, &error),
            Some(_) => PublishError::unread(OWN_END),
        })
    }

    /// Checks that it could be read at the last look.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`].
    pub(super) fn check(&self) -> Result<(), PublishError> {
        self.0.lock().as_ref().map_or(Ok(()), |_| Err(PublishError::unread(OWN_END)))
    }

    /// Returns the failure of the last look.
    pub(super) fn unread(&self) -> Option<ReadError> {
        self.0.lock().clone()
    }

    /// Looks again after a look that failed: the disk may be repaired. Returns true if the end can be read since now.
    pub(super) fn look_again(&self, store: &Store, node: OriginatorId) -> bool {
        self.check().is_err() && self.note(resume(store, node)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::checkpoint::Checkpoint;
    use hawser_proto::envelope::{OriginatorEnvelope, Proof};
    use hawser_proto::merkle::TreeHash;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use hawser_proto::void::VoidStatement;
    use hawser_proto::{Bytes, EnvelopeId, SecretKey};
    use hawser_storage::{Change, InvalidRule, LogEntry};
    use prost::Message as _;

    use super::*;
    use crate::read::testing;

    #[test]
    fn a_newest_envelope_that_cannot_be_read_is_an_error_and_not_time_0() {
        let store = testing::store();
        let node = store.identity().node;
        assert!(resume(&store, node).is_ok(), "an empty strand has no newest envelope");
        let id = EnvelopeId::new(node, SequenceId(1));
        let damaged = LogEntry::invalid(id, Bytes::from_static(b"\xff"), InvalidRule(1));
        store.commit(&[Change::Append(damaged)]).unwrap();
        assert_eq!(resume(&store, node).unwrap_err(), ReadError::unreadable_envelope(id));
    }

    /// Played by a peer that shows a restored node what it has signed, and held an envelope back.
    #[test]
    fn times_go_on_behind_everything_that_the_node_has_signed_about_its_strand() {
        let store = testing::store();
        let node = store.identity().node;
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let checkpoint =
            Checkpoint { node, originator: node, size: 5, root: TreeHash([1; 32]), time_ns: 500 };
        store.put_checkpoint(&checkpoint.sign(&key).into()).unwrap();
        assert_eq!(resume(&store, node).unwrap().last_ns(), 500);
        let (from, through) = (SequenceId(6), SequenceId(9));
        let void = VoidStatement { node, from, through, time_ns: 700, incarnation: [1; 16] };
        store.record_void_statements(&[void.sign(&key)]).unwrap();
        assert_eq!(resume(&store, node).unwrap().last_ns(), 700);
    }

    /// Played by a payer whose envelope is the last one that xmtpd has signed before Hawser takes the key over.
    #[test]
    fn a_newest_envelope_that_only_other_software_decodes_gives_its_time() {
        let store = testing::store();
        let node = store.identity().node;
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: node.0,
            originator_sequence_id: 1,
            originator_ns: 100,
            payer_envelope_bytes: Bytes::from_static(&[0x08, 5]),
            ..Default::default()
        };
        let proof = Proof::Transaction([1; 32]);
        let bytes = OriginatorEnvelope::encode(statement.encode_to_vec().into(), proof);
        assert!(OriginatorEnvelope::parse(bytes.clone()).is_err(), "a client envelope is a number");
        let entry = LogEntry::invalid(EnvelopeId::new(node, SequenceId(1)), bytes, InvalidRule(1));
        store.commit(&[Change::Append(entry)]).unwrap();
        assert_eq!(resume(&store, node).unwrap().last_ns(), 100);
    }

    /// The case of a start with a wrong clock, while no other clock is known yet.
    #[test]
    fn a_checkpoint_from_a_wrong_clock_dates_no_later_envelope() {
        const CLIENT: &str = "0a13121100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa12250a230a210001000210\
            aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000000000000101000000";
        let store = testing::store();
        let node = store.identity().node;
        let payer = pb::PayerEnvelope {
            unsigned_client_envelope: hex::decode(CLIENT).unwrap().into(),
            ..Default::default()
        };
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: node.0,
            originator_sequence_id: 1,
            originator_ns: 100,
            payer_envelope_bytes: payer.encode_to_vec().into(),
            ..Default::default()
        };
        let proof = Proof::Transaction([1; 32]);
        let bytes = OriginatorEnvelope::encode(statement.encode_to_vec().into(), proof);
        let entry = LogEntry::invalid(EnvelopeId::new(node, SequenceId(1)), bytes, InvalidRule(1));
        store.commit(&[Change::Append(entry)]).unwrap();
        let checkpoint =
            Checkpoint { node, originator: node, size: 1, root: TreeHash([1; 32]), time_ns: 500 };
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        store.put_checkpoint(&checkpoint.sign(&key).into()).unwrap();
        assert_eq!(resume(&store, node).unwrap().last_ns(), 100);
    }

    #[test]
    fn an_end_that_cannot_be_read_is_told_until_it_can_be() {
        let store = testing::store();
        let node = store.identity().node;
        let end = OwnEnd::default();
        assert!(end.check().is_ok());
        let failed = ReadError::unreadable_envelope(EnvelopeId::new(node, SequenceId(1)));
        let refused = end.note::<()>(Err(failed.clone())).unwrap_err().to_string();
        assert_eq!(end.check().unwrap_err().to_string(), refused);
        assert_eq!(refused, "the end of this node's own strand cannot be read");
        assert_eq!(end.unread(), Some(failed), "the operator is told why");
        assert!(end.look_again(&store, node), "an empty strand can be read");
        assert!(end.check().is_ok() && !end.look_again(&store, node));
    }
}
