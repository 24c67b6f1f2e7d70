//! Turns of the validation service's callers at its questions to contract wallets. The operator pays for each question.

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_serve::fair_gate::GateFullError;
use hawser_serve::network_gate::{NetworkGate, NetworkPass};
use tokio::time::sleep;

use crate::limits::{WALLET_TURN, WALLETS_PER_CHAIN_MAX, WALLETS_PER_TURN_MAX};
use crate::places::ServiceCaller;

/// The turns. Clones share them.
#[derive(Clone)]
pub(crate) struct QuestionTurns {
    /// Places for questions to all wallets. A place is free again [`WALLET_TURN`] after its question has begun.
    begun: NetworkGate<Arc<str>>,
    /// Places for open questions to the wallets of each chain. So a caller's questions to a slow chain take no place
    /// in `begun` while they wait.
    open: Arc<BTreeMap<u64, NetworkGate<Arc<str>>>>,
}

impl QuestionTurns {
    /// Creates turns at the questions to the wallets of these chains.
    pub(crate) fn new(chain_ids: impl IntoIterator<Item = u64>) -> Self {
        let open = chain_ids.into_iter().map(|id| (id, NetworkGate::new(WALLETS_PER_CHAIN_MAX)));
        Self { begun: NetworkGate::new(WALLETS_PER_TURN_MAX), open: Arc::new(open.collect()) }
    }

    /// Waits until this caller may ask a wallet of this chain. The pass is to be held until the answer; `None` for a
    /// chain that has no endpoint, and says so at once.
    ///
    /// # Errors
    /// [`GateFullError`] if too many questions of the caller wait.
    pub(crate) async fn wait(
        &self,
        caller: &ServiceCaller,
        chain_id: u64,
    ) -> Result<Option<NetworkPass<Arc<str>>>, GateFullError> {
        let Some(open) = self.open.get(&chain_id) else { return Ok(None) };
        let ServiceCaller { network, name } = caller;
        let open = open.enter(network, name).await?;
        let begun = self.begun.enter(network, name).await?;
        tokio::spawn(async move {
            sleep(WALLET_TURN).await;
            drop(begun);
        });
        Ok(Some(open))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    fn callers() -> [ServiceCaller; 2] {
        let caller = |name: &str| ServiceCaller { network: name.into(), name: name.into() };
        ["greedy", "other"].map(caller)
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_caller_has_all_questions_of_a_minute_and_a_new_one_is_next() {
        let (turns, [greedy, other]) = (QuestionTurns::new([1]), callers());
        let (began, mut asked) = (Instant::now(), 0);
        while began.elapsed() < Duration::from_secs(60) {
            turns.wait(&greedy, 1).await.unwrap();
            asked += 1;
        }
        assert!((600..=620).contains(&asked), "{asked}");
        for _ in 0..100 {
            let (turns, greedy) = (turns.clone(), greedy.clone());
            tokio::spawn(async move { turns.wait(&greedy, 1).await.map(drop) });
        }
        for _ in 0..10 {
            tokio::task::yield_now().await; // all of them wait
        }
        // In a task, as callers are: the runtime looks at the test itself only after some tens of tasks.
        let waits = tokio::spawn(async move {
            let since = Instant::now();
            turns.wait(&other, 1).await.unwrap();
            since.elapsed()
        });
        let waited = waits.await.unwrap();
        assert!(waited < 2 * WALLET_TURN, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_chain_that_does_not_answer_delays_no_question_to_another() {
        let (turns, [greedy, other]) = (QuestionTurns::new([1, 2]), callers());
        let mut unanswered = Vec::new();
        for _ in 0..WALLETS_PER_CHAIN_MAX {
            unanswered.push(turns.wait(&greedy, 1).await.unwrap());
        }
        let mut more: Vec<_> = (0..100).map(|_| Box::pin(turns.wait(&greedy, 1))).collect();
        assert!(more.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let mut single = Box::pin(turns.wait(&other, 1));
        assert!((&mut single).now_or_never().is_none());
        assert!(turns.wait(&other, 2).now_or_never().is_some());
        drop(unanswered.pop());
        assert!((&mut single).now_or_never().is_some(), "the other caller is next");
        assert!((&mut more[0]).now_or_never().is_some(), "then one of the greedy caller");
    }
}
