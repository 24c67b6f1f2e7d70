//! This node's membership in the network, which peers may see earlier or later than this node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_engine::ports::Registry;
use hawser_proto::OriginatorId;
use tokio::sync::watch;

use crate::registry_change;

/// The time after a change of this node's membership in which a peer's registry may differ. Specified in
/// `docs/protocol/replication.md`: a minute between two readings, with room.
const DIFFERS_MAX: Duration = Duration::from_secs(90);
/// The longest pause in that time. Specified there.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// This node's membership, and the time of its last change. A peer whose registry differs refuses this node's token,
/// and so every call.
pub(super) struct OwnMembership {
    own: OriginatorId,
    registry: watch::Receiver<Arc<Registry>>,
    is_member: bool,
    changed: Option<Instant>,
}

impl OwnMembership {
    /// Begins with the membership of now, as if it were an old one.
    pub(super) fn new(own: OriginatorId, registry: watch::Receiver<Arc<Registry>>) -> Self {
        let is_member = registry.borrow().member(own).is_some();
        Self { own, registry, is_member, changed: None }
    }

    /// Returns a pause before the next attempt, bounded if the peer's registry may differ.
    pub(super) fn bounded(&mut self, pause: Duration, now: Instant) -> Duration {
        let is_member = self.registry.borrow().member(self.own).is_some();
        if is_member != self.is_member {
            (self.is_member, self.changed) = (is_member, Some(now));
        }
        let is_recent = |at: Instant| now.saturating_duration_since(at) < DIFFERS_MAX;
        if self.changed.is_some_and(is_recent) { pause.min(PAUSE_MAX) } else { pause }
    }

    /// Waits until the membership is another one than at the last pause.
    pub(super) async fn change(&mut self) {
        let (own, before) = (self.own, self.is_member);
        let is_other = |nodes: &Arc<Registry>| nodes.member(own).is_some() != before;
        registry_change::wait_for(&mut self.registry, is_other).await;
    }
}

#[cfg(test)]
mod tests {
    use hawser_engine::ports::NodeRecord;
    use hawser_proto::SecretKey;
    use tokio::time::timeout;

    use super::*;

    const OWN: OriginatorId = OriginatorId(100);

    fn registry(canonical: bool) -> Arc<Registry> {
        let public_key = SecretKey::from_bytes(&[1; 32]).unwrap().public_key();
        let owner = public_key.address();
        let (http_address, quic_address) = (None, None);
        let record =
            NodeRecord { id: OWN, public_key, owner, http_address, quic_address, canonical };
        Arc::new([record].into_iter().collect())
    }

    /// Peers read the registry once a minute, each at another time.
    #[test]
    fn after_this_node_has_joined_or_left_pauses_are_short_until_peers_know() {
        let long = Duration::from_secs(60);
        let sender = watch::Sender::new(registry(false));
        let mut membership = OwnMembership::new(OWN, sender.subscribe());
        let mut now = Instant::now();
        assert_eq!(membership.bounded(long, now), long);
        for canonical in [true, false] {
            sender.send_replace(registry(canonical));
            assert_eq!(membership.bounded(long, now), PAUSE_MAX);
            let second = Duration::from_secs(1);
            assert_eq!(membership.bounded(second, now), second, "a shorter one stays");
            now += DIFFERS_MAX - second;
            // A change of another record is none of this node's membership.
            sender.send_replace(registry(canonical));
            assert_eq!(membership.bounded(long, now), PAUSE_MAX);
            now += second;
            assert_eq!(membership.bounded(long, now), long);
        }
    }

    #[tokio::test]
    async fn a_change_of_the_membership_ends_a_pause_and_no_other_change_does() {
        let sender = watch::Sender::new(registry(false));
        let mut membership = OwnMembership::new(OWN, sender.subscribe());
        sender.send_replace(registry(false));
        assert!(timeout(Duration::ZERO, membership.change()).await.is_err());
        sender.send_replace(registry(true));
        membership.change().await;
        let now = Instant::now();
        membership.bounded(Duration::ZERO, now);
        assert!(timeout(Duration::ZERO, membership.change()).await.is_err(), "it is noted");
        drop(sender);
        assert!(timeout(Duration::ZERO, membership.change()).await.is_err(), "it stays");
    }
}
