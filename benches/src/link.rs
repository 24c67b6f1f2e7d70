//! A link between two nodes that can be cut. It carries QUIC's datagrams, and needs no privileges.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

use crate::error::BenchError;

/// The largest datagram there is.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// Passes datagrams between the one node that dials [`Link::address`] and one port of this machine. Ends on drop.
pub(crate) struct Link {
    address: SocketAddr,
    cut: Arc<Cut>,
    task: AbortHandle,
}

#[derive(Default)]
struct Cut {
    is_cut: AtomicBool,
    /// Datagrams that were not passed on.
    lost: AtomicU64,
}

impl Cut {
    /// Returns true if a datagram gets through, and counts it as lost if not.
    fn lets_pass(&self) -> bool {
        let is_cut = self.is_cut.load(Ordering::Relaxed);
        self.lost.fetch_add(u64::from(is_cut), Ordering::Relaxed);
        !is_cut
    }
}

impl Link {
    /// Lays a link to `target`.
    pub(crate) async fn to(target: SocketAddr) -> Result<Self, BenchError> {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        back.connect(target).await?;
        let (address, cut) = (front.local_addr()?, Arc::<Cut>::default());
        let task = tokio::spawn(pass(front, back, Arc::clone(&cut))).abort_handle();
        Ok(Self { address, cut, task })
    }

    /// Returns the end to dial.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drops all datagrams from now on without a sign to either side, or passes them on again.
    pub(crate) fn set_cut(&self, is_cut: bool) {
        self.cut.is_cut.store(is_cut, Ordering::Relaxed);
    }

    /// Returns the count of datagrams that came while the link was cut.
    pub(crate) fn lost(&self) -> u64 {
        self.cut.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes datagrams on. One that cannot be sent is lost, as on any link.
async fn pass(front: UdpSocket, back: UdpSocket, cut: Arc<Cut>) {
    let mut dialler = None;
    let (mut there, mut here) = (vec![0; DATAGRAM_BYTES_MAX], vec![0; DATAGRAM_BYTES_MAX]);
    loop {
        tokio::select! {
            came = front.recv_from(&mut there) => {
                // An error says that an earlier datagram was not taken.
                let Ok((len, from)) = came else { continue };
                dialler = Some(from);
                if cut.lets_pass() {
                    let _ = back.send(&there[..len]).await;
                }
            }
            came = back.recv(&mut here) => {
                let (Ok(len), Some(to)) = (came, dialler) else { continue };
                if cut.lets_pass() {
                    let _ = front.send_to(&here[..len], to).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_link_passes_both_ways_until_it_is_cut_and_again_when_it_is_mended() {
        let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let (target, dialler) = (bind().await.unwrap(), bind().await.unwrap());
        let link = Link::to(target.local_addr().unwrap()).await.unwrap();
        let mut datagram = [0; 8];
        dialler.send_to(b"1", link.address()).await.unwrap();
        let (len, from) = target.recv_from(&mut datagram).await.unwrap();
        assert_eq!(&datagram[..len], b"1");
        target.send_to(b"2", from).await.unwrap();
        let (len, _) = dialler.recv_from(&mut datagram).await.unwrap();
        assert_eq!(&datagram[..len], b"2");

        link.set_cut(true);
        dialler.send_to(b"lost", link.address()).await.unwrap();
        while link.lost() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        link.set_cut(false);
        dialler.send_to(b"3", link.address()).await.unwrap();
        let (len, _) = target.recv_from(&mut datagram).await.unwrap();
        assert_eq!(&datagram[..len], b"3");
    }
}
