//! The decision which lines of the log are written: a bounded number for each place of the code in a minute. The others
//! are counted. Time is an argument.

use std::collections::HashMap;
use std::mem;
use std::time::{Duration, Instant};

use tracing::Metadata;

/// Lines of one place of the code that are written in a window. A guess: more than the notes about settings with which
/// a node starts, and so few that all places together do not fill a disk.
const LINES_MAX: u32 = 100;
/// The time in which lines are counted together. A guess: a place of the code that fails without end is still seen each
/// minute.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// The lines of each place of the code that logs. Bounded by the number of these places in the program.
#[derive(Debug, Default)]
pub(super) struct LineCounts {
    /// The window of each place, by the address of its metadata.
    places: HashMap<usize, PlaceWindow>,
    /// The earliest end of a window with lines that were left out.
    next_end: Option<Instant>,
}

/// The lines of one place since its window began.
#[derive(Debug)]
struct PlaceWindow {
    metadata: &'static Metadata<'static>,
    began: Instant,
    written: u32,
    left_out: u64,
    /// The message of the first line that was left out.
    message: String,
}

/// Lines of one place that were left out in a window.
#[derive(Debug)]
pub(super) struct LeftOutLines {
    pub(super) metadata: &'static Metadata<'static>,
    /// The message of the first one.
    pub(super) message: String,
    pub(super) count: u64,
}

/// The decision about a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineDecision {
    /// The line is to be written.
    Write,
    /// The line is counted as one that was left out.
    LeaveOut,
    /// The line is the first one to be left out. Nothing was counted: it must be noted again with its message.
    NeedsMessage,
}

impl LineCounts {
    /// Takes the counts of the windows that have ended, so that each is written once.
    pub(super) fn take_ended(&mut self, now: Instant) -> Vec<LeftOutLines> {
        if self.next_end.is_none_or(|end| now < end) {
            return Vec::new();
        }
        let mut ended = Vec::new();
        self.next_end = None;
        for place in self.places.values_mut().filter(|place| place.left_out > 0) {
            let end = place.began + WINDOW;
            if now < end {
                self.next_end = Some(self.next_end.map_or(end, |next| next.min(end)));
                continue;
            }
            ended.push(LeftOutLines {
                metadata: place.metadata,
                message: mem::take(&mut place.message),
                count: mem::take(&mut place.left_out),
            });
        }
        ended
    }

    /// Counts a line, and decides about it. `message` is the line's, if it has been built: it is needed for the first
    /// line alone that is left out. To be called after [`take_ended`](Self::take_ended) of the same time.
    pub(super) fn note(
        &mut self,
        metadata: &'static Metadata<'static>,
        now: Instant,
        message: Option<String>,
    ) -> LineDecision {
        let new = || PlaceWindow {
            metadata,
            began: now,
            written: 0,
            left_out: 0,
            message: String::new(),
        };
        let place = self.places.entry(std::ptr::from_ref(metadata).addr()).or_insert_with(new);
        if now.duration_since(place.began) >= WINDOW {
            debug_assert_eq!(place.left_out, 0, "taken before");
            (place.began, place.written) = (now, 0);
        }
        if place.written < LINES_MAX {
            place.written += 1;
            return LineDecision::Write;
        }
        if place.left_out == 0 {
            let Some(message) = message else { return LineDecision::NeedsMessage };
            place.message = message;
            let end = place.began + WINDOW;
            self.next_end = Some(self.next_end.map_or(end, |next| next.min(end)));
        }
        place.left_out += 1;
        LineDecision::LeaveOut
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tracing::span;
    use tracing::{Event, Subscriber};

    use super::*;

    /// Takes the metadata of events.
    #[derive(Default)]
    struct Places(Mutex<Vec<&'static Metadata<'static>>>);

    impl Subscriber for Places {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            self.0.lock().push(event.metadata());
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    /// Returns the metadata of two places that log.
    fn places() -> [&'static Metadata<'static>; 2] {
        let subscriber = std::sync::Arc::new(Places::default());
        tracing::subscriber::with_default(subscriber.clone(), || {
            tracing::warn!("one");
            tracing::warn!("other");
        });
        let seen = subscriber.0.lock();
        [seen[0], seen[1]]
    }

    #[test]
    fn a_flood_of_one_place_is_counted_and_hides_no_other() {
        let [flood, other] = places();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut counts = LineCounts::default();
        let mut written = 0;
        for number in 0..1304_u32 {
            assert_eq!(counts.take_ended(at(1)).len(), 0);
            let decided = match counts.note(flood, at(1), None) {
                LineDecision::NeedsMessage => {
                    counts.note(flood, at(1), Some(format!("line {number}")))
                }
                decided => decided,
            };
            written += u32::from(decided == LineDecision::Write);
        }
        assert_eq!(written, LINES_MAX);
        assert_eq!(counts.note(other, at(2), None), LineDecision::Write);

        assert_eq!(counts.take_ended(at(60)).len(), 0, "its window began at 1");
        let ended = counts.take_ended(at(61));
        let [left_out] = &ended[..] else { panic!("{ended:?}") };
        assert_eq!((left_out.count, left_out.message.as_str()), (1204, "line 100"));
        assert!(std::ptr::eq(left_out.metadata, flood));
        assert_eq!(counts.take_ended(at(62)).len(), 0, "each is told once");
        assert_eq!(counts.note(flood, at(62), None), LineDecision::Write, "a new window");
    }

    #[test]
    fn a_window_that_ends_later_is_told_later() {
        let [first, second] = places();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut counts = LineCounts::default();
        for (place, seconds) in [(first, 0), (second, 30)] {
            for _ in 0..=LINES_MAX {
                counts.note(place, at(seconds), Some(String::new()));
            }
        }
        for (seconds, place) in [(60, first), (90, second)] {
            let ended = counts.take_ended(at(seconds));
            let [left_out] = &ended[..] else { panic!("{ended:?}") };
            assert!(std::ptr::eq(left_out.metadata, place) && left_out.count == 1);
        }
    }
}
