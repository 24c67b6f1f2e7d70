//! A cable between two nodes that can be cut: one way in, everything passed on, or nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinSet};

/// The largest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// Passes datagrams between whoever dials [`Cable::address`] and one port of this machine.
/// Dropping it cuts it for good.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    state: Arc<State>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct State {
    cut: AtomicBool,
    passed: AtomicU64,
}

impl Cable {
    /// Lays a cable to `target`.
    pub async fn to(target: SocketAddr) -> Self {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = front.local_addr().unwrap();
        let state = Arc::new(State::default());
        let task = tokio::spawn(pass(Arc::new(front), target, state.clone())).abort_handle();
        Self { address, state, task }
    }

    /// The end to dial.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing arrives, in either direction; nobody is told.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
    }

    /// From now on everything arrives.
    pub fn mend(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }

    /// How many datagrams have been passed on so far.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.state.passed.load(Ordering::SeqCst)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    /// Passes one datagram on. One that cannot be sent is lost, as on any cable.
    async fn send(&self, from: &UdpSocket, datagram: &[u8], to: SocketAddr) {
        if !self.cut.load(Ordering::SeqCst) {
            self.passed.fetch_add(1, Ordering::SeqCst);
            let _ = from.send_to(datagram, to).await;
        }
    }
}

/// Each dialler gets a socket of its own towards the target, as behind an address translator.
async fn pass(front: Arc<UdpSocket>, target: SocketAddr, state: Arc<State>) {
    let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut returning = JoinSet::new();
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((len, dialler)) = front.recv_from(&mut datagram).await else { continue };
        let back = match backs.entry(dialler) {
            Entry::Occupied(back) => back.into_mut(),
            Entry::Vacant(place) => {
                let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
                returning.spawn(pass_back(back.clone(), front.clone(), dialler, state.clone()));
                place.insert(back)
            }
        };
        state.send(back, &datagram[..len], target).await;
    }
}

async fn pass_back(
    back: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    dialler: SocketAddr,
    state: Arc<State>,
) {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((len, _)) = back.recv_from(&mut datagram).await else { continue };
        state.send(&front, &datagram[..len], dialler).await;
    }
}
