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
use crate::prices;
use crate::send::{Chain, REQUEST_MAX, ViewError};
use crate::spending::CeilingError;

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
    pub(super) ceiling: Mutex<Option<(Instant, CeilingError)>>,
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

    /// Reads the intersection of the payload bounds of both contracts and of the settings. Every endpoint is asked: one
    /// that states bounds without room must not stop all payloads.
    pub(super) async fn read_bounds(
        &self,
        contracts: BroadcasterContracts,
    ) -> Result<PayloadBounds, ViewError> {
        let asked =
            self.endpoints.each_until_majority(REQUEST_MAX, prices::GRACE, |chain| async move {
                match bounds_at(&chain, contracts).await {
                    Err(ViewError::Rpc(error)) => Err(error),
                    stated => Ok(stated),
                }
            });
        let (mut stated, mut wrong) = (Vec::new(), None);
        for answer in asked.await? {
            match answer {
                Ok(bounds) => stated.push(bounds),
                Err(error) => wrong = Some(error),
            }
        }
        let Some(PayloadBounds { min, max }) = median(&stated) else {
            return Err(wrong.expect("an endpoint has answered, and none states bounds"));
        };
        let own = if self.payload_bytes_max == 0 { usize::MAX } else { self.payload_bytes_max };
        Ok(PayloadBounds { min, max: max.min(own) })
    }
}

/// Returns the median of each bound; of an even number, the wider of the two middle ones. So among three endpoints, one
/// that lies can move a median only to the bound of an honest endpoint, and of two it narrows none. Returns `None`
/// without bounds.
fn median(stated: &[PayloadBounds]) -> Option<PayloadBounds> {
    let sorted = |bound: fn(&PayloadBounds) -> usize| {
        let mut all: Vec<usize> = stated.iter().map(bound).collect();
        all.sort_unstable();
        all
    };
    let (mins, maxes) = (sorted(|it| it.min), sorted(|it| it.max));
    let min = *mins.get(mins.len().checked_sub(1)? / 2)?;
    Some(PayloadBounds { min, max: *maxes.get(maxes.len() / 2)? })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_endpoint_neither_narrows_the_bounds_nor_widens_those_of_two_others() {
        let bounds = |min, max| PayloadBounds { min, max };
        let honest = bounds(78, 200_000);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[honest]), Some(honest));
        for lie in [bounds(0, 0), bounds(9, 9), bounds(usize::MAX, usize::MAX)] {
            assert_eq!(median(&[lie, honest, honest]), Some(honest), "{lie:?}");
            let of_two = median(&[lie, honest]).unwrap();
            assert!(of_two.min <= honest.min && of_two.max >= honest.max, "{lie:?}: {of_two:?}");
        }
    }
}
