//! A test with a process of its own, because a panic ends it.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use hawser_node::environment;
use hawser_node::log_control::LogFilter;
use hawser_node::settings::LogSettings;
use serde_json::Value;
use tracing::Level;

use super::{abort_on_panic, install};

/// The variable that tells the second process of this test what it is for.
const PANICS: &str = "HAWSER_TEST_PANICS";
/// The signal of `abort`. Specified: its number on Linux (signal(7)).
const SIGABRT: i32 = 6;

fn fail() {
    panic!("the cause of it");
}

/// A process that lacks one of its threads would go on half dead. Its last line tells why it has ended, whatever filter
/// the operator has set.
#[test]
fn a_panic_in_any_thread_ends_the_process_with_its_cause_as_the_last_line() {
    if std::env::var_os(PANICS).is_some() {
        environment::forbid_core_dumps();
        let control = install(LogSettings { level: Level::INFO, json: true });
        abort_on_panic();
        control.change(Some(&LogFilter::parse("off").unwrap())).unwrap();
        // A process that goes on ends with success.
        let _ = std::thread::spawn(fail).join();
        return;
    }
    let (_, module) = module_path!().split_once("::").unwrap();
    let test = "a_panic_in_any_thread_ends_the_process_with_its_cause_as_the_last_line";
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "--nocapture", &format!("{module}::{test}")]).env(PANICS, "1");
    let output = again.output().unwrap();
    assert_eq!(output.status.signal(), Some(SIGABRT), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["code"], &last["level"]), (&"panic".into(), &"ERROR".into()));
    assert_eq!(last["message"], "a part of the node panicked: the cause of it");
    assert!(last["place"].as_str().unwrap().contains("panic_tests.rs"), "{text}");
}
