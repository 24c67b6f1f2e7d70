//! The bot against a network of `hawser dev`: a client that needs no gateway.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const BOT: &str = env!("CARGO_BIN_EXE_bot");

/// Returns the `hawser` binary of the same build. A test run of the whole workspace builds it.
fn hawser() -> PathBuf {
    let hawser = Path::new(BOT).with_file_name("hawser");
    assert!(hawser.is_file(), "no binary at {}: test the workspace", hawser.display());
    hawser
}

/// Returns a base port on which a network of two nodes fits now.
fn free_base() -> u16 {
    let free = |port: u16| {
        TcpListener::bind(("127.0.0.1", port)).is_ok()
            && UdpSocket::bind(("127.0.0.1", port)).is_ok()
    };
    loop {
        let base = 20_000 + rand::random::<u16>() % 12_000;
        if [0, 1, 2, 3, 10, 11, 100, 101].iter().all(|offset| free(base + offset)) {
            return base;
        }
    }
}

/// A network that ends with the test, however that ends.
struct Network(Child);

impl Network {
    fn start(folder: &Path) -> Self {
        let mut network = Command::new(hawser())
            .args(["dev", "--json", "--nodes", "2", "--base-port", &free_base().to_string()])
            .arg("--data-dir")
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(network.stdout.take().unwrap());
        let network = Self(network);
        let mut lines = stdout.lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains(r#""event":"ready""#)), "it has ended");
        network
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        // If the signal fails, the wait below still ends when the process does.
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.0.wait();
    }
}

#[test]
fn a_bot_that_pays_for_itself_echoes_through_another_node() {
    let place = tempfile::tempdir().unwrap();
    let _network = Network::start(place.path());
    let bot = Command::new(BOT)
        .args(["--messages", "5", "--network"])
        .arg(place.path().join("network.json"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&bot.stdout);
    assert!(bot.status.success(), "{text}{}", String::from_utf8_lossy(&bot.stderr));
    assert_eq!(text.matches("asker heard: you said: is the bot there?").count(), 5, "{text}");
}

#[test]
fn a_bot_ends_at_a_network_whose_nodes_read_no_chain() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("network.json");
    // The bot connects to none of these: it would wait for ever for what the chain has.
    let network = r#"{"nodes":[{"node_id":100,"grpc":"127.0.0.1:1"}],"payer_key_file":"none"}"#;
    std::fs::write(&file, network).unwrap();
    let bot = Command::new(BOT).arg("--network").arg(&file).output().unwrap();
    let errors = String::from_utf8_lossy(&bot.stderr);
    assert!(!bot.status.success() && errors.contains("without --chain-file"), "{errors}");
}
