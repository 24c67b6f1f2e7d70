//! The files that a process may have open, against sockets without end: the database has its share, and
//! clients in good standing theirs.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hawser_proto::Bytes;
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{envelopes, open_files, seed, wait};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// The fewest open files with which a node starts.
const FILES: u64 = 4096;
/// Sockets that the flood holds at once, of those that were not closed for it.
const HELD: usize = 3200;
/// Sockets that are opened in all, at least.
const SOCKETS: usize = 10_000;
/// Addresses that the flood comes from: their connections together are more than all callers may have.
const ADDRESSES: usize = 16;
/// Publishes of this length fill the first table of the log, 32 MiB, so that files are written.
const LEN_BYTES: usize = 256 * 1024;
const PUBLISHES: u64 = 160;

/// Opens sockets at a node from some addresses, and reads nothing.
struct Flood {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Flood {
    fn start(port: u16) -> Self {
        let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), opened.clone());
        let task = tokio::spawn(async move {
            let mut held = VecDeque::new();
            while !stopped.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                let address = Ipv4Addr::new(127, 0, 3, u8::try_from(number % ADDRESSES).unwrap());
                match connect(address, port).await {
                    Some(stream) => {
                        count.fetch_add(1, Ordering::Relaxed);
                        held.push_back(stream);
                    }
                    None => sleep(Duration::from_millis(5)).await,
                }
                if held.len() > HELD {
                    held.pop_front();
                }
            }
        });
        Self { stop, opened, task }
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

async fn connect(address: Ipv4Addr, port: u16) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    tokio::time::timeout(Duration::from_secs(5), socket.connect(to)).await.ok()?.ok()
}

async fn publish(node: &Node, number: u64) -> Bytes {
    let mut rng = seed::rng(seed::seed(), number);
    let message = envelopes::group_message([7; 16], LEN_BYTES, &mut rng);
    let signed = envelopes::sign(&message, node.id, &envelopes::payer(1));
    let stored = node.client().publish(vec![signed]).await.unwrap();
    stored.into_iter().next().unwrap()
}

/// Thousands of sockets at a node that may open 4096 files. Every publish is taken, each over a connection of
/// its own; tables are written; the node is stopped, which writes the rest, and starts again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_without_end_take_no_file_from_the_database() {
    open_files::raise_own(2 * FILES);
    let mut network = Network::new(1);
    network.nodes[0].open_files = Some(FILES);
    network.start_all().await;
    let flood = Flood::start(network.nodes[0].port);
    let mut last = Bytes::new();
    for number in 0..PUBLISHES {
        let node = &mut network.nodes[0];
        last = publish(node, number).await;
        let open = open_files::count(node.process().id());
        assert!((open as u64) < FILES, "{open} files are open");
        if number == PUBLISHES / 2 {
            let page = wait::until("connections are refused", async || {
                let page = node.metrics().await;
                let refused = page.sum("xmtp_api_connections_refused_total", &["reason=\"all\""]);
                (refused > 0.0).then_some(page)
            });
            let page = page.await;
            let limit = page.sum("xmtp_api_connections_limit", &[]);
            assert!(page.sum("xmtp_api_connections_open", &[]) <= limit && limit < FILES as f64);
            assert!(node.terminate().success());
            node.start();
            node.ready().await;
        }
    }
    let node = &mut network.nodes[0];
    wait::until("thousands of sockets were opened", async || {
        (flood.opened() >= SOCKETS).then_some(())
    })
    .await;
    let topic = envelopes::group_topic([7; 16]);
    let newest = node.client().newest(vec![topic.as_bytes().clone()]).await.unwrap();
    assert_eq!(newest, [Some(last)]);
    flood.stop().await;
    let output = node.process().output();
    assert!(!output.contains("os error 24") && !output.contains("Too many open files"), "{output}");
    let warned =
        output.matches("connections_full").count() + output.matches("all connections").count();
    assert!((1..=8).contains(&warned), "told once a minute: {warned}");
}

/// If descriptors run out nevertheless, the listener continues and does not fill the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_a_free_descriptor_accepts_again_when_there_is_one() {
    let mut network = Network::new(1);
    network.nodes[0].open_files = Some(FILES);
    network.start_all().await;
    let node = &mut network.nodes[0];
    let process = node.process().id();
    let open = open_files::count(process);
    open_files::limit(process, open as u64, FILES);
    let mut held = Vec::new();
    for _ in 0..20 {
        held.extend(connect(Ipv4Addr::LOCALHOST, node.port).await);
    }
    wait::until("the node says so", async || {
        node.process().output().contains("could not be accepted").then_some(())
    })
    .await;
    sleep(Duration::from_millis(500)).await; // time for more than one attempt
    assert_eq!(node.process().output().matches("could not be accepted").count(), 1);
    open_files::limit(process, FILES, FILES);
    node.client().cursor().await.unwrap();
    assert!(node.process().ended().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_files_are_a_refusal_that_says_what_to_do() {
    let mut network = Network::new(1);
    let node = &mut network.nodes[0];
    node.open_files = Some(FILES - 1);
    node.start();
    let status = wait::until("it ends", async || node.process().ended()).await;
    assert!(!status.success());
    let output = node.process().output();
    assert!(output.contains("only 4095 files") && output.contains("LimitNOFILE="), "{output}");
}
