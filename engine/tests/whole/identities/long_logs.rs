//! Inboxes whose logs are long, or expensive to read, and that no judge remembers.

use hawser_engine::runtime::ROUND_BYTES_MAX;

use super::*;

/// An update of about this many bytes, so that an inbox has a long log soon.
fn long_update(sequence: u64, inbox: u8, name: u64, len_bytes: usize) -> ChainEvent {
    let text = "a".repeat(len_bytes);
    let create = CreateInbox { initial_identifier: text, ..CreateInbox::default() };
    update_with(sequence, inbox, name, vec![Kind::CreateInbox(create)])
}

/// Returns a source of sequence ids: 1, then one more at each call.
fn sequence_ids() -> impl FnMut() -> u64 {
    let mut last = 0;
    move || {
        last += 1;
        last
    }
}

#[tokio::test]
async fn an_inbox_with_a_long_log_that_is_not_remembered_waits_and_no_other_one_does() {
    let judge = Scripted::unknown(&[]);
    let node = start_judging(store(), true, judge.clone());
    let chain = node.engine.chain_appender();
    append(&chain, &(1..=8).map(|n| long_update(n, 1, n, 190_000)).collect::<Vec<_>>());
    judge.asked();
    append(&chain, &[update(9, 1, 9), update(10, 2, 10), update(11, 1, BAD)]);
    assert_eq!((shown(&node, 1).len(), shown(&node, 2)), (8, vec![10]));
    assert_eq!(judge.asked(), [(2, vec![], 10)], "its log is too long to be read in between");
    assert_eq!(chain.inboxes_waiting(), 1);
    assert_eq!(judge.shared.asked_for.load(Ordering::Relaxed), 1);
    let judged = chain.judge_waiting().unwrap();
    assert_eq!(judged, JudgedUpdates { valid: 1, invalid: 1, waiting: 0 });
    assert_eq!(shown(&node, 1), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(judge.shared.asked_for.load(Ordering::Relaxed), 1, "nothing is left");
}

/// A log of a few hundred kilobytes may hold a thousand signatures from which the signers have to be found.
#[tokio::test]
async fn an_inbox_whose_signers_have_to_be_found_waits_as_if_its_log_were_long() {
    let judge = Scripted::unknown(&[]);
    let node = start_judging(store(), true, judge.clone());
    let chain = node.engine.chain_appender();
    append(&chain, &(1..=8).map(|n| update(n, 1, n)).collect::<Vec<_>>());
    append(&chain, &[update(9, 1, 9)]);
    assert_eq!(chain.inboxes_waiting(), 0, "its log is short");
    judge.shared.signers.store(300, Ordering::Relaxed);
    judge.read();
    append(&chain, &[update(10, 1, 10), update(11, 2, 11)]);
    assert_eq!(judge.read(), 2, "each counts as 600 KiB");
    assert_eq!((shown(&node, 1).len(), shown(&node, 2)), (9, vec![11]));
    let judged = chain.judge_waiting().unwrap();
    assert_eq!(judged, JudgedUpdates { valid: 1, invalid: 0, waiting: 0 });
    assert_eq!(shown(&node, 1).len(), 10);
}

/// The number of signers that have to be found is known only when they are, and one update may have hundreds.
#[tokio::test]
async fn an_update_of_so_many_actions_that_its_signers_could_take_long_is_not_read_at_once() {
    let judge = Scripted::unknown(&[]);
    let node = start_judging(store(), true, judge.clone());
    let chain = node.engine.chain_appender();
    append(&chain, &[update_with(1, 1, 1, vec![create(11); 300])]);
    judge.read();
    append(&chain, &[update(2, 1, 2), update(3, 2, 3)]);
    assert_eq!((judge.read(), shown(&node, 1), shown(&node, 2)), (0, vec![1], vec![3]));
    let judged = chain.judge_waiting().unwrap();
    assert_eq!(judged, JudgedUpdates { valid: 1, invalid: 0, waiting: 0 });
    assert_eq!(shown(&node, 1), [1, 2]);
}

/// An attacker who owns many inboxes, too many to be remembered, has the logs of all of them read with one small update
/// for each.
#[tokio::test]
async fn a_batch_waits_for_a_bounded_part_of_long_logs_and_for_every_short_one() {
    let judge = Scripted::unknown(&[]);
    let node = start_judging(store(), true, judge.clone());
    let chain = node.engine.chain_appender();
    let mut next = sequence_ids();
    // 40 logs of 190 kB together have more than a batch reads, and 40 of 50 kB besides do not count.
    for (inbox, len_bytes) in
        (0..40).map(|inbox| (inbox, 190_000)).chain((40..80).map(|n| (n, 50_000)))
    {
        append(&chain, &[long_update(next(), inbox, 1, len_bytes)]);
    }
    judge.read();
    append(&chain, &(0..80).map(|inbox| update(next(), inbox, 2)).collect::<Vec<_>>());
    let waiting = chain.inboxes_waiting();
    assert!((20..40).contains(&waiting), "{waiting}");
    assert_eq!(judge.read() as u64, 80 - waiting, "what is too long is not read");
    assert!((40..80).all(|inbox| shown(&node, inbox).len() == 2), "a short log waits for no other");
    assert!(judge.shared.asked_for.load(Ordering::Relaxed) > 0);
    chain.judge_waiting().unwrap();
    assert_eq!(chain.inboxes_waiting(), 0);
    assert!((0..80).all(|inbox| shown(&node, inbox).len() == 2));
}

#[tokio::test]
async fn of_many_inboxes_with_long_logs_each_has_its_turn() {
    let judge = Scripted::unknown(&[]);
    let node = start_judging(store(), true, judge.clone());
    let chain = node.engine.chain_appender();
    let mut next = sequence_ids();
    // Each has a ninth of what one round reads.
    let each = u64::try_from(ROUND_BYTES_MAX / 9 / 190_000 + 1).unwrap();
    for inbox in 0..24 {
        let events: Vec<_> = (0..each).map(|n| long_update(next(), inbox, n, 190_000)).collect();
        append(&chain, &events);
    }
    let events: Vec<_> = (0..24).map(|inbox| update(next(), inbox, each)).collect();
    append(&chain, &events);
    assert_eq!(chain.inboxes_waiting(), 24);
    let mut rounds = 0;
    while chain.inboxes_waiting() > 0 {
        let asked_for = judge.shared.asked_for.load(Ordering::Relaxed);
        let judged = chain.judge_waiting().unwrap();
        assert!((1..24).contains(&judged.valid), "{judged:?}");
        let is_asked_for = judge.shared.asked_for.load(Ordering::Relaxed) > asked_for;
        assert_eq!(is_asked_for, judged.waiting > 0);
        rounds += 1;
    }
    assert!(rounds > 1);
    assert_eq!((0..24).map(|inbox| shown(&node, inbox).len() as u64).sum::<u64>(), 24 * (each + 1));
}

/// Behind an update that waits for hours, an attacker can gather more than fits into memory. The others do not wait for
/// the verdicts on all of it.
#[tokio::test]
async fn what_has_gathered_behind_a_waiting_update_is_judged_in_parts() {
    let judge = Scripted::unknown(&[1, 100]);
    let node = start_judging(store(), true, judge.clone());
    let chain = node.engine.chain_appender();
    append(&chain, &[update(1, 1, 1), update(2, 2, 100), update(3, 2, 101)]);
    for n in 4..24 {
        append(&chain, &[long_update(n, 1, n, 190_000)]);
    }
    assert_eq!(judge.shared.asked_for.load(Ordering::Relaxed), 0);
    judge.learn();
    let (mut parts, mut valid) = (0, 0);
    while chain.inboxes_waiting() > 0 {
        let asked_for = judge.shared.asked_for.load(Ordering::Relaxed);
        let judged = chain.judge_waiting().unwrap();
        assert!((1..10).contains(&judged.valid), "{judged:?}");
        let is_asked_for = judge.shared.asked_for.load(Ordering::Relaxed) > asked_for;
        assert_eq!(is_asked_for, judged.waiting > 0);
        valid += judged.valid;
        parts += 1;
        assert!(!shown(&node, 2).is_empty(), "each inbox has its part");
    }
    assert!(parts > 2, "{parts}");
    assert_eq!((valid, shown(&node, 2)), (23, vec![2, 3]));
    assert!(shown(&node, 1).into_iter().eq([1].into_iter().chain(4..24)), "in their order");
}
