//! One attempt of a request: asks a node to publish envelopes, and records the published ones.
//!
//! An attempt runs as a task of its own. So envelopes are billed even if the caller hangs up meanwhile, and a
//! repeated request is answered with the stored envelopes. Envelopes that were not sent when the caller hangs up
//! are not sent.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::PicoDollarPrice;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::arrival::{self, ArrivalSearch, ArrivalWait};
use super::item::PublishItem;
use super::published::PublishedEnvelopes;
use super::retry::RetryState;
use crate::bill::BillEntry;
use crate::fair::CallerPass;
use crate::landed::{ClientKey, LandedEnvelope};
use crate::nodes::{
    ChainStrands, Health, Node, NodeAnswers, NodeError, NodeErrorKind, Nodes, PlacedEnvelope,
    RequestAtNode, RequestsPerCall, WantedEnvelope,
};
use crate::running::{RunningTask, RunningTasks};
use crate::sharing::TopicKey;

/// Number of repeated calls to a node that refuses envelopes which depend on a new chain envelope, and the pause
/// before each. Nodes of the reference implementation check dependencies against a cursor that they refresh every
/// 100 ms; the rest is a guess.
const CATCH_UP_TRIES: usize = 5;
const CATCH_UP_PAUSE: Duration = Duration::from_millis(100);
/// Time that the attempts of a request may take together before later ones are cut short. Chosen: clients give up a
/// call that has no answer for two minutes, and begin anew with the same nodes.
const ATTEMPTS_TIME: Duration = Duration::from_secs(105);
/// Time for a call of an attempt that begins after that. A guess: nodes that work answer within a second.
const LATE_CALL_TIME: Duration = Duration::from_secs(5);

/// A request that nodes are being asked to publish.
pub(super) struct RequestInProgress {
    pub(super) retry: Mutex<RetryState>,
    /// The time at which the request came.
    since: Instant,
    /// The request's place at the gate. Its attempts keep it after the caller has hung up.
    _pass: CallerPass,
}

impl RequestInProgress {
    /// Starts a request that came at `since`. `pass` is its place at the gate of requests.
    pub(super) fn new(retry: RetryState, since: Instant, pass: CallerPass) -> Self {
        Self { retry: Mutex::new(retry), since, _pass: pass }
    }
}

/// The state that the attempts of all requests share.
#[derive(Clone)]
pub(super) struct AttemptContext {
    pub(super) nodes: Nodes,
    pub(super) strands: ChainStrands,
    /// Time for one call to a node.
    pub(super) timeout: Duration,
    /// The ids of envelopes that were published before.
    pub(super) published: Arc<PublishedEnvelopes>,
    /// Counts attempts, for which a shutdown waits.
    pub(super) running: RunningTasks,
}

/// An item with the envelope that a node has published for it.
type PlacedItem = (PublishItem, PlacedEnvelope);

/// One attempt at one node.
pub(super) struct NodeAttempt {
    pub(super) context: AttemptContext,
    pub(super) request: Arc<RequestInProgress>,
    /// Number of nodes that have failed these envelopes before.
    pub(super) failed_before: usize,
    pub(super) node: Arc<Node>,
    pub(super) items: Vec<PublishItem>,
    /// The requests that may share a call with this one.
    pub(super) per_call: RequestsPerCall,
    /// Cancelled when the caller hangs up.
    pub(super) gone: CancellationToken,
    /// Counts this attempt until it ends, among all and among those at the node.
    pub(super) _running: RunningTask,
    pub(super) _at_node: RequestAtNode,
}

/// The result of an attempt.
#[derive(Default)]
pub(super) struct AttemptEnd {
    /// The envelopes that the node has published, each with its index in the request.
    pub(super) placed: Vec<(usize, PlacedEnvelope)>,
    /// The envelopes that the node has not published, with the reason.
    pub(super) failed: Option<(NodeError, Vec<PublishItem>)>,
    /// True if one of the calls may have published the failed envelopes nevertheless.
    pub(super) may_be_published: bool,
}

impl AttemptEnd {
    /// Adds the end of a further call with the envelopes that this one has not published.
    fn then(mut self, further: Self) -> Self {
        self.placed.extend(further.placed);
        let may_be_published = self.may_be_published || further.may_be_published;
        Self { placed: self.placed, failed: further.failed, may_be_published }
    }
}

impl NodeAttempt {
    /// Calls the node. If it fails a call with several requests, calls it once more with this one alone: an envelope of
    /// another caller may be the reason, and would be it at the next node, too. What the first call may have published
    /// stays open, however the second one ends.
    pub(super) async fn run(mut self) -> AttemptEnd {
        let (items, before) = (std::mem::take(&mut self.items), self.node.batcher.newest());
        let mut end = self.call_and_look(items, before).await;
        let is_with_others = |failed: &mut (NodeError, Vec<PublishItem>)| {
            matches!(failed.0, NodeError::FailedWithOthers(_))
        };
        if let Some((_, items)) = end.failed.take_if(is_with_others) {
            self.per_call = RequestsPerCall::One;
            let alone = self.call_and_look(items, before).await;
            return end.then(alone);
        }
        end
    }

    /// Calls the node. If the call fails, looks for the envelopes that the node has published nevertheless. Of an
    /// answer that is wrong for some envelopes, it takes the others: another node would be paid for them, too. `before`
    /// is the node's newest sequence id from before the attempt.
    async fn call_and_look(&self, items: Vec<PublishItem>, before: SequenceId) -> AttemptEnd {
        let since = Instant::now();
        let Some(answer) = self.call_until_caught_up(&items).await else {
            return AttemptEnd::default(); // nothing was sent, and the caller has hung up
        };
        let node = &self.node;
        let (mut placed, error, items, is_judged) = match answer {
            Ok(answers) => {
                debug_assert_eq!(answers.len(), items.len(), "one answer for each item");
                let (mut placed, wrong, fault) = judged(items, answers);
                if !placed.is_empty() {
                    let failed_before = self.failed_before;
                    node.metrics.count_published(since.elapsed(), placed.len(), failed_before);
                    let unable = self.request.retry.lock().unable().clone();
                    self.write_down(&mut placed, &unable).await;
                }
                let placed = indexed(placed);
                let Some(fault) = fault else {
                    node.metrics.record_attempt(false);
                    return AttemptEnd { placed, ..AttemptEnd::default() };
                };
                (placed, fault, wrong, true)
            }
            Err(error) => {
                let strands = &self.context.strands;
                let error = error.unless_behind(|| {
                    items.iter().any(|item| strands.is_behind(node.id(), &item.depends_on))
                });
                (Vec::new(), error, items, false)
            }
        };
        node.metrics.count_error(error.kind());
        log_failure(node.id(), items.len(), &error);
        // The node may have published them nevertheless. For an item with a wrong envelope it would only show the same
        // one. If the answer as a whole is wrong, such as one with fewer envelopes, no item has an envelope yet.
        let is_asked = error.may_be_published() && !is_judged;
        let under_way = error.may_be_under_way();
        let (arrived, missing, answers) = if is_asked {
            let wait = if under_way { ArrivalWait::WhileItMayCommit } else { ArrivalWait::Once };
            self.find_arrived(items, wait, before).await
        } else {
            (Vec::new(), items, false)
        };
        // A node of the reference implementation that takes over an older network ends each publish with INTERNAL, and
        // answers queries as before.
        let is_wrong = matches!(error, NodeError::WrongAnswer(_));
        let is_readable = answers && !under_way && !is_wrong;
        if let Some(has_failed) = error.is_of_node()
            && !(has_failed && is_readable)
        {
            self.node.metrics.record_attempt(has_failed);
        }
        let may_be_published = error.may_be_published();
        if may_be_published {
            for item in &missing {
                item.bill.leave_open();
                self.context.published.note_open(item.key, node.id());
            }
        }
        let failed = (!missing.is_empty()).then_some((error, missing));
        placed.extend(indexed(arrived));
        AttemptEnd { placed, failed, may_be_published }
    }

    /// Calls the node, and repeats the call while it refuses envelopes that depend on a new chain envelope: this
    /// node or another one may show a chain envelope before this node's own check of dependencies knows it. Returns
    /// `None` if the caller has hung up and nothing was published.
    async fn call_until_caught_up(
        &self,
        items: &[PublishItem],
    ) -> Option<Result<NodeAnswers, NodeError>> {
        let clients: Vec<_> = items.iter().map(PublishItem::wanted).collect();
        let strands = &self.context.strands;
        let is_new = || items.iter().any(|item| strands.any_new(&item.depends_on));
        for _ in 0..CATCH_UP_TRIES {
            match self.call(items, clients.clone()).await {
                Some(Err(NodeError::Refused(_))) if is_new() => {}
                answer => return answer,
            }
            tokio::time::sleep(CATCH_UP_PAUSE).await;
            if self.gone.is_cancelled() {
                return None;
            }
        }
        self.call(items, clients).await
    }

    /// Calls the node, and waits at most for the time of an attempt, or until the node's health check fails.
    async fn call(
        &self,
        items: &[PublishItem],
        clients: Vec<WantedEnvelope>,
    ) -> Option<Result<NodeAnswers, NodeError>> {
        let timeout = call_time(self.context.timeout, self.request.since.elapsed());
        let node = &self.node;
        let caller = self.request.retry.lock().caller().clone();
        let mut health = node.health.subscribe();
        health.mark_unchanged();
        let went_down = async {
            // A node that was down before the call, and is tried because no other is left, gets the whole time.
            if health.wait_for(|now| *now == Health::Up).await.is_err()
                || health.wait_for(|now| *now == Health::Down).await.is_err()
            {
                std::future::pending().await
            }
        };
        let end = async {
            tokio::select! {
                () = tokio::time::sleep(timeout) => NodeError::Timeout(timeout),
                () = went_down => NodeError::WentDown,
            }
        };
        let held = items.first().map(|item| item.charge.hold()); // all are of one request
        node.batcher.publish(&caller, clients, held, self.per_call, &self.gone, end).await
    }

    /// Splits the items into the items that the node has published although its call failed, and all other items. Also
    /// returns true if the node has answered the queries for them. `before` is the node's newest sequence id from
    /// before the call.
    async fn find_arrived(
        &self,
        items: Vec<PublishItem>,
        wait: ArrivalWait,
        before: SequenceId,
    ) -> (Vec<(PublishItem, PlacedEnvelope)>, Vec<PublishItem>, bool) {
        let search = arrival::find(&self.context.nodes, &self.node, &items, wait, before).await;
        let ArrivalSearch { found, answers } = search;
        let (mut arrived, mut missing) = (Vec::new(), Vec::new());
        for (item, found) in items.into_iter().zip(found) {
            match found {
                Some(placed) => arrived.push((item, placed)),
                None => missing.push(item),
            }
        }
        if !arrived.is_empty() {
            self.write_down(&mut arrived, &BTreeSet::new()).await;
        }
        (arrived, missing, answers)
    }

    /// Enters the published envelopes in the bill, and records the nodes of topics and the ids of envelopes.
    /// `unable` are nodes that failed the request for a reason of their own. An envelope that another request, at
    /// this or another gateway, has recorded before becomes a repeat, which costs nothing.
    async fn write_down(
        &self,
        placed: &mut [(PublishItem, PlacedEnvelope)],
        unable: &BTreeSet<OriginatorId>,
    ) {
        let mut unpaid = Vec::new();
        for (item, placed) in placed.iter_mut() {
            if placed.id.is_some_and(|id| !self.context.published.claim(item.key, id)) {
                *placed = placed.clone().repeated();
                unpaid.push(item.bill.clone());
            }
        }
        let topics = placed.iter().map(|(item, _)| (&item.topic, item.is_topic_unplaced));
        let moved = self.context.nodes.record_published(topics, self.node.id(), unable);
        let known = self.tell_others(placed, &moved).await;
        for (item, placed) in placed.iter_mut() {
            let is_known = placed.id.is_some_and(|id| known.contains(&(item.key, id)));
            if !placed.is_repeat && is_known {
                *placed = placed.clone().repeated();
                unpaid.push(item.bill.clone());
            }
        }
        let placed = &*placed;
        let more = placed.iter().map(|(item, placed)| item.bill.enter_placed(placed));
        let more = more.fold(PicoDollarPrice(0), PicoDollarPrice::plus);
        let fees = placed.iter().filter_map(|(_, placed)| placed.congestion_fee);
        fees.for_each(|fee| self.node.record_congestion_fee(fee));
        if let Some((item, _)) = placed.first() {
            item.bill.charge(more).await;
        }
        BillEntry::release_congestion(placed.iter().map(|(item, _)| &item.bill));
        // The request also returns these prices, but only if its caller waits to the end. Each price returns once,
        // whichever comes first.
        BillEntry::give_back_all(&unpaid).await;
    }

    /// Shares the ids of envelopes, and the nodes of topics in `moved`, with the other gateways. Callers are answered
    /// after this, because their next request may go to any gateway. Returns the ids that another gateway has
    /// shared before. Envelopes that are repeats at this gateway are left out: the request that published them
    /// shares them, and would otherwise take the entry for another gateway's.
    async fn tell_others(
        &self,
        placed: &[(PublishItem, PlacedEnvelope)],
        moved: &[(TopicKey, OriginatorId)],
    ) -> BTreeSet<(ClientKey, EnvelopeId)> {
        let Some(share) = self.context.nodes.share() else { return BTreeSet::new() };
        let own = placed.iter().filter(|(_, placed)| !placed.is_repeat);
        let places: Vec<_> = own
            .filter_map(|(item, placed)| {
                let landed = LandedEnvelope { id: placed.id?, transaction: None };
                Some((item.key, landed))
            })
            .collect();
        share.tell(&places, moved).await
    }
}

/// Returns the time for a call to a node whose request came `elapsed` ago: `timeout`, or less if the attempts before it
/// have taken so long that the client would give up before the last one.
fn call_time(timeout: Duration, elapsed: Duration) -> Duration {
    timeout.min(ATTEMPTS_TIME.saturating_sub(elapsed).max(LATE_CALL_TIME))
}

/// Splits the items of an answer into those for which it is right, with their envelopes, and those for which it is
/// wrong. Also returns the first fault, if there is one.
fn judged(
    items: Vec<PublishItem>,
    answers: NodeAnswers,
) -> (Vec<PlacedItem>, Vec<PublishItem>, Option<NodeError>) {
    let (mut placed, mut wrong, mut fault) = (Vec::with_capacity(items.len()), Vec::new(), None);
    for (item, answer) in items.into_iter().zip(answers) {
        match answer {
            Ok(envelope) => placed.push((item, envelope)),
            Err(error) => {
                fault = fault.or(Some(NodeError::WrongAnswer(error)));
                wrong.push(item);
            }
        }
    }
    (placed, wrong, fault)
}

fn indexed(placed: Vec<PlacedItem>) -> Vec<(usize, PlacedEnvelope)> {
    placed.into_iter().map(|(item, placed)| (item.index, placed)).collect()
}

/// Logs that a node did not publish the envelopes that it was sent. Each place of the code may write a bounded number
/// of lines in a minute. Callers can cause refusals by their requests, so a refusal is logged at a place of its own,
/// not as a warning. It displaces no line about a failed node.
fn log_failure(node: OriginatorId, envelopes: usize, error: &NodeError) {
    let node_id = node.0;
    if error.kind() == NodeErrorKind::Refused || matches!(error, NodeError::Unable(_)) {
        tracing::debug!(node_id, envelopes, %error, "a node refuses the envelopes that it was sent");
    } else {
        tracing::warn!(
            code = "node_publish_failed",
            node_id,
            envelopes,
            %error,
            "a node did not publish the envelopes that it was sent"
        );
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    use super::*;

    /// Records the level of each line, and whether it has a code.
    struct LineRecorder(Arc<Mutex<Vec<(Level, bool)>>>);

    impl Subscriber for LineRecorder {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let metadata = event.metadata();
            let has_code = metadata.fields().field("code").is_some();
            self.0.lock().push((*metadata.level(), has_code));
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    /// Four nodes take calls and answer none, as with a database that hangs.
    #[test]
    fn the_fifth_node_is_called_before_the_client_gives_up() {
        let [timeout, search, client] = [30, 2, 120].map(Duration::from_secs);
        let mut elapsed = Duration::ZERO;
        for _ in 0..4 {
            elapsed += call_time(timeout, elapsed) + search;
        }
        assert!(elapsed + call_time(timeout, elapsed) < client, "{elapsed:?}");
        assert_eq!(call_time(timeout, Duration::ZERO), timeout);
        assert_eq!(call_time(Duration::from_secs(1), client), Duration::from_secs(1));
    }

    /// Otherwise the client would be told that the envelope is certainly not published, and would pay nothing for it.
    #[test]
    fn what_a_call_may_have_published_stays_open_when_the_next_one_is_refused() {
        let ended = |error: NodeError| AttemptEnd {
            may_be_published: error.may_be_published(),
            failed: Some((error, Vec::new())),
            ..AttemptEnd::default()
        };
        let refused = || ended(NodeError::Refused(Status::invalid_argument("bad")));
        let failed = ended(NodeError::FailedWithOthers(Status::internal("a disk")));
        let end = failed.then(refused());
        assert!(end.may_be_published);
        assert!(matches!(end.failed, Some((NodeError::Refused(_), _))), "the last error is told");
        assert!(!refused().then(refused()).may_be_published);
    }

    #[test]
    fn callers_cause_no_warnings_by_envelopes_that_a_node_refuses() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        tracing::subscriber::with_default(LineRecorder(lines.clone()), || {
            let refused = NodeError::Refused(Status::invalid_argument("a topic of nodes"));
            log_failure(OriginatorId(100), 1, &refused);
            log_failure(OriginatorId(100), 1, &NodeError::NotCalled(Box::new(refused)));
            log_failure(OriginatorId(100), 1, &NodeError::WentDown);
            log_failure(OriginatorId(100), 1, &NodeError::Failed(Status::internal("a disk")));
        });
        let (refusal, failure) = ((Level::DEBUG, false), (Level::WARN, true));
        assert_eq!(*lines.lock(), [refusal, refusal, failure, failure]);
    }
}
