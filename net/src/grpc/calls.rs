//! A want as calls. A want without an end becomes a stream, and a want with an end becomes pages. A want that asks for
//! gaps becomes pages of several ranges at the same time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_engine::ports::Clock as _;
use hawser_engine::replication::{GapRanges, RequestId, StrandItem, Want, WantedItems};
use hawser_engine::runtime::SystemClock;
use hawser_engine::runtime::replication::ResponseSink;
use hawser_proto::{Bytes, SequenceId};
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::answer::Answer;
use super::answered_places::AnsweredPlaces;
use super::asked_peer::AskedPeer;
use super::call_error::PeerCallError;
use super::client::{BUSY_PAUSE, EnvelopeStream, PeerClient};
use super::feed::{FeedItems, WantFeed};
use super::page_limit::{PAGE_ENVELOPES, PageLimit};
use super::range_gaps::RangeGaps;
use super::want_silence::WantAnswer;
use crate::arrived_bytes::ArrivedBytes;
use crate::control::SessionError;
use crate::counters::{NetCounters, PeerError, SubscribeRpc};

/// Longest wait for a page and for the shorter pages that are asked for after it failed, before a stream is opened. A
/// guess: less than the time for which the follower waits for an answer, so that a peer whose pages hang is asked for
/// its stream within the same want.
const FIRST_PAGE_MAX: Duration = Duration::from_secs(3);
/// The same for pages in place of a stream, which would be as long. Calculated: three calls of ten seconds each, for
/// shorter and shorter pages.
const PAGE_INSTEAD_MAX: Duration = Duration::from_secs(30);
/// The age from which a stream that ends with an error says nothing against its peer. A guess: a proxy in front of a
/// peer ends streams on which nothing has come for some time, and a peer that fails does so at once. Specified in
/// `docs/protocol/replication.md`, section *Over gRPC*.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// A want that is sent to a peer, with everything that its answers need.
pub(super) struct WantCall {
    pub(super) client: PeerClient,
    /// The bytes of answers to this want.
    pub(super) arrived: ArrivedBytes,
    pub(super) sink: ResponseSink,
    pub(super) counters: Arc<NetCounters>,
    pub(super) request: RequestId,
    pub(super) want: Want,
    pub(super) asked: AskedPeer,
    /// The peer did not answer the want before this one: it may hold only envelopes that streams do not show.
    pub(super) was_silent: bool,
    /// The answer so far.
    pub(super) answer: Arc<Mutex<WantAnswer>>,
    /// The length of pages of this strand, by those that the peer has sent in this session.
    pub(super) limit: Arc<Mutex<PageLimit>>,
    /// The places that earlier answers have taken, with which repeated envelopes are compared.
    pub(super) taken: AnsweredPlaces,
}

impl WantCall {
    /// Asks, and hands the answers to the follower. Returns when the want is answered, its stream has ended,
    /// or the follower takes no more.
    ///
    /// # Errors
    /// When the peer breaks the protocol, refuses, or is lost.
    pub(super) async fn run(self) -> Result<(), SessionError> {
        let feed = WantFeed::behind(self.want, self.asked, Instant::now(), self.taken.clone());
        match self.want.items {
            WantedItems::Envelopes(None) => self.stream(feed).await,
            WantedItems::Envelopes(Some(_)) => self.pages(feed).await,
            WantedItems::GapsOf(ranges) => self.gaps(ranges).await,
            // Peers over QUIC alone are asked for all gaps. A stream that breaks says nothing of any place.
            WantedItems::Gaps(_) => self.close().await,
        }
    }

    /// Follows the strand over streams that do not end, from the position of `feed` on. Where a message of one is too
    /// long, pages take its place: a peer of other software puts as many envelopes into one as its database gives.
    async fn stream(&self, mut feed: WantFeed) -> Result<(), SessionError> {
        if self.was_silent && !self.first_pages(&mut feed, FIRST_PAGE_MAX).await? {
            return Ok(());
        }
        loop {
            let ended = self.stream_once(&mut feed).await;
            if ended != Err(PeerError::Oversized.into()) {
                return ended;
            }
            let before = feed.position();
            tracing::debug!(originator_id = %self.want.originator, after = %before, "a message is too long: pages follow");
            if !self.first_pages(&mut feed, PAGE_INSTEAD_MAX).await? {
                return Ok(());
            }
            if feed.position() == before {
                return match self.asked {
                    AskedPeer::Relay => self.close().await,
                    AskedPeer::OwnNode | AskedPeer::OwnNodeUnprotected => ended,
                };
            }
        }
    }

    /// Opens a stream from the position of `feed` on, and hands over what comes until it ends.
    async fn stream_once(&self, feed: &mut WantFeed) -> Result<(), SessionError> {
        let began = Instant::now();
        let (mut stream, mut next) = match self.told(self.open(feed.position())).await {
            Ok((stream, Some(first))) => (stream, Some(first)),
            Ok((_, None)) => return self.end(feed).await,
            Err(PeerCallError::TooManyLong) => return self.close().await,
            Err(
                PeerCallError::Failed(error)
                | PeerCallError::Answered(error)
                | PeerCallError::Busy(error),
            ) if self.asked == AskedPeer::Relay => {
                // A peer need not serve the strands of others. If the whole connection has failed, the next call
                // fails, too.
                tracing::debug!(error, originator_id = %self.want.originator, "a strand is refused");
                return self.close().await;
            }
            Err(error) => {
                self.note_answer(&error, began);
                return Err(error.into());
            }
        };
        let opened = Instant::now();
        while let Some(envelopes) = next {
            if !self.hand_over(feed, envelopes).await? {
                return Ok(());
            }
            next = match self.told(stream.next()).await {
                Err(
                    PeerCallError::Failed(error)
                    | PeerCallError::Answered(error)
                    | PeerCallError::Busy(error),
                ) if is_asked_again(self.asked, &self.want, feed.position(), opened.elapsed()) => {
                    // If the whole connection has failed, the next call fails, too.
                    tracing::debug!(error, "a stream ended");
                    None
                }
                Err(PeerCallError::TooManyLong) => return self.close().await,
                next => next?,
            };
        }
        // The peer is shutting down, or this node was too slow for it. The want is sent again from the stored end of
        // the strand.
        self.end(feed).await
    }

    /// Hands the end of a stream to the follower. One that has shown nothing new of the peer's own strand is no answer:
    /// a peer could claim envelopes for ever, and end each stream.
    async fn end(&self, feed: &WantFeed) -> Result<(), SessionError> {
        let is_new =
            feed.position() > self.want.after || *self.answer.lock() != WantAnswer::Nothing;
        if self.asked == AskedPeer::Relay || is_new {
            return self.close().await;
        }
        *self.answer.lock() = WantAnswer::EmptyEnd;
        self.pass_on(vec![StrandItem::Closed]).await.map(drop)
    }

    /// Notifies the engine when the peer answers a request for its own strand with an error of its own. An error at the
    /// end of a running stream does not count, because a node that stops ends its streams this way.
    fn note_answer(&self, error: &PeerCallError, began: Instant) {
        if let PeerCallError::Answered(_) | PeerCallError::Unimplemented = error
            && self.asked != AskedPeer::Relay
        {
            self.sink.note_failed_request(began.elapsed());
        }
    }

    /// Asks for pages, which also have envelopes that a Hawser peer has marked invalid, until one is not full. Returns
    /// false when the follower takes no more. Returns true, so that the caller opens a stream, also if the peer
    /// refuses, if its page and the shorter ones after it take longer than `page_max`, or if its first envelope is too
    /// long for any page.
    async fn first_pages(
        &self,
        feed: &mut WantFeed,
        page_max: Duration,
    ) -> Result<bool, SessionError> {
        loop {
            let (after, mut limit) = (feed.position(), PAGE_ENVELOPES);
            let asked = self.client.page_that_fits(self.want.originator, after, &mut limit);
            let (page, _memory) = match self.told(timeout(page_max, asked)).await {
                Ok(Ok(Some(page))) => page,
                Ok(Err(PeerError::Oversized)) if self.asked == AskedPeer::Relay => return Ok(true),
                Ok(Err(error)) => return Err(error.into()),
                Ok(Ok(None)) | Err(_) => return Ok(true),
            };
            let is_full = u32::try_from(page.len()).is_ok_and(|len| len >= limit);
            if page.is_empty() {
                return Ok(true);
            }
            if !self.hand_over(feed, page).await? {
                return Ok(false);
            }
            if !is_full || feed.position() == after {
                return Ok(true);
            }
        }
    }

    /// Opens the newest method that the peer has. A peer may show only by the answer to the first message
    /// that it does not have a method.
    async fn open(
        &self,
        after: SequenceId,
    ) -> Result<(EnvelopeStream, Option<Vec<Bytes>>), PeerCallError> {
        let originator = self.want.originator;
        let first = async {
            let mut stream = self.client.subscribe_originators(originator, after).await?;
            let first = stream.next().await?;
            self.counters.subscribed(originator, SubscribeRpc::Originators);
            Ok((stream, first))
        };
        match first.await {
            Err(PeerCallError::Unimplemented | PeerCallError::NotFound) => {
                let mut stream = self.client.subscribe_envelopes(originator, after).await?;
                let first = stream.next().await?;
                self.counters.subscribed(originator, SubscribeRpc::Envelopes);
                Ok((stream, first))
            }
            opened => opened,
        }
    }

    /// Asks for a range page by page. A stream would show nothing that the peer has marked invalid, and go on behind
    /// the end. Nodes of other software also keep a stream that its caller has ended until the strand grows.
    async fn pages(&self, mut feed: WantFeed) -> Result<(), SessionError> {
        let mut limit = self.limit.lock().of_next_range();
        while !feed.is_over() {
            let asked = self.told(self.next_page(&feed, &mut limit)).await?;
            let Some((page, _memory, took)) = asked else {
                return self.close().await;
            };
            limit.note(&page, took);
            *self.limit.lock() = limit;
            let before = feed.position();
            if !self.hand_over(&mut feed, page).await? {
                return Ok(());
            }
            if feed.position() == before {
                break; // nothing is left behind it
            }
        }
        self.deliver(vec![StrandItem::End]).await.map(drop)
    }

    /// Asks for all ranges of a want at the same time, and names the places that the peer does not hold.
    async fn gaps(&self, ranges: GapRanges) -> Result<(), SessionError> {
        let [first, second, third, fourth] = ranges.slots();
        let (first, second, third, fourth) = tokio::try_join!(
            self.gaps_of(first),
            self.gaps_of(second),
            self.gaps_of(third),
            self.gaps_of(fourth),
        )?;
        let mut items: Vec<_> = [first, second, third, fourth].into_iter().flatten().collect();
        items.push(StrandItem::End);
        self.deliver(items).await.map(drop)
    }

    /// Asks for a range, and returns the places that the peer does not hold. A peer that refuses says nothing about the
    /// rest of the range.
    async fn gaps_of(
        &self,
        range: Option<(SequenceId, SequenceId)>,
    ) -> Result<Vec<StrandItem<Bytes>>, SessionError> {
        let Some(range) = range else { return Ok(Vec::new()) };
        let (originator, now) = (self.want.originator, Instant::now());
        let mut gaps = RangeGaps::new(originator, range, self.asked, now);
        let mut limit = PageLimit::default();
        while !gaps.is_over() {
            let Some((page, _memory, _)) = self.next_page(gaps.feed(), &mut limit).await? else {
                break;
            };
            self.count_bytes(&page);
            let rewritten = gaps.take(Instant::now(), SystemClock.now_ns(), page)?;
            self.counters.rewritten.inc_by(rewritten);
        }
        Ok(gaps.into_items())
    }

    /// Asks for the next page of a range, of as many envelopes as `limit` says, and for a shorter one if the peer
    /// answers with an error. Returns it with the time that it took. Returns `None` if the peer refuses or is busy, or
    /// this node has no memory for its page now.
    async fn next_page(
        &self,
        feed: &WantFeed,
        limit: &mut PageLimit,
    ) -> Result<Option<(Vec<Bytes>, Answer, Duration)>, SessionError> {
        loop {
            let began = Instant::now();
            // A peer that lacks the wanted places sends those behind them, at most as many as are asked for.
            let count = limit.envelopes(feed.places_left());
            let asked = self.client.query(self.want.originator, feed.position(), count).await;
            let took = began.elapsed();
            let is_busy = matches!(&asked, Err(PeerCallError::Busy(_)));
            if is_busy {
                sleep(BUSY_PAUSE).await;
            }
            match asked {
                Ok((page, memory)) => return Ok(Some((page, memory, took))),
                // The page may be above the limit of a message.
                Err(
                    PeerCallError::Failed(error)
                    | PeerCallError::Answered(error)
                    | PeerCallError::Busy(error),
                ) if count > 1 => {
                    tracing::debug!(error, count, "a page is asked for again, shorter");
                    limit.shorten(count);
                }
                // The envelopes are longer than those before, and a peer need not cut its pages.
                Err(PeerCallError::Peer(PeerError::Oversized)) if count > 1 => {
                    tracing::debug!(count, "a page is too long, and is asked for again, shorter");
                    limit.shorten(count);
                }
                // The range is asked for again, when the peer may have less to do, or other long messages may be
                // complete.
                Err(PeerCallError::Busy(_) | PeerCallError::TooManyLong) => return Ok(None),
                // A relay does not choose how long the envelopes of another node are.
                Err(PeerCallError::Peer(PeerError::Oversized))
                    if self.asked == AskedPeer::Relay =>
                {
                    return Ok(None);
                }
                // A relay may refuse the strand of another node, and keeps its session.
                Err(PeerCallError::Failed(error) | PeerCallError::Answered(error))
                    if self.asked == AskedPeer::Relay =>
                {
                    tracing::debug!(error, originator_id = %self.want.originator, "pages are refused");
                    return Ok(None);
                }
                Err(error) => {
                    self.note_answer(&error, began);
                    return Err(error.into());
                }
            }
        }
    }

    /// Hands the items of one message to the follower. Returns false when it takes no more.
    async fn hand_over(
        &self,
        feed: &mut WantFeed,
        envelopes: Vec<Bytes>,
    ) -> Result<bool, SessionError> {
        self.count_bytes(&envelopes);
        let FeedItems { batches, rewritten, violation } =
            feed.take(Instant::now(), SystemClock.now_ns(), envelopes);
        self.counters.rewritten.inc_by(rewritten);
        for items in batches {
            if !self.deliver(items).await? {
                return Ok(false);
            }
        }
        violation.map_or(Ok(true), |violation| Err(violation.into()))
    }

    /// Waits for an answer, or for a part of one. Tells the follower meanwhile that bytes of it arrive: a long message
    /// over a slow link takes longer than a peer may show nothing.
    async fn told<T>(&self, answer: impl Future<Output = T>) -> T {
        self.arrived.told_to(&self.sink, (self.want.originator, self.request), answer).await
    }

    fn count_bytes(&self, envelopes: &[Bytes]) {
        let len: usize = envelopes.iter().map(Bytes::len).sum();
        self.counters.bytes_received.inc_by(len as u64);
    }

    /// Tells the follower that nothing more comes, and nothing is stated about the rest.
    async fn close(&self) -> Result<(), SessionError> {
        self.deliver(vec![StrandItem::Closed]).await.map(drop)
    }

    async fn deliver(&self, items: Vec<StrandItem<Bytes>>) -> Result<bool, SessionError> {
        // A peer chooses how often it sends second statements, and they answer no want.
        if items.iter().any(|item| !matches!(item, StrandItem::Second(_))) {
            *self.answer.lock() = WantAnswer::Something;
        }
        self.pass_on(items).await
    }

    async fn pass_on(&self, items: Vec<StrandItem<Bytes>>) -> Result<bool, SessionError> {
        Ok(self.sink.deliver(self.want.originator, self.request, items).await.is_ok())
    }
}

/// Returns true if a peer's stream that fails at this position and age is opened again in the same session. In the
/// peer's own strand, the error of a young stream without a new envelope says that the peer does not serve it.
fn is_asked_again(asked: AskedPeer, want: &Want, position: SequenceId, age: Duration) -> bool {
    asked == AskedPeer::Relay || position > want.after || age >= SETTLED_AFTER
}

#[cfg(test)]
mod tests {
    use hawser_proto::OriginatorId;

    use super::*;

    /// The session would end as often, with a growing pause after each.
    #[test]
    fn a_proxy_that_cuts_idle_streams_ends_no_session() {
        let young = SETTLED_AFTER - Duration::from_millis(1);
        let (start, moved) = (SequenceId(7), SequenceId(8));
        let want = Want::envelopes(OriginatorId(300), start, None);
        for (asked, position, age, is_again) in [
            (AskedPeer::OwnNode, start, young, false),
            (AskedPeer::OwnNodeUnprotected, start, young, false),
            (AskedPeer::OwnNode, start, SETTLED_AFTER, true),
            (AskedPeer::OwnNode, moved, Duration::ZERO, true),
            (AskedPeer::Relay, start, Duration::ZERO, true),
        ] {
            let found = is_asked_again(asked, &want, position, age);
            assert_eq!(found, is_again, "{asked:?} at {position} after {age:?}");
        }
    }
}
