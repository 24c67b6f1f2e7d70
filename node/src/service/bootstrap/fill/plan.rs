//! Decides the next step of filling and its time limits. Does not read a clock: times are arguments.
//!
//! The adversary is the operator of the snapshot's source. He may omit sequence ids, so that a strand does not advance.
//! Its follower then decides about them as without a snapshot; a strand is given up if its follower does not pass an
//! omission in time, or if there are too many. The source may be slow; it is then not used again.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{BootstrapChunk, BootstrapStrand};

use crate::service::chain_gate::HOLD_MAX;

/// The time within which a follower has to pass a sequence id that the snapshot omits. A guess: twice
/// the time for which it asks peers.
const PAST_GAP_MAX: Duration = Duration::from_secs(120);
/// The largest number of omissions in one strand for which filling waits. A guess: each may
/// require reading a chunk again.
const GAPS_MAX: usize = 256;
/// The first pause after a failure; each further one is twice as long. A guess.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause after a failure. A guess.
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// The time limit for reading a chunk, and for finding and reading the newest manifest. A guess: chunks of 8 MiB then
/// need at least 1.1 Mbit/s.
pub(super) const READ_MAX: Duration = Duration::from_secs(60);

/// The next step of filling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FillStep {
    /// Read a chunk of a strand, and write the envelopes after the strand's head.
    Read { originator: OriginatorId, chunk: BootstrapChunk },
    /// Check again after a pause, because followers have to pass omissions of the snapshot.
    Wait,
    /// Nothing is left to fill.
    End,
}

/// The strands that are filled, in order.
#[derive(Debug)]
pub(super) struct FillPlan {
    strands: Vec<StrandFill>,
    /// The total length of finished chunks in bytes.
    done: u64,
    /// The total length of all chunks in bytes.
    total: u64,
}

#[derive(Debug)]
struct StrandFill {
    originator: OriginatorId,
    /// The remaining chunks, ascending.
    chunks: Vec<BootstrapChunk>,
    gaps: usize,
    /// The strand's head before an omission, and the time until which its follower may pass it.
    waits: Option<(SequenceId, Instant)>,
}

impl FillPlan {
    /// Plans to fill these strands.
    pub(super) fn new<'a>(strands: impl IntoIterator<Item = &'a BootstrapStrand>) -> Self {
        let planned = |stated: &BootstrapStrand| StrandFill {
            originator: stated.originator,
            chunks: stated.chunks.clone(),
            gaps: 0,
            waits: None,
        };
        let strands: Vec<StrandFill> = strands.into_iter().map(planned).collect();
        let total = len_bytes(strands.iter().flat_map(|strand| &strand.chunks));
        Self { strands, done: 0, total }
    }

    /// Returns the lengths in bytes of the finished chunks and of all chunks.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.done, self.total)
    }

    /// Returns the next step; `head_of` returns the durable head of a strand.
    ///
    /// # Errors
    /// The errors of `head_of`.
    pub(super) fn next<E>(
        &mut self,
        now: Instant,
        head_of: &mut dyn FnMut(OriginatorId) -> Result<SequenceId, E>,
    ) -> Result<FillStep, E> {
        let mut step = FillStep::End;
        for strand in self.strands.iter_mut().filter(|strand| !strand.chunks.is_empty()) {
            let head = head_of(strand.originator)?;
            match strand.waits {
                Some((at, until)) if head <= at && now < until => {
                    step = FillStep::Wait;
                    continue;
                }
                // The follower has not passed the omission in time, so the strand is left to it.
                Some((at, _)) if head <= at => {
                    self.done = self.done.saturating_add(strand.end());
                    continue;
                }
                _ => strand.waits = None,
            }
            let held = strand.chunks.iter().take_while(|chunk| chunk.through <= head).count();
            let held: Vec<BootstrapChunk> = strand.chunks.drain(..held).collect();
            self.done = self.done.saturating_add(len_bytes(&held));
            if let Some(chunk) = strand.chunks.first() {
                return Ok(FillStep::Read { originator: strand.originator, chunk: *chunk });
            }
        }
        Ok(step)
    }

    /// Records that the snapshot omits the sequence id after the strand's head, so that
    /// the plan waits for its follower.
    pub(super) fn note_gap(&mut self, originator: OriginatorId, head: SequenceId, now: Instant) {
        for strand in self.strands.iter_mut().filter(|strand| strand.originator == originator) {
            strand.gaps += 1;
            strand.waits = Some((head, now + PAST_GAP_MAX));
            if strand.gaps > GAPS_MAX {
                self.done = self.done.saturating_add(strand.end());
            }
        }
    }

    /// Leaves a strand to its follower.
    pub(super) fn give_up(&mut self, originator: OriginatorId) {
        for strand in self.strands.iter_mut().filter(|strand| strand.originator == originator) {
            self.done = self.done.saturating_add(strand.end());
        }
    }
}

impl StrandFill {
    /// Removes the remaining chunks of the strand. Returns their length in bytes.
    fn end(&mut self) -> u64 {
        len_bytes(&std::mem::take(&mut self.chunks))
    }
}

/// Returns the sum of the lengths in a manifest, in bytes.
fn len_bytes<'a>(chunks: impl IntoIterator<Item = &'a BootstrapChunk>) -> u64 {
    chunks.into_iter().fold(0, |sum, chunk| sum.saturating_add(chunk.len_bytes))
}

/// The time limits of filling, and of holding back publishes.
#[derive(Debug)]
pub(super) struct FillTimes {
    begun: Instant,
    /// The time limit of what is being read.
    read_until: Option<Instant>,
    /// The pauses after the next failures.
    pauses: ExponentialBackoff,
    /// False permanently after the first failure, and after filling has waited for followers.
    holds: bool,
    /// True permanently after a reading took too long.
    is_too_slow: bool,
}

impl FillTimes {
    pub(super) fn new(now: Instant) -> Self {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .without_max_times()
            .build();
        Self { begun: now, read_until: None, pauses, holds: true, is_too_slow: false }
    }

    /// Returns true while publishes are held back and chains are not read, given that there is something to fill.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.holds && now.saturating_duration_since(self.begun) < HOLD_MAX
    }

    /// Ends holding publishes back.
    pub(super) fn release(&mut self) {
        self.holds = false;
    }

    /// Records that a chunk, or the newest manifest, is requested.
    pub(super) fn begin_read(&mut self, now: Instant) {
        self.read_until = Some(now + READ_MAX);
    }

    /// Returns true if the current reading takes too long.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.read_until.is_some_and(|until| now >= until)
    }

    /// Records the end of the request. Returns true if it took too long, so that the source is not used again.
    pub(super) fn end_read(&mut self, now: Instant) -> bool {
        self.is_too_slow |= self.is_late(now);
        self.read_until = None;
        self.is_too_slow
    }

    /// Returns true if the source is too slow.
    pub(super) fn is_too_slow(&self) -> bool {
        self.is_too_slow
    }

    /// Records a failure. Returns the pause before the source is used again.
    pub(super) fn fail(&mut self) -> Duration {
        self.holds = false;
        self.pauses.next().expect("the number of pauses is not limited")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use hawser_storage::FileHash;

    use super::*;

    const ONE: OriginatorId = OriginatorId(100);
    const TWO: OriginatorId = OriginatorId(200);

    fn chunk(from: u64, through: u64) -> BootstrapChunk {
        let (from, through) = (SequenceId(from), SequenceId(through));
        BootstrapChunk { from, through, len_bytes: 10, hash: FileHash([0; 32]) }
    }

    fn stated(originator: OriginatorId, chunks: &[BootstrapChunk]) -> BootstrapStrand {
        let head = chunks.last().map_or(SequenceId::NONE, |chunk| chunk.through);
        let (checkpoints, voids) = (Vec::new(), Vec::new());
        BootstrapStrand { originator, head, chunks: chunks.to_vec(), checkpoints, voids }
    }

    /// A plan with the heads of the strands.
    struct Planned {
        plan: FillPlan,
        heads: BTreeMap<OriginatorId, u64>,
        now: Instant,
    }

    impl Planned {
        fn new() -> Self {
            let strands = [stated(ONE, &[chunk(1, 4), chunk(6, 9)]), stated(TWO, &[chunk(1, 5)])];
            Self { plan: FillPlan::new(&strands), heads: BTreeMap::new(), now: Instant::now() }
        }

        fn next(&mut self) -> FillStep {
            let heads = &self.heads;
            let mut head_of =
                |id| Ok::<_, Infallible>(SequenceId(heads.get(&id).copied().unwrap_or(0)));
            self.plan.next(self.now, &mut head_of).unwrap()
        }

        fn note_gap(&mut self, originator: OriginatorId) {
            let head = SequenceId(self.heads.get(&originator).copied().unwrap_or(0));
            self.plan.note_gap(originator, head, self.now);
        }
    }

    fn read(originator: OriginatorId, chunk: BootstrapChunk) -> FillStep {
        FillStep::Read { originator, chunk }
    }

    #[test]
    fn a_gap_is_passed_when_the_follower_has_passed_it_and_others_are_filled_meanwhile() {
        let mut planned = Planned::new();
        assert_eq!(planned.next(), read(ONE, chunk(1, 4)));
        planned.heads.insert(ONE, 4);
        assert_eq!(planned.next(), read(ONE, chunk(6, 9)));
        planned.note_gap(ONE);
        assert_eq!(planned.next(), read(TWO, chunk(1, 5)));
        planned.heads.insert(TWO, 5);
        assert_eq!(planned.next(), FillStep::Wait);
        assert_eq!(planned.plan.progress(), (20, 30));
        // The follower has marked the fifth sequence id as missing.
        planned.heads.insert(ONE, 5);
        assert_eq!(planned.next(), read(ONE, chunk(6, 9)));
        planned.heads.insert(ONE, 9);
        assert_eq!(planned.next(), FillStep::End);
        assert_eq!(planned.plan.progress(), (30, 30));
    }

    #[test]
    fn a_strand_that_stands_still_is_left_to_its_follower_in_the_end() {
        let mut planned = Planned::new();
        planned.note_gap(ONE);
        planned.heads.insert(TWO, 5);
        planned.now += PAST_GAP_MAX - Duration::from_millis(1);
        assert_eq!(planned.next(), FillStep::Wait);
        planned.now += Duration::from_millis(1);
        assert_eq!(planned.next(), FillStep::End);
        // Later progress of the follower changes nothing.
        planned.heads.insert(ONE, 5);
        assert_eq!(planned.next(), FillStep::End);
    }

    #[test]
    fn a_copy_with_many_gaps_is_read_a_bounded_number_of_times() {
        let mut planned = Planned::new();
        planned.heads.insert(TWO, 5);
        for head in 0..=GAPS_MAX as u64 {
            // The head stays below the end of the first chunk, as in a chunk with many sequence ids.
            planned.plan.strands[0].chunks[0].through = SequenceId(u64::MAX);
            planned.heads.insert(ONE, head);
            planned.note_gap(ONE);
            planned.heads.insert(ONE, head + 1);
            let has_ended = planned.next() == FillStep::End;
            assert_eq!(has_ended, head == GAPS_MAX as u64, "{head}");
        }
    }

    #[test]
    fn publishes_are_held_back_until_a_failure_or_the_end_of_an_hour() {
        let begun = Instant::now();
        let mut times = FillTimes::new(begun);
        assert!(times.holds(begun) && times.holds(begun + HOLD_MAX - Duration::from_nanos(1)));
        assert!(!times.holds(begun + HOLD_MAX));
        let pauses: Vec<Duration> = (0..12).map(|_| times.fail()).collect();
        assert!(!times.holds(begun));
        assert_eq!(pauses[..3], [1, 2, 4].map(Duration::from_secs));
        assert_eq!(pauses[11], PAUSE_MAX);
        let mut times = FillTimes::new(begun);
        times.release();
        assert!(!times.holds(begun));
    }

    #[test]
    fn a_place_is_too_slow_from_the_first_chunk_on_that_does_not_come_in_time() {
        let begun = Instant::now();
        let mut times = FillTimes::new(begun);
        times.begin_read(begun);
        let last = begun + READ_MAX - Duration::from_nanos(1);
        assert!(!times.is_late(last) && !times.end_read(last));
        // No chunk is being read.
        assert!(!times.is_late(begun + HOLD_MAX) && !times.is_too_slow());
        times.begin_read(last);
        assert!(times.is_late(last + READ_MAX) && times.end_read(last + READ_MAX));
        times.begin_read(begun);
        assert!(times.end_read(begun), "it is not asked again, however fast it is then");
        assert!(times.is_too_slow());
    }
}
