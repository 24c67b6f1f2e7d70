//! `xmtp.mls_validation.v1`: the same judgements for other software, over gRPC.
//!
//! Judging is computing, so it happens on threads of its own, as many at once as there are cores and
//! never more. Whoever calls may be anybody: what one request may cost is bounded.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use hawser_proto::pb::xmtp::identity::MlsCredential;
use hawser_proto::pb::xmtp::identity::api::v1 as identity_api;
use hawser_proto::pb::xmtp::identity::associations as pb;
use hawser_proto::pb::xmtp::mls_validation::v1 as api;
use hawser_proto::{Address, Digest};
use identity_api::verify_smart_contract_wallet_signatures_response::ValidationResponse as WalletResponse;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::identity::{AssociationState, Judgement, WalletQuestion, judge, parse_account_id};
use crate::{group_message, key_package};

/// The most items that one request may hold.
const ITEMS_MAX: usize = 4096;
/// The most actions that the updates of one request may hold.
const ACTIONS_MAX: usize = 16_384;
/// The most contract wallets that one request may have asked.
const WALLETS_MAX: usize = 64;
/// How many of them are asked at once.
const WALLETS_AT_ONCE: usize = 8;
/// How long all of them together may take.
const WALLETS_TIMEOUT: Duration = Duration::from_secs(20);
/// Items that one thread takes at a time.
const CHUNK: usize = 16;

/// What a contract wallet said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalletVerdict {
    /// Whether the signature is the wallet's.
    pub agrees: bool,
    /// The block at which it was asked.
    pub block_number: u64,
}

/// Why a contract wallet could not be asked. It may be possible later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalletUnavailable {
    /// Nobody said where this chain can be reached.
    #[error("no RPC endpoint is configured for chain {0}")]
    NoEndpoint(u64),
    /// The chain did not answer, or not sensibly.
    #[error("chain {chain_id} cannot be asked now: {reason}")]
    NoAnswer {
        /// Which chain.
        chain_id: u64,
        /// What happened.
        reason: String,
    },
}

/// Asks the chains of contract wallets.
#[tonic::async_trait]
pub trait WalletChains: Send + Sync + 'static {
    /// Whether the wallet at `address` agrees to `signature` over `digest` (ERC-1271, ERC-6492), at
    /// this block or at the newest one.
    async fn ask(
        &self,
        chain_id: u64,
        address: Address,
        block_number: Option<u64>,
        digest: Digest,
        signature: Bytes,
    ) -> Result<WalletVerdict, WalletUnavailable>;
}

/// Unix time in seconds.
pub type Clock = dyn Fn() -> u64 + Send + Sync;

/// The service. Clones are the same service.
#[derive(Clone)]
pub struct Validation {
    wallets: Arc<dyn WalletChains>,
    now_unix_s: Arc<Clock>,
    cores: Arc<Semaphore>,
}

impl Validation {
    /// Judges on `cores` threads at once. `now_unix_s` decides which key packages may be used.
    #[must_use]
    pub fn new(wallets: Arc<dyn WalletChains>, now_unix_s: Arc<Clock>, cores: usize) -> Self {
        Self { wallets, now_unix_s, cores: Arc::new(Semaphore::new(cores.max(1))) }
    }

    /// Runs `judgement` where it may take its time.
    async fn compute<T: Send + 'static>(
        &self,
        judgement: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let closed = |_| Status::unavailable("the service is stopping");
        let core = self.cores.clone().acquire_owned().await.map_err(closed)?;
        let judged = tokio::task::spawn_blocking(move || {
            let _core = core;
            judgement()
        });
        judged.await.map_err(|_| Status::internal("the judgement did not end in order"))
    }

    /// Judges every item by itself, on all cores; the answers are in the order of the items.
    async fn each<I: Send + 'static, O: Send + 'static>(
        &self,
        mut items: Vec<I>,
        judgement: impl Fn(I) -> O + Copy + Send + 'static,
    ) -> Result<Vec<O>, Status> {
        if items.len() > ITEMS_MAX {
            return Err(too_many("items", ITEMS_MAX));
        }
        let mut chunks = Vec::new();
        while !items.is_empty() {
            let rest = items.split_off(items.len().min(CHUNK));
            let chunk = std::mem::replace(&mut items, rest);
            let judged = move || chunk.into_iter().map(judgement).collect::<Vec<O>>();
            chunks.push(self.compute(judged));
        }
        let mut outputs = Vec::new();
        let mut judged = stream::iter(chunks).buffered(self.cores.available_permits().max(1));
        while let Some(chunk) = judged.next().await {
            outputs.extend(chunk?);
        }
        Ok(outputs)
    }

    /// The state after all updates, or why one of them does not hold.
    async fn fold(
        &self,
        mut state: Option<AssociationState>,
        updates: Vec<pb::IdentityUpdate>,
        budget: &mut WalletBudget,
    ) -> Result<Option<AssociationState>, Status> {
        let updates = Arc::new(updates);
        let (mut next, mut answers) = (0, Vec::new());
        while next < updates.len() {
            let (list, known) = (updates.clone(), std::mem::take(&mut answers));
            let stretch = self.compute(move || stretch(state, &list, next, &known)).await?;
            (state, next) = (stretch.state, stretch.next);
            match stretch.stopped {
                None => {}
                Some(Judgement::Waiting(questions)) => {
                    answers = self.ask(questions, budget).await?;
                }
                Some(Judgement::Invalid(error)) => {
                    return Err(Status::invalid_argument(error.to_string()));
                }
                Some(Judgement::Valid(_)) => unreachable!("a stretch goes on after these"),
            }
        }
        Ok(state)
    }

    async fn ask(
        &self,
        questions: Vec<WalletQuestion>,
        budget: &mut WalletBudget,
    ) -> Result<Vec<(WalletQuestion, bool)>, Status> {
        budget.take(questions.len())?;
        let asked = stream::iter(questions).map(|question| async move {
            let WalletQuestion { chain_id, address, block_number, digest, signature } =
                question.clone();
            let verdict =
                self.wallets.ask(chain_id, address, Some(block_number), digest, signature).await;
            verdict.map(|verdict| (question, verdict.agrees))
        });
        let mut asked = asked.buffer_unordered(WALLETS_AT_ONCE);
        let answers = async {
            let mut answers = Vec::new();
            while let Some(answer) = asked.next().await {
                answers.push(answer.map_err(|error| Status::unavailable(error.to_string()))?);
            }
            Ok(answers)
        };
        tokio::time::timeout_at(budget.until, answers)
            .await
            .unwrap_or_else(|_| Err(Status::unavailable("contract wallets took too long to ask")))
    }

    async fn verify_wallet(
        &self,
        signature: identity_api::VerifySmartContractWalletSignatureRequestSignature,
    ) -> WalletResponse {
        let refused =
            |error: String| WalletResponse { error: Some(error), ..WalletResponse::default() };
        let (chain_id, address) = match parse_account_id(&signature.account_id) {
            Ok(account) => account,
            Err(error) => return refused(error.to_string()),
        };
        let Ok(digest) = signature.hash.as_ref().try_into() else {
            return refused("a hash has 32 bytes".to_owned());
        };
        let (block, digest) = (signature.block_number, Digest(digest));
        let asked = self.wallets.ask(chain_id, address, block, digest, signature.signature);
        match tokio::time::timeout(WALLETS_TIMEOUT, asked).await {
            Ok(Ok(verdict)) => WalletResponse {
                is_valid: verdict.agrees,
                block_number: Some(verdict.block_number),
                error: None,
            },
            Ok(Err(error)) => refused(error.to_string()),
            Err(_) => refused("the wallet took too long to ask".to_owned()),
        }
    }
}

/// How many more wallets a request may have asked, and until when.
struct WalletBudget {
    left: usize,
    until: tokio::time::Instant,
}

impl WalletBudget {
    fn new() -> Self {
        Self { left: WALLETS_MAX, until: tokio::time::Instant::now() + WALLETS_TIMEOUT }
    }

    fn take(&mut self, count: usize) -> Result<(), Status> {
        self.left = self
            .left
            .checked_sub(count)
            .ok_or_else(|| too_many("contract wallets", WALLETS_MAX))?;
        Ok(())
    }
}

fn too_many(what: &str, max: usize) -> Status {
    Status::invalid_argument(format!("a request may hold {max} {what}; send several"))
}

/// How far a log was folded without asking anybody.
struct Stretch {
    state: Option<AssociationState>,
    /// The first update that was not applied.
    next: usize,
    /// Why not.
    stopped: Option<Judgement>,
}

/// Folds from update `next` on. `answers` are for that one.
fn stretch(
    mut state: Option<AssociationState>,
    updates: &[pb::IdentityUpdate],
    next: usize,
    answers: &[(WalletQuestion, bool)],
) -> Stretch {
    let answer = |question: &WalletQuestion| {
        answers.iter().find(|(asked, _)| asked == question).map(|(_, agrees)| *agrees)
    };
    for (at, update) in updates.iter().enumerate().skip(next) {
        match judge(state.as_ref(), update, answer) {
            Judgement::Valid(after) => state = Some(after),
            stopped => return Stretch { state, next: at, stopped: Some(stopped) },
        }
    }
    Stretch { state, next: updates.len(), stopped: None }
}

fn check_size(updates: &[&[pb::IdentityUpdate]]) -> Result<(), Status> {
    let count: usize = updates.iter().map(|updates| updates.len()).sum();
    let actions: usize = updates.iter().copied().flatten().map(|update| update.actions.len()).sum();
    if count > ITEMS_MAX {
        return Err(too_many("updates", ITEMS_MAX));
    }
    if actions > ACTIONS_MAX {
        return Err(too_many("actions", ACTIONS_MAX));
    }
    Ok(())
}

#[tonic::async_trait]
impl api::validation_api_server::ValidationApi for Validation {
    async fn validate_group_messages(
        &self,
        request: Request<api::ValidateGroupMessagesRequest>,
    ) -> Result<Response<api::ValidateGroupMessagesResponse>, Status> {
        use api::validate_group_messages_response::ValidationResponse;

        let messages = request.into_inner().group_messages;
        let responses = self.each(messages, |message| {
            match group_message(&message.group_message_bytes_tls_serialized) {
                Ok(read) => ValidationResponse {
                    is_ok: true,
                    error_message: String::new(),
                    group_id: hex::encode(read.group_id),
                    is_commit: read.is_commit,
                },
                Err(error) => ValidationResponse {
                    error_message: error.to_string(),
                    ..ValidationResponse::default()
                },
            }
        });
        let responses = responses.await?;
        Ok(Response::new(api::ValidateGroupMessagesResponse { responses }))
    }

    async fn get_association_state(
        &self,
        request: Request<api::GetAssociationStateRequest>,
    ) -> Result<Response<api::GetAssociationStateResponse>, Status> {
        let api::GetAssociationStateRequest { old_updates, new_updates } = request.into_inner();
        check_size(&[&old_updates, &new_updates])?;
        let mut budget = WalletBudget::new();
        let before = self.fold(None, old_updates, &mut budget).await?;
        let after = self.fold(before.clone(), new_updates, &mut budget).await?;
        let Some(after) = after else {
            return Err(Status::invalid_argument("XID not yet created: no updates were given"));
        };
        Ok(Response::new(api::GetAssociationStateResponse {
            state_diff: Some(after.difference(before.as_ref())),
            association_state: Some(after.to_pb()),
        }))
    }

    async fn validate_inbox_id_key_packages(
        &self,
        request: Request<api::ValidateKeyPackagesRequest>,
    ) -> Result<Response<api::ValidateInboxIdKeyPackagesResponse>, Status> {
        use api::validate_inbox_id_key_packages_response::Response as One;

        let now_unix_s = (self.now_unix_s)();
        let packages = request.into_inner().key_packages;
        let responses = self.each(packages, move |package| {
            match key_package(&package.key_package_bytes_tls_serialized, now_unix_s) {
                Ok(valid) => One {
                    is_ok: true,
                    error_message: String::new(),
                    credential: Some(MlsCredential { inbox_id: valid.inbox_id }),
                    installation_public_key: valid.installation_key.into(),
                    expiration: 0,
                },
                Err(error) => One { error_message: error.to_string(), ..One::default() },
            }
        });
        let responses = responses.await?;
        Ok(Response::new(api::ValidateInboxIdKeyPackagesResponse { responses }))
    }

    async fn verify_smart_contract_wallet_signatures(
        &self,
        request: Request<identity_api::VerifySmartContractWalletSignaturesRequest>,
    ) -> Result<Response<identity_api::VerifySmartContractWalletSignaturesResponse>, Status> {
        let signatures = request.into_inner().signatures;
        if signatures.len() > WALLETS_MAX {
            return Err(too_many("contract wallets", WALLETS_MAX));
        }
        let asked = stream::iter(signatures).map(|signature| self.verify_wallet(signature));
        let responses = asked.buffered(WALLETS_AT_ONCE).collect().await;
        Ok(Response::new(identity_api::VerifySmartContractWalletSignaturesResponse { responses }))
    }
}
