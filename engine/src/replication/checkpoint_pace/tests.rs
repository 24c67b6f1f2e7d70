//! The pace of checkpoints, with peers that flood and peers that do not.

use hawser_proto::SecretKey;
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::merkle::TreeHash;
use proptest::prelude::*;

use super::*;

const PEER: OriginatorId = OriginatorId(900);

#[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
fn start() -> Instant {
    Instant::now()
}

fn checkpoint(node: u32, size: u64, cosigners: u32) -> Arc<CosignedCheckpoint> {
    let node = OriginatorId(node);
    let key = SecretKey::from_bytes(&[7; 32]).unwrap();
    let root = TreeHash([1; 32]);
    let of = Checkpoint { node, originator: node, size, root, time_ns: 1 };
    let mut made = CosignedCheckpoint::from(of.sign(&key));
    let cosignature = of.cosign(node, 1, &key);
    for cosigner in 0..cosigners {
        let cosigner = OriginatorId(cosigner);
        assert!(
            made.add_cosignature(hawser_proto::checkpoint::Cosignature { cosigner, ..cosignature })
        );
    }
    Arc::new(made)
}

fn offers(all: impl IntoIterator<Item = Arc<CosignedCheckpoint>>) -> CheckpointOffers {
    let key =
        |it: &CosignedCheckpoint| (it.signed.checkpoint.node, it.signed.checkpoint.originator, 0);
    all.into_iter().map(|it| (key(&it), it)).collect()
}

#[test]
fn a_flood_is_dropped_and_the_pace_of_an_honest_peer_is_not() {
    let start = start();
    let mut allowance = CheckpointAllowance::new(start);
    let one = checkpoint(100, 1, 0);
    let taken = (0..5_000).filter(|_| allowance.take(start, &one)).count();
    assert_eq!(taken, 1024);
    let later = start + Duration::from_secs(1);
    let long = checkpoint(100, 1, 255);
    assert!(allowance.take(later, &long), "256 signatures a second");
    assert!(!allowance.take(later, &one));
    assert!(!allowance.take(start, &one), "time that steps back gives nothing");
}

proptest! {
    /// At most a full allowance passes, and the signatures that it has been given since.
    #[test]
    fn an_allowance_takes_no_more_than_its_pace(
        steps in proptest::collection::vec((0_u64..3_000, 0_usize..3), 1..100),
    ) {
        let (start, mut passed_ms, mut taken) = (start(), 0, 0);
        let costs = [1_u64, 41, 201];
        let checkpoints = [checkpoint(100, 1, 0), checkpoint(100, 1, 40), checkpoint(100, 1, 200)];
        let mut allowance = CheckpointAllowance::new(start);
        for (pause_ms, which) in steps {
            passed_ms += pause_ms;
            let now = start + Duration::from_millis(passed_ms);
            if allowance.take(now, &checkpoints[which]) {
                taken += costs[which];
            }
            // One more for the rounding of floats.
            prop_assert!(taken * 1000 <= (1024 + 1) * 1000 + 256 * passed_ms);
        }
        let end = start + Duration::from_millis(passed_ms);
        prop_assert!(allowance.is_full(end + Duration::from_secs(4)), "1024 at 256 a second");
    }
}

#[test]
fn an_honest_sender_never_exceeds_the_allowance() {
    let start = start();
    let (mut allowance, mut sender) =
        (CheckpointAllowance::new(start), OfferedCheckpoints::new(start));
    for tick in 0..600_u64 {
        let now = start + Duration::from_millis(500) * u32::try_from(tick).unwrap();
        let all = offers((1..=100).map(|node| checkpoint(node, tick, node)));
        for shown in sender.next(now, PEER, &all) {
            assert!(allowance.take(now, &shown), "tick {tick}");
        }
    }
}

#[test]
fn each_has_its_turn_and_nothing_is_shown_twice_but_after_a_minute() {
    let start = start();
    let mut sender = OfferedCheckpoints::new(start);
    let mut all = offers((1..=300).map(|node| checkpoint(node, 1, 0)));
    let mut shown = Vec::new();
    for tick in 0..6 {
        let now = start + Duration::from_millis(500) * tick;
        // The first one changes all the time, and takes no turn of another one.
        let first = checkpoint(1, u64::from(tick) + 2, 0);
        all.insert((OriginatorId(1), OriginatorId(1), 0), first);
        shown.extend(sender.next(now, PEER, &all).iter().map(|it| it.signed.checkpoint.node.0));
    }
    assert_eq!(shown.iter().filter(|node| **node != 1).count(), 299);
    let rest = start + Duration::from_secs(20);
    sender.next(rest, PEER, &all);
    assert!(sender.next(rest + Duration::from_secs(1), PEER, &all).is_empty());
    let again = sender.next(start + Duration::from_secs(61), PEER, &all);
    assert!(!again.is_empty());
}

/// A node must not be taken for a liar because a chain was reorganised.
#[test]
fn what_was_signed_before_a_cut_is_shown_to_its_signer_alone() {
    let (start, signer) = (start(), OriginatorId(1));
    let mut all = offers([checkpoint(1, 1, 0), checkpoint(2, 1, 0)]);
    let chain = OriginatorId::GROUP_MESSAGES;
    all.insert((signer, chain, SHOWN_TO_SIGNER), checkpoint(1, 5, 0));
    let sizes = |peer: OriginatorId| -> Vec<u64> {
        let shown = OfferedCheckpoints::new(start).next(start, peer, &all);
        shown.iter().map(|it| it.signed.checkpoint.size).collect()
    };
    assert_eq!(sizes(PEER), [1, 1]);
    assert_eq!(sizes(signer), [5, 1, 1]);
}
