//! Validates identity updates before they are sent to the chain, where an invalid update costs gas and is then
//! dropped by every node. The rules are injected as [`IdentityCheck`]; the log of an inbox comes from nodes.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use hawser_proto::envelope::{Payload, UnsignedOriginatorEnvelope};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_client::ReplicationApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{EnvelopesQuery, QueryEnvelopesRequest};
use hawser_proto::{Bytes, EnvelopeId, InboxId, OriginatorId, Topic, TopicKind};
use hawser_serve::MESSAGE_LEN_BYTES_MAX;
use hawser_validation::precheck::{InboxPrecheck, UpdatePrecheck};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Code, Status};

pub use hawser_validation::precheck::{BrokenLogError, PrecheckCaller, VouchError};

use crate::fair::{FairGate, GateFullError, TenantGate, TenantPass};
use crate::nodes::{ExpectedEnvelope, Node, Nodes, all_decoded, query_place};
use crate::policy::CallerId;

/// Time for a node to return the log of an inbox. A guess.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the contract wallets of all updates of a request together. Chosen: the time of one RPC request.
const WALLETS_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest number of updates of one inbox in a request. A guess: clients send a few at most.
const UPDATES_PER_INBOX_MAX: usize = 64;
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
/// Largest number of further nodes that are asked to confirm an envelope. A guess: one of them is honest and has
/// it.
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
    /// Adds the next update of the inbox's log, as returned by a node.
    ///
    /// # Errors
    /// [`BrokenLogError`] if the update is not valid after the ones before it: the node's answer is not the log of
    /// an inbox. The state does not change then.
    fn add(&mut self, update: &IdentityUpdate) -> Result<(), BrokenLogError>;

    /// Checks `update` against the updates before it, and adds it if it is valid.
    ///
    /// # Errors
    /// The reason why nodes would drop the update. The state does not change then.
    fn check(&mut self, update: &IdentityUpdate) -> Result<(), String>;
}

impl InboxCheck for InboxPrecheck {
    fn add(&mut self, update: &IdentityUpdate) -> Result<(), BrokenLogError> {
        Self::add(self, update)
    }

    fn check(&mut self, update: &IdentityUpdate) -> Result<(), String> {
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
}

impl TenantIdentity {
    /// Creates the tenant's use of a check.
    pub(crate) fn new(check: Arc<dyn IdentityCheck>, tenant: &str) -> Self {
        let judged = TenantGate::new(&JUDGED_AT_ONCE, JUDGED_MAX, tenant);
        let long_logs = TenantGate::new(&LONG_LOGS, LONG_LOGS_MAX, tenant);
        Self { check, tenant: tenant.into(), judged, long_logs }
    }
}

/// An identity update of a request.
#[derive(Debug, Clone)]
pub(crate) struct UpdateItem {
    /// Index in the request.
    pub(crate) index: usize,
    /// The client envelope that holds the update.
    pub(crate) client: Bytes,
    pub(crate) update: IdentityUpdate,
    /// The update was sent to the chain before. It is not validated again: it would be judged as a replay of
    /// itself.
    pub(crate) is_known: bool,
}

/// An update that the inbox's log already contains, with its originator envelope.
#[derive(Debug)]
pub(crate) struct PlacedUpdate {
    pub(crate) client: Bytes,
    pub(crate) envelope: OriginatorEnvelope,
}

/// An invalid update.
#[derive(Debug)]
pub(crate) struct InvalidUpdate {
    pub(crate) index: usize,
    pub(crate) reason: String,
}

/// The reason for which the updates of an inbox are not sent to the chain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JudgeError {
    /// One of them is invalid.
    #[error("envelope {}: invalid identity update: {}", .0.index, .0.reason)]
    Invalid(InvalidUpdate),
    /// The request has more updates of the inbox than are judged.
    #[error(
        "the request has {count} updates of one inbox: at most {UPDATES_PER_INBOX_MAX} are accepted at once"
    )]
    TooMany { count: usize },
    /// The caller has too many requests waiting at a gate.
    #[error("{0}")]
    Busy(#[from] GateFullError),
    /// No node returned a valid log of the inbox, so the updates were not judged.
    #[error("no node returns the log of the inbox: try again")]
    NoLog,
}

/// The result of judging updates: those that the log already contains, or the first invalid one.
pub(crate) type CheckedUpdates = Result<Vec<PlacedUpdate>, InvalidUpdate>;

/// Validates the updates of one inbox, in their order, against the log at one node. That node may be behind or lie.
/// So if an update is invalid after its log, or it returns no log, the other usable nodes are asked one after
/// another, and one log after which all updates are valid suffices. Returns the updates that are on the chain
/// already.
///
/// # Errors
/// [`JudgeError`] if no log makes all updates valid, if no node returns a log, or if there are too many updates or
/// waiting requests. The gateway pays no gas for updates that were not judged.
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
    let judge_at = async |node: &Node| {
        let log = log_of(node, identity, caller, &topic).await?;
        judge_with(identity.check.clone(), inbox, log, updates.clone()).await
    };
    let first = nodes.choose(&topic, &BTreeSet::new(), None).ok_or(JudgeError::NoLog)?;
    let invalid = match judge_at(&first).await {
        Some(Err(invalid)) => Some(invalid),
        Some(Ok(placed)) => return Ok(confirmed(nodes, first.id(), placed).await),
        None => None,
    };
    let mut invalid_too = None;
    // One after another, so that a request holds one log at a time.
    for node in nodes.usable().into_iter().filter(|node| node.id() != first.id()) {
        match judge_at(&node).await {
            Some(Ok(placed)) => return Ok(confirmed(nodes, node.id(), placed).await),
            Some(Err(invalid)) => invalid_too = invalid_too.or(Some(invalid)),
            None => {}
        }
    }
    Err(invalid.or(invalid_too).map_or(JudgeError::NoLog, JudgeError::Invalid))
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
    let others = nodes.usable().into_iter().filter(|node| node.id() != shown_by);
    let others: Vec<_> = others.take(CONFIRMED_BY_MAX).collect();
    let confirmed = placed.into_iter().map(async |placed| {
        let expected = ExpectedEnvelope::of_shown(&placed.envelope)?;
        if expected.id.originator != OriginatorId::IDENTITY_UPDATES {
            return None;
        }
        let shows = others.iter().map(async |node| {
            let shown = timeout(LOG_TIMEOUT, query_place(node, expected.id)).await;
            let shown = shown.ok().and_then(Result::ok).flatten();
            shown.is_some_and(|shown| expected.matches(&shown).is_some())
        });
        let is_shown = others.is_empty() || join_all(shows).await.contains(&true);
        is_shown.then_some(placed)
    });
    join_all(confirmed).await.into_iter().flatten().collect()
}

/// Asks the contract wallets of all updates, one update after another, so that one request cannot cause many calls
/// at once. Takes at most [`WALLETS_TIMEOUT`].
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
        let caller = PrecheckCaller { tenant: &identity.tenant, name: caller.name() };
        let answer = timeout_at(until, identity.check.wallets(caller, update)).await;
        answer.unwrap_or_else(|_| Err(late())).map_err(|error| (index, error))?;
    }
    Ok(())
}

/// Validates an update at its place on the chain, against the log before that place at each usable node. Returns
/// one result for each node: `None` if the node returned no log, and the earlier envelope if equal bytes are in the
/// log already.
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
    let judged = nodes.usable().into_iter().map(async |node| {
        let log = log_of(&node, identity, caller, &topic).await;
        let Some(mut log) = log else { return (node.id(), None) };
        log.entries.retain(|entry| entry.id.sequence < place.sequence);
        (node.id(), judge_with(identity.check.clone(), inbox, log, updates.clone()).await)
    });
    join_all(judged).await
}

/// Runs [`judge_after`] on a blocking thread: each update needs several signature checks. Returns `None` if the log
/// is broken.
async fn judge_with(
    check: Arc<dyn IdentityCheck>,
    inbox: InboxId,
    log: InboxLog,
    updates: Arc<Vec<UpdateItem>>,
) -> Option<CheckedUpdates> {
    let judging = move || {
        let judged = judge_after(&*check, inbox, &log.entries, &updates);
        drop(log);
        judged.ok()
    };
    tokio::task::spawn_blocking(judging).await.ok()?
}

/// Validates `updates` in their order after the log.
///
/// # Errors
/// [`BrokenLogError`] if the updates are not the log of an inbox: another node has to be asked.
fn judge_after(
    check: &dyn IdentityCheck,
    inbox: InboxId,
    log: &[LogUpdate],
    updates: &[UpdateItem],
) -> Result<CheckedUpdates, BrokenLogError> {
    let mut inbox = check.open(inbox);
    log.iter().try_for_each(|entry| inbox.add(&entry.update))?;
    let mut placed = Vec::new();
    let mut judged: Vec<&Bytes> = Vec::new();
    for UpdateItem { index, client, update, is_known } in updates {
        if judged.contains(&client) {
            continue; // an equal update in the same request is sent once
        }
        judged.push(client);
        if let Some(entry) = log.iter().find(|entry| entry.client == *client) {
            if !is_known {
                let (client, envelope) = (client.clone(), entry.envelope.clone());
                placed.push(PlacedUpdate { client, envelope });
            }
            continue;
        }
        if *is_known {
            let _ = inbox.add(update); // one that is invalid after this log will be dropped by nodes
        } else if let Err(reason) = inbox.check(update) {
            return Ok(Err(InvalidUpdate { index: *index, reason }));
        }
    }
    Ok(Ok(placed))
}

/// One update in the log of an inbox.
struct LogUpdate {
    id: EnvelopeId,
    client: Bytes,
    update: IdentityUpdate,
    envelope: OriginatorEnvelope,
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
    let usual = ask_log(node, topic, USUAL_LOG_LEN_BYTES_MAX).await?;
    let (envelopes, place) = match usual {
        Ok(envelopes) => (envelopes, None),
        Err(status) if status.code() == Code::OutOfRange => {
            let place = timeout(LONG_LOG_TIMEOUT, identity.long_logs.enter(caller));
            let place = place.await.ok()?.ok()?;
            (ask_log(node, topic, MESSAGE_LEN_BYTES_MAX).await?.ok()?, Some(place))
        }
        Err(_) => return None,
    };
    let parse = move || envelopes.into_iter().map(log_update).collect();
    let entries: Option<Vec<_>> = match place {
        None => parse(),
        Some(_) => tokio::task::spawn_blocking(parse).await.ok()?,
    };
    Some(InboxLog { entries: entries?, _place: place })
}

/// Asks a node for the log of an inbox. A log of more than `len_bytes_max` bytes gives the status OUT_OF_RANGE.
/// Returns `None` if the node does not answer in time.
async fn ask_log(
    node: &Node,
    topic: &Topic,
    len_bytes_max: usize,
) -> Option<Result<Vec<OriginatorEnvelope>, Status>> {
    // Without a limit nodes return the whole log of an inbox (`docs/protocol/api.md`).
    let query = EnvelopesQuery {
        topics: vec![topic.as_bytes().clone()],
        originator_node_ids: Vec::new(),
        last_seen: None,
    };
    let request = QueryEnvelopesRequest { query: Some(query), limit: 0 };
    let mut client = ReplicationApiClient::new(node.query_channel.clone())
        .max_decoding_message_size(len_bytes_max);
    let asked = timeout(LOG_TIMEOUT, client.query_envelopes(request)).await.ok()?;
    Some(asked.and_then(|answer| all_decoded(answer.into_inner().envelopes)))
}

fn log_update(envelope: OriginatorEnvelope) -> Option<LogUpdate> {
    let unsigned = envelope.unsigned_originator_envelope.clone();
    let statement = UnsignedOriginatorEnvelope::parse(unsigned).ok()?;
    let (id, client) = (statement.id(), statement.payer().client());
    let Payload::IdentityUpdate(update) = client.payload() else { return None };
    Some(LogUpdate { id, client: client.as_bytes().clone(), update: update.clone(), envelope })
}
