//! The gateway's access to the app chain.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alloy::signers::local::PrivateKeySigner;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hawser_chain::admin::{AdminError, Contract, WeiPerGas};
use hawser_chain::broadcast::{
    BroadcastError, BroadcastReceipt, BroadcastSettings, BroadcastStartError, Broadcaster,
    IN_FLIGHT, TransactionTimes, WAIT_MAX,
};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::send::Chain;
use hawser_chain::watch::{BalanceWatcher, WatchedAccount};
use hawser_gateway::chain::{
    ChainPublishError, ChainWriter, OnChain, SenderFigures, UnawaitedPayload,
};
use hawser_gateway::routing::ChainTopic;
use hawser_proto::{Bytes, SecretKey, TransactionHash};
use zeroize::Zeroizing;

use crate::error::RunError;
use crate::files::deployment::KnownDeployment;
use crate::settings::GatewayServiceSettings;

/// The time for which another sender of the payer's account has to be quiet before this gateway sends again. A guess:
/// some blocks, and a few requests of a small group of users.
const STAND_BACK: Duration = Duration::from_secs(60);

/// Returns a random additional time of up to a minute, so that of two gateways that have stopped
/// for each other one resumes first.
fn stand_back_more() -> Duration {
    Duration::from_millis(rand::random_range(0..60_000))
}

struct BroadcastWriter {
    broadcaster: Broadcaster,
    endpoints: Endpoints,
    balances: BalanceWatcher,
}

/// Starts a writer for a payer's account. It resumes unfinished transactions of an earlier run, and adds the durations
/// of transactions to `times`.
///
/// # Errors
/// Fails when the address of a contract is missing, or the broadcaster does not start.
pub(super) async fn writer(
    config: &GatewayServiceSettings,
    deployment: &KnownDeployment,
    payer: &SecretKey,
    nonce_record: Option<PathBuf>,
    times: &TransactionTimes,
) -> Result<Arc<dyn ChainWriter>, RunError> {
    let at = |contract| {
        let address = deployment.contracts.get(contract).ok_or(AdminError::NoAddress(contract));
        address.map_err(RunError::from)
    };
    let urls = config.chains.contracts.app.urls.clone();
    let endpoints = Endpoints::new("app", &urls, deployment.app_id).map_err(RunError::usage)?;
    let secret = Zeroizing::new(payer.to_bytes());
    let key = PrivateKeySigner::from_slice(secret.as_slice()).map_err(RunError::failed)?;
    let address = key.address();
    if nonce_record.is_none() && config.redis.is_none() {
        tracing::warn!(
            "--nonce-record is not set: after a crash the gateway does not know which transactions it has sent"
        );
    }
    let settings = BroadcastSettings {
        urls,
        chain_id: deployment.app_id,
        group_message_broadcaster: at(Contract::GroupMessageBroadcaster)?,
        identity_update_broadcaster: at(Contract::IdentityUpdateBroadcaster)?,
        nonce_record,
        payload_bytes_max: config.chain_payload_bytes_max,
        in_flight_max: IN_FLIGHT,
        wait_max: WAIT_MAX,
        spending: config.spending,
        redis: config.redis.clone(),
        stand_back: Some(STAND_BACK + stand_back_more()),
        times: times.clone(),
    };
    let broadcaster = Broadcaster::start(settings, key).await.map_err(not_started)?;
    let account = WatchedAccount { address, fee_token: None };
    let balances = BalanceWatcher::start(endpoints.clone(), account);
    Ok(Arc::new(BroadcastWriter { broadcaster, endpoints, balances }))
}

/// Converts the error of a start. As with a data folder, a record of another process or account is a refusal.
fn not_started(error: BroadcastStartError) -> RunError {
    match error {
        BroadcastStartError::RecordInUse { .. } | BroadcastStartError::OtherRecord { .. } => {
            RunError::refused(error)
        }
        _ => RunError::failed(error),
    }
}

impl ChainWriter for BroadcastWriter {
    fn publish(
        &self,
        topic: ChainTopic,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<OnChain, ChainPublishError>> {
        async move {
            let payload = payload.into();
            let sent = match topic {
                ChainTopic::Group(group) => self.broadcaster.group_message(group, payload).await,
                ChainTopic::Inbox(inbox) => self.broadcaster.identity_update(inbox, payload).await,
            };
            sent.map(on_chain).map_err(publish_error)
        }
        .boxed()
    }

    fn find(
        &self,
        topic: ChainTopic,
        payload: Bytes,
        transaction: TransactionHash,
    ) -> BoxFuture<'_, Option<OnChain>> {
        async move {
            let (payload, hash) = (payload.into(), transaction.0.into());
            let found = match topic {
                ChainTopic::Group(group) => {
                    self.broadcaster.find_group_message(group, payload, hash).await
                }
                ChainTopic::Inbox(inbox) => {
                    self.broadcaster.find_identity_update(inbox, payload, hash).await
                }
            };
            found.map(on_chain)
        }
        .boxed()
    }

    fn next_resumed(&self) -> BoxFuture<'_, Option<UnawaitedPayload>> {
        async move {
            let resumed = self.broadcaster.next_resumed().await?;
            let (payload, on_chain) = (resumed.payload.0, on_chain(resumed.receipt));
            Some(UnawaitedPayload { originator: resumed.originator, payload, on_chain })
        }
        .boxed()
    }

    fn reachable(&self) -> BoxFuture<'_, Result<(), String>> {
        async move {
            let head = |chain: Chain| async move { chain.newest_block().await };
            let asked = self.endpoints.ask(head).await;
            asked.map(drop).map_err(|fault| format!("the app chain does not answer: {fault}"))
        }
        .boxed()
    }

    fn gas_price(&self) -> WeiPerGas {
        self.broadcaster.gas_price()
    }

    fn figures(&self) -> SenderFigures {
        let status = self.broadcaster.status();
        SenderFigures {
            chain_id: self.endpoints.id(),
            gas_prices: self.broadcaster.gas_price_readings(),
            last_nonce: status.last_nonce,
            next_waits: status.lowest_since.map(|since| since.elapsed()),
            balance: self.balances.reading().balances.map(|it| it.native),
        }
    }

    fn ceiling_reached(&self) -> Option<String> {
        self.broadcaster.ceiling_reached().map(|ceiling| ceiling.to_string())
    }

    fn halted(&self) -> Option<String> {
        self.broadcaster.halted()
    }
}

fn on_chain(receipt: BroadcastReceipt) -> OnChain {
    OnChain {
        sequence_id: receipt.sequence_id,
        transaction_hash: TransactionHash(receipt.transaction_hash.0),
        block_time_s: receipt.block_time_s,
    }
}

fn publish_error(error: BroadcastError) -> ChainPublishError {
    let reason = error.to_string();
    match error {
        BroadcastError::TooShort { .. }
        | BroadcastError::TooLong { .. }
        | BroadcastError::WouldRevert(_) => ChainPublishError::Invalid(reason),
        BroadcastError::Paused
        | BroadcastError::NoFunds { .. }
        | BroadcastError::Refused { .. }
        | BroadcastError::Ceiling(_)
        | BroadcastError::Busy { .. }
        | BroadcastError::Rpc(_)
        | BroadcastError::Key { .. }
        | BroadcastError::Record { .. }
        | BroadcastError::Rival { .. }
        | BroadcastError::NotSent { .. }
        | BroadcastError::Ended => ChainPublishError::NotSent(reason),
        BroadcastError::Reverted { hash, .. } => {
            ChainPublishError::Failed { hash: TransactionHash(hash.0), reason }
        }
        BroadcastError::NotMined { hash, .. } | BroadcastError::Open { hash: Some(hash), .. } => {
            ChainPublishError::Pending { hash: TransactionHash(hash.0), reason }
        }
        BroadcastError::Open { hash: None, .. } => ChainPublishError::Open(reason),
        BroadcastError::Unasked { .. } => ChainPublishError::NotSentHere(reason),
        // A success without the event may be a success whose event an endpoint has left out.
        BroadcastError::Unknown { hash } | BroadcastError::NoEvent { hash, .. } => {
            ChainPublishError::Unknown { hash: TransactionHash(hash.0), reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256};

    use super::*;
    use crate::error::RunErrorKind;

    #[test]
    fn a_success_without_the_event_has_an_open_outcome_so_it_is_not_paid_for_twice() {
        let (hash, contract) = (B256::repeat_byte(1), Address::repeat_byte(2));
        let open = publish_error(BroadcastError::NoEvent { hash, contract });
        assert!(matches!(open, ChainPublishError::Unknown { .. }), "{open}");
        let reverted = publish_error(BroadcastError::Reverted { hash, reason: String::new() });
        assert!(matches!(reverted, ChainPublishError::Failed { .. }), "{reverted}");
    }

    /// A caller who is told that nothing was sent may publish the payload elsewhere, and then it is there twice.
    #[test]
    fn what_may_have_been_sent_is_not_called_unsent() {
        let hash = Some(B256::repeat_byte(1));
        let open = |hash| publish_error(BroadcastError::Open { hash, reason: "it has stopped" });
        assert!(matches!(open(hash), ChainPublishError::Pending { .. }), "{}", open(hash));
        assert!(matches!(open(None), ChainPublishError::Open(_)), "{}", open(None));
        let unasked = publish_error(BroadcastError::Unasked { reason: "it is silent".into() });
        assert!(matches!(unasked, ChainPublishError::NotSentHere(_)), "{unasked}");
        let unsent = publish_error(BroadcastError::Ended);
        assert!(matches!(unsent, ChainPublishError::NotSent(_)), "{unsent}");
    }

    #[test]
    fn a_record_of_another_process_is_refused_as_a_data_folder_is() {
        let kind = |error| not_started(error).kind;
        let path = PathBuf::from("nonces");
        let in_use = BroadcastStartError::RecordInUse { path: path.clone() };
        assert_eq!(kind(in_use), RunErrorKind::Refused);
        let ahead = BroadcastStartError::RecordAhead { path, nonce: 7, next: 3 };
        assert_eq!(kind(ahead), RunErrorKind::Failed);
    }
}
