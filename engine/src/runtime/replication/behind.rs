//! Verifies envelopes that readers get already: reads them from the log, and checks them on all cores. While a place
//! cannot be verified, withdraws envelopes after it that break a rule from readers.

use std::sync::Arc;

use hawser_proto::{Bytes, EnvelopeId, SequenceId};
use hawser_storage::{CommitError, LogItem, ReadError, Store, Validity};
use parking_lot::Mutex;

use super::checking::{judge_stored, verify};
use super::evidence::StrandWatch;
use super::state::ReplicationState;
use super::writes::{self, Load};
use crate::replication::{EnvelopeVerifier, VerifyResult};
use crate::runtime::Priority;
use crate::runtime::stoppable::blocking;

/// The result of one step.
pub(super) enum BehindOutcome {
    /// Everything up to this place is verified, and the verdicts are durable.
    Verified(SequenceId),
    /// Everything up to this place is verified, and the next place has an outer layer that its originator has not
    /// signed.
    Forged(SequenceId),
    /// Nothing was written.
    Failed(CommitError),
    /// Envelopes that break a rule are withdrawn from readers up to this place. None of these places is verified. After
    /// an error, nothing was written.
    Withdrawn(Result<SequenceId, CommitError>),
}

/// The envelopes behind a place with their verdicts, which are not written yet. As much as is checked at a time.
pub(super) struct CheckedBehind {
    after: SequenceId,
    verifier: Arc<EnvelopeVerifier>,
    results: Vec<VerifyResult>,
}

impl CheckedBehind {
    /// Returns true if these are the verdicts on the places after `verified`, made with the absences that `verifier`
    /// has.
    fn is_next(&self, verifier: &EnvelopeVerifier, verified: SequenceId) -> bool {
        self.after == verified && self.verifier.absences == verifier.absences
    }

    /// Returns the last place; `None` if nothing may follow it.
    fn last(&self) -> Option<SequenceId> {
        let last = self.results.last()?.as_ref().ok()?;
        self.results.iter().all(Result::is_ok).then_some(last.id.sequence)
    }
}

/// The result of one step, and of the checks that were made for the next one meanwhile.
pub(super) type BehindStep = (BehindOutcome, Option<CheckedBehind>);

/// Verifies the next places behind `verified`, at most to `through`. Meanwhile checks those behind them, which the next
/// call is to be given as `checked`: else all cores would wait for the disk between two calls.
pub(super) async fn verify_next(
    state: Arc<ReplicationState>,
    verifier: Arc<EnvelopeVerifier>,
    watch: Arc<Mutex<StrandWatch>>,
    (verified, through): (SequenceId, SequenceId),
    checked: Option<CheckedBehind>,
) -> BehindStep {
    let checked = match checked.filter(|it| it.is_next(&verifier, verified)) {
        Some(checked) => checked,
        None => match check(&state, &verifier, verified, through).await {
            Ok(checked) => checked,
            Err(error) => return (BehindOutcome::Failed(error), None),
        },
    };
    let last = checked.last().filter(|last| *last < through);
    let further = async {
        // The next call reads again what this one could not read.
        check(&state, &verifier, last?, through).await.ok()
    };
    tokio::join!(write(&state, &watch, checked), further)
}

/// Reads and checks what follows a place.
async fn check(
    state: &Arc<ReplicationState>,
    verifier: &Arc<EnvelopeVerifier>,
    after: SequenceId,
    through: SequenceId,
) -> Result<CheckedBehind, CommitError> {
    let envelopes = read_next(state, EnvelopeId::new(verifier.originator, after), through).await?;
    let results = verify(state, verifier, &envelopes, Priority::Behind).await;
    Ok(CheckedBehind { after, verifier: verifier.clone(), results })
}

/// Takes the next envelopes behind `after`, at most to `through`, from readers if they break a rule. `verifier` knows
/// no absences: one may end, and the verdict would change.
pub(super) async fn withdraw_next(
    state: Arc<ReplicationState>,
    verifier: Arc<EnvelopeVerifier>,
    (after, through): (SequenceId, SequenceId),
) -> BehindStep {
    (BehindOutcome::Withdrawn(withdraw(&state, &verifier, after, through).await), None)
}

async fn withdraw(
    state: &Arc<ReplicationState>,
    verifier: &Arc<EnvelopeVerifier>,
    after: SequenceId,
    through: SequenceId,
) -> Result<SequenceId, CommitError> {
    let originator = verifier.originator;
    let envelopes = read_next(state, EnvelopeId::new(originator, after), through).await?;
    let validities = judge_stored(state, verifier, &envelopes).await;
    let (mut last, mut broken) = (after, Vec::new());
    for validity in validities {
        last = last.next();
        if let Validity::Invalid(rule) = validity {
            broken.push((last, rule));
        }
    }
    if !broken.is_empty() {
        let state = state.clone();
        blocking(move || writes::withdraw_shown(&state, originator, &broken)).await?;
    }
    Ok(last)
}

/// Reads the envelopes behind a place, as many as are checked at a time: at least one.
async fn read_next(
    state: &ReplicationState,
    after: EnvelopeId,
    through: SequenceId,
) -> Result<Vec<Bytes>, CommitError> {
    let store = state.store.clone();
    let envelopes = blocking(move || read(&store, after, through)).await?;
    if envelopes.is_empty() {
        // The log lost an envelope that it had, so no later place can be verified.
        let got = EnvelopeId { sequence: after.sequence.next(), ..after };
        return Err(CommitError::Gap { after: after.sequence, got });
    }
    Ok(envelopes)
}

/// Writes verdicts. Blocks no task.
async fn write(
    state: &Arc<ReplicationState>,
    watch: &Arc<Mutex<StrandWatch>>,
    checked: CheckedBehind,
) -> BehindOutcome {
    let (state, watch) = (state.clone(), watch.clone());
    let of = checked.verifier.originator;
    let write = move || {
        let count = checked.results.len();
        let entries: Vec<_> = checked.results.into_iter().map_while(Result::ok).collect();
        let is_whole = entries.len() == count;
        match writes::commit_verified(&state, &mut watch.lock(), of, entries) {
            Ok(through) if is_whole => BehindOutcome::Verified(through),
            Ok(through) => BehindOutcome::Forged(through),
            Err(error) => BehindOutcome::Failed(error),
        }
    };
    blocking(write).await
}

/// Reads envelopes without a gap, until there are as many as are checked at a time. Ends before what cannot be read,
/// unless that is the first place.
fn read(store: &Store, after: EnvelopeId, through: SequenceId) -> Result<Vec<Bytes>, ReadError> {
    let (mut envelopes, mut load, mut next) = (Vec::new(), Load::default(), after.sequence.next());
    for item in store.snapshot().log(after, through) {
        let item = match item {
            Ok(item) => item,
            // The next call begins at the damage, and fails.
            Err(_) if !envelopes.is_empty() => break,
            Err(error) => return Err(error),
        };
        match item {
            LogItem::Envelope { id, bytes, .. } if id.sequence == next => {
                load += Load::of([&bytes]);
                envelopes.push(bytes);
            }
            LogItem::Envelope { .. } | LogItem::Skipped { .. } => break,
        }
        if load.is_full_behind() {
            break;
        }
        next = next.next();
    }
    Ok(envelopes)
}

#[cfg(test)]
mod tests {
    use hawser_proto::OriginatorId;
    use hawser_storage::{Change, Family, InvalidRule, LogEntry};

    use super::*;
    use crate::read::testing;

    /// The disk has changed the mark of the third place. Peers and payers do not wait for the places before it.
    #[test]
    fn envelopes_before_damage_are_verified_and_those_of_the_damage_are_not() {
        let (store, strand) = (testing::store(), OriginatorId(300));
        let append = |place| {
            let id = EnvelopeId::new(strand, SequenceId(place));
            let bytes = Bytes::from_static(b"envelope");
            Change::Append(LogEntry::invalid(id, bytes, InvalidRule(1)))
        };
        let changes: Vec<Change> = (1..=5).map(append).collect();
        store.commit(&changes).unwrap();
        let key = [&strand.0.to_be_bytes()[..], &3_u64.to_be_bytes()].concat();
        store.put_raw_row(Family::Mark, &key, &[0xff]);
        let read_after =
            |place| read(&store, EnvelopeId::new(strand, SequenceId(place)), SequenceId(5));
        assert_eq!(read_after(0).unwrap().len(), 2);
        assert!(read_after(2).is_err_and(|error| error.is_damage()));
        assert_eq!(read_after(3).unwrap().len(), 2);
    }
}
