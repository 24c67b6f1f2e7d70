//! The right to sign this node's own strand, as the publish path and the tasks of replication share it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::FolderStanding;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::own_strand::{OperatorConfirmation, OwnStrandStatus, Quarantine};

/// Pause for publishers while peers are asked at the start: it is over within two seconds.
const RETRY_ASKING: Duration = Duration::from_secs(1);
/// Retry pause of publishers while a peer is asked to prove its claim. A guess: that takes some seconds.
const RETRY_CLAIMED: Duration = Duration::from_secs(5);
/// Retry pause of publishers while the node waits for peers or for the operator. A guess: neither comes within
/// seconds.
const RETRY_QUARANTINED: Duration = Duration::from_secs(30);

/// Handle to the right to sign. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub(super) struct OwnStrand {
    gate: Arc<watch::Sender<Gate>>,
    reports: Arc<watch::Sender<GuardReports>>,
    /// The highest place and the latest time of everything that this node's key has signed about the strand, and that
    /// this node did not hold when a peer or a client showed it.
    latest: Arc<Mutex<Shown>>,
}

/// The status, and the number of times that signing has begun.
#[derive(Debug, Clone, Copy)]
struct Gate {
    status: OwnStrandStatus,
    releases: u64,
}

/// Reports to the guard that it has not taken yet.
#[derive(Debug, Default)]
pub(super) struct GuardReports {
    /// The places that each peer has shown of the own strand. Bounded by the peers.
    pub(super) shown: BTreeMap<OriginatorId, Shown>,
    /// The peers that are sending an envelope of it that is not whole yet.
    pub(super) arriving: BTreeSet<OriginatorId>,
    /// The task that takes the strand from peers has read what the disk has of it, and asks for more.
    pub(super) is_asking: bool,
    /// The last confirmation of the operator.
    pub(super) confirmation: Option<OperatorConfirmation>,
}

/// The highest place and the latest time of the envelopes, or of the statements about them, that were shown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shown {
    pub(super) sequence: SequenceId,
    pub(super) originator_ns: Option<i64>,
}

impl Shown {
    /// Adds what was shown of a place.
    pub(super) fn add(&mut self, sequence: SequenceId, originator_ns: Option<i64>) {
        self.sequence = self.sequence.max(sequence);
        self.originator_ns = self.originator_ns.max(originator_ns);
    }

    /// Returns the latest time while the strand is not held up to the highest place, unix nanoseconds. After that, the
    /// envelopes themselves give the times: a checkpoint from a wrong clock dates nothing for ever.
    pub(super) fn ns_above(self, held: SequenceId) -> Option<i64> {
        self.originator_ns.filter(|_| self.sequence > held)
    }
}

/// The reason this node must not assign ids in its own strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnStrandError(pub(super) OwnStrandStatus);

impl OwnStrandError {
    /// Returns the time after which a publisher may try again.
    pub(super) fn retry_after(self) -> Duration {
        match self.0 {
            OwnStrandStatus::Ready | OwnStrandStatus::Asking => RETRY_ASKING,
            OwnStrandStatus::Claimed { .. } => RETRY_CLAIMED,
            OwnStrandStatus::Quarantined(_) | OwnStrandStatus::Stopped => RETRY_QUARANTINED,
        }
    }
}

impl std::error::Error for OwnStrandError {}

impl std::fmt::Display for OwnStrandError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            OwnStrandStatus::Ready => write!(f, "this node may publish"),
            OwnStrandStatus::Asking => {
                write!(f, "peers are being asked for the end of this node's own strand")
            }
            OwnStrandStatus::Claimed { peer, head } => write!(
                f,
                "node {peer} says that it holds this node's own strand up to {head}, which is more than \
                 there is here: it is being asked for it"
            ),
            OwnStrandStatus::Quarantined(quarantine) => {
                let Quarantine { reason, answered, others, .. } = quarantine;
                write!(f, "this node is in quarantine, because {reason}: ")?;
                match quarantine.needed() {
                    Some(needed) if answered < needed => write!(
                        f,
                        "{answered} of {others} other nodes have answered, and it publishes when {needed} \
                         have, or after `hawser restore confirm`"
                    ),
                    Some(_) => write!(
                        f,
                        "{answered} of {others} other nodes have answered, which is enough: it publishes when it \
                         holds what they have of its strand, at the earliest ten seconds after it began to wait, \
                         or after `hawser restore confirm`"
                    ),
                    None => write!(f, "it publishes after `hawser restore confirm`"),
                }
            }
            OwnStrandStatus::Stopped => write!(
                f,
                "another process signs with this node's key, or the data folder was set back while this \
                 node published: nothing is published until the other process has ended and the operator \
                 has run `hawser restore confirm`"
            ),
        }
    }
}

impl OwnStrand {
    /// Starts with the store's knowledge of its folder. Without peers to ask, only a known folder may sign.
    pub(super) fn new(standing: FolderStanding) -> Self {
        let status = match standing {
            FolderStanding::Newest => OwnStrandStatus::Ready,
            FolderStanding::New | FolderStanding::Unjudged => OwnStrandStatus::Asking,
            FolderStanding::Unknown(reason) => {
                let (answered, others) = (0, 0);
                let needs_confirmation = true;
                OwnStrandStatus::Quarantined(Quarantine {
                    reason,
                    answered,
                    others,
                    needs_confirmation,
                })
            }
        };
        Self {
            gate: Arc::new(watch::Sender::new(Gate { status, releases: 0 })),
            reports: Arc::default(),
            latest: Arc::default(),
        }
    }

    /// Closes the gate of a known folder until the guard opens it. A folder that may not sign stays as it is.
    pub(super) fn wait_for_guard(&self) {
        if self.status() == OwnStrandStatus::Ready {
            self.set(OwnStrandStatus::Asking);
        }
    }

    /// Takes the guard's status over.
    pub(super) fn set(&self, status: OwnStrandStatus) {
        self.gate.send_if_modified(|gate| {
            let begins = status == OwnStrandStatus::Ready && gate.status != status;
            let changes = gate.status != status;
            gate.status = status;
            gate.releases += u64::from(begins);
            changes
        });
    }

    /// Returns the status.
    pub(super) fn status(&self) -> OwnStrandStatus {
        self.gate.borrow().status
    }

    /// Returns once the first question to the peers is over. Cancel safe.
    pub(super) async fn asked(&self) {
        let is_over = |gate: &Gate| {
            !matches!(gate.status, OwnStrandStatus::Asking | OwnStrandStatus::Claimed { .. })
        };
        let mut changes = self.gate.subscribe();
        changes.wait_for(is_over).await.map(drop).expect("the sender is held here");
    }

    /// Checks that new places may be given out. Returns the number of times that signing has begun: when
    /// it rises, the strand may have grown without the sequencer.
    ///
    /// # Errors
    /// [`OwnStrandError`] while this node may hold less of its strand than was signed.
    pub(super) fn check(&self) -> Result<u64, OwnStrandError> {
        let Gate { status, releases } = *self.gate.borrow();
        if status == OwnStrandStatus::Ready { Ok(releases) } else { Err(OwnStrandError(status)) }
    }

    /// Reports an envelope of the own strand, or a checkpoint up to it, that a peer has shown.
    pub(super) fn note_shown(
        &self,
        peer: OriginatorId,
        sequence: SequenceId,
        originator_ns: Option<i64>,
    ) {
        self.latest.lock().add(sequence, originator_ns);
        self.reports.send_modify(|reports| {
            reports.shown.entry(peer).or_default().add(sequence, originator_ns);
        });
    }

    /// Reports that bytes of an answer of a peer about the own strand have arrived. The guard takes this at its next
    /// look.
    pub(super) fn note_arriving(&self, peer: OriginatorId) {
        self.reports.send_if_modified(|reports| {
            reports.arriving.insert(peer);
            false
        });
    }

    /// Reports that the task which takes the own strand from peers asks for it from now on. The guard takes this at its
    /// next look.
    pub(super) fn note_asking(&self) {
        self.reports.send_if_modified(|reports| {
            reports.is_asking = true;
            false
        });
    }

    /// Returns the latest time that was reported with what was shown, unix nanoseconds: an honest node dates no later
    /// place before it. Without one, a time before all others.
    pub(super) fn shown_ns(&self) -> i64 {
        self.latest.lock().originator_ns.unwrap_or(i64::MIN)
    }

    /// Notes the newest envelope of the strand that is stored, when the times of the strand were read from the log.
    /// Forgets what was shown, if it is no higher.
    pub(super) fn note_held(&self, held: SequenceId) {
        let mut latest = self.latest.lock();
        if latest.ns_above(held).is_none() {
            *latest = Shown::default();
        }
    }

    /// Passes the confirmation of the operator on to the guard.
    pub(super) fn note_confirmation(&self, confirmation: OperatorConfirmation) {
        self.reports.send_modify(|reports| reports.confirmation = Some(confirmation));
    }

    /// Returns a receiver that wakes up when there are reports.
    pub(super) fn reports(&self) -> watch::Receiver<GuardReports> {
        self.reports.subscribe()
    }

    /// Takes the reports, without waking up those that wait for them.
    pub(super) fn take_reports(&self) -> GuardReports {
        let mut taken = GuardReports::default();
        self.reports.send_if_modified(|reports| {
            taken = std::mem::take(reports);
            false
        });
        taken
    }
}

#[cfg(test)]
mod tests {
    use hawser_storage::UnknownFolder;

    use super::*;

    #[test]
    fn signing_is_counted_each_time_it_begins() {
        let strand = OwnStrand::new(FolderStanding::Newest);
        assert_eq!(strand.check(), Ok(0));
        let claimed = OwnStrandStatus::Claimed { peer: OriginatorId(200), head: SequenceId(7) };
        for status in [OwnStrandStatus::Asking, claimed, OwnStrandStatus::Stopped] {
            strand.set(status);
            assert_eq!(strand.check(), Err(OwnStrandError(status)));
        }
        strand.set(OwnStrandStatus::Ready);
        strand.set(OwnStrandStatus::Ready);
        assert_eq!(strand.check(), Ok(1));
        let unknown = OwnStrand::new(FolderStanding::Unknown(UnknownFolder::Empty));
        let refused = unknown.check().unwrap_err().to_string();
        assert!(refused.contains("hawser restore confirm"), "{refused}");
    }

    #[test]
    fn a_known_folder_waits_for_the_guard_and_an_unknown_one_stays_in_quarantine() {
        let known = OwnStrand::new(FolderStanding::Newest);
        known.wait_for_guard();
        assert_eq!(known.check(), Err(OwnStrandError(OwnStrandStatus::Asking)));
        let unknown = OwnStrand::new(FolderStanding::Unknown(UnknownFolder::Older));
        let before = unknown.status();
        unknown.wait_for_guard();
        assert_eq!(unknown.status(), before);
    }

    #[test]
    fn a_quarantine_with_enough_answers_says_what_it_still_waits_for() {
        let text = |answered| {
            let reason = UnknownFolder::Empty;
            let quarantine = Quarantine { reason, answered, others: 3, needs_confirmation: false };
            OwnStrandError(OwnStrandStatus::Quarantined(quarantine)).to_string()
        };
        let few = text(1);
        assert!(few.contains("1 of 3 other nodes have answered, and it publishes when 2"), "{few}");
        let enough = text(2);
        assert!(enough.contains("enough") && enough.contains("ten seconds"), "{enough}");
        assert!(!enough.contains("when 2 have"), "{enough}");
    }

    #[test]
    fn reports_keep_the_highest_of_each_peer() {
        let strand = OwnStrand::new(FolderStanding::Newest);
        let (a, b) = (OriginatorId(200), OriginatorId(300));
        for (peer, sequence, ns) in [(a, 5, Some(9)), (a, 7, None), (a, 6, Some(8)), (b, 1, None)] {
            strand.note_shown(peer, SequenceId(sequence), ns);
        }
        assert_eq!(strand.shown_ns(), 9);
        let reports = strand.take_reports();
        assert_eq!(reports.shown.len(), 2);
        assert_eq!(reports.shown[&a].sequence, SequenceId(7));
        assert_eq!(reports.shown[&a].originator_ns, Some(9));
        assert!(strand.take_reports().shown.is_empty());
        assert_eq!(strand.shown_ns(), 9, "it outlasts the reports");
        strand.note_held(SequenceId(6));
        assert_eq!(strand.shown_ns(), 9, "place 7 is not held");
        strand.note_held(SequenceId(7));
        assert_eq!(strand.shown_ns(), i64::MIN, "the envelopes up to it give the times");
    }
}
