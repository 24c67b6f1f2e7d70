//! The contract wallets that have agreed to updates which still wait for others.
//!
//! An update may have thousands of wallets, which are asked a few at a time, and all of them have to have agreed when
//! it is decided. The cache of answers has no room for those of many such updates at once. Without a memory of their
//! own, their authors would pay gas once, and nodes would ask the same wallets again and again without an end.

use std::collections::HashMap;
use std::sync::Arc;

use hawser_mls::identity::CheckedChange;
use hawser_proto::{Digest, InboxId, SequenceId};
use parking_lot::Mutex;

/// Words of 64 bits in one number of the memory.
const WORD_BITS: usize = 64;
/// The weight of an update besides its bits, in words. Calculated: its name, and its entry in the map.
const UPDATE_WORDS: usize = 16;
/// The maximum number of words of all updates together: 16 MiB. A guess: an update of the greatest length has some 40
/// words, for gas of more than a second of the chain. Those of further updates are left to the cache of answers.
const WORDS_MAX: usize = (16 << 20) / 8;

/// The name of a waiting update: its inbox, its place, and the digest that its wallets sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WaitingName {
    inbox: InboxId,
    at: SequenceId,
    digest: Digest,
}

impl WaitingName {
    /// Returns the name of an update; `None` if no wallet signs it.
    pub(crate) fn of(inbox: InboxId, at: SequenceId, change: &CheckedChange) -> Option<Self> {
        Some(Self { inbox, at, digest: change.digest()? })
    }
}

/// The wallets that have agreed to one update, by the indices of its questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgreedWallets {
    questions: usize,
    bits: Vec<u64>,
}

impl AgreedWallets {
    /// Returns that none has agreed to an update with this number of questions.
    pub(crate) fn none(questions: usize) -> Self {
        Self { questions, bits: vec![0; questions.div_ceil(WORD_BITS)] }
    }

    /// Returns true if the wallet of this question has agreed.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.bits.get(index / WORD_BITS).is_some_and(|word| (word >> (index % WORD_BITS)) & 1 == 1)
    }

    /// Records that the wallet of this question has agreed.
    pub(crate) fn add(&mut self, index: usize) {
        if let Some(word) = self.bits.get_mut(index / WORD_BITS) {
            *word |= 1 << (index % WORD_BITS);
        }
    }

    fn weight_words(&self) -> usize {
        self.bits.len() + UPDATE_WORDS
    }
}

/// The memory of all waiting updates. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct AgreedMemory(Arc<Mutex<AgreedUpdates>>);

#[derive(Debug, Default)]
struct AgreedUpdates {
    by_name: HashMap<WaitingName, AgreedWallets>,
    /// Sum of the weights.
    words: usize,
}

impl AgreedMemory {
    /// Removes and returns the wallets that have agreed to an update with this number of questions.
    pub(crate) fn take(&self, update: WaitingName, questions: usize) -> AgreedWallets {
        let mut memory = self.0.lock();
        let agreed = memory.by_name.remove(&update);
        memory.words -= agreed.as_ref().map_or(0, AgreedWallets::weight_words);
        let same = agreed.filter(|agreed| agreed.questions == questions);
        same.unwrap_or_else(|| AgreedWallets::none(questions))
    }

    /// Keeps the wallets that have agreed to an update, if any and if there is room.
    pub(crate) fn put(&self, update: WaitingName, agreed: AgreedWallets) {
        let mut memory = self.0.lock();
        let words = memory.words + agreed.weight_words();
        if words > WORDS_MAX || agreed.bits.iter().all(|word| *word == 0) {
            return;
        }
        memory.words = words;
        if let Some(replaced) = memory.by_name.insert(update, agreed) {
            memory.words -= replaced.weight_words();
        }
    }

    /// Forgets all updates.
    pub(crate) fn clear(&self) {
        *self.0.lock() = AgreedUpdates::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(at: u64) -> WaitingName {
        WaitingName { inbox: InboxId([1; 32]), at: SequenceId(at), digest: Digest([2; 32]) }
    }

    #[test]
    fn wallets_that_agreed_are_known_until_their_update_is_decided() {
        let memory = AgreedMemory::default();
        let mut agreed = memory.take(name(1), 130);
        assert_eq!(agreed, AgreedWallets::none(130));
        for index in [0, 63, 64, 129] {
            agreed.add(index);
        }
        memory.put(name(1), agreed.clone());
        assert_eq!(memory.take(name(2), 130), AgreedWallets::none(130), "another update");
        assert_eq!(memory.take(name(1), 130), agreed);
        let has: Vec<usize> = (0..200).filter(|index| agreed.has(*index)).collect();
        assert_eq!(has, [0, 63, 64, 129]);
        assert_eq!(memory.take(name(1), 130), AgreedWallets::none(130), "it was taken");
        memory.put(name(1), agreed);
        assert_eq!(memory.take(name(1), 131), AgreedWallets::none(131), "another number");
        assert_eq!(memory.0.lock().words, 0);
    }

    #[test]
    fn the_memory_is_bounded_and_empty_ones_take_none() {
        let memory = AgreedMemory::default();
        memory.put(name(0), AgreedWallets::none(9));
        assert!(memory.0.lock().by_name.is_empty());
        let mut large = AgreedWallets::none(WORDS_MAX / 2 * WORD_BITS);
        large.add(7);
        for at in 0..3 {
            memory.put(name(at), large.clone());
        }
        let kept = memory.0.lock().by_name.len();
        assert_eq!(kept, 1);
        memory.put(name(0), large.clone()); // no room beside itself
        assert_eq!(memory.take(name(0), large.questions), large);
        memory.put(name(5), large);
        memory.clear();
        assert_eq!(memory.0.lock().words, 0);
        assert!(memory.0.lock().by_name.is_empty());
    }
}
