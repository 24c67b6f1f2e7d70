//! The nonces against a chain that does whatever chains do, with crashes in between: every payload
//! is mined once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use alloy::primitives::{B256, Bytes, keccak256};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::nonces::{
    Done, Found, JobId, Look, Nonces, Patience, Polled, Sent, Signed, Work, replacing,
};
use super::record::{Entry, Live};

const PAYLOADS: u64 = 40;
const IN_FLIGHT: usize = 8;
/// Most receipts are known at most so long after their block, some much later, some never; so it
/// is with whatever else shows who has used a nonce.
const LAG_MS: u64 = 2000;
const LONG_LAG_MS: u64 = 60_000;

fn seen_at(now: u64, rng: &mut StdRng) -> u64 {
    match rng.random_range(0..10) {
        0 => u64::MAX,
        1 => now + rng.random_range(0..LONG_LAG_MS),
        _ => now + rng.random_range(0..LAG_MS),
    }
}

/// A transaction. Without a payload it is a filler, or somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tx {
    nonce: u64,
    payload: Option<u64>,
    price: u128,
    is_foreign: bool,
}

impl Tx {
    fn raw(&self) -> Bytes {
        let payload = self.payload.unwrap_or(u64::MAX);
        [&self.nonce.to_be_bytes()[..], &payload.to_be_bytes(), &self.price.to_be_bytes()]
            .concat()
            .into()
    }

    fn read(raw: &[u8]) -> Self {
        let word = |at: usize| u64::from_be_bytes(raw[at..at + 8].try_into().unwrap());
        let payload = Some(word(8)).filter(|payload| *payload != u64::MAX);
        let price = u128::from_be_bytes(raw[16..].try_into().unwrap());
        Self { nonce: word(0), payload, price, is_foreign: false }
    }

    fn hash(&self) -> B256 {
        keccak256([&self.raw()[..], &[u8::from(self.is_foreign)]].concat())
    }
}

/// The chain behind two nodes, of which each has a pool of its own.
#[derive(Debug, Default)]
struct World {
    /// By nonce, with the times from which on the receipt is known, and what it did.
    mined: Vec<(Tx, [u64; 2])>,
    pools: [BTreeMap<u64, Tx>; 2],
    head: u64,
    price: u128,
    /// Whether nodes refuse what comes before its predecessors.
    is_strict: bool,
    is_poor: bool,
}

impl World {
    fn count(&self) -> u64 {
        self.mined.len() as u64
    }

    fn pending(&self, node: usize) -> u64 {
        let mut pending = self.count();
        while self.pools[node].contains_key(&pending) {
            pending += 1;
        }
        pending
    }

    fn receive(&mut self, node: usize, tx: &Tx) -> Sent {
        if tx.nonce < self.count() {
            return Sent::NonceUsed;
        }
        if self.is_poor {
            return Sent::Refused("insufficient funds".into());
        }
        if tx.price < self.price {
            return Sent::TooCheap("underpriced".into());
        }
        if self.is_strict && tx.nonce > self.pending(node) {
            return Sent::NonceAhead;
        }
        match self.pools[node].get(&tx.nonce) {
            Some(old) if old == tx => return Sent::Taken,
            Some(old) if tx.price * 10 < old.price * 11 => return Sent::Underpriced,
            _ => {}
        }
        self.pools[node].insert(tx.nonce, tx.clone());
        Sent::Taken
    }

    fn mine(&mut self, node: usize, most: u64, now: u64, rng: &mut StdRng) {
        self.head += 1;
        for _ in 0..most {
            let next = self.count();
            let Some(tx) = self.pools[node].get(&next).filter(|tx| tx.price >= self.price) else {
                break;
            };
            self.mined.push((tx.clone(), [seen_at(now, rng), seen_at(now, rng)]));
        }
        let count = self.count();
        self.pools.iter_mut().for_each(|pool| pool.retain(|nonce, _| *nonce >= count));
    }

    fn poll(&self, node: usize, now: u64, watched: &[Look]) -> Polled {
        let used = watched.iter().filter(|look| look.nonce < self.count());
        let found = used.map(|look| {
            let (tx, [receipt_at, shown_at]) = &self.mined[usize::try_from(look.nonce).unwrap()];
            let is_shown = look.seeks && *shown_at <= now;
            let found = match look.hashes.contains(&tx.hash()) {
                true if *receipt_at <= now || is_shown => Found::Mined(tx.hash()),
                false if is_shown => Found::Other(tx.hash()),
                _ => Found::Nothing,
            };
            (look.clone(), found)
        });
        Polled {
            asked_at: Duration::from_millis(now),
            mined: self.count(),
            pending: Some(self.pending(node)),
            head: self.head,
            found: found.collect(),
        }
    }
}

/// A process that sends payloads, and those who want it to.
struct Process {
    nonces: Nonces,
    jobs: HashMap<JobId, u64>,
    made: u64,
    /// What a poll found, on its way.
    polled: Option<Polled>,
}

struct Simulation {
    seed: u64,
    rng: StdRng,
    world: World,
    process: Process,
    /// On disk, and written but not synced.
    record: Vec<Entry>,
    unsynced: Vec<Entry>,
    now_ms: u64,
    node: usize,
    /// Payloads that nobody has answered yet, and those that were refused.
    wanted: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    /// Nobody found out what became of these.
    unknown: BTreeSet<u64>,
    faults: bool,
}

impl Process {
    fn new() -> Self {
        let nonces = Nonces::new(Patience::new(IN_FLIGHT));
        Self { nonces, jobs: HashMap::new(), made: 0, polled: None }
    }

    fn job(&mut self, payload: u64) -> JobId {
        self.made += 1;
        self.jobs.insert(JobId(self.made), payload);
        JobId(self.made)
    }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let world = World { price: 100, is_strict: rng.random(), ..World::default() };
        let mut simulation = Self {
            seed,
            rng,
            world,
            process: Process::new(),
            record: Vec::new(),
            unsynced: Vec::new(),
            now_ms: 0,
            node: 0,
            wanted: (0..PAYLOADS).collect(),
            refused: BTreeSet::new(),
            unknown: BTreeSet::new(),
            faults: true,
        };
        simulation.restart();
        simulation
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.faults && self.rng.random_range(0..100) < percent
    }

    /// A new process takes up the record. Who got no answer asks again, unless the payload is
    /// known to be under way or on the chain.
    fn restart(&mut self) {
        let kept = self.rng.random_range(0..=self.unsynced.len());
        self.record.extend(self.unsynced.drain(..).take(kept));
        self.unsynced.clear();
        let mut live = Live::default();
        self.record.iter().for_each(|entry| live.apply(entry));
        self.process = Process::new();
        let mut known: BTreeSet<u64> =
            self.world.mined.iter().filter_map(|(tx, _)| tx.payload).collect();
        for (slot, (nonce, raws)) in live.0 {
            let signed = raws.iter().map(|raw| {
                let tx = Tx::read(raw);
                Signed { hash: tx.hash(), price: tx.price, raw: raw.clone() }
            });
            let signed: Vec<Signed> = signed.collect();
            let work = match Tx::read(&raws[0]).payload {
                Some(payload) => {
                    known.insert(payload);
                    Work::Payload(self.process.job(payload))
                }
                None => Work::Filler,
            };
            self.process.nonces.recover(slot, nonce, work, signed);
        }
        for payload in self.wanted.clone() {
            if !known.contains(&payload) {
                let job = self.process.job(payload);
                self.process.nonces.submit(job);
            }
        }
    }

    fn done(&mut self, done: Option<Done>) {
        match done {
            None => {}
            Some(Done::Mined { slot, work, .. }) => {
                self.unsynced.push(Entry::Over { slot });
                if let Work::Payload(job) = work {
                    self.wanted.remove(&self.process.jobs[&job]);
                }
            }
            Some(Done::Refused { slot, job, .. }) => {
                self.record.append(&mut self.unsynced);
                self.record.push(Entry::Over { slot });
                let payload = self.process.jobs[&job];
                self.wanted.remove(&payload);
                self.refused.insert(payload);
            }
            Some(Done::Void { slot }) => self.unsynced.push(Entry::Over { slot }),
            Some(Done::Unknown { slot, job, .. }) => {
                self.unsynced.push(Entry::Over { slot });
                let payload = self.process.jobs[&job];
                self.wanted.remove(&payload);
                self.unknown.insert(payload);
            }
        }
    }

    /// Signs and records; `false` after a crash.
    fn sign(&mut self) -> bool {
        let mut signed = Vec::new();
        for it in self.process.nonces.hand_out() {
            let payload = match it.work {
                Work::Payload(job) => Some(self.process.jobs[&job]),
                Work::Filler => None,
            };
            let price = it.over.map_or(0, replacing).max(self.world.price);
            let tx = Tx { nonce: it.nonce, payload, price, is_foreign: false };
            signed.push((it, Signed { hash: tx.hash(), price, raw: tx.raw() }));
        }
        if signed.is_empty() {
            return true;
        }
        let entries = signed.iter().map(|(it, signed)| Entry::Signed {
            slot: it.slot,
            instead_of: it.instead_of,
            nonce: it.nonce,
            raw: signed.raw.clone(),
        });
        self.unsynced.extend(entries);
        if self.chance(3) {
            return false;
        }
        self.record.append(&mut self.unsynced);
        if self.chance(3) {
            return false;
        }
        for (it, signed) in signed.into_iter().rev() {
            self.process.nonces.signed(it.nonce, signed, self.now());
        }
        true
    }

    /// Sends one transaction; `false` after a crash.
    fn send(&mut self) -> bool {
        let Some((nonce, signed)) = self.process.nonces.due(self.now()) else { return true };
        if self.chance(5) {
            let done = self.process.nonces.sent(nonce, Sent::Lost, self.now());
            self.done(done);
            self.node = 1 - self.node;
            return true;
        }
        let mut said = self.world.receive(self.node, &Tx::read(&signed.raw));
        if self.chance(3) {
            return false;
        }
        if self.chance(5) {
            said = if said == Sent::Taken { Sent::Lost } else { Sent::Later };
        }
        let done = self.process.nonces.sent(nonce, said, self.now());
        self.done(done);
        true
    }

    fn look(&mut self) {
        let polled = match self.process.polled.take() {
            Some(polled) => polled,
            None => {
                let watched = self.process.nonces.watched(self.now());
                let polled = self.world.poll(self.node, self.now_ms, &watched);
                if self.chance(50) {
                    self.process.polled = Some(polled);
                    return;
                }
                polled
            }
        };
        for done in self.process.nonces.polled(&polled, self.now()) {
            self.done(Some(done));
        }
    }

    /// What nobody here has a hand in.
    fn live_on(&mut self) {
        if self.chance(2) {
            self.node = 1 - self.node;
        }
        if self.chance(3) {
            let node = self.rng.random_range(0..2);
            let nonce = self.world.pending(node);
            let price = self.world.price * 2;
            let tx = Tx { nonce, payload: None, price, is_foreign: true };
            self.world.receive(node, &tx);
        }
        if self.chance(3) {
            let node = self.rng.random_range(0..2);
            let forgotten = self.rng.random_range(0..=4);
            for _ in 0..forgotten {
                self.world.pools[node].pop_last();
            }
        }
        if self.chance(2) {
            self.world.price = self.rng.random_range(50..2000);
        }
        if self.chance(1) {
            self.world.is_poor = !self.world.is_poor;
        }
    }

    fn step(&mut self) {
        self.now_ms += self.rng.random_range(0..300);
        self.live_on();
        let goes_on = match self.rng.random_range(0..10) {
            0..4 => self.sign() && self.send(),
            4..7 => {
                self.look();
                true
            }
            _ => {
                let (node, most) = (self.rng.random_range(0..2), self.rng.random_range(0..4));
                let now = self.now_ms;
                self.world.mine(node, most, now, &mut self.rng);
                true
            }
        };
        if !goes_on || self.chance(1) {
            self.restart();
        }
    }

    fn run(mut self) {
        for _ in 0..1500 {
            self.step();
        }
        self.faults = false;
        self.world.is_poor = false;
        for _ in 0..20_000 {
            if self.wanted.is_empty() && self.process.nonces.is_idle() {
                break;
            }
            self.step();
            if self.wanted.is_empty() {
                continue;
            }
            // Whose answer was lost in a crash learns from the chain.
            let mined = self.world.mined.iter().filter_map(|(tx, _)| tx.payload);
            let mined: BTreeSet<u64> = mined.collect();
            let under_way: BTreeSet<u64> = self.process.jobs.values().copied().collect();
            self.wanted.retain(|it| !mined.contains(it) || under_way.contains(it));
        }
        let mut times: BTreeMap<u64, u32> = BTreeMap::new();
        for payload in self.world.mined.iter().filter_map(|(tx, _)| tx.payload) {
            *times.entry(payload).or_default() += 1;
        }
        for payload in 0..PAYLOADS {
            let expected = u32::from(!self.refused.contains(&payload));
            let found = times.get(&payload).copied().unwrap_or_default();
            if self.unknown.contains(&payload) && found == 0 {
                continue;
            }
            assert_eq!(
                found, expected,
                "payload {payload}; seed {}; {:?}",
                self.seed, self.process.nonces
            );
        }
    }
}

#[test]
fn every_payload_is_mined_once_whatever_happens() {
    let seeds = match std::env::var("HAWSER_TEST_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..1500,
    };
    for seed in seeds {
        Simulation::new(seed).run();
    }
}
