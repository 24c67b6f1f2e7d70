//! A chain without a listener.

use super::node::EmbeddedNode;
use super::protocol;
use super::session::Session;
use super::settings::{EmbeddedSettings, EmbeddedStartError};

/// A chain that takes its JSON-RPC messages one by one, for fuzzing and for tests that need no socket.
///
/// Makes blocks on demand or when a message asks for one. No interval runs.
#[derive(Debug)]
pub struct OfflineChain {
    node: EmbeddedNode,
    session: Session,
}

impl OfflineChain {
    /// Opens the chain of the settings, and ignores their listen address.
    ///
    /// # Errors
    /// If the folder or the genesis is unusable.
    pub fn open(settings: &EmbeddedSettings) -> Result<Self, EmbeddedStartError> {
        Ok(Self { node: EmbeddedNode::open(settings)?, session: Session::pushing() })
    }

    /// Answers a message. Returns `None` if it holds notifications alone.
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
