//! Validates identity updates before they are put on the chain, where an invalid one would cost gas
//! and be dropped by every node. The rules are injected ([`IdentityCheck`]); the log of an inbox comes
//! from nodes.

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

pub use hawser_validation::precheck::{BrokenLogError, VouchError};

use crate::fair::{FairGate, Pass, TooManyWait};
use crate::nodes::{ExpectedEnvelope, Node, Nodes, query_place};
use crate::policy::CallerId;

/// Time for a node to return the log of an inbox. A guess.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for all contract wallets of a request together: that of one RPC request.
const WALLETS_TIMEOUT: Duration = Duration::from_secs(10);
/// Updates of one inbox in one request. A guess: clients send a few at most.
const UPDATES_PER_INBOX_MAX: usize = 64;
/// Length of a log in bytes up to which any number of them is taken in at once. A guess: inboxes have some kilobytes.
const USUAL_LOG_LEN_BYTES_MAX: usize = 1024 * 1024;
/// Longer logs that are taken in and judged at once, by all requests together: the memory, several times the log, is
/// charged to no caller. Callers have their turns. Guess.
static LONG_LOGS: LazyLock<FairGate> = LazyLock::new(|| FairGate::new(2));
/// Time to wait for a place among them. Guess.
const LONG_LOG_TIMEOUT: Duration = Duration::from_secs(5);
/// Inboxes that are judged at once, from the question for the first log on; others wait, and callers have their turns. A guess:
/// their logs take some hundred MiB at most, and they leave threads for reading disks.
static JUDGED_AT_ONCE: LazyLock<FairGate> = LazyLock::new(|| FairGate::new(16));
/// Nodes that are asked for an envelope that another one shows. A guess: one of them is honest and has it.
const CONFIRMED_BY_MAX: usize = 3;
/// Inboxes of one request that are judged at once. Guess.
pub(crate) const INBOXES_AT_ONCE: usize = 16;

/// Validates identity updates.
pub trait IdentityCheck: Send + Sync + 'static {
    /// Returns the check of one inbox, which knows no update yet.
    fn open(&self, inbox: InboxId) -> Box<dyn InboxCheck>;

    /// Asks the contract wallets that `update` of a caller names whether they have signed it. An update that
    /// nodes cannot ask about waits there, and with it all later ones of its inbox.
    ///
    /// # Errors
    /// When a wallet refuses or cannot be asked, and when the caller has had too many asked lately.
    fn wallets<'a>(
        &'a self,
        caller: &'a str,
        update: &'a IdentityUpdate,
    ) -> BoxFuture<'a, Result<(), VouchError>>;
}

/// Validates the updates of one inbox in their order. Computes and does no I/O; takes every contract wallet to
/// agree.
pub trait InboxCheck: Send {
    /// Adds the next update of the inbox's log, as a node shows it.
    ///
    /// # Errors
    /// When it cannot have been valid there: the node shows no log of an inbox. Nothing changes then.
    fn add(&mut self, update: &IdentityUpdate) -> Result<(), BrokenLogError>;

    /// Checks that `update` is valid after the ones before it, and adds it if it is.
    ///
    /// # Errors
    /// The reason for which nodes would drop the update.
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
        caller: &'a str,
        update: &'a IdentityUpdate,
    ) -> BoxFuture<'a, Result<(), VouchError>> {
        Box::pin(self.ask_wallets(caller, update))
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
    /// The update is on its way to the chain or there. Validated again it would be a replay of itself.
    pub(crate) is_known: bool,
}

/// An update that the inbox's log has already, with its envelope.
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

/// Why the updates of an inbox are not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JudgeError {
    /// One of them is invalid.
    #[error("envelope {}: invalid identity update: {}", .0.index, .0.reason)]
    Invalid(InvalidUpdate),
    /// There are too many of them to be judged.
    #[error(
        "the request has {count} updates of one inbox: at most {UPDATES_PER_INBOX_MAX} are accepted at once"
    )]
    TooMany { count: usize },
    /// Too many requests of the caller wait to be judged.
    #[error("{0}")]
    Busy(#[from] TooManyWait),
    /// No node returns the log of the inbox, so they cannot be judged.
    #[error("no node returns the log of the inbox: try again")]
    NoLog,
}

/// If all updates are valid, those that the log has already.
pub(crate) type CheckedUpdates = Result<Vec<PlacedUpdate>, InvalidUpdate>;

/// Validates the updates of one inbox, each after those before it, against the log at one node. That
/// node may be behind or lie: when an update is invalid there, or the node returns no log, the other usable
/// nodes are asked, and one log that makes all updates valid suffices.
///
/// # Errors
/// When no log makes all of them valid, or no node supplies a log: updates that were not judged are not paid for.
pub(crate) async fn judge(
    check: &Arc<dyn IdentityCheck>,
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
    let _turn = JUDGED_AT_ONCE.enter(caller).await?;
    let judge_at = async |node: &Node| {
        let log = log_of(node, caller, &topic).await?;
        judge_with(check.clone(), inbox, log, updates.clone()).await
    };
    let first = nodes.choose(&topic, &BTreeSet::new(), None).ok_or(JudgeError::NoLog)?;
    let invalid = match judge_at(&first).await {
        Some(Err(invalid)) => Some(invalid),
        Some(Ok(placed)) => return Ok(confirmed(nodes, first.id(), placed).await),
        None => None,
    };
    let mut invalid_too = None;
    // One after another: a request holds one log at a time.
    for node in nodes.usable().into_iter().filter(|node| node.id() != first.id()) {
        match judge_at(&node).await {
            Some(Ok(placed)) => return Ok(confirmed(nodes, node.id(), placed).await),
            Some(Err(invalid)) => invalid_too = invalid_too.or(Some(invalid)),
            None => {}
        }
    }
    Err(invalid.or(invalid_too).map_or(JudgeError::NoLog, JudgeError::Invalid))
}

/// Returns those of the envelopes that a second node shows in the same place, from the same transaction. One node could
/// have made up an envelope, so that the update is never sent. Without a second node the first is
/// believed. An update whose envelope is left out is sent; if it was there all the same, nodes drop the second one.
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

/// Asks the contract wallets of all updates, one after another, so that a request cannot have many
/// asked at once. Returns the index of the update that failed.
pub(crate) async fn ask_wallets(
    check: &dyn IdentityCheck,
    caller: &CallerId,
    updates: impl Iterator<Item = (usize, &IdentityUpdate)>,
) -> Result<(), (usize, VouchError)> {
    let until = Instant::now() + WALLETS_TIMEOUT;
    for (index, update) in updates {
        let late = || VouchError::Unavailable("contract wallets did not answer in time".into());
        let answer = timeout_at(until, check.wallets(caller.name(), update)).await;
        answer.unwrap_or_else(|_| Err(late())).map_err(|error| (index, error))?;
    }
    Ok(())
}

/// Validates an update at its place on the chain, against the log before it at each usable node. The
/// result of a node is `None` if it returns no log; it names the envelope if equal bytes got on the
/// chain earlier.
pub(crate) async fn judge_at_place(
    check: &Arc<dyn IdentityCheck>,
    nodes: &Nodes,
    caller: &CallerId,
    inbox: InboxId,
    update: UpdateItem,
    place: EnvelopeId,
) -> Vec<(OriginatorId, Option<CheckedUpdates>)> {
    let Ok(topic) = Topic::new(TopicKind::IdentityUpdates, &inbox.0) else { return Vec::new() };
    let updates = Arc::new(vec![update]);
    let Ok(_turn) = JUDGED_AT_ONCE.enter(caller).await else { return Vec::new() };
    let judged = nodes.usable().into_iter().map(async |node| {
        let Some(mut log) = log_of(&node, caller, &topic).await else { return (node.id(), None) };
        log.entries.retain(|entry| entry.id.sequence < place.sequence);
        (node.id(), judge_with(check.clone(), inbox, log, updates.clone()).await)
    });
    join_all(judged).await
}

/// Validates on a thread that may block: each update costs several signature checks.
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

/// Validates `updates` one after another behind the log.
///
/// # Errors
/// When the log is none of an inbox: another node has to be asked.
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
            let _ = inbox.add(update); // nodes drop one that does not hold behind this log
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
    /// The place of a long one.
    _place: Option<Pass>,
}

/// Returns the log of an inbox at a node; `None` if it does not answer in time, or not correctly, or while too many long
/// logs are judged. The node may lie, and the log may be as long as strangers have made it.
async fn log_of(node: &Node, caller: &CallerId, topic: &Topic) -> Option<InboxLog> {
    let usual = ask_log(node, topic, USUAL_LOG_LEN_BYTES_MAX).await?;
    let (envelopes, place) = match usual {
        Ok(envelopes) => (envelopes, None),
        Err(status) if status.code() == Code::OutOfRange => {
            let place = timeout(LONG_LOG_TIMEOUT, LONG_LOGS.enter(caller)).await.ok()?.ok()?;
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

/// Asks a node for the log of an inbox of at most `len_bytes_max` bytes. A longer one is OUT_OF_RANGE; `None` if it does not
/// answer in time.
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
    Some(asked.map(|answer| answer.into_inner().envelopes))
}

fn log_update(envelope: OriginatorEnvelope) -> Option<LogUpdate> {
    let unsigned = envelope.unsigned_originator_envelope.clone();
    let statement = UnsignedOriginatorEnvelope::parse(unsigned).ok()?;
    let (id, client) = (statement.id(), statement.payer().client());
    let Payload::IdentityUpdate(update) = client.payload() else { return None };
    Some(LogUpdate { id, client: client.as_bytes().clone(), update: update.clone(), envelope })
}
