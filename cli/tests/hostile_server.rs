//! Servers that lie to commands, or send what no node sends.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use serde_json::{Value, json};

use crate::support::{run, stderr, stdout};

/// Reads what a caller of HTTP/2 sends, up to the head of its first call.
fn read_to_call(caller: &mut TcpStream) {
    caller.read_exact(&mut [0; 24]).unwrap(); // the preface: RFC 9113 §3.4
    let mut head = [0; 9];
    // The fourth byte is the type of the frame, which is 1 for the head of a call (RFC 9113 §4.1).
    while head[3] != 1 {
        caller.read_exact(&mut head).unwrap();
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        caller.read_exact(&mut vec![0; len]).unwrap();
    }
}

/// Played by a server that takes a call and never answers it. Read to their end, its frames would hold the command, and
/// a core, for as long as it waits for an answer.
#[test]
fn a_server_that_sends_frames_that_carry_nothing_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut caller, _) = listener.accept().unwrap();
        caller.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap(); // settings
        read_to_call(&mut caller);
        // Room for more requests (RFC 9113 §6.9).
        let updates = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1].repeat(1000);
        while caller.write_all(&updates).is_ok() {}
    });
    let failed = run(&["query", "cursors", "--node", &node]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(stderr(&failed).contains("HTTP/2 frames that carry nothing"), "{failed:?}");
    server.join().unwrap();
}

/// Returns the address of a server that gives a page to each of `callers` callers.
fn server_of(page: &Value, callers: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let page = page.to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
    thread::spawn(move || {
        for _ in 0..callers {
            let (mut caller, _) = listener.accept().unwrap();
            let _ = caller.read(&mut [0; 1024]);
            let _ = caller.write_all(format!("{head}{page}").as_bytes());
            // The caller ends the connection.
            let _ = caller.read_to_end(&mut Vec::new());
        }
    });
    address
}

/// Played by a web server with a page for every path.
#[test]
fn a_server_that_has_every_page_is_not_taken_for_a_node_that_is_ready() {
    for (page, code) in [
        (json!("welcome"), 1),
        (json!({ "ready": "yes" }), 1),
        (json!({ "ready": true, "for": "read", "conditions": [] }), 0),
    ] {
        let output = run(&["health", "--metrics", &server_of(&page, 1)]);
        assert_eq!(output.status.code(), Some(code), "{page}: {output:?}");
    }
}

/// Played by a node whose texts hold line ends and what looks like the line of another node.
#[test]
fn a_text_of_a_node_begins_no_line_and_stays_as_it_is_for_programs() {
    let text = "well\nnode 7: failing";
    let status = json!({
        "verdict": "ok", "version": text, "network": text, "uptime_s": 1, "reasons": [text],
    });
    let report = json!({ "state": text, "id": text, "originator_id": 1, "reasons": [text] });
    for (command, page, field) in [
        (&["status"][..], status.clone(), &status["version"]),
        (&["report", "list"][..], json!([report]), &report["state"]),
    ] {
        let address = server_of(&page, 2);
        let arguments = [command, &["--metrics", &address]].concat();
        let shown = run(&arguments);
        assert!(shown.status.success(), "{shown:?}");
        let lines = stdout(&shown);
        assert!(lines.contains("well node 7: failing"), "{lines}");
        assert!(!lines.lines().any(|line| line.trim_start().starts_with("node 7")), "{lines}");
        let shown = run(&[&arguments, &["--json"][..]].concat());
        let found = stdout(&shown).contains(&field.to_string());
        assert!(found, "{shown:?}");
    }
}
