//! Identity updates are judged before they are put on the chain, where a bad one would cost gas and
//! be dropped by every node. Who judges is injected; what is judged against comes from nodes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use hawser_proto::envelope::{Payload, UnsignedOriginatorEnvelope};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_client::ReplicationApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{EnvelopesQuery, QueryEnvelopesRequest};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, Topic, TopicKind};
use hawser_serve::MESSAGE_LEN_BYTES_MAX;
use hawser_validation::precheck::UpdatePrecheck;
use tokio::time::{Instant, timeout, timeout_at};

pub use hawser_validation::precheck::VouchError;

use crate::nodes::{Node, Nodes};

const LOG_TIMEOUT: Duration = Duration::from_secs(2);
const WALLETS_TIMEOUT: Duration = Duration::from_secs(10);
/// So many of one inbox in one request are judged; what is beyond is left to the nodes.
const JUDGED_MAX: usize = 64;

/// Judges an identity update.
pub trait IdentityCheck: Send + Sync + 'static {
    /// Whether `update` is valid after `earlier`, the inbox's log as a node shows it and what
    /// the request has before it, ascending.
    /// Takes its time to compute and waits for nobody: what cannot be told without a chain is
    /// taken to be valid.
    ///
    /// # Errors
    /// Why it is not valid.
    fn check(
        &self,
        inbox: [u8; 32],
        earlier: &[IdentityUpdate],
        update: &IdentityUpdate,
    ) -> Result<(), String>;

    /// Asks the contract wallets that `update` names whether they have signed it. An update that
    /// nodes cannot ask about waits there, and with it all later ones of its inbox.
    fn wallets<'a>(&'a self, update: &'a IdentityUpdate) -> BoxFuture<'a, Result<(), VouchError>>;
}

impl IdentityCheck for UpdatePrecheck {
    fn check(
        &self,
        _: [u8; 32],
        earlier: &[IdentityUpdate],
        update: &IdentityUpdate,
    ) -> Result<(), String> {
        Self::check(self, earlier, update)
    }

    fn wallets<'a>(&'a self, update: &'a IdentityUpdate) -> BoxFuture<'a, Result<(), VouchError>> {
        Box::pin(self.ask_wallets(update))
    }
}

/// An update of a request.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    /// Its place in the request.
    pub(crate) index: usize,
    /// The client envelope that it stands in.
    pub(crate) client: Bytes,
    pub(crate) update: IdentityUpdate,
    /// It is on its way to the chain or there. Judged again it would be a replay of itself.
    pub(crate) is_known: bool,
}

/// An update that its inbox's log has already, like this.
#[derive(Debug)]
pub(crate) struct There {
    pub(crate) client: Bytes,
    pub(crate) envelope: OriginatorEnvelope,
}

/// An update that is not to be sent.
#[derive(Debug)]
pub(crate) struct Invalid {
    pub(crate) index: usize,
    pub(crate) reason: String,
}

/// Those that are there already, if all are valid.
pub(crate) type Judged = Result<Vec<There>, Invalid>;

/// Judges the updates of one inbox, each after those before it, against what a node knows of the
/// inbox. That node may be behind or lie: when it makes one of them invalid the other usable ones
/// are asked, and any of them can make all valid. An inbox that no node tells of is no reason to
/// refuse: nodes judge again.
pub(crate) async fn judge(
    check: &Arc<dyn IdentityCheck>,
    nodes: &Nodes,
    inbox: [u8; 32],
    updates: Vec<Update>,
) -> Judged {
    let Ok(topic) = Topic::new(TopicKind::IdentityUpdates, &inbox) else { return Ok(Vec::new()) };
    let updates = Arc::new(updates);
    let judge_at = async |node: Arc<Node>| {
        judge_at(&node, check.clone(), inbox, &topic, updates.clone()).await
    };
    let Some(first) = nodes.choose(&topic, &BTreeSet::new(), None) else { return Ok(Vec::new()) };
    let invalid = match judge_at(first.clone()).await {
        Some(Err(invalid)) => Some(invalid),
        Some(Ok(there)) => return Ok(there),
        None => None,
    };
    let others = nodes.usable().into_iter().filter(|node| node.id() != first.id());
    let by_others = join_all(others.map(judge_at)).await.into_iter().flatten();
    let (valid, invalid_too): (Vec<_>, Vec<_>) = by_others.partition(Result::is_ok);
    if let Some(valid) = valid.into_iter().next() {
        return valid;
    }
    let invalid = invalid.map(Err).or_else(|| invalid_too.into_iter().next());
    invalid.unwrap_or_else(|| Ok(Vec::new()))
}

/// Has the wallets of updates asked, one after the other: nobody gets many asked at once.
pub(crate) async fn ask_wallets(
    check: &dyn IdentityCheck,
    updates: impl Iterator<Item = (usize, &IdentityUpdate)>,
) -> Result<(), (usize, VouchError)> {
    let until = Instant::now() + WALLETS_TIMEOUT;
    for (index, update) in updates {
        let late = || VouchError::Unavailable("contract wallets did not answer in time".into());
        let answer = timeout_at(until, check.wallets(update)).await;
        answer.unwrap_or_else(|_| Err(late())).map_err(|fault| (index, fault))?;
    }
    Ok(())
}

/// Judges an update once more that is on the chain at this place: against what each usable node
/// shows before it. What the same bytes have become that got there earlier is told as well.
pub(crate) async fn judge_at_place(
    check: &Arc<dyn IdentityCheck>,
    nodes: &Nodes,
    inbox: [u8; 32],
    update: Update,
    place: EnvelopeId,
) -> Vec<(OriginatorId, Option<Judged>)> {
    let Ok(topic) = Topic::new(TopicKind::IdentityUpdates, &inbox) else { return Vec::new() };
    let updates = Arc::new(vec![update]);
    let judged = nodes.usable().into_iter().map(async |node| {
        let Some(mut log) = log_of(&node, &topic).await else { return (node.id(), None) };
        log.retain(|entry| entry.id.sequence < place.sequence);
        (node.id(), judge_with(check.clone(), inbox, log, updates.clone()).await)
    });
    join_all(judged).await
}

/// Judges against what one node knows; none if it does not tell.
async fn judge_at(
    node: &Node,
    check: Arc<dyn IdentityCheck>,
    inbox: [u8; 32],
    topic: &Topic,
    updates: Arc<Vec<Update>>,
) -> Option<Judged> {
    let log = log_of(node, topic).await?;
    judge_with(check, inbox, log, updates).await
}

async fn judge_with(
    check: Arc<dyn IdentityCheck>,
    inbox: [u8; 32],
    log: Vec<Entry>,
    updates: Arc<Vec<Update>>,
) -> Option<Judged> {
    let judging = tokio::task::spawn_blocking(move || judge_after(&*check, inbox, log, &updates));
    judging.await.ok()
}

fn judge_after(
    check: &dyn IdentityCheck,
    inbox: [u8; 32],
    log: Vec<Entry>,
    updates: &[Update],
) -> Judged {
    let mut earlier: Vec<_> = log.iter().map(|entry| entry.update.clone()).collect();
    let mut there = Vec::new();
    let mut judged: Vec<&Bytes> = Vec::new();
    for Update { index, client, update, is_known } in updates.iter().take(JUDGED_MAX) {
        if judged.contains(&client) {
            continue; // the same once more is sent once
        }
        judged.push(client);
        if let Some(entry) = log.iter().find(|entry| entry.client == *client) {
            if !is_known {
                let (client, envelope) = (client.clone(), entry.envelope.clone());
                there.push(There { client, envelope });
            }
            continue;
        }
        if !is_known {
            let told = check.check(inbox, &earlier, update);
            told.map_err(|reason| Invalid { index: *index, reason })?;
        }
        earlier.push(update.clone());
    }
    Ok(there)
}

/// One entry of an inbox's log.
struct Entry {
    id: EnvelopeId,
    client: Bytes,
    update: IdentityUpdate,
    envelope: OriginatorEnvelope,
}

async fn log_of(node: &Node, topic: &Topic) -> Option<Vec<Entry>> {
    let query = EnvelopesQuery {
        topics: vec![topic.as_bytes().clone()],
        originator_node_ids: Vec::new(),
        last_seen: None,
    };
    let request = QueryEnvelopesRequest { query: Some(query), limit: 0 };
    let mut client = ReplicationApiClient::new(node.aside.clone())
        .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX);
    let asked = timeout(LOG_TIMEOUT, client.query_envelopes(request)).await;
    asked.ok()?.ok()?.into_inner().envelopes.into_iter().map(entry).collect()
}

fn entry(envelope: OriginatorEnvelope) -> Option<Entry> {
    let unsigned = envelope.unsigned_originator_envelope.clone();
    let statement = UnsignedOriginatorEnvelope::parse(unsigned).ok()?;
    let (id, client) = (statement.id(), statement.payer().client());
    let Payload::IdentityUpdate(update) = client.payload() else { return None };
    Some(Entry { id, client: client.as_bytes().clone(), update: update.clone(), envelope })
}
