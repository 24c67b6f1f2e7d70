//! The state that callers share with the driver's task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::Address;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::outcome::{BroadcastStatus, PayloadBounds};
use super::payload::BroadcasterContracts;
use super::price::GasPrice;
use super::times::TransactionTimes;
use crate::contracts::{GroupMessageBroadcaster, IdentityUpdateBroadcaster};
use crate::endpoints::Endpoints;
use crate::send::{Chain, ViewError};
use crate::spending::CeilingReached;

/// The state of one broadcaster outside its task.
pub(super) struct BroadcasterState {
    pub(super) account: Address,
    pub(super) endpoints: Endpoints,
    pub(super) price: Arc<GasPrice>,
    pub(super) in_flight_max: usize,
    /// The longest payload by the settings, in bytes; 0 leaves the bound to the contracts.
    pub(super) payload_bytes_max: usize,
    pub(super) bounds: watch::Sender<PayloadBounds>,
    pub(super) status: watch::Sender<BroadcastStatus>,
    /// The ceiling that last stopped a transaction, with the time.
    pub(super) ceiling: Mutex<Option<(Instant, CeilingReached)>>,
    /// The time for which another sender of the account has to be quiet; `None` if several may send at the same time.
    pub(super) stand_back: Option<Duration>,
    /// The reason why nothing is sent at present, as text for operators.
    pub(super) halt: Mutex<Option<String>>,
    pub(super) times: TransactionTimes,
}

impl BroadcasterState {
    /// Reads the contracts' payload bounds again. Keeps the current ones if that fails.
    pub(super) async fn refresh_bounds(&self, contracts: BroadcasterContracts) {
        match self.read_bounds(contracts).await {
            Ok(bounds) => {
                self.bounds.send_if_modified(|known| std::mem::replace(known, bounds) != bounds);
            }
            Err(error) => tracing::warn!(%error, "the payload bounds cannot be read again"),
        }
    }

    /// Reads the intersection of the payload bounds of both contracts and of the settings.
    pub(super) async fn read_bounds(
        &self,
        contracts: BroadcasterContracts,
    ) -> Result<PayloadBounds, ViewError> {
        let bounds = self.endpoints.ask(|chain| async move { bounds_at(&chain, contracts).await });
        let PayloadBounds { min, max } = bounds.await?;
        let own = if self.payload_bytes_max == 0 { usize::MAX } else { self.payload_bytes_max };
        Ok(PayloadBounds { min, max: max.min(own) })
    }
}

async fn bounds_at(
    chain: &Chain,
    contracts: BroadcasterContracts,
) -> Result<PayloadBounds, ViewError> {
    let BroadcasterContracts { groups, identities } = contracts;
    let (group_min, group_max, identity_min, identity_max) = tokio::try_join!(
        chain.view(groups, &GroupMessageBroadcaster::minPayloadSizeCall {}),
        chain.view(groups, &GroupMessageBroadcaster::maxPayloadSizeCall {}),
        chain.view(identities, &IdentityUpdateBroadcaster::minPayloadSizeCall {}),
        chain.view(identities, &IdentityUpdateBroadcaster::maxPayloadSizeCall {}),
    )?;
    let (min, max) = (group_min.max(identity_min), group_max.min(identity_max));
    Ok(PayloadBounds { min: min as usize, max: max as usize })
}
