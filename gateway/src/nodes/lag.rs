//! Tracks the lateness of each node: the time since when its readers lack an envelope that readers of two other
//! nodes get. Plain values; time is an argument.
//!
//! The cursors that nodes report only raise a suspicion, because nodes of different kinds count differently. One kind
//! counts the places of invalid envelopes, and another kind counts only the places that it stores. A node of the second
//! kind then stays behind until the next valid envelope, although its readers lack nothing. So the other nodes are
//! asked for envelopes after the suspect's place. A node is late when two others show an envelope there. Two are needed
//! because a single lying node must not make all others look late.
//!
//! Some nodes take a strand only from its originator, and cannot get envelopes that the originator does not send.
//! So a node does not count as late because of a strand while its originator does not serve, or lacks the envelope
//! itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId};

/// Time for which heads are remembered, and the largest lag that is reported. A guess: three times the
/// lag at which a node counts as unusable.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Time for which a node's cursor is behind before others are asked for the missing envelopes. A guess: longer than
/// cursors of nodes in step differ, and much shorter than the lag that matters.
const SUSPECTED_AFTER: Duration = Duration::from_secs(10);

/// The cursors that nodes have reported, and the envelopes that nodes show after the places of late ones.
#[derive(Debug, Default)]
pub(crate) struct NodeLags {
    cursors: BTreeMap<OriginatorId, Cursor>,
    /// For each originator the times at which two nodes had reached a sequence id, ascending in both.
    heads: BTreeMap<OriginatorId, VecDeque<(Instant, SequenceId)>>,
    /// For each place at which a cursor ends, the answers of the nodes that were asked.
    shown: BTreeMap<EnvelopeId, BTreeMap<OriginatorId, Shown>>,
    /// For each node and originator the first sequence id that its readers miss, or a later one.
    missed: BTreeMap<(OriginatorId, OriginatorId), SequenceId>,
}

/// The answer of a node that was asked for its first envelope after a place.
#[derive(Debug, Clone, Copy)]
struct Shown {
    first: Option<SequenceId>,
    /// The place up to which the node held the strand when it was asked.
    up_to: SequenceId,
}

/// The times for which readers of a node have missed an envelope that readers of two others get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    /// For an envelope of a chain, of the node itself, or of an originator that serves and holds it: the node is
    /// late.
    pub(crate) late: Duration,
    /// For an envelope of another originator, which does not serve or lacks it: the node may be unable to get it.
    pub(crate) gap: Duration,
}

impl NodeLags {
    /// Records the cursor that a node reports, without originators that are not `known`: a node may
    /// name any number of them.
    pub(crate) fn record(
        &mut self,
        node: OriginatorId,
        cursor: &Cursor,
        known: impl Fn(OriginatorId) -> bool,
        now: Instant,
    ) {
        let cursor = cursor.iter().filter(|id| known(id.originator)).collect();
        self.cursors.insert(node, cursor);
        let originators: Vec<_> = self.cursors[&node].iter().map(|id| id.originator).collect();
        for originator in originators {
            let head = self.known_to_two(originator);
            if head == SequenceId::NONE {
                continue;
            }
            let heads = self.heads.entry(originator).or_default();
            if heads.back().is_none_or(|(_, last)| *last < head) {
                heads.push_back((now, head));
            }
            debug_assert!(heads.iter().is_sorted(), "heads ascend in time and sequence id");
            while heads.len() > 1 && now.duration_since(heads[0].0) > REMEMBERED {
                heads.pop_front();
            }
        }
        self.forget_what_is_past();
    }

    /// Forgets a node that has left the network.
    pub(crate) fn forget(&mut self, node: OriginatorId) {
        self.cursors.remove(&node);
        self.heads.remove(&node);
        for answers in self.shown.values_mut() {
            answers.remove(&node);
        }
        self.missed.retain(|(late, originator), _| *late != node && *originator != node);
        self.forget_what_is_past();
    }

    /// Returns the places behind which to ask this node (`asked`) for its first envelope: one place for each other node
    /// that stands where `asked` has passed. If all other nodes shared one place, a late node would stay unnoticed
    /// beside a node that is asked about again and again because it moves on.
    ///
    /// The place is the one at which the other node has stood for longest. Strands of which it is not known to miss an
    /// envelope go first, and among these, places about which `asked` has never answered: where `asked` shows nothing,
    /// it would otherwise be asked again and again while its cursor moves. Places about which it has answered since
    /// its cursor moved are left out.
    pub(crate) fn questions(&self, asked: OriginatorId, now: Instant) -> BTreeSet<EnvelopeId> {
        let Some(own) = self.cursors.get(&asked) else { return BTreeSet::new() };
        let mut of_late: BTreeMap<OriginatorId, (bool, bool, Instant, EnvelopeId)> =
            BTreeMap::new();
        for (late, place) in self.places() {
            let up_to = own.get(place.originator);
            let answer = self.shown.get(&place).and_then(|answers| answers.get(&asked));
            let is_answered = answer.is_some_and(|it| it.first.is_some() || it.up_to >= up_to);
            let passed_at = self.passed_at(place.originator, place.sequence.next());
            let due = passed_at.filter(|at| now.duration_since(*at) >= SUSPECTED_AFTER);
            let Some(since) = due.filter(|_| up_to > place.sequence && !is_answered) else {
                continue;
            };
            let is_missed = self.missed.contains_key(&(late, place.originator));
            let question = (is_missed, answer.is_some(), since, place);
            let first = of_late.entry(late).or_insert(question);
            *first = question.min(*first);
        }
        of_late.into_values().map(|(.., place)| place).collect()
    }

    /// Records the first envelope that a node shows after a place; `None` if it shows none.
    pub(crate) fn answered(
        &mut self,
        asked: OriginatorId,
        after: EnvelopeId,
        first: Option<SequenceId>,
    ) {
        let late: Vec<_> = self.places().filter(|(_, place)| *place == after).collect();
        let Some(own) = self.cursors.get(&asked).filter(|_| !late.is_empty()) else { return };
        let shown = Shown { first, up_to: own.get(after.originator) };
        let answers = self.shown.entry(after).or_default();
        answers.insert(asked, shown);
        let mut firsts: Vec<_> = answers.values().filter_map(|it| it.first).collect();
        firsts.sort_unstable();
        // The second lowest place: two nodes have shown an envelope up to there.
        let missed = firsts.get(1).copied();
        // Only nodes that hold the strand up to the missed envelope count: others, which still catch up, know nothing
        // about it. One node that shows no envelope decides nothing while two others may still show it. Two such nodes
        // decide: the others may be out of reach for days.
        let is_denied = |missed: SequenceId| {
            let missed = missed.max(after.sequence.next());
            let heads = self.cursors.values().map(|cursor| cursor.get(after.originator));
            let holding = heads.filter(|head| *head >= missed).count();
            let shows_none = |it: &&Shown| it.first.is_none() && it.up_to >= missed;
            let denying = answers.values().filter(shows_none).count();
            denying >= 2 || holding.saturating_sub(denying) < 2
        };
        for (node, place) in late {
            let strand = (node, place.originator);
            if let Some(missed) = missed {
                self.missed.insert(strand, missed);
            } else if self.missed.get(&strand).is_some_and(|missed| is_denied(*missed)) {
                self.missed.remove(&strand);
            }
        }
    }

    /// Returns the times for which readers of this node have missed envelopes that two others hold; zero
    /// for a node without a reported cursor, and for one that is not known to miss anything.
    pub(crate) fn lag(
        &self,
        node: OriginatorId,
        serves: impl Fn(OriginatorId) -> bool,
        now: Instant,
    ) -> Lag {
        let mut lag = Lag::default();
        let Some(cursor) = self.cursors.get(&node) else { return lag };
        let missed = self.missed.range((node, OriginatorId(0))..=(node, OriginatorId(u32::MAX)));
        for ((_, originator), missed) in missed {
            // A node that is catching up has moved since the answers, and still misses the later envelopes.
            let first = cursor.get(*originator).next().max(*missed);
            let Some(since) = self.passed_at(*originator, first) else { continue };
            let obtainable = *originator == node || self.gives(*originator, first, &serves);
            let time = if obtainable { &mut lag.late } else { &mut lag.gap };
            *time = now.duration_since(since).max(*time);
        }
        lag
    }

    /// Returns true if every node can get this envelope from its originator.
    fn gives(
        &self,
        originator: OriginatorId,
        sequence: SequenceId,
        serves: &impl Fn(OriginatorId) -> bool,
    ) -> bool {
        let own = || self.cursors.get(&originator).map(|cursor| cursor.get(originator));
        originator.is_of_chain() // every node reads it from the chain itself
            || (serves(originator) && own().is_some_and(|own_head| own_head >= sequence))
    }

    /// Returns the time at which two nodes had reached `sequence`.
    fn passed_at(&self, originator: OriginatorId, sequence: SequenceId) -> Option<Instant> {
        let heads = self.heads.get(&originator)?;
        heads.iter().find(|(_, head)| *head >= sequence).map(|(at, _)| *at)
    }

    /// Returns each node with the places at which its cursor is behind the cursors of two other nodes.
    fn places(&self) -> impl Iterator<Item = (OriginatorId, EnvelopeId)> {
        self.cursors.iter().flat_map(|(node, cursor)| {
            let behind = self.heads.iter().filter_map(|(originator, heads)| {
                let place = EnvelopeId::new(*originator, cursor.get(*originator));
                heads
                    .back()
                    .is_some_and(|(_, head)| *head > place.sequence)
                    .then_some((*node, place))
            });
            behind.collect::<Vec<_>>()
        })
    }

    /// Forgets answers for places that are no node's cursor any longer, and nodes that have caught
    /// up.
    fn forget_what_is_past(&mut self) {
        let places: Vec<_> = self.places().collect();
        self.shown.retain(|after, _| places.iter().any(|(_, place)| place == after));
        self.missed.retain(|(late, originator), _| {
            places.iter().any(|(node, place)| node == late && place.originator == *originator)
        });
    }

    /// Returns the highest sequence id that two nodes report.
    fn known_to_two(&self, originator: OriginatorId) -> SequenceId {
        let mut reported: Vec<_> =
            self.cursors.values().map(|cursor| cursor.get(originator)).collect();
        reported.sort_unstable();
        reported.len().checked_sub(2).map_or(SequenceId::NONE, |second| reported[second])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: OriginatorId = OriginatorId(100);
    const B: OriginatorId = OriginatorId(200);
    const C: OriginatorId = OriginatorId(300);
    const D: OriginatorId = OriginatorId(400);

    fn record(lags: &mut NodeLags, node: OriginatorId, sequence: u64, now: Instant) {
        let cursor = [EnvelopeId::new(A, SequenceId(sequence))].into_iter().collect();
        lags.record(node, &cursor, |originator| originator == A, now);
    }

    /// Asks each of `asked` its questions, and answers with the first of `held` after the place.
    fn ask(lags: &mut NodeLags, asked: &[OriginatorId], held: &[u64], now: Instant) {
        for node in asked {
            while let Some(after) = lags.questions(*node, now).first().copied() {
                let first = held.iter().copied().find(|held| *held > after.sequence.0);
                lags.answered(*node, after, first.map(SequenceId));
            }
        }
    }

    /// Returns how late a node is while all nodes serve.
    fn late(lags: &NodeLags, node: OriginatorId, now: Instant) -> Duration {
        lags.lag(node, |_| true, now).late
    }

    #[test]
    fn a_node_is_late_since_two_others_had_more() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lags = NodeLags::default();
        for node in [A, B, C] {
            record(&mut lags, node, 5, at(0));
        }
        record(&mut lags, A, 6, at(1));
        assert!(lags.questions(A, at(60)).is_empty(), "only one node has more");
        record(&mut lags, B, 7, at(3));
        assert!(lags.questions(A, at(12)).is_empty(), "a moment is no suspicion");
        assert_eq!(late(&lags, C, at(70)), Duration::ZERO, "nothing was shown");
        ask(&mut lags, &[A], &[6, 7], at(70));
        assert_eq!(late(&lags, C, at(70)), Duration::ZERO, "only one node has shown it");
        ask(&mut lags, &[B], &[6, 7], at(70));
        assert_eq!(late(&lags, C, at(70)), Duration::from_secs(67));
        assert_eq!(late(&lags, A, at(70)), Duration::ZERO);
        record(&mut lags, C, 6, at(71));
        assert_eq!(late(&lags, C, at(71)), Duration::ZERO);
    }

    #[test]
    fn a_node_that_catches_up_slowly_is_late_all_the_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lags = NodeLags::default();
        record(&mut lags, C, 1, start);
        for node in [A, B] {
            record(&mut lags, node, 1000, at(0));
        }
        ask(&mut lags, &[A, B], &[10, 1000], at(100));
        for step in 0..50 {
            record(&mut lags, C, step * 10, at(100 + step));
            assert_eq!(late(&lags, C, at(100 + step)), Duration::from_secs(100 + step));
        }
        record(&mut lags, C, 1000, at(200));
        assert_eq!(late(&lags, C, at(200)), Duration::ZERO);
        assert!(lags.shown.is_empty() && lags.missed.is_empty(), "nothing is kept");
    }

    /// A late node that catches up would otherwise be used now and then although its readers miss much.
    #[test]
    fn one_node_without_the_envelope_does_not_clear_a_late_node() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lags = NodeLags::default();
        for (node, sequence) in [(C, 1), (A, 1000), (B, 1000), (D, 1000)] {
            record(&mut lags, node, sequence, start);
        }
        ask(&mut lags, &[A, B], &[1000], at(10));
        assert_eq!(late(&lags, C, at(10)), Duration::from_secs(10));
        record(&mut lags, C, 10, at(11));
        ask(&mut lags, &[D], &[], at(11));
        assert_eq!(late(&lags, C, at(11)), Duration::from_secs(11), "two others may show it");
        ask(&mut lags, &[B], &[], at(11));
        assert_eq!(late(&lags, C, at(11)), Duration::ZERO, "one alone may lie");
    }

    /// The other nodes have passed the invalid envelopes behind the late node, and have not reached the envelope that
    /// its readers miss.
    #[test]
    fn nodes_that_catch_up_do_not_clear_a_late_node() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lags = NodeLags::default();
        let ahead = OriginatorId(500);
        for (node, sequence) in [(C, 1), (D, 8), (ahead, 8), (A, 1000), (B, 1000)] {
            record(&mut lags, node, sequence, start);
        }
        ask(&mut lags, &[A, B], &[1000], at(10));
        assert_eq!(late(&lags, C, at(10)), Duration::from_secs(10));
        record(&mut lags, C, 5, at(11));
        assert_eq!(lags.questions(D, at(11)).len(), 1);
        ask(&mut lags, &[D, ahead], &[], at(11));
        assert_eq!(late(&lags, C, at(11)), Duration::from_secs(11));
    }

    /// A node that has every envelope that readers get would otherwise count as late until the strand's next envelope.
    #[test]
    fn unreachable_nodes_do_not_keep_a_current_node_counted_as_late() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lags = NodeLags::default();
        let gone = [D, OriginatorId(500)];
        for (node, sequence) in [(C, 1), (A, 12), (B, 12), (gone[0], 12), (gone[1], 12)] {
            record(&mut lags, node, sequence, start);
        }
        ask(&mut lags, &[A, B], &[9], at(10));
        assert_eq!(late(&lags, C, at(10)), Duration::from_secs(10));
        // The places behind 9 are of invalid envelopes, which C does not store.
        record(&mut lags, C, 9, at(11));
        ask(&mut lags, &[A], &[9], at(11));
        assert_eq!(late(&lags, C, at(11)), Duration::from_secs(11), "one alone may lie");
        ask(&mut lags, &[B], &[9], at(11));
        assert_eq!(late(&lags, C, at(11)), Duration::ZERO);
    }

    /// A payer puts invalid updates on the chain, which node C does not store, so that the others move on after each
    /// answer that they show nothing there.
    #[test]
    fn a_place_where_nothing_is_shown_keeps_no_other_strand_from_being_asked_about() {
        let start = Instant::now();
        let mut lags = NodeLags::default();
        let held = |held: [u64; 2]| -> Cursor {
            let strands = [OriginatorId::CHAINS[1], B].into_iter().zip(held);
            strands.map(|(strand, held)| EnvelopeId::new(strand, SequenceId(held))).collect()
        };
        for (node, places) in [(A, [6, 900]), (B, [6, 900]), (C, [5, 900])] {
            lags.record(node, &held(places), |_| true, start);
        }
        let later = start + Duration::from_secs(1);
        for node in [A, B] {
            lags.record(node, &held([6, 1000]), |_| true, later);
        }
        let now = later + SUSPECTED_AFTER;
        for step in 0..3 {
            for node in [A, B] {
                lags.record(node, &held([7 + step, 1000]), |_| true, now);
            }
            for node in [A, B] {
                for after in lags.questions(node, now) {
                    let first = (after.originator == B).then_some(SequenceId(1000));
                    lags.answered(node, after, first);
                }
            }
        }
        assert_eq!(late(&lags, C, now), SUSPECTED_AFTER);
    }

    /// The node that moves on is a new node that catches up, or a hostile one that states other places each time.
    #[test]
    fn a_node_that_moves_on_does_not_hide_another_late_node() {
        let start = Instant::now();
        let mut lags = NodeLags::default();
        for (node, sequence) in [(A, 1000), (B, 1000), (C, 900)] {
            record(&mut lags, node, sequence, start);
        }
        let now = start + SUSPECTED_AFTER;
        for step in 0..3 {
            record(&mut lags, D, step, now);
            for node in [A, B] {
                for after in lags.questions(node, now) {
                    // About the other places the node fails to answer.
                    if after.sequence.0 == 900 {
                        lags.answered(node, after, Some(SequenceId(1000)));
                    }
                }
            }
        }
        assert_eq!(late(&lags, C, now), SUSPECTED_AFTER);
    }

    /// The first strand is that of a node which does not serve, so it makes no other one late.
    #[test]
    fn a_node_that_moves_on_is_asked_about_on_each_strand() {
        let start = Instant::now();
        let mut lags = NodeLags::default();
        let held = |held: [u64; 2]| -> Cursor {
            let strands = [A, B].into_iter().zip(held);
            strands.map(|(strand, held)| EnvelopeId::new(strand, SequenceId(held))).collect()
        };
        for node in [A, B, C] {
            lags.record(node, &held([1000, 1000]), |_| true, start);
        }
        let now = start + SUSPECTED_AFTER;
        for step in 0..3 {
            lags.record(D, &held([step, step]), |_| true, now);
            for node in [B, C] {
                for after in lags.questions(node, now) {
                    lags.answered(node, after, Some(SequenceId(1000)));
                }
            }
        }
        let lag = lags.lag(D, |originator| originator != A, now);
        assert_eq!(lag, Lag { late: SUSPECTED_AFTER, gap: SUSPECTED_AFTER });
    }

    #[test]
    fn nodes_that_store_only_valid_updates_are_not_late_behind_invalid_ones() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lags = NodeLags::default();
        // A and B count the invalid updates 6 to 8, C and D do not store them.
        for (node, sequence) in [(A, 8), (B, 8), (C, 5), (D, 5)] {
            record(&mut lags, node, sequence, start);
        }
        for seconds in 0..200 {
            ask(&mut lags, &[A, B], &[5], at(seconds));
            assert_eq!(late(&lags, C, at(seconds)), Duration::ZERO, "{seconds} s");
        }
        let again = lags.questions(A, at(200));
        assert!(again.is_empty(), "they are not asked again while nothing moves");
        // Update 9 is valid: from then on readers of C and D miss it, and not since update 6.
        for node in [A, B] {
            record(&mut lags, node, 9, at(200));
        }
        ask(&mut lags, &[A, B], &[5, 9], at(201));
        assert_eq!(late(&lags, C, at(201)), Duration::from_secs(1));
        record(&mut lags, C, 9, at(202));
        assert_eq!(late(&lags, C, at(300)), Duration::ZERO);
        assert_eq!(late(&lags, D, at(300)), Duration::from_secs(100), "its readers miss it");
    }

    #[test]
    fn nodes_that_hold_all_that_others_show_are_not_late_whatever_those_count() {
        let start = Instant::now();
        let mut lags = NodeLags::default();
        // Two nodes of the other kind count places that they burned; their readers see 1 to 5.
        for (node, sequence) in [(A, 9), (B, 9), (C, 5), (D, 5)] {
            record(&mut lags, node, sequence, start);
        }
        let later = start + Duration::from_secs(1000);
        ask(&mut lags, &[A, B], &[1, 2, 3, 4, 5], later);
        assert!([A, B, C, D].into_iter().all(|node| late(&lags, node, later) == Duration::ZERO));
        // One of them lies.
        lags.answered(A, EnvelopeId::new(A, SequenceId(5)), Some(SequenceId(6)));
        assert_eq!(late(&lags, C, later), Duration::ZERO);
    }

    #[test]
    fn one_node_cannot_make_all_others_late() {
        let start = Instant::now();
        let mut lags = NodeLags::default();
        for (node, sequence) in [(A, 5), (B, 5), (C, u64::MAX / 2)] {
            record(&mut lags, node, sequence, start);
        }
        let later = start + Duration::from_secs(1000);
        assert!([A, B, C].into_iter().all(|node| late(&lags, node, later) == Duration::ZERO));
    }

    #[test]
    fn unknown_originators_leave_nothing_behind() {
        let mut lags = NodeLags::default();
        for round in 1..4 {
            let many = (0..1000).map(|n| OriginatorId(1_000_000 * round + n));
            let many: Cursor = many.map(|it| EnvelopeId::new(it, SequenceId(9))).collect();
            for node in [A, B] {
                lags.record(node, &many, |originator| originator == A, Instant::now());
            }
        }
        assert!(lags.heads.is_empty());
        assert!(lags.cursors.values().all(|cursor| cursor.iter().count() == 0));
    }

    #[test]
    fn claims_are_bounded_and_the_oldest_is_kept() {
        let start = Instant::now();
        let mut lags = NodeLags::default();
        record(&mut lags, C, 1, start);
        for second in 0..1000 {
            let now = start + Duration::from_secs(second);
            record(&mut lags, A, second + 2, now);
            record(&mut lags, B, second + 2, now);
        }
        assert!(lags.heads[&A].len() <= 302);
        ask(&mut lags, &[A, B], &[2], start + Duration::from_secs(1000));
        assert!(late(&lags, C, start + Duration::from_secs(1000)) >= REMEMBERED);
        lags.forget(C);
        assert_eq!(late(&lags, C, start + Duration::from_secs(1000)), Duration::ZERO);
    }

    /// B and C hold the strand of A. D has joined and takes strands from their originators only.
    fn one_that_joined(at_originator: Option<u64>, now: Instant) -> NodeLags {
        let mut lags = NodeLags::default();
        let held = [(A, at_originator), (B, Some(9)), (C, Some(9)), (D, Some(0))];
        for (node, sequence) in held.into_iter().filter_map(|(node, held)| Some((node, held?))) {
            record(&mut lags, node, sequence, now);
        }
        ask(&mut lags, &[B, C], &[4, 9], now + SUSPECTED_AFTER);
        lags
    }

    #[test]
    fn a_strand_whose_node_does_not_serve_makes_no_other_late() {
        let start = Instant::now();
        let later = start + Duration::from_secs(200);
        let lags = one_that_joined(Some(9), start);
        let gone = lags.lag(D, |originator| originator != A, later);
        assert_eq!(gone, Lag { late: Duration::ZERO, gap: Duration::from_secs(200) });
        let back = lags.lag(D, |_| true, later);
        assert_eq!(back, Lag { late: Duration::from_secs(200), gap: Duration::ZERO });
    }

    #[test]
    fn a_strand_that_its_node_has_lost_makes_no_other_late_but_that_node() {
        let start = Instant::now();
        let later = start + Duration::from_secs(200);
        // A has started on an empty disk, or has not stated what it holds.
        for at_originator in [Some(3), Some(0), None] {
            let lags = one_that_joined(at_originator, start);
            assert_eq!(late(&lags, D, later), Duration::ZERO, "{at_originator:?}");
            assert_eq!(lags.lag(D, |_| true, later).gap, Duration::from_secs(200));
            if at_originator.is_some() {
                assert_eq!(late(&lags, A, later), Duration::from_secs(200), "{at_originator:?}");
            }
        }
    }

    #[test]
    fn a_node_behind_a_chain_is_late_whichever_nodes_serve() {
        let start = Instant::now();
        let mut lags = NodeLags::default();
        for (node, sequence) in [(A, 9), (B, 9), (C, 0)] {
            let chain = EnvelopeId::new(OriginatorId::IDENTITY_UPDATES, SequenceId(sequence));
            lags.record(node, &[chain].into_iter().collect(), OriginatorId::is_of_chain, start);
        }
        let later = start + Duration::from_secs(200);
        ask(&mut lags, &[A, B], &[1, 9], later);
        let lag = lags.lag(C, |_| false, later);
        assert_eq!(lag, Lag { late: Duration::from_secs(200), gap: Duration::ZERO });
    }
}
