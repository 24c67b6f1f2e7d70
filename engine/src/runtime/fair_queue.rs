//! A queue in which keys take turns.
//!
//! Not taken from a library: the usual queues serve in the order of arrival or by a fixed priority, so many jobs of one
//! key would go before the first one of the next key. A property test checks the order of the turns.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// A queue in which keys take turns, so that many jobs of one key do not delay the other keys. Unbounded: its user
/// bounds what is pushed.
#[derive(Debug)]
pub struct FairQueue<K, J> {
    /// The keys with jobs, in the order of their turns.
    turns: VecDeque<K>,
    jobs: HashMap<K, VecDeque<J>>,
    len: usize,
}

impl<K, J> Default for FairQueue<K, J> {
    fn default() -> Self {
        Self { turns: VecDeque::new(), jobs: HashMap::new(), len: 0 }
    }
}

impl<K: Copy + Eq + Hash, J> FairQueue<K, J> {
    /// Returns the queue of the jobs of one key, of which there is at least one.
    pub(super) fn of_key(key: K, jobs: VecDeque<J>) -> Self {
        debug_assert!(!jobs.is_empty(), "a key without jobs has no turn");
        let len = jobs.len();
        Self { turns: VecDeque::from([key]), jobs: HashMap::from([(key, jobs)]), len }
    }

    /// Returns the number of jobs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns true if there is no job.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of jobs of a key.
    #[must_use]
    pub fn len_of(&self, key: K) -> usize {
        self.jobs.get(&key).map_or(0, VecDeque::len)
    }

    /// Puts a job behind the others of its key.
    pub fn push(&mut self, key: K, job: J) {
        self.jobs_for_one_more(key).push_back(job);
    }

    /// Puts a job before the others of its key, whose turn comes after those of the other keys.
    pub fn put_back(&mut self, key: K, job: J) {
        self.jobs_for_one_more(key).push_front(job);
    }

    /// Returns the jobs of a key, to which the caller adds one. Counts it, and gives a key without jobs its turn.
    fn jobs_for_one_more(&mut self, key: K) -> &mut VecDeque<J> {
        let jobs = self.jobs.entry(key).or_default();
        if jobs.is_empty() {
            self.turns.push_back(key);
        }
        self.len += 1;
        jobs
    }

    /// Takes the first job of the key whose turn it is.
    pub fn pop(&mut self) -> Option<J> {
        let key = self.turns.pop_front()?;
        let jobs = self.jobs.get_mut(&key)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.jobs.remove(&key);
        } else {
            self.turns.push_back(key);
        }
        self.len -= 1;
        debug_assert_eq!(self.turns.len(), self.jobs.len(), "each key with jobs has one turn");
        job
    }

    /// Removes the jobs for which `keep` returns false. Looks at all jobs.
    pub fn retain(&mut self, mut keep: impl FnMut(&J) -> bool) {
        self.jobs.retain(|_, jobs| {
            jobs.retain(&mut keep);
            !jobs.is_empty()
        });
        self.turns.retain(|key| self.jobs.contains_key(key));
        self.len = self.jobs.values().map(VecDeque::len).sum();
    }

    /// Removes the jobs of a key for which `keep` returns false. Looks at all jobs of the key.
    pub fn retain_of(&mut self, key: K, keep: impl FnMut(&J) -> bool) {
        let Some(jobs) = self.jobs.get_mut(&key) else { return };
        let before = jobs.len();
        jobs.retain(keep);
        self.len -= before - jobs.len();
        if jobs.is_empty() {
            self.jobs.remove(&key);
            self.turns.retain(|turn| *turn != key);
        }
    }

    /// Takes the last job of the key with the most jobs; `None` if that has fewer than `jobs_min`. Looks at all keys.
    pub fn pop_of_longest(&mut self, jobs_min: usize) -> Option<J> {
        let longest = self.jobs.iter().max_by_key(|(_, jobs)| jobs.len());
        let key = longest.filter(|(_, jobs)| jobs.len() >= jobs_min).map(|(key, _)| *key)?;
        let jobs = self.jobs.get_mut(&key)?;
        let job = jobs.pop_back();
        if jobs.is_empty() {
            self.jobs.remove(&key);
            self.turns.retain(|turn| *turn != key);
        }
        self.len -= 1;
        job
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_key_has_its_turn() {
        let mut queue = FairQueue::default();
        for job in 0..5 {
            queue.push('a', ('a', job));
        }
        queue.push('b', ('b', 0));
        queue.push('c', ('c', 0));
        queue.push('b', ('b', 1));
        assert_eq!((queue.len(), queue.len_of('b')), (8, 2));
        let order: String = std::iter::from_fn(|| queue.pop()).map(|(key, _)| key).collect();
        assert_eq!(order, "abcabaaa");
        assert!(queue.is_empty() && queue.jobs.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn the_key_with_the_most_jobs_gives_up_its_last_one() {
        let mut queue = FairQueue::default();
        for job in ["a1", "b1", "b2", "b3", "c1", "c2"] {
            queue.push(&job[..1], job);
        }
        assert_eq!(queue.pop_of_longest(4), None);
        assert_eq!(queue.pop_of_longest(3), Some("b3"));
        assert_eq!(queue.pop_of_longest(3), None);
        assert_eq!(queue.len(), 5);
        while queue.pop_of_longest(1).is_some() {}
        assert!(queue.is_empty() && queue.jobs.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn jobs_that_are_removed_take_the_turn_of_a_key_without_others() {
        let mut queue = FairQueue::default();
        for job in ["a1", "b1", "b2", "c1"] {
            queue.push(&job[..1], job);
        }
        queue.retain(|job| !["a1", "b1"].contains(job));
        assert_eq!((queue.len(), queue.len_of("b")), (2, 1));
        queue.push("a", "a2");
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["b2", "c1", "a2"]);
        assert!(queue.is_empty() && queue.jobs.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn a_job_that_is_put_back_goes_on_before_others_of_its_key_and_after_other_keys() {
        let mut queue = FairQueue::default();
        for job in ["a1", "a2", "b1"] {
            queue.push(&job[..1], (job, 3));
        }
        let mut order = Vec::new();
        while let Some((job, turns)) = queue.pop() {
            order.push(job);
            if turns > 1 {
                queue.put_back(&job[..1], (job, turns - 1));
            }
        }
        assert_eq!(order, ["a1", "b1", "a1", "b1", "a1", "b1", "a2", "a2", "a2"]);
        assert!(queue.is_empty() && queue.jobs.is_empty() && queue.turns.is_empty());
    }

    proptest! {
        /// A key waits from its first job, or from its last turn, on.
        #[test]
        fn the_key_that_has_waited_longest_comes_next_with_its_oldest_job(
            pushed in proptest::collection::vec(proptest::option::of(0u8..4), 1..80),
        ) {
            let mut queue: FairQueue<u8, (u8, usize)> = FairQueue::default();
            let mut waiting: BTreeMap<u8, (usize, VecDeque<usize>)> = BTreeMap::new();
            for (step, pushed) in pushed.into_iter().enumerate() {
                if let Some(key) = pushed {
                    queue.push(key, (key, step));
                    let (_, jobs) = waiting.entry(key).or_insert((step, VecDeque::new()));
                    jobs.push_back(step);
                } else {
                    let longest = waiting.iter().min_by_key(|(_, (since, _))| *since);
                    let expected = longest.map(|(key, _)| *key).map(|key| {
                        let (since, jobs) = waiting.get_mut(&key).expect("the key waits");
                        *since = step;
                        (key, jobs.pop_front().expect("a key that waits has a job"))
                    });
                    waiting.retain(|_, (_, jobs)| !jobs.is_empty());
                    prop_assert_eq!(queue.pop(), expected);
                }
                let len: usize = waiting.values().map(|(_, jobs)| jobs.len()).sum();
                prop_assert_eq!(queue.len(), len);
            }
        }
    }
}
