//! Opens a WebSocket to an endpoint of a chain, with bounds on its messages.

use alloy::providers::{DynProvider, Provider as _, ProviderBuilder, WsConnect};
use alloy::transports::ws::WebSocketConfig;
use hawser_proto::root_cause;

use crate::send::install_cryptography;

/// The longest message in bytes. A guess: four times the text of the longest log of the contracts that are read. A
/// longer message closes the connection, and polling finds the announced blocks.
pub(super) const MESSAGE_LEN_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Connects to a WebSocket and checks the chain that it serves. The connection is not opened again after it has ended.
/// The caller limits the time.
///
/// # Errors
/// The reason as text of the endpoint, or of the connection, without the URL. The endpoint is not trusted: see
/// [`one_line`](hawser_proto::one_line).
pub(super) async fn connect(url: &str, chain_id: u64) -> Result<DynProvider, String> {
    install_cryptography();
    let bounds = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_LEN_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_LEN_BYTES_MAX));
    // Callers reconnect by themselves, because they also choose between several URLs, which alloy does not.
    let connect = WsConnect::new(url).with_max_retries(1).with_config(bounds);
    let provider = ProviderBuilder::new().disable_recommended_fillers().connect_ws(connect);
    let provider = provider.await.map_err(|error| root_cause(&error))?.erased();
    let served = provider.get_chain_id().await.map_err(|error| root_cause(&error))?;
    if served != chain_id {
        return Err(format!("the endpoint serves chain {served} instead of {chain_id}"));
    }
    Ok(provider)
}
