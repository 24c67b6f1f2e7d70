//! Tests the nonce decisions against a simulated chain with two nodes, other senders, price changes, lost responses,
//! unspecific errors, and crashes. Every payload has to be mined once or refused.

mod lying;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use alloy::primitives::{B256, Bytes, keccak256};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::nonces::Nonces;
use super::record::{LiveSlot, LiveSlots, RecordEntry};
use super::slots::{
    AccountCounts, AccountState, DueTransaction, JobId, NoncePurpose, NonceQuery, NonceUse,
    SendOutcome, SignedTransaction, SlotOutcome, Timeouts,
};
use crate::admin::WeiPerGas;

const PAYLOADS: u64 = 40;
const IN_FLIGHT: usize = 8;
/// Delays after which receipts and other proofs of a nonce's use become visible: the usual bound,
/// and the bound of one in ten. Another one in ten never becomes visible.
const LAG_MS: u64 = 2000;
const LONG_LAG_MS: u64 = 60_000;

fn seen_at(now: u64, rng: &mut StdRng) -> u64 {
    match rng.random_range(0..10) {
        0 => u64::MAX,
        1 => now + rng.random_range(0..LONG_LAG_MS),
        _ => now + rng.random_range(0..LAG_MS),
    }
}

/// A transaction. Without a payload it is a filler, or comes from another sender.
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

    fn signed(&self) -> SignedTransaction {
        let is_filler = self.payload.is_none();
        let price = WeiPerGas(self.price);
        SignedTransaction { hash: self.hash(), price, raw: self.raw(), is_filler }
    }
}

/// Returns true if nodes refuse this payload.
fn is_spoilt(payload: u64) -> bool {
    payload % 10 == 7
}

/// A chain behind two nodes with a pool each.
#[derive(Debug, Default)]
struct SimulatedChain {
    /// By nonce, with the times from which its receipt and other proofs are visible.
    mined: Vec<(Tx, [u64; 2])>,
    pools: [BTreeMap<u64, Tx>; 2],
    head: u64,
    price: u128,
    /// True if nodes refuse transactions whose predecessors they lack.
    is_strict: bool,
    is_poor: bool,
    /// The answer of nodes to payloads that they refuse; `None` if they accept all.
    refusal: Option<SendOutcome>,
}

impl SimulatedChain {
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

    fn receive(&mut self, node: usize, tx: &Tx) -> SendOutcome {
        if tx.nonce < self.count() {
            return SendOutcome::NonceUsed;
        }
        if let Some(refusal) = self.refusal.clone()
            && tx.payload.is_some_and(is_spoilt)
        {
            return refusal;
        }
        if self.is_poor {
            return SendOutcome::Refused("insufficient funds".into());
        }
        if tx.price < self.price {
            return SendOutcome::TooCheap("underpriced".into());
        }
        if self.is_strict && tx.nonce > self.pending(node) {
            return SendOutcome::NonceAhead;
        }
        match self.pools[node].get(&tx.nonce) {
            Some(old) if old == tx => return SendOutcome::Accepted,
            Some(old) if tx.price * 10 < old.price * 11 => return SendOutcome::Underpriced,
            _ => {}
        }
        self.pools[node].insert(tx.nonce, tx.clone());
        SendOutcome::Accepted
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

    fn poll(&self, node: usize, now: u64, queries: &[NonceQuery]) -> AccountState {
        let used = queries.iter().filter(|query| query.nonce < self.count());
        let uses = used.map(|query| {
            let (tx, [receipt_at, shown_at]) = &self.mined[usize::try_from(query.nonce).unwrap()];
            let is_shown = query.seeks && *shown_at <= now;
            let found = match query.hashes.contains(&tx.hash()) {
                true if *receipt_at <= now || is_shown => NonceUse::Mined(tx.hash()),
                false if is_shown => NonceUse::Other(tx.hash()),
                _ => NonceUse::Unknown,
            };
            (query.clone(), found)
        });
        AccountState {
            asked_at: Duration::from_millis(now),
            counts: vec![AccountCounts {
                mined: self.count(),
                pending: Some(self.pending(node)),
                is_proven: false,
            }],
            asked: 1,
            head: self.head,
            uses: uses.collect(),
        }
    }
}

/// A process that sends payloads, with its callers.
struct Process {
    nonces: Nonces,
    jobs: HashMap<JobId, u64>,
    made: u64,
    /// The response of a poll that is under way.
    polled: Option<AccountState>,
}

struct Simulation {
    seed: u64,
    rng: StdRng,
    chain: SimulatedChain,
    process: Process,
    /// On disk, and written but not synced.
    record: Vec<RecordEntry>,
    unsynced: Vec<RecordEntry>,
    now_ms: u64,
    node: usize,
    /// Payloads whose callers wait, and those that were refused.
    wanted: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    /// Payloads that were given up as unknown.
    unknown: BTreeSet<u64>,
    faults: bool,
    /// True if one of two endpoints lies and no other sender uses the account.
    has_liar: bool,
    /// The answer of the one that lies to every transaction.
    lie: SendOutcome,
    /// True if the honest endpoint did not answer last time.
    was_gone: bool,
}

impl Process {
    fn new() -> Self {
        let nonces = Nonces::new(Timeouts::new(IN_FLIGHT));
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
        let chain = SimulatedChain {
            price: 100,
            is_strict: rng.random(),
            refusal: Some(SendOutcome::Unclear("not today".into())),
            ..SimulatedChain::default()
        };
        let mut simulation = Self {
            seed,
            rng,
            chain,
            process: Process::new(),
            record: Vec::new(),
            unsynced: Vec::new(),
            now_ms: 0,
            node: 0,
            wanted: (0..PAYLOADS).collect(),
            refused: BTreeSet::new(),
            unknown: BTreeSet::new(),
            faults: true,
            has_liar: false,
            lie: SendOutcome::Accepted,
            was_gone: false,
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

    /// Starts a new process from the record. A caller without an answer calls again, unless its payload is
    /// known to be in flight or on the chain.
    fn restart(&mut self) {
        let kept = self.rng.random_range(0..=self.unsynced.len());
        self.record.extend(self.unsynced.drain(..).take(kept));
        self.unsynced.clear();
        let mut live = LiveSlots::default();
        self.record.iter().for_each(|entry| live.apply(entry));
        self.process = Process::new();
        let mut known: BTreeSet<u64> =
            self.chain.mined.iter().filter_map(|(tx, _)| tx.payload).collect();
        for (slot, LiveSlot { nonce, raws }) in live.0 {
            let signed = raws.iter().map(|raw| {
                let tx = Tx::read(raw);
                tx.signed()
            });
            let signed: Vec<SignedTransaction> = signed.collect();
            let purpose = match Tx::read(&raws[0]).payload {
                Some(payload) => {
                    known.insert(payload);
                    NoncePurpose::Payload(self.process.job(payload))
                }
                None => NoncePurpose::Filler,
            };
            self.process.nonces.recover(slot, nonce, purpose, signed);
        }
        for payload in self.wanted.clone() {
            if !known.contains(&payload) {
                let job = self.process.job(payload);
                self.process.nonces.submit(job);
            }
        }
    }

    fn done(&mut self, done: Option<SlotOutcome>) {
        match done {
            None => {}
            Some(SlotOutcome::Mined { slot, purpose, .. }) => {
                self.unsynced.push(RecordEntry::Over { slot });
                if let NoncePurpose::Payload(job) = purpose {
                    self.wanted.remove(&self.process.jobs[&job]);
                }
            }
            Some(SlotOutcome::Refused { slot, job, .. }) => {
                self.record.append(&mut self.unsynced);
                self.record.push(RecordEntry::Over { slot });
                let payload = self.process.jobs[&job];
                self.wanted.remove(&payload);
                self.refused.insert(payload);
            }
            Some(SlotOutcome::Void { slot }) => self.unsynced.push(RecordEntry::Over { slot }),
            Some(SlotOutcome::Unknown { slot, job, .. }) => {
                self.unsynced.push(RecordEntry::Over { slot });
                let payload = self.process.jobs[&job];
                self.wanted.remove(&payload);
                self.unknown.insert(payload);
            }
        }
    }

    /// Signs and records; `false` after a crash.
    fn sign(&mut self) -> bool {
        let mut signed = Vec::new();
        for it in self.process.nonces.assign() {
            let payload = match it.purpose {
                NoncePurpose::Payload(job) => Some(self.process.jobs[&job]),
                NoncePurpose::Filler => None,
            };
            let price = it.price_min.0.max(self.chain.price);
            let tx = Tx { nonce: it.nonce, payload, price, is_foreign: false };
            signed.push((it, tx.signed()));
        }
        if signed.is_empty() {
            return true;
        }
        let entries = signed.iter().map(|(it, signed)| RecordEntry::Signed {
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
            let agreed = WeiPerGas(self.chain.price);
            self.process.nonces.signed(it.nonce, signed, agreed, self.now());
        }
        true
    }

    /// Sends one transaction; `false` after a crash.
    fn send(&mut self) -> bool {
        let due = self.process.nonces.due(self.now());
        let Some(DueTransaction { nonce, signed, recipients, .. }) = due else { return true };
        if self.has_liar {
            let outcome = self.sent_beside_liar(&Tx::read(&signed.raw), recipients);
            if self.chance(3) {
                return false;
            }
            let done = self.process.nonces.sent(nonce, outcome, self.now());
            self.done(done);
            return true;
        }
        if self.chance(5) {
            let done = self.process.nonces.sent(nonce, SendOutcome::Lost, self.now());
            self.done(done);
            self.node = 1 - self.node;
            return true;
        }
        let mut outcome = self.chain.receive(self.node, &Tx::read(&signed.raw));
        if self.chance(3) {
            return false;
        }
        if self.chance(5) {
            outcome = if outcome == SendOutcome::Accepted {
                SendOutcome::Lost
            } else {
                SendOutcome::Later
            };
        }
        let done = self.process.nonces.sent(nonce, outcome, self.now());
        self.done(done);
        true
    }

    fn look(&mut self) {
        let polled = match self.process.polled.take() {
            Some(polled) => polled,
            None => {
                let queries = self.process.nonces.queries(self.now());
                let mut polled = self.chain.poll(self.node, self.now_ms, &queries);
                if self.has_liar {
                    polled = self.lied(polled, queries);
                }
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

    /// Simulates events outside the process.
    fn disturb(&mut self) {
        if self.chance(2) {
            self.node = 1 - self.node;
        }
        if !self.has_liar && self.chance(3) {
            let node = self.rng.random_range(0..2);
            let nonce = self.chain.pending(node);
            let price = self.chain.price * 2;
            let tx = Tx { nonce, payload: None, price, is_foreign: true };
            self.chain.receive(node, &tx);
        }
        if self.chance(3) {
            let node = self.rng.random_range(0..2);
            let forgotten = self.rng.random_range(0..=4);
            for _ in 0..forgotten {
                self.chain.pools[node].pop_last();
            }
        }
        if self.chance(2) {
            self.chain.price = self.rng.random_range(50..2000);
        }
        if !self.has_liar && self.chance(1) {
            self.chain.is_poor = !self.chain.is_poor;
        }
    }

    fn step(&mut self) {
        self.now_ms += self.rng.random_range(0..300);
        self.disturb();
        let goes_on = match self.rng.random_range(0..10) {
            0..4 => self.sign() && self.send(),
            4..7 => {
                self.look();
                true
            }
            _ => {
                let (node, most) = (self.rng.random_range(0..2), self.rng.random_range(0..4));
                let now = self.now_ms;
                self.chain.mine(node, most, now, &mut self.rng);
                true
            }
        };
        if !goes_on || self.chance(1) {
            self.restart();
        }
    }

    /// Runs to the end and returns the mined transactions.
    fn run(mut self) -> Vec<(Tx, [u64; 2])> {
        for _ in 0..1500 {
            self.step();
        }
        self.faults = false;
        self.chain.is_poor = false;
        // This process does not replace another sender's transaction that stays too cheap; nodes drop it.
        let price = self.chain.price;
        for pool in &mut self.chain.pools {
            pool.retain(|_, tx| !tx.is_foreign || tx.price >= price);
        }
        for _ in 0..20_000 {
            if self.wanted.is_empty() && self.process.nonces.is_idle() {
                break;
            }
            self.step();
            if self.wanted.is_empty() {
                continue;
            }
            // A caller that lost its answer in a crash learns the outcome from the chain.
            let mined = self.chain.mined.iter().filter_map(|(tx, _)| tx.payload);
            let mined: BTreeSet<u64> = mined.collect();
            let under_way: BTreeSet<u64> = self.process.jobs.values().copied().collect();
            self.wanted.retain(|it| !mined.contains(it) || under_way.contains(it));
        }
        let is_told = !self.has_liar || self.wanted.is_empty();
        assert!(is_told, "callers wait; seed {}; {:?}", self.seed, self.process.nonces);
        let mut times: BTreeMap<u64, u32> = BTreeMap::new();
        for payload in self.chain.mined.iter().filter_map(|(tx, _)| tx.payload) {
            *times.entry(payload).or_default() += 1;
        }
        for payload in 0..PAYLOADS {
            let expected = u32::from(!self.refused.contains(&payload));
            let found = times.get(&payload).copied().unwrap_or_default();
            let is_taken = self.chain.refusal.is_none() || !is_spoilt(payload);
            assert!(is_taken || found == 0, "nodes refuse it; seed {}", self.seed);
            if self.unknown.contains(&payload) && found == 0 {
                continue;
            }
            // An endpoint that calls everything too cheap may also have a good payload given up.
            let is_certain = self.has_liar && !matches!(self.lie, SendOutcome::TooCheap(_));
            assert!(!is_certain || !is_taken || expected == 1, "it is good; seed {}", self.seed);
            assert_eq!(
                found, expected,
                "payload {payload}; seed {}; {:?}",
                self.seed, self.process.nonces
            );
        }
        self.chain.mined
    }
}

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("HAWSER_TEST_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..1500,
    }
}

#[test]
fn every_payload_is_mined_once_through_failures_and_crashes() {
    for seed in seeds() {
        Simulation::new(seed).run();
    }
}
