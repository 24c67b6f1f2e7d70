//! Asks the operator while this node may not sign, and passes the answer on to the engine.

use std::time::Duration;

use hawser_engine::Engine;
use hawser_engine::own_strand::{OperatorWord, OwnStrandStatus};
use tokio::task::JoinHandle;

use super::blocking;
use crate::restore::{Question, RestoreFolder};

/// Pause between two looks for an answer. A guess: an operator sees the result at once.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The task that asks.
pub(super) struct RestoreDesk(JoinHandle<()>);

impl RestoreDesk {
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

async fn run(engine: Engine) {
    let Some(folder) = engine.store().host_dir().map(RestoreFolder::new) else { return };
    let now_ns = engine.ports().clock.now_ns();
    let id =
        format!("{}-{}-{now_ns}", hex::encode(engine.store().incarnation()), std::process::id());
    let mut asked: Option<Question> = None;
    let mut is_first = true;
    loop {
        let wanted = question(&engine, &id);
        let changed = wanted != asked;
        if changed || is_first {
            let (folder, question) = (folder.clone(), wanted.clone());
            let done = move || match &question {
                Some(question) => folder.ask(question),
                None => folder.clear(),
            };
            if let Err(error) = blocking(done).await {
                tracing::error!(code = "restore_unanswerable", %error, "the operator cannot be asked");
            }
            (asked, is_first) = (wanted, false);
        }
        if asked.is_some() {
            look_for_answer(&engine, &folder, &id).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Returns the question to the operator, if only one is needed now.
fn question(engine: &Engine, id: &str) -> Option<Question> {
    let is_asking = matches!(
        engine.own_strand_status(),
        OwnStrandStatus::Quarantined(_) | OwnStrandStatus::Stopped
    );
    let reason = engine.may_sign().err().filter(|_| is_asking)?.to_string();
    let store = engine.store();
    let identity = store.identity();
    Some(Question {
        id: id.to_owned(),
        node_id: identity.node.0,
        network: identity.network.clone(),
        data_dir: store.path()?.to_owned(),
        head: engine.heads().get().get(identity.node).0,
        reason,
    })
}

async fn look_for_answer(engine: &Engine, folder: &RestoreFolder, id: &str) {
    let read = {
        let folder = folder.clone();
        blocking(move || folder.answer()).await
    };
    match read {
        Ok(Some(answer)) if answer.id == id => {
            tracing::warn!(
                gap = answer.gap,
                "the operator confirms that no other process signs with this node's key"
            );
            engine.confirm_own_strand(OperatorWord { gap: answer.gap });
        }
        // To an earlier start of the node, which may have had another folder.
        Ok(Some(_)) | Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the operator's answer cannot be read"),
    }
}
