//! The ports of the API, bound before anything is served at them.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::start_error::ApiStartError;

/// The bound ports of clients and of operators. Callers that connect wait until [`start_on`](crate::start_on) serves
/// them, and are refused once this is dropped.
#[derive(Debug)]
pub struct BoundPorts {
    /// `None`: no clients are served.
    pub(crate) api: Option<BoundPort>,
    /// `None`: no operators are served.
    pub(crate) operators: Option<BoundPort>,
}

/// A bound port.
#[derive(Debug)]
pub(crate) struct BoundPort {
    /// The address as configured.
    pub(crate) address: SocketAddr,
    /// The listener, which nothing accepts from yet.
    pub(crate) listener: TcpListener,
}

impl BoundPorts {
    /// Binds the addresses for clients and for operators.
    ///
    /// # Errors
    /// [`ApiStartError::Listen`] with the first address that cannot be bound.
    pub async fn bind(
        api: Option<SocketAddr>,
        operators: Option<SocketAddr>,
    ) -> Result<Self, ApiStartError> {
        let api = bind(api).await?;
        Ok(Self { api, operators: bind(operators).await? })
    }
}

async fn bind(address: Option<SocketAddr>) -> Result<Option<BoundPort>, ApiStartError> {
    let Some(address) = address else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    let listener = bound.map_err(|source| ApiStartError::Listen { address, source })?;
    Ok(Some(BoundPort { address, listener }))
}
