//! Payloads, pauses and bootstraps in any order.

use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::broadcasters::{Broadcaster, broadcasters};
use crate::harness::actors::{Actor, actor, anyone};
use crate::harness::network::TestNetwork;

pub(super) async fn run(w: &TestNetwork, rng: &mut StdRng, steps: usize) {
    let bootstrapper = actor("bootstrapper");
    for it in broadcasters(w) {
        it.open_for(w, &bootstrapper).await;
        it.set_paused(w, false).await;
        let mut model = Model { it, last: 0, is_paused: false };
        for _ in 0..steps {
            match rng.random_range(0..10) {
                0 => model.toggle(w).await,
                1..4 => model.bootstrap(w, &bootstrapper, rng).await,
                _ => model.add(w, rng).await,
            }
        }
    }
}

/// A broadcaster, and the highest sequence number that it assigned.
struct Model {
    it: Broadcaster,
    last: u64,
    is_paused: bool,
}

impl Model {
    async fn toggle(&mut self, w: &TestNetwork) {
        self.is_paused = !self.is_paused;
        self.it.set_paused(w, self.is_paused).await;
    }

    async fn add(&mut self, w: &TestNetwork, rng: &mut StdRng) {
        let size = rng.random_range(70..300);
        let payload = vec![rng.random(); size];
        match w.try_send(self.it.add(&anyone(), 3, &payload)).await {
            Ok(receipt) => {
                assert!(!self.is_paused && size >= 78);
                self.last += 1;
                assert_eq!(self.it.sent(&receipt), [self.it.logged(3, &payload, self.last)]);
            }
            Err(refused) if self.is_paused => assert_eq!(refused.name(), Some("Paused")),
            Err(refused) => {
                assert!(size < 78);
                assert_eq!(refused.name(), Some("InvalidPayloadSize"));
            }
        }
    }

    async fn bootstrap(&mut self, w: &TestNetwork, by: &Actor, rng: &mut StdRng) {
        let numbers: Vec<u64> =
            (0..rng.random_range(1..5)).map(|_| rng.random_range(0..self.last + 20)).collect();
        let ids = vec![5; numbers.len()];
        match w.try_send(self.it.bootstrap(by, &ids, &numbers)).await {
            Ok(receipt) => {
                assert!(self.is_paused);
                let sent = self.it.sent(&receipt);
                let logged: Vec<u64> = sent.into_iter().map(|(_, _, number)| number).collect();
                assert_eq!(logged, numbers);
                self.last = numbers.into_iter().fold(self.last, u64::max);
            }
            Err(refused) => {
                assert!(!self.is_paused);
                assert_eq!(refused.name(), Some("NotPaused"));
            }
        }
    }
}
