//! Notices that a chain was started anew, as chains for development are.

use super::PageReader;
use crate::index::context::blocking;
use crate::index::fetch;
use crate::index::walk::{Fork, NEAR};
use crate::send::Chain;

impl PageReader {
    /// Returns true if the chain was started anew: none of the remembered blocks is left, and every endpoint shows
    /// another block in the place of one that the sink read long ago. No reorganisation goes so deep, so what is stored
    /// below may be of the former chain, too. One endpoint alone must not have all of it taken back.
    pub(super) async fn is_anew(&self, fork: &Fork) -> bool {
        if fork.kept > 0 {
            return false;
        }
        let old = match blocking(&self.context.sink, |sink| sink.old_block()).await {
            Ok(Some(old)) if old.number.saturating_add(NEAR) < self.walk.unread() => old,
            Ok(_) | Err(_) => return false,
        };
        let numbers = &[old.number];
        let ask = |chain: Chain| async move { fetch::headers(&chain, numbers, None).await };
        let answers = self.endpoints.each(ask).await;
        let shown = answers.iter().flatten().filter_map(|headers| headers.first());
        let others = shown.filter(|header| header.block != old).count();
        others == answers.len()
    }
}
