//! The threads of a node: those that a publish passes get a core before those that read for callers or check large
//! requests.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use hawser_tests::harness::network::Network;
use hawser_tests::harness::{envelopes, seed};

/// A thread as the kernel schedules it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scheduled {
    /// The length of its turns, nanoseconds.
    turn_ns: u64,
    nice: i32,
}

/// Returns a thread's name and how it is scheduled; `None` if it has ended, or this kernel does not show it.
fn scheduled(folder: &Path) -> Option<(String, Scheduled)> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let (sched, stat) = (read("sched")?, read("stat")?);
    let line = sched.lines().find_map(|line| line.strip_prefix("se.slice"))?;
    let turn_ns = line.trim_start_matches([' ', ':']).parse().unwrap();
    let (_, fields) = stat.rsplit_once(')')?;
    let nice = fields.split_whitespace().nth(16)?.parse().unwrap();
    Some((read("comm")?.trim().to_owned(), Scheduled { turn_ns, nice }))
}

/// Returns true if this kernel lets threads ask for turns: Linux 6.12 and later.
fn turns_can_be_asked_for() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|it| it.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 12)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_that_a_publish_passes_have_shorter_turns_than_readers() {
    let mut network = Network::start(1).await;
    let node = &mut network.nodes[0];
    // Each of the threads has begun once this is answered.
    let message = envelopes::group_message([7; 16], 100, &mut seed::rng(seed::seed(), 0));
    let signed = envelopes::sign(&message, node.id, &envelopes::payer(1));
    node.client().publish(vec![signed]).await.unwrap();
    // More than the threads check which small requests pass.
    let large = (1..=257).map(|number| {
        let mut rng = seed::rng(seed::seed(), number);
        let message = envelopes::group_message([7; 16], 100, &mut rng);
        envelopes::sign(&message, node.id, &envelopes::payer(1))
    });
    node.client().publish(large.collect()).await.unwrap();
    let topic = envelopes::group_topic([7; 16]);
    node.client().newest(vec![topic.as_bytes().clone()]).await.unwrap();
    let folder = PathBuf::from(format!("/proc/{}/task", node.process().id()));
    // The thread that the process began with asks for nothing.
    let first = scheduled(&folder.join(node.process().id().to_string()));
    let Some((_, own)) = first.filter(|_| turns_can_be_asked_for()) else {
        let why = "because this kernel gives or shows none";
        let _ = writeln!(io::stderr(), "NOT TESTED: turns of threads, {why}");
        return;
    };
    let threads = fs::read_dir(&folder).unwrap();
    let threads: BTreeMap<_, _> =
        threads.filter_map(|entry| scheduled(&entry.ok()?.path())).collect();
    let of_name = |name: &'static str| {
        threads.iter().filter(move |(it, _)| it.starts_with(name)).map(|(_, thread)| *thread)
    };
    let any = |name, is_meant: &dyn Fn(Scheduled) -> bool| {
        assert!(of_name(name).any(is_meant), "{name}: {threads:?}");
    };
    for name in ["publishers-", "sequencer", "commit", "worker-"] {
        any(name, &|it| it == Scheduled { turn_ns: 100_000, nice: own.nice });
    }
    any("runtime-", &|it| it == Scheduled { turn_ns: 400_000, nice: own.nice });
    let nice = (own.nice + 5).min(19);
    for name in ["read-", "behind-"] {
        any(name, &|it| it == Scheduled { turn_ns: own.turn_ns, nice });
    }
    // Those that have had no work for some seconds have ended.
    assert!(of_name("blocking-").all(|it| it == own), "{threads:?}");
}
