//! Validates identity updates before they are sent to the chain, where an invalid update costs gas and is then
//! dropped by every node. The rules are injected as [`IdentityCheck`]; the log of an inbox comes from nodes.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId, InboxId, OriginatorId, Topic, TopicKind};
use hawser_serve::MESSAGE_LEN_BYTES_MAX;
use hawser_validation::limits::ACTIONS_PER_TURN;
use hawser_validation::precheck::{InboxPrecheck, UpdatePrecheck};
use prost::Message as _;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Code;

pub use hawser_validation::precheck::{BrokenLogError, CheckTurn, PrecheckCaller, VouchError};

use crate::fair::{FairGate, GateFullError, TenantGate, TenantPass};
use crate::inbox_log::LogUpdate;
pub(crate) use crate::log_nodes::{CheckedUpdates, JudgeError, PlacedUpdate, UpdateError};
use crate::log_nodes::{UPDATES_PER_INBOX_MAX, by_all, first_valid};
use crate::nodes::{ExpectedEnvelope, Node, Nodes, query_log, query_place, with_own_buffers};
use crate::policy::CallerId;

/// Time for a node to return the log of an inbox. A guess.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the contract wallets of all updates of a request together. Chosen: the time of one RPC request.
const WALLETS_TIMEOUT: Duration = Duration::from_secs(10);
/// Length up to which the log of an inbox is read without a place among the long ones, bytes. A guess: usual logs
/// have some kilobytes.
const USUAL_LOG_LEN_BYTES_MAX: usize = 1024 * 1024;
/// Gate for longer logs: all requests together read and judge this many at once, and callers take turns. The bound
/// is needed because the memory, several times the log, is charged to no caller. A guess.
static LONG_LOGS: LazyLock<FairGate> = LazyLock::new(|| FairGate::new(LONG_LOGS_MAX));
const LONG_LOGS_MAX: usize = 2;
/// Time to wait for a place at that gate. A guess.
const LONG_LOG_TIMEOUT: Duration = Duration::from_secs(5);
/// Gate for inboxes: all requests together judge this many at once, from the first query for a log on, and callers
/// take turns. A guess: their logs take some hundred MiB at most, and enough blocking threads stay free for other
/// work.
static JUDGED_AT_ONCE: LazyLock<FairGate> = LazyLock::new(|| FairGate::new(JUDGED_MAX));
const JUDGED_MAX: usize = 16;
/// Gate for cores: all judgements together work on this many at once, and callers take turns of bounded work. Chosen:
/// half of the cores, so that the other half is there for all other work.
static CORES: LazyLock<FairGate> = LazyLock::new(|| FairGate::new(cores_max()));
/// Largest number of further nodes that are asked to confirm an envelope. A guess: among so many nodes, one is honest
/// and has the envelope.
const CONFIRMED_BY_MAX: usize = 3;
/// Inboxes of one request that are judged at once. A guess.
pub(crate) const INBOXES_AT_ONCE: usize = 16;

/// Validates identity updates.
pub trait IdentityCheck: Send + Sync + 'static {
    /// Returns the check of one inbox, with an empty log.
    fn open(&self, inbox: InboxId) -> Box<dyn InboxCheck>;

    /// Asks the contract wallets in `update` whether they have signed it. An update whose wallets nodes cannot ask
    /// waits at the nodes, and delays all later updates of its inbox; this call refuses it before it is on the
    /// chain.
    ///
    /// # Errors
    /// [`VouchError`] if a wallet denies the signature or cannot be asked, or if `caller` or its tenant has used up its
    /// calls to wallets.
    fn wallets<'a>(
        &'a self,
        caller: PrecheckCaller<'a>,
        update: &'a IdentityUpdate,
    ) -> BoxFuture<'a, Result<(), VouchError>>;
}

/// Validates the updates of one inbox in their order. Does no I/O, and assumes that every contract wallet has
/// signed.
pub trait InboxCheck: Send {
    /// Adds the next update of the inbox's log, as returned by a node, for a turn of bounded work. After
    /// [`CheckTurn::Later`], the next call has to be about the same update.
    ///
    /// # Errors
    /// [`BrokenLogError`] if the update is not valid after the ones before it: the node's answer is not the log of
    /// an inbox. The state does not change then.
    fn add(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, BrokenLogError>;

    /// Checks `update` against the updates before it for a turn of bounded work, and adds it once it is valid. After
    /// [`CheckTurn::Later`], the next call has to be about the same update.
    ///
    /// # Errors
    /// The reason why nodes would drop the update. The state does not change then.
    fn check(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, String>;
}

impl InboxCheck for InboxPrecheck {
    fn add(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, BrokenLogError> {
        Self::add(self, update)
    }

    fn check(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, String> {
        Self::check(self, update)
    }
}

impl IdentityCheck for UpdatePrecheck {
    fn open(&self, _: InboxId) -> Box<dyn InboxCheck> {
        Box::new(InboxPrecheck::default())
    }

    fn wallets<'a>(
        &'a self,
        caller: PrecheckCaller<'a>,
        update: &'a IdentityUpdate,
    ) -> BoxFuture<'a, Result<(), VouchError>> {
        Box::pin(self.ask_wallets(caller, update))
    }
}

/// The identity check as one tenant uses it; a gateway without tenants has one, with an empty name.
pub(crate) struct TenantIdentity {
    check: Arc<dyn IdentityCheck>,
    tenant: Box<str>,
    judged: TenantGate,
    long_logs: TenantGate,
    cores: TenantGate,
}

impl TenantIdentity {
    /// Creates the tenant's use of a check.
    pub(crate) fn new(check: Arc<dyn IdentityCheck>, tenant: &str) -> Self {
        let judged = TenantGate::new(&JUDGED_AT_ONCE, JUDGED_MAX, tenant);
        let long_logs = TenantGate::new(&LONG_LOGS, LONG_LOGS_MAX, tenant);
        let cores = TenantGate::new(&CORES, cores_max(), tenant);
        Self { check, tenant: tenant.into(), judged, long_logs, cores }
    }
}

/// Returns half of the number of cores, at least one.
fn cores_max() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).max(1)
}

/// An identity update of a request.
#[derive(Debug, Clone)]
pub(crate) struct UpdateItem {
    /// Index in the request.
    pub(crate) index: usize,
    /// The client envelope that holds the update.
    pub(crate) client: Bytes,
    pub(crate) update: Arc<IdentityUpdate>,
    /// The update was sent to the chain before. It is not validated again: it would be judged as a replay of
    /// itself.
    pub(crate) is_known: bool,
}

/// Validates the updates of one inbox, in their order, against the log at one node. That node may be behind or lie. So
/// if an update is invalid after the node's log, or if the node returns no log, the other usable nodes are asked in
/// turn. A single log after which all updates are valid suffices. Returns the updates that are on the chain already.
///
/// # Errors
/// [`JudgeError`] if no log makes all updates valid, if no node returns a log in time, or if there are too many updates
/// or waiting requests. The gateway pays no gas for updates that were not judged.
pub(crate) async fn judge(
    identity: &TenantIdentity,
    nodes: &Nodes,
    caller: &CallerId,
    inbox: InboxId,
    updates: Vec<UpdateItem>,
) -> Result<Vec<PlacedUpdate>, JudgeError> {
    let topic = Topic::new(TopicKind::IdentityUpdates, &inbox.0).map_err(|_| JudgeError::NoLog)?;
    let count = updates.len();
    if count > UPDATES_PER_INBOX_MAX {
        return Err(JudgeError::TooMany { count });
    }
    let updates = Arc::new(updates);
    let _turn = identity.judged.enter(caller).await?;
    let first = nodes.choose(&topic, &BTreeSet::new(), None).ok_or(JudgeError::NoLog)?;
    let mut asked = nodes.usable_at_random();
    asked.retain(|node| node.id() != first.id());
    asked.insert(0, first);
    let (of_inbox, all) = (&topic, &updates);
    // Nodes are asked in turn, so that a request holds one log at a time.
    let judged = first_valid(asked, move |node: Arc<Node>| {
        let updates = all.clone();
        Box::pin(async move {
            let Some(log) = log_of(&node, identity, caller, of_inbox).await else {
                return Ok(None);
            };
            judge_with(identity, caller, inbox, log, updates).await
        })
    });
    let (node, placed) = judged.await?;
    Ok(confirmed(nodes, node.id(), placed).await)
}

/// Returns those of `placed` whose envelope a second node shows at the same id, from the same transaction. A single
/// node could invent an envelope to keep the update from ever being sent. If no second node is usable, the first
/// one's answer counts. An update that is not returned here is sent; if it was on the chain nevertheless, nodes
/// drop the second one.
async fn confirmed(
    nodes: &Nodes,
    shown_by: OriginatorId,
    placed: Vec<PlacedUpdate>,
) -> Vec<PlacedUpdate> {
    let others = nodes.usable_at_random().into_iter().filter(|node| node.id() != shown_by);
    let others: Vec<_> = others.take(CONFIRMED_BY_MAX).collect();
    let confirmed = placed.into_iter().map(async |placed| {
        let expected = ExpectedEnvelope::of_shown(&placed.envelope)?;
        if expected.id.originator != OriginatorId::IDENTITY_UPDATES {
            return None;
        }
        let shows = others.iter().map(async |node| {
            let shown = query_place(node, expected.id, &expected.payload);
            let shown = timeout(LOG_TIMEOUT, shown).await.ok().and_then(Result::ok).flatten();
            shown.is_some_and(|shown| expected.matches(&shown).is_some())
        });
        let is_shown = others.is_empty() || join_all(shows).await.contains(&true);
        is_shown.then_some(placed)
    });
    join_all(confirmed).await.into_iter().flatten().collect()
}

/// Asks the contract wallets of all updates, update by update, so that a request cannot cause many calls at once. Takes
/// at most [`WALLETS_TIMEOUT`].
///
/// # Errors
/// The index of the first update whose wallet denies the signature or cannot be asked, with the [`VouchError`].
pub(crate) async fn ask_wallets(
    identity: &TenantIdentity,
    caller: &CallerId,
    updates: impl Iterator<Item = (usize, &IdentityUpdate)>,
) -> Result<(), (usize, VouchError)> {
    let until = Instant::now() + WALLETS_TIMEOUT;
    for (index, update) in updates {
        let late = || VouchError::Unavailable("contract wallets did not answer in time".into());
        let caller = caller.of_tenant(&identity.tenant);
        let answer = timeout_at(until, identity.check.wallets(caller, update)).await;
        answer.unwrap_or_else(|_| Err(late())).map_err(|error| (index, error))?;
    }
    Ok(())
}

/// Validates an update at its place on the chain, against the log before that place at each usable node. Returns
/// one result for each node: `None` if the node returned no log or the update was not judged, and the earlier
/// envelope if equal bytes are in the log already, as a second node confirms.
pub(crate) async fn judge_at_place(
    identity: &TenantIdentity,
    nodes: &Nodes,
    caller: &CallerId,
    inbox: InboxId,
    update: UpdateItem,
    place: EnvelopeId,
) -> Vec<(OriginatorId, Option<CheckedUpdates>)> {
    let Ok(topic) = Topic::new(TopicKind::IdentityUpdates, &inbox.0) else { return Vec::new() };
    let updates = Arc::new(vec![update]);
    let Ok(_turn) = identity.judged.enter(caller).await else { return Vec::new() };
    let (of_inbox, all) = (&topic, &updates);
    let judging = by_all(nodes.usable(), move |node: Arc<Node>| {
        let (id, updates) = (node.id(), all.clone());
        let judging = async move {
            let mut log = log_of(&node, identity, caller, of_inbox).await?;
            log.entries.retain(|entry| entry.id.sequence < place.sequence);
            judge_with(identity, caller, inbox, log, updates).await.ok().flatten()
        };
        (id, Box::pin(judging))
    });
    let confirming = judging.await.into_iter().map(async |(node, checked)| match checked {
        Some(Ok(placed)) => (node, Some(Ok(confirmed(nodes, node, placed).await))),
        checked => (node, checked),
    });
    join_all(confirming).await
}

/// Validates `updates` in their order after the log. Works in turns on threads that may block, because each update may
/// have thousands of signatures; between two turns other callers have the core. Returns `None` if the updates of the
/// log are not those of an inbox: another node has to be asked.
///
/// # Errors
/// [`GateFullError`] if too many tasks of the caller wait for a core.
async fn judge_with(
    identity: &TenantIdentity,
    caller: &CallerId,
    inbox: InboxId,
    log: InboxLog,
    updates: Arc<Vec<UpdateItem>>,
) -> Result<Option<CheckedUpdates>, GateFullError> {
    let mut judgement = UpdatesJudgement::begin(identity.check.open(inbox), log, updates);
    loop {
        let core = identity.cores.enter(caller).await?;
        let turn = move || {
            let end = judgement.turn();
            drop(core);
            // After the last turn the log is dropped here, because it may be long.
            let rest = matches!(end, Ok(None)).then_some(judgement);
            (rest, end)
        };
        match tokio::task::spawn_blocking(turn).await {
            Ok((Some(rest), _)) => judgement = rest,
            Ok((None, Ok(checked))) => return Ok(checked),
            Ok((None, Err(BrokenLogError))) | Err(_) => return Ok(None),
        }
    }
}

/// A judgement of updates after the log of their inbox, in turns.
struct UpdatesJudgement {
    inbox: Box<dyn InboxCheck>,
    log: InboxLog,
    /// Number of updates of the log that are added.
    added: usize,
    updates: Arc<Vec<UpdateItem>>,
    /// Number of updates that are judged.
    judged: usize,
    placed: Vec<PlacedUpdate>,
}

impl UpdatesJudgement {
    fn begin(inbox: Box<dyn InboxCheck>, log: InboxLog, updates: Arc<Vec<UpdateItem>>) -> Self {
        Self { inbox, log, added: 0, updates, judged: 0, placed: Vec::new() }
    }

    /// Goes on for one turn: until some [`ACTIONS_PER_TURN`] actions are added or checked, or a turn of one update is
    /// over. Returns the result after the last turn.
    ///
    /// # Errors
    /// [`BrokenLogError`] if the updates of the log are not those of an inbox.
    fn turn(&mut self) -> Result<Option<CheckedUpdates>, BrokenLogError> {
        let (entries, updates) = (&self.log.entries, &self.updates);
        let mut left = ACTIONS_PER_TURN;
        while left > 0
            && let Some(entry) = entries.get(self.added)
        {
            if self.inbox.add(&entry.update)? == CheckTurn::Later {
                return Ok(None);
            }
            self.added += 1;
            left = left.saturating_sub(entry.update.actions.len().max(1));
        }
        while left > 0
            && let Some(item) = updates.get(self.judged)
        {
            let UpdateItem { index, client, update, is_known } = item;
            let is_repeated = updates.iter().take(self.judged).any(|it| it.client == *client);
            match entries.iter().find(|entry| entry.client == *client) {
                _ if is_repeated => {} // it is sent once
                Some(_) if *is_known => {}
                Some(entry) => {
                    // The place of a long log is free before the request has ended.
                    let (client, envelope) = (client.clone(), with_own_buffers(&entry.envelope));
                    self.placed.push(PlacedUpdate { client, envelope });
                }
                None if *is_known => match self.inbox.add(update) {
                    Ok(CheckTurn::Later) => return Ok(None),
                    Ok(CheckTurn::Done) | Err(BrokenLogError) => {} // nodes drop an invalid one
                },
                None => match self.inbox.check(update) {
                    Ok(CheckTurn::Done) => {}
                    Ok(CheckTurn::Later) => return Ok(None),
                    Err(reason) => return Ok(Some(Err(UpdateError { index: *index, reason }))),
                },
            }
            self.judged += 1;
            left = left.saturating_sub(update.actions.len().max(1));
        }
        let is_over = self.added == entries.len() && self.judged == updates.len();
        Ok(is_over.then(|| Ok(std::mem::take(&mut self.placed))))
    }
}

/// The log of an inbox at a node.
struct InboxLog {
    entries: Vec<LogUpdate>,
    /// The place at the gate for long logs, held as long as the log.
    _place: Option<TenantPass>,
}

/// Returns the log of an inbox at a node; `None` if the node does not answer in time or answers wrongly, or if no
/// place for a long log becomes free in time. The node may lie, and any payer may have made the log long, so its
/// length is bounded in two steps.
async fn log_of(
    node: &Node,
    identity: &TenantIdentity,
    caller: &CallerId,
    topic: &Topic,
) -> Option<InboxLog> {
    let ask = async |len_bytes_max| {
        timeout(LOG_TIMEOUT, query_log(node, topic, len_bytes_max)).await.ok()
    };
    let (envelopes, place) = match ask(USUAL_LOG_LEN_BYTES_MAX).await? {
        Ok(envelopes) => (envelopes, None),
        Err(status) if status.code() == Code::OutOfRange => {
            let place = timeout(LONG_LOG_TIMEOUT, identity.long_logs.enter(caller));
            let place = place.await.ok()?.ok()?;
            (ask(MESSAGE_LEN_BYTES_MAX).await?.ok()?, Some(place))
        }
        Err(_) => return None,
    };
    let read = |envelope: Bytes| LogUpdate::read(OriginatorEnvelope::decode(envelope).ok()?);
    let parse = move || envelopes.into_iter().map(read).collect();
    let entries: Option<Vec<_>> = match place {
        None => parse(),
        Some(_) => tokio::task::spawn_blocking(parse).await.ok()?,
    };
    Some(InboxLog { entries: entries?, _place: place })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::join;
    use hawser_proto::SequenceId;
    use hawser_proto::pb::xmtp::identity::associations::IdentityAction;
    use parking_lot::Mutex;

    use super::*;

    /// The numbers of updates in the order of the calls about them.
    type Calls = Arc<Mutex<Vec<u64>>>;

    /// An identity check for which an update takes as many turns as its number says.
    struct Noting(Calls);

    struct NotingInbox {
        calls: Calls,
        turns: u64,
    }

    impl IdentityCheck for Noting {
        fn open(&self, _: InboxId) -> Box<dyn InboxCheck> {
            Box::new(NotingInbox { calls: self.0.clone(), turns: 0 })
        }

        fn wallets<'a>(
            &'a self,
            _: PrecheckCaller<'a>,
            _: &'a IdentityUpdate,
        ) -> BoxFuture<'a, Result<(), VouchError>> {
            async { Ok(()) }.boxed()
        }
    }

    impl InboxCheck for NotingInbox {
        fn add(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, BrokenLogError> {
            self.turn(update)
        }

        fn check(&mut self, update: &Arc<IdentityUpdate>) -> Result<CheckTurn, String> {
            self.turn(update).map_err(|error| error.to_string())
        }
    }

    impl NotingInbox {
        fn turn(&mut self, update: &IdentityUpdate) -> Result<CheckTurn, BrokenLogError> {
            self.calls.lock().push(update.client_timestamp_ns);
            self.turns += 1;
            if self.turns < update.client_timestamp_ns {
                return Ok(CheckTurn::Later);
            }
            self.turns = 0;
            Ok(CheckTurn::Done)
        }
    }

    fn update(number: u64, actions: usize) -> IdentityUpdate {
        let actions = vec![IdentityAction::default(); actions];
        IdentityUpdate { actions, client_timestamp_ns: number, ..IdentityUpdate::default() }
    }

    fn item(number: u64) -> UpdateItem {
        let (client, update) = (Bytes::copy_from_slice(&number.to_be_bytes()), update(number, 1));
        UpdateItem { index: 0, client, update: Arc::new(update), is_known: false }
    }

    #[tokio::test]
    async fn a_long_check_leaves_its_core_to_another_caller_between_turns() {
        let (calls, gate) = (Calls::default(), FairGate::new(1));
        let [judged, long_logs, cores] = [(); 3].map(|()| TenantGate::new(&gate, 1, ""));
        let check = Arc::new(Noting(calls.clone()));
        let identity = TenantIdentity { check, tenant: "".into(), judged, long_logs, cores };
        let [inside, long, short] = ["inside", "long", "short"].map(CallerId::of_name);
        let judged = |caller, turns| {
            let log = InboxLog { entries: Vec::new(), _place: None };
            judge_with(&identity, caller, InboxId([5; 32]), log, Arc::new(vec![item(turns)]))
        };
        let occupied = identity.cores.enter(&inside).await.unwrap();
        let mut both = Box::pin(join(judged(&long, 3), judged(&short, 1)));
        assert!((&mut both).now_or_never().is_none());
        drop(occupied);
        let (of_long, of_short) = both.await;
        for checked in [of_long, of_short] {
            assert!(matches!(checked, Ok(Some(Ok(placed))) if placed.is_empty()));
        }
        assert_eq!(*calls.lock(), [3, 1, 3, 3]);
    }

    fn entry(number: u64, actions: usize) -> LogUpdate {
        let (originator, sequence) = (OriginatorId::IDENTITY_UPDATES, SequenceId(number));
        LogUpdate {
            id: EnvelopeId { originator, sequence },
            client: Bytes::new(),
            update: Arc::new(update(number, actions)),
            envelope: OriginatorEnvelope::default(),
        }
    }

    #[test]
    fn a_turn_adds_a_bounded_part_of_a_log() {
        // An update with the number 1 takes one turn.
        let entries = (0..5).map(|_| entry(1, ACTIONS_PER_TURN / 2)).collect();
        let (calls, log) = (Calls::default(), InboxLog { entries, _place: None });
        let inbox = Noting(calls.clone()).open(InboxId([5; 32]));
        let mut judgement = UpdatesJudgement::begin(inbox, log, Arc::new(vec![item(1)]));
        for added in [2, 4] {
            assert!(matches!(judgement.turn(), Ok(None)));
            assert_eq!(calls.lock().len(), added);
        }
        assert!(matches!(judgement.turn(), Ok(Some(Ok(_)))));
        assert_eq!(*calls.lock(), [1; 6]);
    }

    #[test]
    fn an_update_of_the_log_is_added_in_turns() {
        let (calls, entries) = (Calls::default(), vec![entry(3, 1), entry(2, 1)]);
        let log = InboxLog { entries, _place: None };
        let inbox = Noting(calls.clone()).open(InboxId([5; 32]));
        let known = UpdateItem { is_known: true, ..item(2) };
        let mut judgement = UpdatesJudgement::begin(inbox, log, Arc::new(vec![known]));
        for _ in 0..4 {
            assert!(matches!(judgement.turn(), Ok(None)));
        }
        assert!(matches!(judgement.turn(), Ok(Some(Ok(_)))));
        assert_eq!(*calls.lock(), [3, 3, 3, 2, 2, 2, 2]);
    }
}
