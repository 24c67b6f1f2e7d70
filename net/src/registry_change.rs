//! Waiting for a change of the registry.

use std::sync::Arc;

use hawser_engine::ports::Registry;
use tokio::sync::watch;

/// Waits until the registry meets a condition. Never completes if the sender is gone, because the registry then stays
/// as it is.
pub(crate) async fn wait_for(
    registry: &mut watch::Receiver<Arc<Registry>>,
    is_met: impl FnMut(&Arc<Registry>) -> bool,
) {
    if registry.wait_for(is_met).await.is_err() {
        std::future::pending::<()>().await;
    }
}
