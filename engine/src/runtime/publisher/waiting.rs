//! The line of publishes that find too many bytes in flight.
//!
//! The semaphore of these bytes serves in the order of arrival, so a flood from many addresses of one site would go
//! before all others. So one publish alone waits at the semaphore. The others wait here, in turns of their sites and
//! addresses.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::error::PublishError;
use crate::runtime::PublishCaller;
use crate::runtime::grouped_queue::GroupedQueue;

/// The longest wait of a publish. A guess: longer than a fast disk takes for all bytes in flight. Without it, publishes
/// would wait as long as a disk hangs.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Largest number of publishes in the line. A further one takes the place of one of the site with the most, or of the
/// address with the most in its own site, if there are at least two more than of its own. A guess, as for queries.
const LINE_MAX: usize = 4096;
/// Largest number of publishes of one address in the line. A guess, as for queries: clients of some proxies share one.
const LINE_OF_ADDRESS_MAX: usize = 1024;

/// The line.
#[derive(Default)]
pub(super) struct WaitingLine(Mutex<LineState>);

#[derive(Default)]
struct LineState {
    /// A publish waits at the semaphore, or has been told to.
    has_first: bool,
    /// The publishes behind it.
    behind: GroupedQueue<usize, oneshot::Sender<FirstInLine>>,
}

/// The right to wait at the semaphore. Dropping it passes the right on.
struct FirstInLine(Arc<WaitingLine>);

/// A publish that stands in the line. Dropping it frees its place, so callers that have gone hold none.
struct InLine<'a> {
    line: &'a WaitingLine,
    caller: PublishCaller,
    turn: oneshot::Receiver<FirstInLine>,
    /// The publish has had its turn, or another one has taken its place.
    has_left: bool,
}

impl WaitingLine {
    /// Waits for `permits` of the semaphore.
    ///
    /// # Errors
    /// [`PublishError::Busy`] after [`WAIT_MAX`], or if too many wait.
    pub(super) async fn wait(
        self: &Arc<Self>,
        in_flight: &Arc<Semaphore>,
        caller: PublishCaller,
        permits: u32,
    ) -> Result<OwnedSemaphorePermit, PublishError> {
        let acquired = self.acquire(in_flight, caller, permits);
        timeout(WAIT_MAX, acquired).await.unwrap_or(Err(PublishError::Busy))
    }

    /// Waits as [`wait`](Self::wait) does, for as long as it takes.
    async fn acquire(
        self: &Arc<Self>,
        in_flight: &Arc<Semaphore>,
        caller: PublishCaller,
        permits: u32,
    ) -> Result<OwnedSemaphorePermit, PublishError> {
        let turn = self.stand(caller)?;
        let standing = InLine { line: self, caller, turn, has_left: false };
        // The sender is dropped if another publish takes the place.
        let _first = standing.turn().await.map_err(|_| PublishError::Busy)?;
        let permit = in_flight.clone().acquire_many_owned(permits).await;
        Ok(permit.expect("the semaphore is never closed"))
    }

    /// Puts a publish into the line. Returns the receiver of its turn.
    ///
    /// # Errors
    /// [`PublishError::Busy`] if too many wait.
    fn stand(
        self: &Arc<Self>,
        caller: PublishCaller,
    ) -> Result<oneshot::Receiver<FirstInLine>, PublishError> {
        let PublishCaller { site, address } = caller;
        let (sender, turn) = oneshot::channel();
        let mut line = self.0.lock();
        if !line.has_first {
            line.has_first = true;
            drop(line);
            // A right that is not taken is dropped, and passed on.
            let _ = sender.send(FirstInLine(self.clone()));
            return Ok(turn);
        }
        if line.behind.len_of(site, address) >= LINE_OF_ADDRESS_MAX {
            return Err(PublishError::Busy);
        }
        let mut displaced = None;
        if line.behind.len() >= LINE_MAX {
            displaced = Some(line.behind.pop_for(site, address).ok_or(PublishError::Busy)?);
        }
        line.behind.push(site, address, sender);
        drop(line);
        drop(displaced); // its publish is refused
        Ok(turn)
    }
}

impl LineState {
    /// Takes the next publish that still waits.
    fn take_next(&mut self) -> Option<oneshot::Sender<FirstInLine>> {
        let next = std::iter::from_fn(|| self.behind.pop()).find(|it| !it.is_closed());
        self.has_first = next.is_some();
        next
    }
}

impl InLine<'_> {
    /// Waits for the turn of the publish.
    ///
    /// # Errors
    /// If another publish takes the place.
    async fn turn(mut self) -> Result<FirstInLine, oneshot::error::RecvError> {
        let turn = (&mut self.turn).await;
        self.has_left = true;
        turn
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        if self.has_left {
            return;
        }
        self.turn.close();
        let PublishCaller { site, address } = self.caller;
        self.line.0.lock().behind.retain_of(site, address, |publish| !publish.is_closed());
        // The right of a turn that came meanwhile is dropped with its receiver, and passed on.
    }
}

impl Drop for FirstInLine {
    fn drop(&mut self) {
        let next = self.0.0.lock().take_next();
        if let Some(next) = next {
            // If the publish gives up meanwhile, its right is dropped, and passed on.
            let _ = next.send(Self(self.0.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream::FuturesUnordered;
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;

    fn caller(site: usize, address: usize) -> PublishCaller {
        PublishCaller { site, address }
    }

    /// Returns a semaphore whose only permit is taken, and the permit.
    fn full() -> (Arc<Semaphore>, OwnedSemaphorePermit) {
        let in_flight = Arc::new(Semaphore::new(1));
        let permit = in_flight.clone().try_acquire_owned().unwrap();
        (in_flight, permit)
    }

    /// The owner of an IPv6 /48 keeps the bytes in flight full from thousands of addresses.
    #[tokio::test]
    async fn a_flood_from_all_addresses_of_a_site_delays_another_site_by_one_publish() {
        let (line, (in_flight, permit)) = (Arc::<WaitingLine>::default(), full());
        let (line, in_flight) = (&line, &in_flight);
        let wait = |site, address| async move {
            let permit = line.wait(in_flight, caller(site, address), 1).await.unwrap();
            (site, permit)
        };
        let mut waiting = FuturesUnordered::new();
        for (site, address) in (0..10).map(|address| (1, address)).chain([(2, 100)]) {
            let mut waits = Box::pin(wait(site, address));
            assert!((&mut waits).now_or_never().is_none());
            waiting.push(waits);
        }
        drop(permit);
        let mut sites = Vec::new();
        while let Some((site, permit)) = waiting.next().await {
            sites.push(site);
            drop(permit);
        }
        // The first one waits at the semaphore already.
        assert_eq!(sites, [1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1]);
        let state = line.0.lock();
        assert!(!state.has_first && state.behind.is_empty());
    }

    /// A disk hangs, or a flood leaves no room for a large request.
    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_a_refusal_and_keeps_no_place() {
        let (line, (in_flight, permit)) = (Arc::<WaitingLine>::default(), full());
        let wait = |site| line.wait(&in_flight, caller(site, site), 1);
        let (first, second) = tokio::join!(wait(1), wait(2));
        for refused in [first, second] {
            assert_eq!(refused.unwrap_err(), PublishError::Busy);
        }
        drop(permit);
        assert_eq!(in_flight.available_permits(), 1);
        assert!(wait(3).now_or_never().is_some_and(|waited| waited.is_ok()));
    }

    /// A caller opens publishes and hangs up, again and again, while a disk hangs: nothing would leave the line.
    #[tokio::test]
    async fn a_publish_whose_caller_has_gone_keeps_no_place() {
        let (line, (in_flight, permit)) = (Arc::<WaitingLine>::default(), full());
        let wait = |address| Box::pin(line.wait(&in_flight, caller(1, address), 1));
        let mut waiting: Vec<_> = [1, 1, 1, 2].into_iter().map(wait).collect();
        for publish in &mut waiting {
            assert!(publish.now_or_never().is_none());
        }
        let len = || line.0.lock().behind.len();
        assert_eq!(len(), 3, "the first one waits at the semaphore");
        let mut stays = waiting.remove(1);
        drop(waiting.pop());
        drop(waiting.pop());
        assert_eq!(len(), 1);
        for _ in 0..2 * LINE_OF_ADDRESS_MAX {
            let mut goes = wait(1);
            assert!((&mut goes).now_or_never().is_none());
        }
        assert_eq!(len(), 1);
        drop(waiting);
        assert_eq!(len(), 0, "the right is passed on");
        drop(permit);
        assert!((&mut stays).now_or_never().is_some_and(|waited| waited.is_ok()));
        drop(stays);
        assert!(!line.0.lock().has_first);
    }

    #[test]
    fn a_full_line_has_room_for_a_site_with_few_and_none_for_more_of_one_address() {
        let line = Arc::<WaitingLine>::default();
        let first = line.stand(caller(0, 0)).unwrap();
        let of_flood = |number: usize| line.stand(caller(1, number / LINE_OF_ADDRESS_MAX));
        let mut flood: Vec<_> = (0..LINE_MAX).map(|number| of_flood(number).unwrap()).collect();
        assert!(matches!(of_flood(0), Err(PublishError::Busy)));
        let mut other = line.stand(caller(2, 100)).unwrap();
        let has_lost = |turn: &mut oneshot::Receiver<FirstInLine>| {
            matches!(turn.try_recv(), Err(oneshot::error::TryRecvError::Closed))
        };
        let lost = flood.iter_mut().map(has_lost).filter(|has_lost| *has_lost).count();
        assert_eq!(lost, 1);
        assert!(!has_lost(&mut other));
        drop(flood);
        drop(first);
        assert!(other.try_recv().is_ok(), "those that have given up have no turn");
        assert!(!line.0.lock().has_first);
    }
}
