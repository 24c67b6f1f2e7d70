//! Decisions (`rules`, and the engine outside `engine::runtime`) name no runtime.

use crate::{assert_none, texts};

#[test]
fn decisions_name_no_runtime() {
    let mut broken = Vec::new();
    for (path, text) in texts(&["rs"]) {
        let decides = path.starts_with("rules/src/")
            || (path.starts_with("engine/src/") && !path.starts_with("engine/src/runtime/"));
        for (number, line) in text.lines().enumerate().filter(|_| decides) {
            let code = line.split("//").next().unwrap_or(line);
            if ["tokio", "crossbeam"].iter().any(|name| code.contains(name)) {
                broken.push(format!("{path}:{}", number + 1));
            }
        }
    }
    assert_none(&broken, "only engine::runtime names tokio or crossbeam");
}

#[test]
fn only_the_root_of_the_runtime_lifts_the_lint_list() {
    let lifts = |(path, text): &(String, String)| {
        path.starts_with("engine/src/")
            && path != "engine/src/runtime/mod.rs"
            && !path.ends_with("tests.rs")
            && text.contains("clippy::disallowed_")
    };
    let broken: Vec<_> = texts(&["rs"]).into_iter().filter(lifts).map(|(path, _)| path).collect();
    assert_none(&broken, "decisions take time, randomness and files as arguments");
}
