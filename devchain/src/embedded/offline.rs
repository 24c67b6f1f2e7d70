//! A chain without a listener.

use super::node::EmbeddedNode;
use super::protocol;
use super::session::Session;
use super::settings::{EmbeddedSettings, EmbeddedStartError};

/// A chain without a listener that answers JSON-RPC messages one by one, for fuzzing and for tests without a socket.
///
/// It makes blocks on demand or by request, never at an interval.
#[derive(Debug)]
pub struct OfflineChain {
    node: EmbeddedNode,
    session: Session,
}

impl OfflineChain {
    /// Opens the chain of the settings, whose listen address is ignored.
    ///
    /// # Errors
    /// Fails if the folder or the genesis is unusable.
    pub fn open(settings: &EmbeddedSettings) -> Result<Self, EmbeddedStartError> {
        Ok(Self { node: EmbeddedNode::open(settings)?, session: Session::pushing() })
    }

    /// Answers a message. Returns `None` if it contains only notifications.
    pub fn answer(&mut self, message: &[u8]) -> Option<String> {
        protocol::answer(&self.node, &mut self.session, message)
    }

    /// Returns the notifications of this chain's subscriptions since the last call.
    pub fn take_notifications(&mut self) -> Vec<String> {
        let mut messages = Vec::new();
        while let Ok(news) = self.session.poll_notifications(&self.node) {
            messages.extend(news.messages);
            if !news.more {
                break;
            }
        }
        messages
    }
}
