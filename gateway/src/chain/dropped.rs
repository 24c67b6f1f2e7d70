//! Identity updates that are on the chain and that nodes do not show: another one got there first
//! and made them invalid, or the same one did.

use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use tokio::time::{Instant, sleep};

use super::seen::Expected;
use super::{AGAIN_AFTER, ChainFault, ChainPath, Fate, New};
use crate::identity::{self, There, Update};
use crate::routing::ChainTopic;

type Told = Result<OriginatorEnvelope, ChainFault>;

impl ChainPath {
    /// Waits until a node shows what is on the chain, or it is known that none will.
    pub(super) async fn shown_or_judged(&self, new: &New, expected: &Expected) -> Told {
        let until = Instant::now() + self.shown_timeout;
        let shown = tokio::select! {
            shown = self.shown.wait(&self.nodes, expected, until) => shown,
            told = self.until_judged(new, expected) => return told,
        };
        if let Some(envelope) = shown {
            return Ok(envelope);
        }
        let (hash, sequence_id) = (expected.transaction_hash, expected.id.sequence.0);
        let not_shown = || Err(ChainFault::NotShown { hash, sequence_id });
        self.judged(new, expected, true).await.unwrap_or_else(not_shown)
    }

    async fn until_judged(&self, new: &New, expected: &Expected) -> Told {
        loop {
            sleep(AGAIN_AFTER).await;
            if let Some(told) = self.judged(new, expected, false).await {
                return told;
            }
        }
    }

    /// Judges it where it is on the chain; none as long as it may still be shown. That it is
    /// invalid is believed if nobody finds it valid. A node that is behind may not have what it
    /// builds on: so until it `was_waited_for` all nodes have to say it, one of them with something
    /// in its strand that comes later.
    async fn judged(&self, new: &New, expected: &Expected, was_waited_for: bool) -> Option<Told> {
        let ChainTopic::Inbox(inbox) = new.item.topic else { return None };
        let (check, update) = (self.identity.as_ref()?, new.item.identity_update.as_ref()?);
        // It may build on what comes before it in the request, which nodes may not show yet.
        let builds_on_nothing_open = new.before.as_ref().is_none_or(|before| {
            matches!(*before.borrow(), Fate::Over(Ok(_) | Err(ChainFault::Dropped { .. })))
        });
        if !builds_on_nothing_open {
            return None;
        }
        let update = Update {
            index: new.item.index,
            client: new.item.payload.clone(),
            update: (**update).clone(),
            is_known: false,
        };
        let judged = identity::judge_at_place(check, &self.nodes, inbox, update, expected.id).await;
        let mut there =
            judged.iter().filter_map(|(_, told)| told.as_ref()?.as_ref().ok()).flatten();
        if let Some(There { envelope, .. }) = there.next() {
            return Some(Ok(envelope.clone()));
        }
        let (mut reason, mut is_certain) = (None, was_waited_for);
        for (node, told) in judged {
            match told {
                Some(Ok(_)) => return None,
                Some(Err(invalid)) => {
                    is_certain |= self.shown.is_past(node, expected.id);
                    reason = Some(invalid.reason);
                }
                None if was_waited_for => {}
                None => return None,
            }
        }
        let (hash, sequence_id) = (expected.transaction_hash, expected.id.sequence.0);
        let dropped = |reason| Err(ChainFault::Dropped { hash, sequence_id, reason });
        reason.filter(|_| is_certain).map(dropped)
    }
}
