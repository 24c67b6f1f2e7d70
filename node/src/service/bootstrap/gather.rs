//! Gathers checked envelopes of a strand, so that many of them are written together, as table files.
//!
//! A kill may leave rows of such files above the head of a strand. The next run removes them before it writes.

use hawser_engine::replication::EnvelopeVerifier;
use hawser_storage::{Change, HashedEnvelope};

use super::error::BootstrapFetchError;
use super::strand::{CheckFn, Write, beside_checks, beside_commits};

/// The memory of envelopes that are written together, in bytes. Up to three times as much is held: some envelopes are
/// gathered while files of others are written, and further files are loaded. A guess: a file of topics is then as long
/// as one of a memory table, and no more files have to be merged.
const LOAD_BYTES: usize = 64 << 20;
/// The number of gathered writes that wait for the next step. Chosen: none, because each takes as much memory as the
/// three steps need by themselves, and each step takes about as long for one as for the next.
const LOADS_WAITING: usize = 0;
/// The memory of an envelope beside its bytes. A guess.
const BESIDE_BYTES: usize = 512;

/// Checked envelopes that are written together.
#[derive(Default)]
struct GatheredWrites {
    changes: Vec<Change>,
    /// The envelopes of the changes with their leaves, if they are hashed.
    hashed: Vec<HashedEnvelope>,
    /// Their memory.
    bytes: usize,
}

impl GatheredWrites {
    /// Adds a write. Returns all of them if they are enough.
    fn add(&mut self, mut changes: Vec<Change>, mut hashed: Vec<HashedEnvelope>) -> Option<Self> {
        let bytes_of = |change: &Change| match change {
            Change::Append(entry) => BESIDE_BYTES + entry.bytes.len(),
            Change::Skip { .. } => BESIDE_BYTES,
        };
        self.bytes += changes.iter().map(bytes_of).sum::<usize>();
        self.changes.append(&mut changes);
        self.hashed.append(&mut hashed);
        (self.bytes >= LOAD_BYTES).then(|| std::mem::take(self))
    }
}

/// Calls `work` like [`beside_checks`], `file` with many writes together, and `load` with each result of that, in
/// order. The next writes are filed while others are loaded, so no core waits for the disk. Ends when all of them are
/// loaded.
///
/// # Errors
/// Those of `load`, or else those of `file`, or else those of [`beside_checks`]. Everything before one of the last kind
/// is loaded.
pub(super) fn beside_loads<F: Send, T>(
    verifier: &EnvelopeVerifier,
    check_part: CheckFn,
    file: impl Fn(Vec<Change>, Vec<HashedEnvelope>) -> Result<F, BootstrapFetchError> + Sync,
    load: impl FnMut(F) -> Result<(), BootstrapFetchError> + Send,
    work: impl FnOnce(Write<'_>) -> Result<T, BootstrapFetchError>,
) -> Result<(T, u64), BootstrapFetchError> {
    beside_commits(LOADS_WAITING, load, |to_load| {
        let file = |GatheredWrites { changes, hashed, .. }| to_load(file(changes, hashed)?);
        beside_commits(LOADS_WAITING, file, |hand_over| {
            let mut gathered = GatheredWrites::default();
            let done = beside_checks(
                verifier,
                check_part,
                |changes, hashed| gathered.add(changes, hashed).map_or(Ok(()), hand_over),
                work,
            );
            // Also what came before an error, so that the next run goes on behind it.
            let rest = hand_over(gathered);
            let done = done?;
            rest.map(|()| done)
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
    use hawser_rules::Absences;
    use hawser_storage::{LogEntry, Validity};

    use super::super::strand::CheckedPart;
    use super::*;
    use crate::service::testing::key;

    const NODE: OriginatorId = OriginatorId(300);
    /// The time after which a test fails that would wait for ever.
    const LONG: Duration = Duration::from_secs(60);

    fn entry(place: SequenceId, bytes: &Bytes) -> LogEntry {
        LogEntry {
            id: EnvelopeId::new(NODE, place),
            bytes: bytes.clone(),
            validity: Validity::Valid,
            facts: None,
        }
    }

    /// Accepts all envelopes but empty ones.
    fn check_part(
        _: &EnvelopeVerifier,
        part: &[(SequenceId, Bytes)],
    ) -> Result<CheckedPart, SequenceId> {
        match part.iter().find(|(_, bytes)| bytes.is_empty()) {
            Some((place, _)) => Err(*place),
            None => {
                let entries = part.iter().map(|(place, bytes)| entry(*place, bytes)).collect();
                Ok(CheckedPart { entries, hashed: Vec::new() })
            }
        }
    }

    fn verifier() -> EnvelopeVerifier {
        let (key, absences) = (key(NODE.0).public_key(), Absences::NONE);
        EnvelopeVerifier { originator: NODE, key, own: OriginatorId(400), absences }
    }

    /// The places of each load, in their order.
    type PlacesOfLoads = Vec<Vec<u64>>;

    /// Loads writes of one envelope of these lengths. Returns the result, and the places of each load.
    fn load_all(lens: &[usize]) -> (Result<((), u64), BootstrapFetchError>, PlacesOfLoads) {
        let mut loads = Vec::new();
        let loaded = beside_loads(
            &verifier(),
            check_part,
            |changes, _| Ok(changes),
            |changes: Vec<Change>| {
                loads.push(changes.iter().map(|change| change.start().sequence.0).collect());
                Ok(())
            },
            |write| {
                for (place, len) in (1..).zip(lens) {
                    let envelope = (SequenceId(place), Bytes::from(vec![1; *len]));
                    write(SequenceId(place - 1), &[envelope])?;
                }
                Ok(())
            },
        );
        (loaded, loads)
    }

    #[test]
    fn writes_are_loaded_in_order_and_up_to_the_first_one_that_is_refused() {
        let (loaded, loads) = load_all(&[1, 2, 3]);
        assert_eq!(loaded.unwrap(), ((), 0));
        assert_eq!(loads, [vec![1, 2, 3]], "together");
        let (refused, loads) = load_all(&[1, 2, 3, 0, 4]);
        let is_named =
            matches!(refused, Err(BootstrapFetchError::Forged { place: SequenceId(4), .. }));
        assert!(is_named, "{refused:?}");
        assert_eq!(loads, [vec![1, 2, 3]]);
    }

    /// Otherwise cores would wait for the disk.
    #[test]
    fn the_next_writes_are_filed_while_others_are_loaded() {
        let (filed_to, filed) = mpsc::channel();
        // The last write may be empty.
        let place_of = |changes: Vec<Change>| changes.first().map_or(0, |it| it.start().sequence.0);
        beside_loads(
            &verifier(),
            check_part,
            |changes, _| {
                let place = place_of(changes);
                filed_to.send(place).unwrap();
                Ok(place)
            },
            move |place: u64| {
                // The first load does not end before the second file is written.
                let seen = (place == 1).then(|| [(); 2].map(|()| filed.recv_timeout(LONG)));
                assert!(seen.is_none_or(|it| it == [Ok(1), Ok(2)]));
                Ok(())
            },
            |write| {
                let bytes = Bytes::from(vec![1; LOAD_BYTES]);
                write(SequenceId(0), &[(SequenceId(1), bytes.clone())])?;
                write(SequenceId(1), &[(SequenceId(2), bytes)])
            },
        )
        .unwrap();
    }

    #[test]
    fn writes_are_gathered_up_to_a_bound() {
        let bytes = Bytes::from(vec![1; LOAD_BYTES / 2 - BESIDE_BYTES]);
        let write = |place| vec![Change::Append(entry(SequenceId(place), &bytes))];
        let mut gathered = GatheredWrites::default();
        assert!(gathered.add(write(1), Vec::new()).is_none());
        let full = gathered.add(write(2), Vec::new()).unwrap();
        assert!(full.changes == [write(1), write(2)].concat());
        assert_eq!((gathered.changes.len(), gathered.bytes), (0, 0));
    }
}
