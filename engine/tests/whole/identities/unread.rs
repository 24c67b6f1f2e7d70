//! Updates that wait for their verdict and cannot be read when a node starts.

use super::*;

/// The disk has damaged an update that waits. It may be of any inbox, and may decide on the later updates of that one.
#[tokio::test]
async fn no_update_behind_one_that_waits_and_cannot_be_read_is_judged_before_the_repair() {
    let (store, judge) = (store(), Scripted::unknown(&[1, 2, 3]));
    let node = start_judging(store.clone(), true, judge.clone());
    let updates = [update(1, 1, 1), update(2, 2, 2), update(3, 1, 3)];
    append(&node.engine.chain_appender(), &updates);
    let id = EnvelopeId::new(STRAND, SequenceId(2));
    let key = [&STRAND.0.to_be_bytes()[..], &id.sequence.0.to_be_bytes()].concat();
    let sound = store.snapshot().get(id).unwrap().unwrap();
    store.put_raw_row(Family::Log, &key, b"damaged");

    let node = start_judging(store.clone(), true, judge.clone());
    let chain = node.engine.chain_appender();
    append(&chain, &[update(4, 3, 4), update(5, 2, 5)]);
    assert_eq!((shown(&node, 2), shown(&node, 3)), (vec![], vec![]));
    judge.learn();
    assert_eq!(chain.judge_waiting().unwrap(), JudgedUpdates { valid: 1, invalid: 0, waiting: 4 });
    assert_eq!(shown(&node, 1), [1], "it is before the damage");

    store.put_raw_row(Family::Log, &key, &sound);
    assert_eq!(chain.judge_waiting().unwrap(), JudgedUpdates { valid: 4, invalid: 0, waiting: 0 });
    assert_eq!((shown(&node, 1), shown(&node, 2)), (vec![1, 3], vec![2, 5]));
    assert_eq!(shown(&node, 3), [4]);
}
