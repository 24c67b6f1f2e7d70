//! Timers of a stream with requests (XIP-83): pings, pongs, a client that does not read, and the end.

use std::time::Duration;

use tokio::time::Instant;

/// The timers of one stream, as a plain value. The driver notes events with their times, and asks
/// when the next timer is due and which one.
#[derive(Debug)]
pub(super) struct StreamTimers {
    interval: Duration,
    last_sent: Instant,
    /// Number of the last ping; 0 before the first.
    nonce: u64,
    /// Time until which the last ping has to be answered.
    pong_until: Option<Instant>,
    /// The client sends no more, so it answers no pings.
    half_closed: bool,
    /// Requests of the client wait for this node. The answer to a ping may be among them.
    requests_wait: bool,
    /// Time since which a frame waits for the client to read.
    blocked_since: Option<Instant>,
    drain_since: Option<Instant>,
}

/// The event of an expired timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimerEvent {
    /// A ping with this nonce is to be sent.
    Ping(u64),
    /// The client has not answered.
    NoPong,
    /// The client has not read.
    Stalled,
    /// The frames after the client's end were not read in time.
    DrainLate,
}

impl StreamTimers {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            last_sent: now,
            nonce: 0,
            pong_until: None,
            half_closed: false,
            requests_wait: false,
            blocked_since: None,
            drain_since: None,
        }
    }

    /// Records that a frame was handed to the sender. The next one has its own time to wait: many answers may follow
    /// each other without a moment at which none waits.
    pub(super) fn sent(&mut self, now: Instant) {
        self.last_sent = now;
        self.blocked_since = None;
    }

    /// Records if the sender has no room for a frame.
    pub(super) fn set_blocked(&mut self, blocked: bool, now: Instant) {
        self.blocked_since = if blocked { self.blocked_since.or(Some(now)) } else { None };
    }

    /// Records a pong. Only an answer to the last ping counts.
    pub(super) fn pong(&mut self, nonce: u64) {
        if nonce == self.nonce {
            self.pong_until = None;
        }
    }

    /// Records if requests that have come wait for this node. The deadline of a ping ends after they have been taken.
    pub(super) fn set_requests_wait(&mut self, wait: bool) {
        self.requests_wait = wait;
    }

    /// Records that the client has ended its requests. An unanswered ping has no effect then.
    pub(super) fn half_close(&mut self) {
        self.half_closed = true;
        self.pong_until = None;
    }

    /// Starts the drain timer: from now on the stream only sends the frames that wait.
    pub(super) fn drain(&mut self, now: Instant) {
        self.drain_since = self.drain_since.or(Some(now));
    }

    /// Returns the time at which the next timer is due; `None` if no timer runs.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due_times().into_iter().flatten().map(|(at, _)| at).min()
    }

    /// Returns the timer event that is due by `now`.
    pub(super) fn due(&mut self, now: Instant) -> Option<TimerEvent> {
        let mut due: Vec<(Instant, TimerEvent)> = self.due_times().into_iter().flatten().collect();
        due.retain(|(at, _)| *at <= now);
        let (_, due) = due.into_iter().min_by_key(|(at, _)| *at)?;
        if let TimerEvent::Ping(nonce) = due {
            self.nonce = nonce;
            self.last_sent = now;
            self.pong_until = Some(now + self.interval);
        }
        Some(due)
    }

    fn due_times(&self) -> [Option<(Instant, TimerEvent)>; 4] {
        let after = |since: Instant| since + self.interval;
        let pings = !self.half_closed && self.pong_until.is_none();
        // The frames that are left have an interval of their own.
        let blocked_since = self.blocked_since.filter(|_| self.drain_since.is_none());
        let pong_until = self.pong_until.filter(|_| !self.requests_wait);
        [
            // Takes precedence over timers that are due at the same time: a client that does not read cannot answer
            // a ping either.
            self.drain_since.map(|since| (after(since), TimerEvent::DrainLate)),
            blocked_since.map(|since| (after(since), TimerEvent::Stalled)),
            pong_until.map(|until| (until, TimerEvent::NoPong)),
            pings.then(|| (after(self.last_sent), TimerEvent::Ping(self.nonce + 1))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn silence_is_broken_by_a_ping_and_only_its_own_pong_counts() {
        let start = Instant::now();
        let mut times = StreamTimers::new(INTERVAL, start);
        times.sent(at(start, 10));
        assert_eq!(times.next(), Some(at(start, 40)));
        assert_eq!(times.due(at(start, 39)), None);
        assert_eq!(times.due(at(start, 40)), Some(TimerEvent::Ping(1)));
        times.sent(at(start, 50));
        assert_eq!(
            times.next(),
            Some(at(start, 70)),
            "other traffic does not postpone the deadline"
        );
        times.pong(1);
        assert_eq!(times.due(at(start, 80)), Some(TimerEvent::Ping(2)));
        times.pong(1);
        times.pong(3);
        assert_eq!(times.due(at(start, 109)), None);
        assert_eq!(times.due(at(start, 110)), Some(TimerEvent::NoPong));
    }

    /// A pong that has come is behind a Mutate that waits for memory, or for the client to read.
    #[test]
    fn a_pong_that_waits_for_this_node_is_not_late() {
        let start = Instant::now();
        let mut times = StreamTimers::new(INTERVAL, start);
        assert_eq!(times.due(at(start, 30)), Some(TimerEvent::Ping(1)));
        times.set_requests_wait(true);
        assert_eq!((times.next(), times.due(at(start, 70))), (None, None), "nor pinged again");
        times.set_requests_wait(false);
        assert_eq!(times.next(), Some(at(start, 60)));
        times.pong(1);
        assert_eq!(times.due(at(start, 70)), Some(TimerEvent::Ping(2)));
        times.set_requests_wait(true);
        times.set_requests_wait(false);
        assert_eq!(times.due(at(start, 100)), Some(TimerEvent::NoPong));
    }

    /// The client has read nothing since before its end.
    #[test]
    fn the_frames_after_the_end_of_a_client_have_an_interval_of_their_own() {
        let start = Instant::now();
        let mut times = StreamTimers::new(INTERVAL, start);
        times.set_blocked(true, start);
        times.half_close();
        times.drain(at(start, 20));
        assert_eq!(times.due(at(start, 49)), None);
        assert_eq!(times.due(at(start, 50)), Some(TimerEvent::DrainLate));
    }

    #[test]
    fn a_client_that_has_ended_is_neither_pinged_nor_waited_for() {
        let start = Instant::now();
        let mut times = StreamTimers::new(INTERVAL, start);
        assert_eq!(times.due(at(start, 30)), Some(TimerEvent::Ping(1)));
        times.half_close();
        assert_eq!((times.next(), times.due(at(start, 999))), (None, None));
        times.drain(at(start, 1000));
        times.drain(at(start, 1020));
        assert_eq!(times.due(at(start, 1030)), Some(TimerEvent::DrainLate));
    }

    /// It asks faster than it reads, so the next answer waits whenever there is room for one.
    #[test]
    fn a_client_that_reads_slowly_is_not_left() {
        let start = Instant::now();
        let mut times = StreamTimers::new(INTERVAL, start);
        for second in [0, 20, 40] {
            times.sent(at(start, second));
            times.set_blocked(true, at(start, second));
            assert_eq!(times.due(at(start, second + 20)), None);
        }
        assert_eq!(times.due(at(start, 69)), None);
        assert_eq!(times.due(at(start, 70)), Some(TimerEvent::Stalled));
    }

    #[test]
    fn a_client_that_does_not_read_is_noticed_from_the_first_frame_that_waits() {
        let start = Instant::now();
        let mut times = StreamTimers::new(INTERVAL, start);
        times.sent(at(start, 5));
        times.set_blocked(true, at(start, 5));
        times.set_blocked(true, at(start, 20));
        assert_eq!(times.due(at(start, 35)), Some(TimerEvent::Stalled));
        times.set_blocked(false, at(start, 35));
        assert_eq!(times.due(at(start, 35)), Some(TimerEvent::Ping(1)));
    }
}
