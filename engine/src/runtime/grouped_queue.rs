//! A queue in which groups take turns, and the keys of each group take those of the group. Not taken from a library,
//! for the reason in `fair_queue`.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use super::fair_queue::FairQueue;

/// A queue in which groups take turns. Within the turns of a group, its keys take turns. So an owner of many keys in
/// one group delays each other group by one job. The queue is unbounded: its user bounds the jobs that are pushed.
#[derive(Debug)]
pub struct GroupedQueue<K, J> {
    /// The groups with jobs, in the order of their turns.
    turns: VecDeque<K>,
    groups: HashMap<K, GroupJobs<K, J>>,
    len: usize,
}

/// The jobs of a group. There is at least one.
#[derive(Debug)]
enum GroupJobs<K, J> {
    /// The jobs of the group's only key. Nearly all groups have one key, for example an IPv4 address. Their jobs cost
    /// no more allocations and lookups than in a [`FairQueue`]. That matters: each publish waits in a queue of this
    /// type.
    OfOne(K, VecDeque<J>),
    /// The jobs of all keys of the group, which has had at least two at once.
    OfSeveral(FairQueue<K, J>),
}

impl<K, J> Default for GroupedQueue<K, J> {
    fn default() -> Self {
        Self { turns: VecDeque::new(), groups: HashMap::new(), len: 0 }
    }
}

impl<K: Copy + Eq + Hash, J> GroupedQueue<K, J> {
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
    pub fn len_of(&self, group: K, key: K) -> usize {
        self.groups.get(&group).map_or(0, |jobs| jobs.len_of(key))
    }

    /// Puts a job behind the others of its key.
    pub fn push(&mut self, group: K, key: K, job: J) {
        self.add(group, key, job, GroupJobs::push);
    }

    /// Puts a job before the other jobs of its key. The key's turn comes after the turns of all other keys of its
    /// group. The group's turn comes after the turns of all other groups.
    pub fn put_back(&mut self, group: K, key: K, job: J) {
        self.add(group, key, job, GroupJobs::put_back);
    }

    /// Puts a job where `add` puts it in a group with jobs. A group without jobs gets its turn.
    fn add(&mut self, group: K, key: K, job: J, add: impl FnOnce(&mut GroupJobs<K, J>, K, J)) {
        match self.groups.entry(group) {
            Entry::Occupied(jobs) => add(jobs.into_mut(), key, job),
            Entry::Vacant(place) => {
                place.insert(GroupJobs::OfOne(key, VecDeque::from([job])));
                self.turns.push_back(group);
            }
        }
        self.len += 1;
    }

    /// Takes the first job of the key whose turn it is in the group whose turn it is.
    pub fn pop(&mut self) -> Option<J> {
        let group = self.turns.pop_front()?;
        let Entry::Occupied(mut jobs) = self.groups.entry(group) else { return None };
        let job = jobs.get_mut().pop();
        if jobs.get().is_empty() {
            jobs.remove();
        } else {
            self.turns.push_back(group);
        }
        self.len -= usize::from(job.is_some());
        debug_assert_eq!(self.turns.len(), self.groups.len(), "each group with jobs has one turn");
        job
    }

    /// Takes a job that gives way to one of this key: the last one of the largest key of the largest group, if that
    /// group has at least two jobs more than the key's own. Otherwise that of the largest key of the own group, if it
    /// has at least two more than the key. Looks at all groups, and at all keys of one.
    pub fn pop_for(&mut self, group: K, key: K) -> Option<J> {
        let own = self.groups.get(&group).map_or(0, GroupJobs::len);
        let largest = self.groups.iter().max_by_key(|(_, jobs)| jobs.len());
        let larger = largest.filter(|(_, jobs)| jobs.len() >= own + 2).map(|(group, _)| *group);
        let (from, jobs_min) = match larger {
            Some(larger) => (larger, 1),
            None => (group, self.len_of(group, key) + 2),
        };
        let jobs = self.groups.get_mut(&from)?;
        let job = jobs.pop_of_longest(jobs_min)?;
        if jobs.is_empty() {
            self.groups.remove(&from);
            self.turns.retain(|turn| *turn != from);
        }
        self.len -= 1;
        Some(job)
    }

    /// Removes the jobs of a key for which `keep` returns false. Looks at all jobs of the key.
    pub fn retain_of(&mut self, group: K, key: K, keep: impl FnMut(&J) -> bool) {
        let Some(jobs) = self.groups.get_mut(&group) else { return };
        let before = jobs.len();
        jobs.retain_of(key, keep);
        self.len -= before - jobs.len();
        if jobs.is_empty() {
            self.groups.remove(&group);
            self.turns.retain(|turn| *turn != group);
        }
    }
}

impl<K: Copy + Eq + Hash, J> GroupJobs<K, J> {
    fn len(&self) -> usize {
        match self {
            Self::OfOne(_, jobs) => jobs.len(),
            Self::OfSeveral(jobs) => jobs.len(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len_of(&self, key: K) -> usize {
        match self {
            Self::OfOne(only, jobs) if *only == key => jobs.len(),
            Self::OfOne(..) => 0,
            Self::OfSeveral(jobs) => jobs.len_of(key),
        }
    }

    fn push(&mut self, key: K, job: J) {
        match self {
            Self::OfOne(only, jobs) if *only == key => jobs.push_back(job),
            Self::OfOne(only, jobs) => {
                let mut several = FairQueue::of_key(*only, std::mem::take(jobs));
                several.push(key, job);
                *self = Self::OfSeveral(several);
            }
            Self::OfSeveral(jobs) => jobs.push(key, job),
        }
    }

    fn put_back(&mut self, key: K, job: J) {
        match self {
            Self::OfOne(only, jobs) if *only == key => jobs.push_front(job),
            // The key has no other job.
            Self::OfOne(..) => self.push(key, job),
            Self::OfSeveral(jobs) => jobs.put_back(key, job),
        }
    }

    fn pop(&mut self) -> Option<J> {
        match self {
            Self::OfOne(_, jobs) => jobs.pop_front(),
            Self::OfSeveral(jobs) => jobs.pop(),
        }
    }

    fn retain_of(&mut self, key: K, keep: impl FnMut(&J) -> bool) {
        match self {
            Self::OfOne(only, jobs) if *only == key => jobs.retain(keep),
            Self::OfOne(..) => {}
            Self::OfSeveral(jobs) => jobs.retain_of(key, keep),
        }
    }

    /// Takes the last job of the key with the most jobs; `None` if that has fewer than `jobs_min`.
    fn pop_of_longest(&mut self, jobs_min: usize) -> Option<J> {
        match self {
            Self::OfOne(_, jobs) if jobs.len() >= jobs_min => jobs.pop_back(),
            Self::OfOne(..) => None,
            Self::OfSeveral(jobs) => jobs.pop_of_longest(jobs_min),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a queue of these jobs, each with the name of its group, its key and a number.
    fn queue(jobs: &[&'static str]) -> GroupedQueue<&'static str, &'static str> {
        let mut queue = GroupedQueue::default();
        for job in jobs.iter().copied() {
            queue.push(&job[..1], &job[..2], job);
        }
        queue
    }

    fn is_empty(queue: &GroupedQueue<&str, &str>) -> bool {
        queue.is_empty() && queue.groups.is_empty() && queue.turns.is_empty()
    }

    fn has_table(queue: &GroupedQueue<&str, &str>, group: &str) -> bool {
        matches!(queue.groups.get(group), Some(GroupJobs::OfSeveral(_)))
    }

    #[test]
    fn groups_take_turns_and_so_do_their_keys() {
        let mut queue = queue(&["aa1", "aa2", "ab1", "ac1", "ba1", "ba2", "ca1"]);
        assert_eq!((queue.len(), queue.len_of("a", "aa"), queue.len_of("b", "aa")), (7, 2, 0));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["aa1", "ba1", "ca1", "ab1", "ba2", "ac1", "aa2"]);
        assert!(is_empty(&queue));
    }

    /// Each publish waits in such a queue, nearly always as the only key of its group.
    #[test]
    fn a_group_keeps_no_table_of_keys_for_its_only_one() {
        let mut queue = queue(&["aa1", "aa2", "ba1"]);
        assert!(!has_table(&queue, "a") && !has_table(&queue, "b"));
        assert_eq!((queue.len_of("a", "aa"), queue.len_of("a", "ab")), (2, 0));
        queue.push("a", "ab", "ab1");
        assert!(has_table(&queue, "a"));
        assert_eq!((queue.len_of("a", "aa"), queue.len_of("a", "ab")), (2, 1));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["aa1", "ba1", "ab1", "aa2"]);
        queue.push("a", "ab", "ab2");
        assert!(!has_table(&queue, "a"), "the group has begun anew");
    }

    #[test]
    fn a_job_that_is_put_back_goes_on_before_others_of_its_key_and_after_other_keys_and_groups() {
        let mut queue = queue(&["aa1", "aa2", "ba1"]);
        assert_eq!(queue.pop(), Some("aa1"));
        queue.push("a", "ab", "ab1");
        queue.put_back("a", "aa", "aa1");
        assert_eq!(queue.pop(), Some("ba1"));
        queue.put_back("b", "ba", "ba1");
        assert_eq!((queue.len(), queue.len_of("a", "aa")), (4, 2));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["aa1", "ba1", "ab1", "aa2"]);
        for job in ["aa1", "ab1"] {
            queue.put_back("a", &job[..2], job);
        }
        queue.put_back("a", "aa", "aa0");
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["aa0", "ab1", "aa1"]);
        assert!(is_empty(&queue));
    }

    #[test]
    fn the_largest_group_gives_way_however_few_jobs_its_keys_have() {
        let mut queue = queue(&["aa1", "ab1", "ac1", "ad1", "ba1", "ba2", "ba3"]);
        assert_eq!(queue.pop_for("b", "ba"), None, "a has one more");
        assert_eq!(queue.pop_for("b", "bb"), Some("ba3"), "the key with most of the own group");
        assert!(queue.pop_for("b", "ba").unwrap().starts_with('a'));
        assert!(queue.pop_for("c", "ca").unwrap().starts_with('a'));
        assert_eq!(queue.len(), 4);
        assert_eq!(queue.pop_for("a", "ae"), None, "its own group is as large as the other");
        while queue.pop_for("c", "ca").is_some() {}
        assert_eq!(queue.len(), 2, "one of each");
        while queue.pop().is_some() {}
        assert!(is_empty(&queue));
    }

    #[test]
    fn jobs_of_a_key_that_are_removed_take_the_turn_of_a_key_or_group_without_others() {
        let mut queue = queue(&["aa1", "aa2", "ab1", "ba1", "ca1"]);
        queue.retain_of("a", "ac", |_| false);
        queue.retain_of("d", "da", |_| false);
        queue.retain_of("b", "bb", |_| false);
        assert_eq!(queue.len(), 5, "they have no jobs");
        queue.retain_of("a", "aa", |job| *job == "aa2");
        queue.retain_of("a", "ab", |_| false);
        queue.retain_of("b", "ba", |_| false);
        assert_eq!((queue.len(), queue.len_of("a", "aa"), queue.len_of("b", "ba")), (2, 1, 0));
        queue.push("b", "ba", "ba2");
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["aa2", "ca1", "ba2"]);
        assert!(is_empty(&queue));
    }

    #[test]
    fn the_last_job_gives_way_only_to_a_group_or_key_with_two_fewer() {
        let mut queue = queue(&["aa1", "aa2"]);
        assert_eq!(queue.pop_for("a", "aa"), None);
        assert_eq!(queue.pop_for("b", "ba"), Some("aa2"));
        assert_eq!(queue.pop_for("a", "ab"), None);
        assert_eq!(queue.pop(), Some("aa1"));
        assert!(is_empty(&queue));
    }
}
