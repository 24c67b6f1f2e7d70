//! A chain without a listener.

use super::node::EmbeddedNode;
use super::protocol;
use super::session::Session;
use super::settings::{EmbeddedSettings, EmbeddedStartError};

/// A chain that is handed its JSON-RPC messages one by one: for fuzzing, and wherever a socket would
/// only be in the way. Blocks come on demand or when asked for; nothing happens by itself.
#[derive(Debug)]
pub struct OfflineChain {
    node: EmbeddedNode,
    session: Session,
}

impl OfflineChain {
    /// Opens the chain that the settings describe. Where to listen is not looked at.
    ///
    /// # Errors
    /// If the folder or the genesis will not do.
    pub fn open(settings: &EmbeddedSettings) -> Result<Self, EmbeddedStartError> {
        Ok(Self { node: EmbeddedNode::open(settings)?, session: Session::pushing() })
    }

    /// What a message is answered: nothing if it holds notifications alone.
    pub fn answer(&mut self, message: &[u8]) -> Option<String> {
        protocol::answer(&self.node, &mut self.session, message)
    }

    /// What subscriptions made through this have to be told since the last time.
    pub fn news(&mut self) -> Vec<String> {
        let mut messages = Vec::new();
        while let Ok(news) = self.session.news(&self.node) {
            messages.extend(news.messages);
            if !news.more {
                break;
            }
        }
        messages
    }
}
