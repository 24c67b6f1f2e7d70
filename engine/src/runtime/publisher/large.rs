//! Large requests, whose envelopes get their places piece by piece, so that other requests pass between the pieces.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::Bytes;

use super::commit::Generation;
use super::earlier::LookUp;
use super::error::PublishError;
use super::request::{InFlightShare, PendingReply, Published, Request};
use super::size::PublishSize;
use crate::runtime::{GroupedQueue, PublishCaller};
use crate::sequencer::Admitted;

/// Pieces that have places and are not written yet; the next one waits. A small request waits for the writes of this
/// number of pieces at most. Two, so that one piece is signed while the piece before it is written.
const UNWRITTEN_MAX: usize = 2;
/// Groups of small requests that go before a piece. A guess: under full load, large requests go on at a tenth of the
/// pace.
const PASSED_MAX: u32 = 3;
/// Pause for publishers of a request that was refused after its first pieces. When the publisher sends the same request
/// again, the answer has the reason of the refusal, unless the request adds envelopes once more: its first envelopes
/// are repeats then.
const RETRY_REST: Duration = Duration::from_secs(1);

/// A large request that is being sequenced.
pub(super) struct LargeRequest {
    pub(super) caller: PublishCaller,
    /// Envelopes without a place, in the order of the request.
    rest: std::vec::IntoIter<Admitted>,
    /// Earlier publishes that the disk knew of when the request was admitted. Holds the rest.
    pub(super) earlier: LookUp,
    /// The answer for the envelopes before the rest. Those may still be on their way to the disk.
    answer: Published,
    /// Bound of the length of that part of the answer, in bytes.
    pub(super) answer_len: usize,
    reply: PendingReply,
}

/// The large requests of all callers. Sites take turns, and so do the addresses of each. One request of an address is
/// finished before the next one.
pub(super) struct LargeRequests {
    waiting: GroupedQueue<usize, LargeRequest>,
    /// Groups with a piece that are not written yet, oldest first, and the bytes of these pieces.
    unwritten: VecDeque<(Generation, usize)>,
    /// Groups that went before the piece whose turn it is.
    passed: u32,
    piece_max: PublishSize,
}

impl LargeRequest {
    /// Begins with a request that has no places.
    fn of(request: Request) -> Self {
        let Request { caller, envelopes, earlier, reply, .. } = request;
        let answer = Published::of(Vec::with_capacity(envelopes.len()), 0);
        Self { caller, rest: envelopes.into_iter(), earlier, answer, answer_len: 0, reply }
    }

    /// Returns the request, of which no envelope has a place. `piece` are its first envelopes.
    pub(super) fn back(self, piece: Vec<Admitted>) -> Request {
        debug_assert!(!self.has_begun(), "its answer so far would be lost");
        let Self { caller, rest, earlier, reply, .. } = self;
        let envelopes = piece.into_iter().chain(rest).collect();
        Request { caller, is_large: true, envelopes, earlier, reply }
    }

    /// Returns the size of its next piece, which ends at `piece_max`.
    fn next_piece(&self, piece_max: PublishSize) -> PublishSize {
        let (mut size, mut rest) = (PublishSize::default(), self.rest.as_slice().iter());
        while !size.reaches(piece_max)
            && let Some(next) = rest.next()
        {
            size.add(std::iter::once(next.envelope.as_bytes().len()));
        }
        size
    }

    /// Returns true if the sequencer has assigned places to some of its envelopes.
    fn has_begun(&self) -> bool {
        !self.answer.envelopes.is_empty()
    }

    /// Returns its share of the bytes in flight, for a group that has a piece of it: the request may fail before that
    /// group is written.
    pub(super) fn in_flight(&self) -> Arc<InFlightShare> {
        self.reply.in_flight.clone()
    }

    /// Adds the answer for its next piece, of which `added` envelopes are new.
    pub(super) fn add(&mut self, envelopes: Vec<Bytes>, added: usize, len_bytes: usize) {
        self.answer.envelopes.extend(envelopes);
        self.answer.added += added;
        self.answer_len += len_bytes;
    }

    /// Answers with an error, as soon as no piece of the request is on its way to the disk: a gateway looks once for
    /// what is stored, and publishes the rest at another node. Once the request has added an envelope, the error is
    /// always one after which the publisher tries again, because a part of the request may be stored. The next try
    /// repeats that part, and its answer has the reason of the refusal. The error's indexes are those within the next
    /// piece.
    pub(super) fn fail(self, error: PublishError) {
        let begun = self.answer.envelopes.len();
        let error = match self.answer.added > 0 {
            true => error.after_pieces(begun, RETRY_REST),
            false => error.at_place(|index| begun + index),
        };
        self.reply.fail_when_written(error);
    }
}

impl LargeRequests {
    /// Creates the queue. Pieces end at `piece_max`.
    pub(super) fn new(piece_max: PublishSize) -> Self {
        let (waiting, unwritten) = (GroupedQueue::default(), VecDeque::new());
        Self { waiting, unwritten, passed: 0, piece_max }
    }

    /// Adds a request behind the others of its caller.
    pub(super) fn push(&mut self, request: Request) {
        let PublishCaller { site, address } = request.caller;
        self.waiting.push(site, address, LargeRequest::of(request));
    }

    /// Returns true if no request waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Frees the room of the groups up to `written`, which are on disk.
    pub(super) fn forget_written(&mut self, written: Generation) {
        while self.unwritten.pop_front_if(|(group, _)| *group <= written).is_some() {}
    }

    /// Returns true if a piece waits and can get its places now.
    pub(super) fn can_go_on(&self) -> bool {
        let len_bytes: usize = self.unwritten.iter().map(|(_, len_bytes)| len_bytes).sum();
        !self.waiting.is_empty()
            && self.unwritten.len() < UNWRITTEN_MAX
            && len_bytes < UNWRITTEN_MAX * self.piece_max.len_bytes
    }

    /// Takes the next piece for a group, and the request that it belongs to. `None` if no piece can go on, or if it
    /// lets this group of other requests pass first. Give the request back with [`Self::put_back`], or let it fail.
    pub(super) fn take_piece(
        &mut self,
        group: Generation,
        written: Generation,
        is_among_others: bool,
    ) -> Option<(LargeRequest, Vec<Admitted>)> {
        self.forget_written(written);
        if !self.can_go_on() {
            return None;
        }
        if is_among_others && self.passed < PASSED_MAX {
            self.passed += 1;
            return None;
        }
        self.passed = 0;
        let mut request = self.waiting.pop()?;
        let size = request.next_piece(self.piece_max);
        let piece = request.rest.by_ref().take(size.envelopes).collect();
        self.unwritten.push_back((group, size.len_bytes));
        debug_assert!(self.unwritten.len() <= UNWRITTEN_MAX, "`can_go_on` leaves room for one");
        Some((request, piece))
    }

    /// Takes a request back after a piece, or returns its whole answer if that was the last one.
    pub(super) fn put_back(&mut self, request: LargeRequest) -> Option<(PendingReply, Published)> {
        if request.rest.len() == 0 {
            return Some((request.reply, request.answer));
        }
        let PublishCaller { site, address } = request.caller;
        self.waiting.put_back(site, address, request);
        None
    }

    /// Answers all requests with an error.
    pub(super) fn fail_all(&mut self, error: &PublishError) {
        while let Some(request) = self.waiting.pop() {
            request.fail(error.clone());
        }
    }

    /// Answers with an error all requests that were assigned places before the end of the strand was read again: these
    /// places may have been lost.
    pub(super) fn fail_begun(&mut self, error: &PublishError) {
        let mut kept = Vec::new();
        while let Some(request) = self.waiting.pop() {
            match request.has_begun() {
                true => request.fail(error.clone()),
                false => kept.push(request),
            }
        }
        for request in kept {
            let PublishCaller { site, address } = request.caller;
            self.waiting.push(site, address, request);
        }
    }
}
