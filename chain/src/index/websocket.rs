//! Opens a WebSocket to an endpoint of a chain, with bounds on its messages.

use alloy::providers::{DynProvider, Provider as _, ProviderBuilder, WsConnect};
use alloy::pubsub::{ConnectionHandle, PubSubConnect};
use alloy::transports::ws::WebSocketConfig;
use alloy::transports::{TransportErrorKind, TransportResult};
use hawser_proto::{one_line, root_cause};

use crate::send::install_cryptography;

/// The longest message in bytes. A guess: four times the text of the longest log of the contracts that are read. A
/// longer message closes the connection, and polling finds the announced blocks.
pub(super) const MESSAGE_LEN_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The most bytes that wait to be sent. A guess: some times the longest request, and more than the 128 KiB that the
/// library gathers before it writes. An endpoint that sends pings and reads nothing would fill the memory with the
/// answers: beyond this, only the last one is kept.
const UNSENT_BYTES_MAX: usize = 1024 * 1024;

/// Error of using a WebSocket of a chain. Its text has one line and no URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The endpoint serves another chain.
    #[error("the endpoint serves chain {found} instead of {expected}")]
    WrongChain {
        /// The endpoint's chain id.
        found: u64,
        /// The expected chain id.
        expected: u64,
    },
    /// The endpoint cannot be used for the given reason.
    #[error("{0}")]
    Unusable(String),
}

impl PushError {
    /// Creates the error of a request. The endpoint is not trusted, and its text is cut to one line.
    pub(super) fn of(error: &dyn std::error::Error) -> Self {
        Self::Unusable(one_line(&root_cause(error)))
    }
}

/// A WebSocket that is not opened again after it has ended. alloy would open one again at once, as often as it ends
/// after its handshake, so that an endpoint could have that done hundreds of times a second. Callers reconnect by
/// themselves, with pauses, because they also choose between several URLs.
struct OpenedOnce(WsConnect);

impl PubSubConnect for OpenedOnce {
    fn is_local(&self) -> bool {
        self.0.is_local()
    }

    async fn connect(&self) -> TransportResult<ConnectionHandle> {
        self.0.connect().await
    }

    async fn try_reconnect(&self) -> TransportResult<ConnectionHandle> {
        Err(TransportErrorKind::non_retryable_str("the connection has ended"))
    }
}

/// Connects to a WebSocket and checks the chain that it serves. The connection is not opened again after it has ended.
/// The caller limits the time.
///
/// # Errors
/// The text of the endpoint, or of the connection; or that the endpoint serves another chain.
pub(super) async fn connect(url: &str, chain_id: u64) -> Result<DynProvider, PushError> {
    install_cryptography();
    let bounds = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_LEN_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_LEN_BYTES_MAX))
        .max_write_buffer_size(UNSENT_BYTES_MAX);
    let connect = OpenedOnce(WsConnect::new(url).with_config(bounds));
    let builder = ProviderBuilder::new().disable_recommended_fillers();
    let provider = builder.connect_pubsub_with(connect).await;
    let provider = provider.map_err(|error| PushError::of(&error))?.erased();
    check_chain(&provider, chain_id).await?;
    Ok(provider)
}

/// Checks the chain that an open WebSocket serves. The caller limits the time.
///
/// # Errors
/// The errors of [`connect`].
pub(super) async fn check_chain(provider: &DynProvider, chain_id: u64) -> Result<(), PushError> {
    let found = provider.get_chain_id().await.map_err(|error| PushError::of(&error))?;
    if found == chain_id {
        Ok(())
    } else {
        Err(PushError::WrongChain { found, expected: chain_id })
    }
}
