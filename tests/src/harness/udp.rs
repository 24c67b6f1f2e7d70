//! A cable between two nodes that can be cut: one way in, everything passed on, or nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinSet};

/// The largest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// Passes datagrams between peers that dial [`Cable::address`] and one port of this machine.
/// Dropping it cuts it for good.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    state: Arc<Mutex<CableState>>,
    task: AbortHandle,
}

/// Behind one lock, so that after a cut nothing more is counted as passed.
#[derive(Debug, Default)]
struct CableState {
    is_cut: bool,
    passed: u64,
}

impl Cable {
    /// Lays a cable to `target`.
    pub async fn to(target: SocketAddr) -> Self {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self::of(front, target)
    }

    /// Lays a cable from a port of this machine, if that is free.
    pub async fn from(front: SocketAddr, target: SocketAddr) -> Option<Self> {
        Some(Self::of(UdpSocket::bind(front).await.ok()?, target))
    }

    fn of(front: UdpSocket, target: SocketAddr) -> Self {
        let address = front.local_addr().unwrap();
        let state = Arc::<Mutex<CableState>>::default();
        let task = tokio::spawn(pass(Arc::new(front), target, state.clone())).abort_handle();
        Self { address, state, task }
    }

    /// The end to dial.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drops all datagrams from now on, in both directions, without a sign to either side.
    pub fn cut(&self) {
        self.state.lock().is_cut = true;
    }

    /// From now on everything arrives.
    pub fn mend(&self) {
        self.state.lock().is_cut = false;
    }

    /// Returns the count of datagrams that were passed on.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.state.lock().passed
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes one datagram on. One that cannot be sent is lost, as on any cable.
async fn send(state: &Mutex<CableState>, from: &UdpSocket, datagram: &[u8], to: SocketAddr) {
    if take(&mut state.lock()) {
        let _ = from.send_to(datagram, to).await;
    }
}

/// Returns true while datagrams get through.
fn take(state: &mut CableState) -> bool {
    state.passed += u64::from(!state.is_cut);
    !state.is_cut
}

/// Each dialler gets a socket of its own towards the target, as behind an address translator.
async fn pass(front: Arc<UdpSocket>, target: SocketAddr, state: Arc<Mutex<CableState>>) {
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
        send(&state, back, &datagram[..len], target).await;
    }
}

async fn pass_back(
    back: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    dialler: SocketAddr,
    state: Arc<Mutex<CableState>>,
) {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((len, _)) = back.recv_from(&mut datagram).await else { continue };
        send(&state, &front, &datagram[..len], dialler).await;
    }
}
