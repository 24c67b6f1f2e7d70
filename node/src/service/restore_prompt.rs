//! Asks the operator while this node may not sign, and passes the answer to the engine.

use std::path::Path;
use std::time::Duration;

use hawser_engine::Engine;
use hawser_engine::own_strand::{OperatorConfirmation, OwnStrandStatus};
use hawser_engine::runtime::LastFailure;
use tokio::task::JoinHandle;

use super::blocking;
use crate::restore::{PostedQuestion, RestoreFolder, RestoreQuestion};

/// The interval at which an answer is checked for. A guess: the operator sees the result at once.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The prompting task.
pub(super) struct RestorePromptTask(JoinHandle<()>);

impl RestorePromptTask {
    /// Starts the task, which asks whenever the node may not sign. Needs a tokio runtime.
    pub(super) fn start(engine: &Engine) -> Self {
        Self(tokio::spawn(run(engine.clone())))
    }

    /// Ends the task. An unanswered question is replaced at the next start.
    pub(super) async fn stop(self) {
        self.0.abort();
        // An error means that the task was aborted.
        let _ = self.0.await;
    }
}

/// The state of the task.
struct Prompt {
    engine: Engine,
    folder: RestoreFolder,
    /// The data folder might lack places that the node has signed, when the process started.
    may_lack_places: bool,
    /// Id of this process, with which the ids of its questions begin.
    process: String,
    /// The number of times that the node has started to ask.
    times: u64,
    /// The current question, with the status that it is about.
    asked: Option<(OwnStrandStatus, RestoreQuestion)>,
    /// This process has asked, and has not noted since that it may sign.
    has_asked: bool,
    /// The question on disk.
    posted: PostedQuestion,
    /// The failure to write the question.
    question_failure: LastFailure,
    /// The failure to take the answer.
    answer_failure: LastFailure,
}

async fn run(engine: Engine) {
    let folder = loop {
        match engine.store().host_dir() {
            Some(folder) => break RestoreFolder::new(folder),
            None => tokio::time::sleep(LOOK_EVERY).await, // until the disk can be written to
        }
    };
    let store = engine.store().clone();
    let lacking = blocking(move || store.may_lack_places()).await;
    // A row that cannot be read allows no strand without a gap.
    let may_lack_places = lacking.unwrap_or(true);
    let now_ns = engine.ports().clock.now_ns();
    let incarnation = hex::encode(engine.store().incarnation());
    let process = format!("{incarnation}-{}-{now_ns}", std::process::id());
    let posted = PostedQuestion::new(folder.clone());
    let mut prompt = Prompt {
        engine,
        folder,
        may_lack_places,
        process,
        times: 0,
        asked: None,
        has_asked: false,
        posted,
        question_failure: LastFailure::default(),
        answer_failure: LastFailure::default(),
    };
    loop {
        prompt.ask().await;
        if prompt.asked.is_some() {
            prompt.look_for_answer().await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Prompt {
    /// Writes the current question, or removes an outdated one: also that of an earlier process, which does not count
    /// for this one. Notes for the operator that the node may sign. Tries again while the disk refuses it. Logs the
    /// operator's next steps once for each question.
    async fn ask(&mut self) {
        let times = self.times;
        self.asked = self.question();
        if let Some((status, question)) = self.asked.as_ref().filter(|_| self.times > times) {
            let state_dir = self.folder.path().parent().unwrap_or(self.folder.path());
            tracing::warn!("{}", next_steps(status, state_dir, question));
        }
        self.has_asked |= self.asked.is_some();
        let wanted = self.asked.as_ref().map(|(_, question)| question.clone());
        let is_over = self.has_asked && wanted.is_none() && self.engine.may_sign().is_ok();
        if !is_over && self.posted.is(wanted.as_ref()) {
            return;
        }
        let (mut posted, process) = (self.posted.clone(), self.process.clone());
        let (posted, done) = blocking(move || {
            let done = if is_over { posted.end(&process) } else { posted.post(wanted.as_ref()) };
            (posted, done)
        })
        .await;
        self.posted = posted;
        if is_over && done.is_ok() {
            self.has_asked = false;
        }
        if self.question_failure.note(done.as_ref().err())
            && let Err(error) = &done
        {
            tracing::error!(code = "restore_unanswerable", %error, "the question to the operator cannot be written");
        }
    }

    /// Returns the question to the operator, if one is needed now. A status of another kind requires a new question, to
    /// which earlier answers do not apply.
    fn question(&mut self) -> Option<(OwnStrandStatus, RestoreQuestion)> {
        let engine = &self.engine;
        let status = engine.own_strand_status();
        let shows_lack = status.reason()?.shows_lack();
        let reason = engine.may_sign().err()?.to_string();
        let store = engine.store();
        let identity = store.identity();
        let id = match &self.asked {
            Some((asked, question)) if asked.is_as(&status) => question.id.clone(),
            _ => {
                self.times += 1;
                format!("{}-{}", self.process, self.times)
            }
        };
        let question = RestoreQuestion {
            id,
            process: self.process.clone(),
            node_id: identity.node,
            network: identity.network.clone(),
            data_dir: store.path()?.to_owned(),
            head: engine.heads().get().get(identity.node),
            reason,
            may_lack_places: self.may_lack_places || shows_lack,
        };
        Some((status, question))
    }

    /// Passes the operator's answer to the engine, once.
    async fn look_for_answer(&mut self) {
        let Some((about, question)) = &self.asked else { return };
        let folder = self.folder.clone();
        let taken = blocking(move || folder.take_answer()).await;
        if self.answer_failure.note(taken.as_ref().err())
            && let Err(error) = &taken
        {
            tracing::warn!(%error, "the operator's answer cannot be read: tried again");
        }
        match taken {
            Ok(Some(answer)) if answer.id == question.id => {
                let gap = answer.gap_after(question);
                tracing::warn!(
                    gap,
                    "the operator confirms that no other process signs with this node's key"
                );
                let confirmation = OperatorConfirmation { gap, about: *about };
                self.engine.confirm_own_strand(confirmation);
            }
            // The answer is to an earlier question, perhaps of an earlier start with another folder.
            Ok(Some(_)) => {
                tracing::warn!("the operator's answer is to an earlier question: it is ignored")
            }
            Ok(None) | Err(_) => {}
        }
    }
}

/// Returns what the node does while it waits, and the next steps of its operator, with the command as it is typed on
/// this host. The reason is logged by the engine, and is in the status.
fn next_steps(status: &OwnStrandStatus, state_dir: &Path, question: &RestoreQuestion) -> String {
    let before = match status {
        OwnStrandStatus::Stopped => {
            "Note the head of its strand at each process (`hawser status`), stop both, and start the one with the \
             longer strand alone. Then run"
        }
        OwnStrandStatus::Quarantined(it) if it.needed().is_some() => {
            "Make sure that no other process signs with its key. Then wait for its peers, or run"
        }
        _ => "Make sure that no other process signs with its key. Then run",
    };
    let complete = if question.may_lack_places {
        "--complete is refused, because the data folder may lack the last envelopes of the node"
    } else {
        "with --complete it leaves no gap, which is right only if the data folder has all that the node has ever signed"
    };
    format!(
        "until this node may publish, it serves readers and follows its peers. {before}, as its user: hawser restore \
         confirm --state-dir {} --node-id {}. It goes on behind a gap of 1 to 256 million places; {complete}. \
         docs/runbooks/restore.md has all steps",
        state_dir.display(),
        question.node_id,
    )
}

#[cfg(test)]
mod tests {
    use hawser_engine::own_strand::Quarantine;
    use hawser_storage::UnknownFolder;

    use super::*;
    use crate::restore::test_question;

    #[test]
    fn the_operator_of_a_node_that_waits_is_told_each_step_with_its_command() {
        let question = test_question();
        let lacking = RestoreQuestion { may_lack_places: true, ..question.clone() };
        let state_dir = Path::new("/var/lib/hawser-state");
        let of = |needs_confirmation| {
            let reason = UnknownFolder::NoMarker;
            let (answered, others) = (0, 3);
            OwnStrandStatus::Quarantined(Quarantine {
                reason,
                answered,
                others,
                needs_confirmation,
            })
        };
        let steps = next_steps(&of(false), state_dir, &question);
        let command = "hawser restore confirm --state-dir /var/lib/hawser-state --node-id 100";
        assert!(steps.contains(command) && steps.contains("wait for its peers"), "{steps}");
        assert!(steps.contains("serves readers"), "{steps}");
        assert!(steps.contains("with --complete it leaves no gap"), "{steps}");
        let alone = next_steps(&of(true), state_dir, &lacking);
        assert!(alone.contains(command) && !alone.contains("wait for its peers"), "{alone}");
        assert!(alone.contains("--complete is refused"), "{alone}");
        let second = next_steps(&OwnStrandStatus::Stopped, state_dir, &question);
        assert!(second.contains(command) && second.contains("stop both"), "{second}");
    }
}
