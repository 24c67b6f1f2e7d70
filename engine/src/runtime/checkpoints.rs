//! The task that signs checkpoints: of this node's own strand, and as an observer of the chains' strands and of those
//! of nodes that sign none themselves.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SecretKey};
use hawser_storage::{CommitError, TreeError};
use tokio::time::MissedTickBehavior;

use super::Engine;
use super::stop::StopSignal;
use super::stoppable::{StoppableTask, blocking};
use crate::checkpoints::{
    CheckpointDecision, HeldStrand, ObserverPace, SilentStrands, TreeState, decide,
};

/// Time between two looks at the trees. Half of the second in which a strand that grows gets a checkpoint.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Starts the task that signs checkpoints while the node runs. Each is durable before it can be read. `key` is the key
/// of the store's identity. Stopping the task waits for its last write.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start_checkpoint_task(engine: &Engine, key: SecretKey) -> StoppableTask {
    start_checkpoint_task_with_pace(engine, key, ObserverPace::default())
}

/// Does the same, and observes strands of silent nodes at this pace.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start_checkpoint_task_with_pace(
    engine: &Engine,
    key: SecretKey,
    pace: ObserverPace,
) -> StoppableTask {
    let signer = Signer {
        engine: engine.clone(),
        key,
        halted: BTreeSet::new(),
        silent: SilentStrands::new(pace),
        failed: FailedStrands::default(),
    };
    StoppableTask::start(|stopped| run(signer, stopped))
}

async fn run(mut signer: Signer, mut stopped: StopSignal) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped.stopped() => return,
            _ = looks.tick() => {}
        }
        signer = blocking(move || {
            signer.look();
            signer
        })
        .await;
    }
}

/// The reason a checkpoint was not made.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

impl From<hawser_storage::ReadError> for SignError {
    fn from(error: hawser_storage::ReadError) -> Self {
        Self::Tree(error.into())
    }
}

struct Signer {
    engine: Engine,
    key: SecretKey,
    /// Strands whose trees contradict a checkpoint that this node has signed.
    halted: BTreeSet<OriginatorId>,
    /// Strands whose nodes sign nothing, or no further.
    silent: SilentStrands,
    failed: FailedStrands,
}

/// Strands of which the last attempt failed. A failure is logged once until the strand succeeds.
#[derive(Debug, Default)]
struct FailedStrands(BTreeSet<OriginatorId>);

impl FailedStrands {
    /// Notes a failure. Returns true if it is the first one of its strand since the strand last succeeded.
    fn note(&mut self, originator: OriginatorId) -> bool {
        self.0.insert(originator)
    }

    fn succeeded(&mut self, originator: OriginatorId) {
        self.0.remove(&originator);
    }

    /// Notes a look at the strands of other nodes. Counts a strand as succeeded if it could be read and this node does
    /// not sign it now: its own node may sign again, so that this node never has to.
    fn note_look(&mut self, strands: &[OriginatorId], is_open: impl Fn(OriginatorId) -> bool) {
        self.0.retain(|it| is_open(*it) || !strands.contains(it));
    }
}

impl Signer {
    fn look(&mut self) {
        // A folder that may lack the end of the own strand may also lack the last checkpoints.
        if self.engine.may_sign().is_err() {
            return;
        }
        // A checkpoint that is dated ahead dates all later ones of its strand, long after the clock is right.
        if self.engine.check_clock().is_err() {
            return;
        }
        let node = self.engine.store().identity().node;
        if node == OriginatorId::REPLICA {
            return; // it has no key that a reader could know
        }
        let heads = self.engine.heads().get();
        let all = || heads.iter().map(|head| head.originator);
        let mut strands: Vec<OriginatorId> =
            all().filter(|&it| it == node || !it.is_signer()).collect();
        let others: Vec<OriginatorId> = all().filter(|&it| it != node && it.is_node()).collect();
        strands.extend(self.silent(&others));
        for originator in strands {
            // A row that cannot be read costs only its own strand the checkpoints.
            match self.sign(node, originator) {
                Ok(()) => self.failed.succeeded(originator),
                Err(error) => self.note_failed(originator, &error),
            }
        }
    }

    /// Logs the first of several failures of a strand.
    fn note_failed(&mut self, originator: OriginatorId, error: &SignError) {
        if self.failed.note(originator) {
            tracing::error!(code = "checkpoint_failed", originator_id = %originator, %error, "this node cannot sign checkpoints now");
        }
    }

    /// Returns those of the strands that this node observes because their nodes sign nothing, or no further. Leaves out
    /// strands whose trees cannot be read.
    fn silent(&mut self, strands: &[OriginatorId]) -> Vec<OriginatorId> {
        let snapshot = self.engine.store().snapshot();
        let mut unread: Vec<(OriginatorId, SignError)> = Vec::new();
        let mut held = |&originator: &OriginatorId| {
            let size = snapshot.verified_tree_size(originator);
            let size = size.map_err(|error| unread.push((originator, error.into()))).ok()?;
            let stored = snapshot.readable_checkpoint(originator, originator);
            let signed = match (stored.passed_over, stored.newest) {
                // The node has signed what cannot be read, perhaps all of its strand.
                (Some(_), _) => size,
                (None, newest) => newest.map_or(0, |newest| newest.signed.checkpoint.size),
            };
            Some(HeldStrand { originator, size, signed })
        };
        let mut has_looked = false;
        let all = || {
            has_looked = true;
            Ok::<_, Infallible>(strands.iter().filter_map(&mut held).collect())
        };
        let Ok(due) = self.silent.due(Instant::now(), all);
        drop(snapshot);
        if has_looked {
            let is_unread =
                |it: OriginatorId| unread.iter().any(|(originator, _)| *originator == it);
            self.failed.note_look(strands, |it| due.contains(&it) || is_unread(it));
        }
        for (originator, error) in &unread {
            self.note_failed(*originator, error);
        }
        due
    }

    /// Signs a checkpoint of a strand if it has grown. Never signs a tree that does not begin with the last signed one.
    fn sign(&mut self, node: OriginatorId, originator: OriginatorId) -> Result<(), SignError> {
        let store = self.engine.store();
        let snapshot = store.snapshot();
        let last = snapshot.checkpoint(originator, node, u64::MAX)?;
        let last = last.map(|last| last.signed.checkpoint);
        let size = snapshot.verified_tree_size(originator)?;
        // Places are missing in the own strand only after the folder was lost or set back. This node may have
        // signed a larger tree before, and would seem to contradict it.
        if originator == node && size < snapshot.head(originator)?.0 {
            return Ok(());
        }
        if last.is_some_and(|last| last.size == size) {
            return Ok(());
        }
        let root_at_last = match last {
            Some(last) if last.size <= size => Some(snapshot.root(originator, last.size)?),
            _ => None,
        };
        let tree = TreeState { size, root: snapshot.root(originator, size)?, root_at_last };
        drop(snapshot);
        let now_ns = u64::try_from(self.engine.ports().clock.now_ns()).unwrap_or(0);
        match decide(node, originator, last.as_ref(), tree, now_ns) {
            CheckpointDecision::Nothing => {}
            CheckpointDecision::Sign(checkpoint) => {
                // Two roots of one size would be proof against this node.
                assert!(
                    last.is_none_or(|last| last.size < checkpoint.size),
                    "a size is signed once"
                );
                store.put_checkpoint(&checkpoint.sign(&self.key).into())?;
                self.engine.counters().checkpoints.inc();
            }
            CheckpointDecision::Contradiction { size } => {
                if self.halted.insert(originator) {
                    tracing::error!(
                        code = "checkpoints_halted",
                        originator_id = %originator,
                        size,
                        "the strand does not continue the tree that this node has signed: the node signs no more \
                         checkpoints of it"
                    );
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_logged_again_after_a_look_that_could_read_its_strand() {
        let strands = [OriginatorId(200), OriginatorId(300), OriginatorId(400)];
        let [unread, to_sign, sound] = strands;
        let own = OriginatorId(100);
        let mut failed = FailedStrands::default();
        for strand in [own, unread, to_sign, sound] {
            assert!(failed.note(strand), "{strand}");
            assert!(!failed.note(strand), "{strand} once");
        }
        failed.note_look(&strands, |it| it == unread || it == to_sign);
        assert!(failed.note(sound), "it was read, and another node signs it");
        assert!(
            ![own, unread, to_sign].into_iter().any(|it| failed.note(it)),
            "they go on failing"
        );
        failed.succeeded(own);
        assert!(failed.note(own));
    }
}
