//! The queue of unanswered questions to contract wallets, with the time of each one's next attempt.

use std::collections::{BTreeMap, BTreeSet};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use hawser_mls::identity::WalletQuestion;
use hawser_proto::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::client::WalletError;
use crate::limits::{
    JUDGE_AGAIN_EVERY, WALLET_PAUSE_MAX, WALLET_PAUSE_MIN, WALLET_QUESTIONS_BYTES_MAX,
    WALLET_QUESTIONS_MAX, WALLETS_PER_CHAIN_MAX,
};

/// The number of replies in a row, all without a newer block, after which the log warns the operator about a wallet's
/// chain. With the pauses between them, 8 min: chains of wallets have blocks at least once a minute.
const STILL_REPLIES: u32 = 8;

/// The maximum number of questions of a chain that count as its newest ones. A guess: more than blocks of the app chain
/// have of clients, and few beside all that are queued.
const NEWEST_MAX: usize = 100;

/// Open questions, at most [`WALLET_QUESTIONS_MAX`] with [`WALLET_QUESTIONS_BYTES_MAX`].
#[derive(Debug, Default)]
pub(super) struct QuestionQueue {
    open: Mutex<OpenQuestions>,
    added: Notify,
}

/// Questions, and the total length of their signatures in bytes.
///
/// Invariant: each question is among the newest ones of its chain, or has one rank in the set of its chain. No set is
/// empty.
#[derive(Debug)]
struct OpenQuestions {
    attempts: BTreeMap<WalletQuestion, Attempts>,
    signature_bytes: usize,
    /// The questions of each chain, without its newest ones, in the order in which they are kept: the first one to
    /// evict comes last. A full queue evicts at each addition, and many updates are judged and add theirs in a row.
    ranks: BTreeMap<u64, BTreeSet<QuestionRank>>,
    /// The newest questions of each chain: those without a failure whose events are the latest, at most `newest_max`.
    /// An earlier flood of questions neither evicts nor delays them.
    newest: BTreeMap<u64, BTreeSet<NewestQuestion>>,
    newest_max: usize,
}

/// The time of a question's event, unix seconds, and the question.
type NewestQuestion = (u64, WalletQuestion);

impl Default for OpenQuestions {
    fn default() -> Self {
        let (attempts, ranks, newest) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { attempts, signature_bytes: 0, ranks, newest, newest_max: NEWEST_MAX }
    }
}

/// The failures of a question, the time at which it is due, and the question.
type QuestionRank = (u32, Instant, WalletQuestion);

impl OpenQuestions {
    /// Adds a new question. Copies the signature, because a slice of it would keep the whole update in memory.
    fn insert(&mut self, question: &WalletQuestion, attempts: Attempts) {
        let signature = Bytes::copy_from_slice(&question.signature);
        self.signature_bytes += signature.len();
        let question = WalletQuestion { signature, ..question.clone() };
        let (rank, event_s) = (attempts.rank(), attempts.event_s);
        let has_failed = attempts.failures > 0;
        self.attempts.insert(question.clone(), attempts);
        if has_failed {
            self.rank(&question, rank);
        } else {
            self.put_newest(question, event_s);
        }
    }

    /// Puts a question among the newest ones of its chain. If these are too many, the one with the earliest event gets
    /// a rank instead.
    fn put_newest(&mut self, question: WalletQuestion, event_s: u64) {
        let of_chain = self.newest.entry(question.chain_id).or_default();
        of_chain.insert((event_s, question));
        if of_chain.len() <= self.newest_max {
            return;
        }
        let Some((_, earliest)) = of_chain.pop_first() else { return };
        if let Some(rank) = self.attempts.get(&earliest).map(Attempts::rank) {
            self.rank(&earliest, rank);
        }
    }

    /// Removes a question from the newest ones of its chain, or its rank.
    fn unplace(&mut self, question: WalletQuestion, rank: (u32, Instant), event_s: u64) {
        let chain_id = question.chain_id;
        let newest = (event_s, question);
        let Some(of_chain) = self.newest.get_mut(&chain_id).filter(|it| it.contains(&newest))
        else {
            self.unrank(newest.1, rank);
            return;
        };
        of_chain.remove(&newest);
        if of_chain.is_empty() {
            self.newest.remove(&chain_id);
        }
    }

    fn remove(&mut self, question: &WalletQuestion) {
        if let Some((removed, attempts)) = self.attempts.remove_entry(question) {
            self.signature_bytes -= removed.signature.len();
            self.unplace(removed, attempts.rank(), attempts.event_s);
        }
    }

    fn rank(&mut self, question: &WalletQuestion, (failures, due): (u32, Instant)) {
        let of_chain = self.ranks.entry(question.chain_id).or_default();
        of_chain.insert((failures, due, question.clone()));
    }

    fn unrank(&mut self, question: WalletQuestion, (failures, due): (u32, Instant)) {
        let chain_id = question.chain_id;
        let Some(of_chain) = self.ranks.get_mut(&chain_id) else { return };
        of_chain.remove(&(failures, due, question));
        if of_chain.is_empty() {
            self.ranks.remove(&chain_id);
        }
    }

    /// Postpones a question after an attempt without an answer.
    fn fail(&mut self, question: &WalletQuestion) {
        let Some((question, attempts)) = self.attempts.get_key_value(question) else { return };
        // A copy of the question that the queue holds, whose signature holds no update.
        let (question, before, event_s) = (question.clone(), attempts.rank(), attempts.event_s);
        self.unplace(question.clone(), before, event_s);
        if let Some(attempts) = self.attempts.get_mut(&question) {
            attempts.fail();
            let rank = attempts.rank();
            self.rank(&question, rank);
        }
    }

    /// Returns the question to evict if there are too many questions or signature bytes; `None` while all fit.
    ///
    /// It belongs to the chain that takes most of the exceeded bound, so that one chain's questions cannot evict
    /// another's. Within that chain it is the one with the most failures. Among those it is the one with the longest
    /// signature, if the bytes are exceeded, and then the newest one, so that a flood cannot evict earlier questions.
    /// Of the newest questions of a chain none is evicted to bound the number.
    fn without_room(&self) -> Option<WalletQuestion> {
        if self.signature_bytes > WALLET_QUESTIONS_BYTES_MAX {
            return self.longest_without_room();
        }
        if self.attempts.len() <= WALLET_QUESTIONS_MAX {
            return None;
        }
        let (_, of_chain) = self.ranks.iter().max_by_key(|(_, of_chain)| of_chain.len())?;
        of_chain.last().map(|(.., question)| question.clone())
    }

    /// Returns the question to evict if there are too many signature bytes. Looks at all questions.
    fn longest_without_room(&self) -> Option<WalletQuestion> {
        let mut rooms: BTreeMap<u64, usize> = BTreeMap::new();
        for question in self.attempts.keys() {
            *rooms.entry(question.chain_id).or_default() += question.signature.len();
        }
        let (chain_id, _) = rooms.into_iter().max_by_key(|(_, room)| *room)?;
        let of_chain = self.attempts.iter().filter(|(it, _)| it.chain_id == chain_id);
        let worst = of_chain
            .max_by_key(|(it, attempts)| (attempts.failures, it.signature.len(), attempts.due));
        worst.map(|(question, _)| question.clone())
    }
}

/// A place for a running attempt, of the [`WALLETS_PER_CHAIN_MAX`] that a chain has: the one for its newest question,
/// the one for the question that is due longest, or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AttemptPlace {
    Newest,
    DueLongest,
    Other,
}

/// The attempts at one question.
#[derive(Debug)]
struct Attempts {
    /// The time of the event of the update that asks, unix seconds.
    event_s: u64,
    failures: u32,
    pauses: ExponentialBackoff,
    due: Instant,
    /// The place that the attempt under way has among those of its chain; `None` without one.
    running: Option<AttemptPlace>,
    /// Time of the chain's newest block, unix seconds, if that was older than the block of the question.
    newest_time_s: Option<u64>,
    /// The number of such replies since that time last grew.
    still: u32,
}

impl Attempts {
    /// Creates the attempts at a question that has failed so often, due at once. `event_s` is the time of the event of
    /// its update, unix seconds.
    fn after(failures: u32, event_s: u64) -> Self {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(WALLET_PAUSE_MIN)
            .with_max_delay(WALLET_PAUSE_MAX)
            .without_max_times()
            .build();
        let due = Instant::now();
        Self { event_s, failures, pauses, due, running: None, newest_time_s: None, still: 0 }
    }

    /// Returns the failures and the time of the next attempt, by which the queue ranks the question.
    fn rank(&self) -> (u32, Instant) {
        (self.failures, self.due)
    }

    fn fail(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.running = None;
        self.due = Instant::now() + self.pauses.next().unwrap_or(WALLET_PAUSE_MAX);
    }
}

impl QuestionQueue {
    /// Adds a question, due at once, unless it is queued already. A question with `has_failed`, of which an earlier
    /// attempt failed, comes after new ones. `event_s` is the time of the event of its update, unix seconds. A full
    /// queue evicts the question that [`OpenQuestions::without_room`] returns, which may be this one; it is queued
    /// again when its update is validated again.
    pub(super) fn add(&self, question: &WalletQuestion, has_failed: bool, event_s: u64) {
        let mut open = self.open.lock();
        if open.attempts.contains_key(question) {
            return;
        }
        open.insert(question, Attempts::after(has_failed.into(), event_s));
        while let Some(worst) = open.without_room() {
            open.remove(&worst);
        }
        drop(open);
        self.added.notify_one();
    }

    /// Waits until a question is added.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// Removes an answered question.
    pub(super) fn remove(&self, question: &WalletQuestion) {
        self.open.lock().remove(question);
    }

    /// Postpones a question after a failed attempt.
    pub(super) fn failed(&self, question: &WalletQuestion, error: &WalletError) {
        let mut open = self.open.lock();
        let Some(attempts) = open.attempts.get(question) else { return };
        if attempts.failures == 0 {
            tracing::warn!(
                code = "wallet_unavailable",
                chain_id = question.chain_id,
                block = question.block_number,
                "an identity update waits for a contract wallet: {error}"
            );
        }
        open.fail(question);
    }

    /// Postpones a question whose block the chain does not have yet. Warns the operator, and returns true, when the
    /// chain has shown no newer block in [`STILL_REPLIES`] replies: once until it shows one.
    pub(super) fn not_yet(&self, question: &WalletQuestion, newest_time_s: u64) -> bool {
        let mut open = self.open.lock();
        let Some(attempts) = open.attempts.get_mut(question) else { return false };
        let has_grown = attempts.newest_time_s < Some(newest_time_s);
        attempts.still = if has_grown { 0 } else { attempts.still.saturating_add(1) };
        attempts.newest_time_s = attempts.newest_time_s.max(Some(newest_time_s));
        let stands_still = attempts.still == STILL_REPLIES;
        open.fail(question);
        if stands_still {
            tracing::warn!(
                code = "wallet_chain_still",
                chain_id = question.chain_id,
                block = question.block_number,
                newest_time_s,
                "an identity update waits for a contract wallet: the endpoints of its chain show no new block"
            );
        }
        stands_still
    }

    /// Returns the time of the newest block of the chain when it did not have the question's block yet,
    /// unix seconds.
    pub(super) fn newest_time_s(&self, question: &WalletQuestion) -> Option<u64> {
        self.open.lock().attempts.get(question).and_then(|attempts| attempts.newest_time_s)
    }

    /// Returns the questions to ask now and marks them as running, and the time to call again. At most
    /// [`WALLETS_PER_CHAIN_MAX`] of a chain run at once. Those with the fewest failures go first, and among those the
    /// one that is due longest. An account with many failing questions thus delays its own ones and not those of
    /// others. One of the places of a chain is for the newest question, which thus does not wait for all that a flood
    /// has asked before. One is for the question that is due longest, however often it has failed: a flood of new ones
    /// does not keep it from being asked again.
    pub(super) fn start_due(&self) -> (Vec<WalletQuestion>, Instant) {
        let (mut open, now) = (self.open.lock(), Instant::now());
        let OpenQuestions { attempts: all, newest, .. } = &mut *open;
        let mut running: BTreeMap<u64, usize> = BTreeMap::new();
        let (mut with_newest, mut with_longest) = (BTreeSet::new(), BTreeSet::new());
        for (question, attempts) in all.iter() {
            let Some(place) = attempts.running else { continue };
            *running.entry(question.chain_id).or_default() += 1;
            with_newest.extend((place == AttemptPlace::Newest).then_some(question.chain_id));
            with_longest.extend((place == AttemptPlace::DueLongest).then_some(question.chain_id));
        }
        let mut due = Vec::new();
        for (chain_id, of_chain) in newest.iter().filter(|(id, _)| !with_newest.contains(*id)) {
            let running = running.entry(*chain_id).or_default();
            if *running >= WALLETS_PER_CHAIN_MAX {
                continue;
            }
            let is_idle = |it: &WalletQuestion| all.get(it).is_some_and(|it| it.running.is_none());
            let question = of_chain.iter().rev().map(|(_, it)| it).find(|it| is_idle(it));
            if let Some(question) = question
                && let Some(attempts) = all.get_mut(question)
            {
                attempts.running = Some(AttemptPlace::Newest);
                *running += 1;
                due.push(question.clone());
            }
        }
        for question in longest_due(all, &with_longest, now) {
            let running = running.entry(question.chain_id).or_default();
            if *running < WALLETS_PER_CHAIN_MAX
                && let Some(attempts) = all.get_mut(&question)
            {
                attempts.running = Some(AttemptPlace::DueLongest);
                *running += 1;
                due.push(question);
            }
        }
        let mut idle: Vec<_> = all.iter_mut().filter(|(_, it)| it.running.is_none()).collect();
        idle.sort_by_key(|(_, attempts)| (attempts.failures, attempts.due));
        let mut next = now + JUDGE_AGAIN_EVERY;
        for (question, attempts) in idle {
            let of_chain = running.entry(question.chain_id).or_default();
            if *of_chain >= WALLETS_PER_CHAIN_MAX {
                continue; // the end of one of them is the time to look again
            }
            if attempts.due > now {
                next = next.min(attempts.due);
                continue;
            }
            *of_chain += 1;
            attempts.running = Some(AttemptPlace::Other);
            due.push(question.clone());
        }
        (due, next)
    }
}

/// Returns the question of each chain that is due longest at `now` and not running. Leaves out `taken` chains.
fn longest_due(
    all: &BTreeMap<WalletQuestion, Attempts>,
    taken: &BTreeSet<u64>,
    now: Instant,
) -> Vec<WalletQuestion> {
    let mut longest: BTreeMap<u64, (Instant, &WalletQuestion)> = BTreeMap::new();
    for (question, attempts) in all {
        if attempts.running.is_some() || attempts.due > now || taken.contains(&question.chain_id) {
            continue;
        }
        let found = (attempts.due, question);
        let first = longest.entry(question.chain_id).or_insert(found);
        *first = found.min(*first);
    }
    longest.into_values().map(|(_, question)| question.clone()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hawser_proto::{Address, Bytes, Digest};

    use super::*;

    fn question(chain_id: u64, number: u8) -> WalletQuestion {
        WalletQuestion {
            chain_id,
            address: Address([number; 20]),
            block_number: 1,
            digest: Digest([number; 32]),
            signature: Bytes::new(),
        }
    }

    fn failure() -> WalletError {
        WalletError::NoAnswer { chain_id: 1, reason: "no".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_chain_takes_no_room_of_another_and_newcomers_go_before_what_failed() {
        let queue = QuestionQueue::default();
        for number in 0..20 {
            queue.add(&question(1, number), false, 0);
        }
        let (first, _) = queue.start_due();
        assert_eq!(first.len(), WALLETS_PER_CHAIN_MAX, "of one chain");
        queue.add(&question(2, 0), false, 0);
        assert_eq!(
            queue.start_due().0,
            [question(2, 0)],
            "chain 1 is at its limit, chain 2 is not"
        );
        assert!(queue.start_due().0.is_empty(), "all are under way");
        // A failed question is due again, and comes after those that were not asked yet.
        queue.failed(&first[0], &failure());
        tokio::time::advance(WALLET_PAUSE_MIN).await;
        let (next, _) = queue.start_due();
        assert_eq!(next.len(), 1);
        assert!(!first.contains(&next[0]), "{next:?}");
    }

    /// Two new questions come for each that is answered, as from updates with hundreds of wallets that agree at once.
    #[tokio::test(start_paused = true)]
    async fn a_question_that_has_failed_is_asked_again_however_many_new_ones_come() {
        let queue = QuestionQueue::default();
        let failed = question(1, 1);
        queue.add(&failed, false, 0);
        assert_eq!(queue.start_due().0, std::slice::from_ref(&failed));
        queue.failed(&failed, &failure());
        tokio::time::advance(2 * WALLET_PAUSE_MIN).await;
        let new = |number: u64| WalletQuestion { block_number: number, ..question(1, 9) };
        let is_asked = (0..100).any(|round| {
            (8 * round..8 * (round + 1)).for_each(|number| queue.add(&new(number), false, number));
            let (asked, _) = queue.start_due();
            assert_eq!(asked.len(), WALLETS_PER_CHAIN_MAX);
            asked.iter().for_each(|question| queue.remove(question));
            asked.contains(&failed)
        });
        assert!(is_asked);
    }

    /// Long signatures of a hostile account take bounded memory, and questions of usual length stay queued.
    #[test]
    fn long_signatures_push_out_their_like() {
        let queue = QuestionQueue::default();
        let small = question(1, 0);
        queue.add(&small, false, 0);
        let long = Bytes::from(vec![7; 1 << 20]);
        let numbered = |number: u64| WalletQuestion {
            block_number: number,
            signature: long.clone(),
            ..question(2, 1)
        };
        (0..200).for_each(|number| queue.add(&numbered(number), false, 0));
        let open = queue.open.lock();
        assert_eq!(open.signature_bytes, WALLET_QUESTIONS_BYTES_MAX);
        assert_eq!(open.attempts.len(), 1 + WALLET_QUESTIONS_BYTES_MAX / long.len());
        assert!(open.attempts.contains_key(&small) && open.attempts.contains_key(&numbered(0)));
        let is_copied = |it: &WalletQuestion| it.signature.as_ptr() != long.as_ptr();
        assert!(open.attempts.keys().all(is_copied), "none holds the update that it is a part of");
        drop(open);
        (0..200).for_each(|number| queue.remove(&numbered(number)));
        assert_eq!(queue.open.lock().signature_bytes, 0);
    }

    /// A flood of short questions about one chain fills the queue. A question about another chain stays, even with
    /// a long signature, and so does an older one about the same chain.
    #[test]
    fn a_flood_about_one_chain_pushes_out_only_its_own() {
        let queue = QuestionQueue::default();
        let long = Bytes::from(vec![7; 900]);
        let other_chain = WalletQuestion { signature: long.clone(), ..question(2, 1) };
        let before = WalletQuestion { signature: long, ..question(1, 1) };
        queue.add(&other_chain, true, 0);
        queue.add(&before, false, 0);
        let flood = |number: u64| WalletQuestion { block_number: number, ..question(1, 9) };
        let count = WALLET_QUESTIONS_MAX as u64;
        (0..count).for_each(|number| queue.add(&flood(number), false, 0));
        queue.add(&flood(count), true, 0);
        let open = queue.open.lock();
        assert_eq!(open.attempts.len(), WALLET_QUESTIONS_MAX);
        assert!(open.attempts.contains_key(&other_chain) && open.attempts.contains_key(&before));
        assert!(!open.attempts.contains_key(&flood(count)), "it has failed before");
    }

    /// An author of very many updates pays once, and wallets answer their questions for hours.
    #[test]
    fn the_newest_question_waits_for_one_answer_and_not_for_all_of_an_earlier_flood() {
        let queue = QuestionQueue::default();
        let flood = |number: u64| WalletQuestion { block_number: number, ..question(1, 9) };
        let count = 2 * WALLET_QUESTIONS_MAX as u64;
        (0..count).for_each(|number| queue.add(&flood(number), false, 100));
        let (first, _) = queue.start_due();
        assert_eq!(first.len(), WALLETS_PER_CHAIN_MAX);
        let late = question(1, 1);
        queue.add(&late, false, 101);
        (count..count + 50).for_each(|number| queue.add(&flood(number), false, 100));
        assert!(queue.open.lock().attempts.contains_key(&late), "it is not evicted");
        assert!(queue.start_due().0.is_empty(), "all places are taken");
        queue.remove(&first[1]);
        let (next, _) = queue.start_due();
        assert!(next.len() == 1 && next[0] != late, "the earlier ones go on");
        queue.remove(&first[0]); // it was the newest one
        assert_eq!(queue.start_due().0, std::slice::from_ref(&late));
        queue.failed(&late, &failure());
        assert!(queue.start_due().0[0] != late, "it has failed, and comes after the others");
    }

    /// Returns the newest questions of all chains.
    fn newest(open: &OpenQuestions) -> impl Iterator<Item = &WalletQuestion> {
        open.newest.values().flatten().map(|(_, question)| question)
    }

    /// Returns the question that a search through all of them finds to evict.
    fn searched(open: &OpenQuestions) -> Option<WalletQuestion> {
        let of_chain = |chain_id: u64| {
            let is_ranked = move |it: &WalletQuestion| {
                it.chain_id == chain_id && !newest(open).any(|newest| newest == it)
            };
            open.attempts.iter().filter(move |(it, _)| is_ranked(it))
        };
        let chain_id = (0..4).max_by_key(|chain_id| of_chain(*chain_id).count())?;
        let worst =
            of_chain(chain_id).max_by_key(|(_, attempts)| (attempts.failures, attempts.due));
        worst.map(|(question, _)| question.clone())
    }

    #[test]
    fn the_question_to_evict_is_the_one_that_a_search_finds() {
        let mut open = OpenQuestions { newest_max: 2, ..OpenQuestions::default() };
        let mut random = 7_u64;
        for _ in 0..3000 {
            // Knuth's MMIX generator; its high bits are random enough.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let number = u8::try_from((random >> 33) & 31).unwrap();
            let it = question(u64::from(number) % 4, number);
            match (random >> 40) & 3 {
                0 => open.remove(&it),
                1 => open.fail(&it),
                _ if !open.attempts.contains_key(&it) => {
                    open.insert(&it, Attempts::after(0, (random >> 45) & 7));
                }
                _ => {}
            }
            let ranked: usize = open.ranks.values().map(BTreeSet::len).sum();
            assert_eq!(ranked + newest(&open).count(), open.attempts.len());
            assert!(open.ranks.values().all(|of_chain| !of_chain.is_empty()));
            assert!(open.newest.values().all(|of_chain| (1..=2).contains(&of_chain.len())));
            let most = open.ranks.iter().max_by_key(|(_, of_chain)| of_chain.len());
            let last = most.and_then(|(_, of_chain)| of_chain.last());
            assert_eq!(last.map(|(.., question)| question), searched(&open).as_ref());
        }
    }

    #[test]
    fn the_latest_time_of_a_chain_that_is_not_there_yet_is_kept() {
        let queue = QuestionQueue::default();
        let asked = question(1, 1);
        queue.add(&asked, false, 0);
        assert_eq!(queue.newest_time_s(&asked), None);
        for newest_time_s in [7, 9, 8] {
            queue.not_yet(&asked, newest_time_s);
        }
        assert_eq!(queue.newest_time_s(&asked), Some(9), "an endpoint may lag behind another");
    }

    #[test]
    fn a_chain_without_a_new_block_is_told_once_until_it_has_one() {
        let (queue, asked) = (QuestionQueue::default(), question(1, 1));
        let told = |newest_time_s| queue.not_yet(&asked, newest_time_s);
        assert!(!told(0), "the question is not queued");
        queue.add(&asked, false, 0);
        for newest_time_s in 100..200 {
            assert!(!told(newest_time_s), "the chain goes on");
        }
        for newest_time_s in [300, 400] {
            let still = (0..=100).filter(|_| told(newest_time_s)).count();
            assert_eq!(still, 1);
        }
        assert!(!told(1), "an endpoint that is further behind");
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut attempts = Attempts::after(0, 0);
        let pauses = attempts.pauses.by_ref().take(10).map(|pause| pause.as_secs());
        assert_eq!(pauses.collect::<Vec<_>>(), [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        attempts.fail();
        let pause = attempts.due.duration_since(Instant::now());
        assert!(pause > Duration::from_secs(299), "{pause:?}");
    }
}
