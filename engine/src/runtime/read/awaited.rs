//! The places of chain strands that one subscription waits for, as far as the hub knows them.

use std::sync::Arc;

use hawser_proto::EnvelopeId;

use super::hub::Hub;
use super::listener::Listener;
use crate::read::feed::Feed;

/// The places of chain strands that a listener waits for, at most one for each strand. So a growing
/// strand wakes a stream only when one of its originators can continue.
#[derive(Debug, Default)]
pub(crate) struct AwaitedPlaces(Vec<EnvelopeId>);

impl AwaitedPlaces {
    /// Asks the hub for what the feed waits for now. To be called after each of the feed's inputs.
    pub(crate) fn update(&mut self, feed: &Feed, hub: &Hub, listener: &Arc<Listener>) {
        let awaited = feed.awaited();
        if awaited == self.0 {
            return;
        }
        let before = std::mem::replace(&mut self.0, awaited);
        for place in before.iter().filter(|place| !self.0.contains(place)) {
            hub.stop_waiting(*place, listener);
        }
        for place in self.0.iter().filter(|place| !before.contains(place)) {
            hub.notify_when_reached(*place, listener);
        }
    }

    /// Asks for everything again, because the hub's answers have been dropped.
    pub(crate) fn ask_again(&mut self, hub: &Hub, listener: &Arc<Listener>) {
        self.0.iter().for_each(|place| hub.notify_when_reached(*place, listener));
    }

    /// Takes everything back.
    pub(crate) fn leave(&self, hub: &Hub, listener: &Arc<Listener>) {
        self.0.iter().for_each(|place| hub.stop_waiting(*place, listener));
    }
}
