//! Finds nodes that store envelopes which they claim to have refused. The gateway publishes a refused envelope at
//! another node, so the payer of a node that lies owes for both, and readers see the envelope twice.
//!
//! The node itself could hide the envelope from the gateway, so others are asked, and some time later: they have what
//! it has shown to its readers. A refusal is believed until then, so that an honest node costs no caller any time.

use std::sync::Arc;
use std::time::Duration;

use hawser_proto::{EnvelopeId, SequenceId};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::arrival;
use super::attempt::AttemptContext;
use super::item::PublishItem;
use super::published::PublishedEnvelopes;
use crate::nodes::{Node, Nodes, PlacedEnvelope};
use crate::sharing::SharedQuery;

/// Time after which other nodes are asked. A guess: nodes replicate within a second.
const ASK_AFTER: Duration = Duration::from_secs(5);
/// Largest number of audits at once; refusals beyond it are not looked at. A guess: honest nodes seldom refuse what
/// another one takes.
const AUDITS_MAX: usize = 16;
/// Largest number of envelopes of an audit. A guess: as many as the topics of one query.
const ENVELOPES_MAX: usize = 64;

/// The audits of refusals. Clones share the bound on their number.
#[derive(Clone)]
pub(super) struct RefusalAudits(Arc<Semaphore>);

impl Default for RefusalAudits {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AUDITS_MAX)))
    }
}

impl RefusalAudits {
    /// Starts an audit of envelopes that a node has refused, and another one has published then. `before` is the newest
    /// sequence id of the node from before it refused them: it may have stored the same bytes long before, and refuse
    /// them because they have expired.
    pub(super) fn begin(
        &self,
        context: &AttemptContext,
        node: Arc<Node>,
        before: SequenceId,
        mut refused: Vec<PublishItem>,
    ) {
        refused.truncate(ENVELOPES_MAX);
        if refused.is_empty() || before == SequenceId::NONE {
            return;
        }
        let Ok(place) = self.0.clone().try_acquire_owned() else { return };
        let (nodes, published) = (context.nodes.clone(), context.published.clone());
        // All are of one request, whose bytes they keep after its answer.
        let held = refused.first().map(|item| item.charge.hold());
        tokio::spawn(async move {
            let _kept = (place, held);
            sleep(ASK_AFTER).await;
            let found = arrival::find_at_others(&nodes, &node, &refused, before).await;
            if found.iter().any(Option::is_some) {
                learn_of_others(&nodes, &refused, &published).await;
            }
            let stored = stored_refusals(&refused, found, before, &published);
            let Some(envelope) = stored.first() else { return };
            node.record_stored_refusal();
            tracing::error!(
                code = "node_stored_what_it_refused",
                node_id = node.id().0,
                %envelope,
                envelopes = stored.len(),
                "a node has stored what it claimed to refuse: the payer owes for it twice"
            );
        });
    }
}

/// Learns where other gateways of this payer have published the envelopes: each of them may have asked the node later.
async fn learn_of_others(nodes: &Nodes, refused: &[PublishItem], published: &PublishedEnvelopes) {
    let Some(share) = nodes.share() else { return };
    let clients = refused.iter().map(|item| item.key).collect();
    let known = share.known(&SharedQuery { clients, ..SharedQuery::default() }).await;
    known.places.iter().for_each(|(client, landed)| published.learn(*client, landed.id));
}

/// Returns the ids of envelopes that were found although their node refused them. Not those that the node may have
/// stored before, or for another request, of this gateway or of one that shares the places of envelopes.
fn stored_refusals(
    refused: &[PublishItem],
    found: Vec<Option<PlacedEnvelope>>,
    before: SequenceId,
    published: &PublishedEnvelopes,
) -> Vec<EnvelopeId> {
    let is_stored = |(item, found): (&PublishItem, Option<PlacedEnvelope>)| {
        let id = found.and_then(|placed| placed.id)?;
        (id.sequence > before && !published.may_be_at(item.key, id.originator)).then_some(id)
    };
    refused.iter().zip(found).filter_map(is_stored).collect()
}
