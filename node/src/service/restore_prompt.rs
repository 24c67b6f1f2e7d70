//! Asks the operator while this node may not sign, and passes the answer on to the engine.

use std::mem::Discriminant;
use std::time::Duration;

use hawser_engine::Engine;
use hawser_engine::own_strand::{OperatorWord, OwnStrandStatus};
use tokio::task::JoinHandle;

use super::blocking;
use crate::restore::{RestoreFolder, RestoreQuestion};

/// Pause between two looks for an answer. A guess: an operator sees the result at once.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The task that asks.
pub(super) struct RestorePromptTask(JoinHandle<()>);

impl RestorePromptTask {
    /// Starts to ask whenever the node may not sign. Needs a tokio runtime.
    pub(super) fn start(engine: &Engine) -> Self {
        Self(tokio::spawn(run(engine.clone())))
    }

    /// Ends the task. A question that stands is replaced at the next start.
    pub(super) async fn stop(self) {
        self.0.abort();
        // The error says that it was aborted.
        let _ = self.0.await;
    }
}

/// The state of the task.
struct Prompt {
    engine: Engine,
    folder: RestoreFolder,
    /// Begins the ids of the questions of this process.
    prefix: String,
    /// Number of times that the node has begun to ask.
    times: u64,
    /// The question that stands, with the kind of status that it is about.
    asked: Option<(Discriminant<OwnStrandStatus>, RestoreQuestion)>,
}

async fn run(engine: Engine) {
    let folder = loop {
        match engine.store().host_dir() {
            Some(folder) => break RestoreFolder::new(folder),
            None => tokio::time::sleep(LOOK_EVERY).await, // until the disk can be written to
        }
    };
    let now_ns = engine.ports().clock.now_ns();
    let incarnation = hex::encode(engine.store().incarnation());
    let prefix = format!("{incarnation}-{}-{now_ns}", std::process::id());
    let mut prompt = Prompt { engine, folder, prefix, times: 0, asked: None };
    // A question that an earlier process has left is not one of this process.
    let mut is_first = true;
    loop {
        prompt.ask(is_first).await;
        is_first = false;
        if prompt.asked.is_some() {
            prompt.look_for_answer().await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Prompt {
    /// Writes down the question of this moment, or removes the one that no longer stands.
    async fn ask(&mut self, is_first: bool) {
        let wanted = self.question();
        if wanted == self.asked && !is_first {
            return;
        }
        let (folder, question) = (self.folder.clone(), wanted.clone());
        let done = move || match &question {
            Some((_, question)) => folder.ask(question),
            None => folder.clear(),
        };
        if let Err(error) = blocking(done).await {
            tracing::error!(code = "restore_unanswerable", %error, "the question to the operator cannot be written");
        }
        self.asked = wanted;
    }

    /// Returns the question to the operator, if only one is needed now. A status of another kind is
    /// another question: earlier answers do not apply to it.
    fn question(&mut self) -> Option<(Discriminant<OwnStrandStatus>, RestoreQuestion)> {
        let engine = &self.engine;
        let status = engine.own_strand_status();
        let is_asking =
            matches!(status, OwnStrandStatus::Quarantined(_) | OwnStrandStatus::Stopped);
        let reason = engine.may_sign().err().filter(|_| is_asking)?.to_string();
        let store = engine.store();
        let identity = store.identity();
        let kind = std::mem::discriminant(&status);
        let id = match &self.asked {
            Some((asked, question)) if *asked == kind => question.id.clone(),
            _ => {
                self.times += 1;
                format!("{}-{}", self.prefix, self.times)
            }
        };
        let question = RestoreQuestion {
            id,
            node_id: identity.node.0,
            network: identity.network.clone(),
            data_dir: store.path()?.to_owned(),
            head: engine.heads().get().get(identity.node).0,
            reason,
        };
        Some((kind, question))
    }

    /// Passes the operator's answer on, once.
    async fn look_for_answer(&self) {
        let Some((kind, question)) = &self.asked else { return };
        let folder = self.folder.clone();
        match blocking(move || folder.take_answer()).await {
            Ok(Some(answer)) if answer.id == question.id => {
                tracing::warn!(
                    gap = answer.gap,
                    "the operator confirms that no other process signs with this node's key"
                );
                let knows_of_stop = *kind == std::mem::discriminant(&OwnStrandStatus::Stopped);
                self.engine.confirm_own_strand(OperatorWord { gap: answer.gap, knows_of_stop });
            }
            // To an earlier question, perhaps of an earlier start with another folder.
            Ok(Some(_)) => {
                tracing::warn!("the operator has answered a question that no longer stands")
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the operator's answer cannot be read"),
        }
    }
}
