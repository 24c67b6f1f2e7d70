//! `xmtp.mls_validation.v1`: the validations of this crate for other software, over gRPC.
//!
//! Validation takes CPU time, so it runs on threads that may block, on a bounded number of cores. Callers are
//! anonymous, so [`limits`](crate::limits) bounds the cost of each request, the number of concurrent requests, and
//! the contract wallets that are asked for all of them. Networks take turns at the cores and at the wallets, and so do
//! the callers of each: a single one may have all of them, and a new one waits for one turn of each other network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use hawser_mls::identity::{AssociationState, WalletQuestion, parse_account_id};
use hawser_mls::{group_message, key_package};
use hawser_proto::Digest;
use hawser_proto::pb::xmtp::identity::MlsCredential;
use hawser_proto::pb::xmtp::identity::api::v1 as identity_api;
use hawser_proto::pb::xmtp::identity::associations as pb;
use hawser_proto::pb::xmtp::mls_validation::v1 as api;
use hawser_serve::fair_gate::GateFullError;
use hawser_serve::network_gate::NetworkGate;
use hawser_serve::{CallCharge, MESSAGE_LEN_BYTES_MAX, StatusDetails};
use identity_api::verify_smart_contract_wallet_signatures_response::ValidationResponse as WalletResponse;
use prost::Message;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use crate::clock::UnixClock;
use crate::fold::{LogFold, TurnEnd, WalletAnswers};
use crate::limits::{
    ITEMS_PER_THREAD, REQUEST_ITEMS_MAX, REQUEST_THREADS_MAX, REQUEST_WALLETS_MAX,
    REQUEST_WALLETS_TIMEOUT, REQUESTS_MAX, RETRY_AFTER_PLACE_S, RETRY_AFTER_SILENCE_S,
    WALLETS_CONCURRENT_MAX,
};
use crate::places::RequestPlaces;
use crate::question_turns::QuestionTurns;
use crate::unanswered::UnansweredWallets;
use crate::wallets::{WalletError, Wallets};

pub use crate::places::ServiceCaller;

/// Names the caller of a request by its metadata and the other end of its connection.
pub type CallerName = dyn Fn(&MetadataMap, Option<SocketAddr>) -> ServiceCaller + Send + Sync;

/// The account of the work of threads for a call.
trait CallWork: Send + Sync {
    /// Returns the time that the calling thread has worked in all.
    fn begin(&self) -> Duration;

    /// Records the work of the calling thread since `began`, which [`begin`](Self::begin) has returned.
    fn end(&self, began: Duration);
}

/// The caller's address rests for the work while publishers are late.
impl CallWork for CallCharge {
    fn begin(&self) -> Duration {
        self.begin_work()
    }

    fn end(&self, began: Duration) {
        self.end_work(began);
    }
}

/// The caller of a request.
#[derive(Clone)]
struct RequestCaller {
    name: ServiceCaller,
    /// `None` if the request has come through no listener.
    work: Option<Arc<dyn CallWork>>,
}

/// The validation service. Clones share everything.
#[derive(Clone)]
pub struct ValidationService {
    wallets: Arc<Wallets>,
    now_unix_s: Arc<UnixClock>,
    caller_name: Arc<CallerName>,
    cores: usize,
    /// Turns at the cores.
    core_turns: NetworkGate<Arc<str>>,
    question_turns: QuestionTurns,
    places: RequestPlaces,
    unanswered: Arc<UnansweredWallets>,
}

impl ValidationService {
    /// Creates a service that validates on at most `cores` threads at once. `now_unix_s` is the clock for key packages;
    /// contract wallets are asked through `wallets`; `caller_name` names callers, who take turns.
    #[must_use]
    pub fn new(
        wallets: Arc<Wallets>,
        now_unix_s: Arc<UnixClock>,
        caller_name: Arc<CallerName>,
        cores: usize,
    ) -> Self {
        let (cores, question_turns) = (cores.max(1), QuestionTurns::new(wallets.chain_ids()));
        let (core_turns, places) = (NetworkGate::new(cores), RequestPlaces::new(REQUESTS_MAX));
        Self {
            wallets,
            now_unix_s,
            caller_name,
            cores,
            core_turns,
            question_turns,
            places,
            unanswered: Arc::default(),
        }
    }

    fn caller<T>(&self, request: &Request<T>) -> RequestCaller {
        let name = (self.caller_name)(request.metadata(), request.remote_addr());
        let charge = request.extensions().get::<CallCharge>().cloned();
        RequestCaller { name, work: charge.map(|charge| Arc::new(charge) as Arc<dyn CallWork>) }
    }

    /// Does the `work` of a caller's request in one of the [`REQUESTS_MAX`] places. The work ends at its next pause if
    /// another caller takes the place.
    async fn at_place<T>(
        &self,
        caller: &ServiceCaller,
        work: impl Future<Output = Result<T, Status>> + Send,
    ) -> Result<Response<T>, Status> {
        let full = || busy("too many validations are at work: try again");
        let mut place = self.places.take(caller).ok_or_else(full)?;
        tokio::select! {
            biased;
            answer = work => answer.map(Response::new),
            () = place.lost() => Err(busy(
                "another caller needs the place of this request: send fewer at once, and try again",
            )),
        }
    }

    /// Runs `judgement` on a thread that may block, when it is the caller's turn at a core. Counts it as work for the
    /// caller.
    async fn compute<T: Send + 'static>(
        &self,
        caller: &RequestCaller,
        judgement: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let ServiceCaller { network, name } = &caller.name;
        let core = self.core_turns.enter(network, name).await.map_err(too_many_wait)?;
        let work = caller.work.clone();
        let judged = tokio::task::spawn_blocking(move || {
            let _core = core;
            let Some(work) = work else { return judgement() };
            let began = work.begin();
            let judged = judgement();
            work.end(began);
            judged
        });
        judged.await.map_err(|_| Status::internal("the check failed inside this service"))
    }

    /// Validates every item independently on all cores and returns the answers in the order of the items.
    async fn each<I: Send + 'static, O: Send + 'static>(
        &self,
        caller: &RequestCaller,
        items: Vec<I>,
        judgement: impl Fn(I) -> O + Copy + Send + 'static,
    ) -> Result<Vec<O>, Status> {
        if items.len() > REQUEST_ITEMS_MAX {
            return Err(too_many("items", REQUEST_ITEMS_MAX));
        }
        // Each part is made when its turn to be judged has come: a request has hundreds of them.
        let parts = stream::iter(parts_of(items)).map(move |part| {
            self.compute(caller, move || part.into_iter().map(judgement).collect::<Vec<O>>())
        });
        let mut outputs = Vec::new();
        let mut judged = parts.buffered(self.cores.min(REQUEST_THREADS_MAX));
        while let Some(part) = judged.next().await {
            outputs.extend(part?);
        }
        Ok(outputs)
    }

    /// Returns the state after all updates; asks contract wallets within `budget`. Works in turns, between which other
    /// requests get the core.
    ///
    /// # Errors
    /// `InvalidArgument` names the invalid update. `Unavailable` means that a wallet's chain does not answer now, and
    /// `ResourceExhausted` that another request has to ask the remaining wallets.
    async fn fold(
        &self,
        state: Option<AssociationState>,
        updates: Vec<pb::IdentityUpdate>,
        budget: &mut WalletBudget,
    ) -> Result<Option<AssociationState>, Status> {
        if updates.is_empty() {
            return Ok(state);
        }
        let (mut fold, mut answers) = (LogFold::new(state, updates), WalletAnswers::new());
        loop {
            let known = std::mem::take(&mut answers);
            let turn = move || fold.turn(&known).map(|end| (fold, end));
            let turned = self.compute(&budget.caller, turn).await?;
            let (rest, end) =
                turned.map_err(|error| invalid("IDENTITY_UPDATE", &error.to_string()))?;
            fold = rest;
            match end {
                TurnEnd::Done => return Ok(fold.into_state()),
                TurnEnd::Later => {}
                TurnEnd::Asks(questions) => answers = self.ask(questions, budget).await?,
            }
        }
    }

    /// Returns the answers to these questions. Asks those that are not known, within `budget`. The answers are known
    /// afterwards, so a caller that repeats a request gets further each time.
    async fn ask(
        &self,
        questions: Vec<WalletQuestion>,
        budget: &mut WalletBudget,
    ) -> Result<WalletAnswers, Status> {
        let wallets = Arc::clone(&self.wallets);
        // To look a long signature up takes a tenth of a millisecond, and a turn has hundreds of questions.
        let look_up = move || {
            let (mut answers, mut open) = (WalletAnswers::new(), Vec::new());
            for question in questions {
                match wallets.known(&question) {
                    Some(agrees) => _ = answers.insert(question, agrees),
                    None => open.push(question),
                }
            }
            (answers, open)
        };
        let (mut answers, mut open) = self.compute(&budget.caller, look_up).await?;
        let granted = budget.take(open.len());
        let is_whole = granted == open.len();
        open.truncate(granted);
        let caller = &budget.caller.name;
        let asked = stream::iter(open).map(|question| async move {
            let turn = self.question_turns.wait(caller, question.chain_id).await;
            let _turn = turn.map_err(too_many_wait)?;
            let asked = self.wallets.ask(&question).await;
            let agrees = asked.map_err(|error| silent(&self.unanswered.text_of(&error)))?;
            Ok::<_, Status>((question, agrees))
        });
        let mut asked = asked.buffer_unordered(WALLETS_CONCURRENT_MAX);
        let answered = async {
            while let Some(answer) = asked.next().await {
                let (question, agrees) = answer?;
                answers.insert(question, agrees);
            }
            Ok(answers)
        };
        let began = Instant::now();
        let answers = timeout(budget.time, answered).await.unwrap_or_else(|_| {
            Err(silent("contract wallets did not answer in time: try again"))
        })?;
        budget.time = budget.time.saturating_sub(began.elapsed());
        if is_whole {
            return Ok(answers);
        }
        let text = format!(
            "{REQUEST_WALLETS_MAX} contract wallets were asked, and more have signed: repeat the request, which asks \
             the others"
        );
        let retry_after_s = Some(RETRY_AFTER_PLACE_S);
        let details = StatusDetails { retry_after_s, ..StatusDetails::of("WALLET_CHECKS") };
        Err(details.into_status(Code::ResourceExhausted, &text))
    }

    /// Returns the answer of a wallet about a signature of a caller's request, or an error at the time `until`.
    async fn verify_wallet(
        &self,
        caller: &ServiceCaller,
        signature: identity_api::VerifySmartContractWalletSignatureRequestSignature,
        until: Instant,
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
        let (block_number, signature) = (signature.block_number, signature.signature);
        let asked = async {
            let turn = self.question_turns.wait(caller, chain_id).await;
            let _turn = turn.map_err(|error| error.to_string())?;
            let asked = self.ask_at(chain_id, block_number, |block_number| WalletQuestion {
                chain_id,
                address,
                block_number,
                digest: Digest(digest),
                signature,
            });
            asked.await.map_err(|error| self.unanswered.text_of(&error))
        };
        match timeout_at(until, asked).await {
            Ok(Ok((is_valid, block_number))) => {
                WalletResponse { is_valid, block_number: Some(block_number), error: None }
            }
            Ok(Err(error)) => refused(error),
            Err(_) => refused("the wallet's chain did not answer in time".to_owned()),
        }
    }

    /// Asks a wallet at this block, or at the newest one for `None`, and returns the answer with the block.
    async fn ask_at(
        &self,
        chain_id: u64,
        block_number: Option<u64>,
        question: impl FnOnce(u64) -> WalletQuestion,
    ) -> Result<(bool, u64), WalletError> {
        let block_number = match block_number {
            Some(block_number) => block_number,
            None => self.wallets.newest_block(chain_id).await?.reached,
        };
        Ok((self.wallets.ask(&question(block_number)).await?, block_number))
    }
}

/// Returns the items of a request in their order, in parts of [`ITEMS_PER_THREAD`]. A part has room for its own items
/// alone. One that is cut off the list keeps the room of all items behind it, so the parts of a request of 8 KiB would
/// take 20 MiB.
fn parts_of<I>(items: Vec<I>) -> impl Iterator<Item = Vec<I>> {
    let mut items = items.into_iter();
    std::iter::from_fn(move || {
        let len = items.len().min(ITEMS_PER_THREAD);
        let mut part = Vec::with_capacity(len);
        part.extend(items.by_ref().take(len));
        (len > 0).then_some(part)
    })
}

/// The remaining contract wallets that may be asked for one request, and the remaining time for their answers.
struct WalletBudget {
    caller: RequestCaller,
    left: usize,
    time: Duration,
}

impl WalletBudget {
    fn new(caller: &RequestCaller) -> Self {
        let (left, time) = (REQUEST_WALLETS_MAX, REQUEST_WALLETS_TIMEOUT);
        Self { caller: caller.clone(), left, time }
    }

    /// Takes as many of these as are left. Returns their number.
    fn take(&mut self, wanted: usize) -> usize {
        let granted = wanted.min(self.left);
        self.left -= granted;
        granted
    }
}

fn too_many_wait(error: GateFullError) -> Status {
    busy(&error.to_string())
}

fn too_many(what: &str, max: usize) -> Status {
    invalid("TOO_MANY_ITEMS", &format!("a request may hold {max} {what}; send several"))
}

/// Returns the refusal of a request that finds no place or turn.
fn busy(text: &str) -> Status {
    let retry_after_s = Some(RETRY_AFTER_PLACE_S);
    let details = StatusDetails { retry_after_s, ..StatusDetails::of("VALIDATIONS_BUSY") };
    details.into_status(Code::ResourceExhausted, text)
}

/// Returns the status of a request for which a wallet's chain gives no answer.
fn silent(text: &str) -> Status {
    let retry_after_s = Some(RETRY_AFTER_SILENCE_S);
    let details = StatusDetails { retry_after_s, ..StatusDetails::of("WALLET_SILENT") };
    details.into_status(Code::Unavailable, text)
}

fn invalid(reason: &'static str, text: &str) -> Status {
    StatusDetails::of(reason).into_status(Code::InvalidArgument, text)
}

/// Returns an answer that fits into a message.
///
/// # Errors
/// A status that names the reason if it does not fit. The transport would end the call with a text of its own.
fn fitting<T: Message>(answer: T) -> Result<T, Status> {
    if answer.encoded_len() <= MESSAGE_LEN_BYTES_MAX { Ok(answer) } else { Err(too_large()) }
}

/// Returns the refusal of a request whose answer does not fit into a message.
fn too_large() -> Status {
    let text =
        format!("the answer would exceed {MESSAGE_LEN_BYTES_MAX} bytes: ask for less at once");
    StatusDetails::of("ANSWER_TOO_LARGE").into_status(Code::ResourceExhausted, &text)
}

#[tonic::async_trait]
impl api::validation_api_server::ValidationApi for ValidationService {
    async fn validate_group_messages(
        &self,
        request: Request<api::ValidateGroupMessagesRequest>,
    ) -> Result<Response<api::ValidateGroupMessagesResponse>, Status> {
        use api::validate_group_messages_response::ValidationResponse;

        let caller = self.caller(&request);
        let messages = request.into_inner().group_messages;
        let responses = self.each(&caller, messages, |message| {
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
        let answer =
            async { fitting(api::ValidateGroupMessagesResponse { responses: responses.await? }) };
        self.at_place(&caller.name, answer).await
    }

    async fn get_association_state(
        &self,
        request: Request<api::GetAssociationStateRequest>,
    ) -> Result<Response<api::GetAssociationStateResponse>, Status> {
        let caller = self.caller(&request);
        let api::GetAssociationStateRequest { old_updates, new_updates } = request.into_inner();
        if old_updates.len() + new_updates.len() > REQUEST_ITEMS_MAX {
            return Err(too_many("updates", REQUEST_ITEMS_MAX));
        }
        let answer = async {
            let mut budget = WalletBudget::new(&caller);
            let before = self.fold(None, old_updates, &mut budget).await?;
            // The state of a long log takes milliseconds to copy and to compare: none of it on a thread of the runtime.
            let copies = move || (before.clone(), before);
            let (before, begun) = self.compute(&caller, copies).await?;
            let after = self.fold(begun, new_updates, &mut budget).await?;
            let Some(after) = after else {
                return Err(invalid("NO_UPDATES", "XID not yet created: no updates were given"));
            };
            let answer = move || {
                // The wire form may be thousands of times as long as the state, and is not made then.
                if after.wire_len_min() > MESSAGE_LEN_BYTES_MAX {
                    return Err(too_large());
                }
                fitting(api::GetAssociationStateResponse {
                    state_diff: Some(after.difference(before.as_ref())),
                    association_state: Some(after.to_pb()),
                })
            };
            self.compute(&caller, answer).await?
        };
        self.at_place(&caller.name, answer).await
    }

    async fn validate_inbox_id_key_packages(
        &self,
        request: Request<api::ValidateKeyPackagesRequest>,
    ) -> Result<Response<api::ValidateInboxIdKeyPackagesResponse>, Status> {
        use api::validate_inbox_id_key_packages_response::Response as One;

        let caller = self.caller(&request);
        let now_unix_s = (self.now_unix_s)();
        let packages = request.into_inner().key_packages;
        let responses = self.each(&caller, packages, move |package| {
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
        let answer = async {
            fitting(api::ValidateInboxIdKeyPackagesResponse { responses: responses.await? })
        };
        self.at_place(&caller.name, answer).await
    }

    async fn verify_smart_contract_wallet_signatures(
        &self,
        request: Request<identity_api::VerifySmartContractWalletSignaturesRequest>,
    ) -> Result<Response<identity_api::VerifySmartContractWalletSignaturesResponse>, Status> {
        let caller = self.caller(&request);
        let signatures = request.into_inner().signatures;
        if signatures.len() > REQUEST_WALLETS_MAX {
            return Err(too_many("contract wallets", REQUEST_WALLETS_MAX));
        }
        let until = Instant::now() + REQUEST_WALLETS_TIMEOUT;
        let asked = stream::iter(signatures)
            .map(|signature| self.verify_wallet(&caller.name, signature, until));
        let answer = async {
            let responses = asked.buffered(WALLETS_CONCURRENT_MAX).collect().await;
            fitting(identity_api::VerifySmartContractWalletSignaturesResponse { responses })
        };
        self.at_place(&caller.name, answer).await
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use parking_lot::Mutex;

    use super::*;
    use crate::wallets::WalletChainList;

    /// The threads that have begun and ended work.
    #[derive(Default)]
    struct RecordedWork(Mutex<Vec<(&'static str, ThreadId)>>);

    const BEGAN: Duration = Duration::from_secs(7);

    impl CallWork for RecordedWork {
        fn begin(&self) -> Duration {
            self.0.lock().push(("begun", thread::current().id()));
            BEGAN
        }

        fn end(&self, began: Duration) {
            assert_eq!(began, BEGAN);
            self.0.lock().push(("ended", thread::current().id()));
        }
    }

    /// Strangers have one log after the other judged while publishers wait for the cores.
    #[tokio::test]
    async fn the_address_of_a_caller_rests_for_what_is_computed_for_it() {
        let name = |_: &MetadataMap, _: Option<SocketAddr>| ServiceCaller {
            network: "network".into(),
            name: "name".into(),
        };
        let wallets = Wallets::over_rpc([], WalletChainList::default());
        let (wallets, clock) = (Arc::new(wallets), Arc::new(|| 0_u64));
        let service = ValidationService::new(wallets, clock, Arc::new(name), 1);
        let work = Arc::new(RecordedWork::default());
        let caller = service.caller(&Request::new(()));
        let caller = RequestCaller { work: Some(work.clone()), ..caller };
        let thread = service.compute(&caller, || thread::current().id()).await.unwrap();
        assert_eq!(*work.0.lock(), [("begun", thread), ("ended", thread)]);
    }

    /// Played by requests of as many empty items as are allowed, of two bytes each.
    #[test]
    fn the_parts_of_a_request_have_room_for_their_own_items_alone() {
        for count in [0, 1, ITEMS_PER_THREAD, REQUEST_ITEMS_MAX - 1, REQUEST_ITEMS_MAX] {
            let items: Vec<usize> = (0..count).collect();
            let parts: Vec<_> = parts_of(items.clone()).collect();
            assert_eq!(parts.len(), count.div_ceil(ITEMS_PER_THREAD));
            assert_eq!(parts.concat(), items, "each item once, in order");
            let room: usize = parts.iter().map(Vec::capacity).sum();
            assert!(room <= 2 * count, "memory in proportion to the request, not {room}");
        }
    }
}
