//! Work that grows with the length of a message, on threads that may block.
//!
//! The runtime has few threads. A request of megabytes that is decoded on one of them, or an answer that is encoded
//! there, keeps all other calls of that thread waiting.

use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame};
use tonic::Status;
use tonic::body::Body;
use tracing::Span;

use crate::budget::ConnectionShare;
use crate::call_share::CallCharge;
use crate::fair_gate::{FairGate, GateFullError, GatePass};
use crate::turns::{PaidTime, thread_time, without_rest};

/// The longest message that the runtime's threads scan and decode, bytes. A guess: some hundred usual envelopes, or a
/// millisecond at worst, and moving the work costs some ten microseconds.
const AT_ONCE_LEN_BYTES_MAX: usize = 64 * 1024;
/// The least charge of a unary answer that is encoded beside the runtime's threads, bytes. A guess: encoding it is a
/// copy, which takes a millisecond or two.
pub(crate) const LONG_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// The largest charge of a request that the runtime's threads decode and work on, bytes. A guess: some thousand topics,
/// which take a millisecond at worst. Ten thousand short ones have less than [`AT_ONCE_LEN_BYTES_MAX`].
const AT_ONCE_BYTES_MAX: usize = 1024 * 1024;
/// Threads that work on long messages concurrently; other work waits in its caller's turn. A guess: enough blocking
/// threads stay free for disk reads, and the runtime's threads get their part of two cores.
const WORKERS_MAX: usize = 4;
/// The gate at which sites, and the addresses of each, wait for these threads. Waiting messages are charged to their
/// caller, which bounds them.
static WORKERS: LazyLock<WorkerGate> = LazyLock::new(|| FairGate::unbounded_by_site(WORKERS_MAX));
/// Threads for the work of connections whose publishes have paid for turns. Apart, so that no publisher waits behind
/// the long messages of callers that publish nothing. A guess: the cores of a small machine.
const PAID_WORKERS_MAX: usize = 2;
/// The gate at which callers wait for the threads of paid work. It has no bound, for the same reason as [`WORKERS`].
static PAID_WORKERS: LazyLock<WorkerGate> =
    LazyLock::new(|| FairGate::unbounded_by_site(PAID_WORKERS_MAX));

/// A gate of threads, for numbers of addresses and of their sites. Sites take turns at it, so that the owner of an IPv6
/// /48, who has thousands of addresses, delays another caller by one work.
type WorkerGate = FairGate<usize, usize>;
/// A place at a [`WorkerGate`].
type WorkerPass = GatePass<usize, usize>;

/// The caller of long work.
pub(crate) struct WorkCaller {
    /// The number that the calls of one site share.
    site: usize,
    /// The number that the calls of one address share.
    address: usize,
    /// The paid time of its connection.
    account: Arc<PaidTime>,
}

impl WorkCaller {
    /// Returns the caller of a call.
    pub(crate) fn of_call(charge: &CallCharge) -> Self {
        Self::of_connection(charge.connection())
    }

    /// Returns the caller behind a connection.
    pub(crate) fn of_connection(share: &ConnectionShare) -> Self {
        let (site, address) = (share.site(), share.caller());
        Self { site, address, account: share.paid_time().clone() }
    }
}

/// Returns true for messages that the runtime's threads must not scan or decode.
pub(crate) fn is_long(len_bytes: usize) -> bool {
    len_bytes > AT_ONCE_LEN_BYTES_MAX
}

/// Runs `work` on a thread that may block, when one of them is free and it is the turn of the caller's site, and of its
/// address within.
///
/// Work is paid if the caller has paid time left, now and when its turn comes. Paid work does not wait for unpaid work
/// of other callers, and its time is charged, up to 20 ms. So a connection owes at most 20 ms for each of
/// [`PAID_WORKERS_MAX`] works, besides its turns, and one stored envelope does not pay for any number of works at once.
/// After unpaid work the caller's address rests while publishers are late, as after the turns of its connections.
///
/// `held` is dropped after the work. Work that has begun is finished, even if this future is dropped before.
///
/// # Errors
/// INTERNAL if the work has panicked, or the runtime stops.
pub(crate) async fn beside<T: Send + 'static>(
    caller: WorkCaller,
    held: impl Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    let failed = || Status::internal("the work on a long message failed");
    let worker_of_paid = paid_worker(&caller).await.map_err(|_| failed())?;
    let WorkCaller { site, address, account } = caller;
    let is_paid = worker_of_paid.is_some();
    let worker = match worker_of_paid {
        Some(worker) => worker,
        None => without_rest(WORKERS.enter_of(&site, &address)).await.map_err(|_| failed())?,
    };
    let work = move || {
        let (began, worked) = (Instant::now(), thread_time());
        let done = work();
        if is_paid {
            account.spend(began.elapsed());
        } else {
            account.rest(thread_time().saturating_sub(worked));
        }
        drop((held, worker));
        done
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| failed())
}

/// Waits for a thread for paid work. Returns `None` if the caller has no paid time left now, or none when its turn
/// comes, because other work of its connection has used it up meanwhile.
///
/// # Errors
/// Not reached: the gate has no bound.
async fn paid_worker(caller: &WorkCaller) -> Result<Option<WorkerPass>, GateFullError> {
    let WorkCaller { site, address, account } = caller;
    if !account.is_left() {
        return Ok(None);
    }
    let worker = without_rest(PAID_WORKERS.enter_of(site, address)).await?;
    Ok(account.is_left().then_some(worker))
}

/// Runs the first part of `call`, up to its first wait, as [`beside`] does, and the rest on the threads of the caller.
/// A service decodes a request that is here in this part. The memory of `charge` stays charged until it has ended.
///
/// # Errors
/// The errors of [`beside`].
pub(crate) async fn begin_beside<F>(charge: &CallCharge, call: F) -> Result<F::Output, Status>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let mut call: Pin<Box<F>> = Box::pin(call);
    let span = Span::current();
    let begin = move || {
        // A wake of the call meanwhile is not lost: the call is polled again below.
        let mut context = Context::from_waker(Waker::noop());
        let begun = span.in_scope(|| call.as_mut().poll(&mut context));
        (call, begun)
    };
    match beside(WorkCaller::of_call(charge), charge.hold(), begin).await? {
        (_, Poll::Ready(answer)) => Ok(answer),
        (call, Poll::Pending) => Ok(call.await),
    }
}

impl CallCharge {
    /// Returns true for a request that the runtime's threads must not decode and work on, however short it is.
    pub(crate) fn has_large_request(&self) -> bool {
        self.request_bytes() > AT_ONCE_BYTES_MAX
    }

    /// Goes on with a call that has waited. A request is decoded, and worked on up to the first wait of its handler,
    /// outside of the runtime's threads if it is long. A handler that begins its work on the request behind a wait
    /// calls this, so that the work does not hold up the other calls of a thread. `rest` goes on there up to its next
    /// wait.
    ///
    /// # Errors
    /// INTERNAL if the work has panicked, or the runtime stops.
    pub async fn go_on<F>(&self, rest: F) -> Result<F::Output, Status>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        if !self.has_large_request() {
            return Ok(rest.await);
        }
        Box::pin(begin_beside(self, rest)).await
    }
}

/// Encodes the first frame of an answer as [`begin_beside`] does. It is the message of a unary answer, and does not
/// wait.
///
/// # Errors
/// The errors of [`beside`].
pub(crate) async fn encode_beside(
    charge: &CallCharge,
    answer: Response<Body>,
) -> Result<Response<Body>, Status> {
    let (head, mut body) = answer.into_parts();
    let encoding = async move {
        let first = body.frame().await;
        (first, body)
    };
    let (first, rest) = begin_beside(charge, encoding).await?;
    Ok(Response::from_parts(head, Body::new(EncodedBody { first, rest })))
}

/// The body of an answer whose first frame is encoded.
struct EncodedBody {
    first: Option<Result<Frame<Bytes>, Status>>,
    rest: Body,
}

impl HttpBody for EncodedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}

/// The workers of callers without paid time, kept from them until this is dropped.
#[cfg(test)]
pub(crate) struct OccupiedWorkers {
    places: Vec<WorkerPass>,
    /// Two tests that had two workers each would wait for one another.
    _only: tokio::sync::MutexGuard<'static, ()>,
}

/// Occupies all workers of callers without paid time: their long work waits until the returned value is dropped.
#[cfg(test)]
pub(crate) async fn occupy_workers() -> OccupiedWorkers {
    static ONLY: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _only = ONLY.lock().await;
    let mut places = Vec::new();
    while places.len() < WORKERS_MAX {
        places.push(WORKERS.enter_of(&0, &0).await.expect("the workers are there"));
    }
    OccupiedWorkers { places, _only }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;
    use parking_lot::Mutex;
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::budget::MemoryBudget;

    fn account() -> Arc<PaidTime> {
        Arc::new(PaidTime::new(Arc::default(), None))
    }

    /// A caller in a site of its own.
    fn at(address: usize) -> WorkCaller {
        WorkCaller { site: address, address, account: account() }
    }

    fn charge(budget: &MemoryBudget) -> CallCharge {
        let connection = budget.connection(Ipv4Addr::LOCALHOST.into(), budget.account(None));
        CallCharge::new(connection.unwrap())
    }

    /// The test's runtime has one thread.
    #[tokio::test]
    async fn a_call_begins_beside_the_runtimes_threads_and_goes_on_there() {
        let call = async {
            let first = thread::current().id();
            tokio::task::yield_now().await;
            (first, thread::current().id())
        };
        let charge = charge(&MemoryBudget::new(1 << 30));
        let (first, last) = begin_beside(&charge, call).await.unwrap();
        let own = thread::current().id();
        assert!(first != own, "it begins on another thread");
        assert_eq!(last, own);
    }

    /// A handler waits for Redis before it reads thousands of topics.
    #[tokio::test]
    async fn a_call_with_a_long_request_goes_on_beside_the_runtimes_threads_after_a_wait() {
        let charge = charge(&MemoryBudget::new(1 << 30));
        let own = thread::current().id();
        charge.take_for_request(1 << 20).unwrap();
        assert_eq!(charge.go_on(async { thread::current().id() }).await.unwrap(), own);
        charge.take_for_request(1).unwrap();
        assert_ne!(charge.go_on(async { thread::current().id() }).await.unwrap(), own);
    }

    #[tokio::test]
    async fn what_work_holds_is_given_back_when_its_call_has_ended() {
        let held = Arc::new(());
        let occupied = occupy_workers().await;
        let mut waiting = Box::pin(beside(at(1), held.clone(), || ()));
        assert!((&mut waiting).now_or_never().is_none());
        drop(waiting);
        assert_eq!(Arc::strong_count(&held), 1, "it had not begun");
        drop(occupied);
        beside(at(1), held.clone(), || ()).await.unwrap();
        assert_eq!(Arc::strong_count(&held), 1);
    }

    /// A client resets its call while the call is decoded, or its answer encoded.
    #[tokio::test]
    async fn a_call_that_is_given_up_stays_charged_until_its_work_has_ended() {
        let budget = MemoryBudget::new(1 << 30);
        let charge = charge(&budget);
        charge.take(1000).unwrap();
        let used_bytes = budget.used_bytes();
        let (begun, has_begun) = oneshot::channel();
        let (end, ended) = mpsc::channel::<()>();
        let call = async move {
            begun.send(()).unwrap();
            let _ = ended.recv(); // until `end` is dropped
        };
        let mut beginning = Box::pin(begin_beside(&charge, call));
        tokio::select! {
            _ = &mut beginning => panic!("its work has not ended"),
            has_begun = has_begun => has_begun.unwrap(),
        }
        drop(beginning);
        drop(charge);
        assert_eq!(budget.used_bytes(), used_bytes);
        drop(end);
        while budget.used_bytes() > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Callers that publish nothing send long requests without a pause.
    #[tokio::test]
    async fn paid_work_does_not_wait_for_that_of_callers_who_publish_nothing() {
        let account = account();
        let _occupied = occupy_workers().await;
        let caller = || WorkCaller { account: account.clone(), ..at(1) };
        let mut unpaid = Box::pin(beside(caller(), (), || ()));
        assert!((&mut unpaid).now_or_never().is_none(), "nothing is paid for yet");
        account.earn(1);
        let paid = beside(caller(), (), || thread::sleep(Duration::from_millis(1)));
        timeout(Duration::from_secs(60), paid).await.expect("it has workers of its own").unwrap();
        assert!(!account.is_left(), "the work has used the paid time");
        let mut next = Box::pin(beside(caller(), (), || ()));
        assert!((&mut next).now_or_never().is_none());
    }

    /// A caller stores one envelope, and sends many long requests at once.
    #[tokio::test]
    async fn work_whose_paid_time_is_used_up_while_it_waits_leaves_the_workers_to_publishers() {
        let _occupied = occupy_workers().await;
        let mut taken = Vec::new();
        while taken.len() < PAID_WORKERS_MAX {
            taken.push(PAID_WORKERS.enter_of(&0, &0).await.unwrap());
        }
        let account = account();
        account.earn(1);
        let caller = WorkCaller { account: account.clone(), ..at(1) };
        let (end, ended) = mpsc::channel::<()>();
        let mut waiting = Box::pin(beside(caller, (), move || {
            let _ = ended.recv(); // until `end` is dropped
        }));
        assert!((&mut waiting).now_or_never().is_none(), "it waits for a worker of paid work");
        account.spend(Duration::from_millis(20));
        drop(taken);
        assert!((&mut waiting).now_or_never().is_none(), "it waits for another worker");
        let free = [(); PAID_WORKERS_MAX].map(|()| PAID_WORKERS.enter_of(&0, &0).now_or_never());
        assert!(free.iter().all(Option::is_some));
        drop((free, end));
    }

    #[tokio::test]
    async fn long_messages_of_one_address_do_not_all_go_before_that_of_another() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut occupied = occupy_workers().await;
        let works = [7, 7, 7, 7, 8].map(|address| {
            let order = order.clone();
            beside(at(address), (), move || order.lock().push(address))
        });
        let mut all = Box::pin(join_all(works));
        assert!((&mut all).now_or_never().is_none());
        occupied.places.pop(); // one works for all of them
        all.await.into_iter().for_each(|done| done.unwrap());
        assert_eq!(*order.lock(), [7, 8, 7, 7, 7]);
    }

    /// The owner of an IPv6 /48 sends a long request from each of its addresses.
    #[tokio::test]
    async fn long_messages_of_all_addresses_of_a_site_do_not_all_go_before_that_of_another() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut occupied = occupy_workers().await;
        let works = [(7, 71), (7, 72), (7, 73), (7, 74), (8, 81)].map(|(site, address)| {
            let (order, caller) = (order.clone(), WorkCaller { site, ..at(address) });
            beside(caller, (), move || order.lock().push(address))
        });
        let mut all = Box::pin(join_all(works));
        assert!((&mut all).now_or_never().is_none());
        occupied.places.pop(); // one works for all of them
        all.await.into_iter().for_each(|done| done.unwrap());
        assert_eq!(*order.lock(), [71, 81, 72, 73, 74]);
    }
}
