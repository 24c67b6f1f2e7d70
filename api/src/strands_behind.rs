//! Detects strands of which readers of this node miss envelopes that two peers claim. Time is an argument.

use std::collections::BTreeMap;

use hawser_proto::void::SignedVoid;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId};
use parking_lot::Mutex;

use crate::lag::LagTracker;
use crate::views::{PeerState, StrandState};

/// Seconds for which an envelope may be missing before the node is not ready for reading. A guess: longer than the
/// minute for which an empty place of a strand is searched, and than peers are usually silent.
const MISSING_S_MAX: f64 = 90.0;
/// Envelopes and seconds by which a strand must be behind to count as catching up. Guesses: more envelopes than a
/// busy node is behind, and longer than it is behind by this number.
const CATCHING_UP_ENVELOPES: u64 = 1000;
const CATCHING_UP_S: f64 = 10.0;
/// Seconds for which a search may be seen without progress until the strand counts as behind all the same. A guess: the
/// longest search takes two minutes, and ends some seconds later while peers are slow.
const SEARCH_S_MAX: f64 = 150.0;

/// The ages of envelopes that two peers claim and this node lacks.
#[derive(Debug, Default)]
pub(crate) struct StrandsBehind {
    lags: LagTracker,
    /// Bounded by the nodes of the registry.
    histories: Mutex<BTreeMap<OriginatorId, StrandHistory>>,
}

/// The past of a strand, as far as it decides about searches.
#[derive(Debug, Default)]
struct StrandHistory {
    /// This node has held the strand about as far as two peers showed it, and was not late since then.
    was_current: bool,
    search: Option<SeenSearch>,
}

/// A search for a gap, as it was seen.
#[derive(Debug, Clone, Copy)]
struct SeenSearch {
    /// The place before the gap, and the last one of the gap.
    places: (SequenceId, SequenceId),
    /// The time since which these are its places.
    since_ns: i64,
}

impl StrandHistory {
    /// Records that the strand ends at `held` here, and is held up by a search through `searched`. Returns the seconds
    /// for which the search was seen without progress; `None` without a search.
    fn note_search(
        &mut self,
        now_ns: i64,
        held: SequenceId,
        searched: Option<SequenceId>,
    ) -> Option<f64> {
        let places = searched.map(|end| (held, end));
        let same = self.search.filter(|it| Some(it.places) == places);
        // A clock that was set back must not excuse the search for as long.
        let same = same.map(|it| SeenSearch { since_ns: it.since_ns.min(now_ns), ..it });
        self.search = same.or(places.map(|places| SeenSearch { places, since_ns: now_ns }));
        self.search.map(|it| now_ns.saturating_sub(it.since_ns) as f64 / 1e9)
    }
}

impl StrandsBehind {
    /// Records the positions of this node and its peers at `now_ns`. Returns a sentence about the strand that is
    /// furthest behind, if readers miss envelopes of it for too long. They miss none at places that are declared void.
    /// `strands` are those that this node follows. Places of a gap that is searched for are no envelopes, as far as
    /// peers show.
    ///
    /// A strand that was current before a search is not behind during it, and its age begins anew when the search ends:
    /// what peers claim behind the gap may be further gaps, each of which has a search of its own. Else a node could
    /// take all others of this kind out of service by gaps in its own strand. A node that joins, or was late before,
    /// has no such excuse: envelopes are missing behind the gap.
    ///
    /// Only strands of `peers` count, and only heads that two of them claim: a node that lies about its cursor must not
    /// take others out of service. Other software stores and claims what the strand's node has not signed, and no node
    /// of this kind can take that. So a claim does not count if its peer has sent such an envelope right behind the
    /// head here. Claims of other peers do, so that no single peer hides what readers miss.
    pub(crate) fn note(
        &self,
        now_ns: i64,
        own: &Cursor,
        peers: &[PeerState],
        voids: &[SignedVoid],
        strands: &[StrandState],
    ) -> Option<String> {
        // Before peers show anything, a strand that this node lacks looks current.
        let is_shown = peers.iter().filter(|peer| !peer.clock.is_empty()).count() >= 2;
        let mut histories = self.histories.lock();
        let claimed = claimed_by_two(own, peers, strands).into_iter();
        let behind = claimed.filter_map(|(originator, claimed)| {
            let held = EnvelopeId::new(originator, own.get(originator));
            let strand = strands.iter().find(|it| it.originator == originator);
            let is_refused = strand.is_some_and(|it| !it.refused_behind(held.sequence).is_empty());
            if is_refused && claimed <= held.sequence {
                // When the strand goes on, the same claims count from then on.
                self.lags.forget(originator);
                return None;
            }
            let gap_end = strand.and_then(|it| it.searched_through);
            let searched = gap_end.filter(|end| *end > held.sequence);
            let history = histories.entry(originator).or_default();
            let searched_s = history.note_search(now_ns, held.sequence, searched);
            if history.was_current && searched_s.is_some_and(|seconds| seconds <= SEARCH_S_MAX) {
                self.lags.forget(originator);
                return None;
            }
            let (missing, lag_s) = self.lags.note(now_ns, held, claimed, voids);
            let gap = searched.map_or(0, |end| end.0.saturating_sub(held.sequence.0));
            let is_far = missing.saturating_sub(gap) > CATCHING_UP_ENVELOPES;
            let is_late = lag_s > MISSING_S_MAX || (is_far && lag_s > CATCHING_UP_S);
            history.was_current = !is_late && (history.was_current || (is_shown && !is_far));
            is_late.then_some((missing, originator, lag_s))
        });
        let (missing, originator, lag_s) = behind.max_by_key(|(missing, ..)| *missing)?;
        Some(format!(
            "the strand of node {originator} lacks {missing} envelopes that two peers have held for {lag_s:.0} s"
        ))
    }
}

/// Returns the highest sequence id of each peer's strand that two peers claim whose claims count.
fn claimed_by_two(
    own: &Cursor,
    peers: &[PeerState],
    strands: &[StrandState],
) -> BTreeMap<OriginatorId, SequenceId> {
    let second = |strand: &PeerState| {
        let state = strands.iter().find(|it| it.originator == strand.node);
        let refused = state.map_or(&[][..], |it| it.refused_behind(own.get(strand.node)));
        let claim = |peer: &PeerState| match refused.contains(&peer.node) {
            true => SequenceId::NONE,
            false => peer.clock.get(strand.node),
        };
        let mut claims: Vec<_> = peers.iter().map(claim).collect();
        claims.sort_unstable();
        let second = claims.len().checked_sub(2).map(|place| claims[place])?;
        Some((strand.node, second))
    };
    peers.iter().filter_map(second).collect()
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::void::VoidStatement;
    use proptest::prelude::*;

    use super::*;

    const SECOND: i64 = 1_000_000_000;

    #[test]
    fn a_search_is_seen_for_its_time_also_when_the_clock_was_set_back() {
        let mut history = StrandHistory::default();
        let mut seen_for =
            |at_s: i64| history.note_search(at_s * SECOND, SequenceId(5), Some(SequenceId(9)));
        assert_eq!(seen_for(3_600), Some(0.0));
        assert_eq!(seen_for(10), Some(0.0));
        assert_eq!(seen_for(170), Some(160.0));
    }

    fn peer(node: u32, claims: &[(u32, u64)]) -> PeerState {
        let claims = claims.iter();
        let id = |(node, sequence): &(u32, u64)| {
            EnvelopeId::new(OriginatorId(*node), SequenceId(*sequence))
        };
        PeerState {
            node: OriginatorId(node),
            address: String::new(),
            connected: true,
            transport: None,
            round_trip: None,
            clock: claims.map(id).collect(),
            last_error: None,
            failed_attempts: 0,
            refused: 0,
        }
    }

    fn followed(node: u32) -> StrandState {
        StrandState {
            originator: OriginatorId(node),
            source: None,
            received: 0,
            searches: 0,
            refused: None,
            searched_through: None,
        }
    }

    fn own(sequence: u64) -> Cursor {
        [EnvelopeId::new(OriginatorId(200), SequenceId(sequence))].into_iter().collect()
    }

    #[test]
    fn readers_miss_what_two_peers_have_held_for_long() {
        let behind = StrandsBehind::default();
        let peers = [peer(200, &[(200, 7)]), peer(300, &[(200, 6)])];
        assert_eq!(behind.note(0, &own(5), &peers, &[], &[]), None);
        assert_eq!(
            behind.note(90 * SECOND, &own(5), &peers, &[], &[]),
            None,
            "a gap may be searched"
        );
        let strands = behind.note(91 * SECOND, &own(5), &peers, &[], &[]).unwrap();
        assert_eq!(
            strands,
            "the strand of node 200 lacks 1 envelopes that two peers have held for 91 s"
        );
        assert_eq!(
            behind.note(92 * SECOND, &own(6), &peers, &[], &[]),
            None,
            "one peer is no proof"
        );
    }

    /// Two nodes lie about the head of a strand, and leave the network.
    #[test]
    fn a_strand_is_behind_no_longer_than_two_peers_claim_more() {
        let behind = StrandsBehind::default();
        let note = |at: i64, claims: [u64; 3]| {
            let [node, one, other] = claims;
            let peers = [(200, node), (300, one), (400, other)];
            let peers = peers.map(|(id, claim)| peer(id, &[(200, claim)]));
            behind.note(at * SECOND, &own(5), &peers, &[], &[])
        };
        assert_eq!(note(0, [5, 1_000_000, 1_000_000]), None);
        assert!(note(91, [5, 1_000_000, 1_000_000]).is_some());
        assert_eq!(note(92, [5, 5, 5]), None);
        assert_eq!(note(93, [6, 6, 6]), None, "the next envelope was claimed just now");
        assert!(note(184, [6, 6, 6]).is_some());
    }

    #[test]
    fn a_node_that_joins_is_behind_until_it_has_caught_up() {
        let behind = StrandsBehind::default();
        let peers = [peer(200, &[(200, 90_000)]), peer(300, &[(200, 90_000)])];
        assert_eq!(behind.note(0, &own(0), &peers, &[], &[]), None);
        assert!(behind.note(11 * SECOND, &own(0), &peers, &[], &[]).is_some());
        assert!(behind.note(20 * SECOND, &own(80_000), &peers, &[], &[]).is_some());
        assert_eq!(behind.note(21 * SECOND, &own(89_500), &peers, &[], &[]), None);
        assert_eq!(behind.note(22 * SECOND, &own(90_000), &peers, &[], &[]), None);
    }

    #[test]
    fn readers_miss_nothing_in_a_gap_that_is_declared_void() {
        let (node, from, through) = (OriginatorId(200), SequenceId(6), SequenceId(1_000_005));
        let of = VoidStatement { node, from, through, time_ns: 5, incarnation: [1; 16] };
        let voids = [of.sign(&SecretKey::from_bytes(&[7; 32]).unwrap())];
        let behind = StrandsBehind::default();
        // Another peer has the first envelope behind the gap already, and this node searches for its places.
        let peers = [peer(200, &[(200, 1_000_006)]), peer(300, &[(200, 1_000_006)])];
        let note =
            |at: i64, voids: &[SignedVoid]| behind.note(at * SECOND, &own(5), &peers, voids, &[]);
        assert_eq!(note(0, &voids), None);
        assert_eq!(note(90, &voids), None);
        assert!(note(91, &voids).unwrap().contains("lacks 1 envelopes"));
        assert!(note(91, &[]).unwrap().contains("lacks 1000001 envelopes"), "without a statement");
    }

    /// Notes the strand of node 200, which ends at place `held` here, at `claimed` at two peers, and is held up by a
    /// search through the last place.
    fn note_search(
        behind: &StrandsBehind,
        at: i64,
        (held, claimed, through): (u64, u64, Option<u64>),
    ) -> Option<String> {
        let peers = [peer(200, &[(200, claimed)]), peer(300, &[(200, claimed)])];
        let searched_through = through.map(SequenceId);
        let strands = [StrandState { searched_through, ..followed(200) }];
        behind.note(at * SECOND, &own(held), &peers, &[], &strands)
    }

    /// Other software leaves ids unused, and shows what follows at once.
    #[test]
    fn places_of_a_gap_that_is_searched_for_are_no_envelopes() {
        let behind = StrandsBehind::default();
        let note =
            |at: i64, through: Option<u64>| note_search(&behind, at, (5, 1_000_006, through));
        let gap = Some(1_000_005);
        assert_eq!(note(0, gap), None);
        assert_eq!(note(150, gap), None);
        assert_eq!(note(151, gap), None, "from here on readers miss the envelope behind it");
        assert_eq!(note(241, gap), None);
        assert!(note(242, gap).is_some(), "the search does not end");
        assert!(note(243, None).is_some(), "no search has begun");
    }

    /// A backlog has gaps, too, and a search in it says nothing of the envelopes behind them.
    #[test]
    fn a_search_is_no_excuse_for_a_node_that_joins_or_was_late_before() {
        let behind = StrandsBehind::default();
        let none = [peer(200, &[]), peer(300, &[])];
        assert_eq!(behind.note(0, &own(0), &none, &[], &[followed(200)]), None);
        let note = |at, held, through| note_search(&behind, at, (held, 1_000_006, through));
        assert_eq!(note(1, 0, None), None);
        assert_eq!(note(2, 5, Some(900)), None);
        assert!(note(12, 5, Some(900)).is_some());
        assert_eq!(note(13, 999_900, None), None, "it has caught up");
        assert_eq!(note(14, 999_950, Some(1_000_000)), None);
        assert_eq!(note(130, 999_950, Some(1_000_000)), None);
        // Nothing is searched for, and nothing comes.
        assert_eq!(note(131, 1_000_000, None), None);
        assert!(note(222, 1_000_000, None).is_some());
        assert!(note(223, 1_000_000, Some(1_000_005)).is_some(), "it was late before");
    }

    proptest! {
        /// A hostile or restored node leaves out many long ranges in a row. All envelopes between them are claimed at
        /// once, and each range is searched for by itself, which takes a minute or two.
        #[test]
        fn long_gaps_in_a_row_take_no_node_out_of_service_that_was_current(
            gaps in proptest::collection::vec((2u64..3_000_000, 1u64..500, 1i64..=120), 1..12),
            polled_every in 1usize..20,
        ) {
            let behind = StrandsBehind::default();
            let (mut at, mut held) = (0, 5);
            prop_assert_eq!(note_search(&behind, at, (held, held, None)), None);
            let claimed = gaps.iter().fold(held, |head, (places, count, _)| head + places + count);
            for (places, count, took) in gaps {
                at += 1;
                prop_assert_eq!(note_search(&behind, at, (held, claimed, None)), None);
                for second in (at..at + took).step_by(polled_every) {
                    let strand = (held, claimed, Some(held + places));
                    prop_assert_eq!(note_search(&behind, second, strand), None);
                }
                (at, held) = (at + took, held + places + count);
            }
            prop_assert_eq!(note_search(&behind, at, (held, claimed, None)), None);
            // The excuse ends with the searches.
            prop_assert_eq!(note_search(&behind, at + 1, (held, claimed + 1, None)), None);
            prop_assert!(note_search(&behind, at + 92, (held, claimed + 1, None)).is_some());
        }
    }

    /// A hostile node has other software claim what it has not signed. Or a single liar sends forged envelopes of an
    /// honest node, so that it is not seen what readers miss.
    #[test]
    fn a_claim_counts_for_nothing_if_its_peer_sends_what_no_node_takes() {
        let behind = StrandsBehind::default();
        let peers = [200, 300, 400].map(|node| peer(node, &[(200, 8)]));
        let note = |at: i64, held: u64, after: u64, refused: &[u32]| {
            let refused = refused.iter().copied().map(OriginatorId).collect();
            let refused = Some((SequenceId(after), refused));
            let strands = [StrandState { refused, ..followed(200) }];
            behind.note(at * SECOND, &own(held), &peers, &[], &strands)
        };
        assert_eq!(note(0, 5, 5, &[]), None);
        assert!(note(91, 5, 5, &[300]).is_some(), "two others claim as much");
        assert!(note(92, 5, 4, &[300, 400]).is_some(), "that was at an earlier place");
        assert_eq!(note(93, 5, 5, &[300, 400]), None, "one peer is no proof");
        assert_eq!(note(94, 6, 5, &[300, 400]), None, "the strand goes on, and they may be right");
        assert!(note(185, 6, 5, &[300, 400]).is_some());
    }

    #[test]
    fn what_a_peer_sends_of_one_strand_says_nothing_about_its_claims_of_another() {
        let behind = StrandsBehind::default();
        let peers = [peer(200, &[(200, 8), (300, 8)]), peer(300, &[(200, 8), (300, 8)])];
        let refused = Some((SequenceId(5), vec![OriginatorId(200), OriginatorId(300)]));
        let strands = [StrandState { refused, ..followed(200) }, followed(300)];
        assert_eq!(behind.note(0, &own(5), &peers, &[], &strands), None);
        let found = behind.note(91 * SECOND, &own(5), &peers, &[], &strands).unwrap();
        assert!(found.contains("the strand of node 300"), "{found}");
    }

    #[test]
    fn one_peer_and_strands_of_others_prove_nothing() {
        let late = 1_000_000 * SECOND;
        let behind = StrandsBehind::default();
        let liar = [peer(200, &[(200, u64::MAX)])];
        assert_eq!(behind.note(0, &own(5), &liar, &[], &[]), None);
        assert_eq!(behind.note(late, &own(5), &liar, &[], &[]), None);
        // Node 400 is not a peer: it has left the registry, so its strand is not followed.
        let both = [peer(200, &[(200, 5), (400, 9)]), peer(300, &[(200, 5), (400, 9)])];
        assert_eq!(behind.note(0, &own(5), &both, &[], &[]), None);
        assert_eq!(behind.note(late, &own(5), &both, &[], &[]), None);
    }
}
