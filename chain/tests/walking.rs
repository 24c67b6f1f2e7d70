//! Tests of the reading order on a simulated chain with reorganisations and corrupt responses: the stored events have
//! to equal those of the final chain, in its order.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use alloy::primitives::{Address, B256, Bytes, FixedBytes, keccak256};
use alloy::rpc::types::Log;
use alloy::sol_types::SolEvent as _;
use hawser_chain::contracts::group_message_broadcaster::GroupMessageBroadcaster::MessageSent;
use hawser_chain::index::walk::{
    BlockHeader, PageOutcome, PageResponse, Walk, WalkAction, WalkSettings,
};
use hawser_chain::index::{BlockRef, ContractEvent, EventBatch, EventSource, IndexedEvent};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// The number of seeds of an ordinary run. HAWSER_SIM_SEEDS sets another one, and HAWSER_SEED selects a single seed.
const SEEDS: u64 = 300;
const CONTRACT: Address = Address::repeat_byte(7);

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    match number("HAWSER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HAWSER_SIM_SEEDS").unwrap_or(SEEDS),
    }
}

#[derive(Clone)]
struct Block {
    header: BlockHeader,
    /// Shared, because each disturbance keeps a copy of the whole chain.
    logs: Arc<Vec<Log>>,
}

/// A simulated chain that can be reorganised.
struct Chain {
    blocks: Vec<Block>,
    made: u64,
    /// The largest number of blocks so far.
    highest: usize,
}

impl Chain {
    fn new() -> Self {
        let mut chain = Self { blocks: Vec::new(), made: 0, highest: 0 };
        chain.mine(0);
        chain
    }

    fn head(&self) -> BlockRef {
        self.blocks.last().unwrap().header.block
    }

    fn next_sequence(&self) -> u64 {
        1 + self.blocks.iter().map(|block| block.logs.len() as u64).sum::<u64>()
    }

    fn mine(&mut self, events: u64) {
        self.made += 1;
        let number = self.blocks.len() as u64;
        let hash = keccak256([self.made.to_be_bytes(), number.to_be_bytes()].concat());
        let parent = self.blocks.last().map_or(B256::ZERO, |block| block.header.block.hash);
        let header = BlockHeader {
            block: BlockRef { number, hash },
            parent,
            time_s: 1000 + number,
            may_have_logs: events > 0,
        };
        let first = self.next_sequence();
        let log = |index| self.log(header, index, first + index);
        let logs: Vec<_> = (0..events).map(log).collect();
        self.blocks.push(Block { header, logs: Arc::new(logs) });
        self.highest = self.highest.max(self.blocks.len());
    }

    fn log(&self, header: BlockHeader, index: u64, sequence: u64) -> Log {
        let payload = keccak256([self.made.to_be_bytes(), sequence.to_be_bytes()].concat());
        let event = MessageSent {
            groupId: FixedBytes::repeat_byte(3),
            message: Bytes::copy_from_slice(payload.as_slice()),
            sequenceId: sequence,
        };
        Log {
            inner: alloy::primitives::Log { address: CONTRACT, data: event.encode_log_data() },
            block_hash: Some(header.block.hash),
            block_number: Some(header.block.number),
            block_timestamp: sequence.is_multiple_of(2).then_some(header.time_s),
            transaction_hash: Some(payload),
            transaction_index: Some(0),
            log_index: Some(index),
            removed: false,
        }
    }

    /// Removes blocks, but none deeper than `depth_max` below the highest head so far.
    fn take_back(&mut self, depth: usize, depth_max: usize) {
        let least = self.highest.saturating_sub(depth_max).max(1);
        let left = self.blocks.len().saturating_sub(depth).max(least);
        self.blocks.truncate(left);
    }

    fn headers(&self, numbers: &[u64]) -> Vec<BlockHeader> {
        let at = |number: &u64| self.blocks.get(usize::try_from(*number).unwrap());
        numbers.iter().filter_map(at).map(|block| block.header).collect()
    }

    fn logs(&self, blocks: &RangeInclusive<u64>) -> Vec<Log> {
        let inside = |block: &&Block| blocks.contains(&block.header.block.number);
        self.blocks.iter().filter(inside).flat_map(|block| block.logs.iter().cloned()).collect()
    }

    /// Returns block, index and sequence id of all events.
    fn events(&self) -> Vec<(BlockRef, u64, u64)> {
        let mut sequence = 0;
        let mut events = Vec::new();
        for block in &self.blocks {
            for log in &*block.logs {
                sequence += 1;
                events.push((block.header.block, log.log_index.unwrap(), sequence));
            }
        }
        events
    }

    /// Returns the chain's payloads by sequence id.
    fn payloads(&self) -> BTreeMap<u64, Bytes> {
        let logs = self.blocks.iter().flat_map(|block| block.logs.iter());
        let decoded = logs.map(|log| MessageSent::decode_log(&log.inner).unwrap().data);
        decoded.map(|event| (event.sequenceId, event.message)).collect()
    }
}

/// The stored events, with the latest payload of each sequence id.
#[derive(Default)]
struct Stored {
    latest: BTreeMap<u64, Bytes>,
    contradictions: u64,
    /// Block, index and sequence id of the valid events: each batch replaces all events from its first block on.
    standing: Vec<(BlockRef, u64, u64)>,
    position: Option<BlockRef>,
}

impl Stored {
    /// Returns false if an earlier event is missing.
    fn take(&mut self, batch: &EventBatch) -> bool {
        let place = |event: &IndexedEvent| (event.block.number, event.log_index);
        assert!(batch.events.is_sorted_by(|a, b| place(a) < place(b)), "in order, each once");
        let places = batch.events.iter().map(|event| match event.decoded {
            ContractEvent::Payload { sequence_id, .. } => sequence_id.0,
            ref other => panic!("nothing was paid, and no node moved: {other:?}"),
        });
        let mut last = self.latest.keys().next_back().copied().unwrap_or_default();
        for place in places {
            if place > last + 1 {
                return false;
            }
            last = last.max(place);
        }
        self.standing.retain(|(block, ..)| block.number < batch.from_block);
        for event in &batch.events {
            let ContractEvent::Payload { sequence_id, payload, .. } = &event.decoded else {
                panic!()
            };
            self.standing.push((event.block, event.log_index, sequence_id.0));
            assert_eq!(event.block_time_s, 1000 + event.block.number);
            let before = self.latest.insert(sequence_id.0, payload.clone());
            self.contradictions += u64::from(before.is_some_and(|before| before != *payload));
        }
        self.position = Some(batch.position);
        true
    }
}

struct Run {
    chain: Chain,
    /// The previous state of the chain, which a lagging endpoint may still serve.
    before: Vec<Block>,
    walk: Walk,
    stored: Stored,
    settings: WalkSettings,
    random: StdRng,
    range_max: u64,
}

impl Run {
    fn new(seed: u64, confirmations: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let settings = WalkSettings {
            source: EventSource::GroupMessages,
            address: CONTRACT,
            first_block: 0,
            page_blocks: random.random_range(1..200),
            confirmations,
        };
        let mut chain = Chain::new();
        for _ in 0..random.random_range(0..300) {
            chain.mine(random.random_range(0..4));
        }
        Self {
            before: chain.blocks.clone(),
            chain,
            walk: Walk::new(settings.clone(), None),
            stored: Stored::default(),
            settings,
            range_max: random.random_range(1..300),
            random,
        }
    }

    /// Changes the chain, or restarts the reader.
    fn disturb(&mut self, depth_max: usize) {
        self.before = self.chain.blocks.clone();
        match self.random.random_range(0..10) {
            0 => {
                let depth = self.random.random_range(1..=depth_max);
                self.chain.take_back(depth, depth_max);
                // The chain usually grows; sometimes the reader sees it while it is shorter.
                for _ in 0..self.random.random_range(0..depth + 3) {
                    self.chain.mine(self.random.random_range(0..3));
                }
            }
            1 => self.walk = Walk::new(self.settings.clone(), self.stored.position),
            2 => self.range_max = self.random.random_range(1..300),
            3 => (0..70).for_each(|_| self.chain.mine(0)),
            _ => self.chain.mine(self.random.random_range(0..3)),
        }
    }

    /// Runs one request.
    fn step(&mut self, honest: bool) -> bool {
        let lies = |run: &mut Self, one_in: u32| !honest && run.random.random_ratio(1, one_in);
        let old = lies(self, 8);
        let head = if old { self.before.last().unwrap().header.block } else { self.chain.head() };
        match self.walk.next(head) {
            WalkAction::Wait => return false,
            WalkAction::Headers(numbers) => {
                let headers = self.chain.headers(&numbers);
                self.walk.compared(&headers);
            }
            WalkAction::Page { blocks, .. } if blocks.end() - blocks.start() >= self.range_max => {
                let message = if self.random.random() {
                    let max = self.range_max + 1;
                    format!("eth_getLogs requests with up to a {max} block range")
                } else {
                    "query returned too much".into()
                };
                assert!(self.walk.refused(&message), "one block is never too much");
            }
            WalkAction::Page { blocks, headers } => {
                let mut logs = self.chain.logs(&blocks);
                let timeless = logs.iter().filter(|log| log.block_timestamp.is_none());
                let mut wanted: Vec<_> = timeless.filter_map(|log| log.block_number).collect();
                wanted.extend(headers);
                let mut headers = self.chain.headers(&wanted);
                if !honest {
                    self.spoil(&blocks, &mut logs, &mut headers);
                }
                if let PageOutcome::Accepted(batch) =
                    self.walk.answered(&blocks, PageResponse { logs, headers })
                {
                    let end = head.number.saturating_sub(self.settings.confirmations);
                    assert_eq!(batch.is_at_head, batch.position.number == end, "nothing is left");
                    if !self.stored.take(&batch) {
                        self.walk.rewind(0); // the sink reports a gap, and everything is read again
                    }
                }
            }
        }
        true
    }

    fn spoil(
        &mut self,
        blocks: &RangeInclusive<u64>,
        logs: &mut Vec<Log>,
        headers: &mut Vec<BlockHeader>,
    ) {
        let random = &mut self.random;
        if random.random_ratio(1, 2) {
            let again: Vec<_> =
                logs.iter().filter(|_| random.random_ratio(1, 3)).cloned().collect();
            logs.extend(again);
            logs.shuffle(random);
            headers.shuffle(random);
        }
        if random.random_ratio(1, 3) {
            let inside = |block: &&Block| blocks.contains(&block.header.block.number);
            let old = self.before.iter().filter(inside).flat_map(|it| it.logs.iter().cloned());
            logs.extend(old.map(|log| Log { removed: true, ..log }));
        }
        if let Some(log) = logs.first().cloned().filter(|_| random.random_ratio(1, 3)) {
            let mut other = log.clone();
            other.inner.address = Address::repeat_byte(8);
            let far = Log { block_number: Some(blocks.end() + 1), ..log.clone() };
            let pending = Log { block_hash: None, ..log };
            logs.extend([other, far, pending]);
        }
        if random.random_ratio(1, 6) {
            headers.pop();
        }
        // A missing event is noticed with the next one, unless that one is reverted later.
        if self.settings.confirmations > 0 && random.random_ratio(1, 6) {
            // One response mixes logs and headers of two branches.
            let inside = |block: &&Block| blocks.contains(&block.header.block.number);
            *logs =
                self.before.iter().filter(inside).flat_map(|it| it.logs.iter().cloned()).collect();
        }
    }

    fn settle(&mut self) {
        self.chain.mine(1);
        (0..=self.settings.confirmations).for_each(|_| self.chain.mine(0));
        // While the chain is shorter than before, a replaced block cannot be recognised.
        while self.chain.blocks.len() < self.chain.highest {
            self.chain.mine(0);
        }
        self.chain.mine(0);
        let mut steps = 0;
        while self.step(true) {
            steps += 1;
            assert!(steps < 20_000, "it comes to an end");
        }
    }
}

#[test]
fn stored_events_end_as_those_of_the_final_chain() {
    for seed in seeds() {
        let mut run = Run::new(seed, 0);
        for _ in 0..150 {
            run.disturb(12);
            for _ in 0..run.random.random_range(0..4) {
                run.step(false);
            }
        }
        run.settle();
        let wanted = run.chain.payloads();
        let got = run.stored.latest.iter().filter(|(place, _)| wanted.contains_key(place));
        let got: BTreeMap<_, _> = got.map(|(place, bytes)| (*place, bytes.clone())).collect();
        assert!(got == wanted, "seed {seed}");
        assert!(run.stored.standing == run.chain.events(), "seed {seed}");
    }
}

/// Events that are read after enough confirmations are never reverted.
#[test]
fn confirmed_events_are_never_taken_back() {
    for seed in seeds() {
        let mut run = Run::new(seed, 13);
        for _ in 0..150 {
            run.disturb(12);
            for _ in 0..run.random.random_range(0..4) {
                run.step(false);
            }
        }
        run.settle();
        assert_eq!(run.stored.contradictions, 0, "seed {seed}");
        assert!(run.stored.latest == run.chain.payloads(), "seed {seed}");
        assert!(run.stored.standing == run.chain.events(), "seed {seed}");
    }
}

#[test]
fn a_page_shrinks_to_the_providers_limit_and_grows_back() {
    let settings = WalkSettings {
        source: EventSource::GroupMessages,
        address: CONTRACT,
        first_block: 0,
        page_blocks: 500,
        confirmations: 0,
    };
    let mut walk = Walk::new(settings, None);
    assert!(walk.refused("eth_getLogs requests with up to a 101 block range"));
    assert_eq!(walk.page_blocks(), 100);
    assert!(walk.refused("Query timeout exceeded"));
    assert_eq!(walk.page_blocks(), 50);
    (0..5).for_each(|_| assert!(walk.refused("no")));
    assert_eq!(walk.page_blocks(), 1);
    assert!(!walk.refused("no"), "nothing is smaller than one block");
    let mut chain = Chain::new();
    (0..2000).for_each(|_| chain.mine(0));
    while let WalkAction::Page { blocks, headers } = walk.next(chain.head()) {
        let headers = chain.headers(&headers);
        let answer = PageResponse { logs: Vec::new(), headers };
        assert!(matches!(walk.answered(&blocks, answer), PageOutcome::Accepted(_)));
    }
    assert!(walk.page_blocks() > 64, "{}", walk.page_blocks());
}

/// A second header of one block would stand for another block of the page. Events that the endpoint leaves out there
/// would never be looked for at other endpoints.
#[test]
fn a_header_that_comes_twice_takes_no_block_out_of_the_recheck() {
    let settings = WalkSettings {
        source: EventSource::GroupMessages,
        address: CONTRACT,
        first_block: 0,
        page_blocks: 3,
        confirmations: 0,
    };
    let mut walk = Walk::new(settings, None);
    let mut chain = Chain::new();
    (0..200).for_each(|_| chain.mine(0));
    let WalkAction::Page { blocks, headers } = walk.next(chain.head()) else {
        panic!("nothing is read yet")
    };
    assert_eq!((&blocks, headers), (&(0..=2), vec![2]));
    let honest = chain.headers(&[0, 2]);
    let again = BlockHeader { time_s: 7, ..honest[0] };
    let answer = |headers| PageResponse { logs: Vec::new(), headers };
    let outcome = walk.answered(&blocks, answer(vec![honest[0], again, honest[1]]));
    assert!(matches!(outcome, PageOutcome::Retry(_)), "{outcome:?}");
    let outcome = walk.answered(&blocks, answer(honest));
    assert!(matches!(outcome, PageOutcome::Accepted(_)), "{outcome:?}");
    let unread = walk.unread();
    let due = walk.rechecks().due(chain.head().number, unread).unwrap();
    assert_eq!(due.blocks, 0..=2);
}

/// The second reading may come from an endpoint that leaves out events, which the recheck of the first one did not see.
/// Events without ids would then be lost for good.
#[test]
fn blocks_that_are_read_again_get_another_recheck() {
    fn read(walk: &mut Walk, chain: &Chain) -> u64 {
        while let WalkAction::Page { blocks, headers } = walk.next(chain.head()) {
            let answer = PageResponse { logs: Vec::new(), headers: chain.headers(&headers) };
            assert!(matches!(walk.answered(&blocks, answer), PageOutcome::Accepted(_)));
        }
        walk.unread()
    }
    let settings = WalkSettings {
        source: EventSource::PayerRegistry,
        address: CONTRACT,
        first_block: 0,
        page_blocks: 500,
        confirmations: 0,
    };
    let (mut walk, mut chain) = (Walk::new(settings, None), Chain::new());
    (0..40).for_each(|_| chain.mine(0));
    let unread = read(&mut walk, &chain);
    let due = |walk: &mut Walk| walk.rechecks().due(200, unread).map(|due| due.blocks);
    assert_eq!(due(&mut walk), Some(0..=40));
    walk.rechecks().end(&(0..=40));
    assert_eq!(due(&mut walk), None);
    walk.rewind(10);
    read(&mut walk, &chain);
    assert_eq!(due(&mut walk), Some(10..=40));
    walk.rewind(20);
    walk.rechecks().end(&(10..=40)); // the recheck was at what was read before
    read(&mut walk, &chain);
    assert_eq!(due(&mut walk), Some(10..=40));
}

/// The operator has set a later first block than the stored position, and all blocks from it on are replaced.
#[test]
fn a_position_below_the_first_block_does_not_take_reading_back_to_it() {
    fn page(walk: &mut Walk, chain: &Chain) -> PageOutcome {
        let WalkAction::Page { blocks, headers } = walk.next(chain.head()) else {
            panic!("there are unread blocks")
        };
        let answer = PageResponse { logs: Vec::new(), headers: chain.headers(&headers) };
        walk.answered(&blocks, answer)
    }
    let settings = WalkSettings {
        source: EventSource::PayerRegistry,
        address: CONTRACT,
        first_block: 30,
        page_blocks: 500,
        confirmations: 0,
    };
    let mut chain = Chain::new();
    (0..40).for_each(|_| chain.mine(0));
    let position = chain.blocks[5].header.block;
    let mut walk = Walk::new(settings, Some(position));
    assert!(matches!(page(&mut walk, &chain), PageOutcome::Accepted(_)));
    chain.take_back(15, 15);
    (0..20).for_each(|_| chain.mine(0));
    assert_eq!(page(&mut walk, &chain), PageOutcome::Reorganised);
    let WalkAction::Headers(numbers) = walk.next(chain.head()) else {
        panic!("the fork point is sought")
    };
    assert_eq!(walk.compared(&chain.headers(&numbers)), Some(11));
    walk.rewind(position.number + 1); // as the reader does
    assert_eq!(walk.unread(), 30);
    assert!(matches!(page(&mut walk, &chain), PageOutcome::Accepted(_)));
}

/// The contract has given the id away, so no later event fills the place, and the strand would wait for it for ever.
#[test]
fn a_log_without_readable_data_leaves_no_gap() {
    let settings = WalkSettings {
        source: EventSource::GroupMessages,
        address: CONTRACT,
        first_block: 1,
        page_blocks: 500,
        confirmations: 0,
    };
    let mut walk = Walk::new(settings, None);
    let mut chain = Chain::new();
    chain.mine(3);
    let WalkAction::Page { blocks, headers } = walk.next(chain.head()) else {
        panic!("nothing is read yet")
    };
    let (mut logs, headers) = (chain.logs(&blocks), chain.headers(&headers));
    logs[1].inner.data.data = Bytes::new();
    let mut unplaced = Log { log_index: Some(9), ..logs[1].clone() };
    unplaced.inner.data.topics_mut()[2] = B256::repeat_byte(1);
    logs.push(unplaced);
    let outcome = walk.answered(&blocks, PageResponse { logs, headers });
    let PageOutcome::Accepted(batch) = outcome else { panic!("{outcome:?}") };
    let read = batch.events.iter().map(|event| match &event.decoded {
        ContractEvent::Payload { sequence_id, payload, .. } => (sequence_id.0, payload.is_empty()),
        other => panic!("{other:?}"),
    });
    assert_eq!(read.collect::<Vec<_>>(), [(1, false), (2, true), (3, false)]);
    assert_eq!(walk.anomalies().undecodable, 1, "the one without an id is left out");
}
